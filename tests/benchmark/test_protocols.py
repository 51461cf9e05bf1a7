"""The runs of each protocol, by hand: folders, arguments, needs; and what a folder tells."""

import shutil

import pytest
import yaml

import datasets.icons
import train
from benchmark import facts
from benchmark.place import Place, command
from benchmark.protocol import Point
from benchmark.protocols import PROTOCOLS, identify, named, recipe_of, runs_of
from dassl.errors import UserError

CONFIGS, METHODS = facts.CONFIGS, facts.methods()
IMAGENET = {"TRAINER": {"MOCOOP": {"GROUPS": [["a {}."]]}}}


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    """Config files of all datasets, and of all trainers one named c; they hold nothing but the groups of ImageNet."""
    targets = [protocol.targets.items() for protocol in PROTOCOLS.values()]
    names = {name for pairs in targets for source, tested in pairs for name in (source, *tested)}
    for path in [
        "datasets/mit_states",
        *(f"datasets/{name}" for name in names),
        *(f"trainers/{m.name}/c" for m in METHODS),
    ]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{path}.yaml").write_text(yaml.dump(IMAGENET if path.endswith("/imagenet") else {}))
    kept = [*CONFIGS.glob("datasets/icons_*.yaml"), *CONFIGS.glob("trainers/*/method.yaml")]
    for file in kept:
        shutil.copy(file, tmp_path / file.relative_to(CONFIGS))
    monkeypatch.setattr(facts, "CONFIGS", tmp_path)
    for cached in (facts.method_of, facts.read_yaml, facts.styles, facts.styled):
        cached.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    for cached in (facts.method_of, facts.read_yaml, facts.styles, facts.styled):
        cached.cache_clear()


def told(run, configs):
    """A run's command, without what all have."""
    words = command(run, Place("/data", "/out"))
    assert words[:4] == ["--root", "/data", "--output-dir", f"/out/{run.folder}"]
    words = " ".join(words[4:]).replace(str(configs), "C")
    return words.replace(f" --config-file C/trainers/{run.trainer}/c.yaml", "")


def test_few_shot(configs):
    (run,) = runs_of("few_shot", [Point("dtd", 4, "CoOp", "c", 2, backbone="RN50")])
    assert (run.folder, run.part) == ("dtd/CoOp/c-RN50_4shots/seed2", "train")
    assert told(run, configs) == (
        "--seed 2 --trainer CoOp --dataset-config-file C/datasets/dtd.yaml --backbone RN50 DATASET.NUM_SHOTS 4"
    )
    (run,) = runs_of("few_shot", [Point("dtd", None, "ZeroshotCLIP", "c", 1)])
    assert (run.folder, run.part) == ("dtd/ZeroshotCLIP/c/seed1", "test")
    assert told(run, configs) == (
        "--seed 1 --trainer ZeroshotCLIP --dataset-config-file C/datasets/dtd.yaml --eval-only"
    )


def test_base2new(configs):
    base, new = runs_of("base2new", [Point("dtd", 16, "MoCoOp", "c", 1)])
    assert base.folder == "base2new/train_base/dtd/shots_16/MoCoOp/c/seed1"
    assert new.folder == "base2new/test_new/dtd/shots_16/MoCoOp/c/seed1" and new.needs == base
    same = "--seed 1 --trainer MoCoOp --dataset-config-file C/datasets/dtd.yaml "
    assert told(base, configs) == same + "DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base"
    assert told(new, configs) == (
        f"--model-dir /out/{base.folder} {same}--eval-only DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES new"
    )
    base, new = runs_of("base2new", [Point("dtd", None, "ZeroshotCLIP2", "c", 1)])
    assert base.folder == "base2new/test_base/dtd/ZeroshotCLIP2/c/seed1" and base.needs is None
    assert new.folder == "base2new/test_new/dtd/ZeroshotCLIP2/c/seed1" and new.needs is None
    assert told(new, configs).endswith("dtd.yaml --eval-only DATASET.SUBSAMPLE_CLASSES new")


def test_incremental(configs, tmp_path):
    first, second, after, all_ = runs_of("incremental", [Point("dtd", 8, "LAMM", "c", 3)])
    folders = [f"incremental/{part}/dtd/shots_8/LAMM/c/seed3" for part in ("train_base", "train_new", "test_base")]
    assert [first.folder, second.folder, after.folder] == folders
    assert [run.needs for run in (first, second, after, all_)] == [None, first, second, second]
    assert told(all_, configs).startswith(f"--model-dir /out/{second.folder} --seed 3")
    assert told(all_, configs).endswith("--eval-only DATASET.NUM_SHOTS 8 DATASET.SUBSAMPLE_CLASSES all")

    learner = tmp_path / first.folder / "prompt_learner"
    learner.mkdir(parents=True)
    for name in ("checkpoint", "model.pth.tar-50"):
        (learner / name).touch()
    place = Place(output=str(tmp_path))
    assert command(second, place)[-2:] == ["MODEL.INIT_WEIGHTS", str(learner / "model.pth.tar-50")]
    (learner / "model-best.pth.tar").touch()
    assert command(second, place)[-2:] == ["MODEL.INIT_WEIGHTS", str(learner / "model-best.pth.tar")]


def test_czsl(configs):
    closed, opened = runs_of("czsl", [Point("mit_states", None, "CSP", "c", 1)])
    assert (closed.folder, closed.needs) == ("czsl/closed/mit_states/CSP/c/seed1", None)
    assert (opened.folder, opened.needs) == ("czsl/open/mit_states/CSP/c/seed1", closed)
    assert told(opened, configs).endswith("--eval-only TRAINER.CSP.OPEN_WORLD True")
    (closed,) = runs_of("czsl", [Point("mit_states", None, "CoOp", "c", 1)])
    assert "--eval-only" not in told(closed, configs)
    pairs = ("TRAINER.COOP.PAIRS", "True")
    closed, opened = runs_of("czsl", [Point("mit_states", None, "CoOp", "c", 1, overrides=pairs, label="pairs")])
    assert opened.needs == closed and "TRAINER.COOP.OPEN_WORLD True" in told(opened, configs)
    pairs = ("TRAINER.ZEROSHOTCLIP.PAIRS", "True")
    closed, opened = runs_of(
        "czsl", [Point("mit_states", None, "ZeroshotCLIP", "c", 1, overrides=pairs, label="pairs")]
    )
    assert opened.needs is None and "TRAINER.ZEROSHOTCLIP.OPEN_WORLD True" in told(opened, configs)


def test_cross_dataset(configs):
    learned, *tests = runs_of("cross_dataset", [Point("imagenet", 16, "CoOp", "c", 1)])
    assert learned == runs_of("few_shot", [Point("imagenet", 16, "CoOp", "c", 1)])[0]
    assert len(tests) == 10 and all(run.needs == learned for run in tests)
    assert tests[1].folder == "evaluation/CoOp/c_16shots/oxford_pets/seed1"
    assert told(tests[1], configs) == (
        "--model-dir /out/imagenet/CoOp/c_16shots/seed1 --seed 1 --trainer CoOp "
        "--dataset-config-file C/datasets/oxford_pets.yaml --eval-only DATASET.NUM_SHOTS 16"
    )
    # the groups that the model was trained with hold on a dataset that has others
    _, moved, *_ = runs_of("cross_dataset", [Point("imagenet", 16, "MoCoOp", "c", 1)])
    assert told(moved, configs).endswith("TRAINER.MOCOOP.GROUPS [['a {}.']]")
    # but for what its own config says, which won in training, too
    (configs / "trainers/MoCoOp/own.yaml").write_text(yaml.dump({"TRAINER": {"MOCOOP": {"GROUPS": [["the {}."]]}}}))
    _, moved, *_ = runs_of("cross_dataset", [Point("imagenet", 16, "MoCoOp", "own", 1)])
    assert "GROUPS" not in told(moved, configs)


def test_domain_generalization(configs):
    _, *tests = runs_of("domain_generalization", [Point("imagenet", 16, "CoOp", "c", 1)])
    assert [run.dataset for run in tests] == ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
    learned, *tests = runs_of("domain_generalization", [Point("icons_rare", 16, "MaPLe", "c", 1)])
    assert learned.folder == "icons_rare_outline/MaPLe/c_16shots/seed1"
    for run, style in ((learned, "outline"), (tests[3], "hand-drawn")):
        args = train.parse_args(command(run, Place()))
        assert (args.source_domains, args.target_domains, args.backbone) == (["outline"], [style], "icon-clip-vit")
        assert args.eval_only == (run is not learned) and args.opts[:2] == ["DATASET.NUM_SHOTS", "16"]
    assert tests[3].folder == "evaluation/MaPLe/c_16shots/icons_rare_hand-drawn/seed1"
    assert [run.dataset.removeprefix("icons_rare_") for run in tests] == list(datasets.icons.STYLES[1:])


def test_overrides_have_a_folder_of_their_own(configs):
    plain = Point("dtd", 16, "CoOp", "c", 1)
    more = Point("dtd", 16, "CoOp", "c", 1, overrides=("TRAINER.COOP.CSC", "True"), label="csc")
    _, run = runs_of("few_shot", [plain, more])
    assert run.folder == "dtd/CoOp/c-csc_16shots/seed1" and run.config == "c-csc"
    assert told(run, configs).endswith("NUM_SHOTS 16 TRAINER.COOP.CSC True")
    assert runs_of("few_shot", [plain, plain]) == runs_of("few_shot", [plain])
    with pytest.raises(UserError, match="share the folder dtd/CoOp/c_16shots/seed1"):
        runs_of("few_shot", [plain, Point("dtd", 16, "CoOp", "c", 1, overrides=("OPTIM.LR", "1"))])


def test_the_config_of_a_trainer_without_one(configs):
    point = Point("dtd", 16, "Shift", facts.method_of("Shift").recipe("base2new")[0], 1)
    with pytest.raises(UserError, match="trainers/default.yaml"):
        runs_of("base2new", [point])
    (configs / "trainers/default.yaml").touch()
    base, new = runs_of("base2new", [point])
    assert new.folder == "base2new/test_new/dtd/shots_16/Shift/default/seed1"
    assert told(base, configs).split()[6:8] == ["--config-file", "C/trainers/default.yaml"]
    (configs / "trainers/Shift").mkdir()
    (configs / "trainers/Shift/default.yaml").touch()
    base, _ = runs_of("base2new", [point])
    assert f"{configs}/trainers/Shift/default.yaml" in base.arguments, "its own of that name"


@pytest.fixture
def recipes(configs):
    """Mine: one config for its few-shot runs; base to new by shots and data set."""
    facts.method_of.cache_clear()
    base2new = {
        "source": "Mine: scripts",
        "default": "c",
        "by_shots": {1: "c1"},
        "by_dataset": {"dtd": {"config": "d", "why": "seen in a log", "shots": {8: "d8"}}, "eurosat": "e"},
    }
    cross = {"by_dataset": {"imagenet": "c"}}
    (configs / "trainers/Mine").mkdir()
    for name in ("c", "c1", "d", "d8", "e"):
        (configs / f"trainers/Mine/{name}.yaml").touch()
    tree = {"configs": {"few_shot": "c", "base2new": base2new, "cross_dataset": cross}}
    (configs / "trainers/Mine/method.yaml").write_text(yaml.dump(tree))


@pytest.mark.parametrize(("dataset", "shots", "config", "why"), [
    ("food101", 16, "c", "default: Mine: scripts"),
    ("food101", 1, "c1", "1 shots: Mine: scripts"),
    ("eurosat", 1, "e", "eurosat: Mine: scripts"),
    ("dtd", 1, "d", "dtd: seen in a log"),
    ("dtd", 8, "d8", "dtd, 8 shots: Mine: scripts"),
])  # fmt: skip
def test_a_recipe(recipes, dataset, shots, config, why):
    assert recipe_of("Mine", "base2new", dataset, shots) == (config, why)


def test_where_no_recipe_is_published(recipes):
    assert recipe_of("Mine", "few_shot", "dtd", 1) == ("c", "ours: no recipe of Mine for few_shot is published")
    with pytest.raises(UserError, match="^Mine has no recipe for cross_dataset on dtd: there are those of imagenet"):
        recipe_of("Mine", "cross_dataset", "dtd", 16)


def test_a_recipe_is_one_method(recipes):
    def name(dataset, config, shots=16, protocol="base2new"):
        identity = {"trainer": "Mine", "protocol": protocol, "dataset": dataset, "config": config, "shots": shots}
        return named(identity)

    assert name("food101", "c") == name("eurosat", "e") == name("dtd", "d8", 8) == "Mine"
    assert name("dtd", "c") == "Mine (c)" and name("dtd", "d-top1") == "Mine (top1)"
    assert name("dtd", "c", protocol="cross_dataset") == "Mine", "tested on a target of the data set it learned"


def test_unknown_keys_of_a_recipe(configs):
    facts.method_of.cache_clear()
    (configs / "trainers/Mine").mkdir()
    (configs / "trainers/Mine/method.yaml").write_text(yaml.dump({"configs": {"few_shot": {"by_shot": {1: "c"}}}}))
    with pytest.raises(UserError, match="unknown key by_shot: did you mean by_shots"):
        facts.method_of("Mine")


@pytest.mark.parametrize(
    ("config", "label"),
    [("c", ""), ("c-csc", "csc"), ("c-two-words", "two-words"), ("c-MAX_EPOCH2", "MAX_EPOCH2"), ("other-csc", "csc")],
)
def test_the_label_in_a_folders_config(config, label, configs):
    assert facts.label_in("CoOp", config) == label
    (configs / f"trainers/CoOp/{config}.yaml").touch()
    assert facts.label_in("CoOp", config) == ""
    assert facts.label_in("CoOp", f"{config}-x") == "x"


def test_the_device_has_the_last_word(configs):
    (run,) = runs_of("few_shot", [Point("dtd", 4, "CoOp", "c", 2)])
    assert command(run, Place(device="cpu"))[-2:] == ["USE_CUDA", "False"]
    assert command(run, Place(device="cuda"))[-2:] == ["USE_CUDA", "True"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_folder_tells_its_run(protocol):
    dataset = {"cross_dataset": "imagenet", "domain_generalization": "icons_common"}.get(protocol, "mit_states")
    for method in (method for method in METHODS if method.suits(protocol)):
        shots = 16 if "SHOTS" in PROTOCOLS[protocol].takes and method.trains else None
        for run in runs_of(protocol, [Point(dataset, shots, method.name, "c", 1)]):
            told = identify(run.folder)
            assert told == {key: getattr(run, key) for key in told} and len(told) == 7


def test_coops_own_folders():
    told = identify("caltech101/CoOp/rn50_16shots/nctx16_cscFalse_ctpend/seed1")
    assert (told["protocol"], told["config"], told["shots"]) == ("few_shot", "rn50-nctx16_cscFalse_ctpend", 16)
    told = identify("evaluation/CoOp/rn50_16shots/nctx16_cscFalse_ctpend/imagenet_a/seed1")
    assert (told["protocol"], told["dataset"]) == ("domain_generalization", "imagenet_a")
    assert identify("some/where/else") is None and identify("runs/base2new/train_base/a/shots_1/b/c/seed1") is None


@pytest.mark.parametrize(
    ("protocol", "point", "words"),
    [
        ("few_shot", Point("dtf", 16, "CoOp", "c", 1), "datasets/dtf.yaml: did you mean dtd?"),
        ("few_shot", Point("dtd", 16, "CoOp", "d", 1), "trainers/CoOp/d.yaml: known: c, default"),
        ("few_shot", Point("dtd", 16, "CoOp", "c", 1, overrides=("SEED", "4")), "SEED cannot be overridden"),
        ("base2new", Point("dtd", 16, "LinearProbe", "c", 1), "not suit LinearProbe: it supports few_shot"),
        ("cross_dataset", Point("imagenets", 16, "CoOp", "c", 1), "did you mean imagenet"),
        ("domain_generalization", Point("dtd", 16, "CoOp", "c", 1), "known: icons_blurred, icons_common, icons_edges"),
    ],
)
def test_mistakes(protocol, point, words):
    with pytest.raises(UserError) as error:
        runs_of(protocol, [point])
    assert words in str(error.value)
