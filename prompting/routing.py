"""What guides a router of experts, and how much of an image's class or style its choices tell."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

SHUFFLES = 20


def router_loss(
    router_logits: torch.Tensor, image_features: torch.Tensor, group_features: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL(W_hard || W_router), W_hard = softmax over g of cos(v, h_g) / temperature (the paper's form).

    Args:
        router_logits: (B, G). image_features: (B, e), normalised. group_features: (G, e), each the mean over the
            group's templates and the classes of the normalised hard text features.
    """
    hard = F.log_softmax(image_features @ F.normalize(group_features, dim=-1).t() / temperature, dim=-1)
    return F.kl_div(F.log_softmax(router_logits, dim=-1), hard, reduction="batchmean", log_target=True)


def router_loss_class(
    router_logits: torch.Tensor, image_features: torch.Tensor, class_features: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the router with a softmax over cos(v, group g's mean of class y), its top two raised by 10.

    The released code's form. class_features: (G, N, e), normalised means over each group's templates; labels: (B,).
    """
    similarity = torch.einsum("be,gbe->bg", image_features, class_features[:, labels])
    top = similarity.topk(min(2, similarity.shape[1]), dim=-1).indices
    target = similarity.scatter_add(1, top, torch.full_like(top, 10, dtype=similarity.dtype)).softmax(dim=-1)
    return F.cross_entropy(router_logits, target)


def entropy(shares: torch.Tensor) -> torch.Tensor:
    """(*, K) shares that sum to 1 -> (*) bits."""
    return -torch.special.xlogy(shares, shares).sum(dim=-1) / math.log(2)


def mutual_information(labels: torch.Tensor, weights: torch.Tensor) -> tuple[float, float, float]:
    """How much an image's label and its expert tell of each other, if an image's expert is drawn by its gate weights.

    Args:
        labels: (n,) integers from 0.
        weights: (n, K), which sum to 1 over the K experts.

    Returns:
        (bits, chance, share): I(label; expert); the mean of what that is once labels are shuffled (SHUFFLES times,
        always alike), which is more than 0 for few images of many classes; and how far bits are on the way from
        chance to the most there can be, the smaller one of the entropies of label and expert: 0 to 1.
    """
    weights = weights.double()
    of_labels, of_experts = (
        entropy(share) for share in (labels.bincount().double() / len(labels), weights.mean(dim=0))
    )

    def bits(labels):
        joint = weights.new_zeros(int(labels.max()) + 1, weights.shape[1]).index_add(0, labels, weights)
        return (of_labels + of_experts - entropy(joint.flatten() / len(labels))).item()

    found, most = max(0.0, bits(labels)), min(of_labels, of_experts).item()
    generator = torch.Generator().manual_seed(0)
    shuffled = [bits(labels[torch.randperm(len(labels), generator=generator)]) for _ in range(SHUFFLES)]
    chance = max(0.0, sum(shuffled) / SHUFFLES)
    return found, chance, max(0.0, found - chance) / (most - chance) if most - chance > 1e-9 else 0.0


def routing(router_entropy: torch.Tensor, weights: torch.Tensor, labels: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Figures of a router on evaluated images, for metrics.json.

    Args:
        router_entropy: (n,) bits, of the softmax over all experts.
        weights: (n, K) gate weights.
        labels: what else is known of the images, such as {"class": (n,) integers}.

    Returns:
        router_entropy, the mean; for each of labels expert_<name>_bits, _chance, _share as `mutual_information` tells;
        routing, the shares and the entropy's of the largest possible, and routing_names.
    """
    figures: dict[str, Any] = {"router_entropy": round(router_entropy.mean().item(), 6)}
    shares = {"router entropy": figures["router_entropy"] / max(1.0, math.log2(weights.shape[1]))}
    for name, values in labels.items():
        found = mutual_information(values, weights)
        for what, figure in zip(("bits", "chance", "share"), found, strict=True):
            figures[f"expert_{name}_{what}"] = round(figure, 6)
        shares[f"{name} and expert"] = figures[f"expert_{name}_share"]
    return figures | {"routing": [round(share, 6) for share in shares.values()], "routing_names": list(shares)}
