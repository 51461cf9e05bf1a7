"""Methods on backbones of other families: they run on the icons, and what a run has learned is put to use."""

import json

import pytest
import torch
from safetensors import safe_open

import predict
import train
from benchmark.protocol import Point
from benchmark.protocols import config_of, runs_of
from learned.explain import words
from learned.export import Export
from learned.model import load_run
from tests import families

pytest.importorskip("open_clip")
pytest.importorskip("transformers")

SMALL = ("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "0", "DATALOADER.NUM_WORKERS", "0", "TRAIN.PRINT_FREQ", "100")
TEXT_METHODS = ["CoOp", "CoCoOp", "MoCoOp", "LAMM", "CSP"]
VIT_METHODS = ["MaPLe", "PromptSRC", "PLOT", "LASP"]
MAKE = {
    "open_clip": lambda folder: families.open_clip_model(folder, families.TEXT | {"context_length": 48}),
    "hf": families.hf_clip,
    "siglip": families.hf_siglip,
}


@pytest.fixture(scope="module", params=MAKE)
def backbone(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    MAKE[request.param](folder)
    return f"{'open_clip' if request.param == 'open_clip' else 'hf'}:{folder}"


@pytest.fixture
def run(tmp_path, closing_logger):
    """run(trainer, backbone, *keys): a run of one epoch on the icons; its folder."""

    def run(trainer, backbone, *keys):
        protocol, dataset = ("czsl", "icons_pairs") if trainer == "CSP" else ("few_shot", "icons_rare")
        point = Point(dataset, 1, trainer, config_of(trainer, protocol, dataset, 1), 1, backbone)
        keys = [*SMALL, "DATASET.NUM_SHOTS", "1", *keys, "OUTPUT_DIR", str(tmp_path / trainer)]
        train.main([*runs_of(protocol, [point])[0].arguments, *keys])
        return tmp_path / trainer

    return run


@pytest.mark.parametrize("trainer", TEXT_METHODS)
def test_prompts_for_every_text_tower(trainer, backbone, run):
    keys = ("DATASET.SUBSAMPLE_CLASSES", "base") if trainer != "CSP" else ()
    folder = run(trainer, backbone, *keys)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["backbone"] == backbone and metrics["total"] > 50
    learned = load_run(folder)
    assert all(p.isfinite().all() for p in learned.trainer.model.prompt_learner.parameters())
    table = words(learned, 2)
    assert table and all(isinstance(row[1], str) and row[1] for row in table.rows), "in the backbone's own vocabulary"


@pytest.mark.parametrize("trainer", VIT_METHODS)
def test_methods_inside_the_image_tower(trainer, tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("vit")
    families.open_clip_model(folder)
    name = f"open_clip:{folder}"
    keys = ("TRAINER.LASP.TUNE_LAYERNORM", "True") if trainer == "LASP" else ()
    learned = load_run(run(trainer, name, "DATASET.SUBSAMPLE_CLASSES", "base", *keys))
    if trainer == "LASP":
        assert any("layernorms" in key for key in learned.trainer.model.prompt_learner.state_dict())
    assert learned.logits(torch.zeros(1, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("trainer", VIT_METHODS)
def test_what_an_image_tower_of_another_kind_lacks_is_said(trainer, tmp_path_factory, tmp_path, toy_args, capsys):
    folder = tmp_path_factory.mktemp("siglip")
    families.hf_siglip(folder)
    keys = ("TRAINER.LASP.TUNE_LAYERNORM", "True") if trainer == "LASP" else ()
    words = toy_args(trainer, tmp_path / "run", *keys, config=config_of(trainer, "few_shot", "caltech101", 4))
    words[words.index("--backbone") + 1] = f"hf:{folder}"
    capsys.readouterr()
    assert train.run(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "another image encoder" in line or "OpenAI's image encoder" in line or "LayerNorms of OpenAI's kind" in line


def test_zero_shot_predict_and_export(backbone, run, tmp_path, capsys, toy_root):
    """SigLIP's answers are each class's own; other models' sum to 1. The exported file gives the same logits."""
    folder = run("ZeroshotCLIP", backbone, "DATASET.SUBSAMPLE_CLASSES", "base")
    learned = load_run(folder)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sums, siglip = learned.probabilities(images).sum(dim=1), learned.trainer.model.logit_bias is not None
    assert siglip != torch.allclose(sums, torch.ones(3))

    assert Export().main([str(folder), "--out", str(tmp_path / "c.safetensors")], "export") == 0
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}
        assert file.metadata()["backbone"] == backbone
    features = torch.nn.functional.normalize(learned.trainer.model.image_encoder(images), dim=-1)
    logits = parts["logit_scale"] * features @ parts["text_features"].t() + parts.get("logit_bias", 0)
    assert ("logit_bias" in parts) == siglip and torch.allclose(logits, learned.logits(images), atol=1e-4)

    capsys.readouterr()
    photo = f"{toy_root}/caltech-101/101_ObjectCategories/ant/0.png"
    assert predict.run(["--model-dir", str(folder), photo, "--top", "2", "--classnames", "ant, bee, dog"]) == 0
    assert all("%" in line for line in capsys.readouterr().out.splitlines()[-2:])
