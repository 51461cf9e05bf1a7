"""Prompts encoded whole: for text towers that see what follows a token, so that prompts can share nothing.

A bidirectional tower reads every place of its context, padding too. So each prompt is laid out to its full length, as
the tower saw texts when it was trained, and goes through all layers by itself, in chunks that fit a budget of memory.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from prompting.chunks import bytes_per_token, encode_in_chunks, how_many_fit

MEMORY_GB = 2.0
"""GiB of activations at a time. More prompts than fit are encoded in chunks, computed again in the backward pass."""


def encode_whole(
    encoder: Any,
    shared: torch.Tensor,
    own: torch.Tensor,
    eot: torch.Tensor,
    shared_lengths: Sequence[int] | None,
    deep: Sequence[torch.Tensor],
    memory_gb: float | None = None,
) -> torch.Tensor:
    """What `TextEncoder.forward` gives, of the same arguments; memory_gb: in place of MEMORY_GB."""
    rows, n = shared.shape[0], own.shape[1]
    dtype, device, length = encoder.dtype, shared.device, encoder.context_length
    source, index, end = _layout(encoder, shared.to(dtype), own.to(dtype), eot, shared_lengths)
    end = end if encoder.read_at == "end" else torch.full_like(end, length - 1)
    each = torch.arange(rows, device=device).repeat_interleave(n)
    memory_gb = MEMORY_GB if memory_gb is None else memory_gb
    chunk = how_many_fit(memory_gb, length * bytes_per_token(encoder, torch.is_grad_enabled()))

    def encode(prompts):
        x = source[each[prompts, None], index[prompts]] + encoder.positional_embedding.to(dtype)
        return _read(encoder, x, end[prompts], deep)

    return encode_in_chunks(encode, torch.arange(rows * n, device=device).split(chunk)).unflatten(0, (rows, n))


def _layout(encoder, shared, own, eot, shared_lengths):
    """Where the embeddings of whole prompts are found.

    Returns:
        source: (B, P + N * S + 1, d), each row's shared tokens, all own tokens, and padding.
        index: (B * N, L) into a row of it.
        end: (B * N,) where each prompt ends.
    """
    (rows, p, width), (n, s), device = shared.shape, own.shape[1:3], shared.device
    pad = encoder.token_embedding.weight[encoder.tokenizer.pad].detach().to(shared.dtype)
    source = torch.cat([shared, own.flatten(1, 2).expand(rows, -1, -1), pad.expand(rows, 1, width)], dim=1)
    lengths = torch.tensor([p] * rows if shared_lengths is None else list(shared_lengths), device=device)[:, None, None]
    last = torch.as_tensor(eot, device=device).expand(rows, n)[..., None]
    place = torch.arange(encoder.context_length, device=device)
    step = place - lengths  # in a prompt's own part
    first = p + s * torch.arange(n, device=device)[:, None]
    index = torch.where(step < 0, place, torch.where(step <= last, first + step, source.shape[1] - 1))
    return source, index.flatten(0, 1), (lengths + last).flatten()


def _read(encoder, x, end, deep):
    """(n, L, d) hidden states of whole prompts -> (n, e) features."""
    start = len(encoder.tokenizer.start)
    for k, block in enumerate(encoder.transformer.resblocks):
        if 0 < k <= len(deep):
            vectors = deep[k - 1].to(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([x[:, :start], vectors, x[:, start + vectors.shape[1] :]], dim=1)
        attn = block.attn
        q, k_, v = (
            part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
            for part in F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(q, k_, v, is_causal=encoder.causal)
        x = x + attn.out_proj(seen.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
    return encoder.project(encoder.ln_final(x[torch.arange(len(x), device=x.device), end]))
