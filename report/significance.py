"""Whether one method is better than another: a paired test over datasets and seeds."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from scipy import stats
from tabulate import tabulate

from benchmark.facts import label_in, method_of
from benchmark.protocols import PROTOCOLS
from dassl.errors import UserError, printable
from report.layouts import heading
from report.summary import AVERAGE, figures, labels

WILCOXON_FROM = 6  # with fewer pairs the signed-rank test cannot fall below p = 0.05
T_FROM = 3
NOTE = (
    "Differences in percentage points, first minus second; p two-sided, not corrected for the number of tests. A pair "
    "is a dataset and a seed. Seeds of a dataset share its test images: pairs are less independent than a test assumes."
)
NO_PAIR = f"not tested: 0 of the {T_FROM} pairs needed, the two have no runs on the same datasets and seeds"


def test(differences: Any) -> tuple[str, float]:
    """(name of the test, two-sided p) of paired differences, (n,).

    Wilcoxon's signed-rank test, which asks for no distribution, from 6 pairs on; with 3 to 5 the paired t-test, which
    takes the differences to be normal. If all are zero p is 1. With fewer than 3 there is no test, and p is NaN.
    """
    if len(differences) < T_FROM:
        return f"not tested: {len(differences)} of the {T_FROM} pairs needed", float("nan")
    wilcoxon = len(differences) >= WILCOXON_FROM
    name = "Wilcoxon signed-rank" if wilcoxon else "paired t"
    if not differences.any():
        return name, 1.0
    result = stats.wilcoxon(differences) if wilcoxon else stats.ttest_1samp(differences, 0)
    return name, float(result.pvalue)


def text(tests: pd.DataFrame, first: str, second: str) -> str:
    """What `compare` found as a table for the terminal."""
    shown = tests.assign(difference=tests.difference.map("{:+.2f}".format), p=tests.p.map(p_value))
    table = tabulate(shown.values, list(tests), disable_numparse=True) if len(tests) else NO_PAIR
    return f"{printable(first)} against {printable(second)}\n{NOTE}\n\n{table}\n"


def p_value(p: float) -> str:
    """As it is printed; "-" where nothing was tested."""
    if p != p:
        return "-"
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def compare(runs: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Tests of two methods in every protocol, setting and column, over the datasets and seeds that both have.

    A zero-shot method knows no seeds: its figure is paired with each seed of the other one. Transfers are tested over
    their targets together.

    Args:
        runs: as `results.read` gives them.
        first, second: methods by a name of theirs: as tables have it, in full, by the label of their overrides, or by
            trainer.

    Returns:
        A DataFrame with the columns protocol, setting, column, difference (mean of first - second, in percentage
        points), pairs, datasets, test, p. Where there are too few pairs, test says so and p is NaN; no row where there
        is none.

    Raises:
        UserError: no method has that name, or in no protocol one alone.
    """
    known = {protocol: _names(runs, protocol) for protocol in PROTOCOLS}
    for name in (first, second):
        _check_known(runs, name, known)
    rows = []
    for protocol, methods in known.items():
        pair = [methods.get(name, ()) for name in (first, second)]
        if any(len(found) != 1 for found in pair):
            continue
        for setting, column, found in pairs(runs, protocol, pair[0][0], pair[1][0]):
            datasets = found.index.get_level_values("dataset").nunique()
            tested = test(found.to_numpy())
            rows.append([protocol, setting, heading(column), found.mean(), len(found), datasets, *tested])
    return pd.DataFrame(rows, columns=["protocol", "setting", "column", "difference", "pairs", "datasets", "test", "p"])


def pairs(runs: pd.DataFrame, protocol: str, first: str, second: str) -> Iterator[tuple[str, Any, pd.Series]]:
    """Yield (setting, column, differences) where both have figures; of transfers the column is "targets".

    Args:
        runs: as `results.read` gives them.
        first, second: methods by their full names.

    Yields:
        differences are a Series in percentage points, indexed by dataset, and by seed unless neither has seeds.
    """
    wide = figures(runs, protocol).drop(index=AVERAGE, level="dataset", errors="ignore")
    trainers = dict(runs[["method", "trainer"]].values)
    one, other = (_of(wide, method, not method_of(trainers[method]).trains, protocol) for method in (first, second))
    common = [level for level in one.index.names if level in other.index.names]
    for setting in wide.index.get_level_values("setting").unique():
        for column in one.columns.intersection(other.columns, sort=False):
            mine, yours = (
                frame[column][frame.index.get_level_values("setting") == setting].dropna() for frame in (one, other)
            )
            if mine.empty or yours.empty:
                continue
            joined = mine.rename("one").reset_index().merge(yours.rename("other").reset_index(), on=common)
            keys = [name for name in joined if name in ("dataset", "seed")]
            if joined.empty:
                continue
            yield setting, column, (joined.one - joined.other).set_axis(pd.MultiIndex.from_frame(joined[keys]))


def _of(wide, method, zero_shot, protocol):
    """A method's figures, by dataset, setting and seed, of a zero-shot method without the seed."""
    own = wide.xs(method, level="method")
    if PROTOCOLS[protocol].targets:  # they are the datasets
        sources = own.index.get_level_values("dataset").unique()
        own = own.drop(columns=[*sources, "average"], errors="ignore").droplevel("dataset")
        own = own.melt(ignore_index=False, var_name="dataset", value_name="targets").set_index("dataset", append=True)
    if zero_shot:
        own = own.groupby(level=["dataset", "setting"]).mean()
        if not PROTOCOLS[protocol].setting:  # the same figure beside any number of shots
            own = pd.DataFrame({column: own[0] for column in wide})
    return own


def _names(runs, protocol):
    """{name: the methods that go by it} of a protocol; a more exact name hides a looser one."""
    printed, exact, loose = labels(runs, protocol), {}, {}
    facts = runs[runs.protocol == protocol].drop_duplicates("method")
    for method, trainer, config in facts[["method", "trainer", "config"]].itertuples(index=False):
        label = label_in(trainer, config)
        for name in {method, printed[method]}:
            exact.setdefault(name, []).append(method)
        for name in {trainer, label, f"{trainer} ({label})"} - {""}:
            loose.setdefault(name, []).append(method)
    return loose | exact


def _check_known(runs, name, known):
    found = [methods[name] for methods in known.values() if name in methods]
    if not found:
        there = sorted({shown for protocol in PROTOCOLS for shown in labels(runs, protocol).values()})
        raise UserError(f"no finished run of the method {name}: there are {', '.join(there)}")
    if all(len(methods) > 1 for methods in found):
        raise UserError(f"{name} means several methods: name one of {', '.join(sorted(set(sum(found, []))))}")
