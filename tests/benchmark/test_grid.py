"""Grid files: their cross product, what they leave out, and mistakes in them."""

import random

import pytest
import yaml

from benchmark.facts import CONFIGS
from benchmark.grid import read_grid
from dassl.errors import UserError
from tests.mutants import mutant

BASE = {"protocol": "few_shot", "methods": ["CoOp"], "datasets": ["caltech101"], "shots": [1, 2], "seeds": [1]}


@pytest.fixture
def grid(tmp_path):
    """grid(*documents): what a file of them comes to; a document is BASE with changes."""

    def grid(*changes):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.dump_all([BASE | change for change in changes]))
        return read_grid(path)

    return grid


def folders(grid):
    return [run.folder for run in grid.runs]


def test_a_cross_product(grid):
    found = grid({"methods": ["ZeroshotCLIP", "CoOp/vit_b16"], "datasets": ["caltech101", "icons_rare"]})
    assert folders(found) == [
        *(f"{dataset}/ZeroshotCLIP/vit_b16/seed1" for dataset in ("caltech101", "icons_rare")),
        *(f"{d}/CoOp/vit_b16_{k}shots/seed1" for d in ("caltech101", "icons_rare") for k in (1, 2)),
    ]
    assert set(found.methods.values()) == {"ZeroshotCLIP", "CoOp"} and found.output == "output"


def test_a_method_of_its_own_kind(grid):
    method = {"trainer": "CoOp", "label": "csc", "shots": 4, "seeds": [2, 3], "datasets": "icons_rare"}
    method["overrides"] = {"TRAINER.COOP.CSC": True, "TRAINER.COOP.N_CTX": 4}
    found = grid({"methods": ["CoOp", method], "overrides": {"OPTIM.LR": 0.1}, "backbone": "RN50"})
    assert folders(found)[2:] == [f"icons_rare/CoOp/rn50_ep100-csc-RN50_4shots/seed{seed}" for seed in (2, 3)]
    plain, own = found.runs[0].arguments, found.runs[2].arguments
    assert plain[-2:] == ("OPTIM.LR", "0.1") and plain[plain.index("--backbone") + 1] == "RN50"
    assert own[-6:] == ("OPTIM.LR", "0.1", "TRAINER.COOP.CSC", "True", "TRAINER.COOP.N_CTX", "4")
    assert set(found.methods.values()) == {"CoOp", "CoOp (csc)"}


def test_a_trainer_of_the_users_own(grid):
    found = grid({"methods": ["Shift"]})
    assert folders(found) == [f"caltech101/Shift/default_{k}shots/seed1" for k in (1, 2)]
    assert found.runs[0].arguments[7] == str(CONFIGS / "trainers" / "default.yaml")


def test_a_label_is_in_the_name(grid):
    method = {"trainer": "CoOp", "label": "csc", "overrides": {"TRAINER.COOP.CSC": True}}
    assert set(grid({"methods": [method, "MoCoOp"]}).methods.values()) == {"CoOp (csc)", "MoCoOp"}


def test_exclusions(grid):
    methods = [{"trainer": "CoOp", "name": "ours"}, "CoCoOp"]
    exclude = [{"method": "ours", "shots": [2, 4]}, {"trainer": "CoCoOp", "shots": 1}]
    found = grid({"methods": methods, "exclude": exclude})
    assert [(found.methods[run.folder], run.shots) for run in found.runs] == [("ours", 1), ("CoCoOp", 2)]


def test_several_documents_share_runs(grid):
    transfer = {"protocol": "domain_generalization", "datasets": "icons_rare", "shots": 16}
    plain = {"datasets": "icons_rare_outline", "shots": 16, "methods": ["CoOp/vit_b16_ep50_ctxv1"]}
    found = grid(plain, transfer | {"output": "there"})
    assert found.protocols == ("few_shot", "domain_generalization") and found.output == "there"
    assert len(found.runs) == 6 and len({run.folder for run in found.runs}) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": ["CoOp"]}, "unknown key method in a grid: did you mean methods?"),
        ({"methods": [{"trainer": "CoOp", "confg": "x"}]}, "did you mean config"),
        ({"protocol": "fewshot"}, "did you mean few_shot"),
        ({"methods": ["CSP"]}, "few_shot does not suit CSP: it supports czsl"),
        ({"methods": ["CoOp/rn49"]}, "trainers/CoOp/rn49.yaml"),
        ({"datasets": ["caltech"]}, "did you mean caltech101"),
        ({"shots": [1, "many"]}, "grid.yaml: shots[1] is 'many': give a whole number"),
        ({"shots": 0}, "shots[0] is 0: it should be greater than"),
        ({"seeds": [1, True]}, "seeds[1] is True: give a whole number"),
        ({"seeds": 2**32}, "seeds[0] is 4294967296: it should be less than"),
        ({"seeds": None}, "seeds of CoOp are not given"),
        ({"datasets": [7]}, "datasets[0] is 7: give text, in quotes"),
        ({"protocol": ["few_shot"]}, "protocol is ['few_shot']: give text"),
        ({"methods": ["CoOp", {"trainer": "CoOp", "label": "../x"}]}, "methods[1].label is '../x': give the name"),
        ({"overrides": {"OPTIM.LR": {"x": 1}}}, "overrides.OPTIM.LR is {'x': 1}: give text, a number"),
        ({"backbone": "a\nb"}, "backbone is 'a\\nb': give one line"),
        ({"methods": [{"trainer": "CoOp", "overrides": {"A": 1}}]}, "need a label"),
        ({"methods": ["CoOp", {"trainer": "CoOp", "config": "vit_b16", "name": "CoOp"}]}, "a name"),
        ({"methods": ["CoOp"], "exclude": [{"trainers": "CoOp"}]}, "unknown key trainers in an exclusion"),
        ({"exclude": [{"trainer": "CoOp"}]}, "produces no runs"),
        ({"overrides": {"DATASET.SUBSAMPLE_CLASSES": "new"}}, "DATASET.SUBSAMPLE_CLASSES cannot be overridden"),
        ({"methods": [3]}, "not 3"),
    ],
)
def test_mistakes(change, words, grid):
    with pytest.raises(UserError) as error:
        grid(change)
    assert words in str(error.value) and "grid.yaml: " in str(error.value)


def test_the_document_with_a_mistake_is_named(grid):
    with pytest.raises(UserError, match=r"grid.yaml: document 2: methods\[0\]: unknown key confg in a method"):
        grid({}, {"methods": {"trainer": "CoOp", "confg": "x"}})


def test_values_that_are_not_what_they_should_be(tmp_path):
    rng = random.Random(0)
    path, known = tmp_path / "grid.yaml", [path.read_text() for path in sorted(CONFIGS.glob("grids/*.yaml"))]
    refused = 0
    for _ in range(200):
        document = mutant(rng.choice(list(yaml.safe_load_all(rng.choice(known)))), rng)
        path.write_bytes(yaml.safe_dump(document, allow_unicode=False).encode())
        try:
            read_grid(path)
        except UserError as error:
            refused += str(error).isprintable()
    assert refused > 100, "nothing but a mistake in one line may come of it"


@pytest.mark.parametrize("content", ["a: [", "", "- 1", "a: 2021-13-45", "a: !!bool x", "[" * 5000, "a: &a [*a]", None])
def test_no_grid(content, tmp_path):
    path = tmp_path / "grid.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="grid.yaml"):
        read_grid(path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("grids/*.yaml")), ids=lambda path: path.stem)
def test_shipped_grids(path):
    grid = read_grid(path)
    placed = [run.needs is None or grid.runs.index(run.needs) < i for i, run in enumerate(grid.runs)]
    assert placed and all(placed)
