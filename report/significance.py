"""Whether one method is better than another: a paired test over datasets and seeds."""

import pandas as pd
from scipy import stats
from tabulate import tabulate

from benchmark.layouts import heading
from benchmark.protocols import PROTOCOLS, TARGETS, is_zero_shot
from benchmark.summary import AVERAGE, figures, labels
from dassl.errors import UserError, nearest

WILCOXON_FROM = 6  # with fewer pairs the signed-rank test cannot fall below p = 0.05
T_FROM = 3
NOTE = (
    "Differences in percentage points, first minus second; p two-sided, not corrected for the number of tests. A pair "
    "is a dataset and a seed. Seeds of a dataset share its test images: pairs are less independent than a test assumes."
)


def test(differences):
    """(name of the test, two-sided p) of paired differences, (n,).

    Wilcoxon's signed-rank test, which asks for no distribution, from 6 pairs on; with 3 to 5 the paired t-test, which
    takes the differences to be normal. If all are zero p is 1.

    Raises:
        ValueError: there are fewer than 3 pairs.
    """
    if len(differences) < T_FROM:
        raise ValueError(f"{len(differences)} pairs; a test needs {T_FROM}")
    wilcoxon = len(differences) >= WILCOXON_FROM
    name = "Wilcoxon signed-rank" if wilcoxon else "paired t"
    if not differences.any():
        return name, 1.0
    result = stats.wilcoxon(differences) if wilcoxon else stats.ttest_1samp(differences, 0)
    return name, float(result.pvalue)


def text(tests, first, second):
    """What `compare` found as a table for the terminal."""
    shown = tests.assign(difference=tests.difference.map("{:+.2f}".format), p=tests.p.map(p_value))
    table = tabulate(shown.values, list(tests), disable_numparse=True)
    return f"{first} against {second}\n{NOTE}\n\n{table}\n"


def p_value(p):
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def compare(runs, first, second):
    """Tests of two methods in every protocol, setting and column, over the datasets and seeds that both have.

    A zero-shot method knows no seeds: its figure is paired with each seed of the other one. Transfers are tested over
    their targets together.

    Args:
        runs: as `results.read` gives them.
        first, second: methods, as tables call them, in full, or by trainer.

    Returns:
        A DataFrame with the columns protocol, setting, column, difference (mean of first - second, in percentage
        points), pairs, datasets, test, p.

    Raises:
        UserError: a method is unknown, or nowhere are there pairs enough.
    """
    rows, most = [], 0
    for protocol in PROTOCOLS:
        names = [_method(runs, protocol, name) for name in (first, second)]
        if None in names:
            continue
        for setting, column, pairs in _pairs(runs, protocol, *names):
            most = max(most, len(pairs))
            if len(pairs) >= T_FROM:
                datasets = pairs.index.get_level_values("dataset").nunique()
                rows.append(
                    [protocol, setting, heading(column), pairs.mean(), len(pairs), datasets, *test(pairs.to_numpy())]
                )
    if not rows:
        _check_known(runs, first, second)
        raise UserError(
            f"too few pairs to compare {first} with {second}: {most}, a test needs {T_FROM} runs on the same datasets "
            "and seeds"
        )
    return pd.DataFrame(rows, columns=["protocol", "setting", "column", "difference", "pairs", "datasets", "test", "p"])


def _pairs(runs, protocol, first, second):
    """(setting, column, differences) where both have figures; differences are indexed by dataset, seed and more."""
    wide = figures(runs, protocol).drop(index=AVERAGE, level="dataset", errors="ignore")
    trainers = dict(runs[["method", "trainer"]].values)
    one, other = (_of(wide, method, is_zero_shot(trainers[method]), protocol) for method in (first, second))
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
            yield setting, column, (joined.one - joined.other).set_axis(pd.MultiIndex.from_frame(joined[keys]))


def _of(wide, method, zero_shot, protocol):
    """A method's figures, by dataset, setting and seed, of a zero-shot method without the seed."""
    own = wide.xs(method, level="method")
    if protocol in TARGETS:  # the targets are the datasets
        sources = own.index.get_level_values("dataset").unique()
        own = own.drop(columns=[*sources, "average"], errors="ignore").droplevel("dataset")
        own = own.melt(ignore_index=False, var_name="dataset", value_name="targets").set_index("dataset", append=True)
    if zero_shot:
        own = own.groupby(level=["dataset", "setting"]).mean()
        if protocol == "few_shot":  # the same figure beside any number of shots
            own = pd.DataFrame({column: own[0] for column in wide})
    return own


def _method(runs, protocol, name):
    """The method of that name in a protocol, None where it has none, or several."""
    own = labels(runs, protocol)
    trainers = dict(runs[["method", "trainer"]].values)
    found = [method for method, label in own.items() if name in (method, label)]
    found = found or [method for method in own if name == trainers[method]]
    return found[0] if len(found) == 1 else None


def _check_known(runs, *names):
    known = {name for protocol in PROTOCOLS for pair in labels(runs, protocol).items() for name in pair}
    for name in names:
        if name not in known:
            raise UserError(f"no finished run of the method {name}: {nearest(name, known)}")
