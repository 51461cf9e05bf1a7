"""CLIP's text transformer for prompts that share a beginning: the one encoder behind every method.

The transformer is causal, so a token never sees what follows it. Two things follow. Nothing after the
end-of-text token matters, so sequences end there and are not padded to 77. And tokens that all prompts of a row
begin with (start token, context vectors) have the same hidden states in every prompt, so they are computed once
per row. What is left - each prompt's own few tokens - is packed end to end into bins, and a mask keeps the prompts
of a bin apart. The result equals encoding every prompt in full, forward and backward, up to float rounding.

Towers that are not causal (SigLIP's) encode prompts whole instead (prompting/whole_prompts.py).
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from prompting.tokenizers import Tokenizer, openai_tokenizer
from prompting.whole_prompts import encode_whole

BIN_TOKENS = 256
"""About how many own tokens a bin holds. Attention is dense within a bin, so its cost grows with the bin; more bins
repeat the shared keys more often. Measured on CPU, anything from 32 to 512 is within a fifth of the best."""


class TextEncoder(nn.Module):
    """The frozen text tower of a CLIP model, fed with token embeddings instead of token ids.

    Args:
        clip_model: a `clip.model.CLIP`, or what has its parts; its modules are referenced, not copied. What its
            `backbone` does not say is OpenAI's.

    Attributes:
        tokenizer: its Tokenizer.
        causal, read_at: as the backbone's Family has them.
    """

    def __init__(self, clip_model: nn.Module) -> None:
        super().__init__()
        backbone = getattr(clip_model, "backbone", None)  # what load_backbone knows of it
        family = backbone.family if backbone else None
        self.tokenizer: Tokenizer = family.tokenizer() if family else openai_tokenizer()
        self.causal: bool = family.causal if family else True
        self.read_at: str = family.read_at if family else "end"
        self.transformer = clip_model.transformer
        self.token_embedding = clip_model.token_embedding
        self.positional_embedding = clip_model.positional_embedding
        self.ln_final = clip_model.ln_final
        self.text_projection = clip_model.text_projection
        self.text_bias = getattr(clip_model, "text_bias", None)
        self.context_length = clip_model.context_length
        self._packings: OrderedDict[tuple, Packing] = OrderedDict()

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.resblocks[0].mlp.c_fc.weight.dtype

    def forward(
        self,
        shared: torch.Tensor,
        own: torch.Tensor,
        eot: torch.Tensor,
        shared_lengths: Sequence[int] | None = None,
        deep: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Text features of B x N prompts.

        Args:
            shared: (B, P, d) token embeddings that every prompt of a row begins with.
            own: (1 or B, N, S, d) token embeddings of what follows, padded at the end to S.
            eot: (N,) or (B, N), where in `own` each prompt's end-of-text token stands.
            shared_lengths: B of them, the real length of each row of `shared` where they differ; the rest
                of the row is padding. Default: P for all rows.
            deep: L of (n, d) for deep prompting, n < P, L less than the number of layers. The k-th replaces the
                hidden states at the n positions behind the start token of every row, where context vectors stand,
                between layers k and k + 1.

        Returns:
            (B, N, e) text features, not normalised.
        """
        if not self.causal or self.read_at != "end":
            return encode_whole(self, shared, own, eot, shared_lengths, deep)
        rows, width, device, start = shared.shape[0], shared.shape[2], shared.device, len(self.tokenizer.start)
        plan = self._packing(eot, shared_lengths, rows, shared.shape[1], own.shape[2], device)
        own = own.to(self.dtype)
        if len(plan.take) == 1:  # every row is packed alike
            packed = own.flatten(1, 2).index_select(1, plan.take[0]).expand(rows, -1, -1)
        else:
            packed = own.expand(rows, -1, -1, -1).flatten(1, 2)
            packed = packed.gather(1, plan.take[..., None].expand(-1, -1, width))
        x = torch.cat([shared.to(self.dtype), packed], dim=1)
        x = x + F.embedding(plan.positions, self.positional_embedding.to(self.dtype))

        *blocks, last = self.transformer.resblocks
        for block, vectors in zip_longest(blocks, deep):
            x = _block(block, x, plan)
            if vectors is not None:
                vectors = vectors.to(x.dtype).expand(rows, -1, -1)
                x = torch.cat([x[:, :start], vectors, x[:, start + vectors.shape[1] :]], dim=1)
        x = self.project(self.ln_final(_last_block(last, x, plan)))
        if len(plan.prompts) == 1:
            return x.index_select(1, plan.prompts[0])
        return x.gather(1, plan.prompts[..., None].expand(-1, -1, x.shape[-1]))

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """(*, d) hidden states after the last normalisation -> (*, e) text features."""
        x = x.to(self.dtype) @ self.text_projection
        return x if self.text_bias is None else x + self.text_bias.to(x.dtype)

    def _packing(self, eot, shared_lengths, rows, n_shared, own_length, device):
        """The packing of these lengths, kept because a training run asks for the same one at every step."""
        eot = np.atleast_2d(torch.as_tensor(eot).cpu().numpy())
        lengths = np.full(rows, n_shared) if shared_lengths is None else np.asarray(shared_lengths)
        if (lengths == lengths[0]).all() and len(eot) == 1:
            lengths = lengths[:1]  # rows are alike: plan one
        key = (eot.tobytes(), eot.shape, lengths.tobytes(), rows, n_shared, own_length, str(device))
        if key not in self._packings:
            self._packings[key] = Packing(eot, lengths, rows, n_shared, own_length, device)
            if len(self._packings) > 16:
                self._packings.popitem(last=False)
        self._packings.move_to_end(key)
        return self._packings[key]


class Packing:
    """Where each token of a ragged set of prompts goes, and what it may see.

    A row of the packed sequence is [P shared tokens | C bins of M own tokens]. R is 1 where all B rows are alike.

    Attributes:
        take: (R, C*M) index into the flattened (N*S) own tokens; padding repeats token 0.
        positions: (R, P + C*M) positions in the sequence, for the positional embedding.
        prefix_mask: the causal Mask of the shared tokens, (P, P).
        own_mask: Mask of (B*C, 1, M, P + M), or of one for all: shared tokens, then the same prompt up to oneself.
        ends: (R, C*E) index into the packed row of each bin's end-of-text tokens, E the most that a bin holds.
        end_mask: own_mask at `ends`, with E for M.
        prompts: (R, N) where in C*E each prompt ended up.
    """

    def __init__(
        self,
        eot: np.ndarray,
        shared_lengths: np.ndarray,
        batch: int,
        n_shared: int,
        own_length: int,
        device: torch.device | str,
    ) -> None:
        rows = max(len(eot), len(shared_lengths))
        lengths = np.broadcast_to(eot, (rows, eot.shape[1])) + 1
        shared_lengths = np.broadcast_to(shared_lengths, (rows,))
        tokens = lengths.sum(1).max()
        bins = -(-tokens // BIN_TOKENS)
        size = min(tokens, -(-tokens // bins) + lengths.max() - 1)  # even bins, with room for a prompt that straddles
        placed = [_fill_bins(row, size) for row in lengths]  # per row: (bin, offset) of each prompt
        bins = max(bin_of[-1] for bin_of, _ in placed) + 1
        fullest = max(np.bincount(bin_of).max() for bin_of, _ in placed)

        take = np.zeros((rows, bins, size), np.int64)
        step = np.zeros((rows, bins, size), np.int64)
        owner = np.full((rows, bins, size), -1)
        ends = np.zeros((rows, bins, fullest), np.int64)
        prompts = np.zeros((rows, eot.shape[1]), np.int64)
        for r, (bin_of, offset) in enumerate(placed):
            filled = np.zeros(bins, np.int64)
            for n, (c, o, length) in enumerate(zip(bin_of, offset, lengths[r], strict=True)):
                own = slice(o, o + length)
                step[r, c, own] = np.arange(length)
                take[r, c, own] = n * own_length + step[r, c, own]
                owner[r, c, own] = n
                ends[r, c, filled[c]] = o + length - 1
                prompts[r, n] = c * fullest + filled[c]
                filled[c] += 1

        in_shared = np.arange(n_shared) < shared_lengths[:, None]
        sees_shared = np.broadcast_to(in_shared[:, None, None, :], (rows, bins, size, n_shared))
        order = np.arange(size)
        sees_own = (owner[..., :, None] == owner[..., None, :]) & (order[:, None] >= order)
        own_mask = np.concatenate([sees_shared, sees_own], axis=-1)
        end_mask = np.take_along_axis(own_mask, ends[..., None], axis=2)
        positions = np.concatenate(
            [
                np.broadcast_to(np.arange(n_shared), (rows, n_shared)),
                (step + shared_lengths[:, None, None]).reshape(rows, -1),
            ],
            axis=1,
        )
        starts = n_shared + size * np.arange(bins)[:, None]

        def of_bins(seen):
            seen = seen.reshape(rows * bins, 1, *seen.shape[2:])
            return Mask(seen if len(seen) == 1 else np.tile(seen, (batch // rows, 1, 1, 1)), device)

        self.n_shared, self.bins = int(n_shared), int(bins)  # numpy's would stop torch.compile
        self.take = torch.from_numpy(take.reshape(rows, -1)).to(device)
        self.positions = torch.from_numpy(positions).to(device)
        self.prefix_mask = Mask(np.tri(n_shared, dtype=bool), device)
        self.own_mask = of_bins(own_mask)
        self.ends = torch.from_numpy((ends + starts).reshape(rows, -1)).to(device)
        self.end_mask = of_bins(end_mask)
        self.prompts = torch.from_numpy(prompts).to(device)


class Mask:
    """What may be seen, as an additive mask that attention takes as it is; made once for each dtype that it runs in.

    Rows lie a multiple of 8 entries apart: of others torch's memory-efficient kernel pads a copy at every call.

    Args:
        seen: (..., Q, K) booleans.
    """

    def __init__(self, seen: np.ndarray, device: torch.device | str) -> None:
        self.seen, self.device = seen, device
        self._made: dict[torch.dtype, torch.Tensor] = {}

    def __call__(self, dtype: torch.dtype) -> torch.Tensor:
        """(..., Q, K), 0 where seen and minus infinity elsewhere."""
        if dtype not in self._made:
            *shape, keys = self.seen.shape
            mask = torch.zeros(*shape, -(-keys // 8) * 8, dtype=dtype)
            mask[..., :keys].masked_fill_(~torch.from_numpy(self.seen), float("-inf"))
            self._made[dtype] = mask.to(self.device)[..., :keys]
        return self._made[dtype]


def _fill_bins(lengths, size):
    """Prompts in order into bins of `size` tokens: (bin of each prompt, offset of each prompt in its bin)."""
    bin_of, offset = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    current, used = 0, 0
    for n, length in enumerate(lengths):
        if used + length > size:
            current, used = current + 1, 0
        bin_of[n], offset[n] = current, used
        used += length
    return bin_of, offset


def _block(block, x, plan):
    """One residual block over all packed tokens: (B, P + C*M, d) -> the same."""
    attn = block.attn
    q, k, v = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    p = plan.n_shared
    shared = _attention(q[:, :p], k[:, :p], v[:, :p], plan.prefix_mask, attn.num_heads)
    own = _bin_attention(q[:, p:], k, v, plan.own_mask, plan, attn.num_heads)
    x = x + attn.out_proj(torch.cat([shared, own], dim=1))
    return x + block.mlp(block.ln_2(x))


def _last_block(block, x, plan):
    """The last block, whose output is read at the end-of-text tokens alone: (B, P + C*M, d) -> (B, C*E, d)."""
    attn, width = block.attn, x.shape[-1]
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    h = block.ln_1(x)
    if len(plan.ends) == 1:
        x, h_end = x.index_select(1, plan.ends[0]), h.index_select(1, plan.ends[0])
    else:
        index = plan.ends[..., None].expand(-1, -1, width)
        x, h_end = x.gather(1, index), h.gather(1, index)
    q = F.linear(h_end, weight[:width], bias[:width])
    k, v = F.linear(h, weight[width:], bias[width:]).chunk(2, dim=-1)
    x = x + attn.out_proj(_bin_attention(q, k, v, plan.end_mask, plan, attn.num_heads))
    return x + block.mlp(block.ln_2(x))


def _bin_attention(q, k, v, mask, plan, heads):
    """Queries of each bin meet the row's shared keys and their own bin's: (B, C*Q, d), (B, P + C*M, d) -> q's shape."""
    rows, n_queries, width = q.shape
    p, bins = plan.n_shared, plan.bins

    def per_bin(x):
        if bins == 1:
            return x
        shared = x[:, None, :p].expand(-1, bins, -1, -1)
        return torch.cat([shared, x[:, p:].unflatten(1, (bins, -1))], dim=2).flatten(0, 1)

    q = q.reshape(rows * bins, -1, width)
    return _attention(q, per_bin(k), per_bin(v), mask, heads).reshape(rows, n_queries, width)


def _attention(q, k, v, mask, heads):
    """Multi-head attention after the input projection: (B, Q, d), (B, K, d), (B, K, d) -> (B, Q, d)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mask = mask(q.dtype)  # autocast makes q half
    if q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu":
        # the fused kernel's backward pass takes two to eight times as long as these products there
        x = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + mask).softmax(dim=-1) @ v
    else:
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return x.transpose(1, 2).flatten(2)
