"""Small random models of other families, saved as those families save theirs, with tokenizers made here."""

import json

import torch

from prompting.openai_clip import simple_tokenizer
from prompting.prompts import Prompts, sequence, soft
from prompting.text_encoder import TextEncoder

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-'"
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3}
VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
SIGLIP_TEXT = TEXT | {
    "context_length": 64,
    "vocab_size": 48,
    "hf_tokenizer_name": "made/here",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}


def scramble(model, seed=0):
    """All weights drawn anew, so that none is as it began (zero, one), and attention is not all but uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.add_(0.1 * noise) if value.dim() < 2 else value.copy_(noise * value.shape[-1] ** -0.5)
            if name.endswith("logit_scale"):
                value.fill_(2.0)
    return model.eval().requires_grad_(False)


def letters():
    """A tokenizer of letters in the manner of SigLIP's: no start, one end, which is also the padding."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = ["<unk>", "</s>", "▁", *LETTERS]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, [], unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>", pad_token="</s>")


def byte_pairs():
    """OpenAI's tokenizer in transformers' form."""
    from transformers import CLIPTokenizer

    pairs = simple_tokenizer.SimpleTokenizer()
    return CLIPTokenizer(vocab=pairs.encoder, merges=list(pairs.bpe_ranks))


def open_clip_model(folder, text=TEXT, vision=VIT, model=None, preprocess=None, **more):
    """The model that `open_clip:<folder>` now names; more: of its config. model: one to take the weights of."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True, parents=True)
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, **more}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess or {}}))
    if text.get("hf_tokenizer_name"):
        letters().save_pretrained(folder)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    made = kind(**config)
    made = scramble(made) if model is None else made
    if model is not None:
        own = made.state_dict()
        made.load_state_dict({key: value for key, value in model.state_dict().items() if key in own})
        made.eval().requires_grad_(False)
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, folder / "open_clip_model.safetensors")
    return made


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def hf_clip(folder, activation="gelu", heads=(2, 2), text=None, vision=None, **more):
    """transformers' CLIP that `hf:<folder>` now names; its image tower is 160 wide."""
    from transformers import CLIPConfig, CLIPModel

    shape = {"hidden_act": activation, "intermediate_size": 96}
    text = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": heads[0], "vocab_size": 49408} | (
        text or {}
    )
    vision = {"hidden_size": 160, "num_hidden_layers": 2, "num_attention_heads": heads[1]} | (vision or {})
    text, vision = shape | text, shape | {"image_size": 32, "patch_size": 16} | vision
    text |= {"bos_token_id": 49406, "eos_token_id": 49407}
    config = CLIPConfig(text_config=text, vision_config=vision, **{"projection_dim": 32} | more)
    return save(scramble(CLIPModel(config)), byte_pairs(), folder)


def hf_siglip(folder):
    """transformers' SigLIP that `hf:<folder>` now names."""
    from transformers import SiglipConfig, SiglipModel

    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = SiglipConfig(
        text_config=shape | {"vocab_size": 48, "projection_size": 64}, vision_config=shape | {"image_size": 32}
    )
    return save(scramble(SiglipModel(config)), letters(), folder)


def icon_clip_vit_for_hf(model, folder):
    """icon-clip-vit's weights under transformers' names."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 512}
    vision = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
    vision |= {"image_size": 64, "patch_size": 8}
    made = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    )  # its activation is QuickGELU
    towers, own = {"text_model": model, "vision_model": model.visual}, {"logit_scale": model.logit_scale}
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names |= {"attn.out_proj": "self_attn.out_proj"}
    for tower, ours in towers.items():
        for i, block in enumerate(ours.transformer.resblocks):
            place, weights = f"{tower}.encoder.layers.{i}", block.state_dict()
            for here, there in names.items():
                own |= {f"{place}.{there}.{part}": weights[f"{here}.{part}"] for part in ("weight", "bias")}
            for part in ("weight", "bias"):
                for name, value in zip("qkv", weights[f"attn.in_proj_{part}"].chunk(3), strict=True):
                    own[f"{place}.self_attn.{name}_proj.{part}"] = value
    visual, norms = model.visual, {"text_model.final_layer_norm": model.ln_final}
    norms |= {"vision_model.pre_layrnorm": visual.ln_pre, "vision_model.post_layernorm": visual.ln_post}
    own |= {f"{name}.{part}": value for name, norm in norms.items() for part, value in norm.state_dict().items()}
    own |= {
        "text_model.embeddings.token_embedding.weight": model.token_embedding.weight,
        "text_model.embeddings.position_embedding.weight": model.positional_embedding,
        "vision_model.embeddings.class_embedding": visual.class_embedding,
        "vision_model.embeddings.patch_embedding.weight": visual.conv1.weight,
        "vision_model.embeddings.position_embedding.weight": visual.positional_embedding,
        "text_projection.weight": model.text_projection.t(),
        "visual_projection.weight": visual.proj.t(),
    }
    made.load_state_dict({name: value.detach().contiguous() for name, value in own.items()})
    return save(made.eval(), byte_pairs(), folder)


class Given(torch.nn.Module):
    """In the place of a token embedding: what the tokens' embeddings are to be."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def forward(self, ids):
        return self.vectors


def encode_texts(model, texts, tokenizer):
    """The family's own features of texts, by its own tokenizer and forward pass."""
    if hasattr(model, "encode_text"):
        return model.encode_text(tokenizer(texts))
    ids = tokenizer(texts, padding="max_length", max_length=model.config.text_config.max_position_embeddings)
    return model.get_text_features(torch.tensor(ids.input_ids)).pooler_output


def learned_in_full(model, ctx, names, tokenizer, length):
    """Text features (N, e) of "<ctx> name." with (n_ctx, d) vectors, whole, by the family's own forward pass."""
    n, start, other = len(ctx), len(tokenizer.start), 0 if tokenizer.special == {0, 1} else 320
    rows = [[*tokenizer.start, *[other] * n, *tokenizer.encode(f"{name}.", False), *tokenizer.end] for name in names]
    ids = torch.tensor([row + [tokenizer.pad] * (length - len(row)) for row in rows])
    text = getattr(model, "text", model) if hasattr(model, "encode_text") else model.text_model.embeddings
    embedding = text.token_embedding
    vectors = embedding(ids)
    vectors = torch.cat([vectors[:, :start], ctx.expand(len(ids), -1, -1), vectors[:, start + n :]], dim=1)
    text.token_embedding = Given(vectors)
    try:
        if hasattr(model, "encode_text"):
            return model.encode_text(ids)
        return model.get_text_features(ids).pooler_output
    finally:
        text.token_embedding = embedding


def learned(model, ctx, names):
    """The same by our text encoder, from a model of `load_backbone`."""
    encoder = TextEncoder(model)
    rows = [[sequence(soft(range(len(ctx))), f"{name}.") for name in names]]
    return encoder(*Prompts(encoder, rows, names)(ctx))[0]
