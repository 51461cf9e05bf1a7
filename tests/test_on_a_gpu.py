"""Every trainer in every precision on a pretended GPU (tests/pretend_cuda.py), from training to what uses a run."""

import json

import pytest
import torch

import train
from dassl.engine import TRAINER_REGISTRY
from tests.conftest import REPO
from tests.pretend_cuda import CudaTensor, pretend_cuda
from trainers import promptsrc
from trainers.base import PRECISIONS
from trainers.trained import load_run

ONE_STEP = ("DATASET.NUM_SHOTS", 1, "DATALOADER.NUM_WORKERS", 0)
TEMPLATES = ["a photo of a {}.", "a drawing of the {}.", "many {}.", "art of a {}."]
MORE = {"LASP": ("TRAINER.LASP.TEMPLATES", TEMPLATES, "TRAINER.LASP.N_GROUPS", 2), "LinearProbe": ("TRAINER.LINEARPROBE.STEPS", 1)}

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # amp leaves out first steps


def methods():
    """The project's trainers: {name: class}."""
    found = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    return {name: found[name] for name in sorted(found) if found[name].__module__.startswith("trainers.")}


@pytest.fixture
def do(toy_args, toy_pairs_root, closing_logger, tmp_path, monkeypatch):
    """do(trainer, name, *keys, epochs=1, resume=""): a run in tmp_path / name; the trainer."""

    monkeypatch.setattr(promptsrc, "IMAGENET", TEMPLATES)

    def do(trainer, name, *keys, epochs=1, resume=""):
        flags = ["--resume", str(tmp_path / resume)] if resume else []
        if trainer == "CSP":
            flags += ["--root", toy_pairs_root, "--dataset-config-file", str(REPO / "configs/datasets/mit_states.yaml")]
        config = sorted((REPO / "configs/trainers" / trainer).glob("*.yaml"))[0].stem
        keys = (*ONE_STEP, *MORE.get(trainer, ()), *keys, "OPTIM.MAX_EPOCH", epochs)
        return train.main(toy_args(trainer, tmp_path / name, *keys, flags=flags, config=config))

    return do


def logits_of(trainer):
    trainer.set_model_mode("eval")
    return torch.cat([output.float().cpu() for output, _ in trainer.predict(trainer.test_loader)])


@pytest.mark.parametrize(
    ("trainer", "precision"),
    [(name, p) for name, cls in methods().items() for p in (PRECISIONS if cls.section else ("fp32",))],
)
def test_a_run(trainer, precision, do, tmp_path):
    """A step and its evaluation, in fp32 with the numbers of a CPU; fp16 and amp go on, fp16 and bf16 are used."""
    section = TRAINER_REGISTRY.get(trainer).section
    keys = (f"TRAINER.{section}.PREC", precision) if section else ()
    with pretend_cuda() as gpu:
        run = do(trainer, "run", *keys)
        if precision in ("fp16", "amp"):
            run = do(trainer, "more", *keys, epochs=2, resume="run")
        assert all(isinstance(p, CudaTensor) for p in run.model.parameters()) and gpu.syncs
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert metrics["device"] == "pretended GPU"
        logits = logits_of(run)
        assert logits.isfinite().all()
        if precision in ("fp16", "bf16"):
            images = torch.cat([batch["img"] for batch in run.test_loader])
            again = load_run(run.output_dir, device="cuda").logits(images).float().cpu()
            assert torch.allclose(again, logits, atol=1e-2 * logits.abs().max().item())
    if precision == "fp32":
        assert torch.allclose(logits_of(do(trainer, "cpu", *keys)), logits, atol=1e-3)
