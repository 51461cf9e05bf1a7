"""Transforms: CLIP's pixels in testing, Dassl's order in training, torch's randomness alone."""

import random

import clip
import numpy as np
import pytest
import torch
from PIL import Image

from dassl.config import get_cfg_default
from dassl.data.transforms import AVAI_CHOICES, INTERPOLATION_MODES, Cutout, build_transform
from dassl.utils import UserError

RANDOM = set(AVAI_CHOICES) - {"normalize", "center_crop", "instance_norm"}


def config(*choices, size=(32, 32), **options):
    cfg = get_cfg_default()
    cfg.INPUT.SIZE = size
    cfg.INPUT.TRANSFORMS = choices
    for key, value in options.items():
        cfg.INPUT[key] = value
    return cfg


def photo(width=70, height=50):
    noise = np.random.default_rng(0).integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def steps(cfg, **kwargs):
    return [type(step).__name__ for step in build_transform(cfg, **kwargs).transforms]


@pytest.mark.parametrize("size", [(70, 50), (40, 90), (33, 33), (20, 21)])
def test_the_test_transform_is_clips(size):
    cfg = config(
        "random_flip",
        "normalize",
        INTERPOLATION="bicubic",
        PIXEL_MEAN=[0.48145466, 0.4578275, 0.40821073],
        PIXEL_STD=[0.26862954, 0.26130258, 0.27577711],
    )
    ours = build_transform(cfg, is_train=False)(photo(*size))
    assert type(ours) is torch.Tensor and ours.shape == (3, 32, 32)
    torch.testing.assert_close(ours, clip.clip._transform(32)(photo(*size)), rtol=0, atol=2e-6)


def test_without_normalize_pixels_are_in_0_to_1():
    image = build_transform(config(size=(50, 70)), is_train=False)(photo().crop((0, 0, 70, 70)))
    assert 0 <= image.min() and 0.5 < image.max() <= 1


def test_training_follows_dassls_order_whatever_the_order_of_the_choices():
    cfg = config("normalize", "gaussian_blur", "cutout", "random_flip", "colorjitter", "random_resized_crop")
    assert steps(cfg) == [
        "RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter", "RandomApply", "PILToTensor", "ToDtype",
        "Cutout", "Normalize",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "choices, first",
    [
        ((), ["Resize"]),
        (("random_flip",), ["Resize"]),
        (("center_crop",), ["Resize", "CenterCrop"]),
        (("random_crop",), ["RandomCrop"]),
        (("random_resized_crop",), ["RandomResizedCrop"]),
        (("random_translation",), ["Resize", "RandomChoice"]),
    ],
)
def test_training_resizes_unless_a_crop_does(choices, first):
    assert steps(config(*choices))[: len(first)] == first
    assert build_transform(config(*choices, size=(24, 40)))(photo()).shape == (3, 24, 40)


def test_perspective_and_rotation_follow_the_flip():
    cfg = config(
        "random_rotation", "random_perspective", "random_flip", "center_crop", ROTATION=7.0, PERSPECTIVE_P=0.25
    )
    _, _, _, perspective, rotation, *_ = build_transform(cfg).transforms
    names = ["Resize", "CenterCrop", "RandomHorizontalFlip", "RandomPerspective", "RandomRotation", "PILToTensor"]
    assert steps(cfg)[:6] == names
    assert (perspective.distortion_scale, perspective.p, rotation.degrees) == (0.5, 0.25, [-7, 7])


def test_choices_take_the_place_of_the_configs():
    cfg = config("random_flip", "normalize")
    assert steps(cfg, choices=["randomgrayscale"]) == ["Resize", "RandomGrayscale", "PILToTensor", "ToDtype"]


@pytest.mark.parametrize("choice", AVAI_CHOICES)
def test_every_choice_works_and_draws_from_torch_alone(choice):
    transform = build_transform(config(choice))

    def draw(other):
        random.seed(other)
        np.random.seed(other)
        torch.manual_seed(0)
        return torch.stack([transform(photo()) for _ in range(12)])

    images = draw(other=1)
    assert images.shape == (12, 3, 32, 32) and images.dtype == torch.float32
    assert torch.equal(images, draw(other=2))
    varied = any(not torch.equal(image, images[0]) for image in images)
    assert varied == (choice in RANDOM)


def test_cutout_blacks_out_one_square():
    for seed in range(20):
        torch.manual_seed(seed)
        image = torch.ones(3, 10, 12)
        out = Cutout(length=4)(image)
        rows, columns = (out[0] == 0).nonzero(as_tuple=True)
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert len(rows) == height * width and 2 <= height <= 4 and 2 <= width <= 4
        assert torch.equal(out[0], out[1]) and image.min() == 1


def test_gaussian_noise_comes_to_every_other_image_and_is_not_clipped():
    torch.manual_seed(0)
    transform = build_transform(config("gaussian_noise", GN_STD=0.2))
    images = [transform(Image.new("RGB", (32, 32))) for _ in range(60)]
    noisy = [image for image in images if image.any()]
    assert 20 <= len(noisy) <= 40
    for image in noisy:
        assert abs(image.mean()) < 0.02 and abs(image.std() - 0.2) < 0.02


def test_instance_norm():
    image = build_transform(config("instance_norm"), is_train=False)(photo())
    torch.testing.assert_close(image.mean((1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(image.var((1, 2), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_no_transform():
    assert build_transform(config(NO_TRANSFORM=True)) is None


@pytest.mark.parametrize(
    "cfg, message",
    [
        (config("random_flop"), 'unknown transform "random_flop" .* did you mean random_flip'),
        (config(INTERPOLATION="bicubik"), "INPUT.INTERPOLATION .* did you mean bicubic"),
        (config("gaussian_blur", GB_K=4), "INPUT: .*odd"),
        (config("randaugment", RANDAUGMENT_M=31), "RANDAUGMENT_M is 31: choose from 0 to 30"),
    ],
)
def test_what_makes_no_transform(cfg, message):
    with pytest.raises(UserError, match=message):
        build_transform(cfg)


def test_interpolation_modes_are_dassls():
    assert set(INTERPOLATION_MODES) == {"bilinear", "bicubic", "nearest"}
