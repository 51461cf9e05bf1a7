"""What trainers of prompts on a frozen CLIP have in common: precision, the training step, evaluation from caches.

A method adds a prompt learner (an nn.Module) and, where it needs more than cross-entropy, a `loss`.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any
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
from dassl.utils import UserError, count_num_param, load_pretrained_weights, processes
from prompting.backbone import digest, load_backbone
from prompting.compiled import MODES, Loss, compiled
from prompting.epochs import Epochs, FrozenEncoder
from prompting.forms import Forms, with_form
from prompting.image_features import cached_image_features, is_deterministic
from prompting.mixture import Mixture
from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import encode_templates
from prompting.templates import custom_template
from prompting.text_encoder import TextEncoder

logger = logging.getLogger("dassl.trainers")

PRECISIONS = ("fp16", "fp32", "amp", "bf16")


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
        frozen_image_encoder: whether image features are the same before and after training; `loss` is then given them.
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
    other_learner = "a prompt learner of another shape"
    is_mixture = False
    model: Any
    dm: Any  # its dataset may have more than DatasetBase says, such as pairs

    _batch: Mapping[str, Any] = {}  # the one under way
    _compiled_loss: Loss | None = None
    _epochs: Epochs | None = None

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

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """The loss and numbers to log of a batch. Default: `cross_entropy`.

        Args:
            inputs: the model's `prepared` takes them. With a frozen image encoder what `encode_image` gives of the
                images, (B, e), computed once for all epochs and methods that see them; otherwise (B, 3, H, W) images.
            labels: (B,).
        """
        return self.cross_entropy(self.model(inputs), labels)

    def cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """The loss and numbers to log of logits (B, N), of which `num_seen` count, and labels (B,)."""
        logits = logits[:, : self.num_seen]
        return F.cross_entropy(logits, labels), {"acc": compute_accuracy(logits, labels)[0]}

    def virtual_classes(self) -> list[str]:
        """The names of classes of the dataset that this run (DATASET.SUBSAMPLE_CLASSES) does not have, in order."""
        dataset = self.dm.dataset
        known, own = getattr(dataset, "all_classnames", ()), set(dataset.classnames)
        return [name for name in known if name not in own]

    def zero_shot_features(self, template: str | None = None, text_encoder: TextEncoder | None = None) -> torch.Tensor:
        """(num_seen, e) normalised text features of a template, the dataset's own, by a text encoder, the model's."""
        template, encoder = template or custom_template(self.cfg.DATASET.NAME), text_encoder or self.model.text_encoder
        features = encode_templates(encoder, [template], self.dm.dataset.classnames[: self.num_seen])[0]
        return F.normalize(features.float(), dim=-1)

    def param_groups(self) -> list[dict[str, Any]] | None:
        """What build_optimizer is given for the prompt learner. Default, None: all its parameters alike."""
        return None

    def check_cfg(self, cfg: CfgNode) -> None:
        self.precision = "fp32"
        if self.section:
            self.options = with_form(cfg, self.section, self.forms)
        if self.section and "PREC" in cfg.TRAINER[self.section]:
            require(cfg, f"TRAINER.{self.section}.PREC", one_of=PRECISIONS)
            self.precision = cfg.TRAINER[self.section].PREC
        require(cfg, "TRAIN.COMPILE", one_of=MODES)
        require(cfg, "MODEL.BACKBONE.IMAGE_PREC", one_of=("", "fp32", "fp16", "bf16"))
        if "GRAD_CLIP" in self.options:
            self.require("GRAD_CLIP", at_least=0)
        if cfg.INPUT.NO_TRANSFORM or cfg.DATALOADER.K_TRANSFORMS != 1:
            raise UserError(f"{cfg.TRAINER.NAME} needs one view of an image: set NO_TRANSFORM False, K_TRANSFORMS 1")

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
        self.image_precision = options.IMAGE_PREC or self.precision
        clip_model = load_backbone(options.NAME, self.precision, self.device, options.FAMILY, self.image_precision)
        text_encoder = TextEncoder(clip_model)
        self.model = self.build_prompted_clip(clip_model, text_encoder, self.dm.dataset.classnames).to(self.device)
        if options.IMAGE_PREC and not self.frozen_image_encoder:
            raise UserError(
                f"MODEL.BACKBONE.IMAGE_PREC is for frozen image encoders, but {cfg.TRAINER.NAME} learns inside it: set "
                f"TRAINER.{self.section}.PREC instead"
            )
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
        learner = self.learner_for(state_dict, source) if name == PROMPT_LEARNER else None
        if learner is not None:
            self.adopt(learner)
            self.model.prompt_learner = self._models[name] = learner.to(self.device)
        super().load_weights(name, state_dict, source)

    def check_resumable(self, name: str, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> None:
        if name == PROMPT_LEARNER and self.learner_for(state_dict, source) is not None:
            raise MisfitError(f"the run in {source} has {self.other_learner} than this config's")

    def adopt(self, learner: nn.Module) -> None:
        """Called before a prompt learner of `learner_for` takes the place of the model's own."""

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
        self._epochs = None
        if mode := self.cfg.TRAIN.COMPILE:
            self._compiled_loss = compiled(self.loss, self.model.text_encoder, mode)

    def autocast(self, precision: str | None = None) -> AbstractContextManager:
        """What a step computes in; a part of another precision names it."""
        return torch.autocast("cuda", dtype=torch.float16) if (precision or self.precision) == "amp" else nullcontext()

    def frozen_encoders(self) -> dict[str, FrozenEncoder]:
        """Whose features a step takes, by name. `loss` is given "features"; others are asked for by `features_by`."""
        if not self.frozen_image_encoder:
            return {}
        if any(p.requires_grad for p in self.model.image_encoder.parameters()):
            raise UserError(f"{self.cfg.TRAINER.NAME} trains its image encoder: set its frozen_image_encoder False")
        return {"features": self._frozen(self.model.encode_image, self.model.encodes)}

    def zero_shot_encoder(self) -> FrozenEncoder:
        """The model's image encoder as zero-shot CLIP has it, where the model puts something learned into it."""
        return self._frozen(lambda images: self.model.image_encoder(images.to(self.model.dtype)))

    def _frozen(self, encode, encodes=""):
        @torch.no_grad()
        def without_gradient(images: torch.Tensor) -> torch.Tensor:
            with self.autocast(self.image_precision):
                return encode(images)

        return FrozenEncoder(without_gradient, self.model.image_encoder, self.image_precision, encodes)

    def features_by(self, name: str, images: torch.Tensor) -> torch.Tensor:
        """What one of `frozen_encoders` makes of the images under way; they are encoded where it is not known yet."""
        return self._batch[name] if name in self._batch else self.frozen_encoders()[name].encode(images)

    def training_batches(self) -> Any:
        """Batches with features of frozen encoders. A trainer with steps of its own gets those of the loader."""
        hooks = ("forward_backward", "parse_batch_train")
        if any(getattr(type(self), hook) is not getattr(PromptTrainer, hook) for hook in hooks):
            return super().training_batches()
        encoders, with_images = self.frozen_encoders(), not self.frozen_image_encoder
        self._epochs = self._epochs or Epochs(self.cfg, self.train_loader_x, encoders, self.device, with_images)
        return self._epochs.batches(self.epoch, encoders)

    def after_train(self) -> None:
        self._epochs = self._compiled_loss = None  # with the workers that load views
        super().after_train()

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, Any]:
        inputs, labels = self.parse_batch_train(batch)
        self._batch = batch
        with self.autocast():
            loss, summary = (self._compiled_loss or self.loss)(inputs, labels)
        self._batch = {}
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.detach()} | summary

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = batch["features" if "features" in batch else "img"]
        return inputs.to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    def model_backward(self, loss: torch.Tensor) -> None:
        self.detect_anomaly(loss)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        processes.average(self._models.values())

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

    def backbone_digest(self) -> str:
        return digest(self.cfg.MODEL.BACKBONE.NAME, self.cfg.MODEL.BACKBONE.FAMILY)

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
        in_order = type(dataset) is DatasetWrapper and isinstance(loader.sampler, SequentialSampler)
        if not (self.plain_inference and in_order):
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
            encode, encodes = self.model.image_encoding(), self.model.encodes
            precision = "fp32" if self.image_precision == "amp" else self.image_precision  # there is no autocast here
            features = cached_image_features(
                lambda images: encode(images.to(self.device)),
                self.model.image_encoder,
                loader,
                [item.impath for item in dataset.data_source],
                dataset.transform,
                f"{precision} {encodes}",
                enabled=keep and encodes is not None,
                limit_gb=self.cfg.FEATURES_LIMIT_GB,
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
