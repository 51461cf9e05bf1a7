"""What reads files, each with an input that a generator decides: given where to write, it calls the reader.

A reader may return an exit status, or text that says what is wrong with how it took its input.
"""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import parse_test_res
import train
from benchmark import __main__ as benchmark
from benchmark.facts import CONFIGS
from benchmark.grid import read_grid
from dassl.config import get_cfg_default
from dassl.layout import flat
from dassl.utils import read_image
from datasets.split import read_split
from tests.attack import mutate
from trainers import extend_cfg

Reader = Callable[[random.Random, Path], Any]


def written(content: Any, path: Path, rng: random.Random, dump: Callable[[Any], str]) -> Path:
    """A file with a mutated tree or, of six, once with mutated bytes of the whole one."""
    if rng.random() < 1 / 6:
        path.write_bytes(mutate.data(dump(content).encode(), rng))
    else:
        try:
            path.write_bytes(dump(mutate.tree(content, rng)).encode(errors="surrogatepass"))
        except (yaml.YAMLError, TypeError, ValueError):  # of what cannot be written
            path.write_text("")
    return path


def as_yaml(tree: Any) -> str:
    return yaml.safe_dump_all(tree, allow_unicode=True) if isinstance(tree, list) else yaml.safe_dump(tree)


def grid(start: dict[str, str]) -> Reader:
    grids = [list(yaml.safe_load_all(path.read_text())) for path in sorted(CONFIGS.glob("grids/*.yaml"))]

    def read(rng, folder):
        documents = copy.deepcopy(rng.choice(grids))
        for document in documents:  # all keys that there are
            document.setdefault("exclude", [{"method": "CoOp", "dataset": "dtd", "seed": 1}])
            document.setdefault("overrides", {"OPTIM.MAX_EPOCH": 1})
        read_grid(written(documents, folder / "grid.yaml", rng, as_yaml))

    return read


def metrics(start: dict[str, str]) -> Reader:
    """One of four runs has a mutated metrics.json: the commands that show results go on with the others."""
    whole = json.loads(Path(start["run"], "metrics.json").read_text())
    runs = [run for run in read_grid("demo").runs if run.trainer != "CSP"][::4][:4]

    def read(rng, folder):
        for i, run in enumerate(runs):
            path = folder / "output" / run.folder / "metrics.json"
            path.parent.mkdir(parents=True)
            content = {**whole, "trainer": run.trainer, "dataset": "IconsRare", "seed": run.seed, "shots": run.shots}
            path.write_text(json.dumps(content))
            if i == 0:
                written(content, path, rng, json.dumps)
        words = rng.choice((["table"], ["results"], ["results", "--csv", str(folder / "x.csv")]) * 7 + (["report"],))
        status = benchmark.main([words[0], str(folder / "output"), *words[1:]])
        return f"{words[0]} ends for all runs, with status {status}" if status else None

    return read


def split(start: dict[str, str]) -> Reader:
    path = next(Path(start["root"]).glob("*/split*.json"))
    whole = json.loads(path.read_text())

    def read(rng, folder):
        read_split(str(written(whole, folder / "split.json", rng, json.dumps)), str(path.parent))

    return read


def log(start: dict[str, str]) -> Reader:
    whole = Path(start["run"], "log.txt").read_bytes()

    def read(rng, folder):
        (folder / "runs" / "seed1").mkdir(parents=True)
        (folder / "runs" / "seed1" / "log.txt").write_bytes(mutate.data(whole, rng))
        if rng.random() < 0.5:
            return parse_test_res.main([str(folder / "runs")])
        return benchmark.main(["results", str(folder)])

    return read


def config_file(start: dict[str, str]) -> Reader:
    files = [*sorted(CONFIGS.glob("trainers/*/*.yaml")), *sorted(CONFIGS.glob("datasets/*.yaml"))]
    trees = {path: yaml.safe_load(path.read_text()) for path in files if path.name != "method.yaml"}

    def read(rng, folder):
        path = rng.choice(list(trees))
        file = written(trees[path], folder / "config.yaml", rng, as_yaml)
        trainer = path.parent.name if path.parent.parent.name == "trainers" else "CoOp"
        train.setup_cfg(train.parse_args(["--trainer", trainer, "--config-file", str(file)]))

    return read


def words_of_config(rng: random.Random) -> list[str]:
    """One to three keys of the config and values for them, of which one or all are odd."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    known, words = flat(cfg), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice(sorted(known))
        other = known[rng.choice(sorted(known))]
        value = rng.choice((*mutate.ODD, mutate.text(str(known[key]), rng), known[key], other))
        words += [key, str(value).replace("\0", "\x01").encode(errors="replace").decode()]
    return words


def config_value(start: dict[str, str]) -> Reader:
    def read(rng, folder):
        train.setup_cfg(train.parse_args(["--trainer", "CoOp", *words_of_config(rng)]))

    return read


def image(start: dict[str, str]) -> Reader:
    def read(rng, folder):
        content, suffix = mutate.image(rng)
        path = folder / f"image{suffix}"
        path.write_bytes(content)
        found = read_image(path)
        return None if found.mode == "RGB" else f"an image of mode {found.mode}"

    return read


TARGETS: dict[str, Callable[[dict[str, str]], Reader]] = {
    "grid": grid,
    "metrics": metrics,
    "split": split,
    "log": log,
    "config-file": config_file,
    "config-value": config_value,
    "image": image,
}
