"""The config: Dassl's defaults, and merges whose errors say where and what."""

import ast
import importlib
import math
import re

import pytest
from yacs.config import CfgNode

from dassl.config import (
    check_ranges,
    clean_cfg,
    get_cfg_default,
    merge_from_file,
    merge_from_list,
    require,
    without_effect,
)
from dassl.config.defaults import DASSLS
from dassl.data.datasets import DatasetBase
from dassl.engine import TrainerX
from dassl.utils import UserError
from tests.conftest import REPO

KEYS = {
    "INPUT": "SIZE INTERPOLATION TRANSFORMS NO_TRANSFORM VIEWS PIXEL_MEAN PIXEL_STD CROP_PADDING RRCROP_SCALE "
    "CUTOUT_N CUTOUT_LEN GN_MEAN GN_STD RANDAUGMENT_N RANDAUGMENT_M COLORJITTER_B COLORJITTER_C "
    "COLORJITTER_S COLORJITTER_H RGS_P GB_P GB_K PERSPECTIVE_SCALE PERSPECTIVE_P ROTATION",
    "DATASET": "ROOT NAME SOURCE_DOMAINS TARGET_DOMAINS NUM_LABELED NUM_SHOTS VAL_PERCENT STL10_FOLD "
    "CIFAR_C_TYPE CIFAR_C_LEVEL ALL_AS_UNLABELED SUBSAMPLE_CLASSES STYLES BACKBONES",
    "DATALOADER": "NUM_WORKERS K_TRANSFORMS RETURN_IMG0 TRAIN_X TRAIN_U TEST CACHE_GB",
    "MODEL": "INIT_WEIGHTS BACKBONE HEAD",
    "OPTIM": "NAME LR WEIGHT_DECAY MOMENTUM SGD_DAMPNING SGD_NESTEROV RMSPROP_ALPHA ADAM_BETA1 ADAM_BETA2 ADAM_EPS "
    "STAGED_LR NEW_LAYERS BASE_LR_MULT LR_SCHEDULER STEPSIZE GAMMA MAX_EPOCH WARMUP_EPOCH WARMUP_TYPE "
    "WARMUP_CONS_LR WARMUP_MIN_LR WARMUP_RECOUNT",
    "TRAIN": "CHECKPOINT_FREQ PRINT_FREQ COUNT_ITER COMPILE FEATURE_CACHE FEATURES_GB LOGGERS",
    "TEST": "EVALUATOR PER_CLASS_RESULT COMPUTE_CMAT NO_TEST SPLIT FINAL_MODEL FEATURE_CACHE CURVE_PLOT METRICS",
    "TRAINER": "NAME MCD MME CDAC SE M3SDA DAEL CROSSGRAD DDAIG DAELDG DOMAINMIX ENTMIN MIXMATCH MEANTEACHER FIXMATCH",
}


def test_defaults_are_those_of_dassl():
    cfg = get_cfg_default()
    assert set(cfg) == {
        "VERSION",
        "OUTPUT_DIR",
        "RESUME",
        "SEED",
        "USE_CUDA",
        "DETERMINISTIC",
        "TF32",
        "VERBOSE",
        "RELEASE",
        "FEATURES_LIMIT_GB",
        *KEYS,
    }
    assert {name: set(cfg[name]) for name in KEYS} == {name: set(keys.split()) for name, keys in KEYS.items()}
    assert (cfg.OUTPUT_DIR, cfg.SEED, cfg.INPUT.SIZE) == ("./output", -1, (224, 224))
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.WEIGHT_DECAY) == ("adam", 3e-4, 5e-4)
    assert (cfg.TEST.FINAL_MODEL, cfg.TRAIN.COUNT_ITER) == ("last_step", "train_x")
    ours = cfg.DATASET.SUBSAMPLE_CLASSES, cfg.DATALOADER.CACHE_GB, cfg.TEST.FEATURE_CACHE, cfg.DETERMINISTIC
    assert ours == ("all", 4.0, True, False)


def test_defaults_are_fresh_each_time():
    get_cfg_default().OPTIM.LR = 7.0
    get_cfg_default().INPUT.PIXEL_MEAN.append(7.0)
    assert get_cfg_default().OPTIM.LR == 3e-4
    assert len(get_cfg_default().INPUT.PIXEL_MEAN) == 3


def test_clean_cfg_keeps_the_trainers_own_block():
    cfg = get_cfg_default()
    clean_cfg(cfg, "FixMatch")
    assert set(cfg.TRAINER) == {"NAME", "FIXMATCH"}


def test_merge_from_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "OPTIM:\n  NAME: sgd\n  LR: 1\n  WARMUP_CONS_LR: 1e-5\nINPUT:\n  SIZE: [64, 64]\n  TRANSFORMS: [normalize]\n"
    )
    cfg = get_cfg_default()
    merge_from_file(cfg, path)
    assert (cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.WARMUP_CONS_LR) == ("sgd", 1.0, 1e-5)
    assert isinstance(cfg.OPTIM.LR, float)
    assert (cfg.INPUT.SIZE, cfg.INPUT.TRANSFORMS) == ((64, 64), ("normalize",))
    assert cfg.OPTIM.MOMENTUM == 0.9, "keys beside the merged ones keep their values"
    path.write_text("")
    merge_from_file(cfg, path)


def test_merge_from_list():
    cfg = get_cfg_default()
    merge_from_list(cfg, ["OPTIM.LR", "0.002", "SEED", 3, "DATASET.ROOT", "~/d"])
    merge_from_list(cfg, ["DATASET.SOURCE_DOMAINS", "['a', 'b']", "DATALOADER.CACHE_GB", "0"])
    assert (cfg.OPTIM.LR, cfg.SEED, cfg.DATASET.ROOT) == (0.002, 3, "~/d")
    assert cfg.DATASET.SOURCE_DOMAINS == ("a", "b")
    assert cfg.DATALOADER.CACHE_GB == 0.0


def test_key_without_default_takes_any_type_again_and_again(tmp_path):
    cfg = get_cfg_default()
    cfg.TRAINER.X = CfgNode({"GROUPS": None})
    (tmp_path / "a.yaml").write_text("TRAINER:\n  X:\n    GROUPS: [[a], [b]]\n")
    merge_from_file(cfg, tmp_path / "a.yaml")
    copy = cfg.clone()
    merge_from_list(copy, ["TRAINER.X.GROUPS", "auto"])
    assert cfg.TRAINER.X.GROUPS == [["a"], ["b"]] and copy.TRAINER.X.GROUPS == "auto"
    merge_from_list(copy, ["TRAINER.X.GROUPS", "[['c']]"])
    assert copy.TRAINER.X.GROUPS == [["c"]]


def test_node_that_allows_new_keys_takes_them(tmp_path):
    cfg = get_cfg_default()
    cfg.TRAINER.MCD.set_new_allowed(True)
    (tmp_path / "c.yaml").write_text("TRAINER: {MCD: {DEEP: {X: 1}}}")
    merge_from_file(cfg, tmp_path / "c.yaml")
    assert cfg.TRAINER.MCD.DEEP.X == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OPTIM:\n  LRR: 1\n", ["OPTIM.LRR", "did you mean LR"]),
        ("OPTIN:\n  LR: 1\n", ["OPTIN", "did you mean OPTIM"]),
        ("OPTIM:\n  LR: {A: 1}\n", ["OPTIM.LR", "a number"]),
        ("OPTIM:\n  MAX_EPOCH: 1.5\n", ["OPTIM.MAX_EPOCH", "a whole number", "1.5"]),
        ("OPTIM: 3\n", ["OPTIM", "keys of its own", "3"]),
        ("USE_CUDA: 1\n", ["USE_CUDA", "True or False"]),
        ("DATASET:\n  NAME: 2020-01-01\n", ["DATASET.NAME", "text"]),
        ("- OPTIM\n", ["KEY: VALUE", "list"]),
        ("OPTIM: [\n", ["not valid yaml"]),
    ],
)
def test_bad_file_is_a_user_error_that_names_file_and_key(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        merge_from_file(get_cfg_default(), path)
    line = str(error.value)
    assert "\n" not in line
    for word in [str(path), *words]:
        assert word in line


def test_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml"):
        merge_from_file(get_cfg_default(), tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["OPTIM.LR"], "OPTIM.LR has no value"),
        (["OPTIM.LRR", "1"], "OPTIM.LRR.*did you mean LR"),
        (["OPTIM.LR.X", "1"], "OPTIM.LR is a number"),
        (["TRAINER.XYZ.Q", "1"], "TRAINER.XYZ.Q in TRAINER: .*MCD"),
        (["OPTIM.LR", "fast"], "OPTIM.LR takes a number, not 'fast'"),
        (["OPTIM.SGD_NESTEROV", "true"], "OPTIM.SGD_NESTEROV takes True or False, not 'true'"),
        (["OPTIM.LR", True], "OPTIM.LR takes a number, not True"),
    ],
)
def test_bad_arguments_are_a_user_error(opts, words):
    with pytest.raises(UserError, match=words):
        merge_from_list(get_cfg_default(), opts)


@pytest.mark.parametrize(
    ("limits", "taken", "refused", "message"),
    [
        ({"at_least": 0}, (0, 0.5), (-0.1, float("nan"), "a"), "give 0 or more"),
        ({"above": 0}, (1e-9,), (0, -1, "a"), "give a number above 0"),
        ({"at_least": 1, "at_most": 4, "note": "the number of groups"}, (1, 4), (0, 5), "give 1 to 4, the number of"),
        ({"at_least": 0, "below": 1}, (0, 0.99), (1, -1), "give 0 to below 1"),
        ({"above": 0, "at_most": 1}, (1,), (0, 1.01), "give a number above 0, up to 1"),
        ({"one_of": ("end", "front")}, ("end",), ("emd",), 'unknown TRAINER.X.KEY "emd": did you mean end?'),
    ],
)
def test_require(limits, taken, refused, message):
    cfg = get_cfg_default()
    for value in (*taken, *refused):
        cfg.TRAINER.X = CfgNode({"KEY": value})
        if value in taken:
            require(cfg, "TRAINER.X.KEY", **limits)
        else:
            with pytest.raises(UserError) as error:
                require(cfg, "TRAINER.X.KEY", **limits)
            told = message if "one_of" in limits else f"TRAINER.X.KEY is {value}: {message}"
            assert str(error.value).startswith(told)


def keys(node, prefix=""):
    for name, value in node.items():
        yield from keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [prefix + name]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("SEED", 2**32, "a number below 4294967296"),
        ("INPUT.SIZE", (0, 0), "1 or more"),
        ("INPUT.PIXEL_STD", [0.2, 0.0, 0.2], "a number above 0"),
        ("INPUT.RRCROP_SCALE", (2, 1), "a number above 0, up to 1"),
        ("INPUT.RRCROP_SCALE", (0.9, 0.1), "the smallest share of the area, then the largest"),
        ("INPUT.RRCROP_SCALE", (0.5,), "the smallest share"),
        ("INPUT.RRCROP_SCALE", ("a", "b"), "a number"),
        ("INPUT.CUTOUT_N", 10**6, "0 to 1000"),
        ("INPUT.COLORJITTER_H", 0.6, "0 to 0.5"),
        ("INPUT.CROP_PADDING", 10**30, "no run can use such a number"),
        ("DATALOADER.NUM_WORKERS", -1, "0 or more"),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", 0, "1 or more"),
        ("DATALOADER.TEST.BATCH_SIZE", -2, "1 or more"),
        ("OPTIM.LR", math.nan, "no run can use such a number"),
        ("OPTIM.LR", -0.1, "0 or more"),
        ("OPTIM.GAMMA", -0.1, "0 or more"),
        ("OPTIM.WARMUP_MIN_LR", 1e300, "no run can use such a number"),
        ("OPTIM.ADAM_BETA2", 1.0, "0 to below 1"),
        ("TRAINER.DDAIG.ALPHA", math.inf, "no run can use such a number"),  # of whichever trainer
        ("TEST.FINAL_MODEL", "best", "did you mean best_val"),
    ],
)
def test_values_that_no_run_can_use(key, value, words):
    cfg = get_cfg_default()
    check_ranges(cfg)
    node = cfg
    for name in key.split(".")[:-1]:
        node = node[name]
    node[key.split(".")[-1]] = value
    with pytest.raises(UserError, match=f"{re.escape(key)}.*{re.escape(words)}"):
        check_ranges(cfg)


def test_seeds_shots_and_warm_ups_may_be_none():
    cfg = get_cfg_default()
    cfg.SEED = cfg.DATASET.NUM_SHOTS = cfg.OPTIM.WARMUP_EPOCH = cfg.TRAIN.PRINT_FREQ = -5
    cfg.OPTIM.MAX_EPOCH = 0  # of what does not train by epochs
    check_ranges(cfg)
    cfg.SEED = 2**32 - 1
    check_ranges(cfg)


def test_what_is_called_dassls_is_what_no_code_reads():
    files = [p for folder in ("dassl", "datasets", "prompting", "trainers") for p in (REPO / folder).rglob("*.py")]
    nodes = [n for p in files if p.name not in ("defaults.py", "keys.py") for n in ast.walk(ast.parse(p.read_text()))]
    read = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    read |= {n.value.rpartition(".")[2] for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert [key for key in DASSLS if key.rpartition(".")[2] in read] == []
    others = [key for key in keys(get_cfg_default()) if not {key, key.rpartition(".")[0]} & set(DASSLS)]
    of_the_benchmark = {"DATASET.STYLES"}
    assert {key for key in others if key.rpartition(".")[2] not in read} == of_the_benchmark


def test_setting_a_key_that_nothing_reads_is_told(tmp_path, monkeypatch):
    cfg = get_cfg_default()
    cfg.TRAINER.MINE = CfgNode({"LMDA": 1})
    set_to = ["OPTIM.LR", 0.1, "TRAINER.MCD.N_STEP_F", 2, "TRAINER.MINE.LMDA", 2, "DATASET.CIFAR_C_LEVEL", 3]
    merge_from_list(cfg, [*set_to, "DATASET.STL10_FOLD", 1, "TRAINER.FIXMATCH.WEIGHT_U", 2.0, "TRAINER.MME.LMDA", 0.1])
    told = ["DATASET.STL10_FOLD", "DATASET.CIFAR_C_LEVEL", "TRAINER.MCD.N_STEP_F", "TRAINER.FIXMATCH.WEIGHT_U"]
    assert without_effect(cfg, TrainerX, DatasetBase) == told
    cfg.TRAINER.NAME = "FixMatch"
    assert without_effect(cfg, TrainerX, DatasetBase) == told[:-1]
    (tmp_path / "reads_a_fold.py").write_text("class Reader:\n    fold = 'STL10_FOLD'")
    monkeypatch.syspath_prepend(tmp_path)
    assert without_effect(cfg, TrainerX, importlib.import_module("reads_a_fold").Reader) == told[1:-1]
    (tmp_path / "merges_a_list.py").write_text("class Reader:\n    changes = ['DATASET.STL10_FOLD', 2]")
    assert without_effect(cfg, TrainerX, importlib.import_module("merges_a_list").Reader) == told[1:-1]
    assert without_effect(get_cfg_default(), TrainerX, DatasetBase) == []
