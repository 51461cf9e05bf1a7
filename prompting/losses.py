"""Losses that several methods add to their cross-entropy on images."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def distillation_loss(logits: torch.Tensor, zero_shot_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(softmax(z_0 / temperature) || softmax(z / temperature)), the mean over images; (B, N) twice -> scalar.

    z_0 are zero-shot CLIP's logits, z the learned prompts'.
    """
    target = F.log_softmax(zero_shot_logits / temperature, dim=-1)
    return F.kl_div(F.log_softmax(logits / temperature, dim=-1), target, reduction="batchmean", log_target=True)


def student_loss(logits: torch.Tensor, frozen_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """-T^2 sum_c p_c log q_c, the mean over images, with p the softmax of the student's logits / T and q the frozen
    ones'; (B, N) twice -> scalar.

    L_kd of LAMM's release, at T = 2. The target is the student itself, with its gradient: this is no divergence, but
    least where p is all on q's largest class.
    """
    p, log_q = F.softmax(logits / temperature, dim=-1), F.log_softmax(frozen_logits / temperature, dim=-1)
    return -(temperature**2) * (p * log_q).sum(dim=-1).mean()


def text_loss(
    text_features: torch.Tensor | Sequence[torch.Tensor],
    hard_features: Sequence[torch.Tensor],
    logit_scale: torch.Tensor | float,
) -> torch.Tensor:
    """Grouped text-to-text cross-entropy: the mean over groups g and classes y of -log mean_i P_i(y | t_g).

    P_i(y | t_g) is the softmax over classes c of logit_scale * cos(t_g(y), h_i(c)), i over the group's templates
    (LASP, section 3.2 and 3.3; MoCoOp's semantically grouped text supervision).

    Args:
        text_features: (G, N, e), normalised, of each group's learned prompts.
        hard_features: G of (n_g, N, e), normalised, of each group's templates.
    """
    losses = []
    for soft_features, hard in zip(text_features, hard_features, strict=True):
        logits = logit_scale * torch.einsum("ye,ice->iyc", soft_features, hard)
        log_p = logits.diagonal(dim1=1, dim2=2) - logits.logsumexp(dim=-1)  # (n_g, N): log P_i(y | t_g(y))
        losses.append(math.log(len(hard)) - log_p.logsumexp(dim=0).mean())
    return torch.stack(losses).mean()


def text_loss_among_learned(
    text_features: torch.Tensor | Sequence[torch.Tensor],
    hard_features: Sequence[torch.Tensor],
    logit_scale: torch.Tensor | float,
) -> torch.Tensor:
    """The other way round, hand-written prompts told among learned ones: mean over g, y and i of -log P_i(y | h_i).

    P_i(y | h_i) is the softmax over classes c of logit_scale * cos(t_g(c), h_i(y)), one term per template (LASP's
    release). Arguments as `text_loss` takes them; hard_features may have any length.
    """
    losses = []
    for soft_features, hard in zip(text_features, hard_features, strict=True):
        logits = logit_scale * (hard @ soft_features.t())  # (n_g, N, N): template, class y, class c
        losses.append((logits.logsumexp(dim=-1) - logits.diagonal(dim1=1, dim2=2)).mean())
    return torch.stack(losses).mean()
