"""docs/methods: every method has its page and its rows, and what they say of parameters, towers, protocols, configs and
published figures is what the code and the files say."""

import csv
import re
from types import SimpleNamespace

import pytest
import torch

import train
import trainers  # noqa: F401  registers them
from benchmark.facts import config_names, method_of, methods, trainer_config
from benchmark.protocols import PROTOCOLS
from dassl.engine import TRAINER_REGISTRY
from dassl.layout import flat
from prompting.openai_clip import model as openai_model
from prompting.text_encoder import TextEncoder
from tests.conftest import REPO

DOCS = REPO / "docs" / "methods"
OURS = sorted(n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).__module__[:9] == "trainers.")
PAGES = sorted(path for path in DOCS.glob("*.md") if path.name != "index.md")
HEADINGS = "Idea|Equations|Run it|Keys|Configs|Paper and release|Figures|Cost|Known differences".split("|")
SIZES = {
    "ViT-B/16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
}
"""The shapes of OpenAI's models, as the arguments of `clip.model.CLIP`."""

NAMES = ["ant", "bee", "crab", "dog"]  # of one token each


def page(trainer):
    """A trainer's page; both zero-shot CLIPs have one."""
    return DOCS / f"{trainer.lower().removesuffix('2')}.md"


def section(text, heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]


def tables(text):
    """The tables of a Markdown text: lists of rows, each a dict of the head's words."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        head, _, *rows = ([cell.strip() for cell in line.strip("|\n").split(" | ")] for line in block.splitlines())
        found.append([dict(zip(map(str.strip, head), map(str.strip, row), strict=True)) for row in rows])
    return found


def rows_of_index(heading):
    """{trainer: row} of the index's table under a heading; two trainers may share a row."""
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    (table,) = tables(section(text, heading) if heading else text.partition("\n## ")[0])
    return {name: row for row in table for name in re.findall(r"`(\w+)`", row["trainer"])}


@pytest.fixture(scope="module")
def built():
    """built(trainer): the trainer with its model, under its recipe for base2new, else for few_shot or czsl.

    The backbone has OpenAI's shapes; its weights are memory that nobody has written to.
    """
    empty = {}

    def clip(name):
        if name not in empty:
            with torch.device("meta"):
                empty[name] = openai_model.CLIP(*SIZES[name])
        return empty[name].to_empty(device="cpu").requires_grad_(False)

    def build(name):
        method = method_of(name)
        protocol = next(p for p in ("base2new", "few_shot", "czsl") if p in method.configs)
        dataset = "mit_states" if protocol == "czsl" else "caltech101"
        config = trainer_config(name, method.recipe(protocol, dataset, 16)[0])
        words = ["--trainer", name, "--config-file", config]
        words += ["--dataset-config-file", REPO / "configs" / "datasets" / f"{dataset}.yaml"]
        kind = TRAINER_REGISTRY.get(name)
        trainer = kind.__new__(kind)
        trainer.cfg, trainer.device = train.setup_cfg(train.parse_args([*map(str, words)])), torch.device("cpu")
        data = SimpleNamespace(classnames=NAMES)
        if protocol == "czsl":
            data = SimpleNamespace(attributes=["dark"], objects=["dog", "boat"], pairs=[(0, 0), (0, 1)], num_seen=1)
            data.classnames = ["dark dog", "dark boat"]
        trainer.dm, trainer.num_classes = SimpleNamespace(dataset=data), len(data.classnames)
        trainer.check_cfg(trainer.cfg)
        model = clip(trainer.cfg.MODEL.BACKBONE.NAME)
        trainer.model = trainer.build_prompted_clip(model, TextEncoder(model), data.classnames)
        return trainer

    return build


def test_every_trainer_has_its_page_and_its_rows():
    assert {page(name) for name in OURS} == set(PAGES) and {method.name for method in methods()} == set(OURS)
    for heading in ("", "Where they learn, and what that costs", "Protocols"):
        assert sorted(rows_of_index(heading)) == OURS
    for name, row in rows_of_index("").items():
        assert f"]({page(name).name})" in row["page"]
        assert (REPO / "scripts" / row["scripts/"].strip("`")).is_dir()


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_pages_have_the_same_headings_and_the_keys_of_their_section(file):
    text = file.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == HEADINGS
    (name,) = (name for name in OURS if page(name) == file and not name.endswith("2"))
    block = TRAINER_REGISTRY.get(name).section
    assert re.search(rf"^<!-- keys {block} -->\n.*^<!-- /keys -->\n", section(text, "Keys"), re.M | re.S)


@pytest.mark.parametrize("name", OURS)
def test_parameters_and_towers(name, built):
    trainer, facts = built(name), method_of(name)
    said, where = rows_of_index("")[name]["parameters"], rows_of_index("Where they learn, and what that costs")[name]
    learner = trainer.model.prompt_learner
    if name == "LinearProbe":  # fitted, not trained by gradients: its parameters are frozen
        count = sum(p.numel() for p in learner.parameters()) / len(NAMES)
    else:
        count = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    count /= {"LAMM": len(NAMES), "CSP": 3}.get(name, 1)
    assert int(said.split()[0].replace(",", "")) == count
    assert where["learns in"].startswith("text and image encoder") != trainer.frozen_image_encoder
    assert where["shares kept features"].startswith("yes") == trainer.frozen_image_encoder
    decided = {f"TRAINER.{trainer.section}.{key}": value for key, value in trainer.options.items()}  # by FORM
    needs = facts.need(flat(trainer.cfg) | decided) == "vit"
    assert where["needs a ViT"].startswith("yes") == needs
    for key, value in (facts.needs.get("vit") or {}).items():
        assert f"`{key.rpartition('.')[2]} {value}`" in where["needs a ViT"]


@pytest.mark.parametrize("name", OURS)
def test_protocols_and_configs_are_those_of_method_yaml(name):
    facts, row = method_of(name), rows_of_index("Protocols")[name]
    sources = {
        protocol: choice.get("source", "ours") if isinstance(choice, dict) else "ours"
        for protocol, choice in facts.configs.items()
    }
    told = {p: {"ours": "ours"}.get(sources[p], "read") if p in sources else "-" for p in PROTOCOLS}
    assert {p.strip("`"): word for p, word in row.items() if p != "trainer"} == told

    text = section(page(name).read_text(encoding="utf-8"), "Configs")
    assert set(config_names(name)) <= set(re.findall(r"[\w+]+", text))
    if name == "ZeroshotCLIP2":  # told in a sentence beside ZeroshotCLIP's table
        return
    (table,) = tables(text)
    assert {line["protocol"].strip("`"): line["read in"].strip("`") for line in table} == sources
    for line in table:
        named, protocol = re.findall(r"`([\w+]+)`", line["config"]), line["protocol"].strip("`")
        learned_on = "imagenet" if protocol in ("cross_dataset", "domain_generalization") else None
        wanted = [facts.recipe(protocol, learned_on, 16)[0]] if learned_on else facts.recipes(protocol)
        assert set(named) == set(wanted)


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_named_configs_exist_and_figures_are_printed_ones(file):
    text = file.read_text(encoding="utf-8")
    for path in re.findall(r"(?:`|-file )(configs/[\w/.+]+\.yaml)", text):
        assert (REPO / path).is_file(), path
    for code in re.findall(r"CFG=([\w+]+)", text):
        assert any(code in config_names(name) for name in OURS if page(name) == file), code

    printed = []
    for path in REPO.glob("report/published/*.csv"):
        with path.open(encoding="utf-8", newline="") as lines:
            printed += list(csv.DictReader(lines))
    own = {method_of(name).published or name for name in OURS if page(name) == file}
    for row in (row for table in tables(section(text, "Figures")) for row in table if "read in" in row):
        wanted = {"source": row["read in"], "dataset": row.get("data set", "average")}
        if "protocol" in row:
            wanted |= {"protocol": row["protocol"].strip("`"), "accuracy": row["average"], "method": min(own)}
        else:
            names = {"S": "seen", "U": "unseen"}
            wanted |= {names.get(key, key): row[key] for key in row if key not in ("read in", "data set")}
        assert any(wanted.items() <= known.items() for known in printed), wanted


@pytest.mark.parametrize("file", [*PAGES, DOCS / "index.md"], ids=lambda file: file.stem)
def test_equations_can_be_set(file):
    convert = pytest.importorskip("latex2mathml.converter").convert
    text = re.sub(r"```.*?```|`[^`\n]*`", "", file.read_text(encoding="utf-8"), flags=re.S)
    shown = re.findall(r"\$\$(.+?)\$\$", text, re.S)
    inline = re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.+?\$\$", "", text, flags=re.S))
    assert shown and re.sub(r"\$\$.+?\$\$", "", text, flags=re.S).count("$") == 2 * len(inline)
    for formula in shown + inline:
        assert not re.search(r"\\\w", convert(formula)), f"latex2mathml does not know all of {formula}"
        assert not re.search(r"\\[^\w]", formula), f"Markdown takes the backslash away in {formula}"
