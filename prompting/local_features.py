"""Local image features: one for each place of an image, in the joint space, beside the global feature.

CLIP's image towers end by reading one token out of many. Here the others are read in the same way, with the tower's own
modules and weights, from what the tower computes anyway.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.utils import UserError
from prompting.backbones import image_encoder_of


def global_and_local_features(visual: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The features of images as a whole, and of their places in rows from the top left.

    A ResNet's places are those of its last feature map (7 x 7 at 224 pixels); each is a query of the attention pool,
    where the global feature has their mean. A ViT's are its patches (14 x 14 for ViT-B/16); the last block's patch
    tokens are normalised and projected as the class token is.

    Args:
        visual: the image tower of a `clip.model.CLIP`.
        images: (B, 3, H, W), in the tower's precision.

    Returns:
        (B, e) global features, which are visual(images), and (B, M, e) local ones; not normalised.
    """
    kind = image_encoder_of(visual)
    if kind == "other":
        raise UserError("local features need OpenAI's image encoder, but this backbone has another: set --backbone")
    is_resnet = kind == "resnet"
    last, seen = visual.layer4 if is_resnet else visual.transformer, []
    with last.register_forward_hook(lambda module, inputs, output: seen.append(output)):
        features = visual(images)
    (tokens,) = seen
    if is_resnet:
        return features, _pool_at_each_place(visual.attnpool, tokens)
    return features, visual.ln_post(tokens[1:].transpose(0, 1)) @ visual.proj


def _pool_at_each_place(pool, feature_map):
    """An attention pool's output for the query of each place: (B, C, h, w) -> (B, h * w, e)."""
    places = feature_map.flatten(2).transpose(1, 2)
    tokens = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1)
    tokens = tokens + pool.positional_embedding.to(tokens.dtype)
    q, k, v = (
        projection(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for projection, x in ((pool.q_proj, tokens[:, 1:]), (pool.k_proj, tokens), (pool.v_proj, tokens))
    )
    return pool.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
