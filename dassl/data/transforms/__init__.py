"""Image transforms: what turns a PIL image into the tensor that a backbone takes."""

from dassl.data.transforms.transforms import AVAI_CHOICES, INTERPOLATION_MODES, Cutout, build_transform

__all__ = ["AVAI_CHOICES", "INTERPOLATION_MODES", "Cutout", "build_transform"]
