"""Runs that are stopped anywhere go on to the same weights, leave nothing behind, and tell what does not fit."""

import contextlib
import math
import os
import shutil
from pathlib import Path

import pytest
from torch import nn

from dassl.engine import run_folder
from dassl.engine import saved_models as engine
from dassl.utils import UserError, set_random_seed
from tests.dassl.tiny import Tiny, same, state


@pytest.mark.parametrize("stop", [("body", 2), ("head", 2), ("batch", 6)])
def test_a_run_stopped_anywhere_goes_on_to_the_same_weights(cfg, stop, monkeypatch):
    """Also between the files of two models, which leaves one an epoch ahead."""

    class Stopping(Tiny):
        def forward_backward(self, batch):
            if stop == ("batch", self.epoch * self.num_batches + self.batch_idx):
                raise Killed
            return super().forward_backward(batch)

    def save(state, folder, **options):
        real(state, folder, **options)
        if folder.endswith(stop[0]) and state["epoch"] == stop[1]:
            raise Killed

    whole = Tiny(cfg)
    whole.train()
    cfg.OUTPUT_DIR += "2"
    real = engine.save_checkpoint
    monkeypatch.setattr(engine, "save_checkpoint", save)
    set_random_seed(1)
    with pytest.raises(Killed):
        Stopping(cfg).train()
    monkeypatch.setattr(engine, "save_checkpoint", real)
    set_random_seed(99)
    resumed = Tiny(cfg)
    resumed.train()
    assert resumed.start_epoch >= 1 and same(state(whole), state(resumed))
    assert whole.get_current_lr() == resumed.get_current_lr()


class Killed(BaseException):
    pass


class Mortal:
    """Counts the operations that change what lies in a folder; from number `last` on it allows none, as if killed."""

    def __init__(self, monkeypatch, last):
        self.last, self.done = last, 0
        for name in ("replace", "remove", "unlink"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        monkeypatch.setattr(shutil, "copyfile", self.counted(shutil.copyfile))

    def counted(self, real):
        def operation(*args, **options):
            if self.done >= self.last:
                raise Killed
            self.done += 1
            return real(*args, **options)

        return operation


def files(output):
    """{model: the files in its folder}, hidden ones too."""
    return {name: {p.name for p in Path(output, name).iterdir()} for name in ("body", "head")}


@pytest.mark.parametrize(("frequency", "final", "resumed"), [(0, "last_step", True), (2, "best_val", False)])
def test_a_kill_at_any_file_operation_leaves_nothing_behind(cfg, frequency, final, resumed, monkeypatch):
    """Whatever the kill cut short: the next run ends with the same weights and the same files, none stale."""
    results = {}

    class Quick(Tiny):
        def build_data_loader(self):
            super().build_data_loader()
            self.train_loader_x = [batch for _, batch in zip(range(1), self.train_loader_x, strict=False)]

        def test(self, split=None):
            return {0: 1.0, 1: 3.0, 2: 2.0}[self.epoch]

        def init_writer(self, *args):
            pass

    def train(output, last=math.inf, seed=1):
        cfg.OUTPUT_DIR = str(root / output)
        set_random_seed(seed)
        trainer = Quick(cfg)
        with monkeypatch.context() as patched:
            mortal = Mortal(patched, last)
            with contextlib.suppress(Killed):
                trainer.train()
                results[output] = state(trainer)
        return mortal.done

    root = Path(cfg.OUTPUT_DIR)
    cfg.TRAIN.CHECKPOINT_FREQ, cfg.TEST.FINAL_MODEL = frequency, final
    if resumed:  # from a folder that stays as it is
        cfg.OPTIM.MAX_EPOCH = 1
        train("before", seed=2)  # other weights than a start from scratch would come to
        cfg.OPTIM.MAX_EPOCH, cfg.RESUME = 3, str(root / "before")
        before = files(root / "before")
    operations = train("whole")
    expected = files(root / "whole")
    kept = {"checkpoint", "model.pth.tar-3"} | ({"model.pth.tar-2", "model-best.pth.tar"} if frequency else set())
    assert expected == {"body": kept, "head": kept} and operations > 15
    for last in range(operations):
        train(f"{last}", last)
        assert f"{last}" not in results
        train(f"{last}")
        assert same(results["whole"], results[f"{last}"]) and files(root / f"{last}") == expected, last
    if resumed:
        assert files(root / "before") == before


def test_what_is_kept_on_purpose_is_not_swept(cfg):
    """Not by a run that finds itself finished, whatever CHECKPOINT_FREQ is now; not by one that only tests."""
    cfg.TRAIN.CHECKPOINT_FREQ = 1
    Tiny(cfg).train()
    folder = Path(cfg.OUTPUT_DIR, "body")
    for name in ("model.pth.tar-mine", ".notes.txt"):
        (folder / name).touch()
    before = files(cfg.OUTPUT_DIR)
    assert {"model.pth.tar-1", "model.pth.tar-2", "model.pth.tar-3"} < before["body"]
    cfg.TRAIN.CHECKPOINT_FREQ = 0
    Tiny(cfg).train()
    assert files(cfg.OUTPUT_DIR) == before
    Path(cfg.OUTPUT_DIR, "metrics.json").unlink()
    half_written = folder / f".{'0' * 32}.model.pth.tar-4"
    half_written.touch()
    trainer = Tiny(cfg)
    trainer.load_model(cfg.OUTPUT_DIR, epoch=2)
    trainer.test()
    assert files(cfg.OUTPUT_DIR) == before | {"body": before["body"] | {half_written.name}}


def test_what_a_kill_left_is_swept_after_the_end_too(cfg):
    """A checkpoint of the epoch before the last, and half-written files of the run and of its models."""
    Tiny(cfg).train()
    before = files(cfg.OUTPUT_DIR)
    for name in ("body", "head"):
        shutil.copyfile(Path(cfg.OUTPUT_DIR, name, "model.pth.tar-3"), Path(cfg.OUTPUT_DIR, name, "model.pth.tar-2"))
    Path(cfg.OUTPUT_DIR, "metrics.json").unlink()
    left = [Path(cfg.OUTPUT_DIR, folder, f".{'0' * 32}.left.json") for folder in ("", "body", "head")]
    for path in left:
        path.touch()
    run_folder.claim(cfg)
    Tiny(cfg).train()
    assert files(cfg.OUTPUT_DIR) == before and not any(path.exists() for path in left)
    for path in left:
        path.touch()
    run_folder.claim(cfg)
    Tiny(cfg).train()
    assert files(cfg.OUTPUT_DIR) == before and not any(path.exists() for path in left)


def test_the_last_two_stay_until_the_end(cfg):
    class Looking(Tiny):
        def before_epoch(self):
            seen.append(sorted(name for name in files(self.output_dir)["body"] if "tar" in name) if self.epoch else [])

    seen = []
    cfg.OPTIM.MAX_EPOCH = 4
    trainer = Looking(cfg)
    trainer.train()
    both = [["model.pth.tar-1", "model.pth.tar-2"], ["model.pth.tar-2", "model.pth.tar-3"]]
    assert seen == [[], ["model.pth.tar-1"], *both]
    assert files(cfg.OUTPUT_DIR)["head"] == {"checkpoint", "model.pth.tar-4"}


def test_the_last_one_is_read_back_before_the_one_before_goes(cfg, monkeypatch, caplog):
    def badly(state, folder, **options):
        real(state, folder, **options)
        if state["epoch"] == 3:
            Path(folder, "model.pth.tar-3").write_bytes(b"")

    real = engine.save_checkpoint
    monkeypatch.setattr(engine, "save_checkpoint", badly)
    trainer = Tiny(cfg)
    trainer.train()
    assert "the checkpoint of the epoch before stays" in caplog.text
    assert files(cfg.OUTPUT_DIR)["body"] == {"checkpoint", "model.pth.tar-2", "model.pth.tar-3"}
    monkeypatch.undo()
    again = Tiny(cfg)
    again.train()
    assert again.start_epoch == 2 and same(state(again), state(trainer))
    assert files(cfg.OUTPUT_DIR)["body"] == {"checkpoint", "model.pth.tar-3"}


def test_a_run_without_epochs_is_refused(cfg):
    for number in (0, -1):
        cfg.OPTIM.MAX_EPOCH = number
        trainer = Tiny(cfg)
        trainer.test()
        with pytest.raises(UserError, match=f"OPTIM.MAX_EPOCH is {number}: give 1 or more"):
            trainer.train()


def test_a_longer_run_is_not_cut(cfg, tmp_path):
    Tiny(cfg).train()
    cfg.RESUME, cfg.OUTPUT_DIR, cfg.OPTIM.MAX_EPOCH = cfg.OUTPUT_DIR, str(tmp_path / "b"), 2
    with pytest.raises(UserError, match="has 3 epochs: give OPTIM.MAX_EPOCH"):
        Tiny(cfg).train()


def test_the_best_on_val_is_deployed_and_survives_a_resume(cfg):
    results = iter([10.0, 50.0, 20.0])

    class Validated(Tiny):
        def test(self, split=None):
            if split == "val":
                self.kept[self.epoch] = {k: v.clone() for k, v in state(self).items()}
                return next(results)
            return super().test(split)

        kept = {}

    cfg.TEST.FINAL_MODEL = "best_val"
    trainer = Validated(cfg)
    trainer.train()
    assert trainer.best_result == 50.0 and same(trainer.kept[1], state(trainer))
    again = Tiny(cfg)
    again.load_model(cfg.OUTPUT_DIR)
    assert same(trainer.kept[1], state(again)), "the best is what load_model takes by default"
    again.load_model(cfg.OUTPUT_DIR, epoch=3)
    assert same(trainer.kept[2], state(again))
    assert Tiny(cfg).resume_model_if_exist(cfg.OUTPUT_DIR) == 3


def test_a_missing_epoch_says_what_is_there(cfg):
    trainer = Tiny(cfg)
    trainer.train()
    with pytest.raises(UserError, match=r"model\.pth\.tar-7.*found there: model\.pth\.tar-3"):
        trainer.load_model(cfg.OUTPUT_DIR, epoch=7)


def test_weights_of_another_shape_are_refused(cfg):
    trainer = Tiny(cfg)
    with pytest.raises(UserError, match=r"the weights in X do not fit this config's body: .*size mismatch for weight"):
        trainer.load_weights("body", nn.Linear(4, 5).state_dict(), "X")
