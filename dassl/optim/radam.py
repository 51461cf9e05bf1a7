"""RAdam as in Dassl, on top of torch's: the published algorithm with decoupled weight decay, as in AdamW."""

from collections.abc import Iterable
from typing import Any

from torch import optim

from dassl import absent


class RAdam(optim.RAdam):
    """Rectified Adam (Liu et al., ICLR 2020), with Dassl's signature.

    Args:
        degenerated_to_sgd: step by the mean gradient alone while the variance is not to be trusted; always so here.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        degenerated_to_sgd: bool = True,
    ) -> None:
        if not degenerated_to_sgd:
            raise NotImplementedError("RAdam with degenerated_to_sgd=False")
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay=True)


__getattr__ = absent.getter(__name__)

PlainRAdam = RAdam
"""The same algorithm, which Dassl spells out a second time."""
