"""Presenting results: finished runs become tidy results, then tables, figures, significance tests, and one page."""

import pandas as pd

pd.set_option("mode.string_storage", "python")  # names of files may be no Unicode, which pyarrow's strings refuse
