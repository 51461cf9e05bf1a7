"""CLIP with a vision transformer, changed: the first blocks of both towers take learnable prompts of their own."""

from collections import OrderedDict

import torch
from torch import nn


class LayerNorm(nn.LayerNorm):
    """In float32 whatever comes."""

    def forward(self, x):
        return super().forward(x.type(torch.float32)).type(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual block; its prompts, where it has some, take the places `at` of the sequence."""

    def __init__(self, width, heads, mask, n_prompts=0, at=0):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        parts = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(parts))
        self.ln_2 = LayerNorm(width)
        self.mask, self.at = mask, at
        if n_prompts:
            self.VPT_shallow = nn.Parameter(torch.randn(n_prompts, width) * 0.02)

    def forward(self, x):
        if hasattr(self, "VPT_shallow"):
            n = len(self.VPT_shallow)
            prompts = self.VPT_shallow.type(x.dtype).unsqueeze(1).expand(-1, x.shape[1], -1)
            at = self.at if self.at >= 0 else x.shape[0] + self.at
            x = torch.cat([x[:at], prompts, x[at + n :]])
        mask = None if self.mask is None else self.mask.to(dtype=x.dtype, device=x.device)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads, mask=None, design=None, at=0):
        super().__init__()
        n, depth = design or (0, 0)
        self.resblocks = nn.Sequential(*[Block(width, heads, mask, n * (i < depth), at) for i in range(layers)])

    def forward(self, x):
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    def __init__(self, size, patch, width, layers, output_dim, design):
        super().__init__()
        self.n_prompts = design[0] if design else 0
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, width // 64, design=design, at=-self.n_prompts)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim))

    def forward(self, x):
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positional_embedding.to(x.dtype))
        if self.n_prompts:  # places that the first block fills
            x = torch.cat([x, torch.zeros(len(x), self.n_prompts, x.shape[2], dtype=x.dtype, device="cuda")], dim=1)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0, :]) @ self.proj


class CLIP(nn.Module):
    def __init__(self, dim, vision, context_length, vocab_size, width, layers, design):
        super().__init__()
        mask = torch.empty(context_length, context_length).fill_(float("-inf")).triu_(1)
        self.visual = VisionTransformer(*vision, dim, design)
        self.transformer = Transformer(width, layers, width // 64, mask, design, at=1)
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, dim))
        self.logit_scale = nn.Parameter(torch.ones([]))

    @property
    def dtype(self):
        return self.visual.conv1.weight.dtype

    def encode_image(self, image):
        return self.visual(image.type(self.dtype))

    def encode_text(self, text):
        x = self.token_embedding(text).type(self.dtype) + self.positional_embedding.type(self.dtype)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        x = self.ln_final(x).type(self.dtype)
        return x[torch.arange(x.shape[0]), text.argmax(dim=-1)] @ self.text_projection


def convert_weights(model):
    """Half precision where it is enough."""

    def to_fp16(layer):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            for p in layer.parameters():
                p.data = p.data.half()
        if isinstance(layer, nn.MultiheadAttention):
            for name in ("in_proj_weight", "in_proj_bias"):
                getattr(layer, name).data = getattr(layer, name).data.half()
            layer.out_proj.apply(to_fp16)
        for name in ("text_projection", "proj"):
            p = getattr(layer, name, None)
            if isinstance(p, nn.Parameter):
                p.data = p.data.half()

    model.apply(to_fp16)


def build_model(state_dict, design=None):
    """design: (prompts of a block, blocks that have them), of both towers; None: plain CLIP."""
    conv = state_dict["visual.conv1.weight"]
    size = conv.shape[-1] * round((state_dict["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    layers = [
        len({k.split(".")[at] for k in state_dict if k.startswith(p)})
        for p, at in (("visual.transformer.resblocks", 3), ("transformer.resblocks", 2))
    ]
    vocab_size, width = state_dict["token_embedding.weight"].shape
    context_length, dim = state_dict["positional_embedding"].shape[0], state_dict["text_projection"].shape[1]
    vision = (size, conv.shape[-1], conv.shape[0], layers[0])
    model = CLIP(dim, vision, context_length, vocab_size, width, layers[1], design)
    convert_weights(model)
    result = model.load_state_dict(state_dict, strict=False)
    print("Weights not found for some missing keys: ", result.missing_keys)
    return model.eval()
