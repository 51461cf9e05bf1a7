"""What trainers of prompts on a frozen CLIP have in common: precision, the training step, evaluation from caches.

A method adds a prompt learner (an nn.Module) and, where it needs more than cross-entropy, a `loss`.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from yacs.config import CfgNode

from dassl.config import require
from dassl.data import DatasetWrapper
from dassl.engine import MisfitError, TrainerX
from dassl.layout import PROMPT_LEARNER
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import UserError, count_num_param, load_pretrained_weights
from prompting.backbone import load_backbone
from prompting.context import PromptLearner, check_context
from prompting.forms import Forms, with_form
from prompting.image_features import cached_image_features, is_deterministic
from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import encode_templates
from prompting.templates import custom_template
from prompting.text_encoder import TextEncoder

logger = logging.getLogger("dassl.trainers")

PRECISIONS = ("fp16", "fp32", "amp", "bf16")


class Mixture(NamedTuple):
    """What each image's answer is made of, where a method mixes the answers of several parts.

    Attributes:
        names: of the K parts; "" where nothing is known of one.
        weights: (n, K) on the CPU, of each part in each image's answer; 0 where a part has none in it.
        named_by: what the names say, as the head of a column.
    """

    names: list[str]
    weights: torch.Tensor
    named_by: str = "name"


class PromptTrainer(TrainerX):
    """Trains a prompt learner on a frozen CLIP.

    A method has to give `build_prompted_clip`. It may have a `loss` of its own, and it answers for itself where others
    ask what it is and what it has learned: see `learner_for`, `score`, `mixture`, `predict_classes`, `extra_metrics`,
    `vectors_among_words`.

    Attributes:
        section: the name of the method's config block, cfg.TRAINER.<section>; it may hold PREC and GRAD_CLIP.
        forms: the method's forms, as prompting/forms.py describes them; none where there is one only.
        earlier_form: the form of runs whose configs have no FORM; "": the default one.
        options: the config block with the keys that FORM decides; there from `check_cfg` on. Empty without a section.
        class_axes, new_classes_as_started: as SimpleTrainer has them; to be set where something is learned per class.
        frozen_image_encoder: whether image features are the same before and after training.
        layernorms: those LayerNorms of the image encoder that are trained too (`tune_layernorms`), else None.
        other_learner: what weights are of that `learner_for` made a prompt learner for, to be said of a run that
            cannot be resumed.
        is_mixture: whether `mixture` says what answers are made of.
        model: the method's PromptedCLIP.
    """

    section: str | None = None
    forms: Forms = {}
    earlier_form = ""
    options = CfgNode()
    frozen_image_encoder = True
    layernorms: nn.ModuleList | None = None
    other_learner = "a prompt learner of another shape"
    is_mixture = False
    model: Any
    dm: Any  # its dataset may have more than DatasetBase says, such as pairs

    _foreign = False  # whether the prompt learner is one that `learner_for` made

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PromptedCLIP:
        """The method's PromptedCLIP, its parameters in float32.

        Args:
            clip_model: as `load_backbone` gives it.
            text_encoder: the TextEncoder of clip_model.
            classnames: N class names in the order of the labels.
        """
        raise NotImplementedError

    @property
    def num_seen(self) -> int:
        """How many classes, the first ones, are trained on: the seen ones of attribute-object pairs, otherwise all.

        Every loss knows these alone. A softmax over unseen pairs would learn that they never occur; and the other
        losses leave them out as those of a base-to-new run leave out the new classes, so that what is learned does
        not depend on which pairs it is tried on. Only a method that takes names without images where it is told to
        (TEXT_CLASSES all) takes theirs, too.
        """
        return getattr(self.dm.dataset, "num_seen", self.num_classes)

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss and numbers to log of images (B, 3, H, W) and labels (B,). Default: `cross_entropy`."""
        return self.cross_entropy(self.model(images), labels)

    def cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss and numbers to log of logits (B, N), of which `num_seen` count, and labels (B,)."""
        logits = logits[:, : self.num_seen]
        loss = F.cross_entropy(logits, labels)
        return loss, {"acc": compute_accuracy(logits, labels)[0].item()}

    def virtual_classes(self) -> list[str]:
        """The names of classes of the dataset that this run (DATASET.SUBSAMPLE_CLASSES) does not have, in order."""
        dataset = self.dm.dataset
        known, own = getattr(dataset, "all_classnames", ()), set(dataset.classnames)
        return [name for name in known if name not in own]

    def zero_shot_features(self, template: str | None = None, text_encoder: TextEncoder | None = None) -> torch.Tensor:
        """(num_seen, e) normalised text features of a hand-written template, by default the dataset's own; by another
        text encoder than the model's, where one is given.
        """
        template, encoder = template or custom_template(self.cfg.DATASET.NAME), text_encoder or self.model.text_encoder
        features = encode_templates(encoder, [template], self.dm.dataset.classnames[: self.num_seen])[0]
        return F.normalize(features.float(), dim=-1)

    def tune_layernorms(self, clip_model: nn.Module, learner: nn.Module) -> None:
        """Train the LayerNorms of the image encoder's blocks too, at a tenth of OPTIM.LR, as LASP's release does; not
        ln_pre and ln_post. The prompt learner saves and loads them.

        Raises:
            UserError: it has none, as ResNets do not, or blocks of another kind.
        """
        modules = clip_model.visual.named_modules()
        self.layernorms = nn.ModuleList(m for name, m in modules if name.endswith((".ln_1", ".ln_2")))
        if not self.layernorms:
            raise UserError(
                f"TRAINER.{self.section}.TUNE_LAYERNORM: the image encoder of {self.cfg.MODEL.BACKBONE.NAME} has no "
                "LayerNorms of OpenAI's kind; choose a ViT backbone, or set it False"
            )
        learner.layernorms = self.layernorms.requires_grad_(True)
        self.frozen_image_encoder = False

    def param_groups(self) -> list[dict[str, Any]] | None:
        """What build_optimizer is given for the prompt learner (None: all its parameters alike)."""
        if self.layernorms is None:
            return None
        tuned = {id(p) for p in self.layernorms.parameters()}
        rest = [p for p in self.model.prompt_learner.parameters() if id(p) not in tuned]
        return [{"params": rest}, {"params": list(self.layernorms.parameters()), "lr": 0.1 * self.cfg.OPTIM.LR}]

    def check_cfg(self, cfg: CfgNode) -> None:
        self.precision = "fp32"
        if self.section:
            self.options = with_form(cfg, self.section, self.forms)
        if self.section and "PREC" in cfg.TRAINER[self.section]:
            require(cfg, f"TRAINER.{self.section}.PREC", one_of=PRECISIONS)
            self.precision = cfg.TRAINER[self.section].PREC
        if "GRAD_CLIP" in self.options:
            self.require("GRAD_CLIP", at_least=0)
        if cfg.INPUT.NO_TRANSFORM or cfg.DATALOADER.K_TRANSFORMS != 1:
            raise UserError(f"{cfg.TRAINER.NAME} takes one transformed image: INPUT.NO_TRANSFORM False, K_TRANSFORMS 1")

    def require(self, key: str, **limits: Any) -> None:
        """`dassl.config.require` of a key of `options`, with what FORM decides."""
        require(CfgNode({"TRAINER": {self.section: self.options}}), f"TRAINER.{self.section}.{key}", **limits)

    def build_model(self) -> None:
        cfg = self.cfg
        if self.device.type == "cpu" and self.precision in ("fp16", "amp"):
            logger.info("PREC %s is meant for GPUs: computing in fp32 on the CPU", self.precision)
            self.precision = "fp32"
        logger.info("Loading CLIP (backbone: %s)", cfg.MODEL.BACKBONE.NAME)
        options = cfg.MODEL.BACKBONE
        clip_model = load_backbone(options.NAME, self.precision, self.device, options.FAMILY)
        text_encoder = TextEncoder(clip_model)
        self.model = self.build_prompted_clip(clip_model, text_encoder, self.dm.dataset.classnames).to(self.device)
        learner = self.model.prompt_learner
        if cfg.MODEL.INIT_WEIGHTS:
            path = cfg.MODEL.INIT_WEIGHTS
            load_pretrained_weights(learner, path, lambda weights: self.for_own_classes(learner, weights, path))
        self.scaler = torch.amp.GradScaler("cuda") if self.precision == "amp" else None
        optim = sched = None
        if any(p.requires_grad for p in learner.parameters()):
            logger.info("# learnable params: %s", f"{count_num_param(learner):,}")
            optim = build_optimizer(learner, cfg.OPTIM, self.param_groups())
            sched = build_lr_scheduler(optim, cfg.OPTIM)
        self.register_model(PROMPT_LEARNER, learner, optim, sched)
        self._image_features: WeakKeyDictionary = WeakKeyDictionary()  # loader -> features, for a frozen encoder

    def load_weights(self, name: str, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> None:
        # CoOp's released checkpoints carry the frozen token embeddings of their own class names
        state_dict = {k: v for k, v in state_dict.items() if k not in ("token_prefix", "token_suffix")}
        tuned = "TUNE_LAYERNORM" in self.options and any(key.startswith("layernorms.") for key in state_dict)
        if tuned and self.layernorms is None:
            raise MisfitError(
                f"the weights in {source} were learned with the image encoder's LayerNorms: set "
                f"TRAINER.{self.section}.TUNE_LAYERNORM True, as it was"
            )
        learner = self.learner_for(state_dict, source) if name == PROMPT_LEARNER else None
        if learner is not None:
            if self.layernorms is not None:
                learner.layernorms = self.layernorms
            self.model.prompt_learner = self._models[name] = learner.to(self.device)
            self._foreign = True
        super().load_weights(name, state_dict, source)

    def learner_for(self, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> nn.Module | None:
        """A prompt learner that takes these weights, where the model's own has another shape; it cannot be trained.

        Called before weights are loaded. To be given where what is learned has a shape that depends on the data set
        and weights are to serve others. Default: None, the model's own takes them or they do not fit.

        Args:
            source: where the weights come from, for messages.

        Raises:
            UserError: they are not the method's.
        """
        return None

    # Training

    def before_train(self) -> None:
        super().before_train()
        if self._foreign:
            raise UserError(f"the run to resume has {self.other_learner} than this config's")

    def autocast(self) -> AbstractContextManager:
        return torch.autocast("cuda", dtype=torch.float16) if self.precision == "amp" else nullcontext()

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        images, labels = self.parse_batch_train(batch)
        with self.autocast():
            loss, summary = self.loss(images, labels)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()} | summary

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def model_backward(self, loss: torch.Tensor) -> None:
        self.detect_anomaly(loss)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def clip_gradients(self) -> None:
        """Called between backward pass and step, with unscaled gradients: their norm is made at most GRAD_CLIP.

        Without that key, or where it is 0, there is no limit.
        """
        if limit := self.options.get("GRAD_CLIP", 0):
            nn.utils.clip_grad_norm_(self.model.prompt_learner.parameters(), limit)

    def model_update(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            optim = self._optims[name]
            if self.scaler is None:
                self.clip_gradients()
                optim.step()
            else:
                self.scaler.unscale_(optim)
                self.clip_gradients()
                self.scaler.step(optim)
                self.scaler.update()

    def run_state(self) -> dict[str, Any]:
        return super().run_state() | ({} if self.scaler is None else {"scaler": self.scaler.state_dict()})

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        super().load_run_state(state)
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])

    # Evaluation

    @property
    def plain_inference(self) -> bool:
        """Whether inference is the model's encode_image, encode_text and `logits`, with no hook of the engine's own."""
        hooks = ("model_inference", "parse_batch_test")
        return all(getattr(type(self), hook) is getattr(PromptTrainer, hook) for hook in hooks)

    def score(self, image_features: torch.Tensor, text_features: Any) -> torch.Tensor:
        """The model's `logits` of a batch under evaluation.

        To be overridden where an evaluation is to keep more of its images than their logits, as for `mixture`.
        """
        return self.model.logits(image_features, text_features)

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        features = self.model.prepare(self.model.encode_image(input))
        return self.score(features, self.model.encode_text())

    @torch.no_grad()
    def predict(self, loader: DataLoader) -> Iterator[tuple[Any, torch.Tensor]]:
        """Text features once for the whole evaluation, image features from the cache where the encoder is frozen.

        A trainer that overrides `model_inference` or `parse_batch_test`, or a loader that is not in the order of its
        data, is evaluated batch by batch as the engine does it.
        """
        dataset = loader.dataset
        if (
            not self.plain_inference
            or type(dataset) is not DatasetWrapper
            or not isinstance(loader.sampler, SequentialSampler)
        ):
            yield from super().predict(loader)
            return
        text_features = self.model.encode_text()
        features = self.image_features(loader)
        labels = torch.tensor([item.label for item in dataset.data_source])
        size = loader.batch_size
        for chunk, label in zip(features.split(size), labels.split(size), strict=True):
            chunk = self.model.prepare(chunk.to(self.device))
            yield self.score(chunk, text_features), label.to(self.device)

    def predict_classes(self, loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (logits (B, N), labels (B,)) for every batch, N the dataset's own classes. Default: `predict`.

        To be given where `predict` yields anything else, such as answers among more classes.
        """
        return self.predict(loader)

    @torch.no_grad()
    def image_features(self, loader: DataLoader) -> torch.Tensor:
        """(n, e) image features, not normalised, of a loader in the order of its data; on the CPU, cached."""
        dataset = loader.dataset
        features = self._image_features.get(loader)
        if features is None:
            keep = self.cfg.TEST.FEATURE_CACHE and self.frozen_image_encoder and is_deterministic(dataset.transform)
            encode = self.model.image_encoding()
            features = cached_image_features(
                lambda images: encode(images.to(self.device)),
                self.model.image_encoder,
                loader,
                [item.impath for item in dataset.data_source],
                dataset.transform,
                self.precision,
                enabled=keep,
            )
            if keep:
                self._image_features[loader] = features
        return features

    # What others ask of a method

    def vectors_among_words(self) -> list[tuple[str, torch.Tensor]]:
        """(label, (d,) vector) of each that is learned in the space of token embeddings, to be read by people.

        Default: the prompt learner's context vectors `ctx`, (n_ctx, d) or (G, n_ctx, d) of G prompts; with CSC the axis
        before n_ctx is that of the classes.
        """
        ctx = getattr(self.model.prompt_learner, "ctx", None)
        if ctx is None:
            return []
        axes: list[Any] = [range(1, n + 1) for n in ctx.shape[:-1]]
        if self.cfg.TRAINER[self.section].get("CSC", False):
            axes[-2] = self.dm.dataset.classnames
        labels = (", ".join(map(str, place)) for place in product(*axes))
        return list(zip(labels, ctx.flatten(0, -2), strict=True))

    def mixture(self) -> Mixture | None:
        """What the answers of the images evaluated last are made of, in their order.

        To be given, with `is_mixture`, where a method mixes parts under weights of each image's own; `score` sees
        every batch. Default: None, there are no parts. None too where there was no evaluation.
        """
        return None


class ContextTrainer(PromptTrainer):
    """Trains CoOp's prompts, as the block `section` describes their context vectors (prompting/context.py)."""

    section: str

    @property
    def class_axes(self) -> dict[str, int]:  # type: ignore[override]
        return {"ctx": 0} if self.cfg.TRAINER[self.section].CSC else {}

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        check_context(cfg, self.section)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PromptedCLIP:
        learner = PromptLearner(self.cfg.TRAINER[self.section], classnames, text_encoder)
        return PromptedCLIP(clip_model, learner, text_encoder)
