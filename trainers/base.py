"""What trainers of prompts on a frozen CLIP have in common: precision, the training step, evaluation from caches.

A method adds a prompt learner (an nn.Module) and, where it needs more than cross-entropy, a `loss`.
"""

import logging
import math
from contextlib import nullcontext
from itertools import product
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import SequentialSampler

from dassl.data import DatasetWrapper
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import UserError, count_num_param, load_pretrained_weights, nearest
from prompting.backbone import load_backbone
from prompting.deep_prompts import encode_with_prompts
from prompting.image_features import cached_image_features, is_deterministic
from prompting.prompts import encode_templates, token_ids
from prompting.templates import custom_template
from prompting.text_encoder import TextEncoder

logger = logging.getLogger("dassl.trainers")

PRECISIONS = ("fp16", "fp32", "amp", "bf16")


def check_context(options, section):
    """Raises UserError where N_CTX and CTX_INIT of cfg.TRAINER.<section> make no context vector."""
    if options.CTX_INIT and not token_ids(options.CTX_INIT):
        raise UserError(f"TRAINER.{section}.CTX_INIT holds no word: give words, or leave it empty for N_CTX vectors")
    if not options.CTX_INIT and options.N_CTX < 1:
        raise UserError(f"TRAINER.{section}.N_CTX is {options.N_CTX}: give at least one context vector")


def initial_context(options, text_encoder, *copies):
    """The values that context vectors start from: the words of CTX_INIT, or noise for N_CTX of them.

    Returns:
        (*copies, n_ctx, d) float32 tensor.
    """
    embedding = text_encoder.token_embedding
    if options.CTX_INIT:
        ids = torch.tensor(token_ids(options.CTX_INIT), device=embedding.weight.device)
        ctx = embedding(ids).detach().float().expand(*copies, -1, -1).clone()
    else:
        ctx = nn.init.normal_(torch.empty(*copies, options.N_CTX, embedding.weight.shape[1]), std=0.02)
    text = options.CTX_INIT.replace("_", " ") or " ".join(["X"] * options.N_CTX)
    logger.info('Initial context: "%s"', text)
    logger.info("Number of context words (tokens): %d", ctx.shape[-2])
    return ctx


def check_deep_context(options, section, n_ctx, *counts):
    """Raises UserError where CTX_INIT of cfg.TRAINER.<section> is too short for its key `n_ctx`, or that or another
    of the keys `counts` is not positive.
    """
    for key in (n_ctx, *counts):
        if options[key] < 1:
            raise UserError(f"TRAINER.{section}.{key} is {options[key]}: give 1 or more")
    words = len(token_ids(options.CTX_INIT))
    if options.CTX_INIT and words < options[n_ctx]:
        raise UserError(
            f'TRAINER.{section}.CTX_INIT "{options.CTX_INIT}" has {words} tokens, {n_ctx} is {options[n_ctx]}: '
            "give as many words, or leave CTX_INIT empty for noise"
        )


def check_templates(templates, section):
    """Raises UserError where a template of cfg.TRAINER.<section> does not hold one {} for the class name."""
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise UserError(f"the template {template!r} of TRAINER.{section} must hold one {{}} for the class name")


def virtual_classes(dataset):
    """The names of a dataset's classes that this run has no images of (DATASET.SUBSAMPLE_CLASSES), in their order."""
    known, own = getattr(dataset, "all_classnames", ()), set(dataset.classnames)
    return [name for name in known if name not in own]


def distillation_loss(logits, zero_shot_logits, temperature):
    """KL(softmax(z_0 / temperature) || softmax(z / temperature)), the mean over images; (B, N) twice -> scalar.

    z_0 are zero-shot CLIP's logits, z the learned prompts'.
    """
    target = F.log_softmax(zero_shot_logits / temperature, dim=-1)
    return F.kl_div(F.log_softmax(logits / temperature, dim=-1), target, reduction="batchmean", log_target=True)


def text_loss(text_features, hard_features, logit_scale):
    """Grouped text-to-text cross-entropy: the mean over groups g and classes y of -log mean_i P_i(y | t_g).

    P_i(y | t_g) is the softmax over classes c of logit_scale * cos(t_g(y), h_i(c)), i over the group's templates
    (LASP, section 3.2 and 3.3; MoCoOp's semantically grouped text supervision).

    Args:
        text_features: (G, N, e), normalised, of each group's learned prompts.
        hard_features: G tensors (n_g, N, e), normalised, of each group's templates.
    """
    losses = []
    for soft_features, hard in zip(text_features, hard_features, strict=True):
        logits = logit_scale * torch.einsum("ye,ice->iyc", soft_features, hard)
        log_p = logits.diagonal(dim1=1, dim2=2) - logits.logsumexp(dim=-1)  # (n_g, N): log P_i(y | t_g(y))
        losses.append(math.log(len(hard)) - log_p.logsumexp(dim=0).mean())
    return torch.stack(losses).mean()


class PromptedCLIP(nn.Module):
    """A frozen CLIP whose text features come from a prompt learner.

    Args:
        clip_model: as `load_backbone` gives it.
        prompt_learner: an nn.Module; called without arguments it gives the text encoder's arguments. It may have an
            `offset`, (e,) or None: a learned vector added to all text features.
        text_encoder: the TextEncoder of clip_model.
    """

    def __init__(self, clip_model, prompt_learner, text_encoder):
        super().__init__()
        self.image_encoder = clip_model.visual
        self.text_encoder = text_encoder
        self.prompt_learner = prompt_learner
        self.dtype = clip_model.dtype
        self.register_buffer("logit_scale", clip_model.logit_scale.detach().float().exp())

    def encode_image(self, images):
        """(B, 3, H, W) images -> (B, e) image features, not normalised."""
        return self.image_encoder(images.to(self.dtype))

    def image_encoding(self):
        """`encode_image` for many batches: what does not depend on images is computed now."""
        return self.encode_image

    def encode_prompts(self, *args):
        """(B, N, e) normalised text features of what the prompt learner gives when called with `args`."""
        features = self.text_encoder(*self.prompt_learner(*args))
        offset = getattr(self.prompt_learner, "offset", None)
        return F.normalize((features if offset is None else features + offset).float(), dim=-1)

    def encode_text(self):
        """The text features that `logits` takes. Default: (N, e), normalised."""
        return self.encode_prompts()[0]

    def logits(self, image_features, text_features):
        """(B, e) normalised image features, text features -> (B, N) logits."""
        return self.logit_scale * image_features @ text_features.t()

    def forward(self, images):
        image_features = F.normalize(self.encode_image(images).float(), dim=-1)
        return self.logits(image_features, self.encode_text())


class DeepPromptedCLIP(PromptedCLIP):
    """A frozen CLIP with prompts in both towers; the learner's `vision_prompts()` are the image encoder's."""

    def encode_image(self, images):
        return self.image_encoding()(images)

    def image_encoding(self):
        prompts = self.prompt_learner.vision_prompts()
        return lambda images: encode_with_prompts(self.image_encoder, images.to(self.dtype), prompts)


class PromptTrainer(TrainerX):
    """Trains a prompt learner on a frozen CLIP.

    Attributes:
        section: the name of the method's config block, cfg.TRAINER.<section>; it may hold PREC.
        class_axes, new_classes_as_started: as SimpleTrainer has them; to be set where something is learned per class.
        frozen_image_encoder: whether image features are the same before and after training.
        layernorms: the image encoder's LayerNorms where they are trained too (`tune_layernorms`), else None.
    """

    section = None
    frozen_image_encoder = True
    layernorms = None

    def build_prompted_clip(self, clip_model, text_encoder, classnames):
        """The method's PromptedCLIP, its parameters in float32.

        Args:
            clip_model: as `load_backbone` gives it.
            text_encoder: the TextEncoder of clip_model.
            classnames: N class names in the order of the labels.
        """
        raise NotImplementedError

    def loss(self, images, labels):
        """(scalar loss, {name: number to log}) of images (B, 3, H, W) and labels (B,). Default: `cross_entropy`."""
        return self.cross_entropy(self.model(images), labels)

    def cross_entropy(self, logits, labels):
        """(scalar loss, {name: number to log}) of logits (B, N) and labels (B,).

        Of attribute-object pairs the seen ones alone count, which are the first: a softmax over the others would learn
        that they never occur.
        """
        logits = logits[:, : getattr(self.dm.dataset, "num_seen", None)]
        loss = F.cross_entropy(logits, labels)
        return loss, {"acc": compute_accuracy(logits, labels)[0].item()}

    def zero_shot_features(self, template=None):
        """(N, e) normalised text features of the classes in a hand-written template; default: the dataset's own."""
        template = template or custom_template(self.cfg.DATASET.NAME)
        features = encode_templates(self.model.text_encoder, [template], self.dm.dataset.classnames)[0]
        return F.normalize(features.float(), dim=-1)

    def tune_layernorms(self, clip_model, learner):
        """Train the image encoder's LayerNorms too, at a tenth of OPTIM.LR; the prompt learner saves and loads them.

        Raises:
            UserError: it has none, as ResNets do not.
        """
        self.layernorms = nn.ModuleList(m for m in clip_model.visual.modules() if isinstance(m, nn.LayerNorm))
        if not self.layernorms:
            raise UserError(
                f"TRAINER.{self.section}.TUNE_LAYERNORM: the image encoder of {self.cfg.MODEL.BACKBONE.NAME} has no "
                "LayerNorms; choose a ViT backbone, or set it False"
            )
        learner.layernorms = self.layernorms.requires_grad_(True)
        self.frozen_image_encoder = False

    def param_groups(self):
        """What build_optimizer is given for the prompt learner (None: all its parameters alike)."""
        if self.layernorms is None:
            return None
        tuned = {id(p) for p in self.layernorms.parameters()}
        rest = [p for p in self.model.prompt_learner.parameters() if id(p) not in tuned]
        return [{"params": rest}, {"params": list(self.layernorms.parameters()), "lr": 0.1 * self.cfg.OPTIM.LR}]

    def check_cfg(self, cfg):
        precision = cfg.TRAINER[self.section].get("PREC", "fp32") if self.section else "fp32"
        if precision not in PRECISIONS:
            raise UserError(f'unknown TRAINER.{self.section}.PREC "{precision}": {nearest(precision, PRECISIONS)}')
        self.precision = precision
        if cfg.INPUT.NO_TRANSFORM or cfg.DATALOADER.K_TRANSFORMS != 1:
            raise UserError(f"{cfg.TRAINER.NAME} takes one transformed image: INPUT.NO_TRANSFORM False, K_TRANSFORMS 1")

    def build_model(self):
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
        self.register_model("prompt_learner", learner, optim, sched)
        self._image_features = WeakKeyDictionary()  # loader -> features, for a frozen encoder

    def load_weights(self, name, state_dict, source):
        # CoOp's released checkpoints carry the frozen token embeddings of their own class names
        state_dict = {k: v for k, v in state_dict.items() if k not in ("token_prefix", "token_suffix")}
        super().load_weights(name, state_dict, source)

    # Training

    def autocast(self):
        return torch.autocast("cuda", dtype=torch.float16) if self.precision == "amp" else nullcontext()

    def forward_backward(self, batch):
        images, labels = self.parse_batch_train(batch)
        with self.autocast():
            loss, summary = self.loss(images, labels)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()} | summary

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def model_backward(self, loss):
        self.detect_anomaly(loss)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def clip_gradients(self):
        """Called between backward pass and step, with unscaled gradients."""

    def model_update(self, names=None):
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

    def run_state(self):
        return super().run_state() | ({} if self.scaler is None else {"scaler": self.scaler.state_dict()})

    def load_run_state(self, state):
        super().load_run_state(state)
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])

    def vectors_among_words(self):
        """[(label, (d,) vector), ...] of what is learned in the space of token embeddings, to be read by people.

        Default: the prompt learner's context vectors `ctx`, (n_ctx, d) or (G, n_ctx, d) of G prompts; with CSC the axis
        before n_ctx is that of the classes.
        """
        ctx = getattr(self.model.prompt_learner, "ctx", None)
        if ctx is None:
            return []
        axes = [range(1, n + 1) for n in ctx.shape[:-1]]
        if self.cfg.TRAINER[self.section].get("CSC", False):
            axes[-2] = self.dm.dataset.classnames
        labels = (", ".join(map(str, place)) for place in product(*axes))
        return list(zip(labels, ctx.flatten(0, -2), strict=True))

    # Evaluation

    @property
    def plain_inference(self):
        """Whether inference is the model's encode_image, encode_text and `logits`, with no hook of the engine's own."""
        hooks = ("model_inference", "parse_batch_test")
        return all(getattr(type(self), hook) is getattr(TrainerX, hook) for hook in hooks)

    @torch.no_grad()
    def predict(self, loader):
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
            chunk = F.normalize(chunk.to(self.device).float(), dim=-1)
            yield self.model.logits(chunk, text_features), label.to(self.device)

    @torch.no_grad()
    def image_features(self, loader):
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
