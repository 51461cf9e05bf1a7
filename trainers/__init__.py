"""The methods, one file each. Importing this package registers them all, and those that other packages offer.

Dropping a file into this folder is enough for `--trainer Name` to find what it registers. A package elsewhere adds one
by an entry point in the group "mocoop.trainers" that names its module. A module's function
`extend_cfg(cfg)`, if it has one, declares the trainer's config defaults. A module that fails is left out, and asking
for a trainer that is not there reports it; the others work without it.
"""

from types import ModuleType

from yacs.config import CfgNode

from dassl import plugins
from dassl.engine import TRAINER_REGISTRY

modules: list[ModuleType] = []


def _load():
    modules.extend(plugins.load(__name__, "mocoop.trainers", TRAINER_REGISTRY.leave_out))


_load()


def extend_cfg(cfg: CfgNode) -> None:
    """Add every trainer's config defaults: a dataset's config may speak to any of them.

    What a module declares that is there already stays as it was: releases declare the blocks of methods that they build
    on again. A trainer's own module has the last word on the block of its name.
    """
    own_blocks = {name.upper(): TRAINER_REGISTRY.get(name).__module__ for name in TRAINER_REGISTRY.registered_names()}
    for module in [m for m in modules if hasattr(m, "extend_cfg")]:
        declared = cfg.clone()
        try:
            module.extend_cfg(declared)
        except Exception as error:
            modules.remove(module)
            reason = plugins.failure(f"extend_cfg of {module.__name__}", error)
            TRAINER_REGISTRY.leave_out(reason, module.__name__)
            continue
        for block, owner in own_blocks.items():
            if owner == module.__name__ and block in declared.TRAINER and block in cfg.TRAINER:
                _add_missing(declared.TRAINER[block], cfg.TRAINER[block])
                cfg.TRAINER[block] = declared.TRAINER[block]
        _add_missing(cfg, declared)
    if TRAINER_REGISTRY.left_out:  # configs may speak to those too
        cfg.TRAINER.__dict__[CfgNode.NEW_ALLOWED] = True


def _add_missing(node, other):
    """Add to a config node what another one has more, at any depth."""
    for key, value in other.items():
        if key not in node:
            node[key] = value
        elif isinstance(node[key], CfgNode) and isinstance(value, CfgNode):
            _add_missing(node[key], value)
