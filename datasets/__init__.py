"""Readers of datasets, one file per dataset: a layout on disk becomes train, val and test lists of Datum.

Importing this package registers them all; a new file in this folder is enough to add one. As a program, it checks,
prepares and shows data sets: python -m datasets --help.
"""

import importlib
import pkgutil
import sys


def register():
    """Import all readers, which register themselves."""
    for module in pkgutil.iter_modules(__path__):
        if module.name != "__main__":
            importlib.import_module(f"{__name__}.{module.name}")


if sys.argv[:1] != [
    "-m"
]:  # so Python calls it until it has found __main__.py, which answers --help before it registers
    register()
