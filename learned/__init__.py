"""What uses a finished run: its model without its data set, predictions, explanations, an export.

What a method alone knows of its run its trainer is asked: the hooks of trainers/base.py.
"""
