"""Prompts as sequences of frozen tokens and learnable vectors, turned into what the text encoder takes.

A sequence is a list of texts and integers: a token id of the backbone's vocabulary, or `soft(k)` for row k of the
learnable vectors. Every method only says what its sequences are; the text encoder's tokenizer reads the texts, and
which tokens are shared and which are each prompt's own follows.
"""

from collections.abc import Iterable, Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import nn

from dassl.utils import UserError

Part = str | int
"""Of a sequence: a text, a token id or a soft entry."""

Encoded = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]
"""What the text encoder takes: shared, own, eot, shared_lengths."""


@overload
def soft(k: int) -> int: ...
@overload
def soft(k: Iterable[int]) -> list[int]: ...
def soft(k: int | Iterable[int]) -> int | list[int]:
    """The entry of a sequence that stands for learnable vector k; of several, a list."""
    return ~k if isinstance(k, int) else [~i for i in k]


def sequence(*parts: str | Iterable[Part]) -> list[Part]:
    """One prompt from texts, token ids and soft entries, without the tokens that every prompt begins and ends with."""
    return [i for part in parts for i in ([part] if isinstance(part, str) else part)]


class Prompts(nn.Module):
    """B x N prompts, split into shared and own tokens. It has no parameters and no state of its own.

    Args:
        encoder: the TextEncoder, for its tokenizer, token embeddings and context length.
        sequences: B rows of N sequences (see the module's first lines).
        names: N class names, for the message about a prompt that is too long.

    Raises:
        UserError: a prompt is longer than the encoder's context; names the class.
    """

    def __init__(self, encoder: Any, sequences: Sequence[Sequence[list[Part]]], names: Sequence[object]) -> None:
        super().__init__()
        tokenized = [[encoder.tokenizer.sequence(parts) for parts in row] for row in sequences]
        for row in tokenized:
            for name, tokens in zip(names, row, strict=True):
                if len(tokens) > encoder.context_length:
                    raise UserError(
                        f'the prompt of class "{name}" has {len(tokens)} tokens, but the text encoder takes '
                        f"{encoder.context_length}: shorten the class name, the template or the context (N_CTX)"
                    )
        n_shared = [_common_prefix(row) for row in tokenized]
        owns = [[tokens[p:] for tokens in row] for p, row in zip(n_shared, tokenized, strict=True)]
        if all(own == owns[0] for own in owns):
            owns = owns[:1]
        frozen = sorted({t for row in tokenized for tokens in row for t in tokens if t >= 0})
        rows_of = {token: i for i, token in enumerate(frozen)}

        def index(token):  # learnable vectors stand behind the frozen embeddings, counted from the end of those
            return rows_of[token] if token >= 0 else len(frozen) + ~token

        p_max = max(n_shared)
        s_max = max(len(tokens) for own in owns for tokens in own)
        shared = [
            [index(t) for t in row[0][:p]] + [0] * (p_max - p) for p, row in zip(n_shared, tokenized, strict=True)
        ]
        own = [[[index(t) for t in tokens] + [0] * (s_max - len(tokens)) for tokens in row] for row in owns]
        eot = torch.tensor([[len(tokens) - 1 for tokens in row] for row in owns])

        with torch.no_grad():
            embedding = encoder.token_embedding.weight
            embedding = embedding[torch.tensor(frozen, device=embedding.device)].to(encoder.dtype)
        self.register_buffer("frozen", embedding, persistent=False)
        self.register_buffer(
            "shared", torch.tensor(shared, dtype=torch.long, device=embedding.device), persistent=False
        )
        self.register_buffer("own", torch.tensor(own, device=embedding.device), persistent=False)
        self._learns = {  # to ask the device would be to wait for it
            "shared": any(i >= len(frozen) for row in shared for i in row),
            "own": any(i >= len(frozen) for row in own for tokens in row for i in tokens),
        }
        self.eot = eot[0] if len(eot) == 1 else eot  # on the CPU: the encoder plans with it
        self.shared_lengths = n_shared

    def forward(
        self, vectors: torch.Tensor | None = None, rows: Sequence[int] | None = None, columns: slice = slice(None)
    ) -> Encoded:
        """The text encoder's arguments, with learnable vectors in place.

        Args:
            vectors: (K, d), or (R, K, d): R rows of the one row of prompts, each with vectors of its own.
            rows: of which of the B rows; None: of all. With (K, d) vectors alone.
            columns: of which of the N prompts. With (R, K, d) vectors alone.
        """
        if vectors is not None and vectors.dim() == 3:
            shared = self._in_rows(self.shared, vectors, self._learns["shared"]).expand(len(vectors), -1, -1)
            own = self._in_rows(self.own[:, columns], vectors, self._learns["own"])
            return shared, own, self.eot[columns], self.shared_lengths * len(vectors)
        source = self.frozen
        if vectors is not None:
            source = torch.cat([source, vectors.to(source.dtype)])
        if rows is None or list(rows) == list(range(len(self.shared))):
            return F.embedding(self.shared, source), F.embedding(self.own, source), self.eot, self.shared_lengths
        rows = list(rows)
        own = self.own if len(self.own) == 1 else torch.stack([self.own[row] for row in rows])
        eot = self.eot if self.eot.dim() == 1 else self.eot[rows]
        lengths = [self.shared_lengths[row] for row in rows]
        shared = torch.stack([self.shared[row] for row in rows])  # indexed by a list it would wait for the device
        return F.embedding(shared, source), F.embedding(own, source), eot, lengths

    def _in_rows(self, index, vectors, learns):
        """(1, *) indices -> (R, *, d) embeddings, or (1, *, d) where no learnable vector occurs."""
        n = len(self.frozen)
        found = F.embedding(index.clamp(max=n - 1), self.frozen)
        if not learns:
            return found
        placed = vectors.to(found.dtype)[:, (index[0] - n).clamp(min=0)]
        return torch.where((index[0] >= n)[..., None], placed, found)


def _common_prefix(row):
    """How many first tokens all sequences share; at least the end token stays each one's own."""
    first, last = min(row), max(row)  # whatever these two agree on, all in between do
    longest = min(map(len, row)) - 1
    return next((i for i in range(longest) if first[i] != last[i]), longest)


@torch.no_grad()
def encode_templates(encoder: Any, templates: Sequence[str], names: Sequence[str]) -> torch.Tensor:
    """Text features of hand-written templates: (T templates, N names, e), not normalised.

    Args:
        encoder: the TextEncoder.
        templates: T strings with one `{}` each, where the class name goes.
        names: N class names; underscores count as spaces.
    """
    features = []
    for template in templates:
        prompts = Prompts(encoder, [[sequence(template.replace("{}", name)) for name in names]], names)
        features.append(encoder(*prompts()))
    return torch.cat(features)
