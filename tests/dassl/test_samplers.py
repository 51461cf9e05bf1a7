"""Samplers: what a batch is made of, and where the randomness comes from."""

import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch

from dassl.data.datasets import Datum
from dassl.data.samplers import (
    RandomClassSampler,
    RandomDomainSampler,
    SeqDomainSampler,
    build_sampler,
)
from dassl.data.seeding import SeededIndex, SeededSampler, seeded
from dassl.utils import UserError, set_random_seed


def batches(sampler, size):
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def of_domains(*counts):
    return [Datum(domain=domain) for domain, count in enumerate(counts) for _ in range(count)]


def of_classes(*counts):
    return [Datum(label=label) for label, count in enumerate(counts) for _ in range(count)]


def test_seq_domain_sampler_goes_on_until_a_domain_runs_short():
    data = of_domains(7, 5, 9)  # two of each in a batch: the second domain is good for two batches
    given = batches(SeqDomainSampler(data, 6), 6)
    assert [[data[i].domain for i in batch] for batch in given] == [[0, 0, 1, 1, 2, 2]] * 2
    assert len({i for batch in given for i in batch}) == 12


def test_random_domain_sampler_shares_a_batch_among_n_domains():
    data = of_domains(40, 50, 60)
    for _ in range(5):
        for batch in batches(RandomDomainSampler(data, 8, 2), 8):
            assert sorted(Counter(data[i].domain for i in batch).values()) == [4, 4]
            assert len(set(batch)) == 8
    assert len(RandomDomainSampler(data, 6, 0)) == 40 // 2 * 6  # all domains, until the smallest runs short


def test_random_class_sampler_takes_n_images_of_each_class():
    data = of_classes(4, 5, 2, 9)
    for _ in range(5):
        for batch in batches(RandomClassSampler(data, 6, 3), 6):
            assert sorted(Counter(data[i].label for i in batch).values()) == [3, 3]
    # as long as nothing is drawn twice but from the class that is too small
    seen = Counter(i for batch in batches(RandomClassSampler(of_classes(4, 4), 4, 2), 4) for i in batch)
    assert seen == Counter(range(8))


@pytest.mark.parametrize(
    "name",
    ["RandomSampler", "SequentialSampler", "RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler"],
)
def test_an_epoch_depends_on_torchs_generator_alone(name):
    data = [Datum(label=i % 5, domain=i % 2) for i in range(60)]

    def epoch(seed, other):
        random.seed(other)
        torch.manual_seed(seed)
        return list(build_sampler(name, data_source=data, batch_size=4, n_domain=2, n_ins=2))

    assert epoch(1, other=2) == epoch(1, other=3)
    assert (epoch(1, other=2) == epoch(4, other=2)) == (name == "SequentialSampler")
    assert set(epoch(1, other=2)) <= set(range(60))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: build_sampler("RandomSample", data_source=of_classes(1)), "did you mean RandomSampler"),
        (lambda: SeqDomainSampler(of_domains(4, 4), 5), "BATCH_SIZE is 5"),
        (lambda: SeqDomainSampler(of_domains(4, 1), 4), "2 images of each domain, but one has 1"),
        (lambda: RandomDomainSampler(of_domains(4, 4), 6, 3), "N_DOMAIN is 3, but the data has 2"),
        (lambda: RandomClassSampler(of_classes(4, 4), 2, 3), "N_INS is 3"),
        (lambda: RandomClassSampler(of_classes(4, 4), 6, 2), "takes 3 classes"),
    ],
)
def test_what_cannot_be_sampled(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_seeded_index_is_an_int_that_survives_the_way_to_a_worker():
    index = pickle.loads(pickle.dumps(SeededIndex(3, 77)))
    assert index == 3 and index.seed == 77 and "abcd"[index] == "d"


def test_seeded_sampler_gives_each_position_a_seed_of_its_own():
    torch.manual_seed(0)
    first, second = (list(SeededSampler(range(50))) for _ in range(2))
    assert first == second == list(range(50))
    assert len({index.seed for index in first + second}) == 100
    torch.manual_seed(0)
    assert [index.seed for index in SeededSampler(range(50))] == [index.seed for index in first]


def test_seeded_decides_the_draws_and_leaves_no_trace():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    set_random_seed(1)
    outside = [draw(), draw()]
    with seeded(5):
        inside = draw()
    assert inside not in outside

    set_random_seed(1)
    again = [draw()]
    with pytest.raises(ZeroDivisionError), seeded(5):
        assert draw() == inside
        raise ZeroDivisionError
    again.append(draw())
    assert again == outside
