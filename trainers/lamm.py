"""LAMM: learned vectors per class in place of its name (Gao et al., AAAI 2024, arXiv 2312.08212).

The prompt of class i is "a photo of a <M_i>." or has CoOp's or MaPLe's context in place of the words (BASE); with BASE
clip the M_i are all that is learned. On attribute-object pairs the seen ones have vectors, the unseen ones use their
names. A hierarchical loss keeps the vectors near the names they came from, in the space of parameters, of features and
of logits, where h_i is the text feature of the prompt with the whole name:

    L = L_ce + WC_WEIGHT * L_wc + COS_WEIGHT * L_cos + KD_WEIGHT * L_kd

Two forms (FORM):

    released  K vectors replace the first K tokens of a name, K the token count of the run's shortest name, 1 with BASE
              maple; they start as those tokens' embeddings, and the rest of the name stays. L_wc = sum over classes,
              tokens and entries of (M - start)^2; L_cos = mean over the batch's images of 1 - cos(t_y, h_y), 0 if all
              are of one class; L_kd = -T^2 mean over images of sum_c p_c log q_c, T = 2, p the student's softmax with
              its gradient, q that of h. h has the current context, and with BASE maple the prompted images: L_kd
              trains them through h as well, L_cos does not.
    paper     one vector, from the mean of the name's token embeddings, replaces the name. L_wc = mean over classes of
              |M_i - start_i|^2; L_cos = mean over all classes; L_kd = KL(q || p), T = 1. h is zero-shot CLIP's. The
              means and the temperature are ours.

The release multiplies L_wc by 1 / --shots, which its few-shot scripts leave at 1 and those of the two halves set to 16:
WC_WEIGHT is that factor. Differences from it: K is each class's own, so runs of different K merge; with BASE maple
--eval-only takes the class vectors, which the release drops on loading.

Vectors belong to class names, so those of several runs merge: a class without a vector is represented by its name, and
vectors that MODEL.INIT_WEIGHTS brings are kept in this run's checkpoints (continual learning). Those of separately
trained runs merge as dicts do, with BASE clip (with the others each run learns a context of its own):

    from dassl.utils import load_checkpoint  # on the CPU, wherever the runs computed
    base, new = (load_checkpoint(f"{run}/prompt_learner/model.pth.tar-50") for run in ("base", "new"))
    torch.save(base["state_dict"] | new["state_dict"], "both.pth.tar")

and are evaluated with --eval-only MODEL.INIT_WEIGHTS both.pth.tar.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY
from dassl.layout import PROMPT_LEARNER
from dassl.utils import UserError, load_weights, processes
from prompting.context import check_context, initial_context
from prompting.deep_prompts import CoupledPrompts, check_deep_context
from prompting.epochs import FrozenEncoder
from prompting.losses import distillation_loss, student_loss
from prompting.named_vectors import NamedVectors, names_in
from prompting.prompted_clip import DeepPromptedCLIP, PromptedCLIP
from prompting.prompts import Prompts, sequence, soft
from prompting.templates import check_templates
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

logger = logging.getLogger("dassl.trainers")

BASES = ("clip", "coop", "maple")
FORMS: dict[str, dict[str, Any]] = {
    "released": {
        "TEMPLATE": "a photo of a {}.",
        "NAME": "first",
        "WC": "sum",
        "COS": "batch",
        "KD_TARGET": "student",
        "KD_TEMPERATURE": 2.0,
        "TEACHER": "context",
    },
    "paper": {
        "TEMPLATE": "a photo of {}.",
        "NAME": "whole",
        "WC": "mean",
        "COS": "classes",
        "KD_TARGET": "teacher",
        "KD_TEMPERATURE": 1.0,
        "TEACHER": "clip",
    },
}
CHOICES = ("NAME", "WC", "COS", "KD_TARGET", "TEACHER")
"""Keys that are one form's word or the other's."""

VECTORS, MAPLE = "vectors.", "maple."
"""What the state dict's keys begin with: of class vectors (the class's name follows), of MaPLe's prompts."""


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.LAMM = CN()
    cfg.TRAINER.LAMM.PREC = "fp16"  # fp16, fp32, amp, bf16
    # clip: the template's words before the class; coop: learned context vectors; maple: prompts as TRAINER.MAPLE says
    cfg.TRAINER.LAMM.BASE = "clip"
    cfg.TRAINER.LAMM.FORM = "released"  # released or paper; says what the keys that are None are
    cfg.TRAINER.LAMM.TEMPLATE = None  # {}: where the class's vectors stand; also zero-shot CLIP's prompt
    cfg.TRAINER.LAMM.NAME = None  # what vectors replace: first (tokens of the name) or whole
    cfg.TRAINER.LAMM.N_CTX = 16  # BASE coop: number of context vectors
    cfg.TRAINER.LAMM.CTX_INIT = ""  # BASE coop: words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.LAMM.WC_WEIGHT = 1.0  # weight of L_wc, which holds vectors near those that they started from
    cfg.TRAINER.LAMM.WC = None  # L_wc is a sum over classes, or their mean
    cfg.TRAINER.LAMM.COS_WEIGHT = 1.0  # weight of L_cos, which holds text features near h
    cfg.TRAINER.LAMM.COS = None  # L_cos is over the images of the batch, or over all classes
    cfg.TRAINER.LAMM.KD_WEIGHT = 0.05  # weight of L_kd, the distillation of predictions with h
    cfg.TRAINER.LAMM.KD_TARGET = None  # whose predictions are L_kd's target: student or teacher
    cfg.TRAINER.LAMM.KD_TEMPERATURE = None  # divides both models' logits
    cfg.TRAINER.LAMM.TEACHER = None  # what h is of: context (the current one) or clip (zero-shot CLIP)
    # what MODEL.INIT_WEIGHTS brings stays as it is: its classes' vectors, and the context that they were learned with
    cfg.TRAINER.LAMM.FREEZE_EARLIER = True


def plain(name: str) -> str:
    """A class's name as vectors are kept under: underscores count as spaces."""
    return name.replace("_", " ")


def initial_vectors(
    options: CN, names: Iterable[str], text_encoder: TextEncoder, lengths: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """{name: what its vectors start from}, (d,) with NAME whole, else (K, d).

    Args:
        options: NAME and BASE, as in cfg.TRAINER.LAMM.
        names: of the run's classes.
        text_encoder: for its token embeddings.
        lengths: {name: K} where it is not the run's.

    Raises:
        UserError: a name has no word to start from.
    """
    embedding = text_encoder.token_embedding.weight.detach()
    found = {name: embedding[text_encoder.tokenizer.encode(name, first=False)].float() for name in names}
    for name, tokens in found.items():
        if not len(tokens):
            raise UserError(f'the class name "{name}" holds no word: LAMM has nothing to start its vector from')
    if options.NAME == "whole":
        return {name: tokens.mean(dim=0) for name, tokens in found.items()}
    shortest = 1 if options.BASE == "maple" else min(map(len, found.values()), default=1)
    return {name: tokens[: lengths.get(name, shortest)] for name, tokens in found.items()}


class PromptLearner(nn.Module):
    """N prompts of words or context vectors, the class's vectors, what they leave of its name, and the template's rest.

    Args:
        options: cfg.TRAINER.LAMM with what its FORM says.
        classnames: N class names; classes of the same name share their vectors.
        text_encoder: for its token embeddings.
        learned, kept: {name: vectors} of classes, of N or not, as `initial_vectors` gives them; see NamedVectors.
        maple: with BASE maple.

    Attributes:
        vectors: the NamedVectors.
        ctx: (n_ctx, d) context vectors; None but with BASE coop.
        initial: (T, d), what the learned vectors start from.
    """

    def __init__(
        self,
        options: CN,
        classnames: Sequence[str],
        text_encoder: TextEncoder,
        learned: Mapping[str, torch.Tensor],
        kept: Mapping[str, torch.Tensor],
        maple: CoupledPrompts | None = None,
    ) -> None:
        super().__init__()
        embedding = text_encoder.token_embedding.weight
        self.vectors = NamedVectors(learned, kept, embedding.shape[1], embedding.device)
        self.register_buffer("initial", self.vectors.learned.detach().clone(), persistent=False)

        before, _, after = options.TEMPLATE.partition("{}")
        words: str | list[int] = before
        self.ctx = None
        self.maple: Any = maple
        if options.BASE == "coop":
            self.ctx = nn.Parameter(initial_context(options, text_encoder))
            words = soft(range(len(self.ctx)))
        elif maple is not None:
            words = maple.words
        n_ctx, encode = len(self.context()), text_encoder.tokenizer.encode

        def prompts(rows: Mapping[str, range]) -> Prompts:
            sequences = []
            for name in map(plain, classnames):
                own = soft(n_ctx + row for row in rows.get(name, ()))
                whole = bool(own) and options.NAME == "whole"
                rest = encode(after, first=False) if whole else encode(name + after, first=False)[len(own) :]
                sequences.append(sequence(words, own, rest))
            return Prompts(text_encoder, [sequences], classnames)

        self.prompts = prompts(self.vectors.rows)
        self.of_names = prompts({}) if options.TEACHER == "context" and n_ctx else None

    def context(self) -> torch.Tensor:
        """(n_ctx, d) context vectors before the class, none with BASE clip."""
        if self.maple is not None:
            return self.maple.ctx
        return self.vectors.kept[:0] if self.ctx is None else self.ctx

    def forward(self, names: bool = False) -> tuple:
        """The text encoder's arguments for one row of N prompts; `names`: of h's, which TEACHER context has."""
        prompts: Any = self.of_names if names else self.prompts
        arguments = prompts(torch.cat([self.context(), self.vectors()]))
        return arguments if self.maple is None else (*arguments, self.maple.compound_prompts_text)

    def vision_prompts(self) -> list[torch.Tensor]:
        return self.maple.vision_prompts()


def feature_loss(
    text_features: torch.Tensor, frozen_features: torch.Tensor, labels: torch.Tensor | None = None
) -> torch.Tensor:
    """L_cos: one minus the cosine of a class's text feature and its name's; no gradient reaches the latter.

    Args:
        text_features, frozen_features: (N, e), both normalised.
        labels: (B,) of a batch, for the mean over its images, which is 0 where all are of one class; None: the mean
            over classes.
    """
    distances = 1 - (text_features * frozen_features.detach()).sum(dim=-1)
    if labels is None:
        return distances.mean()
    return distances[labels].mean() * (labels != labels[0]).any()


def base_of(state_dict: Mapping[str, torch.Tensor]) -> str:
    """The BASE that a state dict was trained with."""
    if any(key.startswith(MAPLE) for key in state_dict):
        return "maple"
    return "coop" if "ctx" in state_dict else "clip"


def vectors_in(state_dict: Mapping[str, torch.Tensor], options: CN, width: int, source: object) -> dict:
    """{name: zeros, (d,) or (K, d)} for the class vectors that a state dict holds to be loaded into; d is `width`.

    Raises:
        UserError: they do not stand for what NAME says; source is where they come from.
    """
    found = {name: state_dict[VECTORS + name] for name in names_in(state_dict, VECTORS)}
    for name, value in found.items():
        if (value.dim() == 1) != (options.NAME == "whole"):
            kind, form = ("its whole name", "paper") if value.dim() == 1 else ("its name's first tokens", "released")
            raise UserError(
                f'what {source} holds of the class "{name}" stands for {kind}, but TRAINER.LAMM.NAME is '
                f"{options.NAME} here: set TRAINER.LAMM.FORM {form}"
            )
    return {name: torch.zeros(*value.shape[:-1], width) for name, value in found.items()}


def _check_earlier(earlier, own, path):
    """Raises UserError where class vectors would come into another context than theirs, or do not fit the backbone."""
    # load_pretrained_weights passes over what does not fit; but vectors mean nothing without their context.
    bases = [base_of(state_dict) for state_dict in (earlier, own)]
    if bases[0] != bases[1]:
        raise UserError(
            f"{path} (MODEL.INIT_WEIGHTS) was trained with TRAINER.LAMM.BASE {bases[0]}, but here it is {bases[1]}"
        )
    depths = [1 + sum(f"{MAPLE}compound_prompts_text." in key for key in state_dict) for state_dict in (earlier, own)]
    if depths[0] != depths[1]:
        raise UserError(
            f"{path} (MODEL.INIT_WEIGHTS) holds prompts of {depths[0]} layers, but here they have {depths[1]}: "
            "set TRAINER.MAPLE.PROMPT_DEPTH as it was"
        )
    for key in [key for key in own if key in earlier]:
        shapes = tuple(earlier[key].shape), tuple(own[key].shape)
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path} (MODEL.INIT_WEIGHTS) holds {key} of size {shapes[0]}, but here it is {shapes[1]}: "
                "continue with the same backbone and number of context vectors"
            )


@TRAINER_REGISTRY.register()
class LAMM(PromptTrainer):
    """Label Alignment for Multi-Modal prompt learning: class vectors under a hierarchical loss."""

    section = "LAMM"
    forms = FORMS
    earlier_form = "paper"
    class_axes = {}
    other_learner = "vectors of other classes"

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        require(cfg, "TRAINER.LAMM.BASE", one_of=BASES)
        for key in CHOICES:
            if cfg.TRAINER.LAMM[key] is not None:
                require(cfg, f"TRAINER.LAMM.{key}", one_of=[form[key] for form in FORMS.values()])
        check_templates([self.options.TEMPLATE], "LAMM.TEMPLATE")
        if self.options.BASE == "coop":
            check_context(cfg, "LAMM")
        elif self.options.BASE == "maple":
            check_deep_context(cfg, "MAPLE", "N_CTX", "PROMPT_DEPTH")
        for key in ("WC_WEIGHT", "COS_WEIGHT", "KD_WEIGHT"):
            require(cfg, f"TRAINER.LAMM.{key}", at_least=0)
        if cfg.TRAINER.LAMM.KD_TEMPERATURE is not None:
            require(cfg, "TRAINER.LAMM.KD_TEMPERATURE", above=0)

    def learner(
        self,
        text_encoder: TextEncoder,
        visual: nn.Module,
        learned: Mapping[str, torch.Tensor],
        kept: Mapping[str, torch.Tensor],
    ) -> PromptLearner:
        maple = None
        if self.options.BASE == "maple":
            maple = CoupledPrompts(self.cfg.TRAINER.MAPLE, text_encoder, visual)
        return PromptLearner(self.options, self.dm.dataset.classnames, text_encoder, learned, kept, maple)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PromptedCLIP:
        options, path, weights = self.options, self.cfg.MODEL.INIT_WEIGHTS, {}
        if path:
            weights = load_weights(path)
        width = text_encoder.token_embedding.weight.shape[1]
        earlier = vectors_in(weights, options, width, f"{path} (MODEL.INIT_WEIGHTS)")
        ours = list(dict.fromkeys(map(plain, classnames[: self.num_seen])))  # unseen pairs go by their names
        lengths = {name: len(value) for name, value in earlier.items()}
        start = initial_vectors(options, ours, text_encoder, lengths)
        kept = {n: value for n, value in earlier.items() if options.FREEZE_EARLIER or n not in ours}
        learned = {name: value for name, value in start.items() if name not in kept}
        learner = self.learner(text_encoder, clip_model.visual, learned, kept)
        if earlier:
            _check_earlier(weights, learner.state_dict(), path)
            logger.info("The vectors of %d classes come from %s, those of %d stay", len(earlier), path, len(kept))
            for key, parameter in learner.named_parameters():
                if options.FREEZE_EARLIER and not key.startswith(VECTORS):
                    parameter.requires_grad_(False)
        self.frozen_image_encoder = learner.maple is None
        return (PromptedCLIP if learner.maple is None else DeepPromptedCLIP)(clip_model, learner, text_encoder)

    def learner_for(self, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> PromptLearner | None:
        # Weights of other classes: each class with vectors there takes them, the rest go by their names.
        model, own = self.model, self.model.prompt_learner.vectors
        there = vectors_in(state_dict, self.options, own.learned.shape[1], source)
        if not there:
            raise UserError(f"the weights in {source} hold no class vectors: they are not LAMM's")
        if {n: v.shape for n, v in there.items()} == {n: v.shape for n, v in own.values().items()}:
            return None
        return self.learner(model.text_encoder, model.image_encoder, there, {})

    def vectors_among_words(self) -> list[tuple[str, torch.Tensor]]:
        found = super().vectors_among_words()
        for name, value in self.model.prompt_learner.vectors.values().items():
            vectors = value.reshape(-1, value.shape[-1])
            found += [(name if len(vectors) == 1 else f"{name}, {k}", v) for k, v in enumerate(vectors, start=1)]
        return found

    def before_train(self) -> None:
        if self._optims[PROMPT_LEARNER] is None:
            raise UserError(
                f"{self.cfg.MODEL.INIT_WEIGHTS} (MODEL.INIT_WEIGHTS) has a vector for every class here, so there is "
                "nothing to learn: set TRAINER.LAMM.FREEZE_EARLIER False to train them further"
            )
        super().before_train()
        self.frozen_features = self.zero_shot_features(self.options.TEMPLATE)

    def frozen_encoders(self) -> dict[str, FrozenEncoder]:
        encoders, of_names = super().frozen_encoders(), self.model.prompt_learner.of_names
        if not encoders and of_names is None and self.options.KD_WEIGHT > 0:
            encoders["zero_shot"] = self.zero_shot_encoder()
        return encoders

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        options, model = self.options, self.model
        image_features = model.prepared(inputs)
        text_features = model.encode_text()[: self.num_seen]
        logits = model.logits(image_features, text_features)
        loss, accuracy = self.cross_entropy(logits, labels)
        summary = {"loss_ce": loss.detach()}
        learner, frozen_features, frozen_images = model.prompt_learner, self.frozen_features, image_features
        if learner.of_names is not None:
            frozen_features = model.encode_prompts(True)[0][: self.num_seen]
        elif not self.frozen_image_encoder and options.KD_WEIGHT > 0:  # MaPLe's features are not zero-shot CLIP's
            frozen_images = model.prepare(self.features_by("zero_shot", inputs))

        def wc() -> torch.Tensor:
            value = (learner.vectors.learned - learner.initial).square().sum()
            return value / (1 if options.WC == "sum" else learner.vectors.n_learned)

        def cos() -> torch.Tensor:
            of = processes.gathered(labels) if options.COS == "batch" else None
            return feature_loss(text_features, frozen_features, of)

        def kd() -> torch.Tensor:
            frozen = model.logits(frozen_images, frozen_features)
            if options.KD_TARGET == "student":
                return student_loss(logits, frozen, options.KD_TEMPERATURE)
            return distillation_loss(logits, frozen.detach(), options.KD_TEMPERATURE)

        for term in (wc, cos, kd):
            if (weight := options[f"{term.__name__.upper()}_WEIGHT"]) > 0:
                loss = loss + weight * (value := term())
                summary[f"loss_{term.__name__}"] = value.detach()
        return loss, summary | accuracy
