"""Helpers too small for a file of their own."""


def tolist_if_not(x):
    """x itself if it is a list, else [x]."""
    return x if isinstance(x, list) else [x]
