"""How fast the methods are, against the plain way of computing the same, and how near to what the machine can do.

Three ways of the same trainer, on the same data, weights, views and order:

- plain: as the papers' code does it. Every prompt is padded to the tokenizer's 77 tokens and encoded whole; images are
  decoded from their files and encoded at every step and in every test, and text features anew for every test batch.
- cold: ours, where nothing is at hand.
- at hand: ours, where an earlier run on the same data has left the features of a frozen image encoder.

ways.py makes trainers compute so, settings.py says which runs are compared, on what (data.py), rows.py measures them
and says what a row of the table is, growth.py how time and memory grow. configs/speed.yaml names the methods.
"""
