"""Top-k accuracy."""

from collections.abc import Sequence

import torch


def compute_accuracy(
    output: torch.Tensor | tuple[torch.Tensor, ...] | list[torch.Tensor],
    target: torch.Tensor,
    topk: Sequence[int] = (1,),
) -> list[torch.Tensor]:
    """Top-k accuracy of a batch.

    Args:
        output: (B, N) logits, or what starts with them.
        target: (B,) labels.
        topk: for which k.

    Returns:
        For each k a tensor of shape (1,), in percent.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    hits = output.topk(max(topk), dim=1).indices == target.view(-1, 1)
    return [hits[:, :k].any(dim=1).float().mean(dim=0, keepdim=True) * 100 for k in topk]
