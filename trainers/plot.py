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

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from dassl.engine.trainer import progress
from prompting import context
from prompting.chunks import bytes_per_token, encode_in_chunks, how_many_fit
from prompting.local_features import global_and_local_features
from prompting.prompted_clip import PromptedCLIP
from prompting.text_encoder import TextEncoder
from prompting.transport import transport_plan
from trainers.base import PromptTrainer

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
    cfg.TRAINER.PLOT.MEMORY_GB = 4.0  # GiB of text activations; more classes than fit are encoded in chunks
    cfg.TRAINER.PLOT.EPS = 0.1  # weight of the plan's entropy
    cfg.TRAINER.PLOT.MAX_ITER = None  # most iterations of Sinkhorn
    cfg.TRAINER.PLOT.STOP = None  # what has to move less than THRESH for them to end: u on average, or every log v
    cfg.TRAINER.PLOT.THRESH = None  # see STOP


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

    def forward(self, classes: slice = slice(None)) -> tuple:
        """The text encoder's arguments for N rows of K prompts, or of those of some classes."""
        return self.prompts(self.ctx.flatten(1, -2), columns=classes)

    def chunks(self, tokens: int) -> list[slice]:
        """The classes in as many parts as it takes for no more than so many tokens in each, of one class at least."""
        n, count = len(self.ctx), len(self.prompts.eot)
        own = n * (int(self.prompts.eot.max()) + 1)
        size = max(1, (tokens - n * self.prompts.shared.shape[1]) // own)
        return [slice(start, start + size) for start in range(0, count, size)]


class PLOTCLIP(PromptedCLIP):
    """CLIP whose logits are transport distances between the places of an image and the prompts of a class.

    With `whole` the first of an image's features is the global one, the first of a class's the mean of its prompts'.

    Args:
        clip_model, prompt_learner, text_encoder: as PromptedCLIP takes them.
        sinkhorn: the arguments of `transport_plan` after the cost.
        tokens: how many tokens of prompts are encoded at a time.
        whole: whether their cosine joins the logits.
    """

    def __init__(
        self,
        clip_model: nn.Module,
        prompt_learner: nn.Module,
        text_encoder: TextEncoder,
        sinkhorn: tuple,
        tokens: int,
        whole: bool = False,
    ) -> None:
        super().__init__(clip_model, prompt_learner, text_encoder)
        self.sinkhorn, self.whole, self.chunks = sinkhorn, whole, prompt_learner.chunks(tokens)

    @property
    def encodes(self) -> str:
        return "global and local" if self.whole else "local"

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) images -> (B, M or 1 + M, e) image features, not normalised."""
        features, local = global_and_local_features(self.image_encoder, images.to(self.dtype))
        return torch.cat([features[:, None], local], dim=1) if self.whole else local

    def encode_text(self) -> torch.Tensor:
        """(N or 1 + N, K, e) normalised text features."""
        features = encode_in_chunks(self._encode, self.chunks, dim=1).float()
        if self.whole:
            features = torch.cat([features.mean(dim=0, keepdim=True), features])
        return F.normalize(features, dim=-1)

    def _encode(self, classes):
        return self.text_encoder(*self.prompt_learner(classes))

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
        tokens = how_many_fit(options.MEMORY_GB, bytes_per_token(text_encoder))
        return PLOTCLIP(clip_model, learner, text_encoder, sinkhorn, tokens, whole)

    @torch.no_grad()
    def predict(self, loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Text features once; local features batch by batch, since those of a whole test set are too many to keep."""
        text_features = self.model.encode_text()
        for batch in progress(loader):
            images, labels = self.parse_batch_test(batch)
            image_features = self.model.prepare(self.model.encode_image(images))
            yield self.score(image_features, text_features), labels
