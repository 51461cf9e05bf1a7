"""What a report says first: who leads, by how much, and whether that is more than chance."""

from dataclasses import dataclass

import pandas as pd

from benchmark.facts import method_of
from benchmark.protocols import PROTOCOLS
from report import significance, summary
from report.layouts import heading
from report.summary import AVERAGE

LEVEL = 0.05
"""Differences with a smaller p are called significant."""


@dataclass(frozen=True)
class Answer:
    """To one question, in words.

    Attributes:
        where: protocol, dataset and setting.
        lead: who is ahead, and with what.
        rest: sentences on the others; "" where there are none.
    """

    where: str
    lead: str
    rest: str


def answers(runs: pd.DataFrame, summaries: dict[str, pd.DataFrame]) -> list[Answer]:
    """One for each protocol and what it was trained on; averages stand for their datasets, the most shots for fewer.

    Args:
        runs: as `results.read` gives them.
        summaries: as `summary.summaries` gives them.
    """
    found = []
    for protocol, cells in summaries.items():
        by_shots = PROTOCOLS[protocol].setting == "shots"
        for setting in list(dict.fromkeys(cells.setting))[-1 if by_shots else 0 :]:
            own = cells[cells.setting == setting]
            datasets = list(dict.fromkeys(own.dataset))
            for dataset in [AVERAGE] if AVERAGE in datasets else datasets:
                found.append(_answer(runs, protocol, own, dataset))
    return found


def _answer(runs, protocol, cells, dataset):
    untrained = ~cells.trainer.map(lambda name: method_of(name).trains).astype(bool)
    column = _column(protocol, cells[cells.dataset == dataset])
    asked = cells[(cells.column == column) | (untrained & (cells.column == 0))]  # beside any number of shots
    tried, cells, asked = set(asked.method), cells[cells.dataset == dataset], asked[asked.dataset == dataset]
    ranked = asked[asked.datasets == asked.of]
    ranked = ranked.assign(shown=ranked["mean"].round(2)).sort_values("shown", ascending=False, kind="stable")
    where = [PROTOCOLS[protocol].title, _dataset(cells), cells.setting.iloc[0]]
    if PROTOCOLS[protocol].setting == "" and column != 0:
        where.append("all images" if column == "all" else f"{column} shots")
    told = "mean accuracy on the targets" if column == AVERAGE else heading(column)
    told = "accuracy" if PROTOCOLS[protocol].setting == "" or column == "accuracy" else told
    where = ", ".join(part for part in where if part)
    aside = [name for name in dict.fromkeys(cells.method) if name not in set(ranked.method)]
    missing, other = [name for name in aside if name in tried], [name for name in aside if name not in tried]
    rest = [f"Left aside, since datasets are missing: {_list(missing)}."] if missing else []
    rest += (
        [f"Not run {'on' if column == 'all' else 'at'} {where.rpartition(', ')[2]}: {_list(other)}."] if other else []
    )
    if ranked.empty:
        return Answer(where, "Nobody leads: no method has all datasets", " ".join(rest))
    best = ranked[ranked.shown == ranked.shown.iloc[0]]
    top, behind = f"{best.shown.iloc[0]:.2f}", ranked[ranked.shown < ranked.shown.iloc[0]]
    if len(ranked) == 1:
        rest = ["There is no other method to compare.", *rest]
        return Answer(where, f"{best.method.iloc[0]} alone: {told} {top}", " ".join(rest))
    if len(best) > 1:
        lead = f"{_list(best.method)} share the lead in {told}: {top}"
        rest = [f"Next is {behind.method.iloc[0]} ({behind.shown.iloc[0]:.2f}).", *rest] if len(behind) else rest
    else:
        lead, second = f"{best.method.iloc[0]} leads in {told}: {top}", behind.iloc[0]
        ahead = f"{best.shown.iloc[0] - second.shown:.2f} above {second.method} ({second.shown:.2f})"
        rest = [f"That is {ahead}. {_tested(runs, protocol, cells, column, best.iloc[0], second)}", *rest]
    return Answer(where, lead, " ".join([*rest[:1], *_untrained(ranked, best), *rest[1:]]))


def _column(protocol, cells):
    """The column that decides: the most shots, "all" where methods learned from all images alone, or the protocol's."""
    shots = [column for column in cells.column if isinstance(column, int)]
    if shots:
        return max(shots) or ("all" if "all" in set(cells.column) else 0)
    named = PROTOCOLS[protocol].decides
    return named if named in set(cells.column) else list(dict.fromkeys(cells.column))[-1]


def _tested(runs, protocol, cells, column, first, second):
    """A sentence: whether the difference of two methods is significant, or why that cannot be told."""
    methods = {label: method for method, label in summary.labels(runs, protocol).items()}
    targets = PROTOCOLS[protocol].targets
    here = set(cells.column) if targets else set(cells.dataset)
    differences = pd.Series(dtype=float)
    found = significance.pairs(runs, protocol, methods[first.method], methods[second.method])
    for setting, tested, pairs in found:
        if setting == first.setting and tested == ("targets" if targets else column):
            names = pairs.index.get_level_values("dataset")
            differences = pairs if here == {AVERAGE} else pairs[names.isin(here)]
    pairs = f"{len(differences)} pair{'s' if len(differences) != 1 else ''} of dataset and seed"
    if len(differences) < significance.T_FROM:
        return f"Whether that is more than chance cannot be told from {pairs}: a test needs {significance.T_FROM}."
    test, p = significance.test(differences.to_numpy())
    verdict = "significant" if p < LEVEL else "not significant"
    shown = f"p {'' if p < 0.0001 else '= '}{significance.p_value(p)}"
    return f"The difference is {verdict} at {LEVEL:.0%} ({shown}, {test} test, {pairs})."


def _untrained(ranked, best):
    """A sentence on the best method that learns nothing, unless it was told of as one of the first two."""
    learns = ranked.trainer.map(lambda name: method_of(name).trains).astype(bool)
    if learns.all() or not learns[best.index].all() or not learns.iloc[: len(best) + 1].all():
        return []
    plain = ranked[~learns].iloc[0]
    above = int((ranked[learns].shown > plain.shown).sum())
    return [f"{above} of {int(learns.sum())} trained methods are above {plain.method} ({plain.shown:.2f})."]


def _dataset(cells):
    name = cells.dataset.iloc[0]
    return f"average over {cells.of.max()} datasets" if name == AVERAGE else name


def _list(names):
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def title(summaries: dict[str, pd.DataFrame], runs: pd.DataFrame) -> str:
    """What was compared on what: names of up to four methods and three datasets, else their numbers."""
    methods = list(dict.fromkeys(name for cells in summaries.values() for name in cells.method))
    datasets = list(dict.fromkeys(runs[runs.protocol.isin(list(summaries))].dataset))
    compared = _list(methods) if len(methods) < 5 else f"{len(methods)} methods"
    return f"{compared} on {_list(datasets) if len(datasets) < 4 else f'{len(datasets)} datasets'}"
