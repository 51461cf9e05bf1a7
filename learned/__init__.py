"""What uses a finished run: its model without its data set, predictions, explanations, an export.

What only a method knows about its run, its trainer is asked for: the hooks of trainers/base.py.
"""
