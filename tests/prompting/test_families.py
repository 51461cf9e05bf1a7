"""Models of other families against their own forward passes: whole prompts, forward and backward, and images."""

import hashlib
import json
import sys

import pytest
import torch

from benchmark.backbones import Backbones
from dassl.utils import UserError
from prompting import whole_prompts
from prompting.backbone import digest, find, load_backbone
from prompting.deep_prompts import check_vision_transformer, encode_with_prompts
from prompting.local_features import global_and_local_features
from prompting.openai_clip import clip
from prompting.prompts import encode_templates
from prompting.text_encoder import TextEncoder
from tests import families
from tests.families import SIGLIP_TEXT, TEXT, VIT
from tests.reference import encode_image_in_full, relative_error
from train import parse_args, setup_cfg

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

NAMES = ["cat", "wild cat", "bobcat no. 35", "dog_house"]
TIMM = {"image_size": 160, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"}
BIDIRECTIONAL = TEXT | {"no_causal_mask": True}
VARIETIES = {
    "gelu, heads 80 wide": {"vision": VIT | {"width": 160, "head_width": 80, "mlp_ratio": 3.5}},
    "quickgelu": {"quick_gelu": True},
    "77 places": {"text": TEXT | {"context_length": 77}},
    "layer scale": {"vision": VIT | {"ls_init_value": 0.5}, "text": TEXT | {"ls_init_value": 0.5}},
    "resnet": {"vision": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}},
    "convnext": {"vision": TIMM},
    "convnext, text tower apart": {"vision": TIMM, "custom_text": True},
    "bidirectional": {"text": BIDIRECTIONAL, "custom_text": True},
    "siglip": {"text": SIGLIP_TEXT, "vision": TIMM, "custom_text": True, "init_logit_bias": -10},
}
HF = {
    "hf clip": families.hf_clip,
    "hf clip, quickgelu": lambda folder: families.hf_clip(folder, "quick_gelu", heads=(2, 5)),
    "hf siglip": families.hf_siglip,
}


@pytest.fixture(scope="module", params=[*VARIETIES, *HF])
def pair(request, tmp_path_factory):
    """A family's own model, its own tokenizer, and ours of the same weights."""
    folder = tmp_path_factory.mktemp("model")
    if request.param in HF:
        own, name = HF[request.param](folder), f"hf:{folder}"
        return own, transformers.AutoTokenizer.from_pretrained(folder), load_backbone(name)
    own = families.open_clip_model(folder, **VARIETIES[request.param])
    return own, open_clip.get_tokenizer(f"local-dir:{folder}"), load_backbone(f"open_clip:{folder}")


def test_texts(pair):
    own, tokenizer, ours = pair
    for template in ("a photo of a {}.", "{} texture."):
        texts = [template.format(name.replace("_", " ")) for name in NAMES]
        want = families.encode_texts(own, texts, tokenizer)
        assert relative_error(encode_templates(TextEncoder(ours), [template], NAMES)[0], want) < 1e-5


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_context_vectors_forward_and_backward(pair, memory, monkeypatch):
    """memory: of prompts encoded whole; with none, each is a chunk of its own."""
    monkeypatch.setattr(whole_prompts, "MEMORY_GB", memory)
    own, _, ours = pair
    ctx = 0.2 * torch.randn(4, ours.token_embedding.weight.shape[1], generator=torch.Generator().manual_seed(1))
    encoder, found = TextEncoder(ours), []
    for encode in (
        lambda v: families.learned(ours, v, NAMES),
        lambda v: families.learned_in_full(own, v, NAMES, encoder.tokenizer, encoder.context_length),
    ):
        vectors = ctx.clone().requires_grad_(True)
        features = encode(vectors)
        weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
        found.append((features.detach(), *torch.autograd.grad((features * weights).sum(), vectors)))
    for value, reference in zip(*found, strict=True):
        assert relative_error(value, reference) < 1e-5


def test_images_and_scale(pair):
    own, _, ours = pair
    size = ours.backbone.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    want = own.encode_image(images) if hasattr(own, "encode_image") else own.get_image_features(images).pooler_output
    assert relative_error(ours.visual(images), want) < 1e-5
    assert torch.equal(ours.logit_scale, own.logit_scale.reshape(()))
    bias = getattr(own, "logit_bias", None)
    assert (ours.logit_bias is None) == (bias is None) and (bias is None or ours.logit_bias == bias)
    assert ours.backbone.width == want.shape[1] == TextEncoder(ours).text_projection.shape[1]


def test_prompts_and_places_in_image_towers_of_openais_kind(pair):
    """In the others neither is possible, which is said in one line."""
    visual, kind = pair[2].visual, pair[2].backbone.image_encoder
    size = pair[2].backbone.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    if kind == "other":
        with pytest.raises(UserError, match="this backbone has another image encoder"):
            check_vision_transformer(visual)
        with pytest.raises(UserError, match="local features need OpenAI's image encoder"):
            global_and_local_features(visual, images)
        return
    features, places = global_and_local_features(visual, images)
    assert torch.equal(features, visual(images)) and places.shape[::2] == (2, features.shape[1])
    if kind == "vit":
        prompts = [0.2 * torch.randn(3, len(visual.class_embedding)) for _ in range(2)]
        got = encode_with_prompts(visual, images, prompts)
        assert relative_error(got, encode_image_in_full(visual, images, prompts)) < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(pair, precision):
    ours, record = pair[2], pair[2].backbone
    half = load_backbone(record.name, precision)
    size = record.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    images, texts = half.visual(images.to(half.dtype)), encode_templates(TextEncoder(half), ["{}."], NAMES)
    assert images.dtype == texts.dtype == half.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert relative_error(texts.float(), encode_templates(TextEncoder(ours), ["{}."], NAMES)) < 0.1


def test_a_causal_tower_without_a_start_token(tmp_path):
    """Prompts may then begin with nothing that they share."""
    text = SIGLIP_TEXT | {"no_causal_mask": False, "pool_type": "eos", "eos_id": 1}
    own = families.open_clip_model(tmp_path, text, custom_text=True)
    ours, tokenizer = load_backbone(f"open_clip:{tmp_path}"), open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    want = families.encode_texts(own, ["a cat", "the dog"], tokenizer)
    assert relative_error(encode_templates(TextEncoder(ours), ["{}"], ["a cat", "the dog"])[0], want) < 1e-5
    assert TextEncoder(ours).tokenizer.start == []


@pytest.mark.parametrize("name", ["icon-clip", "icon-clip-vit"])
def test_icon_clip_in_other_forms_is_the_same(name, tmp_path):
    own = load_backbone(name)
    vision = {"image_size": 64, "layers": 6, "width": 192, "patch_size": 8}
    if name == "icon-clip":
        vision = {"image_size": 64, "layers": [2, 2, 2, 2], "width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3}
    families.open_clip_model(tmp_path / "oc", text, vision, own, embed_dim=128, quick_gelu=True)
    others = [f"open_clip:{tmp_path / 'oc'}"]
    if name == "icon-clip-vit":
        families.icon_clip_vit_for_hf(own, tmp_path / "hf")
        others.append(f"hf:{tmp_path / 'hf'}")
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for other in map(load_backbone, others):
        record, wanted = other.backbone, own.backbone
        assert (record.image_size, record.image_encoder, record.width) == (64, wanted.image_encoder, 128)
        for facts in ("pixel_mean", "pixel_std", "causal"):
            assert getattr(record.family, facts) == getattr(wanted.family, facts)
        assert relative_error(other.visual(images), own.visual(images)) < 1e-5
        texts = [encode_templates(TextEncoder(model), ["a photo of a {}."], NAMES) for model in (other, own)]
        assert relative_error(*texts) < 1e-5 and other.logit_scale == own.logit_scale


def test_tokenizers_read_as_their_families_do(tmp_path):
    byte_pairs = families.byte_pairs()
    byte_pairs.save_pretrained(tmp_path)
    families.hf_clip(tmp_path)
    ours = find(f"hf:{tmp_path}").family.tokenizer()
    for text in ("a photo of a dog.", "the Bobcat's 35 tails, blurry"):
        ids = clip.tokenize(text)[0]
        assert ours.sequence([text]) == ids[: ids.argmax() + 1].tolist() == byte_pairs(text).input_ids
    assert ours.sequence(["a photo", "of a", "dog", "."]) == ours.sequence(["a photo of a dog."])
    assert [ours.word(i) for i in ours.encode("a photogram.")] == ["a", "photo-", "gram", "."]


def test_what_a_text_is_in_the_middle_of_a_prompt(tmp_path):
    families.hf_siglip(tmp_path)
    ours = find(f"hf:{tmp_path}").family.tokenizer()
    end, whole = ours.end, ours.encode("a cat.")
    assert ours.start == [] and end == [1] and ours.pad == 1
    assert ours.sequence(["a cat."]) == [*whole, *end]
    assert ours.sequence([~0, "cat", "."]) == [~0, *ours.encode("cat", False), *ours.encode(".", False), *end]
    assert [*ours.encode("a"), *ours.encode("cat", False), *ours.encode(".", False)] == whole
    assert ours.word(ours.encode("c")[1]) == "-c"


# What a user hears


def refusal(name, load=False):
    with pytest.raises(UserError) as caught:
        load_backbone(name) if load else find(name).family.tokenizer()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 400
    return message


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-32/laion2b_s34", 'no weights "laion2b_s34" of ViT-B-32.*did you mean laion2b_s34b_b79k'),
        ("open_clip:ViT-B-61/openai", 'no architecture "ViT-B-61": did you mean ViT-B-16'),
        ("open_clip:ViT-B-32", "names no weights: give open_clip:ARCH/TAG"),
        ("open_clip:ViT-B-32,/no/where.bin", "no file /no/where.bin"),
        ("open_clip:/no/where", "cannot read /no/where/open_clip_config.json"),
        ("open_clip:roberta-ViT-B-32/laion2b_s12b_b32k", "roberta-base of transformers.*choose another"),
        ("open_clip:coca_ViT-B-32/laion2b_s13b_b90k", "is CoCa's"),
        ("hf:/no/where", "no config.json in /no/where"),
        ("hf:some/thing", "hf:some/thing cannot be loaded"),
        ("openai:ViT-B/61", "did you mean ViT-B/16"),
        ("open_clip:ViT-B-16-SigLIP/webli", "the tokenizer of .* cannot be loaded"),
    ],
)
def test_names_that_are_none(name, message, offline):
    import re

    assert re.search(message, refusal(name))


def test_weights_that_cannot_be_downloaded(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "cannot be downloaded" in refusal("open_clip:ViT-B-32/laion2b_s34b_b79k", load=True)


@pytest.mark.parametrize(("missing", "extra"), [("open_clip", "open_clip"), ("transformers", "hf")])
def test_a_package_that_is_not_installed(missing, extra, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    name = {"open_clip": "open_clip:ViT-B-32/openai", "transformers": "hf:openai/clip"}[missing]
    assert refusal(name) == f"{name} needs {missing}: pip install 'mocoop[{extra}]'"
    assert Backbones().main([], "backbones") == 0 and "icon-clip-vit" in capsys.readouterr().out


def test_weights_of_another_architecture(tmp_path):
    families.open_clip_model(tmp_path / "model")
    weights = tmp_path / "model" / "open_clip_model.safetensors"
    told = refusal(f"open_clip:ViT-B-32,{weights}", load=True)
    assert f"{weights} does not hold weights of ViT-B-32: positional_embedding has 32 places there, not 77" in told
    families.open_clip_model(tmp_path / "wide", TEXT | {"context_length": 77}, VIT | {"image_size": 112})
    weights = tmp_path / "wide" / "open_clip_model.safetensors"
    assert "does not hold weights of ViT-B-16" in refusal(f"open_clip:ViT-B-16,{weights}", load=True)
    config = tmp_path / "model" / "open_clip_config.json"
    config.write_text(config.read_text().replace('"layers": 3', '"layers": 4'))
    assert "does not hold weights of" in refusal(f"open_clip:{tmp_path / 'model'}", load=True)
    weights.write_bytes(b"half a file")
    assert "does not hold weights of" in refusal(f"open_clip:ViT-B-16,{weights}", load=True)
    (tmp_path / "model" / "open_clip_model.safetensors").unlink()
    assert "does not hold weights of" in refusal(f"open_clip:{tmp_path / 'model'}", load=True)


def refusal_if_any(name):
    try:
        load_backbone(name)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("form", ["hf", "open_clip"])
def test_code_in_a_folder_is_not_run(form, tmp_path, monkeypatch):
    """A folder's files may name code beside them, and a config say that it can be trusted; nor is anybody asked."""
    text = SIGLIP_TEXT | {"tokenizer_kwargs": {"clean": "canonicalize", "trust_remote_code": True}}
    models = {"hf": families.hf_clip, "open_clip": lambda folder: families.open_clip_model(folder, text)}
    models[form](tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    named = {"AutoTokenizer": ["evil.Evil"] * 2, "AutoImageProcessor": "evil.Evil", "AutoConfig": "evil.Evil"}
    changes = {"tokenizer_config.json": {"tokenizer_class": "Evil"}, "preprocessor_config.json": {}}
    for file, change in (changes | {"config.json": {"model_type": "evil"}}).items():
        path = tmp_path / file
        said = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(said | change | {"auto_map": named}))
        told = refusal_if_any(f"{form}:{tmp_path}") or ""
        assert len(told.splitlines()) < 2
        assert form == "hf" or "gives its tokenizer the option trust_remote_code" in told
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["hf", "open_clip"])
def test_damaged_weights(form, tmp_path):
    """Torch's files have checksums; safetensors that came from a hub are called by their digest."""
    from safetensors.torch import load_file

    {"hf": families.hf_clip, "open_clip": families.open_clip_model}[form](tmp_path / "model")
    (path,), name = (tmp_path / "model").glob("*model.safetensors"), f"{form}:{tmp_path / 'model'}"
    weights, whole = load_file(path), path.read_bytes()
    blob = tmp_path / hashlib.sha256(whole).hexdigest()
    path.rename(blob)
    path.symlink_to(blob)
    assert refusal_if_any(name) is None
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"damaged (its SHA-256 is not that of what was published): delete {blob}" in refusal_if_any(name)
    path.unlink()
    path = path.with_name("pytorch_model.bin")
    key = next(key for key in weights if key.endswith(("ln_final.weight", "final_layer_norm.weight")))
    for value, message in (
        (weights[key].int(), f"{key} in it is not a floating-point tensor"),
        ("text", f"{key} in it is not a floating-point tensor"),
        (weights[key] / 0, "not finite"),
    ):
        torch.save(weights | {key: value}, path)
        assert message in refusal_if_any(name)
    torch.save(weights, path)
    assert refusal_if_any(name) is None
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    assert "is damaged" in refusal_if_any(name)


@pytest.mark.parametrize(
    "wrong", [{"model_cfg": "x"}, {"model_cfg": {"vision_cfg": {}}}, {"preprocess_cfg": {"mean": "abc"}}]
)
def test_configs_that_make_no_sense(wrong, tmp_path):
    families.open_clip_model(tmp_path)
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | wrong))
    assert "config" in refusal(f"open_clip:{tmp_path}")


@pytest.mark.parametrize("form", ["hf", "open_clip"])
def test_digests_are_of_weights_and_config(form, tmp_path):
    build = {"hf": families.hf_clip, "open_clip": families.open_clip_model}[form]
    build(tmp_path)
    found = [digest(f"{form}:{tmp_path}")]
    for changed in ("config.json", "model.safetensors"):
        path = tmp_path / (changed if form == "hf" else f"open_clip_{changed}")
        path.write_bytes(path.read_bytes() + b" ")
        found.append(digest(f"{form}:{tmp_path}"))
    assert len(set(found)) == 3 and all(len(one) == 64 for one in found)


def test_a_file_by_architecture(tmp_path, monkeypatch):
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    own = families.open_clip_model(tmp_path)
    factory._MODEL_CONFIGS["tiny"] = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]
    torch.save({"state_dict": {f"module.{k}": v for k, v in own.state_dict().items()}}, tmp_path / "tiny.pt")
    images = torch.randn(2, 3, 32, 32)
    ours = load_backbone(f"open_clip:tiny,{tmp_path / 'tiny.pt'}")
    assert relative_error(ours.visual(images), own.encode_image(images)) < 1e-5


def test_what_tags_say():
    """QuickGELU is the weights' own, the normalisation too; a file's is that of all published weights, or OpenAI's."""
    facts = {name: find(f"open_clip:{name}") for name in ("ViT-B-32/openai", "ViT-B-32/laion2b_e16", "ViT-H-14/dfn5b")}
    activations = [record.family.activation for record in facts.values()]
    assert activations == ["QuickGELU", "GELU", "QuickGELU"]
    assert [record.family.head_width for record in facts.values()] == [64, 64, 80]
    siglip = find("open_clip:ViT-B-16-SigLIP-256/webli")
    assert (siglip.family.causal, siglip.family.read_at, siglip.image_size) == (False, "last", 256)
    assert siglip.family.pixel_mean == (0.5, 0.5, 0.5) and siglip.width == 768
    mobile = find("open_clip:MobileCLIP-S1/datacompdr").family
    assert (mobile.causal, mobile.read_at, mobile.pixel_std) == (False, "end", (1.0, 1.0, 1.0))


def test_transformers_models_that_lack_something(tmp_path):
    families.hf_clip(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    assert "the tokenizer of hf:" in refusal(f"hf:{tmp_path}")
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "does not hold the weights that its config.json describes" in refusal(f"hf:{tmp_path}", load=True)
    config["model_type"] = "bert"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert 'of the type "bert": known: clip, siglip' in refusal(f"hf:{tmp_path}")


def test_openais_names_with_their_family():
    assert find("openai:ViT-B/16") is find("ViT-B/16")
    assert setup_cfg(parse_args(["--backbone", "openai:ViT-B/16"])).MODEL.BACKBONE.NAME == "ViT-B/16"


def test_the_list(capsys):
    assert Backbones().main(["siglip-256"], "backbones") == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("open_clip:ViT-B-16-SigLIP-256/webli")]
    assert row[1:] == ["open_clip", "no", "other", "256", "768", "no"]
    assert Backbones().main([], "backbones") == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line[:1].isalpha()}
    assert rows["icon-clip-vit"] == ["openai", "yes", "vit", "64", "128", "yes"]
    assert rows["ViT-L/14@336px"][2:] == ["vit", "336", "768", "yes"] and "open_clip:ViT-B-32/openai" not in rows
    assert Backbones().main(["nothing-like-it"], "backbones") == 1
