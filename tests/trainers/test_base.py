"""What all trainers have in common: whom they may import, and that no loss knows unseen pairs."""

import ast

import pytest
import torch

from dassl.utils import UserError
from tests.conftest import REPO, TOY_PAIRS, write_pairs
from tests.reference import relative_error


@pytest.mark.parametrize("path", sorted((REPO / "trainers").glob("*.py")), ids=lambda path: path.stem)
def test_a_trainer_imports_no_other(path):
    """What several methods share belongs below them: in base.py, or a file of what some of them have in common."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [f"trainers.{alias.name}" for alias in node.names]
            found |= set(names if node.module == "trainers" else [node.module])
    shared = {f"trainers.{name}" for name in ("base", "context", "layernorms", "pairs")}
    assert {name for name in found if name.startswith("trainers.")} <= shared


# Precision


@pytest.mark.parametrize("trainer", ["CoOp", "ProGrad"])
def test_a_frozen_image_encoder_may_have_a_precision_of_its_own(trainer, tmp_path, toy_run, tmp_cache):
    keys = (f"TRAINER.{trainer.upper()}.PREC", "fp32", "OPTIM.MAX_EPOCH", 1)
    config = {"CoOp": "vit_b16_ep50", "ProGrad": "vit_b16_ep50_ctxv1"}[trainer]
    found = {}
    for prec in ("", "bf16"):
        run = toy_run(trainer, tmp_path / f"run{prec}", *keys, "MODEL.BACKBONE.IMAGE_PREC", prec, config=config)
        found[prec] = run.image_features(run.test_loader)
        assert {p.dtype for p in run.model.prompt_learner.parameters()} == {torch.float32}
        assert run.model.text_encoder.dtype == torch.float32
    assert (found[""].dtype, found["bf16"].dtype) == (torch.float32, torch.bfloat16), "each has an entry of its own"
    similar = torch.cosine_similarity(found[""], found["bf16"].float())
    assert 0.999 < similar.min() and similar.max() < 1


@pytest.mark.parametrize(
    ("trainer", "config", "prec", "message"),
    [
        ("MaPLe", "vit_b16_c2_ep5_batch4_2ctx", "bf16", "IMAGE_PREC is for frozen .*MaPLe learns.*MAPLE.PREC"),
        ("CoOp", "vit_b16_ep50", "fp16", "IMAGE_PREC fp16 is meant for GPUs: on the CPU give bf16 or fp32"),
        ("CoOp", "vit_b16_ep50", "fp8", "unknown MODEL.BACKBONE.IMAGE_PREC"),
    ],
)
def test_precisions_that_an_image_encoder_cannot_have(trainer, config, prec, message, tmp_path, toy_run):
    with pytest.raises(UserError, match=message):
        toy_run(trainer, tmp_path, "MODEL.BACKBONE.IMAGE_PREC", prec, config=config)


# Pairs

PAIRS = ["--dataset-config-file", str(REPO / "configs/datasets/mit_states.yaml")]
TRAIN = {"train": TOY_PAIRS["train"]}
UNSEEN = [  # the same words, other pairs of them
    {"val": ["Faux.Leather dog"], "test": ["dark dog", "Faux.Leather sea_shell"]},
    {"val": ["pale boat"], "test": ["dark dog", "dark sea_shell"]},
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two DATASET.ROOTs that differ in their unseen pairs alone."""
    found = []
    for unseen in UNSEEN:
        found.append(tmp_path_factory.mktemp("pairs"))
        write_pairs(found[-1] / "mit-states", TRAIN | unseen)
    return found


@pytest.mark.parametrize(
    ("trainer", "config", "keys"),
    [
        ("CoOp", "vit_b16_ep50", {}),
        ("CoCoOp", "vit_b16_c4_ep10_batch1", {}),
        ("KgCoOp", "vit_b16_ep100_ctxv1", {}),
        ("ProGrad", "vit_b16_ep50_ctxv1", {}),
        ("LAMM", "vit_b16_ep50", {"BASE": "coop", "N_CTX": 4, "KD_WEIGHT": 5.0}),
        ("LASP", "vit_b16_ep50", {"TEXT_CLASSES": "train"}),
        ("MaPLe", "vit_b16_c2_ep5_batch4_2ctx", {}),
        ("MoCoOp", "vit_b16_ep50", {"TEXT_CLASSES": "train", "ROUTER_TARGET": "paper"}),
        ("MoCoOp", "vit_b16_ep50", {"TEXT_CLASSES": "train", "ROUTER_TARGET": "class", "TEXT_TARGET": "group_mean"}),
        ("PLOT", "vit_b16_ep50", {"N": 2}),
        ("PromptSRC", "vit_b16_c2_ep20_batch4_4+4ctx", {}),
        ("CSP", "vit_l14", {"ATTR_DROPOUT": 0.0}),
    ],
)
def test_what_is_learned_does_not_depend_on_unseen_pairs(trainer, config, keys, tmp_path, toy_run, roots):
    keys = [x for key, value in keys.items() for x in (f"TRAINER.{trainer.upper()}.{key}", value)]
    found = []
    for i, root in enumerate(roots):
        flags = ["--root", str(root), *PAIRS]
        short = ("OPTIM.LR", 0.02, "OPTIM.MAX_EPOCH", 2, "TEST.NO_TEST", True)
        run = toy_run(trainer, tmp_path / str(i), *keys, *short, flags=flags, config=config)
        assert run.num_classes == 7 and run.num_seen == 5
        found.append(run.model.prompt_learner.state_dict())
    start = toy_run(trainer, tmp_path / "start", *keys, flags=[*flags, "--no-train"], config=config)
    start = start.model.prompt_learner.state_dict()
    assert found[0].keys() == found[1].keys() == start.keys()
    learned = [name for name in start if not torch.equal(start[name], found[0][name])]
    assert learned
    for name in learned:
        moved, difference = (found[0][name] - start[name]).abs().max(), (found[0][name] - found[1][name]).abs().max()
        assert difference < 1e-2 * moved, name


@pytest.mark.parametrize(("trainer", "name"), [("MoCoOp", "loss_text"), ("LASP", "loss_text")])
def test_names_of_unseen_pairs_serve_the_text_loss_where_all_do(trainer, name, tmp_path, toy_run, roots):
    """Over C classes of chance a cross-entropy is log C: the more names, the larger."""
    losses = []
    for classes in ("train", "all"):
        keys = (f"TRAINER.{trainer.upper()}.TEXT_CLASSES", classes, "OPTIM.MAX_EPOCH", 1)
        run = toy_run(trainer, tmp_path / classes, *keys, flags=["--root", str(roots[0]), *PAIRS])
        assert run.hard_features[0].shape[1] == {"train": 5, "all": 7}[classes]
        batch = next(iter(run.train_loader_x))
        losses.append(run.loss(batch["img"], batch["label"])[1][name])
    assert losses[0] < losses[1]


def test_lamm_tells_unseen_pairs_by_their_names(tmp_path, toy_run, roots):
    run = toy_run("LAMM", tmp_path / "a", "OPTIM.LR", 10.0, flags=["--root", str(roots[0]), *PAIRS])
    seen, names = run.num_seen, run.dm.dataset.classnames
    assert run.model.prompt_learner.vectors.names == names[:seen]
    by_name = toy_run("LAMM", tmp_path / "b", flags=["--root", str(roots[0]), *PAIRS, "--no-train"])
    text, start = run.model.encode_text(), by_name.model.encode_text()
    assert relative_error(text[seen:], start[seen:]) < 1e-5 and relative_error(text[:seen], start[:seen]) > 1e-3
    flags = ["--root", str(roots[1]), *PAIRS, "--eval-only", "--model-dir", str(tmp_path / "a")]
    elsewhere = toy_run("LAMM", tmp_path / "c", flags=flags)
    assert torch.equal(elsewhere.model.prompt_learner.vectors(), run.model.prompt_learner.vectors())


def test_a_linear_probe_says_which_class_it_has_no_image_of(tmp_path, toy_run, roots):
    with pytest.raises(UserError, match="training images of every class: MITStates has none of"):
        toy_run("LinearProbe", tmp_path, flags=["--root", str(roots[0]), *PAIRS], config="vit_b16")
