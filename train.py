"""One run: arguments -> config -> trainer -> train, or test with --eval-only. The command line is CoOp's."""

if __name__ == "__main__":  # Ctrl-C while the others are imported is one line, too
    from dassl import signals

    signals.end_in_one_line()

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from yacs.config import CfgNode

# torch is imported when arguments are parsed: --help does without
from dassl.errors import Stopped, UserError, printable
from dassl.signals import heeding
from mocoop import HOME, typed
from mocoop.command import Command

logger = logging.getLogger("dassl.train")

ARGUMENTS = ("eval_only", "model_dir", "load_epoch", "no_train")
"""Those that are not config."""

PACKAGES = ("datasets", "prompting", "trainers")
"""Whose code decides results, beside the engine's."""


class Train(Command):
    """One run: arguments -> config -> trainer -> train, or test with --eval-only. The command line is CoOp's."""

    examples = (
        """\
--root data --seed 1 --trainer CoOp \\
      --dataset-config-file configs/datasets/caltech101.yaml \\
      --config-file configs/trainers/CoOp/vit_b16_ep50.yaml \\
      --output-dir output/coop TRAINER.COOP.N_CTX 16 DATASET.NUM_SHOTS 16""",
        """\
--root data --seed 1 --trainer CoOp \\
      --dataset-config-file configs/datasets/dtd.yaml \\
      --config-file configs/trainers/CoOp/vit_b16_ep50.yaml \\
      --output-dir output/coop-on-dtd --eval-only --model-dir output/coop""",
        "--replay output/coop",
        "--keys CoOp",
    )

    def add_arguments(self, add: Any) -> None:
        add("--root", default="", help="folder of the data sets (DATASET.ROOT)")
        add("--output-dir", default="", help="folder of the run (OUTPUT_DIR)")
        add("--resume", default="", help="folder of a run to continue (RESUME)")
        add("--seed", type=int, default=-1, help="seed of all random numbers; negative: none is set (SEED)")
        add("--source-domains", nargs="+", help="domains to train on (DATASET.SOURCE_DOMAINS)")
        add("--target-domains", nargs="+", help="domains to test on (DATASET.TARGET_DOMAINS)")
        add("--transforms", nargs="+", help="data augmentation methods (INPUT.TRANSFORMS)")
        add("--config-file", default="", help="path to the trainer's config file")
        add("--dataset-config-file", default="", help="path to the dataset's config file")
        add("--trainer", default="", help="name of the trainer (TRAINER.NAME)")
        add("--backbone", default="", help="name or path of the backbone (MODEL.BACKBONE.NAME)")
        add("--head", default="", help="name of the head (MODEL.HEAD.NAME)")
        add("--eval-only", action="store_true", help="evaluate, do not train")
        add("--model-dir", default="", help="folder of the run whose weights --eval-only loads")
        add("--load-epoch", type=int, help="the epoch whose weights --eval-only loads (default: best on val, or last)")
        add("--no-train", action="store_true", help="build everything, but do not train")
        add("--overwrite", action="store_true", help="replace a run of another config in the output directory")
        add("--replay", default="", metavar="RUN", help="do a finished run again, and say whether the bits agree")
        add(
            "--keys",
            nargs="?",
            const="",
            metavar="TRAINER",
            help="print all config keys, or those of a trainer, and exit",
        )
        add("opts", nargs=argparse.REMAINDER, help="config keys and values: KEY VALUE ...")

    def run(self, args: argparse.Namespace) -> int | None:
        try:
            with heeding():
                if args.keys is not None:
                    from trainers import keys

                    print(keys.told(args.keys))
                elif args.replay:
                    from learned import replay

                    return replay.replay(args, self.parse([], ""), perform)
                else:
                    do(args)
        except (UserError, Stopped) as error:
            tee: Any = getattr(sys.modules.get("dassl.utils.logger"), "Tee", ())  # to import it is to import torch
            if isinstance(sys.stdout, tee):  # the log ends with it, too
                sys.stdout.file.write(f"{'error: ' * isinstance(error, UserError)}{error}\n")
            raise
        return None


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return Train().parse(argv, typed("train"))


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """The frozen config: defaults, dataset config, trainer config, arguments, KEY VALUE; the last word wins."""
    import datasets  # noqa: F401  registers every dataset; here, so that a broken plug-in is a mistake like others
    from dassl.config import check_ranges, get_cfg_default, merge_from_file, merge_from_list
    from dassl.engine import TRAINER_REGISTRY
    from dassl.loggers import check_loggers
    from trainers import extend_cfg

    cfg = get_cfg_default()
    extend_cfg(cfg)
    if args.trainer:
        TRAINER_REGISTRY.get(args.trainer)  # before a config speaks of keys that an unknown one would have declared
    default_input = cfg.INPUT.clone()
    cfg.INPUT.SIZE, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = (), [], []  # not set: follow the backbone
    for path in (args.dataset_config_file, args.config_file):
        if path:
            ours = HOME / path  # what configs/... means where there is no clone
            merge_from_file(cfg, str(ours) if ours.is_file() and not os.path.exists(path) else path)
    arguments = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": args.resume,
        "SEED": args.seed if args.seed >= 0 else None,
        "DATASET.SOURCE_DOMAINS": args.source_domains,
        "DATASET.TARGET_DOMAINS": args.target_domains,
        "INPUT.TRANSFORMS": args.transforms,
        "TRAINER.NAME": args.trainer,
        "MODEL.BACKBONE.NAME": args.backbone,
        "MODEL.HEAD.NAME": args.head,
    }
    merge_from_list(cfg, [word for pair in arguments.items() if pair[1] not in (None, "") for word in pair])
    merge_from_list(cfg, args.opts)
    _set_input(cfg, default_input)
    check_ranges(cfg)
    check_loggers(cfg)
    cfg.freeze()
    return cfg


def _set_input(cfg, default):
    """Let image size and normalisation follow the backbone. Raises UserError where the config contradicts it."""
    from prompting import backbone

    name = cfg.MODEL.BACKBONE.NAME
    wanted = (default.SIZE, default.PIXEL_MEAN, default.PIXEL_STD)
    if backbone.is_clip(name):  # others are the trainer's business
        record = backbone.find(name, cfg.MODEL.BACKBONE.FAMILY)
        size, family, name = record.image_size, record.family, record.name
        cfg.MODEL.BACKBONE.NAME = name  # a backbone with two names is one
        cfg.MODEL.BACKBONE.FAMILY = family.name
        wanted = ((size, size), list(family.pixel_mean), list(family.pixel_std))
    for key, value in zip(("SIZE", "PIXEL_MEAN", "PIXEL_STD"), wanted, strict=True):
        given = cfg.INPUT[key]
        if given and not (len(given) == len(value) and all(isinstance(x, int | float) for x in given)):
            raise UserError(f"INPUT.{key} is {tuple(given)}: give {len(value)} numbers")
        if backbone.is_clip(name) and given and any(abs(a - b) > 1e-3 for a, b in zip(given, value, strict=True)):
            raise UserError(
                f"INPUT.{key} is {tuple(given)} but the backbone {name} takes {tuple(value)}: leave the key out"
            )
        cfg.INPUT[key] = given or value


def do(args: argparse.Namespace) -> Any:
    """Do the run; its trainer. Raises UserError for a mistake of the user's."""
    return perform(setup_cfg(args), args)


def perform(
    cfg: CfgNode,
    args: argparse.Namespace,
    first: Callable[[], object] = lambda: None,
    begun: Callable[[Any], object] = lambda trainer: None,
) -> Any:
    """Do the run of a frozen config; its trainer.

    Args:
        args: for what is not config.
        first: called when nobody else is working on the run in the output folder.
        begun: called with the trainer when it is ready, and what goes into the run is recorded.
    """
    from dassl.engine import TRAINER_REGISTRY, run_folder
    from dassl.utils import processes

    processes.join(cfg)
    if not cfg.TRAINER.NAME:
        print("trainers:", *_trainers(), sep="\n  ", file=sys.stderr)
        raise UserError("no trainer is named: give one of them with --trainer")
    TRAINER_REGISTRY.get(cfg.TRAINER.NAME)  # an unknown name must not claim the folder
    if args.overwrite and args.model_dir and os.path.realpath(args.model_dir) == os.path.realpath(cfg.OUTPUT_DIR):
        raise UserError("--overwrite would remove the model that --model-dir names: choose another --output-dir")
    if args.eval_only and processes.count() > 1:
        raise UserError(
            "only training uses several processes: start --eval-only with python train.py, without torchrun"
        )
    with run_folder.alone_in(cfg.OUTPUT_DIR):
        processes.from_first(first)
        trainer = _start(args, cfg)
        begun(trainer)
        if args.eval_only:
            trainer.test()
        elif not args.no_train:
            trainer.train()
    return trainer


def _start(args, cfg):
    """The trainer, with the weights that it evaluates; what goes into the run is recorded."""
    import mocoop
    from dassl import layout
    from dassl.config import without_effect
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY, build_trainer, inputs, made_with, run_folder
    from dassl.utils import collect_env_info, processes, set_numerics, set_random_seed, setup_logger
    from trainers import keys

    processes.from_first(lambda: run_folder.claim(cfg, args.overwrite))
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    setup_logger(cfg.OUTPUT_DIR if processes.first() else None)
    set_numerics(cfg)
    logger.info("***************\n** Arguments **\n***************")
    unset = vars(Train().parse([], ""))
    given = {key: value for key, value in sorted(vars(args).items()) if value != unset.get(key)}
    logger.info("\n".join(f"{key}: {value}" for key, value in given.items()))
    logger.info("************\n** Config **\n************")
    whole = printable(os.path.join(cfg.OUTPUT_DIR, layout.CONFIG))
    logger.info("# keys of %s, main ones, what differs from the defaults; all are in %s", cfg.TRAINER.NAME, whole)
    logger.info("%s", keys.of_run(cfg))
    for reason in _left_out():
        logger.warning("Left out, because it failed: %s", reason)
    readers = (TRAINER_REGISTRY.get(cfg.TRAINER.NAME), DATASET_REGISTRY.get(cfg.DATASET.NAME))
    for key in without_effect(cfg, *readers):
        logger.warning("%s is Dassl's and has no effect here", key)
    logger.info("Collecting env info ...\n** System info **\n%s\n", collect_env_info())

    trainer = build_trainer(cfg)
    made_with.check_own(trainer)
    run_folder.write_classes(cfg.OUTPUT_DIR, trainer.dm.dataset)
    if args.eval_only:
        if trainer.has_weights() and not (args.model_dir or cfg.MODEL.INIT_WEIGHTS):
            raise UserError("--eval-only needs --model-dir: nothing is trained yet")
        trainer.check_weights(args.model_dir, epoch=args.load_epoch)
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
    told = {name: getattr(args, name) for name in ARGUMENTS}
    trainer.inputs = processes.from_first(lambda: inputs.of(trainer, told, PACKAGES, mocoop.version()))
    inputs.write(cfg.OUTPUT_DIR, trainer.inputs)
    return trainer


def _left_out():
    """The plug-ins that failed, whatever they would have been, and why."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY
    from dassl.evaluation import EVALUATOR_REGISTRY
    from dassl.metrics import METRIC_REGISTRY
    from prompting import backbone

    registries = (TRAINER_REGISTRY, DATASET_REGISTRY, EVALUATOR_REGISTRY, METRIC_REGISTRY)
    for registry in registries:
        registry.registered_names()  # some look for theirs when they are asked
    return [*(reason for registry in registries for reason in registry.left_out), *backbone.left_out()]


def _trainers():
    """A line on each trainer: its name and how its docstring begins."""
    from dassl.engine import TRAINER_REGISTRY

    docs = {name: TRAINER_REGISTRY.get(name).__doc__ or "" for name in TRAINER_REGISTRY.registered_names()}
    width = max(map(len, docs), default=0)
    return [
        f"{name:{width}}  {next(iter(docs[name].strip().splitlines()), '')}" for name in sorted(docs, key=str.lower)
    ]


def main(argv: Sequence[str] | None = None) -> Any:
    """Do the run that argv (None: the process's arguments) says; its trainer. Raises UserError."""
    return do(parse_args(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """main(), with a user's mistakes as one line on stderr; the exit status."""
    return Train().main(argv, typed("train"))


if __name__ == "__main__":
    sys.exit(run())
