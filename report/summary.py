"""What a report says in figures: methods side by side, averages over datasets, the best, what papers printed.

`figures` lays out the accuracies of the runs that report/results.py reads, one row for each method and seed;
`summarise` goes over the seeds, and gives one row for each cell of the tables to come.
"""

import re

import pandas as pd

from benchmark.facts import dataset_and_style, label_in, method_name, method_of
from benchmark.protocols import PROTOCOLS
from report import published
from report.published import AVERAGE
from report.results import ON
from report.tables import over_seeds, per_seed

KEYS = ["dataset", "setting", "method"]
CELL = [*KEYS, "column"]
ORDER = [AVERAGE]
for _protocol in PROTOCOLS.values():
    ORDER += [name for source, targets in _protocol.targets.items() for name in (source, *targets) if name not in ORDER]
"""Data sets in the order of the papers' transfers; others come after them."""


def place_of(dataset: str) -> tuple[int, str]:
    """What data sets are sorted by: ORDER, those that it lacks by name."""
    return (ORDER + [dataset]).index(dataset), dataset


def shots_of(setting: str) -> float:
    """What settings are sorted by: "4 shots" before "all images", and first those that are of no number of shots."""
    found = re.match(r"(\d+) shots?\b|all images\b", setting)
    return float(found[1] or "inf") if found else 0


def figures(runs: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The figures of every seed in percent, and their averages over datasets where there are several.

    An average is over the datasets that its method has in that column, and over the seeds that all of those have. Runs
    of zero-shot methods appear in every setting, since they have none of their own.

    Args:
        runs: as `results.read` gives them.
        protocol: a name in PROTOCOLS.

    Returns:
        A DataFrame. Index: dataset ("average" too), setting ("16 shots", "all images", "closed world"; "" in
        few_shot), method, seed. Columns as `tables.per_seed` has them, but in few_shot the numbers of shots, 0 of
        zero-shot methods, and "all".
    """
    wide = per_seed(runs, protocol)
    facts = PROTOCOLS[protocol]
    wide = (wide.dropna() if facts.whole else wide).reset_index()
    zero_shot = ~wide.method.map(_trainers(runs)).map(lambda trainer: method_of(trainer).trains).astype(bool)
    if not facts.setting:
        (figure,) = facts.columns.values()
        shots = wide.shots.astype(object).mask((wide.shots == 0) & ~zero_shot, "all")
        wide = wide.assign(setting="", shots=shots).set_index([*KEYS, "seed", "shots"])[figure].unstack()
        wide = wide[sorted(wide, key=lambda shots: (shots == "all", shots))]
        wide.columns.name = None
    elif facts.setting == "part":
        wide = wide.assign(setting=wide.part.map(facts.parts)).drop(columns="part").set_index([*KEYS, "seed"])
    else:
        wide["setting"] = [f"{shots} shots" if shots else "all images" for shots in wide.pop("shots")]
        settings = pd.DataFrame({"setting": wide.setting[~zero_shot].unique() if not zero_shot.all() else [""]})
        everywhere = wide[zero_shot].drop(columns="setting").merge(settings, how="cross")
        wide = pd.concat([wide[~zero_shot], everywhere]).set_index([*KEYS, "seed"])

    here, there = _coverage(wide)
    if facts.targets or there.max() < 2:
        return wide
    seeds = _averaged(wide).groupby(level=[*KEYS[1:], "seed"])
    mean = seeds.mean().where(seeds.count() == here.reindex(seeds.size().index.droplevel("seed")).values)
    mean = mean[(there > 1).reindex(mean.index.get_level_values("setting")).values].dropna(how="all")
    return pd.concat([pd.concat({AVERAGE: facts.derived(mean)}, names=["dataset"]), wide])


def summarise(runs: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """One row for each cell of the protocol's tables, in the order of print; none where no run is finished.

    Returns:
        A DataFrame with the columns protocol, dataset, setting, method, trainer, column, as in `figures`, but methods
        without their config where that is clear; mean, std (percent; of the population; NaN of a single seed, and of a
        method that learns nothing), seeds; datasets, of (in an average, how many its method has and how many any has,
        else 1); best (whether no mean of the column is higher at two digits, averages over fewer datasets left aside;
        False of a single one); published (percent, NaN where unknown), difference (mean - published), source; why_not,
        of a row without published figures or without that of its average why there are none.
    """
    wide = figures(runs, protocol)
    here, there = _coverage(wide)
    mean, std, _ = over_seeds(wide, protocol)
    count = wide.groupby(level=KEYS).count()
    trainers = _trainers(runs)
    learns = [method_of(trainers[method]).trains for method in mean.index.get_level_values("method")]
    std = std.where(count > 1)[learns].reindex(std.index)
    parts = {"mean": mean, "std": std, "seeds": count}
    cells = [part.melt(ignore_index=False, var_name="column", value_name=name) for name, part in parts.items()]
    cells = pd.concat([cells[0], *(part[[part.columns[1]]] for part in cells[1:])], axis=1).dropna(subset="mean")
    cells = cells.reset_index()

    cells["datasets"] = cells["of"] = 1
    for i, setting, method, column in cells[cells.dataset == AVERAGE][CELL[1:]].itertuples():
        cells.loc[i, ["datasets", "of"]] = here.loc[(setting, method), column], there[setting]
    rival = cells["mean"].round(2).where(cells.datasets == cells.of)
    rivals = rival.groupby([cells.dataset, cells.setting, cells.column])
    cells["best"] = (rival == rivals.transform("max")) & (rivals.transform("count") > 1)
    cells = cells.join(_published(runs, protocol, cells))
    cells.insert(cells.columns.get_loc("source"), "difference", cells["mean"] - cells.published)

    columns = list(wide)
    places = {
        "dataset": place_of,
        "setting": lambda name: (shots_of(name), name),
        "method": lambda name: (method_of(trainers[name]).rank, name),
        "column": columns.index,
    }
    cells = cells.sort_values(CELL, key=lambda names: names.map(places[names.name]))
    cells.insert(0, "protocol", protocol)
    cells.insert(cells.columns.get_loc("method") + 1, "trainer", cells.method.map(trainers))
    return cells.assign(method=cells.method.map(labels(runs, protocol))).reset_index(drop=True)


def summaries(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """{protocol: what `summarise` gives} of the protocols that have something to say."""
    found = {protocol: summarise(runs, protocol) for protocol in PROTOCOLS if (runs.protocol == protocol).any()}
    return {protocol: cells for protocol, cells in found.items() if len(cells)}


def labels(runs: pd.DataFrame, protocol: str) -> dict[str, str]:
    """{method: what tables call it}: without its config, but with a label, where the protocol has its trainer once."""
    own = runs[runs.protocol == protocol].drop_duplicates("method")[["method", "trainer", "config"]]
    configs, found = own.groupby("trainer").config.nunique(), {}
    for row in own.itertuples():
        name, on, backbone = row.method.partition(ON)
        if configs[row.trainer] <= 1 and name == method_name(row.trainer, row.config):
            name = method_name(row.trainer, label_in(row.trainer, row.config))
        found[row.method] = name + on + backbone
    return found


def _trainers(runs):
    return dict(runs[["method", "trainer"]].values)


def _averaged(wide):
    """Of figures those that go into averages: all but averages, and icons of one style, the sources of transfers."""
    names = wide.index.get_level_values("dataset")
    return wide[[name != AVERAGE and dataset_and_style(name)[1] is None for name in names]]


def _coverage(wide):
    """How many datasets each method has in each column, by setting; and how many any method has, by setting."""
    here = _averaged(wide).notna().groupby(level=KEYS).any()
    datasets = here.index.droplevel("method").unique()
    return here.groupby(level=KEYS[1:]).sum(), datasets.to_frame().groupby(level="setting").size()


def _published(runs, protocol, cells):
    """What papers printed for the cells, where, and for a row without any why not: a frame with those columns."""
    runs, trainers, rows = runs[runs.protocol == protocol], _trainers(runs), []
    for cell in cells.itertuples():
        own = runs[runs.method == cell.method]
        if cell.dataset != AVERAGE and not PROTOCOLS[protocol].targets:
            own = own[own.dataset == cell.dataset]
        asked = trainers[cell.method], cell.dataset, cell.setting, set(own.dataset)
        found = published.find(protocol, set(own.backbone), *asked)
        rows.append((*found.figures.get(cell.column, (None, "")), found.why_not))
    return pd.DataFrame(rows, cells.index, ["published", "source", "why_not"]).astype({"published": float})
