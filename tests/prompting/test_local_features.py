"""Local features against loops over images, places and heads."""

import math

import pytest
import torch
import torch.nn.functional as F

from prompting.local_features import global_and_local_features
from tests.reference import relative_error, tiny_clip


@pytest.fixture(params=["vit", "resnet"])
def visual(request):
    """An image tower for 64 x 64 pixels, where a ResNet's last feature map has more than one place."""
    tower = tiny_clip(request.param).visual
    pool, places = (tower.attnpool, 4) if request.param == "resnet" else (tower, 16)
    pool.positional_embedding = torch.nn.Parameter(torch.randn(places + 1, pool.positional_embedding.shape[1]))
    return tower.requires_grad_(False)


IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def places_of_resnet(visual, images):
    """(B, M, e)."""
    x, pool = images, visual.attnpool
    for i in (1, 2, 3):
        x = getattr(visual, f"relu{i}")(getattr(visual, f"bn{i}")(getattr(visual, f"conv{i}")(x)))
    x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.avgpool(x)))))
    rows = []
    for image in x:
        places = [image[:, i, j] for i in range(image.shape[1]) for j in range(image.shape[2])]
        tokens = [sum(places) / len(places), *places]
        tokens = [token + position for token, position in zip(tokens, pool.positional_embedding, strict=True)]
        size, outputs = len(tokens[0]) // pool.num_heads, []
        for place in tokens[1:]:
            heads = []
            for h in range(pool.num_heads):
                cut = slice(h * size, (h + 1) * size)
                query = pool.q_proj(place)[cut]
                weights = torch.stack([query @ pool.k_proj(token)[cut] / math.sqrt(size) for token in tokens]).exp()
                heads.append(sum(w * pool.v_proj(t)[cut] for w, t in zip(weights / weights.sum(), tokens, strict=True)))
            outputs.append(pool.c_proj(torch.cat(heads)))
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


def places_of_vit(visual, images):
    """(B, M, e)."""
    grid = visual.conv1(images)
    rows = []
    for image in grid:
        patches = [image[:, i, j] for i in range(image.shape[1]) for j in range(image.shape[2])]
        x = visual.ln_pre(torch.stack([visual.class_embedding, *patches]) + visual.positional_embedding)
        x = visual.transformer(x[:, None])[:, 0]
        rows.append(torch.stack([visual.ln_post(token) @ visual.proj for token in x[1:]]))
    return torch.stack(rows)


def test_global_and_local_features(visual):
    features, local = global_and_local_features(visual, IMAGES)
    assert torch.equal(features, visual(IMAGES))
    is_resnet = hasattr(visual, "attnpool")
    expected = (places_of_resnet if is_resnet else places_of_vit)(visual, IMAGES)
    assert local.shape == expected.shape == (3, 4 if is_resnet else 16, 32)
    assert relative_error(local, expected) < 1e-5


def test_nothing_is_left_on_the_tower(visual):
    global_and_local_features(visual, IMAGES)
    assert not any(module._forward_hooks for module in visual.modules())


def test_places_of_one_image_differ(visual):
    _, local = global_and_local_features(visual, IMAGES)
    similarity = F.cosine_similarity(local[:, :, None], local[:, None], dim=-1)
    assert (similarity[:, 0, 1:] < 0.999).all()
