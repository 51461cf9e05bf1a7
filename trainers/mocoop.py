"""MoCoOp: a mixture of soft prompts, routed by the image (Du et al., 2024, arXiv 2409.12011).

Hard templates form G groups by meaning. Each group has one soft prompt, the expert, which starts from the group's
first template. A router picks the TOP_K experts for an image; the class's text feature is the mean of their
normalised text features under the gate weights, and the logit its product with the normalised image feature and the
logit scale. The mixture is linear, so mixing features and mixing per-expert logits are the same thing; the mixed
feature is not normalised again unless RENORMALIZE says so.

    L = L_ce + ROUTER_WEIGHT * L_router + TEXT_WEIGHT * L_text

L_router guides the router by the hard prompts, L_text keeps each expert near its group's templates. Each comes in the
paper's form (paper, template) and in that of the released code (class, group_mean):

    ROUTER_TARGET paper     L_router = KL(softmax_g(v . H_g / ROUTER_TEMPERATURE) || softmax_g(r))
                  class     L_router = -sum_g q_g log softmax_g(r),  q = softmax_g(v . H_g(y), its two largest + 10)
    TEXT_TARGET   template  L_text = mean_{g,c} -log mean_i softmax_c'(s t_g(c) . h_i(c'))_c
                  group_mean L_text = mean_{g,c} -log softmax_c'(t_g(c) . H_g(c'))_c

v is the image feature, y the image's class, r its router logits; t_g(c) the text feature of class c under expert g,
h_i(c) that under hard template i of group g, all of length 1; s the logit scale, which the released L_text leaves out.
H_g(c) is the mean of h_i(c) over i, H_g that over i and c, each then of length 1. L_router is the mean over images.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY, run_folder
from dassl.utils import UserError
from prompting.losses import text_loss
from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import Prompts, encode_templates, sequence, soft
from prompting.template_groups import auto_groups
from prompting.templates import all_templates, check_templates
from prompting.text_encoder import TextEncoder
from prompting.tokenizers import Tokenizer
from trainers.base import Mixture, PromptTrainer

logger = logging.getLogger("dassl.trainers")

SHARED_GROUPS = [
    ["a photo of a {}."],
    ["a photo of many {}."],
    [
        "a low resolution photo of the {}.",
        "a low resolution photo of a {}.",
        "a pixelated photo of the {}.",
        "a pixelated photo of a {}.",
    ],
    ["a good photo of the {}.", "a good photo of a {}."],
]
"""The groups that the datasets of the paper have in common."""


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.MOCOOP = CN()
    cfg.TRAINER.MOCOOP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.MOCOOP.GROUPS = None  # list of lists of templates with {}; "auto"; None: the shared groups
    cfg.TRAINER.MOCOOP.N_GROUPS = 5  # how many groups "auto" makes
    cfg.TRAINER.MOCOOP.TEMPLATES = ()  # what "auto" groups; (): CLIP's eighty for ImageNet and the dataset's own
    cfg.TRAINER.MOCOOP.TOP_K = 2  # experts per image
    cfg.TRAINER.MOCOOP.RENORMALIZE = False  # normalise the mixed text feature
    cfg.TRAINER.MOCOOP.ROUTER_WEIGHT = 1.0
    cfg.TRAINER.MOCOOP.ROUTER_TARGET = "paper"  # paper: KL to hard prompts' softmax; class: as the released code
    cfg.TRAINER.MOCOOP.ROUTER_TEMPERATURE = 1.0  # of the hard prompts' softmax
    cfg.TRAINER.MOCOOP.TEXT_WEIGHT = 5.0
    cfg.TRAINER.MOCOOP.TEXT_TARGET = "template"  # template: each one; group_mean: as the released code
    cfg.TRAINER.MOCOOP.TEXT_CLASSES = "all"  # all: names of base and new classes serve L_text; train: base only
    cfg.TRAINER.MOCOOP.TEXT_OFFSET = False  # released code: a learned vector added to all text features
    cfg.TRAINER.MOCOOP.TUNE_LAYERNORM = False  # released code: train the image encoder's ln_1, ln_2
    cfg.TRAINER.MOCOOP.GRAD_CLIP = 1.0  # largest gradient norm; 0: no limit


class PromptLearner(nn.Module):
    """G experts and their router.

    Args:
        layout: (G, 2), each expert's number of vectors before and after the class name.
        classnames: N class names; `extra` are further ones that serve the text loss alone.
        feature_dim: e, the length of image and text features.
        text_offset: whether to learn a vector that is added to all text features.

    Attributes:
        ctx: (K, d), the vectors of all experts one after another.
        router: linear, normalised image feature (B, e) -> (B, G).
        offset: (e,) or None.
    """

    def __init__(
        self,
        layout: list[list[int]],
        classnames: Sequence[str],
        extra: Sequence[str],
        text_encoder: TextEncoder,
        feature_dim: int,
        text_offset: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("layout", torch.tensor(layout))
        self.ctx = nn.Parameter(torch.zeros(sum(map(sum, layout)), text_encoder.token_embedding.weight.shape[1]))
        self.router = nn.Linear(feature_dim, len(layout))
        self.offset = nn.Parameter(torch.zeros(feature_dim)) if text_offset else None
        self.prompts = Prompts(text_encoder, _expert_sequences(layout, classnames), classnames)
        self.text_loss_prompts = self.prompts
        if extra:
            names = [*classnames, *extra]
            self.text_loss_prompts = Prompts(text_encoder, _expert_sequences(layout, names), names)

    def forward(self, with_extra: bool = False) -> tuple:
        """The text encoder's arguments: G rows of N prompts, or of N + extra."""
        return (self.text_loss_prompts if with_extra else self.prompts)(self.ctx)

    def gates(self, image_features: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, e) normalised image features -> router logits (B, G) and gate weights (B, G), zero off the top K."""
        logits = self.router(image_features).to(image_features.dtype)  # autocast makes it half
        top, chosen = logits.topk(top_k, dim=-1)
        return logits, torch.zeros_like(logits).scatter(1, chosen, top.softmax(dim=-1))


def _expert_sequences(layout, names):
    rows, start = [], 0
    for before, after in layout:
        middle, end = start + before, start + before + after
        rows.append([sequence(soft(range(start, middle)), name, soft(range(middle, end))) for name in names])
        start = end
    return rows


def template_ids(template: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of a template before and after the class name."""
    before, _, after = template.partition("{}")
    return tokenizer.encode(before), tokenizer.encode(after, first=False)


class MoCoOpCLIP(PromptedCLIP):
    """CLIP whose text features are a mixture of experts chosen per image."""

    def __init__(
        self, clip_model: nn.Module, prompt_learner: nn.Module, text_encoder: TextEncoder, top_k: int, renormalize: bool
    ) -> None:
        super().__init__(clip_model, prompt_learner, text_encoder)
        self.top_k, self.renormalize = top_k, renormalize

    def encode_text(self, with_extra: bool = False) -> torch.Tensor:
        """(G, N, e) normalised text features of every expert and class."""
        return self.encode_prompts(with_extra)

    def logits(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """(B, e) normalised image features, (G, N, e) text features -> (B, N)."""
        _, weights = self.prompt_learner.gates(image_features, self.top_k)
        return self.mix(image_features, text_features, weights)

    def mix(self, image_features: torch.Tensor, text_features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Per-expert logits mixed under the gate weights.

        (B, e), (G, N, e), (B, G) -> (B, N), in one matrix product of (B, G*e) with (G*e, N): no text feature is
        ever copied per image.
        """
        weighted = (weights[:, :, None] * image_features[:, None]).flatten(1)
        logits = self.logit_scale * weighted @ text_features.transpose(1, 2).flatten(0, 1)
        if self.renormalize:  # the mixed feature's squared norm, from the experts' inner products
            inner = torch.einsum("gne,hne->ngh", text_features, text_features)
            logits = logits / torch.einsum("bg,ngh,bh->bn", weights, inner, weights).clamp_min(1e-12).sqrt()
        return logits


def router_loss(
    router_logits: torch.Tensor, image_features: torch.Tensor, group_features: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL(W_hard || W_router), W_hard = softmax over g of cos(v, h_g) / temperature (the paper's form).

    Args:
        router_logits: (B, G). image_features: (B, e), normalised. group_features: (G, e), each the mean over the
            group's templates and the classes of the normalised hard text features.
    """
    hard = F.log_softmax(image_features @ F.normalize(group_features, dim=-1).t() / temperature, dim=-1)
    return F.kl_div(F.log_softmax(router_logits, dim=-1), hard, reduction="batchmean", log_target=True)


def router_loss_class(
    router_logits: torch.Tensor, image_features: torch.Tensor, class_features: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the router with a softmax over cos(v, group g's mean of class y), its top two raised by 10.

    The released code's form. class_features: (G, N, e), normalised means over each group's templates; labels: (B,).
    """
    similarity = torch.einsum("be,gbe->bg", image_features, class_features[:, labels])
    top = similarity.topk(min(2, similarity.shape[1]), dim=-1).indices
    target = similarity.scatter_add(1, top, torch.full_like(top, 10, dtype=similarity.dtype)).softmax(dim=-1)
    return F.cross_entropy(router_logits, target)


def check_top_k(cfg: CN, n_groups: int) -> None:
    require(cfg, "TRAINER.MOCOOP.TOP_K", at_least=1, at_most=n_groups, note="the number of groups")


@TRAINER_REGISTRY.register()
class MoCoOp(PromptTrainer):
    """Mixture of Context Optimization."""

    section = "MOCOOP"
    class_axes = {}
    is_mixture = True
    other_learner = "experts of other groups (TRAINER.MOCOOP.GROUPS)"

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        options = cfg.TRAINER.MOCOOP
        require(cfg, "TRAINER.MOCOOP.ROUTER_TARGET", one_of=("paper", "class"))
        require(cfg, "TRAINER.MOCOOP.TEXT_TARGET", one_of=("template", "group_mean"))
        require(cfg, "TRAINER.MOCOOP.TEXT_CLASSES", one_of=("all", "train"))
        groups = options.GROUPS
        if isinstance(groups, str):
            if groups != "auto":
                raise UserError(f'TRAINER.MOCOOP.GROUPS is "{groups}": give a list of lists of templates, or auto')
            templates, n_groups = _auto_templates(cfg), options.N_GROUPS
            require(cfg, "TRAINER.MOCOOP.N_GROUPS", at_least=1, at_most=len(templates), note="the number of templates")
        else:
            groups = SHARED_GROUPS if groups is None else groups
            if not groups or not all(isinstance(g, (list, tuple)) and g for g in groups):
                raise UserError("TRAINER.MOCOOP.GROUPS must be a list of lists of templates, none of them empty")
            templates, n_groups = [t for group in groups for t in group], len(groups)
        check_templates(templates, "MOCOOP")
        check_top_k(cfg, n_groups)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> MoCoOpCLIP:
        options, dataset = self.cfg.TRAINER.MOCOOP, self.dm.dataset
        known = getattr(dataset, "all_classnames", classnames)
        self.extra = self.virtual_classes() if options.TEXT_CLASSES == "all" else []
        # Unseen pairs are names without images, like new classes.
        names = [*classnames, *self.extra]
        self.text_loss_names = names if options.TEXT_CLASSES == "all" else names[: self.num_seen]
        self.evaluated: list[torch.Tensor] = []  # the gate weights of the images evaluated last, by batches
        self.groups = options.GROUPS or SHARED_GROUPS
        if self.groups == "auto":
            self.groups = auto_groups(text_encoder, _auto_templates(self.cfg), list(known), options.N_GROUPS)
            check_top_k(self.cfg, len(self.groups))
        logger.info("Groups of hard templates:")
        for group in self.groups:
            logger.info("  %s", "  ".join(group))

        ids = [template_ids(group[0], text_encoder.tokenizer) for group in self.groups]
        self.layout = [[len(before), len(after)] for before, after in ids]
        learner = self._learner(text_encoder, self.layout)
        first_words = torch.tensor([i for before, after in ids for i in before + after])
        with torch.no_grad():
            learner.ctx.copy_(text_encoder.token_embedding.weight[first_words.to(self.device)])
        if options.TUNE_LAYERNORM:
            self.tune_layernorms(clip_model, learner)
        return MoCoOpCLIP(clip_model, learner, text_encoder, options.TOP_K, options.RENORMALIZE)

    def _learner(self, text_encoder: TextEncoder, layout: list[list[int]]) -> PromptLearner:
        names, feature_dim = self.dm.dataset.classnames, text_encoder.text_projection.shape[1]
        return PromptLearner(layout, names, self.extra, text_encoder, feature_dim, self.cfg.TRAINER.MOCOOP.TEXT_OFFSET)

    def build_model(self) -> None:
        super().build_model()
        self.model.prompt_learner.layout.copy_(torch.tensor(self.layout))  # INIT_WEIGHTS may have had another

    def learner_for(self, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> PromptLearner | None:
        # Trained on a dataset with other groups, the experts have another shape: it travels with the weights.
        layout = state_dict.get("layout")
        if layout is None or torch.equal(layout.cpu(), self.model.prompt_learner.layout.cpu()):
            return None
        check_top_k(self.cfg, len(layout))
        return self._learner(self.model.text_encoder, layout.tolist())

    def before_train(self) -> None:
        super().before_train()
        with torch.no_grad():
            encoder, names, n = self.model.text_encoder, self.text_loss_names, self.num_seen
            self.hard_features = [
                F.normalize(encode_templates(encoder, group, names).float(), dim=-1) for group in self.groups
            ]
            means = torch.stack([hard.mean(dim=0) for hard in self.hard_features])
            self.group_features = means[:, :n].mean(dim=1)
            self.class_features = F.normalize(means, dim=-1)
            if self.cfg.TRAINER.MOCOOP.TEXT_TARGET == "group_mean":
                self.hard_features = list(self.class_features[:, None])

    def before_epoch(self) -> None:
        super().before_epoch()
        self.chosen = torch.zeros(len(self.groups), device=self.device)
        self.entropy, self.seen = 0.0, 0

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        options, model = self.cfg.TRAINER.MOCOOP, self.model
        image_features = F.normalize(model.encode_image(images).float(), dim=-1)
        text_features = model.encode_text(with_extra=options.TEXT_WEIGHT > 0)
        router_logits, weights = model.prompt_learner.gates(image_features, model.top_k)
        logits = model.mix(image_features, text_features[:, : self.num_seen], weights)

        loss, accuracy = self.cross_entropy(logits, labels)
        summary = {"loss_ce": loss.item()}
        if options.ROUTER_WEIGHT > 0:
            if options.ROUTER_TARGET == "paper":
                router = router_loss(router_logits, image_features, self.group_features, options.ROUTER_TEMPERATURE)
            else:
                router = router_loss_class(router_logits, image_features, self.class_features, labels)
            loss = loss + options.ROUTER_WEIGHT * router
            summary["loss_router"] = router.item()
        if options.TEXT_WEIGHT > 0:
            scale = 1.0 if options.TEXT_TARGET == "group_mean" else model.logit_scale
            text = text_loss(text_features[:, : len(self.text_loss_names)], self.hard_features, scale)
            loss = loss + options.TEXT_WEIGHT * text
            summary["loss_text"] = text.item()

        with torch.no_grad():
            log_gates = router_logits.log_softmax(dim=-1)
            self.chosen += (weights > 0).sum(dim=0)
            self.entropy += -(log_gates.exp() * log_gates).sum().item()
            self.seen += len(labels)
        return loss, summary | accuracy

    def clip_gradients(self) -> None:
        limit = self.cfg.TRAINER.MOCOOP.GRAD_CLIP
        if limit > 0:
            nn.utils.clip_grad_norm_(self.model.prompt_learner.parameters(), limit)

    def after_epoch(self) -> None:
        load = (self.chosen / self.seen).tolist()
        entropy = self.entropy / self.seen
        logger.info("router: load %s entropy %.3f", " ".join(f"{x:.3f}" for x in load), entropy)
        for g, share in enumerate(load):
            self.write_scalar(f"router/load_{g}", share, self.epoch)
        self.write_scalar("router/entropy", entropy, self.epoch)
        super().after_epoch()

    def vectors_among_words(self) -> list[tuple[str, torch.Tensor]]:
        learner = self.model.prompt_learner
        labels = [
            f"expert {g} {side} {k}"
            for g, counts in enumerate(learner.layout.tolist(), start=1)
            for side, n in zip(("before", "after"), counts, strict=True)
            for k in range(1, n + 1)
        ]
        return list(zip(labels, learner.ctx, strict=True))

    def predict(self, loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.evaluated = []
        yield from super().predict(loader)

    def score(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        _, weights = self.model.prompt_learner.gates(image_features, self.model.top_k)
        self.evaluated.append(weights)
        return self.model.mix(image_features, text_features, weights)

    def mixture(self) -> Mixture | None:
        """The experts, known by the templates that they began as, and their gate weights."""
        if not self.evaluated:
            return None
        weights = torch.cat(self.evaluated).cpu()
        names = [group[0] for group in self.groups] if self._groups_are_own() else [""] * weights.shape[1]
        return Mixture(names, weights, named_by="began as")

    def _groups_are_own(self) -> bool:
        """Whether the weights are of this config's groups; False where nothing tells."""
        if self.model.prompt_learner.layout.tolist() != self.layout:
            return False
        if self.loaded_from is None:
            return True
        try:
            theirs = run_folder.read_config(self.loaded_from["model_dir"])
        except UserError:
            return False
        options = self.cfg.TRAINER.MOCOOP
        ours = {"TRAINER.MOCOOP.GROUPS": options.GROUPS}
        if options.GROUPS == "auto":  # and what those follow from
            ours["TRAINER.MOCOOP.N_GROUPS"] = options.N_GROUPS
            ours["TRAINER.MOCOOP.TEMPLATES"] = list(options.TEMPLATES)
            ours |= {"DATASET.NAME": self.cfg.DATASET.NAME, "MODEL.BACKBONE.NAME": self.cfg.MODEL.BACKBONE.NAME}
        return all(theirs.get(key) == value for key, value in ours.items())

    def extra_metrics(self) -> dict[str, Any]:
        """Of the evaluated images: the share that chose each expert (sums to TOP_K), each expert's mean gate weight.
        And what the experts began as, where that is known.
        """
        found = self.mixture()
        if found is None:
            return {}
        shares = {"expert_usage": (found.weights > 0).float(), "expert_weight": found.weights}
        metrics = {name: [round(x, 6) for x in share.mean(dim=0).tolist()] for name, share in shares.items()}
        return metrics | ({"expert_names": found.names} if any(found.names) else {})


def _auto_templates(cfg: CN) -> list[str]:
    return list(cfg.TRAINER.MOCOOP.TEMPLATES) or all_templates(cfg.DATASET.NAME)
