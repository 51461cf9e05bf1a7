"""The protocols, one file each, and those that other packages offer.

A file dropped into this folder is found automatically, a package's through an entry point in the group
"mocoop.protocols" that names its module. The module's `PROTOCOL` is the protocol, a `benchmark.protocol.Protocol`. A
module that fails is left out, and asking for a protocol that is not there reports it.
"""

from collections.abc import Iterable
from typing import Any

from benchmark.facts import label_in, method_name, method_of
from benchmark.protocol import Point, Protocol, Run
from dassl import plugins
from dassl.errors import UserError, nearest

_FOUND, _, LEFT_OUT = plugins.collect(__name__, "mocoop.protocols", "PROTOCOL")

PROTOCOLS: dict[str, Protocol] = {each.name: each for each in sorted(_FOUND.values(), key=lambda p: (p.rank, p.name))}
"""Name -> protocol, in the order of reports. LEFT_OUT says what failed and is therefore none of them, and why."""

SET_BY_PROTOCOL = {
    *("OUTPUT_DIR", "RESUME", "SEED", "TRAINER.NAME"),
    *("DATASET.NAME", "DATASET.ROOT", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES"),
}
"""Config keys that overrides leave alone: with another value a run would not be what its folder says."""


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises UserError, with the nearest names, where there is none."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name}: {nearest(name, PROTOCOLS)}{plugins.told(LEFT_OUT)}")
    return PROTOCOLS[name]


def recipe_of(trainer: str, protocol: str, dataset: str | None = None, shots: int | None = None) -> tuple[str, str]:
    """(config, why): the trainer config that serves a protocol unless another is named, as `Method.recipe` tells it.

    Raises:
        UserError: there is no such protocol, or no recipe for the data set.
    """
    facts = method_of(trainer)
    return facts.recipe(_with_configs(facts, protocol), dataset, shots)


def config_of(trainer: str, protocol: str, dataset: str | None = None, shots: int | None = None) -> str:
    """The config of `recipe_of`."""
    return recipe_of(trainer, protocol, dataset, shots)[0]


def recipes_of(trainer: str, protocol: str) -> list[str]:
    """All configs that a protocol takes for some data set unless another is named, the most usual first."""
    facts = method_of(trainer)
    return facts.recipes(_with_configs(facts, protocol))


def named(identity: dict[str, Any]) -> str:
    """What tables call the method of a run that `identify` knows: the trainer alone where the config is its recipe's,
    which may be another one on every data set, else "Trainer (config)"; with a label after it.
    """
    trainer, config, dataset = identity["trainer"], identity["config"], identity["dataset"]
    label = label_in(trainer, config)
    targets = PROTOCOLS[identity["protocol"]].targets
    sources = [source for source in targets if dataset in targets[source]] or [dataset]
    try:
        usual = {config_of(trainer, identity["protocol"], source, identity["shots"]) for source in sources}
    except UserError:  # there is no recipe for the data set
        usual = set()
    own = config.removesuffix(f"-{label}") if label else config
    return method_name(trainer, *([label] if own in usual else [config]))


def _with_configs(facts, protocol):
    """The protocol, or the one whose configs the method takes for it."""
    return protocol if protocol in facts.configs else protocol_named(protocol).configs_of or protocol


def runs_of(protocol: str, points: Iterable[Point]) -> list[Run]:
    """The runs of several points in an order that puts needed runs first; a run that points share comes once.

    Raises:
        UserError: a config file is missing, the protocol does not suit a trainer or a dataset, an override is set by
            the protocol, or two different runs would share a folder.
    """
    runs: dict[str, Run] = {}
    for point in points:
        facts = method_of(point.trainer)
        if not facts.suits(_with_configs(facts, protocol)):
            known = ", ".join(map(str, facts.configs))
            raise UserError(f"the protocol {protocol} does not suit {point.trainer}: it supports {known}")
        for key in SET_BY_PROTOCOL.intersection(point.overrides[::2]):
            raise UserError(f"{key} cannot be overridden: the protocol sets it, by dataset, shots, seed and folder")
        for run in PROTOCOLS[protocol].runs(point):
            if runs.setdefault(run.folder, run) != run:
                raise UserError(f"two different runs would share the folder {run.folder}: give one of them a label")
    return list(runs.values())


def identify(folder: str) -> dict[str, Any] | None:
    """What a run's folder below the output shows: {protocol, part, dataset, shots, trainer, config, seed}, or None.

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
