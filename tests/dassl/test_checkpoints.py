"""Model weights on disk: written whole or not at all, loaded without running code from the file."""

import logging
import os

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from dassl import utils
from dassl.utils import UserError


def _state(model, epoch, **more):
    return {"state_dict": model.state_dict(), "epoch": epoch, **more}


def test_save_load_resume(tmp_path):
    torch.manual_seed(0)
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    optims = [torch.optim.SGD(m.parameters(), lr=1.0, momentum=0.9) for m in (model, other)]
    scheds = [CosineAnnealingLR(o, 10) for o in optims]
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optims[0].step()
        scheds[0].step()
    more = {"optimizer": optims[0].state_dict(), "scheduler": scheds[0].state_dict()}
    state = _state(nn.DataParallel(model), 3, **more)
    utils.save_checkpoint(state, tmp_path, is_best=True)

    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-3"]
    assert (tmp_path / "checkpoint").read_text().strip() == "model.pth.tar-3"
    assert list(state["state_dict"])[0] == "module.weight", "the caller's state is left as it was"
    for name in ("model-best.pth.tar", "model.pth.tar-3"):
        assert list(utils.load_checkpoint(tmp_path / name)["state_dict"]) == ["weight", "bias"]
    assert utils.resume_from_checkpoint(tmp_path, other, optims[1], scheds[1]) == 3
    for m, o, s in zip((model, other), optims, scheds, strict=True):
        o.zero_grad()
        m(torch.ones(1, 2)).sum().backward()
        o.step()
        s.step()
    assert torch.equal(model.weight, other.weight) and scheds[0].get_last_lr() == scheds[1].get_last_lr()


def test_save_under_a_name(tmp_path):
    utils.save_checkpoint(_state(nn.Linear(1, 1), 3), tmp_path / "new", model_name="mine")
    assert sorted(os.listdir(tmp_path / "new")) == ["checkpoint", "mine"]
    assert (tmp_path / "new" / "checkpoint").read_text().strip() == "mine"


def test_same_state_gives_the_same_bytes(tmp_path):
    model = nn.Linear(1, 1)
    for folder in ("a", "b"):
        utils.save_checkpoint(_state(model, 1), tmp_path / folder)
    assert len({(tmp_path / folder / "model.pth.tar-1").read_bytes() for folder in ("a", "b")}) == 1


def test_failing_save_leaves_the_last_checkpoint(tmp_path):
    model = nn.Linear(1, 1)
    utils.save_checkpoint(_state(model, 1), tmp_path)
    with pytest.raises(Exception, match="pickle"):
        utils.save_checkpoint(_state(model, 2, extra=lambda: 0), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "model.pth.tar-1"]
    assert utils.resume_from_checkpoint(tmp_path, model) == 1


class Mischief:
    def __reduce__(self):
        return os.mkdir, ("mischief",)


def test_pickled_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "epoch": 1, "extra": Mischief()}, "bad")
    with pytest.raises(UserError, match="bad holds pickled code"):
        utils.load_checkpoint("bad")
    assert os.listdir() == ["bad"]


def test_checkpoint_of_dassl_loads(tmp_path):
    """Dassl pickled the scheduler behind the warm-up whole, with its optimizer; CoOp's weights came so."""
    parameter = nn.Parameter(torch.ones(2))
    optim = torch.optim.SGD([parameter], lr=0.002, momentum=0.9)
    parameter.sum().backward()
    optim.step()
    scheduler = {"last_epoch": 1, "warmup_epoch": 1, "successor": CosineAnnealingLR(optim, 50.0)}
    state = {"state_dict": {"ctx": parameter.data}, "epoch": 50, "optimizer": optim.state_dict()}
    torch.save(state | {"scheduler": scheduler, "val_result": None}, tmp_path / "c")
    assert torch.equal(utils.load_checkpoint(tmp_path / "c")["state_dict"]["ctx"], parameter.data)


def test_bad_checkpoints(tmp_path):
    utils.save_checkpoint(_state(nn.Linear(2, 2), 1), tmp_path)
    whole = (tmp_path / "model.pth.tar-1").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").touch()
    torch.save(torch.ones(1), tmp_path / "tensor")
    for name in ("missing", "cut", "text", "empty", "tensor"):
        with pytest.raises(UserError, match=str(tmp_path / name)):
            utils.load_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="does not fit"):
        utils.resume_from_checkpoint(tmp_path, nn.Linear(3, 2))
    with pytest.raises(UserError, match="no checkpoint to resume"):
        utils.resume_from_checkpoint(tmp_path / "nowhere", nn.Linear(2, 2))


def test_pretrained_weights_load_where_they_fit(tmp_path, caplog):
    source, model = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, n)) for n in (3, 5))
    kept = model[1].weight.clone()
    torch.save(nn.DataParallel(source).state_dict(), tmp_path / "bare")
    with caplog.at_level(logging.INFO, "dassl"):
        utils.load_pretrained_weights(model, tmp_path / "bare")
    assert torch.equal(model[0].weight, source[0].weight) and torch.equal(model[1].weight, kept)
    assert "1.weight, 1.bias" in caplog.text
    with pytest.raises(UserError, match="no layer in .*bare fits"):
        utils.load_pretrained_weights(nn.Linear(7, 7), tmp_path / "bare")
