"""MoCoOp: a mixture of soft prompts, routed by the image (Du et al., 2024, arXiv 2409.12011).

Hard templates form G groups by meaning. Each group has one soft prompt, the expert, which starts from the group's
first template. A router picks the TOP_K experts for an image; the class's text feature is the mean of their
normalised text features under the gate weights, and the logit its product with the normalised image feature and the
logit scale. The mixture is linear, so mixing features and mixing per-expert logits are the same thing; the mixed
feature is not normalised again unless RENORMALIZE says so.

    L = L_ce + ROUTER_WEIGHT * L_router + TEXT_WEIGHT * L_text

L_router guides the router by the hard prompts, L_text keeps each expert near its group's templates. FORM is "released",
as the code of the paper's authors has them (class, group_mean), or "paper" (paper, template):

    ROUTER_TARGET paper     L_router = KL(softmax_g(v . H_g / ROUTER_TEMPERATURE) || softmax_g(r))
                  class     L_router = -sum_g q_g log softmax_g(r),  q = softmax_g(v . H_g(y), its two largest + 10)
    TEXT_TARGET   template  L_text = mean_{g,c} -log mean_i softmax_c'(s t_g(c) . h_i(c'))_c
                  group_mean L_text = mean_{g,c} -log softmax_c'(t_g(c) . H_g(c'))_c

v is the image feature, y the image's class, r its router logits; t_g(c) the text feature of class c under expert g,
h_i(c) that under hard template i of group g, all of length 1; s the logit scale, which the released L_text leaves out.
H_g(c) is the mean of h_i(c) over i, H_g that over i and c, each then of length 1. L_router is the mean over images, and
its gradient reaches tuned LayerNorms through v on both sides. The released form also learns a vector added to all text
features and the LayerNorms of the image encoder's blocks, has the experts' full stops frozen and in L_text alone, and
of a small batch encodes only experts that an image chose. docs/methods/mocoop.md says what each form is and does.

Known differences from the release: v is held against the hard prompts of its own class (the released code takes another
class's in base-to-new runs, by mistake); words of templates are counted in tokens, and no end token is learned.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY, run_folder
from dassl.utils import UserError, processes
from prompting.experts import MoCoOpCLIP, PromptLearner, template_ids
from prompting.losses import text_loss
from prompting.mixture import Mixture
from prompting.prompts import encode_templates
from prompting.routing import entropy, router_loss, router_loss_class, routing
from prompting.template_groups import auto_groups
from prompting.templates import all_templates, check_templates
from prompting.text_encoder import TextEncoder
from trainers.layernorms import LayerNormTrainer

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

FORMS = {
    "released": {
        "ROUTER_TARGET": "class",
        "TEXT_TARGET": "group_mean",
        "TEXT_OFFSET": True,
        "TUNE_LAYERNORM": True,
        "FULL_STOP": "text_loss",
        "SPARSE_BELOW": 4,
    },
    "paper": {
        "ROUTER_TARGET": "paper",
        "TEXT_TARGET": "template",
        "TEXT_OFFSET": False,
        "TUNE_LAYERNORM": False,
        "FULL_STOP": "learned",
        "SPARSE_BELOW": 0,
    },
}
WORDS = {
    "ROUTER_TARGET": ("class", "paper"),
    "TEXT_TARGET": ("group_mean", "template"),
    "FULL_STOP": ("text_loss", "learned"),
    "TEXT_OFFSET": (True, False),
    "TUNE_LAYERNORM": (True, False),
    "TEXT_CLASSES": ("all", "train"),
}
TEMPERATURE = 1.0
"""ROUTER_TEMPERATURE where it is None: what the paper says, in saying nothing."""


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.MOCOOP = CN()
    cfg.TRAINER.MOCOOP.PREC = "amp"  # fp16, fp32, amp, bf16
    cfg.TRAINER.MOCOOP.FORM = "released"  # released, paper: what None means below
    cfg.TRAINER.MOCOOP.GROUPS = None  # list of lists of templates with {}; "auto"; None: the shared groups
    cfg.TRAINER.MOCOOP.N_GROUPS = 5  # how many groups "auto" makes
    cfg.TRAINER.MOCOOP.TEMPLATES = ()  # what "auto" groups; (): CLIP's eighty for ImageNet and the dataset's own
    cfg.TRAINER.MOCOOP.TOP_K = 2  # experts per image
    cfg.TRAINER.MOCOOP.RENORMALIZE = False  # normalise the mixed text feature
    cfg.TRAINER.MOCOOP.ROUTER_WEIGHT = 1.0  # weight of the router's loss
    cfg.TRAINER.MOCOOP.ROUTER_TARGET = (
        None  # class: the true class's hard templates, top two + 10; paper: KL to all classes'
    )
    cfg.TRAINER.MOCOOP.ROUTER_TEMPERATURE = None  # of the hard templates' softmax, for ROUTER_TARGET paper; None: 1
    cfg.TRAINER.MOCOOP.TEXT_WEIGHT = 5.0  # weight of L_text, which ties each expert to its group of templates
    cfg.TRAINER.MOCOOP.TEXT_TARGET = None  # group_mean: a group's mean, without logit scale; template: each one
    cfg.TRAINER.MOCOOP.TEXT_CLASSES = "all"  # all: names of base and new classes serve both losses; train: base only
    cfg.TRAINER.MOCOOP.TEXT_OFFSET = None  # a learned vector added to all text features
    cfg.TRAINER.MOCOOP.TUNE_LAYERNORM = None  # train the image encoder's ln_1, ln_2
    cfg.TRAINER.MOCOOP.FULL_STOP = None  # text_loss: frozen, and in L_text of base runs alone; learned: a vector
    cfg.TRAINER.MOCOOP.SPARSE_BELOW = None  # smaller batches encode only experts that one of their images chose
    cfg.TRAINER.MOCOOP.GRAD_CLIP = 1.0  # largest gradient norm; 0: no limit


def check_top_k(cfg: CN, n_groups: int) -> None:
    require(cfg, "TRAINER.MOCOOP.TOP_K", at_least=1, at_most=n_groups, note="the number of groups")


@TRAINER_REGISTRY.register()
class MoCoOp(LayerNormTrainer):
    """Mixture of Context Optimization."""

    section = "MOCOOP"
    forms = FORMS
    earlier_form = "paper"
    class_axes = {}
    is_mixture = True
    other_learner = "experts of other groups, or of another form (TRAINER.MOCOOP.GROUPS, FORM)"

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        for key, words in WORDS.items():
            self.require(key, one_of=words)
        self.require("SPARSE_BELOW", at_least=0)
        options = self.options
        if options.ROUTER_TEMPERATURE is not None:
            self.require("ROUTER_TEMPERATURE", above=0)
            # 1 was the default in any form, so that finished runs have it
            if options.ROUTER_TARGET == "class" and options.ROUTER_TEMPERATURE != 1:
                raise UserError(
                    f"TRAINER.MOCOOP.ROUTER_TEMPERATURE {options.ROUTER_TEMPERATURE} goes with ROUTER_TARGET paper, "
                    "not class: leave it out, or give FORM paper"
                )
        groups = options.GROUPS
        if isinstance(groups, str):
            if groups != "auto":
                raise UserError(f'TRAINER.MOCOOP.GROUPS is "{groups}": give a list of lists of templates, or auto')
            templates, n_groups = _auto_templates(cfg), options.N_GROUPS
            require(cfg, "TRAINER.MOCOOP.N_GROUPS", at_least=1, at_most=len(templates), note="the number of templates")
        else:
            groups = SHARED_GROUPS if groups is None else groups
            lists = isinstance(groups, (list, tuple)) and all(isinstance(g, (list, tuple)) and g for g in groups)
            if not (groups and lists):
                raise UserError("TRAINER.MOCOOP.GROUPS must be a list of lists of templates, none of them empty")
            templates, n_groups = [t for group in groups for t in group], len(groups)
        check_templates(templates, "MOCOOP")
        check_top_k(cfg, n_groups)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> MoCoOpCLIP:
        options, dataset = self.options, self.dm.dataset
        known = getattr(dataset, "all_classnames", classnames)
        self.extra = self.virtual_classes() if options.TEXT_CLASSES == "all" else []
        # Unseen pairs are names without images, like new classes.
        names = [*classnames, *self.extra]
        self.text_loss_names = names if options.TEXT_CLASSES == "all" else names[: self.num_seen]
        self.evaluated: list[tuple[torch.Tensor, torch.Tensor]] = []  # (gate weights, bits of router entropy) by batch
        self.labels: dict[str, torch.Tensor] = {}  # of the images evaluated last
        self.groups = options.GROUPS or SHARED_GROUPS
        if self.groups == "auto":
            self.groups = auto_groups(text_encoder, _auto_templates(self.cfg), list(known), options.N_GROUPS)
            check_top_k(self.cfg, len(self.groups))
        logger.info("Groups of hard templates:")
        for group in self.groups:
            logger.info("  %s", "  ".join(group))

        firsts, endings = [group[0] for group in self.groups], [""] * len(self.groups)
        if options.FULL_STOP == "text_loss":
            endings = ["." if first.endswith(".") else "" for first in firsts]
        templates = [first.removesuffix(end) for first, end in zip(firsts, endings, strict=True)]
        ids = [template_ids(template, text_encoder.tokenizer) for template in templates]
        self.layout = [[len(before), len(after)] for before, after in ids]
        learner = self._learner(text_encoder, self.layout, options.TEXT_OFFSET, endings)
        first_words = torch.tensor([i for before, after in ids for i in before + after])
        with torch.no_grad():
            learner.ctx.copy_(text_encoder.token_embedding.weight[first_words.to(self.device)])
        if options.TUNE_LAYERNORM:
            self.tune_layernorms(clip_model, learner)
        return MoCoOpCLIP(clip_model, learner, text_encoder, options.TOP_K, options.RENORMALIZE)

    def _learner(
        self, text_encoder: TextEncoder, layout: list[list[int]], offset: bool, endings: Sequence[str] = ()
    ) -> PromptLearner:
        names, feature_dim = self.dm.dataset.classnames, text_encoder.text_projection.shape[1]
        return PromptLearner(layout, names, self.extra, text_encoder, feature_dim, offset, endings)

    def build_model(self) -> None:
        super().build_model()
        self.model.prompt_learner.layout.copy_(torch.tensor(self.layout))  # INIT_WEIGHTS may have had another

    def learner_for(self, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> PromptLearner | None:
        # Trained on a dataset with other groups or in another form, the experts have another shape: it travels with
        # the weights.
        layout, own, offset = state_dict.get("layout"), self.model.prompt_learner, "offset" in state_dict
        if layout is None or (torch.equal(layout.cpu(), own.layout.cpu()) and offset == (own.offset is not None)):
            return None
        check_top_k(self.cfg, len(layout))
        return self._learner(self.model.text_encoder, layout.tolist(), offset)

    def load_weights(self, name: str, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> None:
        if self.layernorms is not None and not any(key.startswith("layernorms.") for key in state_dict):
            own = self.layernorms.state_dict(prefix="layernorms.")  # the weights' run left CLIP's own alone
            state_dict = own | dict(state_dict)
        super().load_weights(name, state_dict, source)

    def before_train(self) -> None:
        super().before_train()
        with torch.no_grad():
            encoder, names = self.model.text_encoder, self.text_loss_names
            self.hard_features = [
                F.normalize(encode_templates(encoder, group, names).float(), dim=-1) for group in self.groups
            ]
            means = torch.stack([hard.mean(dim=0) for hard in self.hard_features])
            self.group_features = means.mean(dim=1)
            self.class_features = F.normalize(means, dim=-1)
            if self.options.TEXT_TARGET == "group_mean":
                self.hard_features = list(self.class_features[:, None])

    def before_epoch(self) -> None:
        super().before_epoch()
        self.chosen = torch.zeros(len(self.groups), device=self.device)
        self.entropy, self.seen = (torch.zeros((), dtype=torch.double, device=self.device) for _ in range(2))

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        options, model = self.options, self.model
        learner = model.prompt_learner
        image_features = model.prepared(inputs)
        router_logits, weights = learner.gates(image_features, model.top_k)
        all_weights = processes.gathered(weights)
        experts, gates = list(range(weights.shape[1])), weights
        if len(all_weights) < options.SPARSE_BELOW:  # what is computed depends on the choice: the one look at each step
            experts = [g for g, chosen in enumerate((all_weights > 0).any(dim=0).tolist()) if chosen]
            gates = torch.stack([weights[:, g] for g in experts], dim=1)
        text_features = model.encode_text(options.TEXT_WEIGHT > 0 and learner.alike, experts)
        logits = model.mix(image_features, text_features[:, : self.num_seen], gates)

        loss, accuracy = self.cross_entropy(logits, labels)
        summary = {"loss_ce": loss.detach()}
        if options.ROUTER_WEIGHT > 0:
            if options.ROUTER_TARGET == "paper":
                temperature = options.ROUTER_TEMPERATURE or TEMPERATURE
                router = router_loss(router_logits, image_features, self.group_features, temperature)
            else:
                router = router_loss_class(router_logits, image_features, self.class_features, labels)
            loss = loss + options.ROUTER_WEIGHT * router
            summary["loss_router"] = router.detach()
        if options.TEXT_WEIGHT > 0:
            if not learner.alike:
                text_features = model.encode_text(True, experts)
            text = self._text_loss(text_features, experts)
            loss = loss + options.TEXT_WEIGHT * text
            summary["loss_text"] = text.detach()

        with torch.no_grad():
            self.chosen += (all_weights > 0).sum(dim=0)
            self.entropy += math.log(2) * entropy(processes.gathered(router_logits).softmax(dim=-1)).sum().double()
            self.seen += len(all_weights)
        return loss, summary | accuracy

    def _text_loss(self, text_features: torch.Tensor, experts: Sequence[int]) -> torch.Tensor:
        """L_text of (len(experts), N or more, e) features; experts left out count as if they told nothing apart."""
        hard = [self.hard_features[g] for g in experts]
        scale = 1.0 if self.options.TEXT_TARGET == "group_mean" else self.model.logit_scale
        n, share = len(self.text_loss_names), len(experts) / len(self.groups)
        return share * text_loss(text_features[:, :n], hard, scale) + (1 - share) * math.log(n)

    def after_epoch(self) -> None:
        load = (self.chosen / self.seen).tolist()
        entropy = (self.entropy / self.seen).item()
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
        self.evaluated, self.labels, labels = [], {}, []
        for logits, label in super().predict(loader):
            labels.append(label)
            yield logits, label
        self.labels["class"] = torch.cat(labels).cpu()
        items = getattr(loader.dataset, "data_source", ())
        if len({item.domain for item in items}) > 1 and isinstance(loader.sampler, SequentialSampler):
            self.labels["style"] = torch.tensor([item.domain for item in items])

    def score(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        logits, weights = self.model.prompt_learner.gates(image_features, self.model.top_k)
        self.evaluated.append((weights, entropy(logits.softmax(dim=-1))))
        return self.model.mix(image_features, text_features, weights)

    def mixture(self) -> Mixture | None:
        """The experts, known by the templates that they began as, and their gate weights."""
        if not self.evaluated:
            return None
        weights = torch.cat([weights for weights, _ in self.evaluated]).cpu()
        names = [group[0] for group in self.groups] if self._groups_are_own() else [""] * weights.shape[1]
        return Mixture(names, weights, named_by="began as")

    def _groups_are_own(self) -> bool:
        """Whether the weights are of this config's groups; False where nothing tells."""
        if self.loaded_from is None:
            return self.model.prompt_learner.layout.tolist() == self.layout
        try:
            theirs = run_folder.read_config(self.loaded_from["model_dir"])
        except UserError:
            return False
        options = self.options
        ours = {"TRAINER.MOCOOP.GROUPS": options.GROUPS}
        if options.GROUPS == "auto":  # and what those follow from
            ours["TRAINER.MOCOOP.N_GROUPS"] = options.N_GROUPS
            ours["TRAINER.MOCOOP.TEMPLATES"] = list(options.TEMPLATES)
            ours |= {"DATASET.NAME": self.cfg.DATASET.NAME, "MODEL.BACKBONE.NAME": self.cfg.MODEL.BACKBONE.NAME}
        return all(theirs.get(key) == value for key, value in ours.items())

    def extra_metrics(self) -> dict[str, Any]:
        """Of the evaluated images: the share that chose each expert (sums to TOP_K), each expert's mean gate weight,
        and what `routing` tells; and what the experts began as, where that is known.
        """
        found = self.mixture()
        if found is None:
            return {}
        shares = {"expert_usage": (found.weights > 0).float(), "expert_weight": found.weights}
        metrics = {name: [round(x, 6) for x in share.mean(dim=0).tolist()] for name, share in shares.items()}
        if self.labels:
            bits = torch.cat([bits for _, bits in self.evaluated]).cpu()
            metrics |= routing(bits, found.weights, self.labels)
        return metrics | ({"expert_names": found.names} if any(found.names) else {})


def _auto_templates(cfg: CN) -> list[str]:
    return list(cfg.TRAINER.MOCOOP.TEMPLATES) or all_templates(cfg.DATASET.NAME)
