"""The transforms that a config names, built from torchvision's v2 transforms for PIL images.

Anything random draws from torch's generator alone, so one seed decides an image.
"""

import logging
from collections.abc import Sequence

import torch
from torch import nn
from torchvision.transforms import InterpolationMode, v2
from yacs.config import CfgNode

from dassl import absent
from dassl.utils import UserError, nearest

logger = logging.getLogger(__name__)
__getattr__ = absent.getter(__name__)

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

AVAI_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "random_crop",
    "random_translation",
    "center_crop",
    "normalize",
    "instance_norm",
    "cutout",
    "colorjitter",
    "randomgrayscale",
    "gaussian_noise",
    "gaussian_blur",
    "random_perspective",
    "random_rotation",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
]

RANDAUGMENT_MAGNITUDES = 31


class Cutout(nn.Module):
    """Black out square holes at random places of a (C, H, W) tensor; parts outside the image are cut off.

    Args:
        n_holes: how many.
        length: their side in pixels.
    """

    def __init__(self, n_holes: int = 1, length: int = 16) -> None:
        super().__init__()
        self.n_holes = n_holes
        self.length = length

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        img = img.clone()
        height, width = img.shape[-2:]
        for _ in range(self.n_holes):
            top = int(torch.randint(height, ())) - self.length // 2
            left = int(torch.randint(width, ())) - self.length // 2
            img[..., max(top, 0) : top + self.length, max(left, 0) : left + self.length] = 0
        return img

    def extra_repr(self) -> str:
        return f"n_holes={self.n_holes}, length={self.length}"


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> v2.Compose | None:
    """The transform of PIL images that cfg.INPUT describes.

    Args:
        cfg: the config.
        is_train: with augmentation. Otherwise the shorter side is resized to the larger of INPUT.SIZE, the
            center of INPUT.SIZE cropped and, if chosen, normalized: CLIP's own preprocessing.
        choices: names from AVAI_CHOICES instead of cfg.INPUT.TRANSFORMS. Their order does not matter.

    Returns:
        A v2.Compose from an RGB PIL image to a float (3, H, W) tensor, in [0, 1] where not normalized; None
        if cfg.INPUT.NO_TRANSFORM is set.

    Raises:
        UserError: an unknown choice or interpolation, or a value that a transform cannot take.
    """
    if cfg.INPUT.NO_TRANSFORM:
        logger.info("No transform is applied (INPUT.NO_TRANSFORM)")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    for choice in choices:
        if choice not in AVAI_CHOICES:
            known = nearest(choice, AVAI_CHOICES)
            raise UserError(f'unknown transform "{choice}" in INPUT.TRANSFORMS: {known}')
    interpolation = interpolation_mode(cfg)
    build = _train_steps if is_train else _test_steps
    try:
        steps = build(cfg.INPUT, set(choices), interpolation)
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot make a transform from the config's INPUT: {error}") from error
    logger.info("Building transform_%s", "train" if is_train else "test")
    for step in steps:
        logger.info("+ %s", step)
    return v2.Compose(steps)


def interpolation_mode(cfg: CfgNode) -> v2.InterpolationMode:
    """torchvision's mode for cfg.INPUT.INTERPOLATION. Raises UserError if it is unknown."""
    name = cfg.INPUT.INTERPOLATION
    if name not in INTERPOLATION_MODES:
        raise UserError(f'unknown INPUT.INTERPOLATION "{name}": {nearest(name, INTERPOLATION_MODES)}')
    return INTERPOLATION_MODES[name]


def to_tensor() -> list[nn.Module]:
    """The steps from a PIL image to a float tensor in [0, 1]."""
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]


def normalize(options: CfgNode) -> nn.Module:
    return v2.Normalize(mean=options.PIXEL_MEAN, std=options.PIXEL_STD)


def _train_steps(options, choices, interpolation):
    size = tuple(options.SIZE)
    steps = []

    if not choices & {"random_crop", "random_resized_crop"}:
        if "center_crop" in choices:
            steps += _center(size, interpolation)
        else:
            steps.append(v2.Resize(size, interpolation=interpolation))
    if "random_translation" in choices:
        steps.append(_random_translation(size, interpolation))
    if "random_crop" in choices:
        steps.append(v2.RandomCrop(size, padding=options.CROP_PADDING, pad_if_needed=True))
    if "random_resized_crop" in choices:
        steps.append(v2.RandomResizedCrop(size, scale=options.RRCROP_SCALE, interpolation=interpolation))
    if "random_flip" in choices:
        steps.append(v2.RandomHorizontalFlip())
    if "random_perspective" in choices:
        steps.append(v2.RandomPerspective(options.PERSPECTIVE_SCALE, options.PERSPECTIVE_P))
    if "random_rotation" in choices:
        steps.append(v2.RandomRotation(options.ROTATION))

    for policy in ("imagenet", "cifar10", "svhn"):
        if f"{policy}_policy" in choices:
            steps.append(v2.AutoAugment(v2.AutoAugmentPolicy(policy)))
    if "randaugment" in choices:
        n, magnitude = options.RANDAUGMENT_N, options.RANDAUGMENT_M
        if not 0 <= magnitude < RANDAUGMENT_MAGNITUDES:
            raise ValueError(f"RANDAUGMENT_M is {magnitude}: choose from 0 to {RANDAUGMENT_MAGNITUDES - 1}")
        steps.append(v2.RandAugment(n, magnitude, RANDAUGMENT_MAGNITUDES))
    if "randaugment_fixmatch" in choices:
        steps += [_one_augmentation() for _ in range(options.RANDAUGMENT_N)]
    if "randaugment2" in choices:
        steps += [v2.RandomApply([_one_augmentation()], p=0.6) for _ in range(options.RANDAUGMENT_N)]

    if "colorjitter" in choices:
        amounts = (options.COLORJITTER_B, options.COLORJITTER_C, options.COLORJITTER_S, options.COLORJITTER_H)
        steps.append(v2.ColorJitter(*amounts))
    if "randomgrayscale" in choices:
        steps.append(v2.RandomGrayscale(p=options.RGS_P))
    if "gaussian_blur" in choices:
        steps.append(v2.RandomApply([v2.GaussianBlur(options.GB_K)], p=options.GB_P))

    steps += to_tensor()

    if "cutout" in choices:
        steps.append(Cutout(options.CUTOUT_N, options.CUTOUT_LEN))
    if "normalize" in choices:
        steps.append(normalize(options))
    if "gaussian_noise" in choices:
        steps.append(v2.RandomApply([v2.GaussianNoise(options.GN_MEAN, options.GN_STD, clip=False)], p=0.5))
    if "instance_norm" in choices:
        steps.append(_instance_norm())
    return steps


def _test_steps(options, choices, interpolation):
    steps = _center(tuple(options.SIZE), interpolation) + to_tensor()
    if "normalize" in choices:
        steps.append(normalize(options))
    if "instance_norm" in choices:
        steps.append(_instance_norm())
    return steps


def _center(size, interpolation):
    return [v2.Resize(max(size), interpolation=interpolation), v2.CenterCrop(size)]


def _random_translation(size, interpolation):
    """Every other image is enlarged by an eighth and cropped at random."""
    enlarged = [round(side * 1.125) for side in size]
    return v2.RandomChoice(
        [
            v2.Resize(size, interpolation=interpolation),
            v2.Compose([v2.Resize(enlarged, interpolation=interpolation), v2.RandomCrop(size)]),
        ]
    )


def _one_augmentation():
    """One operation of RandAugment at a random magnitude."""
    magnitudes = range(RANDAUGMENT_MAGNITUDES)
    return v2.RandomChoice([v2.RandAugment(1, m, RANDAUGMENT_MAGNITUDES) for m in magnitudes])


def _instance_norm():
    """Each channel of an image to mean 0 and variance 1."""
    return nn.InstanceNorm2d(3, eps=1e-8)
