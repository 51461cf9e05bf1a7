"""Hand-written prompt templates: CLIP's published ones, and that of each data set, which its reader defines."""

from collections.abc import Iterable

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError

DEFAULT = "a photo of a {}."
"""The template of data sets whose readers have none."""

IMAGENET_SELECT = [
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
]
"""The seven of CLIP's ImageNet templates that its authors found to do nearly as well as all eighty."""

IMAGENET = [
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
]
"""CLIP's eighty templates for ImageNet (Radford et al., ICML 2021)."""


def custom_template(dataset_name: str) -> str:
    """The template of a data set's reader, the one that CoOp's zero-shot CLIP uses; else `DEFAULT`.

    Raises:
        UserError: there is no such reader, or its template does not hold one {} for the class name.
    """
    template = getattr(DATASET_REGISTRY.get(dataset_name), "template", DEFAULT)
    _check(template, f"the data set {dataset_name}")
    return template


def all_templates(dataset_name: str) -> list[str]:
    """CLIP's eighty for ImageNet and, where it is none of them, the data set's own."""
    return list(dict.fromkeys([*IMAGENET, custom_template(dataset_name)]))


def check_templates(templates: Iterable[object], section: str) -> None:
    """Raises UserError where a template of cfg.TRAINER.<section> does not hold one {} for the class name."""
    for template in templates:
        _check(template, f"TRAINER.{section}")


def _check(template, owner):
    if not isinstance(template, str) or template.count("{}") != 1:
        raise UserError(f"the template {template!r} of {owner} must hold one {{}} for the class name")
