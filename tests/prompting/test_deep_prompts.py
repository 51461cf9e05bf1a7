"""Prompted vision transformers against CLIP's own forward pass and against one image at a time."""

import clip.model
import pytest
import torch

from dassl.utils import UserError
from prompting.deep_prompts import check_vision_transformer, encode_with_prompts
from tests.reference import encode_image_in_full, relative_error, tiny_clip


@pytest.fixture(scope="module")
def visual():
    return tiny_clip(vit=(4, 128, 8)).visual


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_without_prompts_it_is_clips_own(visual, images):
    assert relative_error(encode_with_prompts(visual, images, []), visual(images)) < 1e-6


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_features_and_gradients_equal_one_image_at_a_time(visual, images, depth):
    prompts = list(torch.randn(depth, 3, 128, generator=torch.Generator().manual_seed(1)))
    weights = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    found = []
    for encode in (encode_with_prompts, encode_image_in_full):
        inputs = [x.clone().requires_grad_(True) for x in (images, *prompts)]
        features = encode(visual, inputs[0], inputs[1:])
        found.append([features, *torch.autograd.grad((features * weights).sum(), inputs)])
    for value, reference in zip(*found, strict=True):
        assert relative_error(value, reference) < 1e-5
    assert relative_error(found[0][0], visual(images)) > 0.01, "they matter"


def test_half_precision(images):
    """Off by bfloat16's rounding, as CLIP itself is in it."""
    exact, model = (tiny_clip(vit=(4, 128, 8)) for _ in range(2))
    clip.model.convert_weights(model)  # all but the normalisation layers and embeddings, as in OpenAI's models
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16() if parameter.dtype == torch.float16 else parameter.data
    prompts = list(torch.randn(3, 2, 128, generator=torch.Generator().manual_seed(1)))
    want = encode_with_prompts(exact.visual, images, prompts)
    got = encode_with_prompts(model.visual, images.bfloat16(), prompts)
    assert got.dtype == torch.bfloat16
    plain = relative_error(model.visual(images.bfloat16()).float(), exact.visual(images))
    assert relative_error(got.float(), want) < 3 * plain < 0.1


def test_a_resnet_is_refused():
    check_vision_transformer(tiny_clip().visual)
    with pytest.raises(UserError, match="has a ResNet.* ViT-B/32, ViT-B/16"):
        check_vision_transformer(tiny_clip("resnet").visual)
