"""Running averages of what a training loop measures."""

from collections import defaultdict
from collections.abc import Mapping

import torch


class AverageMeter:
    """The last value and the average of a number.

    Args:
        ema: average exponentially, 0.9 old + 0.1 new, instead of equally.
    """

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        self.val: float = 0
        self.avg: float = 0
        self.sum: float = 0
        self.count = 0

    def update(self, val: float | torch.Tensor, n: int = 1) -> None:
        """Take in a number or a tensor of one element, which stands for n values."""
        self.val = val.item() if isinstance(val, torch.Tensor) else val
        self.sum += self.val * n
        self.count += n
        self.avg = self.avg * 0.9 + self.val * 0.1 if self.ema else self.sum / self.count


class MetricMeter:
    """One AverageMeter per name; str() gives the last value (average) of each: "loss 0.1230 (0.4560) ...".

    Args:
        delimiter: what stands between two metrics.
    """

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: dict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: Mapping[str, float | torch.Tensor] | None) -> None:
        """Take in {name: number or tensor of one element}; None is skipped."""
        for name, value in (input_dict or {}).items():
            self.meters[name].update(value)

    def __str__(self):
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())
