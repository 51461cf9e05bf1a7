"""Commands that get a mutated checkpoint, backbone, run or command line, each in a process of its own."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

import parse_test_res
import predict
import train
from benchmark import __main__ as benchmark
from datasets import __main__ as datasets
from tests.attack import mutate, runs
from tests.attack.child import call
from tests.attack.fuzz_readers import as_yaml, words_of_config, written
from tests.attack.harness import succeeded

EMBEDDED = Path(__file__).parents[2] / "embedded"
FREQUENT = ("TRAIN.CHECKPOINT_FREQ", "1")


def prepare(folder: Path) -> dict[str, str]:
    """What is mutated: {"data": of runs.Small, "root": its classes, "run": CoOp's, with all checkpoints}."""
    start = {"data": str(folder / "data"), "run": str(folder / "whole")}
    start["root"] = runs.data(start["data"])[0]
    words = runs.Small("CoOp", start["data"], FREQUENT).words(start["run"])
    succeeded(call(runs.do, words, environment=runs.environment(folder / "cache")))
    return start


def command(target: str, seed: int, place: str, start: dict[str, str]) -> Any:
    """Do what a seed decides, in this process."""
    return TARGETS[target](random.Random(f"{target} {seed}"), Path(place), start)


def mutated(path: Path, rng: random.Random) -> None:
    """Change what torch saved in a file."""
    if rng.random() < 0.2:
        path.write_bytes(mutate.data(path.read_bytes(), rng))
    else:
        content = torch.load(path, weights_only=True)
        if rng.random() < 0.6 and isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content["state_dict"] = mutate.tree(content["state_dict"], rng, leaf=mutate.tensor)
        else:
            content = mutate.tree(content, rng, leaf=mutate.tensor)
        torch.save(content, path)


def evaluated(rng: random.Random, place: Path, start: dict[str, str]) -> Any:
    """The checkpoint that is evaluated."""
    shutil.copytree(start["run"], place / "run")
    mutated(place / "run" / "prompt_learner" / "model.pth.tar-3", rng)
    words = runs.Small("CoOp", start["data"]).words(place / "found", "--eval-only", "--model-dir", place / "run")
    return runs.do_and_look(words)


def resumed(rng: random.Random, place: Path, start: dict[str, str]) -> Any:
    """The checkpoint that a run goes on from, in its own folder or with --resume."""
    shutil.copytree(start["run"], place / "run")
    os.remove(place / "run" / "metrics.json")
    folder = place / "run" / "prompt_learner"
    os.remove(folder / "model.pth.tar-3")
    (folder / "checkpoint").write_text(rng.choice(("model.pth.tar-2\n",) * 5 + ("", "model.pth.tar-9", "x", "../x-2")))
    mutated(folder / "model.pth.tar-2", rng)
    small = runs.Small("CoOp", start["data"], FREQUENT)
    if rng.random() < 0.5:
        return runs.do_and_look(small.words(place / "run"))
    return runs.do_and_look(small.words(place / "other", "--resume", place / "run"))


def backbone(rng: random.Random, place: Path, start: dict[str, str]) -> Any:
    path = place / "backbone.pt"
    shutil.copyfile(EMBEDDED / "icon-clip-vit.pt", path)
    mutated(path, rng)
    keys = ("MODEL.BACKBONE.FAMILY", "openai") if rng.random() < 0.8 else ()
    return runs.do_and_look(runs.Small("ZeroshotCLIP", start["data"], keys, str(path)).words(place / "found"))


def run(rng: random.Random, place: Path, start: dict[str, str]) -> Any:
    """A run's folder, of which a text file is mutated, and all that can be done with it."""
    shutil.copytree(start["run"], place / "run")
    path = place / "run" / rng.choice([name for name in ("config.yaml", "classes.json", "metrics.json", "inputs.json")
                                       if (place / "run" / name).exists()])  # fmt: skip
    load, dump = (yaml.safe_load, as_yaml) if path.suffix == ".yaml" else (json.loads, json.dumps)
    written(load(path.read_text()), path, rng, dump)
    images, model = Path(start["root"], "caltech-101/101_ObjectCategories/bee"), str(place / "run")
    what = rng.randrange(5)
    if what == 0:
        return predict.run(["--model-dir", model, str(images)])
    if what == 1:
        return benchmark.main(["export", model, "--out", str(place / "x.safetensors")])
    if what == 2:
        return benchmark.main(["explain", model, "--out", str(place / "explained")])
    small = runs.Small("CoOp", start["data"], FREQUENT)
    if what == 3:
        return runs.do_and_look(small.words(place / "found", "--eval-only", "--model-dir", model))
    return runs.do_and_look(small.words(place / "run"))


def values(rng: random.Random, place: Path, start: dict[str, str]) -> Any:
    """Odd values of the config, in a run."""
    os.chdir(place)
    trainer = rng.choice(runs.names())
    words = [word for word in words_of_config(rng)]
    return runs.do_and_look(runs.Small(trainer, start["data"]).words(place / "run", keys=words))


def words(rng: random.Random, place: Path, start: dict[str, str]) -> Any:
    """Command lines of known and odd words."""
    os.chdir(place)
    commands = {
        "train": (train.run, "--root --seed --trainer --config-file --dataset-config-file --output-dir --eval-only "
                  "--model-dir --load-epoch --resume --backbone --transforms --no-train --overwrite CoOp run OPTIM.LR"),
        "predict": (predict.run, "--model-dir --top --format --load-epoch --classnames --device --batch-size json run"),
        "parse": (parse_test_res.main, "--ci95 --test-log --multi-exp --keyword accuracy run whole"),
        "datasets": (datasets.main, "check prepare list caltech101 icons_rare --root --dry-run"),
        "benchmark": (benchmark.main, "run status backbones cost cache protocol table results report explain export "
                      "demo --root --output --device --dry-run --out --csv --protocol few_shot CoOp caltech101 16 "
                      "--trainer --shots --seeds --format latex --compare --words --classnames --launcher --gpus"),
    }  # fmt: skip
    main, known = commands[rng.choice(list(commands))]
    odd = [str(value) for value in mutate.ODD if "\0" not in str(value) and "\ud800" not in str(value)]
    choice = [*known.split() * 3, start["run"], start["root"], *odd]
    return main([rng.choice(choice) for _ in range(rng.randint(0, 7))])


TARGETS = {
    "evaluated": evaluated,
    "resumed": resumed,
    "backbone": backbone,
    "run": run,
    "values": values,
    "words": words,
}
