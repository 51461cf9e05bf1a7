"""One run over several processes ends with the weights of one process, leaves one run's files, and ends as one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler

import train
from dassl.config import get_cfg_default
from dassl.data.samplers import Shares
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError, load_checkpoint, processes, set_random_seed
from tests.conftest import REPO
from tests.in_a_process import together, train_until_killed

# Few steps: on this model, of random weights, rounding grows tenfold in each.
SHORT = ("DATASET.NUM_SHOTS", 2, "OPTIM.MAX_EPOCH", 2, "OPTIM.WARMUP_EPOCH", -1, "OPTIM.LR", 0.002)
SHORT += ("DATALOADER.NUM_WORKERS", 0, "USE_CUDA", False)
CASES = {
    "CoOp": (
        "vit_b16_ep50_ctxv1",
        "TEST.FINAL_MODEL",
        "best_val",
    ),  # on features; the first tests for all
    "LASP": ("vit_b16_ep50",),  # noise; inside the image encoder
    "MoCoOp": ("vit_b16_ep50", "DATALOADER.TRAIN_X.BATCH_SIZE", 2),  # the experts that the batch chose
    # a loss that is 0 where all images of the batch are of one class, as all of a share of one image are
    "LAMM": ("vit_b16_ep5_batch4_maple", "DATALOADER.TRAIN_X.BATCH_SIZE", 2, "TRAINER.LAMM.COS_WEIGHT", 50.0),
    "ProGrad": ("vit_b16_ep50_ctxv1", "TRAINER.PROGRAD.LAMBDA", 1.0),  # two gradients, of which one bends the other
}


def weights(folder, epoch=2):
    return load_checkpoint(Path(folder) / "prompt_learner" / f"model.pth.tar-{epoch}")["state_dict"]


def check_equal(one, several):
    one, several = weights(one), weights(several)
    assert one.keys() == several.keys()
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def files(folder):
    return sorted(str(path.relative_to(folder)).split(".out.")[0] for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("trainer", CASES)
def test_the_weights_of_one_process(trainer, tmp_path, toy_run, toy_args):
    config, *keys = CASES[trainer]
    toy_run(trainer, tmp_path / "one", *SHORT, *keys, config=config)
    words = toy_args(trainer, tmp_path / "several", *SHORT, *keys, config=config)
    assert together(tmp_path / "told", train.run, words) == [0, 0]
    check_equal(tmp_path / "one", tmp_path / "several")
    assert files(tmp_path / "several") == files(tmp_path / "one"), "one process writes"
    assert "epoch [2/2]" in (tmp_path / "told" / "0.txt").read_text()
    assert (tmp_path / "told" / "1.txt").read_text() == ""


def test_started_by_torchrun(tmp_path, toy_run, toy_args):
    config = "vit_b16_c2_ep5_batch4_2ctx"
    toy_run("MaPLe", tmp_path / "one", *SHORT, config=config)
    words = toy_args("MaPLe", tmp_path / "several", *SHORT, config=config)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*start, str(REPO / "train.py"), *words], check=True, capture_output=True)
    check_equal(tmp_path / "one", tmp_path / "several")
    assert files(tmp_path / "several") == files(tmp_path / "one")


def test_again_by_several_processes_the_bits_agree(tmp_path, toy_args):
    words = toy_args("CoOp", tmp_path / "run", *SHORT, config=CASES["CoOp"][0])
    assert together(tmp_path / "told", train.run, words) == [0, 0]
    assert together(tmp_path / "told", train.run, ["--replay", str(tmp_path / "run")]) == [0, 0]
    assert "=> identical" in (tmp_path / "told" / "0.txt").read_text()


def test_if_one_ends_all_do_and_the_run_goes_on(tmp_path, toy_run, toy_args):
    toy_run("CoOp", tmp_path / "one", *SHORT, config=CASES["CoOp"][0])
    words = toy_args("CoOp", tmp_path / "several", *SHORT, config=CASES["CoOp"][0])
    assert together(tmp_path / "told", train_until_killed, words, "CoOp", "1") == [1, -signal.SIGKILL]
    assert "error: process 0 lost another one of this run" in (tmp_path / "told" / "0.txt").read_text()
    assert not (tmp_path / "several" / "metrics.json").exists()
    assert together(tmp_path / "told", train.run, words) == [0, 0]
    assert "will resume training from epoch 2" in (tmp_path / "told" / "0.txt").read_text()
    check_equal(tmp_path / "one", tmp_path / "several")


def exchange(folder):
    cfg = get_cfg_default()
    cfg.SEED, cfg.USE_CUDA = 1, False
    processes.join(cfg)
    rank = processes.rank()
    set_random_seed(rank)
    x = torch.tensor([1.0, 2.0]).requires_grad_()
    found = {
        "means": processes.means([None, None if rank else 2 * x, x + rank], [x, x, x]),
        "gathered": processes.gathered(torch.tensor([[rank, 7]])),
        "from the first": processes.from_first(lambda: (rank, torch.rand(1))),
        "drawn then": torch.rand(1),
    }
    processes.first_alone(torch.save)(rank, f"{folder}/written")
    processes.leave()
    torch.save(found, f"{folder}/{rank}.pt")


def test_what_processes_tell_each_other(tmp_path):
    assert together(tmp_path, exchange, str(tmp_path)) == [0, 0]
    torch.manual_seed(0)
    drawn = torch.rand(1), torch.rand(1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        nothing, half, both = found["means"]
        assert nothing is None and half.tolist() == [1, 2] and both.tolist() == [1.5, 2.5]
        assert found["gathered"].tolist() == [[0, 7], [1, 7]]
        assert found["from the first"] == (0, drawn[0]) and found["drawn then"] == drawn[1]
    assert torch.load(tmp_path / "written") == 0


@pytest.mark.parametrize(("images", "size", "drop_last"), [(12, 4, True), (14, 4, False), (3, 6, False), (14, 4, True)])
def test_shares_of_a_batch(images, size, drop_last, monkeypatch):
    """Those of all processes are the batches of one."""
    whole = [list(batch) for batch in Shares(range(images), size, drop_last)]
    assert whole == list(BatchSampler(range(images), size, drop_last))
    monkeypatch.setattr(processes, "_count", 2)
    if not drop_last and images % size % 2:
        with pytest.raises(UserError, match="cannot share an epoch's last batch of 3 evenly"):
            Shares(range(images), size, drop_last)
        return
    shares = []
    for rank in range(2):
        monkeypatch.setattr(processes, "_rank", rank)
        shares.append(list(Shares(range(images), size, drop_last)))
    assert [one + other for one, other in zip(*shares, strict=True)] == whole
    assert all(len(one) == len(other) for one, other in zip(*shares, strict=True))


def test_batch_normalisation_is_refused(monkeypatch):
    processes.check_models([nn.BatchNorm1d(2)])
    monkeypatch.setattr(processes, "_count", 2)
    processes.check_models([nn.LayerNorm(2)])
    with pytest.raises(UserError, match="batch normalisation sees 2 shares"):
        processes.check_models([nn.Sequential(nn.BatchNorm1d(2))])


def of_its_own(argv, loss_by):
    """A run of a trainer with steps of its own, the engine's backward pass in them or not."""
    kind = TRAINER_REGISTRY.get("CoOp")

    def forward_backward(self, batch):
        images, labels = batch["img"], batch["label"]
        loss = F.cross_entropy(self.model(images), labels)
        if loss_by == "engine":
            self.model_backward_and_update(loss)
        else:
            self.model_zero_grad()
            loss.backward()
            self.model_update()
        return {"loss": loss.item()}

    kind.forward_backward = forward_backward
    return train.run(argv)


def test_steps_of_a_trainer_of_ones_own(tmp_path, toy_args):
    """They are shared through the engine's backward pass, else refused before they do any harm."""
    words = toy_args("CoOp", tmp_path / "engine", *SHORT)
    assert together(tmp_path / "told", of_its_own, words, "engine") == [0, 0]
    words = toy_args("CoOp", tmp_path / "own", *SHORT)
    assert together(tmp_path / "told", of_its_own, words, "own") == [1, 1]
    assert "do not use the engine's model_backward" in (tmp_path / "told" / "0.txt").read_text()
    assert not list((tmp_path / "own").glob("prompt_learner/*"))


@pytest.mark.parametrize(
    ("keys", "flags", "message"),
    [
        (("SEED", -1), (), "need the same random numbers: give --seed"),
        (("DATALOADER.TRAIN_X.BATCH_SIZE", 5), (), "BATCH_SIZE is 5: choose a multiple of the 2 processes"),
        ((), ("--eval-only",), "start --eval-only with python train.py"),
    ],
)
def test_mistakes(keys, flags, message, tmp_path, toy_args):
    words = toy_args("CoOp", tmp_path / "run", *SHORT, *keys, flags=flags)
    assert together(tmp_path / "told", train.run, words) == [1, 1]
    assert message in (tmp_path / "told" / "0.txt").read_text()
    assert os.listdir(tmp_path) == ["told"] or not (tmp_path / "run" / "prompt_learner").exists()
