"""What every trainer keeps to, whoever wrote it.

It trains, lowers its loss, saves, loads in a fresh process to the same outputs, is killed and resumes to the same bits,
and refuses what it cannot do in one line. The trainers are those of trainers/, and one of your own, once it is found
there or through an entry point, is put through it by

    python -m pytest tests/test_contract.py --trainer Shift
    python -m pytest tests/test_contract.py --trainer Shift --keys "TRAINER.SHIFT.PREC fp32 OPTIM.LR 0.05"

Its config is the one that its method.yaml names, or configs/trainers/default.yaml; the data are a few images in four
colours, the CLIP is the small ViT of embedded/. What is particular to a method is tested in tests/trainers/.
"""

import copy
import logging
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import train
import trainers  # noqa: F401  registers them
from benchmark.facts import CONFIGS, Method, method_of, trainer_config
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer, TrainerX
from dassl.utils import setup_logger
from tests.in_a_process import evaluate, outputs, status_of, train_until_killed
from tests.reference import openai_weights, tiny_clip


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        ours = (n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).__module__[:9] == "trainers.")
        names = [metafunc.config.getoption("--trainer")] if metafunc.config.getoption("--trainer") else sorted(ours)
        metafunc.parametrize("case", names, indirect=True, scope="module")


@dataclass
class Case:
    """A trainer, with what its runs are given.

    Attributes:
        facts: what the benchmark knows of it.
        options: train.py's words before KEY VALUE pairs, without --output-dir.
        keys: the pairs.
        folder: what its runs are written to.
    """

    facts: Method
    options: list[str]
    keys: list[str]
    folder: Path
    trained: TrainerX | None = None

    @property
    def kind(self):
        return TRAINER_REGISTRY.get(self.facts.name)

    def args(self, name, *keys, flags=()):
        return [str(x) for x in (*self.options, "--output-dir", self.folder / name, *flags, *self.keys, *keys)]

    def run(self, name, *keys, flags=()):
        """Do it in this process; the trainer."""
        try:
            return train.main(self.args(name, *keys, flags=flags))
        finally:
            setup_logger()
            logging.getLogger("dassl").handlers.clear()

    def refusal(self, capsys, *keys, flags=()):
        """The one line that a run ends with that cannot be."""
        capsys.readouterr()
        assert train.run(self.args("refused", *keys, flags=["--overwrite", *flags])) == 1
        setup_logger()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line


@pytest.fixture(scope="module")
def case(request, toy_root, toy_pairs_root, tmp_path_factory):
    """A Case whose run `whole` was trained."""
    facts = method_of(request.param)
    folder = tmp_path_factory.mktemp(facts.name)
    protocol, dataset, root = "few_shot", "caltech101", toy_root
    if not facts.suits(protocol):
        protocol, dataset, root = "czsl", "mit_states", toy_pairs_root
    options = {
        "--root": root,
        "--seed": 1,
        "--trainer": facts.name,
        "--backbone": "icon-clip-vit",
        "--dataset-config-file": CONFIGS / "datasets" / f"{dataset}.yaml",
        "--config-file": trainer_config(facts.name, facts.recipe(protocol, dataset, 4)[0]),
    }
    small = "DATASET.NUM_SHOTS 4 DATALOADER.TRAIN_X.BATCH_SIZE 4 DATALOADER.NUM_WORKERS 0 OPTIM.MAX_EPOCH 3".split()
    keys = [*small, *request.config.getoption("--keys").split()]
    case = Case(facts, [str(word) for pair in options.items() for word in pair], keys, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOCOOP_CACHE", str(folder / "cache"))
        case.trained = case.run("whole", flags=() if facts.trains else ["--eval-only"])
    return case


def learns(case):
    """Skip what learns nothing, or not in steps."""
    if case.kind.train is not SimpleTrainer.train:
        pytest.skip("it has no training loop")


def weights(trainer):
    return {(model, key): v for model, m in trainer._models.items() for key, v in m.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_steps_lower_the_loss_of_their_batch(case):
    learns(case)
    trainer, batch = case.trained, next(iter(case.trained.train_loader_x))
    start = {name: copy.deepcopy(model.state_dict()) for name, model in trainer._models.items()}
    for optimizer in filter(None, trainer._optims.values()):
        optimizer.state.clear()  # the momentum is of other batches
        for group in optimizer.param_groups:
            group["lr"] = trainer.cfg.OPTIM.LR
    losses = []
    trainer.set_model_mode("train")
    for trainer.batch_idx in range(4):  # of which a method may make two steps
        torch.manual_seed(0)
        losses.append(trainer.forward_backward(batch)["loss"])
    for name, state in start.items():
        trainer._models[name].load_state_dict(state)
    assert losses[-1] < losses[0]


def test_it_loads_in_a_fresh_process_to_the_same_outputs(case):
    whole, file = case.folder / "whole", case.folder / "outputs.pt"
    flags = ["--eval-only", *(["--model-dir", str(whole)] if case.facts.trains else [])]
    assert status_of(evaluate, case.args("alone", flags=flags), str(file)) == 0
    assert torch.equal(torch.load(file), outputs(case.trained))


def test_a_killed_run_resumes_to_the_same_bits(case):
    learns(case)
    assert status_of(train_until_killed, case.args("killed"), case.facts.name) == -signal.SIGKILL
    resumed = case.run("killed")
    assert resumed.start_epoch == 1
    assert same(weights(resumed), weights(case.trained))
    assert torch.equal(outputs(resumed), outputs(case.trained))


def test_a_resnet_is_refused_where_a_vit_is_needed(case, tmp_path, capsys):
    if "vit" not in case.facts.needs:
        pytest.skip("it does not need one")
    torch.save(openai_weights(tiny_clip("resnet")), tmp_path / "resnet.pt")
    needed = [word for pair in (case.facts.needs["vit"] or {}).items() for word in pair]
    line = case.refusal(capsys, "MODEL.BACKBONE.NAME", tmp_path / "resnet.pt", *needed)
    assert "ViT" in line


def test_an_unknown_precision_is_refused(case, capsys):
    section = getattr(case.kind, "section", None)
    if not section or "PREC" not in case.trained.cfg.TRAINER[section]:
        pytest.skip("it has no precision to choose")
    line = case.refusal(capsys, f"TRAINER.{section}.PREC", "fp8")
    assert f"TRAINER.{section}.PREC" in line and "fp32" in line


def test_weights_of_another_trainer_are_refused(case, capsys):
    if not case.trained.has_weights():
        pytest.skip("it has none")
    for name, model in case.trained._models.items():
        state = {f"of_another.{key}": value for key, value in model.state_dict().items()}
        folder = case.folder / "other" / name
        folder.mkdir(parents=True)
        torch.save({"state_dict": state, "epoch": 1}, folder / "model-best.pth.tar")
    (case.folder / "other" / "classes.json").write_bytes((case.folder / "whole" / "classes.json").read_bytes())
    line = case.refusal(capsys, flags=["--eval-only", "--model-dir", str(case.folder / "other")])
    assert str(case.folder / "other") in line
