"""toy-clip: a small CLIP with GELU and random weights. A family of your own loads its weights where this draws them."""

import torch
from torch import nn

from prompting.backbones import Backbone, Family
from prompting.openai_clip import model as openai_model

TOY = Family("toy", activation="GELU", head_width=64, pixel_mean=(0.5, 0.5, 0.5), pixel_std=(0.5, 0.5, 0.5))


def load():
    with torch.random.fork_rng():  # the run's own random numbers stay as they are
        torch.manual_seed(0)
        model = openai_model.CLIP(
            embed_dim=32,
            image_resolution=32,
            vision_layers=2,
            vision_width=64,
            vision_patch_size=16,
            context_length=77,
            vocab_size=49408,
            transformer_width=64,
            transformer_heads=1,
            transformer_layers=2,
        )
    for block in (*model.visual.transformer.resblocks, *model.transformer.resblocks):
        block.mlp.gelu = nn.GELU()
    return model


BACKBONES = [Backbone("toy-clip", TOY, image_size=32, image_encoder="vit", load=load)]
