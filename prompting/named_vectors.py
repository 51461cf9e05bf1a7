"""Learned vectors that are known by what they stand for: a class, an attribute, an object.

Runs on other classes, or on a part of them, thus find the vectors that are theirs, and those of several runs merge.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn


class NamedVectors(nn.Module):
    """Vectors by name: one, (d,), or several, (K, d), of a name's own K. The state dict has an entry for each name, in
    the shape that it was given, so two of them merge as dicts do.

    Args:
        learned: {name: value to start from} of the vectors to train.
        kept: {name: value} of those that stay as they are, or are loaded.
        width: d.
        device: where they are.

    Attributes:
        names: those learned, then those kept.
        n_learned: how many of them are learned.
        rows: {name: which rows of what `forward` gives are its vectors}.
        learned: (T, d) parameter, the vectors of all learned names.
        kept: (F, d) buffer.
    """

    def __init__(
        self,
        learned: Mapping[str, torch.Tensor],
        kept: Mapping[str, torch.Tensor],
        width: int,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        values = {**learned, **kept}
        self.names, self.n_learned = [*values], len(learned)
        self.rows: dict[str, range] = {}
        self._shapes = [value.shape for value in values.values()]
        n = 0
        for name, value in values.items():
            self.rows[name] = range(n, n := n + value.numel() // width)

        def joined(part):
            rows = [value.detach().float().to(device).reshape(-1, width) for value in part.values()]
            return torch.cat([torch.zeros(0, width, device=device), *rows])

        self.learned = nn.Parameter(joined(learned), requires_grad=bool(learned))
        self.register_buffer("kept", joined(kept))

    def forward(self) -> torch.Tensor:
        """(T + F, d), as `rows` tells."""
        return torch.cat([self.learned, self.kept])

    def values(self) -> dict[str, torch.Tensor]:
        """{name: (d,) or (K, d)}, in the memory of the parameter and the buffer."""
        found, n = {}, len(self.learned)
        for (name, rows), shape in zip(self.rows.items(), self._shapes, strict=True):
            part, start = (self.learned, rows.start) if rows.stop <= n else (self.kept, rows.start - n)
            found[name] = part[start : start + len(rows)].view(shape)
        return found

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        for name, value in self.values().items():
            destination[prefix + name] = value if keep_vars else value.detach()

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        with torch.no_grad():
            for name, value in self.values().items():
                given = state_dict.get(prefix + name)
                if given is None:
                    missing_keys.append(prefix + name)
                elif given.shape != value.shape:
                    error_msgs.append(f"{prefix + name} is {tuple(given.shape)}, not {tuple(value.shape)}")
                else:
                    value.copy_(given)
        own = {prefix + name for name in self.names}
        unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in own]


def names_in(state_dict: Iterable[str], prefix: str) -> list[str]:
    """The names of the vectors that a state dict holds under keys of this prefix."""
    return [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
