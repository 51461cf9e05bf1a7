"""TRAIN.COMPILE: the compiled loss equals the plain one, and what cannot be compiled is said in one line."""

import pytest
import torch

import train
from benchmark.facts import config_names
from dassl.utils import UserError
from prompting.compiled import compiled
from tests.reference import relative_error


def test_compiled_steps_equal_plain_ones(toy_args, tmp_path, closing_logger):
    if not torch._inductor.cpp_builder.is_gcc() and not torch._inductor.cpp_builder.is_clang():
        pytest.skip("no C++ compiler")
    learned = []
    for mode in ("", "default"):
        keys = ("OPTIM.MAX_EPOCH", 1, "TEST.NO_TEST", True, "TRAIN.COMPILE", mode, "TRAINER.COOP.PREC", "fp32")
        torch._dynamo.utils.counters.clear()
        run = train.main(toy_args("CoOp", tmp_path / f"run {mode}", *keys))
        assert bool(torch._dynamo.utils.counters["frames"]) == bool(mode)
        learned.append(torch.cat([p.detach().flatten() for p in run.model.prompt_learner.parameters()]))
    assert relative_error(learned[1], learned[0]) < 1e-5 and not torch.equal(learned[0], torch.zeros_like(learned[0]))


@pytest.mark.parametrize("trainer", ["CoOp", "MoCoOp", "ProGrad"])
def test_steps_after_the_first_compile_nothing(trainer, toy_args, tmp_path, closing_logger, monkeypatch):
    """Neither for masks that are there by then, nor for what a trainer counts."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda loss, mode, dynamic: compile_(loss, backend="eager", dynamic=dynamic))
    keys = ["OPTIM.MAX_EPOCH", 2, "TEST.NO_TEST", True, "TRAIN.COMPILE", "default"]
    keys += [f"TRAINER.{trainer.upper()}.PREC", "fp32"] + ["TRAINER.MOCOOP.FORM", "paper"] * (trainer == "MoCoOp")
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        run = train.main(toy_args(trainer, tmp_path, *keys, config=sorted(config_names(trainer))[0]))
    assert run.num_batches > 1 and torch._dynamo.utils.counters["frames"]


def test_what_a_step_gives_outlives_the_next_one(toy_args, tmp_path, closing_logger, monkeypatch):
    """CUDA graphs give the same memory each time; the loss is looked at steps later (dassl/engine/steps.py)."""
    run = train.main(toy_args("CoOp", tmp_path, "OPTIM.MAX_EPOCH", 1, "TEST.NO_TEST", True))
    out = torch.zeros(2)

    def loss(inputs, labels):
        out.copy_(torch.stack([inputs.sum(), labels.sum()]))
        return out[0], {"acc": out[1]}

    monkeypatch.setattr(torch, "compile", lambda loss, **options: loss)
    step = compiled(loss, run.model.text_encoder, "reduce-overhead")
    given = [step(torch.full((3,), float(k)), torch.full((3,), k)) for k in (1, 2)]
    assert [(value.item(), summary["acc"].item()) for value, summary in given] == [(3, 3), (6, 6)]


def test_what_cannot_be_compiled_is_said_in_a_line(toy_args, tmp_path, closing_logger):
    run = train.main(toy_args("CoOp", tmp_path, "OPTIM.MAX_EPOCH", 1, "TEST.NO_TEST", True))
    width = run.model.text_encoder.text_projection.shape[1]
    with pytest.raises(UserError, match="TRAIN.COMPILE default: torch cannot compile this loss here .*; leave it out"):
        compiled(run.loss, run.model.text_encoder, "default")(torch.randn(4, width + 1), torch.tensor([0, 1, 2, 3]))
    with pytest.raises(UserError, match='unknown TRAIN.COMPILE "fast"'):
        train.main(toy_args("CoOp", tmp_path / "no", "TRAIN.COMPILE", "fast"))


def test_graphs_add_up_no_gradients(toy_pairs_run, tmp_path):
    with pytest.raises(UserError, match="COMPILE reduce-overhead replays CUDA graphs: set TRAINER.CSP.ACCUMULATE 1"):
        toy_pairs_run("CSP", tmp_path, "TRAIN.COMPILE", "reduce-overhead")
