"""Checkpoints that are not what was written: every one is noticed, and where there is a whole one, it is used."""

import copy
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from dassl.utils import (
    UserError,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
    set_random_seed,
)
from tests.dassl.tiny import Tiny, same, state


class Stopped(BaseException):
    pass


@pytest.fixture
def whole(cfg):
    """The weights of a run of three epochs, and its folder as it was when it was stopped after the second."""
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.INPUT.SIZE, cfg.TEST.NO_TEST = 24, (8, 8), True  # one step in an epoch
    trainer = Tiny(cfg)
    trainer.train()
    weights = state(trainer)
    shutil.rmtree(cfg.OUTPUT_DIR)

    class Stopping(Tiny):
        def before_epoch(self):
            if self.epoch == 2:
                raise Stopped

    set_random_seed(1)
    with pytest.raises(Stopped):
        Stopping(cfg).train()
    return weights


def flipped(content, bit):
    content = bytearray(content)
    content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


def edit(path, change):
    """Have a change made to what a checkpoint holds, and its checksums be right."""
    checkpoint = load_checkpoint(path)
    change(checkpoint)
    torch.save(checkpoint, path)


def same_content(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same_content(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same_content, a, b))
    return type(a) is type(b) and a == b


def test_a_flipped_bit_is_noticed_or_carries_nothing(tmp_path):
    optim = torch.optim.Adam(nn.Linear(3, 2).parameters())
    model = nn.Linear(3, 2)
    save_checkpoint({"state_dict": model.state_dict(), "epoch": 1, "optimizer": optim.state_dict()}, tmp_path)
    content = (tmp_path / "model.pth.tar-1").read_bytes()
    expected, damaged, rng = load_checkpoint(tmp_path / "model.pth.tar-1"), tmp_path / "damaged", random.Random(0)
    noticed = 0
    for bit in rng.sample(range(8 * len(content)), 400):
        damaged.write_bytes(flipped(content, bit))
        try:
            loaded = load_checkpoint(damaged)
        except UserError:
            noticed += 1
        else:
            assert same_content(loaded, expected), bit
    assert noticed > 100  # the rest is padding
    start = content.index(model.weight.detach().numpy().tobytes())
    for bit in range(8 * start, 8 * (start + 24)):  # all bits of the weights
        damaged.write_bytes(flipped(content, bit))
        for load in (load_checkpoint, lambda path: load_pretrained_weights(nn.Linear(3, 2), path)):
            with pytest.raises(UserError, match="damaged"):
                load(damaged)


def test_files_without_checksums_load_as_before(tmp_path):
    """Those of torch before 1.6, as Dassl's of then were."""
    weights = nn.Linear(3, 2).state_dict()
    torch.save({"state_dict": weights, "epoch": 5}, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert same(load_checkpoint(tmp_path / "old")["state_dict"], weights)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def lose_run_state(checkpoint):
    del checkpoint["run_state"]["rng"]


def other_optimizer(checkpoint):
    checkpoint["optimizer"] = torch.optim.Adam(nn.Linear(3, 5).parameters()).state_dict()


def other_scheduler(checkpoint):
    optim = torch.optim.SGD(nn.Linear(3, 5).parameters(), lr=0.1)
    checkpoint["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 3).state_dict()


def weights(name, value):
    return lambda checkpoint: checkpoint["state_dict"].update({name: value})


def buffer(value):
    return lambda checkpoint: checkpoint["optimizer"]["state"][0].update(momentum_buffer=value)


WRONG = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "flipped": lambda path: path.write_bytes(flipped(path.read_bytes(), 8 * 2000)),
    "no state dict": lambda path: torch.save({"epoch": 2}, path),
    "a list": lambda path: torch.save([1], path),
    "text for a tensor": weights("weight", "x"),
    "a missing weight": lambda checkpoint: checkpoint["state_dict"].pop("weight"),
    "another shape": weights("weight", torch.zeros(2, 2)),
    "whole numbers": weights("weight", torch.zeros(5, 3, dtype=torch.long)),
    "NaN": weights("weight", torch.full((5, 3), torch.nan)),
    "another epoch": lambda checkpoint: checkpoint.update(epoch=7),
    "a word for the epoch": lambda checkpoint: checkpoint.update(epoch="two"),
    "no optimizer": lambda checkpoint: checkpoint.pop("optimizer"),
    "an optimizer that is a list": lambda checkpoint: checkpoint.update(optimizer=[]),
    "another optimizer": other_optimizer,
    "momentum of another size": buffer(torch.zeros(2)),
    "momentum NaN": buffer(torch.full((5, 3), torch.nan)),
    "no scheduler": lambda checkpoint: checkpoint.pop("scheduler"),
    "another scheduler": other_scheduler,
    "a scheduler's NaN": lambda checkpoint: checkpoint["scheduler"].update(gamma=torch.nan),
    "no random state": lose_run_state,
    "words for the run's state": lambda checkpoint: checkpoint.update(run_state="x"),
}
IN_THE_FILE = {"cut", "empty", "gone", "flipped", "no state dict", "a list"}


def harm(folder, wrong, epochs):
    for epoch in epochs:
        name = "head" if "run" in wrong or "random" in wrong else "body"  # the last one's state of the run counts
        path = Path(folder, name, f"model.pth.tar-{epoch}")
        if wrong in IN_THE_FILE:
            WRONG[wrong](path)
        else:
            edit(path, WRONG[wrong])


@pytest.mark.parametrize("wrong", WRONG)
def test_a_damaged_checkpoint_is_passed_over(cfg, whole, wrong, caplog):
    """For the one before, in both models; without one the same command begins again. The weights are the same."""
    copies = {n: Path(shutil.copytree(cfg.OUTPUT_DIR, f"{cfg.OUTPUT_DIR}-{n}")) for n in (1, 2)}
    for n, folder in copies.items():
        caplog.clear()
        harm(folder, wrong, {1: [2], 2: [1, 2]}[n])
        cfg.OUTPUT_DIR = str(folder)
        set_random_seed(1)
        trainer = Tiny(cfg)
        with caplog.at_level(logging.WARNING, "dassl"):
            trainer.train()
        assert trainer.start_epoch == 2 - n and same(state(trainer), whole), n
        assert wrong == "gone" or "Passed over: " in caplog.text
        for name in ("body", "head"):
            assert {p.name for p in (folder / name).iterdir()} == {"checkpoint", "model.pth.tar-3"}


@pytest.mark.parametrize("wrong", WRONG)
def test_elsewhere_too(cfg, whole, wrong, tmp_path):
    """--resume takes the one before, and refuses a run without a whole one; so does --model-dir what it is given."""
    run, cfg.OUTPUT_DIR = cfg.OUTPUT_DIR, str(tmp_path / "b")
    cfg.RESUME = run
    harm(run, wrong, [2])
    set_random_seed(1)
    trainer = Tiny(cfg)
    trainer.train()
    assert trainer.start_epoch == 1 and same(state(trainer), whole)

    cfg.OUTPUT_DIR = str(tmp_path / "c")
    harm(run, wrong, [1])
    before = copy.deepcopy(state(trainer := Tiny(cfg)))
    with pytest.raises(UserError, match="no run to resume" if wrong == "gone" else "can be resumed: "):
        trainer.train()
    assert same(before, state(trainer)), "as they were"
    if not any(word in wrong for word in ("epoch", "optim", "moment", "schedul", "state")) or wrong == "no state dict":
        with pytest.raises(UserError):
            trainer.load_model(run, epoch=1)


def test_schedulers_begin_again_too(cfg, whole):
    """Those of which torch keeps a Counter, for one."""

    class Milestones(Tiny):
        def build_model(self):
            super().build_model()
            for name, optim in self._optims.items():
                self._scheds[name] = torch.optim.lr_scheduler.MultiStepLR(optim, [1, 2])

    shutil.rmtree(cfg.OUTPUT_DIR)
    set_random_seed(1)
    trainer = Milestones(cfg)
    trainer.train()
    harm(cfg.OUTPUT_DIR, "NaN", [3])
    set_random_seed(1)
    again = Milestones(cfg)
    again.train()
    assert again.start_epoch == 0 and same(state(again), state(trainer))
    assert again.get_current_lr() == trainer.get_current_lr()


def test_a_run_that_is_not_there_is_not_resumed(cfg, tmp_path):
    cfg.RESUME = str(tmp_path)
    with pytest.raises(UserError, match="no run to resume"):
        Tiny(cfg).train()
    cfg.RESUME = cfg.OUTPUT_DIR  # the run itself, as scripts have it that may be called again
    Tiny(cfg).train()


@pytest.mark.parametrize("content", ["", "model.pth", "model.pth.tar-1\n", "model.pth.tar-9\n", "\0\0", "../../x"])
def test_a_damaged_pointer_leads_nowhere_else(cfg, whole, content):
    for name in ("body", "head"):
        Path(cfg.OUTPUT_DIR, name, "checkpoint").write_text(content)
    trainer = Tiny(cfg)
    trainer.load_model(cfg.OUTPUT_DIR)
    assert trainer.resume_model_if_exist(cfg.OUTPUT_DIR) == 2
    Path(cfg.OUTPUT_DIR, "body", "checkpoint").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="its checkpoint is damaged"):
        resume_from_checkpoint(Path(cfg.OUTPUT_DIR, "body"), nn.Linear(3, 5))


@pytest.mark.parametrize("harm", [Path.unlink, cut, lambda path: path.write_bytes(b"")])
def test_a_damaged_best_model_is_made_again(cfg, harm, tmp_path):
    """Where the run is its own; a run that only has the last model is not evaluated as if that were the best."""
    results = {0: 1.0, 1: 3.0, 2: 2.0}

    class Validated(Tiny):
        def test(self, split=None):
            return results[self.epoch] if split == "val" else super().test(split)

    cfg.TEST.FINAL_MODEL = "best_val"
    trainer = Validated(cfg)
    trainer.train()
    harm(Path(cfg.OUTPUT_DIR, "head", "model-best.pth.tar"))
    set_random_seed(1)
    again = Validated(cfg)
    again.train()
    assert again.start_epoch == 0 and same(state(again), state(trainer))
    harm(Path(cfg.OUTPUT_DIR, "head", "model-best.pth.tar"))
    cfg.RESUME, cfg.OUTPUT_DIR = cfg.OUTPUT_DIR, str(tmp_path / "b")
    with pytest.raises(UserError, match="can be resumed: .*model-best"):
        Validated(cfg).train()


def test_best_models_of_two_epochs_are_no_model(cfg):
    """What a kill leaves between the files of two models."""
    trainer = Tiny(cfg)
    for epoch, names in ((0, ("body", "head")), (1, ("body",))):
        for name in names:
            save_checkpoint(
                {"state_dict": trainer._models[name].state_dict(), "epoch": epoch + 1},
                Path(cfg.OUTPUT_DIR, name),
                model_name="model-best.pth.tar",
            )
    with pytest.raises(UserError, match="from different epochs"):
        trainer.load_model(cfg.OUTPUT_DIR)


def test_a_mask_may_be_infinite(tmp_path):
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))

    save_checkpoint({"state_dict": Masked().state_dict(), "epoch": 1}, tmp_path)
    assert resume_from_checkpoint(tmp_path, Masked()) == 1


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*model\.pth\.tar-1: No space left"):
        save_checkpoint({"state_dict": nn.Linear(2, 2).state_dict(), "epoch": 1}, tmp_path)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "amsgrad"])
def test_optimizers_of_each_kind_resume_as_themselves_alone(kind, tmp_path):
    def build(kind, model):
        if kind == "amsgrad":
            return torch.optim.Adam(model.parameters(), amsgrad=True)
        return getattr(torch.optim, kind)(model.parameters(), lr=0.01)

    model = nn.Linear(2, 2)
    optim = build(kind, model)
    model(torch.ones(1, 2)).sum().backward()
    optim.step()
    save_checkpoint({"state_dict": model.state_dict(), "epoch": 1, "optimizer": optim.state_dict()}, tmp_path)
    for other in ("SGD", "Adam", "AdamW", "RMSprop", "amsgrad"):
        theirs = build(other, model)
        if other == kind:
            assert resume_from_checkpoint(tmp_path, model, theirs) == 1
        else:
            with pytest.raises(UserError, match="of another kind, or damaged"):
                resume_from_checkpoint(tmp_path, model, theirs)
