"""Readers of datasets, one file per dataset: a layout on disk becomes train, val and test lists of Datum.

Importing this package registers them all; a new file in this folder is enough to add one. A package elsewhere adds one
by an entry point in the group "mocoop.datasets" that names its module. A module that fails is left out, and asking for
a data set that is not there reports it. As a program, this package checks, prepares and shows data sets:
python -m datasets --help.
"""

import sys
from functools import cache

from dassl import plugins


@cache
def register() -> None:
    """Import all readers, which register themselves."""
    from dassl.data.datasets import DATASET_REGISTRY  # imports torch

    plugins.load(__name__, "mocoop.datasets", DATASET_REGISTRY.leave_out)


if sys.argv[:1] != ["-m"]:  # as Python has it until it finds __main__.py, which answers --help before it registers
    register()
