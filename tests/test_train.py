"""Whole runs through train.py: they reproduce, survive a kill, evaluate elsewhere, and name a user's mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from dassl.utils import load_checkpoint
from tests.conftest import REPO


def weights(output, epoch=3):
    return load_checkpoint(Path(output, "prompt_learner", f"model.pth.tar-{epoch}"))["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def metrics(output):
    return json.loads(Path(output, "metrics.json").read_text())


@pytest.mark.parametrize("trainer", ["CoOp", "MoCoOp"])
def test_the_same_run_twice_gives_the_same_bits(trainer, tmp_path, toy_run):
    for name, workers in (("a", 0), ("b", 2)):
        torch.rand(7)  # whatever was drawn before a run
        toy_run(trainer, tmp_path / name, "DATALOADER.NUM_WORKERS", workers)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    toy_run(trainer, tmp_path / "c", "SEED", 2)
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_run_killed_anywhere_goes_on_to_the_same_weights(tmp_path, toy_args, toy_run):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    long = ("OPTIM.MAX_EPOCH", 40)
    toy_run("CoOp", whole, *long)
    process = subprocess.Popen(
        [sys.executable, str(REPO / "train.py"), *toy_args("CoOp", killed, *long)], stdout=subprocess.DEVNULL
    )
    while not (killed / "prompt_learner" / "checkpoint").exists():
        assert process.poll() is None, "ended before its first checkpoint"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "metrics.json").exists()
    trainer = toy_run("CoOp", killed, *long)
    assert 0 < trainer.start_epoch < 40
    assert same(weights(whole, 40), weights(killed, 40))
    assert metrics(whole)["accuracy"] == metrics(killed)["accuracy"]


def test_a_finished_run_is_tested_again_and_not_trained(tmp_path, toy_run):
    toy_run("CoOp", tmp_path)
    before = weights(tmp_path)
    (tmp_path / "metrics.json").unlink()
    assert toy_run("CoOp", tmp_path).start_epoch == 3
    assert same(before, weights(tmp_path)) and metrics(tmp_path)["accuracy"] >= 0


def test_resume_from_another_folder(tmp_path, toy_run):
    toy_run("CoOp", tmp_path / "short", "OPTIM.MAX_EPOCH", 2)
    trainer = toy_run("CoOp", tmp_path / "long", flags=["--resume", str(tmp_path / "short")])
    assert trainer.start_epoch == 2
    assert (tmp_path / "long" / "prompt_learner" / "model.pth.tar-3").exists()


@pytest.mark.parametrize("trainer", ["CoOp", "MoCoOp"])
def test_evaluation_alone_finds_what_training_found(trainer, tmp_path, toy_run):
    toy_run(trainer, tmp_path / "train", "DATASET.SUBSAMPLE_CLASSES", "base", "TRAIN.CHECKPOINT_FREQ", 1)
    flags = ["--eval-only", "--model-dir", str(tmp_path / "train"), "--load-epoch", "3"]
    toy_run(trainer, tmp_path / "base", "DATASET.SUBSAMPLE_CLASSES", "base", flags=flags)
    toy_run(trainer, tmp_path / "new", "DATASET.SUBSAMPLE_CLASSES", "new", flags=flags)
    trained, base, new = (metrics(tmp_path / name) for name in ("train", "base", "new"))
    assert base["correct"] == trained["correct"] and base["total"] == new["total"] == 6
    assert base["loaded_from"] == {"model_dir": str(tmp_path / "train"), "load_epoch": 3}
    assert trained["train_seconds"] > 0 and trained["config"]["SEED"] == 1 and trained["versions"]["torch"]
    if trainer == "MoCoOp":
        assert sum(base["expert_usage"]) == pytest.approx(2) and sum(base["expert_weight"]) == pytest.approx(1)


def test_every_epoch_leaves_one_checkpoint_and_the_kept_ones(tmp_path, toy_run):
    toy_run("CoOp", tmp_path, "OPTIM.MAX_EPOCH", 5, "TRAIN.CHECKPOINT_FREQ", 2)
    files = {path.name for path in (tmp_path / "prompt_learner").iterdir()}
    assert files == {"checkpoint", *(f"model.pth.tar-{epoch}" for epoch in (2, 4, 5))}
    assert (tmp_path / "prompt_learner" / "checkpoint").read_text() == "model.pth.tar-5\n"
    log = (tmp_path / "log.txt").read_text()
    assert "=> result\n* total: 12\n* correct: " in log and "* macro_f1: " in log and "epoch [5/5] batch [4/4]" in log


def test_another_config_needs_another_folder(tmp_path, toy_args, toy_run, capsys):
    toy_run("CoOp", tmp_path)
    before = weights(tmp_path)
    assert train.run(toy_args("CoOp", tmp_path, "OPTIM.LR", 0.1)) == 1
    assert "a finished run of another config (OPTIM.LR was 0.002, is now 0.1" in capsys.readouterr().err
    assert same(before, weights(tmp_path))
    toy_run("CoOp", tmp_path, "OPTIM.LR", 0.1, flags=["--overwrite"])
    assert not same(before, weights(tmp_path))


def test_a_diverging_run_stops_and_keeps_its_last_checkpoint(tmp_path, toy_args, closing_logger, capsys):
    keys = ("OPTIM.LR", 1e38, "OPTIM.WARMUP_EPOCH", 2, "OPTIM.WEIGHT_DECAY", 1.0)
    assert train.run(toy_args("CoOp", tmp_path, *keys)) == 1
    error = capsys.readouterr().err
    assert "infinite or NaN at epoch 3, batch" in error and "last checkpoint is kept" in error
    assert weights(tmp_path, 2)["ctx"].isfinite().all()


@pytest.mark.parametrize(
    ("keys", "flags", "words"),
    [
        ((), ["--trainer", "CoOpp"], ["CoOpp", "did you mean CoOp"]),
        ((), ["--backbone", "ViT-B/61"], ["ViT-B/61", "ViT-B/16"]),
        ((), ["--backbone", "no/such.pt"], ["no/such.pt", "not found"]),
        ((), ["--dataset-config-file", "no.yaml"], ["no.yaml", "No such file"]),
        ((), ["--root", "/nowhere"], ["/nowhere/caltech-101/101_ObjectCategories", "--root"]),
        ((), ["--eval-only", "--model-dir", "/nowhere"], ["/nowhere/prompt_learner", "--model-dir"]),
        ((), ["--resume", "/nowhere"], ["/nowhere", "--resume"]),
        ((), ["--resume", str(REPO / "docs")], ["no run to resume", "docs", "--resume"]),
        (("OPTIM.MAX_EPOCH", 0), [], ["OPTIM.MAX_EPOCH is 0", "1 or more"]),
        (("SEED", 2**32), [], ["SEED is 4294967296", "below 4294967296"]),
        (("INPUT.RRCROP_SCALE", "(2, 1)"), [], ["INPUT.RRCROP_SCALE is (2, 1)"]),
        (("DATASET.NAME", "Caltech10"), [], ["Caltech10", "did you mean Caltech101"]),
        (("OPTIM.LRR", 1), [], ["OPTIM.LRR", "did you mean LR"]),
        (("TRAINER.COOP.N_CTX", "many"), [], ["TRAINER.COOP.N_CTX", "whole number"]),
        (("TRAINER.COOP.N_CTX", 99), [], ["ant", "103 tokens", "77"]),
        (("TRAINER.COOP.N_CTX", 0), [], ["N_CTX", "1 or more"]),
        (("TRAINER.COOP.CLASS_TOKEN_POSITION", "ends"), [], ["did you mean end"]),
        (("TRAINER.COOP.PREC", "fp8"), [], ["fp8", "fp16"]),
        (("INPUT.SIZE", "(224, 224)"), [], ["(224, 224)", "(32, 32)"]),
        (("DATASET.SUBSAMPLE_CLASSES", "old"), [], ["all, base or new"]),
        (("OPTIM.NAME", "sdg"), [], ["did you mean sgd"]),
        (("INPUT.TRANSFORMS", "('random_flipp',)"), [], ["random_flip"]),
        (("INPUT.SIZE", "('a', 'b')"), [], ["INPUT.SIZE", "2 numbers"]),
        (("OPTIM.LR", "None"), [], ["OPTIM.LR", "a number"]),
        (("TRAINER.COOP.CTX_INIT", " "), [], ["CTX_INIT", "no word"]),
        (("INPUT.NO_TRANSFORM", "True"), [], ["NO_TRANSFORM"]),
        (("TEST.FINAL_MODEL", "best-val"), [], ["did you mean best_val"]),
        (("TEST.SPLIT", "vall"), [], ["did you mean val"]),
    ],
)
def test_a_mistake_is_one_line(keys, flags, words, tmp_path, toy_args, closing_logger, capsys):
    assert train.run(toy_args("CoOp", tmp_path / "run", *keys, flags=flags)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(workers, tmp_path, toy_root, toy_args, closing_logger, capsys):
    root = tmp_path / "root"
    subprocess.run(["cp", "-r", toy_root, root], check=True)
    broken = root / "caltech-101" / "101_ObjectCategories" / "bee" / "9.png"
    broken.write_bytes(b"no image")
    args = toy_args("ZeroshotCLIP", tmp_path / "run", "DATALOADER.NUM_WORKERS", workers, config="vit_b16")
    assert train.run([*args[:2], *args[2:], "DATASET.ROOT", str(root)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(broken) in line


def test_seed_zero_is_a_seed(tmp_path, toy_run):
    trainer = toy_run("CoOp", tmp_path, flags=["--seed", "0", "--no-train"])
    assert trainer.cfg.SEED == 0


@pytest.mark.parametrize("sampler", ["SequentialSampler", "RandomSampler"])
def test_any_order_of_test_images_gives_the_same_result(sampler, tmp_path, toy_run):
    for name, keys in (("plain", ()), ("other", ("DATALOADER.TEST.SAMPLER", sampler)), ("again", ())):
        toy_run("ZeroshotCLIP", tmp_path / name, *keys, config="vit_b16", flags=["--eval-only"])
    found = {name: metrics(tmp_path / name) for name in ("plain", "other", "again")}
    assert found["plain"]["macro_f1"] == found["other"]["macro_f1"] == found["again"]["macro_f1"]
    assert found["plain"]["correct"] == found["other"]["correct"] == found["again"]["correct"]


IMPORTS = """
import sys
import train
def late(*more):
    return {"matplotlib", "open_clip", "pandas", "scipy", "sklearn", "timm", "transformers", *more} & {*sys.modules}
trainer = train.main([*sys.argv[1:], "DATALOADER.NUM_WORKERS", "0"])
assert not late("tensorboard"), late("tensorboard")
trainer.train()
assert not late() and "tensorboard" in sys.modules, late()
"""


def test_a_run_imports_what_it_uses(tmp_path, toy_args):
    """Nothing for other methods, other backbones or reports; TensorBoard with the first number that it is given."""
    arguments = toy_args("CoOp", tmp_path / "run", flags=["--no-train"])
    done = subprocess.run([sys.executable, "-c", IMPORTS, *arguments], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_evaluation_from_the_cache_is_the_engines(tmp_path, toy_run):
    """A trainer with inference of its own is evaluated through it."""
    trainer = toy_run("MoCoOp", tmp_path, "OPTIM.MAX_EPOCH", 1)
    from_cache = torch.cat([output for output, _ in trainer.predict(trainer.test_loader)])

    class Own(type(trainer)):
        def model_inference(self, images):
            return self.model(images)

    trainer.__class__ = Own
    with torch.no_grad():
        assert torch.allclose(
            from_cache, torch.cat([out for out, _ in trainer.predict(trainer.test_loader)]), atol=1e-4
        )


def test_weights_that_break_in_the_last_batch_are_not_kept(tmp_path, toy_args, closing_logger, capsys):
    """The loss never shows it: one batch an epoch, and the step after it ruins the weights."""
    keys = ("DATALOADER.TRAIN_X.BATCH_SIZE", 16, "OPTIM.LR", 1e38, "OPTIM.WEIGHT_DECAY", 1e3, "OPTIM.WARMUP_EPOCH", 1)
    assert train.run(toy_args("CoOp", tmp_path, *keys)) == 1
    assert "became infinite or NaN in epoch 2" in capsys.readouterr().err
    assert weights(tmp_path, 1)["ctx"].isfinite().all() and not (tmp_path / "metrics.json").exists()
    assert "became infinite" in (tmp_path / "log.txt").read_text()


def test_a_start_that_failed_does_not_hold_the_folder(tmp_path, toy_args, toy_run):
    assert train.run(toy_args("CoOp", tmp_path, "TRAINER.COOP.N_CTX", 99)) == 1
    toy_run("CoOp", tmp_path)


def test_evaluation_needs_something_trained(tmp_path, toy_args, toy_run, capsys):
    toy_run("CoOp", tmp_path)
    before = (tmp_path / "metrics.json").read_text()
    assert train.run(toy_args("CoOp", tmp_path, flags=["--eval-only"])) == 1
    assert "--eval-only needs --model-dir" in capsys.readouterr().err
    assert (tmp_path / "metrics.json").read_text() == before


def test_overwriting_goes_on_after_a_kill_and_spares_the_model_to_test(tmp_path, toy_args, toy_run, capsys):
    toy_run("CoOp", tmp_path, "OPTIM.MAX_EPOCH", 2)
    flags = ["--overwrite", "--eval-only", "--model-dir", str(tmp_path)]
    assert train.run(toy_args("CoOp", tmp_path, "OPTIM.LR", 0.1, flags=flags)) == 1
    assert "--overwrite would remove the model" in capsys.readouterr().err
    trainer = toy_run("CoOp", tmp_path, "OPTIM.MAX_EPOCH", 2, flags=["--overwrite"])
    assert trainer.start_epoch == 2, "the same config goes on"


def test_the_best_of_the_run_to_resume_comes_along(tmp_path, toy_run):
    keys = ("TEST.FINAL_MODEL", "best_val")
    toy_run("CoOp", tmp_path / "a", "OPTIM.MAX_EPOCH", 2, *keys)
    toy_run("CoOp", tmp_path / "b", *keys, flags=["--resume", str(tmp_path / "a")])
    assert (tmp_path / "b" / "prompt_learner" / "model-best.pth.tar").exists()
    again = toy_run("CoOp", tmp_path / "b", *keys, flags=["--resume", str(tmp_path / "a")])
    assert again.start_epoch == 3, "it goes on from its own folder"


def test_nothing_is_written_under_the_data(tmp_path, toy_root, toy_run):
    def snapshot():
        return {path: os.stat(path).st_mtime_ns for path in Path(toy_root).rglob("*")}

    before = snapshot()
    toy_run("MoCoOp", tmp_path)
    assert snapshot() == before


def test_zero_shot_on_the_real_caltech101(tmp_path, caltech_root, icon_clip, toy_run):
    """81 and 147 right: counted once with the clip package alone, image by image."""
    for half, correct, total in (("base", 81, 1549), ("new", 147, 916)):
        keys = ("DATASET.SUBSAMPLE_CLASSES", half, "DATASET.ROOT", caltech_root, "MODEL.BACKBONE.NAME", icon_clip)
        keys += ("MODEL.BACKBONE.FAMILY", "openai")
        toy_run("ZeroshotCLIP", tmp_path / half, *keys, config="vit_b16", flags=["--eval-only"])
        found = metrics(tmp_path / half)
        assert (found["correct"], found["total"]) == (correct, total)
