"""The option TRAIN.COMPILE: a method's loss as programs that torch compiles, forward and backward."""

from collections.abc import Callable
from typing import Any

import torch

from dassl.utils import UserError
from prompting.text_encoder import TextEncoder

GRAPHS = ("reduce-overhead", "max-autotune")
MODES = ("", "default", *GRAPHS)
"""torch.compile's, of which GRAPHS replay CUDA graphs on a GPU; "": nothing is compiled."""

Loss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, dict[str, Any]]]


def compiled(loss: Loss, text_encoder: TextEncoder, mode: str) -> Loss:
    """A trainer's `loss`, compiled at its first call for the shapes that it is given.

    Raises:
        UserError: at that call, where torch cannot compile: it finds no C++ compiler, or the loss does what it cannot.
    """
    packing = text_encoder._packing

    @torch.compiler.disable  # numpy's work, done once
    def plan(*lengths):
        made = packing(*lengths)
        dtype, device = text_encoder.dtype, made.take.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        for mask in (made.prefix_mask, made.own_mask, made.end_mask):
            mask(dtype)  # here: a program that made it would be compiled again without, and own its memory
        return made

    text_encoder._packing = plan  # type: ignore[method-assign]
    program = torch.compile(loss, mode=mode, dynamic=False)
    failures = torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError

    def run(inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        torch.compiler.cudagraph_mark_step_begin()
        try:
            value, summary = program(inputs, labels)
        except failures as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"TRAIN.COMPILE {mode}: torch cannot compile this loss here ({reason}); leave it out"
            ) from error
        # a graph's outputs are overwritten by its next replay, and the log looks at several steps at once
        return value.clone(), {k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in summary.items()}

    return run
