"""Presenting results: finished runs become tidy results, then tables, figures, significance tests, and one page."""
