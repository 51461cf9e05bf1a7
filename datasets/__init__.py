"""Readers of datasets, one file per dataset: a layout on disk becomes train, val and test lists of Datum.

Importing this package registers them all; a new file in this folder is enough to add one. As a program, it checks,
prepares and shows data sets: python -m datasets --help.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    if _module.name != "__main__":
        importlib.import_module(f"{__name__}.{_module.name}")
