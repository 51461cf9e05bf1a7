"""The tables that papers print, from the table of runs that benchmark/results.py reads.

`per_seed` puts the runs of a protocol side by side; `mean` and `std` go over its seeds; `text` prints all of it. As in
the papers, H in a row of means is that of the mean accuracies, and the standard deviations are of the population, as
CoOp's parse_test_res.py computes them.
"""

import pandas as pd
from tabulate import tabulate

from benchmark.protocols import PROTOCOLS, TARGETS, dataset_and_style, is_zero_shot, source_of

COLUMNS = {
    "few_shot": {"accuracy": "accuracy"},
    "base2new": {"train_base": "base", "test_base": "base", "test_new": "new"},
    "incremental": {"train_base": "first", "test_base": "after", "train_new": "second", "test_all": "all"},
    "czsl": {
        "best_seen": "S",
        "best_unseen": "U",
        "best_harmonic": "H",
        "auc": "AUC",
        "best_harmonic_20": "H 20",
        "auc_20": "AUC 20",
        "attribute_accuracy": "attribute",
        "object_accuracy": "object",
    },
}
"""What becomes which column: a part of the protocol or, where one run makes a row, a column of the runs."""

GROUPS = dict.fromkeys(PROTOCOLS, ["dataset", "shots", "method"]) | {"czsl": ["dataset", "part", "method"]}
"""What tells tables apart. Of transfers, `dataset` is the one trained on; shots are 0 where there are none."""

TITLES = {
    "few_shot": "{method} on {dataset}, {shots}, all classes",
    "base2new": "{method} on {dataset}, {shots}",
    "cross_dataset": "{method} on {dataset}, {shots}, tested on other datasets",
    "domain_generalization": "{method} on {dataset}, {shots}, tested on other domains",
    "incremental": "{method} on {dataset}, {shots}, one half of the classes after the other",
    "czsl": "{method} on {dataset}, {part} world",
}
MEANS = {"incremental": "means: the first half before and after the second was learned, the second half, all classes"}


def harmonic_mean(base, new):
    """2 base new / (base + new) of two Series, in their unit; 0 where both are 0."""
    return (2 * base * new / (base + new)).mask(base + new == 0, 0.0)


def per_seed(runs, protocol):
    """A DataFrame of figures in percent: a row for each of GROUPS[protocol] and seed, NaN where a run is missing.

    Columns are those of COLUMNS, and H in base2new; in transfers the datasets trained on, those tested on, and the
    average over the latter, as far as any method has them.

    Args:
        runs: as `results.read` gives them.
        protocol: a name in PROTOCOLS.
    """
    index = [*GROUPS[protocol], "seed"]
    runs = _transfers(runs, protocol) if protocol in TARGETS else runs[runs.protocol == protocol]
    runs = runs.assign(shots=runs.shots.fillna(0), seed=runs.seed.fillna(-1))
    if protocol in ("few_shot", "czsl"):
        return runs.set_index(index)[list(COLUMNS[protocol])].rename(columns=COLUMNS[protocol]).sort_index()
    if protocol in TARGETS:
        known = [name for source, targets in TARGETS[protocol].items() for name in (source, *targets)]
        names = {name: name for name in [*known, *runs.column] if name in set(runs.column)}
    else:
        names, runs = COLUMNS[protocol], runs.assign(column=runs.part)
    figures = runs.assign(column=runs.column.map(names)).set_index([*index, "column"]).accuracy.unstack()
    figures = figures.reindex(columns=list(dict.fromkeys(names.values())))
    if protocol == "base2new":
        figures["H"] = harmonic_mean(figures.base, figures.new)
    for source, rows in figures.groupby(level="dataset") if protocol in TARGETS else ():
        tested = rows.drop(columns=source, errors="ignore").dropna(axis="columns", how="all")
        figures.loc[rows.index, "average"] = tested.mean(axis="columns", skipna=False)
    return figures


def over_seeds(figures):
    """Mean, standard deviation and number of the seeds of each table in what `per_seed` gives.

    Returns:
        Two DataFrames and a Series, their rows one for each table. Leave out seeds that lack a run beforehand.
    """
    tables = figures.groupby(level=figures.index.names[:-1])
    mean, std = tables.mean(), tables.std(ddof=0)
    if "H" in mean and "base" in mean:
        mean["H"] = harmonic_mean(mean.base, mean.new)
    return mean, std, tables.size()


def text(runs, protocol, seeds=True):
    """The tables of a protocol, and where there are several their means; "" where no seed has all its runs.

    Args:
        runs, protocol: as `per_seed` takes them.
        seeds: whether to print more than the means.
    """
    figures = per_seed(runs, protocol)
    apart = [(None, figures)]
    if protocol in TARGETS:  # each source has targets of its own
        apart = figures.groupby(level="dataset")
    return "\n".join(_text(runs, protocol, part.dropna(axis="columns", how="all"), seeds) for _, part in apart)


def others(runs):
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
    headers = ["folder", "trainer", "dataset", "shots", "seeds", "accuracy", "std"]
    return f"\nother runs\n{_tabulate(rows, headers)}"


def _text(runs, protocol, figures, all_seeds):
    whole = figures.dropna()
    headers = [dataset_and_style(name)[1] or name for name in figures]
    blocks, means = [], []
    mean, std, count = over_seeds(whole)
    for table in mean.index:
        names = dict(zip(GROUPS[protocol], table, strict=True))
        seeds = whole.loc[table]
        rows = [[seed, *row] for seed, row in zip(seeds.index, seeds.values, strict=True)]
        rows += [["mean", *mean.loc[table]], ["std", *std.loc[table]]]
        blocks.append(f"\n{_title(runs, protocol, names)}\n{_tabulate(rows, ['seed', *headers])}")
        if unfinished := sorted({*figures.loc[table].index} - {*seeds.index}):
            blocks.append(f"not finished yet: seed {', '.join(map(str, unfinished))}")
        means.append(names | {"seeds": count[table]} | dict(zip(headers, mean.loc[table], strict=True)))
    if not all_seeds:
        blocks.clear()
    if len(means) > all_seeds:
        blocks.append(f"\n{MEANS.get(protocol, 'means')}\n{_means(pd.DataFrame(means), protocol)}")
    return "\n".join(blocks)


def _transfers(runs, protocol):
    """The runs tested on targets and, before them, those of the sources; `column` is where each was tested."""
    tested = runs[runs.protocol == protocol]
    tested = tested.assign(column=tested.dataset, dataset=[source_of(protocol, name) for name in tested.dataset])
    trained = ["dataset", "shots", "method", "seed"]
    wanted = pd.MultiIndex.from_frame(tested[trained])
    learned = runs[(runs.protocol == "few_shot") & pd.MultiIndex.from_frame(runs[trained]).isin(wanted)]
    return pd.concat([learned.assign(column=learned.dataset), tested])


def _title(runs, protocol, names):
    """A table's first line."""
    trainers = runs.trainer[runs.method == names["method"]]
    shots = f"{names['shots']} shots" if names.get("shots") else "all images"
    if not names.get("shots") and is_zero_shot(trainers.iloc[0]):
        shots = "zero-shot"
    return TITLES[protocol].format(**names | {"shots": shots})


def _means(means, protocol):
    """The means of several tables; of few_shot a column for each number of shots."""
    if protocol == "few_shot":
        means = means.set_index(["dataset", "method", "shots"]).accuracy.unstack().reset_index()
    else:
        means = means.replace({"shots": {0: "-"}})
    return _tabulate(means.values, list(means))


def _tabulate(rows, headers):
    rows = [[None if pd.isna(value) else value for value in row] for row in rows]
    return tabulate(rows, headers, floatfmt=".2f", tablefmt="simple")
