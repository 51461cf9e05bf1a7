"""Epochs of training with what frozen image encoders make of its images, computed once per view and shared by runs.

The views of an epoch depend on the run's seed and the epoch alone (dassl.data.seeding), so their features do not depend
on the method. They are computed in one pass over the training set, in its order and in batches of one size, so that the
numbers do not depend on who asked either; image_features keeps them on disk.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from dassl.data import in_order
from prompting.image_features import cached_image_features

logger = logging.getLogger("dassl.prompting")

AT_ONCE = 128
"""Images in a batch of the pass. Measured on CPU, anything from 8 to 128 is within a third of the best."""

KEPT = 4
"""A run's training features may take one part in so many of the store: more would push out what they share it with."""


class FrozenEncoder(NamedTuple):
    """An image encoder that no step changes.

    Attributes:
        encode: (B, 3, H, W) images on the device -> (B, ...) features, without gradient.
        weights: the module whose parameters and buffers decide its numbers.
        precision: the name of the precision in which it computes.
        encodes: as PromptedCLIP has it.
    """

    encode: Callable[[torch.Tensor], torch.Tensor]
    weights: nn.Module
    precision: str
    encodes: str | None = ""


class Epochs:
    """The batches of a training loader, with features of its images.

    Args:
        cfg: the whole config.
        loader: of training data; where it is not of dassl's making or the run has no seed, or an epoch's features would
            take more than TRAIN.FEATURES_GB, images are encoded batch by batch.
        encoders: {what their features are called in a batch: FrozenEncoder}, those that `batches` will be given.
        device: where the model computes.
        with_images: whether batches have "img" too.
    """

    def __init__(
        self,
        cfg: CfgNode,
        loader: DataLoader,
        encoders: Mapping[str, FrozenEncoder],
        device: torch.device,
        with_images: bool,
    ) -> None:
        # Encoders are not kept: they may refer to who keeps this, and a loader that the garbage collector ends waits
        # 5 seconds for every worker.
        self.cfg, self.loader, self.device, self.with_images = cfg, loader, device, with_images
        self.views: Any = in_order(loader, AT_ONCE)
        if self.views is None:
            return
        size = self._bytes(encoders) / 2**30
        if size > cfg.TRAIN.FEATURES_GB:
            logger.info("Image features of an epoch take %.1f GiB: images are encoded batch by batch", size)
            self.views = None
            return
        epochs = min(cfg.OPTIM.MAX_EPOCH, cfg.INPUT.VIEWS or cfg.OPTIM.MAX_EPOCH)
        self.keeps = cfg.TRAIN.FEATURE_CACHE and KEPT * epochs * size <= cfg.FEATURES_LIMIT_GB

    def batches(self, epoch: int, encoders: Mapping[str, FrozenEncoder]) -> "Sequence[dict[str, Any]] | Encoded":
        """The batches of an epoch, counted from 0, with features of these encoders."""
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)  # a loop of one's own may not have said it
        if self.views is None:
            return Encoded(self.loader, self._encoded(encoders))
        found = {name: self._features(encoder, epoch).to(self.device) for name, encoder in encoders.items()}
        if self.with_images:
            return Encoded(self.loader, self._joined(found))
        items = self.loader.dataset.data_source
        chosen = [[int(i) for i in batch] for batch in self.loader.batch_sampler or ()]
        order = torch.tensor([i for batch in chosen for i in batch])
        on_device, sizes = order.to(self.device), [len(batch) for batch in chosen]
        columns = {name: features.index_select(0, on_device).split(sizes) for name, features in found.items()}
        labels = torch.tensor([items[i].label for batch in chosen for i in batch]).to(self.device)
        columns |= {"label": labels.split(sizes), "index": order.split(sizes)}
        return [
            {
                **{name: column[k] for name, column in columns.items()},
                "domain": torch.tensor([items[i].domain for i in batch]),
                "impath": [items[i].impath for i in batch],
            }
            for k, batch in enumerate(chosen)
        ]

    def _joined(self, found: Mapping[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            index = batch["index"].to(self.device, non_blocking=True)
            yield batch | {name: features.index_select(0, index) for name, features in found.items()}

    def _encoded(self, encoders: Mapping[str, FrozenEncoder]) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            images = batch["img"].to(self.device, non_blocking=True)
            yield batch | {name: encoder.encode(images) for name, encoder in encoders.items()}

    def _features(self, encoder: FrozenEncoder, epoch: int) -> torch.Tensor:
        self.views.set_epoch(epoch)
        dataset, sampler = self.views.dataset, self.views.sampler
        return cached_image_features(
            lambda images: encoder.encode(images.to(self.device, non_blocking=True)),
            encoder.weights,
            self.views,
            [item.impath for item in dataset.data_source],
            dataset.transform,
            f"{encoder.precision} {encoder.encodes}",
            enabled=self.keeps and encoder.encodes is not None,
            views=(sampler.seed, sampler.view_of(epoch)),
            limit_gb=self.cfg.FEATURES_LIMIT_GB,
        )

    def _bytes(self, encoders: Mapping[str, FrozenEncoder]) -> int:
        """What the features of one epoch take, from those of a picture of nothing."""
        nothing = torch.zeros(1, 3, *self.cfg.INPUT.SIZE, device=self.device)
        each = sum(f.numel() * f.element_size() for f in (e.encode(nothing) for e in encoders.values()))
        return each * len(self.views.dataset)


class Encoded:
    """Batches that are made on the way, as many as a loader has."""

    def __init__(self, loader: DataLoader, batches: Iterable[dict[str, Any]]) -> None:
        self.loader, self._batches = loader, batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self.loader)
