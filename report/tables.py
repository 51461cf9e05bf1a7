"""The tables that papers print, from the table of runs that report/results.py reads.

`per_seed` puts the runs of a protocol side by side; `mean` and `std` go over its seeds; `text` prints all of it. As in
the papers, H in a row of means is that of the mean accuracies, and the standard deviations are of the population, as
CoOp's parse_test_res.py computes them.
"""

import pandas as pd
from tabulate import tabulate

from benchmark.facts import dataset_and_style, method_of
from benchmark.protocols import PROTOCOLS
from dassl.errors import printable


def per_seed(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Figures in percent: a row for each of the protocol's `rows` and seed, NaN where a run is missing.

    Columns are the protocol's, and those that it derives; in transfers the datasets trained on, those tested on, and
    the average over the latter, as far as any method has them.

    Args:
        runs: as `results.read` gives them.
        name: a protocol's.
    """
    protocol = PROTOCOLS[name]
    index = [*protocol.rows, "seed"]
    runs = _transfers(runs, protocol) if protocol.targets else runs[runs.protocol == name]
    runs = runs.assign(shots=runs.shots.fillna(0), seed=runs.seed.fillna(-1))
    if protocol.across == "figures":
        figures = (
            runs.set_index(index).reindex(columns=list(protocol.columns)).rename(columns=protocol.columns).sort_index()
        )
        return protocol.derived(figures)
    if protocol.targets:
        known = [name for source, targets in protocol.targets.items() for name in (source, *targets)]
        names = {name: name for name in [*known, *runs.column] if name in set(runs.column)}
    else:
        names, runs = protocol.columns, runs.assign(column=runs.part)
    figures = runs.assign(column=runs.column.map(names)).set_index([*index, "column"]).accuracy.unstack()
    figures = figures.reindex(columns=list(dict.fromkeys(names.values())))
    for source, rows in figures.groupby(level="dataset") if protocol.targets else ():
        tested = rows.drop(columns=source, errors="ignore").dropna(axis="columns", how="all")
        figures.loc[rows.index, "average"] = tested.mean(axis="columns", skipna=False)
    return protocol.derived(figures)


def over_seeds(figures: pd.DataFrame, name: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Mean, standard deviation and number of the seeds of each table in what `per_seed` gives.

    The rows are one for each table. Leave out seeds that lack a run beforehand.
    """
    tables = figures.groupby(level=figures.index.names[:-1])
    return PROTOCOLS[name].derived(tables.mean()), tables.std(ddof=0), tables.size()


def text(runs: pd.DataFrame, protocol: str, seeds: bool = True) -> str:
    """The tables of a protocol, and where there are several their means; "" where no seed has all its runs.

    Args:
        runs, protocol: as `per_seed` takes them.
        seeds: whether to print more than the means.
    """
    facts, figures = PROTOCOLS[protocol], per_seed(runs, protocol)
    if facts.whole:
        return _text(runs, protocol, figures, seeds)
    apart = [(None, figures)]
    if facts.targets:  # each source has targets of its own
        apart = figures.groupby(level="dataset")
    return "\n".join(_text(runs, protocol, part.dropna(axis="columns", how="all"), seeds) for _, part in apart)


def others(runs: pd.DataFrame) -> str:
    """The table of runs outside the protocols, such as those on one's own photos; "" where there is none.

    A row is for runs whose folders differ in their last name alone, if that is seed1 and the like.
    """
    runs = runs[runs.protocol == ""]
    if runs.empty:
        return ""
    seeds = runs.seed.astype("string")
    runs = runs.assign(
        folder=runs.folder.str.replace(r"/seed\d+$", "", regex=True), shots=runs.shots.fillna(0), seed=seeds.fillna("-")
    )
    rows = [
        [*names[:3], names[3] or "-", " ".join(own.seed), own.accuracy.mean(), own.accuracy.std(ddof=0)]
        for names, own in runs.groupby(["folder", "trainer", "dataset", "shots"])
    ]
    rows = [row if " " in row[4] else [*row[:-1], None] for row in rows]
    headers = ["folder", "trainer", "dataset", "shots", "seeds", "accuracy", "std"]
    return f"\nother runs\n{_tabulate(rows, headers)}"


def _text(runs, protocol, figures, all_seeds):
    whole = figures.dropna()
    headers = [dataset_and_style(name)[1] or name for name in figures]
    blocks, means = [], []
    mean, std, count = over_seeds(whole, protocol)
    for table in mean.index:
        names = dict(zip(PROTOCOLS[protocol].rows, table, strict=True))
        seeds = whole.loc[table]
        rows = [[seed, *row] for seed, row in zip(seeds.index, seeds.values, strict=True)]
        rows.append(["mean", *mean.loc[table]])
        rows += [["std", *std.loc[table]]] * (len(seeds) > 1)
        blocks.append(f"\n{_title(runs, protocol, names)}\n{_tabulate(rows, ['seed', *headers])}")
        if unfinished := sorted({*figures.loc[table].index} - {*seeds.index}):
            blocks.append(f"not finished yet: seed {', '.join(map(str, unfinished))}")
        means.append(names | {"seeds": count[table]} | dict(zip(headers, mean.loc[table], strict=True)))
    if not all_seeds:
        blocks.clear()
    if len(means) > all_seeds:
        blocks.append(f"\n{PROTOCOLS[protocol].means}\n{_means(pd.DataFrame(means), protocol)}")
    return "\n".join(blocks)


def _transfers(runs, protocol):
    """The runs tested on targets and, before them, those of the sources; `column` is where each was tested.

    The latter belong to another protocol, whose tables may call the same trainer and config something else.
    """
    tested = runs[runs.protocol == protocol.name]
    tested = tested.assign(column=tested.dataset, dataset=tested.dataset.map(protocol.source_of).astype("string"))
    trained = ["dataset", "shots", "trainer", "config", "seed"]
    names = tested[[*trained, "method"]].drop_duplicates(trained)
    learned = runs[runs.protocol == protocol.learns_in].drop(columns="method").merge(names, on=trained)
    return pd.concat([learned.assign(column=learned.dataset), tested])


def _title(runs, protocol, names):
    """A table's first line."""
    trainers = runs.trainer[runs.method == names["method"]]
    shots = f"{names['shots']} shots" if names.get("shots") else "all images"
    if not names.get("shots") and not method_of(trainers.iloc[0]).trains:
        shots = "zero-shot"
    return PROTOCOLS[protocol].caption.format(**names | {"shots": shots})


def _means(means, protocol):
    """The means of several tables; where shots become columns, one for each number of them."""
    if not PROTOCOLS[protocol].setting:
        (figure,) = PROTOCOLS[protocol].columns.values()
        means = means.set_index(["dataset", "method", "shots"])[figure].unstack().reset_index()
    else:
        means = means.replace({"shots": {0: "-"}})
    return _tabulate(means.values, list(means))


def _tabulate(rows, headers):
    rows = [[None if pd.isna(x) else printable(x) if isinstance(x, str) else x for x in row] for row in rows]
    return tabulate(rows, headers, floatfmt=".2f", tablefmt="simple", missingval="-")
