"""A finished run once more, from its own config, and whether the bits agree: `python train.py --replay RUN`."""

import argparse
import glob
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dassl.config import merge_from_list
from dassl.engine import inputs, run_folder
from dassl.layout import ANY_CHECKPOINT, BEST, METRICS, last_checkpoints, read_metrics
from dassl.utils import UserError, load_checkpoint, processes
from learned.model import read_cfg
from mocoop import typed

logger = logging.getLogger("dassl.learned")

DIFFERENT = 3
"""The exit status where the bits do not agree; a mistake of the user's has another."""

ALLOWED = {"replay", "root", "output_dir", "overwrite", "opts"}
"""Arguments of train.py that go with --replay; and of KEY VALUE those keys that have no effect."""

NO_RESULT = {
    *("train_seconds", "test_seconds", "peak_memory_mb", "processes", "device", "versions", "numerics"),
    *("config", "inputs", "loaded_from"),
}
"""Entries of metrics.json that are not what was found."""


def replay(args: argparse.Namespace, defaults: argparse.Namespace, perform: Callable[..., Any]) -> int:
    """Do the run args.replay again in a folder of its own; the exit status, 0 if it ends in the same bits.

    What went in is compared first, line by line in the log; the run is done whatever differs. One that was stopped goes
    on with the same arguments.

    Args:
        args: train.py's.
        defaults: train.py's, nothing given.
        perform: train.py's.

    Raises:
        UserError: the run is not finished, or its checkpoints, its data or what it began with are gone; an argument or
            key has an effect; or the folder to write to holds a run.
    """
    given = [name for name, value in vars(args).items() if name not in ALLOWED and value != getattr(defaults, name)]
    if given:
        raise UserError(f"--replay repeats the run as it was: leave out --{given[0].replace('_', '-')}")
    run = os.path.normpath(args.replay)
    cfg, held = read_cfg(run), run_folder.read_config(run)
    theirs = read_metrics(run)
    if theirs is None:
        raise UserError(f"the run in {run} is not finished: finish it first, with the train.py command that began it")
    if cfg.RELEASE.NAME:
        raise UserError(
            f"{run} is a run of the release {cfg.RELEASE.NAME}, whose code is not here: repeat it with "
            f"{typed('benchmark release')}"
        )
    record = inputs.read(run) or theirs.get("inputs")
    again = argparse.Namespace(**{**vars(defaults), "overwrite": args.overwrite, **_arguments(run, record, theirs)})
    for place, key in ((again, "model_dir"), (cfg.MODEL, "INIT_WEIGHTS"), (cfg, "RESUME")):
        if path := getattr(place, key):
            setattr(place, key, _found(path, run, held["OUTPUT_DIR"]))
    cfg.OUTPUT_DIR = args.output_dir or f"{run}-replay"
    _take_over(cfg, args)
    cfg.freeze()
    needed = {run, again.model_dir, cfg.RESUME, os.path.dirname(os.path.dirname(cfg.MODEL.INIT_WEIGHTS))}
    if os.path.realpath(cfg.OUTPUT_DIR) in {os.path.realpath(folder) for folder in needed if folder}:
        raise UserError(f"{cfg.OUTPUT_DIR} is what the run needs, or itself: choose another --output-dir")

    def begun(trainer: Any) -> None:
        if not again.eval_only and trainer.has_weights() and not _last(run):
            raise UserError(f"the checkpoints of {run} are gone: there is nothing to compare weights with")
        _tell_what_went_in(run, record, trainer.inputs, cfg.SEED)

    trainer = perform(cfg, again, lambda: _make_way(cfg.OUTPUT_DIR, args.overwrite), begun)
    trained = not again.eval_only and trainer.has_weights()
    return _compare(run, cfg.OUTPUT_DIR, theirs, trained) if processes.first() else 0


def _arguments(run, record, metrics):
    """Those of train.py that are not config, by its record or, of an earlier version's run, by what it left."""
    if record:
        return record["arguments"]
    if glob.glob(os.path.join(glob.escape(run), "*", ANY_CHECKPOINT)):
        return {}
    return {"eval_only": True} | (metrics.get("loaded_from") or {})


def _found(path, run, output_dir):
    """Where weights are that a run began with, its output may have moved. Raises UserError where they are gone."""
    moved = os.path.normpath(os.path.join(run, os.path.relpath(path, output_dir)))
    found = next(filter(os.path.exists, (path, moved)), None)
    if found is None:
        raise UserError(f"{run} began with the weights {path}, which are gone: it cannot be done again")
    return found


def _take_over(cfg, args):
    """Give the config what args say beside the run. Raises UserError for a key that has an effect."""
    for key in args.opts[::2]:
        if key not in run_folder.NO_EFFECT - {"OUTPUT_DIR", "RESUME"}:
            raise UserError(f"--replay repeats the run as it was: {key} cannot be set; leave it out")
    merge_from_list(cfg, [*(["DATASET.ROOT", args.root] if args.root else []), *args.opts])


def _make_way(folder, overwrite):
    """Raises UserError where a finished run is in the folder, unless it is to be overwritten."""
    if os.path.isfile(os.path.join(folder, METRICS)):
        if not overwrite:
            raise UserError(f"{folder} holds a run: choose another --output-dir, or replace that one with --overwrite")
        run_folder.clear(folder)


def _tell_what_went_in(run, record, ours, seed):
    if seed < 0:
        logger.warning("%s has no seed: what it draws at random is drawn anew", run)
    if record is None:
        logger.warning("%s is of an earlier version, which did not record what went into a run", run)
        return
    if inputs.EARLIER in record:
        logger.warning("%s did not end with what it began with: see `earlier` in its inputs.json", run)
    lines = inputs.differences(record, ours)
    for line in lines:
        logger.warning("Went in: %s", line)
    if not lines:
        logger.info("What goes in is what went into %s", run)


def _compare(run, folder, theirs, trained):
    """Log what two finished runs differ in; the exit status."""
    ours, lines, largest, compared = read_metrics(folder) or {}, [], 0.0, 0
    if trained:
        there, here = _last(run), _last(folder)
        lines += [f"{file} is only in {run if file in there else folder}" for file in sorted(there ^ here)]
        for file in sorted(there & here):
            states = [load_checkpoint(os.path.join(where, file))["state_dict"] for where in (run, folder)]
            for name, difference in _unequal(*states):
                lines.append(f"{file}: {name} {'is another' if difference is None else f'differs by {difference:.3g}'}")
                largest = max(largest, float("inf") if difference is None else difference)
            compared += len(states[0])
    figures = [key for key in theirs if key in ours and key not in NO_RESULT]
    lines += [f"{key} is {_cut(ours[key])}, was {_cut(theirs[key])}" for key in figures if ours[key] != theirs[key]]
    for line in lines:
        logger.warning("Came out: %s", line)
    if not lines:
        logger.info("=> identical: %d tensors of weights, %d entries of metrics.json", compared, len(figures))
        return 0
    logger.info(
        "=> different in %d places: weights by at most %.3g, accuracy %.2f, was %.2f",
        *(len(lines), largest, ours.get("accuracy", float("nan")), theirs["accuracy"]),
    )
    return DIFFERENT


def _last(run) -> set[str]:
    """<model name>/<file> of the checkpoints that a run ended with: the last and, where it chose one, the best."""
    best = Path(run).glob(f"*/{BEST}")
    return {str(path.relative_to(run)) for path in (*last_checkpoints(run), *best)}


def _unequal(
    theirs: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, float | None]]:
    """Yield (name, largest difference) of tensors whose bits differ; None where type, shape or name do."""
    for name in dict.fromkeys([*theirs, *ours]):
        a, b = theirs.get(name), ours.get(name)
        if a is None or b is None or (a.dtype, a.shape) != (b.dtype, b.shape):
            yield name, None
        elif not torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))):
            yield name, float((a.double() - b.double()).abs().max())


def _cut(value):
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
