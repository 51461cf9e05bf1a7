"""Text features within a memory budget: prompts are encoded in chunks, and one chunk's activations held at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

VECTORS_PER_TOKEN = 20
"""What a token takes in each layer, in vectors of the text tower's width, at the peak of forward and backward pass.

Measured as the growth of a process's peak memory (ru_maxrss) with the number of prompts, on a CPU, in a text tower of
ViT-B/16's width with random weights and 4 or 12 layers: 17 to 19 for CoCoOp's prompts of 10 or 50 classes, 22 of 100
(more than one bin), 20 to 22 for CSP's pairs; 20 to 23 in bfloat16; 19 where an evaluation holds one layer at a time.
12 to 17 of these wait for the backward pass. Attention adds nothing: torch's kernels keep no weights of it.

Over many chunks a CPU process may grow further, since glibc keeps what is freed: with a budget of 256 MiB CSP's 1500
pairs took 691 MiB in 9 chunks, and 235 MiB with MALLOC_TRIM_THRESHOLD_=262144; CoCoOp took 327 and 194 MiB."""


def bytes_per_token(text_encoder: Any, training: bool = True) -> int:
    """The memory in bytes that a token takes; tokens that prompts of a row share count once a row.

    Args:
        text_encoder: a TextEncoder.
        training: whether all layers' activations are held, for the backward pass, or one layer's at a time.
    """
    layers = len(text_encoder.transformer.resblocks) if training else 1
    size = torch.empty((), dtype=text_encoder.dtype).element_size()
    return layers * VECTORS_PER_TOKEN * text_encoder.token_embedding.weight.shape[1] * size


def how_many_fit(memory_gb: float, bytes_each: int) -> int:
    """How many things fit a budget in GiB, at least 1."""
    return max(1, int(memory_gb * 2**30 / bytes_each))


def encode_in_chunks(encode: Callable[[Any], torch.Tensor], chunks: Sequence[Any], dim: int = 0) -> torch.Tensor:
    """torch.cat of encode(chunk) for every chunk; encode may use tensors to be trained beside its argument."""
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.cat([encode(chunk) for chunk in chunks], dim)
    # each chunk's activations are computed again for its backward pass, so that one chunk's are held at a time
    return torch.cat([checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks], dim)
