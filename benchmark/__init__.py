"""Doing runs: a grid or a protocol becomes runs of train.py, wherever they are done."""
