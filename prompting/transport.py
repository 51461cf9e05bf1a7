"""Optimal transport between two small uniform distributions, under entropic regularisation: many problems at once."""

import math

import torch

CHECK_EVERY = 10
"""Sinkhorn's iterations from one look at who has ended to the next."""


@torch.no_grad()
def transport_plan(cost: torch.Tensor, eps: float, max_iter: int, thresh: float, stop: str) -> torch.Tensor:
    """The plans T = diag(u) exp(-cost / eps) diag(v) with uniform marginals, by Sinkhorn's iterations from u = v = 1.

    Each problem ends by itself: its plan does not depend on the others, which go on without it. The last step fits v,
    so that columns always sum to 1 / N; rows sum to 1 / M as far as it has converged.

    Args:
        cost: (..., M, N).
        stop: "u": after the iteration that moves u by less than thresh on average over its M entries; "log_v": at the
            first multiple of CHECK_EVERY iterations of which the last has moved every log v by less than thresh.

    Returns:
        (..., M, N) float32.
    """
    m, n = cost.shape[-2:]
    log_kernel = (-cost.float() / eps).reshape(-1, m, n)
    solve = _without_waiting if cost.is_cuda else _while_any_moves
    return solve(log_kernel, max_iter, thresh, stop).reshape(cost.shape)


def _start(log_kernel):
    """log u, log v, and who moves: all."""
    problems, m, n = log_kernel.shape
    moving = log_kernel.new_ones(problems, dtype=torch.bool)
    return log_kernel.new_zeros(problems, m), log_kernel.new_zeros(problems, n), moving


def _iterate(log_kernel, log_u, log_v, moving, iterations, thresh, stop):
    """Some iterations on, up to a look: log u, log v, and who still moves of those that did."""
    m, n = log_kernel.shape[-2:]
    for _ in range(iterations):
        before_u, before_v = log_u, log_v
        log_u = -math.log(m) - (log_kernel + log_v[:, None]).logsumexp(dim=2)
        log_v = -math.log(n) - (log_kernel + log_u[:, :, None]).logsumexp(dim=1)
        if stop == "u":  # what has ended waits for the next look as it is
            log_u, log_v = log_u.where(moving[:, None], before_u), log_v.where(moving[:, None], before_v)
            moving = moving & ~((log_u.exp() - before_u.exp()).abs().mean(dim=1) < thresh)
    if stop == "log_v":
        moving = moving & ((log_v - before_v).abs().amax(dim=1) >= thresh)
    return log_u, log_v, moving


def _plan(log_kernel, log_u, log_v):
    return (log_kernel + log_u[:, :, None] + log_v[:, None]).exp()


def _while_any_moves(log_kernel, max_iter, thresh, stop):
    """On a CPU, which knows at once: what has ended is left out."""
    plan, going = torch.empty_like(log_kernel), torch.arange(len(log_kernel), device=log_kernel.device)
    log_u, log_v, moving = _start(log_kernel)
    for done in range(0, max_iter, CHECK_EVERY):
        iterations = min(CHECK_EVERY, max_iter - done)
        log_u, log_v, moving = _iterate(log_kernel, log_u, log_v, moving, iterations, thresh, stop)
        plan[going] = _plan(log_kernel, log_u, log_v)
        if not moving.any():
            break
        going, log_kernel, log_u, log_v = going[moving], log_kernel[moving], log_u[moving], log_v[moving]
        moving = moving[moving]
    return plan


def _without_waiting(log_kernel, max_iter, thresh, stop):
    """On a GPU: what has ended goes along as it is, so that it does not matter when it is known that all have."""
    look = None  # under way
    log_u, log_v, moving = _start(log_kernel)
    for done in range(0, max_iter, CHECK_EVERY):
        if look is not None and look.arrived.query():
            if not look.value:
                break
            look = None
        iterations, moved = min(CHECK_EVERY, max_iter - done), moving[:, None]
        u, v, moving = _iterate(log_kernel, log_u, log_v, moving, iterations, thresh, stop)
        log_u, log_v = u.where(moved, log_u), v.where(moved, log_v)
        if look is None and not torch.cuda.is_current_stream_capturing():
            look = _Look(moving.any())
    return _plan(log_kernel, log_u, log_v)


class _Look:
    """A truth value on its way from the GPU; to be read when `arrived` says so."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(value, non_blocking=True)
        self.arrived = torch.cuda.Event()
        self.arrived.record()
