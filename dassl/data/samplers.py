"""The order in which a loader takes its images; anything random draws from torch's global generator.

Each epoch takes a single draw from it, at its start, and that draw decides the epoch.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice, repeat

import torch
from torch.utils.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler
from yacs.config import CfgNode

from dassl.data.datasets import Datum
from dassl.utils import UserError, nearest, processes

__all__ = [
    "RandomClassSampler",
    "RandomDomainSampler",
    "RandomSampler",
    "SeqDomainSampler",
    "SequentialSampler",
    "Shares",
    "build_sampler",
    "draw_seed",
]


def draw_seed() -> int:
    """A random 63-bit number from torch's global generator."""
    return int(torch.empty((), dtype=torch.int64).random_())


class _GroupedSampler(Sampler):
    """Batches that are balanced over groups of images.

    How far one pass over the data comes depends on its draws. Every epoch is as long as a typical pass, cut
    or continued by another one, so that len() is what comes.
    """

    def __init__(self, data_source, attribute):
        self.groups = defaultdict(list)
        for index, item in enumerate(data_source):
            self.groups[getattr(item, attribute)].append(index)

    def __iter__(self):
        passes = map(self.one_pass, repeat(random.Random(draw_seed())))
        return islice(chain.from_iterable(passes), len(self))

    def __len__(self):
        return self._length

    @cached_property
    def _length(self):
        return sum(1 for _ in self.one_pass(random.Random(0)))

    def one_pass(self, rng: random.Random) -> Iterator[int]:
        """Yield the indices of one pass over the data, drawn from a random.Random."""
        raise NotImplementedError


class _DomainSampler(_GroupedSampler):
    """As many images of each chosen domain in every batch, until a domain runs short."""

    def __init__(self, data_source, batch_size, n_domain):
        super().__init__(data_source, "domain")
        self.n_domain = n_domain if n_domain and n_domain > 0 else len(self.groups)
        if self.n_domain > len(self.groups):
            raise UserError(f"N_DOMAIN is {self.n_domain}, but the data has {len(self.groups)} domains")
        if batch_size % self.n_domain:
            raise UserError(f"BATCH_SIZE is {batch_size}: choose a multiple of the {self.n_domain} domains")
        self.n_img_per_domain = batch_size // self.n_domain
        smallest = min(map(len, self.groups.values()))
        if smallest < self.n_img_per_domain:
            raise UserError(
                f"a batch takes {self.n_img_per_domain} images of each domain, but one has {smallest}: lower BATCH_SIZE"
            )

    def choose(self, rng: random.Random) -> Iterable[int]:
        """The domains of a batch."""
        raise NotImplementedError

    def one_pass(self, rng: random.Random) -> Iterator[int]:
        left = {domain: rng.sample(indices, len(indices)) for domain, indices in self.groups.items()}
        while min(map(len, left.values())) >= self.n_img_per_domain:
            for domain in self.choose(rng):
                for _ in range(self.n_img_per_domain):
                    yield left[domain].pop()


class RandomDomainSampler(_DomainSampler):
    """Batches of n_domain random domains with batch_size / n_domain random images each.

    Args:
        data_source: a list of Datum.
        batch_size: images in a batch.
        n_domain: domains in a batch; None or below 1 for all.

    Raises:
        UserError: the batch cannot be shared evenly, or there are too few domains or images.
    """

    def choose(self, rng: random.Random) -> Iterable[int]:
        return rng.sample(list(self.groups), self.n_domain)


class SeqDomainSampler(_DomainSampler):
    """Batches of all domains, in order, with as many random images each.

    Args:
        data_source: a list of Datum.
        batch_size: images in a batch.

    Raises:
        UserError: the batch cannot be shared evenly, or a domain has too few images.
    """

    def __init__(self, data_source: Sequence[Datum], batch_size: int) -> None:
        super().__init__(data_source, batch_size, None)

    def choose(self, rng: random.Random) -> Iterable[int]:
        return self.groups


class RandomClassSampler(_GroupedSampler):
    """Batches of batch_size // n_ins random classes with n_ins random images each, until classes run short.

    Args:
        data_source: a list of Datum.
        batch_size: images in a batch.
        n_ins: images of a class in a batch; drawn with replacement from a class that has fewer.

    Raises:
        UserError: n_ins is above batch_size, or there are fewer classes than a batch takes.
    """

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_ins: int) -> None:
        super().__init__(data_source, "label")
        if not 1 <= n_ins <= batch_size:
            raise UserError(f"N_INS is {n_ins}: choose from 1 to BATCH_SIZE, {batch_size}")
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        if self.ncls_per_batch > len(self.groups):
            raise UserError(
                f"a batch takes {self.ncls_per_batch} classes (BATCH_SIZE {batch_size}, N_INS {n_ins}), "
                f"but the data has {len(self.groups)}: raise N_INS or lower BATCH_SIZE"
            )

    def one_pass(self, rng: random.Random) -> Iterator[int]:
        left = {label: self._portions(indices, rng) for label, indices in self.groups.items()}
        while len(left) >= self.ncls_per_batch:
            for label in rng.sample(list(left), self.ncls_per_batch):
                yield from left[label].pop()
                if not left[label]:
                    del left[label]

    def _portions(self, indices, rng):
        """A class's images, shuffled, in lists of n_ins; what does not fill a list is left out."""
        n = self.n_ins
        shuffled = rng.sample(indices, len(indices)) if len(indices) >= n else rng.choices(indices, k=n)
        return [shuffled[i : i + n] for i in range(0, len(shuffled) - n + 1, n)]


class Shares(BatchSampler):
    """This process's shares of batches: each batch is cut, in its order, into equal ones for a run's processes.

    Args:
        sampler: draws the same in all of them.
        batch_size: images in a batch.
        drop_last: whether a last, smaller batch is left out.

    Raises:
        UserError: a batch cannot be shared evenly.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool) -> None:
        super().__init__(sampler, batch_size, drop_last)
        n, last = processes.count(), 0 if drop_last else len(sampler) % batch_size
        if batch_size % n:
            raise UserError(f"BATCH_SIZE is {batch_size}: choose a multiple of the {n} processes")
        if last % n:
            raise UserError(f"{n} processes cannot share an epoch's last batch of {last} evenly: set DROP_LAST True")

    def __iter__(self):
        for batch in super().__iter__():
            size = len(batch) // processes.count()
            yield batch[processes.rank() * size :][:size]


def build_sampler(
    sampler_type: str,
    cfg: CfgNode | None = None,
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler:
    """The sampler of that name for a list of Datum. Raises UserError if there is none, or it cannot be built.

    Args:
        sampler_type: the class's name.
        cfg: the config (not read; Dassl's signature).
        data_source: a list of Datum.
        batch_size: images in a batch, n_domain of its domains or n_ins images of each of its classes.
        n_domain: see RandomDomainSampler.
        n_ins: see RandomClassSampler.
    """
    items = data_source or ()
    samplers: dict[str, Callable[[], Sampler]] = {
        "RandomSampler": lambda: RandomSampler(items),
        "SequentialSampler": lambda: SequentialSampler(items),
        "RandomDomainSampler": lambda: RandomDomainSampler(items, batch_size, n_domain),
        "SeqDomainSampler": lambda: SeqDomainSampler(items, batch_size),
        "RandomClassSampler": lambda: RandomClassSampler(items, batch_size, n_ins),
    }
    if sampler_type not in samplers:
        raise UserError(f'unknown sampler "{sampler_type}": {nearest(sampler_type, samplers)}')
    return samplers[sampler_type]()
