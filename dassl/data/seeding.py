"""Why an epoch depends on the run's seed and its number alone: every image of it has a seed of its own.

The view of image i in epoch e under seed s follows from (s, e, i), and the order of the epoch from (s, e). So neither
depends on the method, the batch size, the number of workers or on what a model drew: methods under one seed see the
same images in the same views and order. The seeds travel, inside the indices, to whichever process loads the images,
and each image's transform runs on generators seeded with its own.

Where no seed is set, or a loop of its own says no epoch, an epoch follows from one draw of torch's global generator.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from dassl.data.samplers import draw_seed


class SeededIndex(int):
    """An index that knows the seed for its image's transform."""

    seed: int

    def __new__(cls, index, seed):
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __getnewargs__(self):
        return int(self), self.seed


def seed_of(*parts: int | str) -> int:
    """A number below 2**32 that follows from some values."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=4).digest(), "big")


class SeededSampler(Sampler):
    """Yields another sampler's indices as SeededIndex.

    Args:
        sampler: draws from torch's global generator, if at all.
        seed: of the run; negative: none.
        views: epochs have so many views of an image in turn; 0: each has its own.
    """

    def __init__(self, sampler: Sampler, seed: int = -1, views: int = 0) -> None:
        self.sampler, self.seed, self.views = sampler, seed, views
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes, counted from 0. Within one, every pass over the data after the first differs."""
        self.epoch, self.passes = epoch, 0

    def view_of(self, epoch: int) -> int:
        """The first epoch that has the same views."""
        return epoch % self.views if self.views else epoch

    def __iter__(self):
        if self.epoch is None or self.seed < 0:
            order = view = (draw_seed(),)
        else:
            order, view = ((self.seed, epoch, self.passes) for epoch in (self.epoch, self.view_of(self.epoch)))
            self.passes += 1
        with seeded(seed_of("order", *order)):
            indices = list(self.sampler)
        for index in indices:
            yield SeededIndex(index, seed_of("view", *view, int(index)))

    def __len__(self):
        return len(self.sampler)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the block on CPU generators of python, numpy and torch seeded with a number below 2**32.

    Afterwards they are as before. A GPU's generator, which belongs to the model, is left alone.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seeded_items(dataset: Dataset, indices: Iterable[int]) -> list[Any]:
    """The dataset's items, each made on its own seed where its index has one."""
    items = []
    for index in indices:
        if isinstance(index, SeededIndex):
            with seeded(index.seed):
                items.append(dataset[int(index)])
        else:
            items.append(dataset[index])
    return items


class Seeded(Dataset):
    """Another dataset, whose items are made on the seeds of their indices. Its attributes are the other's."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]

    def __getitems__(self, indices):
        return seeded_items(self.dataset, indices)

    def __getattr__(self, name):
        if name == "dataset":  # not there yet: being unpickled in a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)
