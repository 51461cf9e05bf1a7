"""Learned vectors that are known by what they stand for: a class, an attribute, an object.

Runs on other classes, or on a part of them, thus find the vectors that are theirs, and those of several runs merge.
"""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn


class NamedVectors(nn.Module):
    """Vectors by name. The state dict has an entry (d,) for each name, so two of them merge as dicts do.

    Args:
        learned: {name: (d,) value to start from} of the vectors to train.
        kept: names of vectors that stay as they are loaded.
        width: d.
        device: where they are.

    Attributes:
        names: T learned names, then F kept ones.
        learned: (T, d) parameter.
        kept: (F, d) buffer.
    """

    def __init__(
        self, learned: Mapping[str, torch.Tensor], kept: Collection[str], width: int, device: torch.device | str
    ) -> None:
        super().__init__()
        self.names = [*learned, *kept]
        start = torch.stack(list(learned.values())) if learned else torch.zeros(0, width, device=device)
        self.learned = nn.Parameter(start, requires_grad=bool(learned))
        self.register_buffer("kept", torch.zeros(len(kept), width, device=device))

    def forward(self) -> torch.Tensor:
        """(T + F, d) in the order of names."""
        return torch.cat([self.learned, self.kept])

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        for name, vector in zip(self.names, [*self.learned, *self.kept], strict=True):
            destination[prefix + name] = vector if keep_vars else vector.detach()

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        with torch.no_grad():
            for name, vector in zip(self.names, [*self.learned, *self.kept], strict=True):
                given = state_dict.get(prefix + name)
                if given is None:
                    missing_keys.append(prefix + name)
                elif given.shape != vector.shape:
                    error_msgs.append(f"{prefix + name} is {tuple(given.shape)}, not {tuple(vector.shape)}")
                else:
                    vector.copy_(given)
        own = {prefix + name for name in self.names}
        unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in own]


def names_in(state_dict: Iterable[str], prefix: str) -> list[str]:
    """The names of the vectors that a state dict holds under keys of this prefix."""
    return [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
