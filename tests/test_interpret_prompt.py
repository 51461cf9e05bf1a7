"""interpret_prompt.py on vectors whose words are known."""

import re

import pytest
import torch

from interpret_prompt import main
from prompting.backbone import find, load_backbone


@pytest.fixture
def vectors(tmp_path, toy_backbone):
    """A checkpoint of the vectors of three words, in two classes' order, and those words."""
    encode, words = find(toy_backbone).family.tokenizer().encode, ["photo", "dog", "sky"]
    ids = [encode(word)[0] for word in words]
    ctx = load_backbone(toy_backbone).token_embedding.weight[ids] + 1e-4
    torch.save({"state_dict": {"ctx": torch.stack([ctx, ctx.flip(0)])}, "epoch": 1}, tmp_path / "model.pth.tar-1")
    return str(tmp_path / "model.pth.tar-1"), words


def test_the_nearest_words_come_first(vectors, toy_backbone, capsys):
    path, words = vectors
    assert main([path, "2", "--backbone", toy_backbone]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [
        re.fullmatch(r"(\d): \['([^']+)', '[^']+'\] \['0\.00\d\d', '\d\.\d{4}'\]", line).groups() for line in lines
    ]
    assert found == [(str(n), word) for n, word in enumerate([*words, *words[::-1]], start=1)]


def test_a_runs_backbone_is_known(toy_run, toy_backbone, tmp_path, capsys, monkeypatch):
    toy_run("CoOp", tmp_path / "run", "OPTIM.MAX_EPOCH", 1)
    capsys.readouterr()
    path = str(tmp_path / "run" / "prompt_learner" / "model.pth.tar-1")
    assert main([path, "1"]) == 0
    told = capsys.readouterr().out
    assert len(told.splitlines()) == 16 and main([path, "1", "--backbone", toy_backbone]) == 0
    assert capsys.readouterr().out == told
    monkeypatch.chdir(tmp_path / "run" / "prompt_learner")
    assert main(["model.pth.tar-1", "1"]) == 0 and capsys.readouterr().out == told


def test_mistakes(vectors, toy_backbone, tmp_path, capsys):
    assert main([vectors[0], "2"]) == 1, "no config.yaml beside it"
    torch.save({"state_dict": {"weight": torch.zeros(2, 3)}}, tmp_path / "other")
    assert main([str(tmp_path / "other"), "2", "--backbone", "icon-clip"]) == 1
    assert main([vectors[0], "2", "--backbone", "icon-clip"]) == 1
    assert [line[:7] for line in capsys.readouterr().err.splitlines()] == ["error: "] * 3
    assert (
        main([vectors[0], "0", "--backbone", toy_backbone]) == main([vectors[0], "--backbone", toy_backbone, "-1"]) == 1
    )
    assert capsys.readouterr().err == "".join(f"error: topk is {topk}: give 1 or more\n" for topk in (0, -1))
