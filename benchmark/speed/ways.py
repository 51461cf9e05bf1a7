"""Trainers that compute in the plain way, and trainers that tell how long their epochs and tests take.

Any registered trainer is made one of them by name. What is plain about it is in public switches and in the seams that
all methods share, so no method has to be known.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

import trainers  # noqa: F401  registers them
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer
from prompting.text_encoder import TextEncoder
from prompting.whole_prompts import encode_whole

STREAMED = ("DATALOADER.CACHE_GB", 0.0, "TRAIN.FEATURES_GB", 0.0)
"""KEY VALUE words with which a training step decodes and encodes its images itself."""

PLAIN = (*STREAMED, "TRAIN.FEATURE_CACHE", False, "TEST.FEATURE_CACHE", False)
"""KEY VALUE words of the plain way: nothing is kept at all."""


class WholeTextEncoder(TextEncoder):
    """A text encoder that shares nothing between prompts, each of which takes the tokenizer's whole context.

    Attributes:
        memory_gb: GiB of activations. Prompts beyond are encoded in chunks, and again in the backward pass.
    """

    memory_gb = 2.0

    def forward(
        self,
        shared: torch.Tensor,
        own: torch.Tensor,
        eot: torch.Tensor,
        shared_lengths: Sequence[int] | None = None,
        deep: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        return encode_whole(self, shared, own, eot, shared_lengths, deep, self.memory_gb)


class Measured:
    """Beside a trainer's class: it keeps what its epochs and tests took.

    Attributes:
        measure: runs a function and gives what that took, in whatever unit, and its result.
        took: {"epoch", "test": one value for each}.
    """

    measure: Callable[[Callable[[], Any]], tuple[float, Any]]

    def __init__(self, cfg: Any) -> None:
        self.took: dict[str, list[float]] = {"epoch": [], "test": []}
        super().__init__(cfg)  # type: ignore[call-arg]

    def run_epoch(self) -> None:
        self._take("epoch", super().run_epoch)  # type: ignore[misc]

    def test(self, split: str | None = None) -> Any:
        return self._take("test", partial(super().test, split))  # type: ignore[misc]

    def _take(self, what, function):
        took, result = type(self).measure(function)
        self.took[what].append(took)
        return result


class Plain:
    """Beside a trainer's class, with PLAIN: it computes in the plain way."""

    memory_gb: float

    def build_prompted_clip(self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]) -> Any:
        # the very object, since prompt learners and losses keep it
        text_encoder.__class__ = WholeTextEncoder
        text_encoder.memory_gb = self.memory_gb
        return super().build_prompted_clip(clip_model, text_encoder, classnames)  # type: ignore[misc]

    predict = SimpleTrainer.predict  # batch by batch, through model_inference


def ours(trainer: str) -> str:
    """The name under which a trainer is now registered whose `took` is in seconds."""
    return _register(f"Timed{trainer}", (Measured,), trainer, measure=staticmethod(seconds))


def counted(trainer: str) -> str:
    """Likewise; `took` is in floating point operations."""
    return _register(f"Counted{trainer}", (Measured,), trainer, measure=staticmethod(flops))


def plain(trainer: str, memory_gb: float) -> str:
    """As `ours`, in the plain way; memory_gb is for a step's text activations."""
    return _register(f"Plain{trainer}", (Measured, Plain), trainer, measure=staticmethod(seconds), memory_gb=memory_gb)


def _register(name, mixins, trainer, **attributes):
    kind = type(name, (*mixins, TRAINER_REGISTRY.get(trainer)), attributes)
    TRAINER_REGISTRY.register(kind, force=True)
    return name


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that a function takes, on the device too, and its result."""
    _finish()
    start = time.perf_counter()
    result = function()
    _finish()
    return time.perf_counter() - start, result


def _finish():
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def flops(function: Callable[[], Any]) -> tuple[float, Any]:
    """The floating point operations of a function's matrix products, convolutions and attention, and its result."""
    with _Counter() as counter:
        result = function()
    return counter.total, result


class _Counter(TorchDispatchMode):
    """Counts by torch's formulas, and knows no modules, whose tracking does not go with torch.autograd.grad."""

    def __init__(self):
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        formula = FORMULAS.get(function._overloadpacket)
        if formula is None:
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = function(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result


def _attention(query, key, value, *args, out_val=None, **kwargs):
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient, query, key, value, *args, out_val=None, **kwargs):
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


FORMULAS = flop_registry | {  # torch leaves out the attention that it has for CPUs
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
