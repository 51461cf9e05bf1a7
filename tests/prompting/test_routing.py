"""The figures of a router against loops over images, experts and labels."""

import math

import pytest
import torch

from prompting.routing import SHUFFLES, entropy, mutual_information, routing


def in_loops(labels, weights):
    """I(label; expert) and the smaller entropy, in bits, from the definition."""
    n, k, shares = len(labels), len(weights[0]), {}
    for label, row in zip(labels, weights, strict=True):
        for g in range(k):
            shares[label, g] = shares.get((label, g), 0.0) + row[g] / n
    of_label = {c: sum(shares[c, g] for g in range(k)) for c in set(labels)}
    of_expert = {g: sum(shares[c, g] for c in set(labels)) for g in range(k)}
    bits = sum(p * math.log2(p / (of_label[c] * of_expert[g])) for (c, g), p in shares.items() if p > 0)
    entropies = [-sum(p * math.log2(p) for p in of.values() if p > 0) for of in (of_label, of_expert)]
    return bits, min(entropies)


def test_mutual_information_is_its_definition():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 5, (40,), generator=generator)
    weights = torch.rand(40, 4, generator=generator) * (torch.rand(40, 4, generator=generator) > 0.4)
    weights[:, 0] += 0.1
    weights = weights / weights.sum(dim=1, keepdim=True)
    found, chance, share = mutual_information(labels, weights)
    bits, most = in_loops(labels.tolist(), weights.tolist())
    assert math.isclose(found, bits, rel_tol=1e-5)
    generator = torch.Generator().manual_seed(0)
    shuffled = [labels[torch.randperm(40, generator=generator)].tolist() for _ in range(SHUFFLES)]
    expected = sum(in_loops(each, weights.tolist())[0] for each in shuffled) / SHUFFLES
    assert math.isclose(chance, expected, rel_tol=1e-5)
    assert share == pytest.approx(max(0, bits - expected) / (most - expected), rel=1e-4)


def test_mutual_information_from_none_to_all():
    labels = torch.arange(200) % 4
    each_its_own = torch.eye(4)[labels]
    bits, chance, share = mutual_information(labels, each_its_own)
    assert (bits, share) == pytest.approx((2, 1)) and 0 < chance < 0.1
    assert mutual_information(labels, torch.tensor([[1.0, 0, 0]]).expand(200, 3)) == (0, 0, 0), "all to one expert"
    bits, _, share = mutual_information(labels, torch.full((200, 3), 1 / 3))
    assert (bits, share) == pytest.approx((0, 0), abs=1e-9), "none more than others"


def test_routing_of_an_evaluation():
    weights = torch.eye(4)[torch.arange(20) % 4]
    labels = {"class": torch.arange(20) % 4, "style": torch.arange(20) // 10}
    found = routing(entropy(torch.full((20, 4), 0.25)), weights, labels)
    assert found["router_entropy"] == 2 and found["expert_class_bits"] == 2 and found["expert_class_share"] == 1
    assert found["routing_names"] == ["router entropy", "class and expert", "style and expert"]
    assert found["routing"] == [1, 1, found["expert_style_share"]] and found["expert_style_share"] < 0.1
