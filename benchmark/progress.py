"""Progress of runs: a live table on a terminal, a line for each run elsewhere."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.place import Place
from benchmark.protocol import Run
from benchmark.runner import Watch
from dassl.errors import GO_ON_LATER
from dassl.layout import read_metrics

COLUMNS = ("done", "running", "failed", "left")


class Lines(Watch):
    """Prints a line for each run that ends.

    Args:
        runs: all runs of the grid.
        left: those of them that are to be done.
        place: their Place.
        methods: {folder: what the run's method is called}.
    """

    def __init__(self, runs: Sequence[Run], left: Sequence[Run], place: Place, methods: Mapping[str, str]) -> None:
        self.place, self.methods = place, methods
        self.states = dict.fromkeys(runs, "done") | dict.fromkeys(left, "left")
        self.began: dict[Run, float] = {}
        self.took: dict[tuple, list[float]] = defaultdict(list)  # what runs have in common -> seconds

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def started(self, run: Run) -> None:
        self.states[run], self.began[run] = "running", time.monotonic()

    def ended(self, run: Run, status: int) -> None:
        self.states[run] = {0: "done", GO_ON_LATER: "left"}.get(status, "failed")
        seconds = time.monotonic() - self.began.pop(run)
        if not status:
            self.took[_kind(run)].append(seconds)
        self.tell(run, status, seconds)

    def tell(self, run: Run, status: int, seconds: float) -> None:
        ended = sum(state in ("done", "failed") for state in self.states.values())
        metrics = read_metrics(self.place.folder(run)) or {}
        found = f"failed with exit status {status}" if status else f"{metrics.get('accuracy', float('nan')):.2f}"
        if status == GO_ON_LATER:
            found = "stopped by SIGTERM, to go on later"
        left = self.time_left()
        print(f"[{ended}/{len(self.states)}] {run}: {found}, {_clock(seconds)}{left and f'; {left}'}", flush=True)

    def time_left(self) -> str:
        """A guess from the runs that were done, in words; "" where none was."""
        usual = [seconds for kind in self.took.values() for seconds in kind]
        if not usual:
            return ""
        now, left = time.monotonic(), 0.0
        for run, state in self.states.items():
            expected = fmean(self.took.get(_kind(run), usual))
            if state == "running":
                left += max(0.0, expected - (now - self.began[run]))
            elif state == "left":
                left += expected
        return f"about {_clock(left / max(1, len(self.began)))} left"


class Screen(Lines):
    """Shows the same as a table that is updated in place, with a row for each method."""

    def __enter__(self):
        self.live = Live(self.table(), refresh_per_second=2)
        self.live.__enter__()
        return self

    def __exit__(self, *error):
        self.live.update(self.table())
        self.live.__exit__(*error)

    def tell(self, run: Run, status: int, seconds: float) -> None:
        self.tick()

    def tick(self) -> None:
        self.live.update(self.table())

    def table(self) -> Any:
        table = Table("method", *COLUMNS)
        for column in table.columns[1:]:
            column.justify = "right"
        counts: dict[str, Counter] = defaultdict(Counter)
        for run, state in self.states.items():
            counts[self.methods[run.folder]][state] += 1
        for method, count in counts.items():
            table.add_row(Text(method), *(str(count[state] or "") for state in COLUMNS))
        now = time.monotonic()
        running = [f"{_clock(now - began)}  {run}" for run, began in self.began.items()]
        return Group(table, *map(Text, running), Text(self.time_left()))


def watch(*args: Any) -> Any:
    """The Watch that suits where the output goes; its arguments are those of `Lines`."""
    return (Screen if Console().is_terminal else Lines)(*args)


def _kind(run):
    return run.protocol, run.part, run.trainer, run.config, run.dataset, run.shots


def _clock(seconds):
    return str(timedelta(seconds=round(seconds)))
