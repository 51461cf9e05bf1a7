"""The rows of the table: a method's training step, epoch, test and whole run in three ways, and the floor of each."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.speed import ways
from benchmark.speed.measure import Images, MatrixProduct, Steps, Took, race, relative_error, take
from benchmark.speed.settings import Settings
from dassl.errors import UserError

LARGEST = {torch.float32: 1e-3}
"""The largest relative error, by the dtype in which a model multiplies, of logits and gradients between the two ways;
HALF of other types. They differ in the order of additions alone, but what decides, such as a gate or the end of an
iteration, may pass such a difference on enlarged."""
HALF = 5e-2

KINDS = ("step", "epoch", "test", "run")
TIMES = ("plain", "cold", "at_hand")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        method: its name; of a grid, what it consists of.
        what: "step", "epoch", "test" (of what it learned from), "run" (all of the protocol's runs), or "grid".
        plain, cold, at_hand: seconds.
        cold_flops, at_hand_flops: what must be computed, floating point operations; 0 where it was not counted.
        rate: of a large matrix product there and then, operations a second.
        errors: {"logits", "gradients": relative errors of ours}, where they were compared.
    """

    method: str
    what: str
    plain: float
    cold: float
    at_hand: float
    cold_flops: float = 0.0
    at_hand_flops: float = 0.0
    rate: float = math.nan
    errors: Mapping[str, float] | None = None

    def figures(self) -> dict[str, Any]:
        """All of it, with the ratios, the floors in seconds, and the shares of the time that these are."""
        ways_ = {"cold": (self.cold, self.cold_flops), "at_hand": (self.at_hand, self.at_hand_flops)}
        found = {key: value for key, value in vars(self).items() if key != "errors"}
        for name, (seconds, flops) in ways_.items():
            floor = flops / self.rate if flops else math.nan
            found |= {f"{name}_ratio": self.plain / seconds, f"{name}_floor": floor, f"{name}_share": floor / seconds}
        return found | {f"{name}_error": value for name, value in (self.errors or {}).items()}


@dataclass(frozen=True)
class Facts:
    """What else a method's steps tell: as `Steps` has them, and what an image costs."""

    images: Images
    frozen: bool
    dtype: torch.dtype


def step(settings: Settings, method: str, seed: int, repeats: int, store: Path) -> tuple[Row, Facts]:
    """The row of a training step, and what else it tells.

    Args:
        store: where features are kept, those that other methods left there too.

    Raises:
        UserError: the two ways do not compute the same.
    """
    mine, others = ways.ours(method), ways.plain(method, settings.memory_gb)
    with settings.store(store), settings.quiet():
        at_hand = Steps(settings.runs(method, seed, mine)[0])
        cold = Steps(settings.runs(method, seed, mine, ways.STREAMED)[0])
        plain = Steps(settings.runs(method, seed, others, ways.PLAIN)[0])
        for each in (at_hand, cold, plain):
            each.leave_the_start()
        errors = {"logits": relative_error(at_hand.logits(), plain.logits())}
        (flops, gradient), (_, reference) = at_hand.first_step(), plain.first_step()
        errors["gradients"] = relative_error(gradient, reference)
        _check(method, errors, at_hand.dtype)
        cold()
        facts = Facts(at_hand.images(), at_hand.frozen, at_hand.dtype)
        multiply = MatrixProduct(settings.device, facts.dtype)
        times = race({"plain": plain, "cold": cold, "at_hand": at_hand, "multiply": multiply}, repeats)
        rate = multiply.flops / times.pop("multiply")
        loader = at_hand.trainer.train_loader_x
        for each in (plain, cold, at_hand):
            each.trainer.close_writer()
    images = min(loader.batch_size, len(loader.dataset))
    with_images = flops + images * facts.images.trained
    return Row(method, "step", **times, cold_flops=with_images, at_hand_flops=flops, rate=rate, errors=errors), facts


def _check(method, errors, dtype):
    largest = LARGEST.get(dtype, HALF)
    for what, error in errors.items():
        if not error < largest:
            raise UserError(
                f"{method}: the {what} of the two ways differ by {error:.1e}, more than {largest:g}: they do not "
                "compute the same, so there is nothing to compare"
            )


def plain_runs(settings: Settings, method: str, seed: int) -> Took:
    """A method's runs in the plain way."""
    name = ways.plain(method, settings.memory_gb)
    with settings.store(), settings.quiet():
        return take(settings.runs(method, seed, name, ways.PLAIN), ways.seconds)


def our_runs(settings: Settings, method: str, seed: int, store: Path) -> Took:
    """A method's runs in our way, with what is in this store."""
    with settings.store(store), settings.quiet():
        return take(settings.runs(method, seed, ways.ours(method)), ways.seconds)


def runs(settings: Settings, method: str, seed: int, repeats: int, facts: Facts) -> tuple[list[Row], Took]:
    """The rows of an epoch, a test and the whole, and the last of the plain runs."""
    taken: dict[str, list[Took]] = {way: [] for way in TIMES}
    multiply = MatrixProduct(settings.device, facts.dtype)
    rates = [multiply.rate()]
    for _ in range(repeats):
        store = settings.new_folder("store")
        taken["plain"].append(plain_runs(settings, method, seed))
        taken["cold"].append(our_runs(settings, method, seed, store))
        taken["at_hand"].append(our_runs(settings, method, seed, store))
        rates.append(multiply.rate())
    with settings.store(store), settings.quiet():
        counted = take(settings.runs(method, seed, ways.counted(method)), ways.flops)
    trained, tested = (images * each for images, each in zip((counted.trained, 1), facts.images, strict=True))
    of_images = {
        "epoch": trained,
        "test": counted.tested[0] * tested,
        "run": counted.epochs * trained + sum(counted.tested) * tested,
    }
    rows = []
    for what, encoded in of_images.items():
        flops = getattr(counted, what)
        if flops is None:  # it has no epochs
            continue
        times = {way: statistics.median(getattr(took, what) for took in each) for way, each in taken.items()}
        row = Row(method, what, **times, cold_flops=flops + encoded, at_hand_flops=flops, rate=max(rates))
        rows.append(row)
    return rows, taken["plain"][-1]


def grid(settings: Settings, methods: Sequence[str], seeds: Sequence[int], known: Mapping[Any, Took]) -> Row:
    """The row of all methods under all seeds, one after the other: on a store that is empty at first, and once more.

    Args:
        known: {(method, seed): plain runs that are measured already}.
    """
    points = [(method, seed) for seed in seeds for method in methods]
    store = settings.new_folder("store")
    plain = sum((known.get(point) or plain_runs(settings, *point)).run for point in points)
    cold, at_hand = (sum(our_runs(settings, *point, store).run for point in points) for _ in range(2))
    return Row(f"{len(methods)} methods x {len(seeds)} seeds", "grid", plain, cold, at_hand)
