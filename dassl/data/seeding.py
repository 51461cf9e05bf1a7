"""Why an epoch does not depend on the number of workers: every image of it has a seed of its own.

An epoch's seeds follow from one draw of torch's global generator at its start. They travel, inside the
indices, to whichever process loads the images, and each image's transform runs on generators seeded with its
own.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


class SeededSampler(Sampler):
    """Yields another sampler's indices as SeededIndex."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __iter__(self):
        rng = random.Random(draw_seed())
        for index in self.sampler:
            yield SeededIndex(index, rng.getrandbits(32))

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
