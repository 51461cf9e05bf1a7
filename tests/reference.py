"""Slow, obvious references that the tests hold the fast paths against."""

import clip
import torch
from clip.model import CLIP

END = 49407


def tiny_clip(kind="vit", width=64, layers=2, seed=0, vit=(2, 64, 16)):
    """A small random CLIP with OpenAI's architecture, tokenizer and context length, in float32.

    width and layers are the text tower's; vit are the vision transformer's layers, width and patch size.
    """
    torch.manual_seed(seed)
    vision = {"vit": vit, "resnet": ((1, 1, 1, 1), 2, None)}[kind]
    model = CLIP(32, 32, *vision, 77, END + 1, width, width // 32, layers).float().eval()
    with torch.no_grad():  # larger than at initialisation, so that attention is not all but uniform
        model.token_embedding.weight.mul_(10)
        model.positional_embedding.mul_(10)
        for block in model.transformer.resblocks:
            block.attn.in_proj_weight.mul_(3)
    return model.requires_grad_(False)


def openai_weights(model):
    """The state dict of a CLIP model as those in OpenAI's archives are, with three entries that no other has."""
    size, (length, vocabulary) = model.visual.input_resolution, (model.context_length, model.vocab_size)
    marks = {"input_resolution": size, "context_length": length, "vocab_size": vocabulary}
    return model.state_dict() | {name: torch.tensor(value) for name, value in marks.items()}


def encode_in_full(model, embeddings, eot, deep=()):
    """Text features (B, N, e) of (B, N, 77, d) token embeddings: every prompt whole, with CLIP's own transformer.

    eot: (B, N) positions of the end-of-text tokens in the whole sequence.
    deep: vectors (n, d) that take the places 1 to n of every prompt before the second layer, the third, ...
    """
    dtype = model.dtype
    x = embeddings.to(dtype) + model.positional_embedding.to(dtype)
    x = x.flatten(0, 1).permute(1, 0, 2)
    for i, block in enumerate(model.transformer.resblocks):
        for place, vector in enumerate(deep[i - 1] if 0 < i <= len(deep) else (), start=1):
            x = torch.cat([x[:place], vector.expand_as(x[place])[None], x[place + 1 :]])
        x = block(x)
    x = model.ln_final(x.permute(1, 0, 2)).to(dtype)
    x = x[torch.arange(len(x)), eot.flatten()] @ model.text_projection
    return x.unflatten(0, eot.shape)


def encode_image_in_full(visual, images, prompts):
    """Image features (B, e) of a vision transformer, image by image; prompts: (n, w) behind the patches, per layer."""
    features = []
    for image in images:
        patches = visual.conv1(image[None])[0].flatten(1).t()
        tokens = [t + p for t, p in zip([visual.class_embedding, *patches], visual.positional_embedding, strict=True)]
        n = len(tokens)
        x = visual.ln_pre(torch.stack([*tokens, *prompts[0]]))
        for i, block in enumerate(visual.transformer.resblocks):
            if 0 < i < len(prompts):
                x = torch.stack([*x[:n], *prompts[i]])
            x = block(x[:, None])[:, 0]
        features.append(visual.ln_post(x)[0] @ visual.proj)
    return torch.stack(features)


def in_double(model):
    """A CLIP, prompted or plain, in float64; its own normalisation layers would compute in float32."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.LayerNorm):
            layer.__class__ = torch.nn.LayerNorm
    if "dtype" in vars(model):
        model.dtype = torch.double
    return model.double()


def learned_in_full(model, ctx, names):
    """Text features (N, e) of "<ctx> name.", whole 77-token prompts; ctx: (n_ctx, d), tokenized as stand-in words."""
    tokens = clip.tokenize([f"{' '.join(['X'] * len(ctx))} {name.replace('_', ' ')}." for name in names])
    embedding = model.token_embedding(tokens)
    rows = torch.stack([torch.cat([row[:1], ctx, row[1 + len(ctx) :]]) for row in embedding])
    return encode_in_full(model, rows[None], tokens.argmax(dim=-1)[None])[0]


def written_in_full(model, template, names):
    """Text features (N, e) of hand-written prompts, by CLIP's own tokenizer and transformer."""
    return model.encode_text(clip.tokenize([template.format(name.replace("_", " ")) for name in names]))


def relative_error(value, reference):
    """Largest difference over the reference's largest magnitude."""
    return ((value - reference).abs().max() / reference.abs().max()).item()
