"""The protocols, one file each, and those that other packages offer.

A file dropped into this folder is found by itself, a package's through an entry point of the group "mocoop.protocols" that
names its module. The module's `PROTOCOL` is the protocol, a `benchmark.protocol.Protocol`.
"""

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from benchmark.facts import method_of
from benchmark.protocol import Point, Protocol, Run
from dassl.errors import UserError


def _found() -> dict[str, Protocol]:
    modules = [import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    modules += [point.load() for point in entry_points(group="mocoop.protocols")]
    found = [module.PROTOCOL for module in modules]
    return {protocol.name: protocol for protocol in sorted(found, key=lambda protocol: (protocol.rank, protocol.name))}


PROTOCOLS = _found()
"""Name -> protocol, in the order of reports."""


SET_BY_PROTOCOL = {
    *("OUTPUT_DIR", "RESUME", "SEED", "TRAINER.NAME"),
    *("DATASET.NAME", "DATASET.ROOT", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES"),
}
"""Config keys that overrides leave alone: with another value a run would not be what its folder says."""


def runs_of(protocol: str, points: Iterable[Point]) -> list[Run]:
    """The runs of several points in an order that serves needs first; what points share comes once.

    Raises:
        UserError: a config file is missing, the protocol does not suit a trainer or a dataset, an override is the
            protocol's to set, or two different runs would share a folder.
    """
    runs: dict[str, Run] = {}
    for point in points:
        facts = method_of(point.trainer)
        if not facts.suits(protocol):
            known = ", ".join(facts.configs)
            raise UserError(f"the protocol {protocol} does not suit {point.trainer}: it has {known}")
        for key in SET_BY_PROTOCOL.intersection(point.overrides[::2]):
            raise UserError(
                f"{key} cannot be overridden: the protocol sets it, from its dataset, shots, seed and folder"
            )
        for run in PROTOCOLS[protocol].runs(point):
            if runs.setdefault(run.folder, run) != run:
                raise UserError(f"two different runs would share the folder {run.folder}: give one of them a label")
    return list(runs.values())


def identify(folder: str) -> dict[str, Any] | None:
    """What a run's folder below the output tells: {protocol, part, dataset, shots, trainer, config, seed}, or None.

    CoOp's own folders are understood too; what stands between shots and seed there joins the config's name. Where
    several protocols have the same folders, the one that tests on the data set is taken, else the first.
    """
    matches = [(protocol, match) for protocol in PROTOCOLS.values() if (match := protocol.pattern.search(folder))]
    if not matches:
        return None
    most = max(protocol.literal for protocol, _ in matches)
    matches = [(protocol, match) for protocol, match in matches if protocol.literal == most]
    own = [pair for pair in matches if any(pair[1]["dataset"] in names for names in pair[0].targets.values())]
    protocol, match = (own or matches)[0]
    found = {"part": None, "shots": None, "variant": None} | match.groupdict()
    config, variant = found["config"], found.pop("variant")
    tested = protocol.targets or not method_of(found["trainer"]).trains
    return found | {
        "protocol": protocol.name,
        "part": found["part"] or ("test" if tested else "train"),
        "shots": found["shots"] and int(found["shots"]),
        "config": f"{config}-{variant}" if variant else config,
        "seed": int(str(found["seed"])),
    }
