"""Who names only method, protocol, data set and shots gets the paper's or release's run: all of tests/recipes.

tests/recipes is a copy of the facts that were read in the releases; schedules.yaml says in its head how it is read.
"""

from pathlib import Path

import pytest
import yaml

import train
from benchmark.facts import CONFIGS, method_of, trainer_config
from benchmark.protocols import PROTOCOLS
from dassl.engine import TRAINER_REGISTRY
from prompting.forms import with_form

RECIPES = Path(__file__).with_name("recipes")
SHARED = Path(__file__).parents[2] / "shared/published"
SCHEDULES = yaml.safe_load((RECIPES / "schedules.yaml").read_text())
METHODS = {
    **{"coop": "CoOp", "cocoop": "CoCoOp", "kgcoop": "KgCoOp", "prograd": "ProGrad", "lasp": "LASP", "plot": "PLOT"},
    **{"maple": "MaPLe", "promptsrc": "PromptSRC", "lamm": "LAMM", "mocoop": "MoCoOp", "csp": "CSP"},
    "linear_probe": "LinearProbe",
}
IMAGES = (
    *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft"),
    *("sun397", "dtd", "eurosat", "ucf101"),
)
PAIRS = ("mit_states", "ut_zappos", "cgqa")

COMMON = {
    "epochs": "OPTIM.MAX_EPOCH",
    "warmup": "OPTIM.WARMUP_EPOCH",
    "lr": "OPTIM.LR",
    "optimizer": "OPTIM.NAME",
    "weight_decay": "OPTIM.WEIGHT_DECAY",
    "batch": "DATALOADER.TRAIN_X.BATCH_SIZE",
    "test_batch": "DATALOADER.TEST.BATCH_SIZE",
    "backbone": "MODEL.BACKBONE.NAME",
}
"""What schedules.yaml calls a config key; the others are those of the method's block, in capitals."""


def expected(plan, dataset, shots):
    """The values of a protocol's plan for a data set and shots; a string where it says why there are none."""
    of_data = plan.get("by_dataset", {}).get(dataset, {})
    if isinstance(of_data, str):
        return of_data
    of_shots = of_data.get("shots", {}).get(shots, {})
    values = {**plan.get("default", {}), **plan.get("by_shots", {}).get(shots, {}), **of_data, **of_shots}
    weights = values.pop("weights", {})
    return {k: v for k, v in (values | weights).items() if k not in ("shots", "note", "source", "inferred")}


def plans():
    """Every (method, protocol, data set, shots) of which there are values; protocols that are ours alone."""
    for method, trainer in METHODS.items():
        for protocol, plan in SCHEDULES[method].items():
            if protocol not in PROTOCOLS or not isinstance(plan, dict):
                continue
            datasets = [plan["train_on"]] if "train_on" in plan else PAIRS if protocol == "czsl" else IMAGES
            given = plan.get("shots_given") or [plan.get("default", {}).get("shots")]
            shots = (1, 2, 4, 8, 16) if given == [None] and protocol == "few_shot" else given
            for dataset in datasets:
                for k in shots:
                    yield pytest.param(trainer, protocol, dataset, k, plan, id=f"{trainer}-{protocol}-{dataset}-{k}")


def build(trainer, dataset, config):
    """The frozen config of a run, and the method's block of it with what its form says."""
    files = [
        "--dataset-config-file",
        CONFIGS / f"datasets/{dataset}.yaml",
        "--config-file",
        trainer_config(trainer, config),
    ]
    cfg = train.setup_cfg(train.parse_args([str(word) for word in (*files, "--trainer", trainer)]))
    registered = TRAINER_REGISTRY.get(trainer)
    return cfg, with_form(cfg, registered.section, registered.forms)


@pytest.mark.parametrize("trainer, protocol, dataset, shots, plan", list(plans()))
def test_the_recipe(trainer, protocol, dataset, shots, plan):
    wanted = expected(plan, dataset, shots)
    config, why = method_of(trainer).recipe(protocol, dataset, shots)
    if isinstance(wanted, str) or "config" in plan:  # the release does not state it
        assert "ours" in why or "not stated" in why or "inferred" in why or "config for ImageNet" in why, why
        wanted = {} if isinstance(wanted, str) else wanted
    agree(trainer, *build(trainer, dataset, config), wanted)


@pytest.mark.parametrize("base, config", [("coop", "vit_b16_ep50_coop"), ("maple", "vit_b16_ep5_batch4_maple")])
def test_lamm_on_other_prompts(base, config):
    plan = SCHEDULES["lamm"][f"few_shot_base_{base}"]
    for dataset in IMAGES:
        agree("LAMM", *build("LAMM", dataset, config), expected(plan, dataset, 16))


def test_csps_mix_and_coop():
    mix, czsl = SCHEDULES["csp"]["mix"], SCHEDULES["csp"]["czsl"]
    agree("CSP", *build("CSP", mix["dataset"], "vit_l14_ut_zappos"), expected(mix, mix["dataset"], None))
    cfg, options = build("CoOp", "mit_states", method_of("CoOp").recipe("czsl", "mit_states")[0])
    assert cfg.OPTIM.NAME == czsl["coop"]["optimizer"] and cfg.OPTIM.LR == 5e-5 and cfg.OPTIM.WEIGHT_DECAY == 1e-5
    assert options.CTX_INIT == czsl["coop"]["ctx_init"] and context(cfg, options, czsl["coop"]["n_ctx"])
    shared = ("backbone", "epochs", "batch", "transforms")
    agree("CSP", cfg, options, {key: czsl["default"][key] for key in shared})


def agree(trainer, cfg, options, wanted):
    """Whether a config has the values."""
    found = dict(of_block(trainer, options))
    for key, value in wanted.items():
        own = READ.get((trainer, key), READ.get(key))
        if own is not None:
            assert own(cfg, options, value), (key, value)
        elif key in COMMON:
            node = cfg
            for name in COMMON[key].split("."):
                node = node[name]
            assert node == value, (key, node)
        else:
            assert found[key.upper()] == value, key


def of_block(trainer, options):
    return {key: options[key] for key in options}.items()


def context(cfg, options, value):
    """N_CTX, or the words that replace it."""
    words = options.CTX_INIT.replace("_", " ").split()
    return value == (len(words) if words else options.N_CTX)


def is_key(key):
    return lambda cfg, options, value: options[key] == value


def or_default(read):
    """A value, or the one in "not stated in the release (train.py's default 5e-5)"."""
    return lambda cfg, options, value: read(cfg, options) == float(str(value).rpartition(" ")[2].rstrip(")"))


def no_part(*values):
    """What is no key of a config, but a constant of the code that other tests hold."""
    return lambda cfg, options, value: value in values


CSP_VIEWS = ["center_crop", "random_flip", "random_perspective", "random_rotation", "normalize"]
READ = {
    "n_ctx": context,
    "layernorm_lr": no_part("lr / 10"),  # tests/trainers/test_lasp.py
    ("MaPLe", "n_ctx"): is_key("N_CTX"),
    ("PromptSRC", "logits"): no_part(1),  # the weight of the KL divergence: tests/trainers/test_promptsrc.py
    ("PLOT", "logits"): lambda cfg, options, value: options.GLOBAL and value == "transport + global",
    ("ProGrad", "ctx_init"): lambda cfg, options, value: options.CTX_START == "template" and "template words" in value,
    ("LAMM", "ctx"): lambda cfg, options, value: value == options.TEMPLATE.removesuffix(" {}.") + " (frozen)",
    ("LAMM", "base"): is_key("BASE"),
    ("LAMM", "WC_reduction"): is_key("WC"),
    ("LAMM", "KD_target"): is_key("KD_TARGET"),
    ("LAMM", "KD_factor"): no_part(4),  # T squared: tests/trainers/test_lamm.py
    ("LAMM", "prompt_depth"): lambda cfg, options, value: cfg.TRAINER.MAPLE.PROMPT_DEPTH == value,
    ("LAMM", "n_ctx"): lambda cfg, options, value: (
        value == (cfg.TRAINER.MAPLE.N_CTX if options.BASE == "maple" else len(options.CTX_INIT.split()))
    ),
    ("LAMM", "ctx_init"): lambda cfg, options, value: (
        value == (cfg.TRAINER.MAPLE.CTX_INIT if options.BASE == "maple" else options.CTX_INIT)
    ),
    ("LinearProbe", "transforms"): lambda cfg, options, value: (
        value == "test" and list(cfg.INPUT.TRANSFORMS) == ["normalize"]
    ),
    # scikit-learn's LogisticRegression as tests/trainers/test_linear_probe.py asks for it
    **{("LinearProbe", key): no_part("lbfgs", "l2", 1000) for key in ("solver", "penalty", "max_iter")},
    ("LinearProbe", "first_search"): no_part([10.0**power for power in range(6, -7, -2)]),
    ("LinearProbe", "seeds"): no_part("--num_run, default 10"),
    ("CSP", "scheduler"): lambda cfg, options, value: list(cfg.OPTIM.STEPSIZE) == [-1] and value == "none",
    ("CSP", "lr"): or_default(lambda cfg, options: cfg.OPTIM.LR),
    ("CSP", "attr_dropout"): or_default(lambda cfg, options: options.ATTR_DROPOUT),
    ("CSP", "prec"): lambda cfg, options, value: options.PREC == "fp16" and value == "fp16 CLIP, fp32 vectors",
    ("CSP", "warmup"): lambda cfg, options, value: max(0, cfg.OPTIM.WARMUP_EPOCH) == value,
    ("CSP", "seed"): no_part(0),  # the command line's
    ("CSP", "context_length"): no_part(8),  # a prompt's own tokens are all that is encoded
    ("CSP", "transforms"): lambda cfg, options, value: (
        list(cfg.INPUT.TRANSFORMS) == CSP_VIEWS and cfg.INPUT.ROTATION == 5
    ),
}
"""(trainer, name in schedules.yaml) or name -> whether a config has the value, where it is not one key's."""


def test_ours_alone_says_so():
    """A protocol that a release does not state has no source in method.yaml."""
    for method, trainer in METHODS.items():
        for protocol, plan in SCHEDULES[method].items():
            if isinstance(plan, str) and protocol in method_of(trainer).configs and method != "coop":
                assert "ours" in method_of(trainer).recipe(protocol, "caltech101", 16)[1], (trainer, protocol)


def test_the_copies_are_what_was_published():
    if not SHARED.is_dir():
        pytest.skip("no ../shared/published: a clone has copies of it alone")
    for name in ("schedules.yaml", "templates.yaml"):
        assert (RECIPES / name).read_bytes() == (SHARED / "recipes" / name).read_bytes()
    for file in SHARED.glob("*.csv"):
        assert (CONFIGS.parent / "report/published" / file.name).read_bytes() == file.read_bytes()
