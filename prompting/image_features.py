"""Image features of a frozen encoder, computed once and kept on disk.

An entry of the store holds the features of one list of images under one encoder and one transform; where the transform
is random, in one epoch's views under one seed. Its key is a digest of all that decides the numbers: the weights, their
modules and their family, the transform, the content of every image file in order and the code that reads them, seed and
epoch of views and the code that makes them, the batches, the precision, torch's flags, and the libraries and the
processor that decode and compute. Entries are therefore exact, shared by all trainers whose images they are, and safe
to delete.
"""

import functools
import hashlib
import inspect
import logging
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from itertools import chain
from typing import Any

import PIL
import PIL.features
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dassl.data import seeding
from dassl.data.transforms import transforms
from dassl.utils import UserError, cache_dir, digests, images, numerics
from dassl.utils.logger import log_once
from prompting.feature_store import LIMIT_GB, FeatureStore

logger = logging.getLogger("dassl.prompting")

FOLDER = "image_features"
"""Of the store, in the project's folder for derived files."""

DETERMINISTIC = {"Compose", "Resize", "CenterCrop", "ToImage", "ToDtype", "Normalize", "PILToTensor", "ToTensor"}
PLAIN = "torchvision.transforms."
MODULES = "torch.nn.", f"{transforms.__name__}."
"""Where the transforms are that their settings describe, given the versions and the code in the key."""


def cached_image_features(
    encode: Callable[[torch.Tensor], torch.Tensor],
    weights: nn.Module,
    loader: DataLoader,
    paths: Sequence[str],
    transform: Callable[..., Any],
    precision: str,
    enabled: bool = True,
    views: tuple[int, int] | None = None,
    limit_gb: float = LIMIT_GB,
) -> torch.Tensor:
    """Features of all images of a loader, in order.

    Args:
        encode: (B, 3, H, W) images, as the loader yields them -> (B, e) features, or (B, M, e).
        weights: the encoder whose parameters and buffers are in the key; frozen.
        loader: yields batches with "img", in a fixed order.
        paths: the image files in that order; their content is read once for each dataset.
        transform: what the loader applies to each.
        precision: the name of the precision in force (part of the key).
        enabled: whether to read and write the store.
        views: the seed and the epoch that, with an image's index, decide what a random transform makes of it; without
            them such features are not kept.
        limit_gb: GiB that the store may hold; 0 for none.

    Returns:
        (n, e) tensor on the CPU, or (n, M, e).
    """
    told, plain = settings(transform), is_deterministic(transform)
    if not enabled or limit_gb <= 0 or told is None or not (plain or views):
        return _compute(encode, loader)
    of_epoch, views = views is not None, None if plain else views  # nothing is random: the same in every epoch
    try:
        folder = cache_dir(FOLDER)
    except UserError as error:
        log_once(logging.WARNING, f"Image features are not kept: {error}")
        return _compute(encode, loader)
    key = _key(weights, loader, paths, told, precision, views)
    about = {"images": str(len(paths)), "precision": precision.strip()}
    about["backbone"] = getattr(getattr(weights, "backbone", None), "name", "")
    if views is not None:
        about["seed"], about["epoch"] = map(str, views)
    store = FeatureStore(folder, limit_gb)
    features, path = store.get(key, len(paths), lambda: _compute(encode, loader), about)
    if path is not None:
        level = logging.DEBUG if of_epoch else logging.INFO
        logger.log(level, "Image features of %d images from %s", len(paths), path)
    return features


def is_deterministic(transform: Callable[..., Any]) -> bool:
    """Whether a transform is known to give the same pixels every time."""
    return settings(transform) is not None and all(type(step).__name__ in DETERMINISTIC for step in _steps(transform))


def settings(transform: Callable[..., Any]) -> str | None:
    """All that a transform was told, its steps included; None where that does not say what it does."""
    try:
        return _told(transform)
    except TypeError:
        return None


def _steps(transform):
    """The transforms that a transform is made of, itself included."""
    return [transform, *(step for part in getattr(transform, "transforms", ()) for step in _steps(part))]


def _told(value):
    """A setting or a transform as text; its own repr may leave things out. Raises TypeError where it is of no kind that
    is known: a function, say, or a tensor.
    """
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if value is None or isinstance(value, bool | int | float | str | Enum | torch.dtype):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_told, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_told(k)}: {_told(v)}' for k, v in value.items())}}}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    is_module = isinstance(value, nn.Module)
    if not name.startswith(PLAIN) and not (is_module and name.startswith(MODULES)):
        raise TypeError(name)
    told = {k: v for k, v in vars(value).items() if not k.startswith("_") and k != "training"}
    if is_module:
        if any(True for _ in chain(value.parameters(), value.buffers())):
            raise TypeError(name)
        told |= dict(value.named_children())
    return name + _told(told)


@torch.no_grad()
def _compute(encode, loader):
    return torch.cat([encode(batch["img"]).cpu() for batch in tqdm(loader, disable=None, leave=False)])


def _key(weights, loader, paths, told, precision, views):
    device = next(iter(weights.state_dict().values())).device
    backbone = getattr(weights, "backbone", None)  # the same weights mean something else with another activation
    family = backbone and (backbone.family.name, backbone.family.activation, backbone.family.head_width)
    code = [inspect.getsource(module) for module in (images, *((seeding, transforms) if views else ()))]
    how = (_versions(), _processor(device), numerics(), precision, loader.batch_size, told, views, code, family)
    digest = hashlib.sha256(repr((*how, repr(weights))).encode())
    tensors = weights.state_dict()
    written = [(tensor.data_ptr(), tensor._version) for tensor in tensors.values()]
    digest.update(bytes.fromhex(digests.once(weights, written, lambda: digests.of_tensors(tensors))))
    digest.update(bytes.fromhex(digests.of_images(loader.dataset, paths)))
    return digest.hexdigest()[:40]


@functools.cache
def _versions():
    """Of what decodes, transforms and computes."""
    decoders = [PIL.features.version(name) for name in ("jpg", "libjpeg_turbo", "webp", "avif", "jpg_2000")]
    return torch.__version__, torchvision.__version__, PIL.__version__, decoders


def _processor(device):
    """What sums are added up by, and in how many parts: convolutions of a ResNet depend on the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device), torch.version.cuda, torch.backends.cudnn.version()
    return torch.backends.cpu.get_cpu_capability(), _cpu(), torch.get_num_threads()


@functools.cache
def _cpu():
    """The kind of CPU, for which libraries choose their kernels."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = file.read().partition("\n\n")[0].splitlines()
        return [line for line in lines if line.startswith(("vendor_id", "cpu family", "model", "CPU "))]
    return platform.processor()
