"""Every trainer in every precision on a pretended GPU (tests/pretend_cuda.py), from training to what uses a run."""

import json
import re
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file

import predict
import train
import trainers
from benchmark.__main__ import main as benchmark
from benchmark.facts import config_names
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY, TrainerX
from learned.model import load_run
from tests.conftest import REPO
from tests.pretend_cuda import CudaTensor, pretend_cuda
from tests.reference import openai_weights, tiny_clip
from trainers.base import PRECISIONS

ONE_STEP = ("DATASET.NUM_SHOTS", 1, "DATALOADER.NUM_WORKERS", 0)
TEMPLATES = ["a photo of a {}.", "a drawing of the {}.", "many {}.", "art of a {}."]
MORE = {
    "LASP": ("TRAINER.LASP.TEMPLATES", TEMPLATES, "TRAINER.LASP.N_GROUPS", 2),
    "LinearProbe": ("TRAINER.LINEARPROBE.STEPS", 1),
    "PromptSRC": ("TRAINER.PROMPTSRC.TEMPLATES", TEMPLATES),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step"),  # amp leaves out first steps
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found"),
]


def methods():
    """The project's trainers: {name: class}."""
    found = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    return {name: found[name] for name in sorted(found) if found[name].__module__.startswith("trainers.")}


@pytest.fixture
def do(toy_args, toy_pairs_root, closing_logger, tmp_path):
    """do(trainer, name, *keys, epochs=1, resume=""): a run in tmp_path / name; the trainer."""

    def do(trainer, name, *keys, epochs=1, resume=""):
        flags = ["--resume", str(tmp_path / resume)] if resume else []
        if trainer == "CSP":
            flags += ["--root", toy_pairs_root, "--dataset-config-file", str(REPO / "configs/datasets/mit_states.yaml")]
        config = sorted(config_names(trainer))[0]
        keys = (*ONE_STEP, *MORE.get(trainer, ()), *keys, "OPTIM.MAX_EPOCH", epochs)
        return train.main(toy_args(trainer, tmp_path / name, *keys, flags=flags, config=config))

    return do


VIT_ALONE = ("LASP", "MaPLe", "PromptSRC", "MoCoOp")  # for LayerNorms or prompts in its layers


def has_precision(method):
    """Whether a trainer has the key PREC; zero-shot CLIP computes in fp32."""
    trainers.extend_cfg(cfg := get_cfg_default())
    return method.section is not None and "PREC" in cfg.TRAINER[method.section]


def logits_of(trainer):
    trainer.set_model_mode("eval")
    return torch.cat([output.float().cpu() for output, _ in trainer.predict(trainer.test_loader)])


@pytest.mark.parametrize(
    ("trainer", "precision"),
    [(name, p) for name, cls in methods().items() for p in (PRECISIONS if has_precision(cls) else ("fp32",))],
)
def test_a_run(trainer, precision, do, tmp_path):
    """A step and its evaluation, in fp32 with the numbers of a CPU; the amp run goes on, the fp16 run is used.

    The backbone is a ViT; in fp16 and bf16 a ResNet, where the method takes one.
    """
    method = TRAINER_REGISTRY.get(trainer)
    keys = (f"TRAINER.{method.section}.PREC", precision) if has_precision(method) else ()
    if precision in ("fp16", "bf16") and trainer not in VIT_ALONE:
        torch.save(openai_weights(tiny_clip("resnet")), tmp_path / "resnet.pt")
        keys += ("MODEL.BACKBONE.NAME", tmp_path / "resnet.pt")
    with pretend_cuda() as gpu:
        run = do(trainer, "run", *keys)
        if precision == "amp":
            run = do(trainer, "more", *keys, epochs=2, resume="run")
        assert all(isinstance(p, CudaTensor) for p in run.model.parameters()) and gpu.syncs
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert metrics["device"] == "pretended GPU"
        logits = logits_of(run)
        assert logits.isfinite().all()
        if precision == "fp16":
            images = torch.cat([batch["img"] for batch in run.test_loader])
            again = load_run(run.output_dir, device="cuda").logits(images).float().cpu()
            assert torch.allclose(again, logits, atol=1e-2 * logits.abs().max().item())
    if precision == "fp32":
        assert torch.allclose(logits_of(do(trainer, "cpu", *keys)), logits, atol=1e-3)


OPTIONS = {
    "CoOp": [("COOP.CSC", True), ("COOP.CLASS_TOKEN_POSITION", "middle")],
    "CoCoOp": [("COCOOP.MEMORY_GB", 1e-6)],
    "CSP": [("CSP.OPEN_WORLD", True, "CSP.MIX", 0.5), ("CSP.MEMORY_GB", 1e-6)],
    "LAMM": [("LAMM.BASE", "coop"), ("LAMM.BASE", "maple")],
    "LASP": [("LASP.TUNE_LAYERNORM", False), ("LASP.FORM", "paper")],
    "MoCoOp": [
        ("MOCOOP.ROUTER_TARGET", "class", "MOCOOP.TEXT_TARGET", "group_mean", "MOCOOP.TUNE_LAYERNORM", True),
        ("MOCOOP.GROUPS", "auto", "MOCOOP.N_GROUPS", 2, "MOCOOP.RENORMALIZE", True, "MOCOOP.TEXT_OFFSET", True),
    ],
    "PLOT": [("PLOT.CSC", True), ("PLOT.GLOBAL", True)],
}
"""Options that compute in another way than the defaults."""


@pytest.mark.parametrize(("trainer", "options"), [(name, o) for name, options in OPTIONS.items() for o in options])
def test_options(trainer, options, do):
    section = TRAINER_REGISTRY.get(trainer).section
    keys = [x if i % 2 else f"TRAINER.{x}" for i, x in enumerate(options)]
    evaluation = ("TEST.FINAL_MODEL", "best_val", "TEST.PER_CLASS_RESULT", True, "TEST.COMPUTE_CMAT", True)
    auto = ("TRAINER.MOCOOP.TEMPLATES", TEMPLATES) if trainer == "MoCoOp" else ()
    with pretend_cuda():
        run = do(trainer, "run", f"TRAINER.{section}.PREC", "amp", *keys, *auto, *evaluation)
        assert all(isinstance(p, CudaTensor) for p in run.model.parameters())


IN_STEPS = [name for name, method in methods().items() if has_precision(method) and method.train is TrainerX.train]
OTHER_STEPS = [
    ("CoCoOp", ("COCOOP.MEMORY_GB", 1e-6)),
    ("CSP", ("CSP.MEMORY_GB", 1e-6)),
    ("LAMM", ("LAMM.BASE", "maple")),
    ("LASP", ("LASP.FORM", "paper")),
    ("MoCoOp", ("MOCOOP.FORM", "paper")),
    ("PLOT", ("PLOT.CSC", True, "PLOT.MEMORY_GB", 1e-6)),
    ("PLOT", ("PLOT.FORM", "paper")),
]


@pytest.fixture
def waits(do, monkeypatch):
    """waits(trainer, *keys): (of half an epoch, of a whole one), where the program waited for the GPU; all is warm."""

    def waits(trainer, *keys):
        found, run_steps = [], TrainerX._run_steps

        def counted(self, batches, num_batches, step):
            number = num_batches // 2 if self.epoch == 1 else num_batches
            gpu.clear()
            run_steps(self, islice(batches, number), number, step)
            found.append(dict(gpu.places))

        monkeypatch.setattr(TrainerX, "_run_steps", counted)
        # no log line in an epoch of two or of four batches, five or ten of pairs
        few = ("TRAIN.PRINT_FREQ", 0, "TEST.NO_TEST", True, "DATASET.NUM_SHOTS", 4, "DATALOADER.TRAIN_X.BATCH_SIZE", 4)
        with pretend_cuda() as gpu:
            do(trainer, "run", *few, *keys, epochs=3)
        return found[1:]

    return waits


@pytest.mark.parametrize(
    ("trainer", "precision", "options"),
    [*((t, p, ()) for t in IN_STEPS for p in ("fp32", "amp")), *((t, "amp", options) for t, options in OTHER_STEPS)],
)
def test_steps_do_not_wait(trainer, precision, options, waits):
    """Once, for an epoch without log lines, however many steps it has."""
    keys = [x if i % 2 else f"TRAINER.{x}" for i, x in enumerate(options)]
    half, whole = waits(trainer, f"TRAINER.{TRAINER_REGISTRY.get(trainer).section}.PREC", precision, *keys)
    ((place, times),) = whole.items()
    assert half == whole and times == 1 and place[1].startswith("dassl/engine/steps.py:")


@pytest.mark.parametrize("size", [1, 3])
def test_small_batches_of_mocoop_wait_once_a_step(size, waits):
    """The released form then encodes only experts that one of the images chose, and has to know which."""
    half, whole = waits("MoCoOp", "TRAINER.MOCOOP.PREC", "amp", "DATALOADER.TRAIN_X.BATCH_SIZE", size)
    steps = 16 // size
    chosen = [sum(n for (kind, at), n in found.items() if at.startswith("trainers/")) for found in (half, whole)]
    assert chosen == [steps // 2, steps]


def test_what_uses_a_run(do, tmp_path, toy_root, capsys):
    """predict, explain and export say what they say on a CPU."""
    with pretend_cuda():
        do("MoCoOp", "mocoop", "TRAINER.MOCOOP.PREC", "fp32")
        do("CoOp", "coop", "TRAINER.COOP.PREC", "fp32")

    def said():
        capsys.readouterr()
        image = f"{toy_root}/caltech-101/101_ObjectCategories/ant/0.png"
        assert predict.main([image, "--model-dir", str(tmp_path / "coop"), "--format", "csv"]) == 0
        assert benchmark(["explain", str(tmp_path / "mocoop"), "--out", str(tmp_path / "explained")]) == 0
        assert benchmark(["export", str(tmp_path / "coop"), "--out", str(tmp_path / "coop.safetensors")]) == 0
        lines = capsys.readouterr().out.splitlines()
        out = "\n".join(line for line in lines if not line.startswith("Image features"))  # from files of their own
        return re.sub(r"(\.\d\d)\d+", r"\1", out), load_file(tmp_path / "coop.safetensors")

    with pretend_cuda() as gpu:
        text, tensors = said()
        assert gpu.operations
    plain, expected = said()
    assert text == plain
    assert all(torch.allclose(tensors[name], expected[name], atol=1e-5) for name in expected)
