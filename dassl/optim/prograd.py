"""A gradient that does not undo what another one learned (ProGrad: Zhu et al., ICCV 2023, arXiv 2205.14865)."""

import torch


def prograd(domain: torch.Tensor, general: torch.Tensor, weight: float) -> torch.Tensor:
    """The gradient to step along: G_d without `weight` times its projection on G_g, where their angle is obtuse.

    Args:
        domain: G_d, of any shape.
        general: G_g, of the same shape. Its length does not matter; without any, G_d stays as it is.
        weight: LAMBDA.

    Returns:
        It, in the type of G_d; half precision is computed in float32, where squares do not vanish.
    """
    kind = torch.promote_types(domain.dtype, torch.float32)
    d, g = domain.to(kind), general.to(kind)
    product = (d * g).sum().clamp(max=0)  # no branch: infinite gradients become NaN, and amp skips the step
    return (d - weight * product / g.square().sum().clamp_min(torch.finfo(kind).tiny) * g).to(domain.dtype)
