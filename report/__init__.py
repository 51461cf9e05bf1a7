"""Telling results: finished runs become tidy results, then tables, figures, tests of significance, and one page."""
