"""What all attacks have in common: targets, attempts that a seed decides, and a table of what fell."""

import re
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attack.child import Outcome


@dataclass
class Attempt:
    """What an attempt came to.

    Attributes:
        fell: (seed, what broke its promise, in a line).
        count: of blows: kills, flipped bits, inputs.
    """

    fell: list[tuple[int, str]]
    count: int = 1


class Attack:
    """A kind of attack.

    Args:
        folder: of its own, to write in.

    Attributes:
        name: its word on the command line.
        long: how many blows are struck when nobody says; 0 for as long as --minutes says.
    """

    name = ""
    long = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._known = threading.Lock(), dict[Any, Any]()

    def targets(self) -> list[str]:
        """What it attacks, in turns."""
        raise NotImplementedError

    def attempt(self, target: str, seed: int) -> Attempt:
        """Attack a target in the way that a seed decides."""
        raise NotImplementedError

    def batch(self, target: str) -> int:
        """How many attempts on a target are better made together."""
        return 1

    def attempts(self, target: str, seed: int, count: int) -> Attempt:
        """So many, of the seeds from this one on."""
        return self.attempt(target, seed)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave the first time that it was asked for under a key."""
        with self._lock:
            lock = self._known.setdefault(key, threading.Lock())
        with lock:
            if (key, "made") not in self._known:
                self._known[key, "made"] = make()
            return self._known[key, "made"]

    def place(self, target: str) -> Path:
        """A new folder."""
        return Path(tempfile.mkdtemp(prefix=f"{target}-", dir=self.folder))


def succeeded(outcome: Outcome) -> Outcome:
    """The outcome of what has to work before it can be attacked."""
    if outcome.status or outcome.complaint():
        raise RuntimeError(f"without an attack: {outcome.complaint() or outcome.err[-500:]}")
    return outcome


@dataclass
class Tally:
    """What attacks on a target came to: blows, those that fell something, and the ways of falling.

    Attributes:
        following: the seed of the next attempt.
        seconds: that attempts took so far.
    """

    following: int
    tried: int = 0
    fell: int = 0
    ways: set[str] = field(default_factory=set)
    seconds: float = 0.0


def strike(
    attack: Attack, targets: list[str], seed: int, tries: int, blows: int, minutes: float, workers: int
) -> dict[str, Tally]:
    """Attack targets, each for the same time, and print what falls, each way once: {target: its Tally}.

    Args:
        seed: of the first attempt on each; the next ones have those that follow.
        tries: attempts on each; 0 without such a limit, as for the next two.
        blows: in all.
        minutes: in which attempts begin.
        workers: attempts at a time.
    """
    tallies = {target: Tally(following=seed) for target in targets}
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    with ThreadPoolExecutor(workers) as pool:
        going: dict[Any, tuple[str, float]] = {}
        while True:
            left = {target: seed + tries - tally.following for target, tally in tallies.items() if tries}
            struck = sum(tally.tried for tally in tallies.values())
            open_targets = [target for target in targets if not tries or left[target] > 0]
            if time.monotonic() < end and not (blows and struck >= blows) and open_targets and len(going) < workers:
                target = min(open_targets, key=lambda target: tallies[target].seconds)
                tally, count = tallies[target], min(attack.batch(target), left.get(target, attack.batch(target)))
                going[pool.submit(attack.attempts, target, tally.following, count)] = target, time.monotonic()
                tally.following += count
                tally.seconds += 1  # at least; in turns, until it is known better
                continue
            if not going:
                return tallies
            for done in wait(going, return_when=FIRST_COMPLETED).done:
                target, started = going.pop(done)
                tallies[target].seconds += time.monotonic() - started - 1
                try:
                    found = done.result()
                except Exception as error:  # of the attack, not of what it attacks
                    found = Attempt([(seed, f"the attack itself failed: {error!r}"[:300])], 0)
                _count(attack, target, found, tallies[target])


def _count(attack: Attack, target: str, attempt: Attempt, tally: Tally) -> None:
    tally.tried += attempt.count
    tally.fell += len(attempt.fell)
    for which, what in attempt.fell:
        way = re.sub(r"[0-9a-f]{8,}|[0-9.]+", "", what.rpartition(": ")[2] if ": files: " in what else what)
        if way not in tally.ways:
            tally.ways.add(way)
            again = f"python -m tests.attack {attack.name} --only {target} --seed {which} --tries 1"
            print(f"fell: {attack.name} {target}: {what}\n      again: {again}", flush=True)
