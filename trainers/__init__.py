"""The methods, one file each. Importing this package registers them all, and those that other packages offer.

Dropping a file into this folder is enough for `--trainer Name` to find what it registers. A package elsewhere joins
through an entry point of the group "mocoop.trainers" that names its module. A module's function
`extend_cfg(cfg)`, if it has one, declares the trainer's config defaults.
"""

import pkgutil
from importlib import import_module
from importlib.metadata import entry_points

modules = [import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
modules += [point.load() for point in entry_points(group="mocoop.trainers")]


def extend_cfg(cfg):
    """Add every trainer's config defaults: a dataset's config may speak to any of them."""
    for module in modules:
        if hasattr(module, "extend_cfg"):
            module.extend_cfg(cfg)
