"""Image features of a frozen encoder, computed once and kept on disk.

A file in the cache holds the features of one list of images under one encoder and one transform. Its name is a
digest of all that decides the numbers: the weights, their modules and their family, the transform, the content of
every image file in order, the batches, the precision, torch's flags, and the libraries and the processor that decode
and compute. It is therefore exact, shared by all trainers, seeds and shots, and safe to delete. Files appear whole or
not at all, so concurrent runs may share the folder.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import PIL
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dassl.utils import UserError, atomic_path, cache_dir, numerics

logger = logging.getLogger("dassl.prompting")

DETERMINISTIC = {"Compose", "Resize", "CenterCrop", "ToImage", "ToDtype", "Normalize", "PILToTensor", "ToTensor"}


def cached_image_features(
    encode: Callable[[torch.Tensor], torch.Tensor],
    weights: nn.Module,
    loader: DataLoader,
    paths: Sequence[str],
    transform: Callable[..., Any],
    precision: str,
    enabled: bool = True,
    views: tuple[int, int] | None = None,
    limit_gb: float = 20.0,
) -> torch.Tensor:
    """Features of all images of a loader, in order.

    Args:
        encode: (B, 3, H, W) images, as the loader yields them -> (B, e) features.
        weights: the encoder whose parameters and buffers key the cache.
        loader: yields batches with "img", in a fixed order.
        paths: the image files in that order.
        transform: what the loader applies to each; random ones are never cached.
        precision: the name of the precision in force (part of the key).
        enabled: whether to read and write the cache.

    Returns:
        (n, e) tensor on the CPU.
    """
    if not (enabled and (views or is_deterministic(transform))):
        return _compute(encode, loader)
    key = _key(weights, paths, transform, loader.batch_size, (precision, views))
    try:
        path = cache_dir("image_features") / f"{key}.pt"
        features = torch.load(path, map_location="cpu", weights_only=True)
        if len(features) == len(paths):
            logger.info("Image features of %d images from %s", len(paths), path)
            return features
    except FileNotFoundError:
        pass
    except UserError as error:
        logger.warning("Continuing without the cache of image features: %s", error)
        return _compute(encode, loader)
    except Exception as error:  # damaged: say so and make it again
        logger.warning("Ignoring the damaged cache file %s (%s)", path, type(error).__name__)
    features = _compute(encode, loader)
    try:
        with atomic_path(path) as temporary:
            torch.save(features, temporary)
    except (OSError, RuntimeError) as error:
        logger.warning("Image features are not kept: cannot write %s (%s)", path, error)
    return features


def is_deterministic(transform: Callable[..., Any]) -> bool:
    """Whether a transform is known to give the same pixels every time."""
    return all(type(step).__name__ in DETERMINISTIC for step in _steps(transform))


def _steps(transform):
    """The transforms that a transform is made of, itself included."""
    return [transform, *(step for part in getattr(transform, "transforms", ()) for step in _steps(part))]


def _settings(step):
    """All that a transform was told, as text; its own repr may leave things out."""
    told = {k: v for k, v in vars(step).items() if not k.startswith("_") and k not in ("training", "transforms")}
    return type(step).__name__, sorted((k, repr(v)) for k, v in told.items())


@torch.no_grad()
def _compute(encode, loader):
    return torch.cat([encode(batch["img"]).cpu() for batch in tqdm(loader, disable=None, leave=False)])


def _key(weights, paths, transform, batch_size, precision):
    digest = hashlib.sha256()
    versions = (torch.__version__, torchvision.__version__, PIL.__version__)
    tensors = weights.state_dict()
    device = next(iter(tensors.values())).device
    on_gpu = device.type == "cuda"
    device = torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability()
    steps = [_settings(step) for step in _steps(transform)]
    backbone = getattr(weights, "backbone", None)  # the same weights mean something else with another activation
    family = backbone and (backbone.family.name, backbone.family.activation, backbone.family.head_width)
    digest.update(repr((versions, device, numerics(), precision, batch_size, steps, family, repr(weights))).encode())
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    with ThreadPoolExecutor() as pool:  # hashing and reading release the GIL
        for content in pool.map(_file_digest, paths):
            digest.update(content)
    return digest.hexdigest()[:40]


def _file_digest(path):
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).digest()
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from error
