"""PLOT: several prompts per class, matched with the places in an image by optimal transport (Chen et al., ICLR 2023,
arXiv 2210.01253, section 3).

A class has N prompts and an image M local features (prompting/local_features.py). Carrying mass from place m to prompt
n costs C_mn = 1 - cos(f_m, g_n); places and prompts weigh the same each. The plan T of least cost under entropic
regularisation comes from Sinkhorn's iterations, here on logarithms, and counts as a constant in the backward pass:

    d_OT = sum_mn T_mn C_mn          logit = logit scale * (1 - d_OT)

That is the paper's model (FORM paper), whose plans converge here. The release (FORM released) differs in two things:

- iterations end where u moves less than 0.01 on average, after at most 100: two or three at the spread of CLIP's
  cosines, where a row's mass is then up to 1e-3 off its 1 / M and a logit less than 1e-3 off;
- on ImageNet a class's logit is that plus the logit scale times cos(f, g), f the global image feature and g the mean
  of the N raw text features (GLOBAL, which configs/datasets/imagenet.yaml says and FORM paper does without).

Known differences from the release: there all images, classes and places of a batch end together, so that a plan depends
on its neighbours, here each plan ends by itself, at the same rule; the iterations are on logarithms in float32, there
on u and v in half precision.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from dassl.engine.trainer import progress
from prompting import context
from prompting.local_features import global_and_local_features
from prompting.prompted_clip import PromptedCLIP
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

CHECK_EVERY = 10
"""Sinkhorn's iterations from one look at who has converged to the next; each look waits for the device."""

FORMS = {
    "released": {"STOP": "u", "THRESH": 0.01, "MAX_ITER": 100},
    "paper": {"STOP": "log_v", "THRESH": 1e-5, "MAX_ITER": 1000},
}

COSTS_AT_ONCE = 2**25
"""Entries of C that Sinkhorn's iterations work on at a time: 128 MiB, and a few times that in between."""


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.PLOT = CN()
    cfg.TRAINER.PLOT.FORM = "released"  # released, paper: what the keys are that are None here
    cfg.TRAINER.PLOT.GLOBAL = False  # FORM released: add the cosine of the global features, as it does on ImageNet
    cfg.TRAINER.PLOT.N = 4  # prompts of each class
    cfg.TRAINER.PLOT.N_CTX = 16  # context vectors of each prompt
    cfg.TRAINER.PLOT.CSC = False  # class-specific context
    cfg.TRAINER.PLOT.CTX_INIT = ""  # words that the first prompt starts from; their number then replaces N_CTX
    cfg.TRAINER.PLOT.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.PLOT.CLASS_TOKEN_POSITION = "end"  # end, middle or front
    cfg.TRAINER.PLOT.EPS = 0.1  # weight of the plan's entropy
    cfg.TRAINER.PLOT.MAX_ITER = None  # of Sinkhorn's iterations
    cfg.TRAINER.PLOT.STOP = None  # what has to move less than THRESH for them to end: u on average, or every log v
    cfg.TRAINER.PLOT.THRESH = None


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
    plan, going = torch.empty_like(log_kernel), torch.arange(len(log_kernel), device=cost.device)
    log_u, log_v = log_kernel.new_zeros(len(log_kernel), m), log_kernel.new_zeros(len(log_kernel), n)
    moving = log_kernel.new_ones(len(log_kernel), dtype=torch.bool)
    for done in range(0, max_iter, CHECK_EVERY):
        for _ in range(min(CHECK_EVERY, max_iter - done)):
            before_u, before_v = log_u, log_v
            log_u = -math.log(m) - (log_kernel + log_v[:, None]).logsumexp(dim=2)
            log_v = -math.log(n) - (log_kernel + log_u[:, :, None]).logsumexp(dim=1)
            if stop == "u":  # what has ended waits for the next look as it is
                log_u, log_v = log_u.where(moving[:, None], before_u), log_v.where(moving[:, None], before_v)
                moving = moving & ~((log_u.exp() - before_u.exp()).abs().mean(dim=1) < thresh)
        if stop == "log_v":
            moving = (log_v - before_v).abs().amax(dim=1) >= thresh
        plan[going] = (log_kernel + log_u[:, :, None] + log_v[:, None]).exp()
        if not moving.any():
            break
        going, log_kernel, log_u, log_v = going[moving], log_kernel[moving], log_u[moving], log_v[moving]
        moving = moving[moving]
    return plan.reshape(cost.shape)


class PLOTCLIP(PromptedCLIP):
    """CLIP whose logits are transport distances between the places of an image and the prompts of a class.

    With `whole` the first of an image's features is the global one, the first of a class's the mean of its prompts'.

    Args:
        clip_model, prompt_learner, text_encoder: as PromptedCLIP takes them.
        sinkhorn: the arguments of `transport_plan` after the cost.
        whole: whether their cosine joins the logits.
    """

    def __init__(
        self,
        clip_model: nn.Module,
        prompt_learner: nn.Module,
        text_encoder: TextEncoder,
        sinkhorn: tuple,
        whole: bool = False,
    ) -> None:
        super().__init__(clip_model, prompt_learner, text_encoder)
        self.sinkhorn, self.whole = sinkhorn, whole

    @property
    def encodes(self) -> str:
        return "global and local" if self.whole else "local"

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) images -> (B, M or 1 + M, e) image features, not normalised."""
        features, local = global_and_local_features(self.image_encoder, images.to(self.dtype))
        return torch.cat([features[:, None], local], dim=1) if self.whole else local

    def encode_text(self) -> torch.Tensor:
        """(N or 1 + N, K, e) normalised text features."""
        features = self.text_encoder(*self.prompt_learner()).float()
        if self.whole:
            features = torch.cat([features.mean(dim=0, keepdim=True), features])
        return F.normalize(features, dim=-1)

    def logits(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """(B, M or 1 + M, e) normalised image features, (N or 1 + N, K, e) text features -> (B, K) logits."""
        if not self.whole:
            return self.logit_scale * self.transported(image_features, text_features)
        whole = image_features[:, 0] @ text_features[0].t()
        return self.logit_scale * (whole + self.transported(image_features[:, 1:], text_features[1:]))

    def transported(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """1 - d_OT, (B, K), of (B, M, e) normalised local image features and (N, K, e) text features."""
        similarity = torch.einsum("bme,nke->bkmn", image_features, text_features)
        parts = similarity.detach().split(max(1, COSTS_AT_ONCE // similarity[0].numel()))
        plan = torch.cat([transport_plan(1 - part, *self.sinkhorn) for part in parts])
        return (plan * similarity).sum(dim=(-2, -1))  # a plan sums to 1


@TRAINER_REGISTRY.register()
class PLOT(PromptTrainer):
    """Prompt Learning with Optimal Transport: cross-entropy on the context vectors."""

    section = "PLOT"
    forms = FORMS
    earlier_form = "paper"

    @property
    def class_axes(self) -> dict[str, int]:  # type: ignore[override]
        return {"ctx": 1} if self.cfg.TRAINER.PLOT.CSC else {}

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        context.check_context(cfg, "PLOT")
        self.require("N", at_least=1)
        self.require("EPS", above=0)
        self.require("MAX_ITER", at_least=1)
        self.require("STOP", one_of=("u", "log_v"))
        self.require("THRESH", at_least=0)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PLOTCLIP:
        options = self.options
        learner = PromptLearner(options, classnames, text_encoder)
        sinkhorn = (options.EPS, options.MAX_ITER, options.THRESH, options.STOP)
        whole = options.GLOBAL and options.FORM == "released"
        return PLOTCLIP(clip_model, learner, text_encoder, sinkhorn, whole)

    @torch.no_grad()
    def predict(self, loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Text features once; local features batch by batch, since those of a whole test set are too many to keep."""
        text_features = self.model.encode_text()
        for batch in progress(loader):
            images, labels = self.parse_batch_test(batch)
            image_features = self.model.prepare(self.model.encode_image(images))
            yield self.score(image_features, text_features), labels
