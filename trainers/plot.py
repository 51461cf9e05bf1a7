"""PLOT: several prompts per class, matched with the places in an image by optimal transport (Chen et al., ICLR 2023,
arXiv 2210.01253, section 3).

A class has N prompts and an image M local features (prompting/local_features.py). Carrying mass from place m to prompt
n costs C_mn = 1 - cos(f_m, g_n); places and prompts weigh the same each. The plan T of least cost under entropic
regularisation comes from Sinkhorn's iterations, here on logarithms, and counts as a constant in the backward pass:

    d_OT = sum_mn T_mn C_mn          logit = logit scale * (1 - d_OT)

That is the paper's model: it does not use the global feature. The released code ends its iterations sooner, for all
images and classes of a batch at once, so that a plan depends on its neighbours; here each converges by itself.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.trainer import progress
from prompting import context
from prompting.local_features import global_and_local_features
from prompting.prompted_clip import PromptedCLIP
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

CHECK_EVERY = 10
"""Sinkhorn's iterations from one look at who has converged to the next; each look waits for the device."""

COSTS_AT_ONCE = 2**25
"""Entries of C that Sinkhorn's iterations work on at a time: 128 MiB, and a few times that in between."""


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.PLOT = CN()
    cfg.TRAINER.PLOT.N = 4  # prompts of each class
    cfg.TRAINER.PLOT.N_CTX = 16  # context vectors of each prompt
    cfg.TRAINER.PLOT.CSC = False  # class-specific context
    cfg.TRAINER.PLOT.CTX_INIT = ""  # words that the first prompt starts from; their number then replaces N_CTX
    cfg.TRAINER.PLOT.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.PLOT.CLASS_TOKEN_POSITION = "end"  # end, middle or front
    cfg.TRAINER.PLOT.EPS = 0.1  # weight of the plan's entropy
    cfg.TRAINER.PLOT.MAX_ITER = 1000  # of Sinkhorn's iterations
    cfg.TRAINER.PLOT.THRESH = 1e-5  # they end where the logarithms of v move less than this


class PromptLearner(context.PromptLearner):
    """N of CoOp's prompts for each of K classes.

    Args:
        options: cfg.TRAINER.PLOT.
        classnames: K class names.
        text_encoder: for its token embeddings.

    Attributes:
        ctx: the context vectors, (N, n_ctx, d) or, class-specific, (N, K, n_ctx, d).
    """

    def __init__(self, options: CN, classnames: Sequence[str], text_encoder: TextEncoder) -> None:
        super().__init__(options, classnames, text_encoder)
        # from noise, since prompts that start alike would stay alike
        others = nn.init.normal_(self.ctx.new_empty(options.N - 1, *self.ctx.shape), std=0.02)
        self.ctx = nn.Parameter(torch.cat([self.ctx.detach()[None], others]))

    def forward(self) -> tuple:
        """The text encoder's arguments for N rows of K prompts."""
        return self.prompts(self.ctx.flatten(1, -2))


@torch.no_grad()
def transport_plan(cost: torch.Tensor, eps: float, max_iter: int, thresh: float) -> torch.Tensor:
    """The plans T = diag(u) exp(-cost / eps) diag(v) with uniform marginals, by Sinkhorn's iterations.

    Each problem ends by itself, at the first multiple of CHECK_EVERY iterations of which the last has moved every log v
    by less than thresh: its plan does not depend on the others, which go on without it. The last step fits v, so that
    columns always sum to 1 / N; rows sum to 1 / M as far as it has converged.

    Args:
        cost: (..., M, N).

    Returns:
        (..., M, N) float32.
    """
    m, n = cost.shape[-2:]
    log_kernel = (-cost.float() / eps).reshape(-1, m, n)
    plan, going = torch.empty_like(log_kernel), torch.arange(len(log_kernel), device=cost.device)
    log_v = log_kernel.new_zeros(len(log_kernel), n)
    for done in range(0, max_iter, CHECK_EVERY):
        for _ in range(min(CHECK_EVERY, max_iter - done)):
            before = log_v
            log_u = -math.log(m) - (log_kernel + log_v[:, None]).logsumexp(dim=2)
            log_v = -math.log(n) - (log_kernel + log_u[:, :, None]).logsumexp(dim=1)
        plan[going] = (log_kernel + log_u[:, :, None] + log_v[:, None]).exp()
        moving = (log_v - before).abs().amax(dim=1) >= thresh
        if not moving.any():
            break
        going, log_kernel, log_v = going[moving], log_kernel[moving], log_v[moving]
    return plan.reshape(cost.shape)


class PLOTCLIP(PromptedCLIP):
    """CLIP whose logits are transport distances between the places of an image and the prompts of a class.

    Args:
        clip_model, prompt_learner, text_encoder: as PromptedCLIP takes them.
        sinkhorn: the arguments of `transport_plan` after the cost.
    """

    def __init__(
        self, clip_model: nn.Module, prompt_learner: nn.Module, text_encoder: TextEncoder, sinkhorn: tuple
    ) -> None:
        super().__init__(clip_model, prompt_learner, text_encoder)
        self.sinkhorn = sinkhorn

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) images -> (B, M, e) local image features, not normalised."""
        return global_and_local_features(self.image_encoder, images.to(self.dtype))[1]

    def encode_text(self) -> torch.Tensor:
        """(N, K, e) normalised text features."""
        return self.encode_prompts()

    def logits(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """(B, M, e) normalised local image features, (N, K, e) text features -> (B, K) logits."""
        similarity = torch.einsum("bme,nke->bkmn", image_features, text_features)
        parts = similarity.detach().split(max(1, COSTS_AT_ONCE // similarity[0].numel()))
        plan = torch.cat([transport_plan(1 - part, *self.sinkhorn) for part in parts])
        return self.logit_scale * (plan * similarity).sum(dim=(-2, -1))  # a plan sums to 1


@TRAINER_REGISTRY.register()
class PLOT(PromptTrainer):
    """Prompt Learning with Optimal Transport: cross-entropy on the context vectors."""

    section = "PLOT"

    @property
    def class_axes(self) -> dict[str, int]:  # type: ignore[override]
        return {"ctx": 1} if self.cfg.TRAINER.PLOT.CSC else {}

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        context.check_context(cfg, "PLOT")
        require(cfg, "TRAINER.PLOT.N", at_least=1)
        require(cfg, "TRAINER.PLOT.EPS", above=0)
        require(cfg, "TRAINER.PLOT.MAX_ITER", at_least=1)
        require(cfg, "TRAINER.PLOT.THRESH", at_least=0)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PLOTCLIP:
        options = self.cfg.TRAINER.PLOT
        learner = PromptLearner(options, classnames, text_encoder)
        return PLOTCLIP(clip_model, learner, text_encoder, (options.EPS, options.MAX_ITER, options.THRESH))

    @torch.no_grad()
    def predict(self, loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Text features once; local features batch by batch, since those of a whole test set are too many to keep."""
        text_features = self.model.encode_text()
        for batch in progress(loader):
            images, labels = self.parse_batch_test(batch)
            image_features = F.normalize(self.model.encode_image(images).float(), dim=-1)
            yield self.score(image_features, text_features), labels
