"""LAMM: a learned vector per class in place of its name (Gao et al., AAAI 2024, arXiv 2312.08212).

The prompt of class i is "a photo of <M_i>.", M_i one vector that starts as the mean of the token embeddings of the
class's name; all else is frozen. On attribute-object pairs the seen ones have a vector, the unseen ones use their
names. A hierarchical loss keeps the vectors near the names they came from, in the space of parameters, of features and
of logits:

    L = L_ce + WC_WEIGHT * L_wc + COS_WEIGHT * L_cos + KD_WEIGHT * L_kd

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
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY
from dassl.layout import PROMPT_LEARNER
from dassl.utils import UserError, load_checkpoint
from prompting.context import check_context, initial_context
from prompting.deep_prompts import CoupledPrompts, check_deep_context
from prompting.losses import distillation_loss
from prompting.named_vectors import NamedVectors, names_in
from prompting.prompted_clip import DeepPromptedCLIP, PromptedCLIP
from prompting.prompts import Prompts, sequence, soft
from prompting.templates import check_templates
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

logger = logging.getLogger("dassl.trainers")

BASES = ("clip", "coop", "maple")
VECTORS, MAPLE = "vectors.", "maple."
"""What the state dict's keys begin with: of class vectors (the class's name follows), of MaPLe's prompts."""


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.LAMM = CN()
    cfg.TRAINER.LAMM.PREC = "fp16"  # fp16, fp32, amp, bf16
    # clip: the template's words before the class; coop: learned context vectors; maple: prompts as TRAINER.MAPLE says
    cfg.TRAINER.LAMM.BASE = "clip"
    cfg.TRAINER.LAMM.TEMPLATE = "a photo of {}."  # {}: where the class's vector stands; also zero-shot CLIP's prompt
    cfg.TRAINER.LAMM.N_CTX = 16  # BASE coop: number of context vectors
    cfg.TRAINER.LAMM.CTX_INIT = ""  # BASE coop: words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.LAMM.WC_WEIGHT = 1.0
    cfg.TRAINER.LAMM.COS_WEIGHT = 1.0
    cfg.TRAINER.LAMM.KD_WEIGHT = 0.05
    cfg.TRAINER.LAMM.KD_TEMPERATURE = 1.0  # divides both models' logits
    # What MODEL.INIT_WEIGHTS brings stays as it is: its classes' vectors, and the context that they were learned with.
    cfg.TRAINER.LAMM.FREEZE_EARLIER = True


def plain(name: str) -> str:
    """A class's name as vectors are kept under: underscores count as spaces."""
    return name.replace("_", " ")


class PromptLearner(nn.Module):
    """N prompts of words or context vectors, the class's vector or else its name, and the template's rest.

    Args:
        cfg: the whole config; reads TRAINER.LAMM and, with BASE maple, TRAINER.MAPLE.
        classnames: N class names; classes of the same name share a vector.
        text_encoder: for its token embeddings.
        learned, kept: names of classes with a vector (see NamedVectors), of N or not.
        visual: the image encoder, of which BASE maple needs the shape.

    Attributes:
        vectors: the NamedVectors.
        ctx: (n_ctx, d) context vectors; None but with BASE coop.
        maple: the CoupledPrompts; None but with BASE maple.
        initial: (T, d), what the learned vectors start from; zero for classes not of the N.

    Raises:
        UserError: a class's name has no word to start from; BASE maple with a ResNet.
    """

    def __init__(
        self,
        cfg: CN,
        classnames: Sequence[str],
        text_encoder: TextEncoder,
        learned: Iterable[str],
        kept: Sequence[str] = (),
        visual: nn.Module | None = None,
    ) -> None:
        super().__init__()
        maple, cfg = cfg.TRAINER.MAPLE, cfg.TRAINER.LAMM
        embedding = text_encoder.token_embedding
        width, device = embedding.weight.shape[1], embedding.weight.device

        def embed(text):
            return (
                embedding(torch.tensor(text_encoder.tokenizer.encode(text, first=False), device=device))
                .detach()
                .float()
            )

        start = {name: torch.zeros(width, device=device) for name in learned}
        for name in start.keys() & {plain(name) for name in classnames}:
            if not text_encoder.tokenizer.encode(name):
                raise UserError(f'the class name "{name}" holds no word: LAMM has nothing to start its vector from')
            start[name] = embed(name).mean(dim=0)
        self.vectors = NamedVectors(start, kept, width, device)
        self.register_buffer("initial", self.vectors.learned.detach().clone(), persistent=False)

        before, _, after = cfg.TEMPLATE.partition("{}")
        words = before
        self.ctx = None
        self.maple: Any = None
        if cfg.BASE == "coop":
            self.ctx = nn.Parameter(initial_context(cfg, text_encoder))
            words = soft(range(len(self.ctx)))
        elif cfg.BASE == "maple":
            self.maple = CoupledPrompts(maple, text_encoder, visual)
            words = self.maple.words

        n_ctx = len(self.context())
        row_of = {name: n_ctx + k for k, name in enumerate(self.vectors.names)}
        sequences = []
        for name in map(plain, classnames):
            parts = ([soft(row_of[name])], after) if name in row_of else (name + after,)
            sequences.append(sequence(words, *parts))
        self.prompts = Prompts(text_encoder, [sequences], classnames)

    def context(self) -> torch.Tensor:
        """(n_ctx, d) context vectors before the class, none with BASE clip."""
        if self.maple is not None:
            return self.maple.ctx
        return self.vectors.kept[:0] if self.ctx is None else self.ctx

    def forward(self) -> tuple:
        """The text encoder's arguments for one row of N prompts."""
        arguments = self.prompts(torch.cat([self.context(), self.vectors()]))
        return arguments if self.maple is None else (*arguments, self.maple.compound_prompts_text)

    def vision_prompts(self) -> list[torch.Tensor]:
        return self.maple.vision_prompts()


def parameter_loss(vectors: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """L_wc: the squared distance |M_i - initial_i|^2, the mean over classes; (T, d), (T, d) -> scalar."""
    return (vectors - initial).square().sum(dim=-1).mean()


def feature_loss(text_features: torch.Tensor, frozen_features: torch.Tensor) -> torch.Tensor:
    """L_cos: one minus the cosine of each class's text feature and its name's, the mean over classes.

    (N, e), (N, e), both normalised -> scalar.
    """
    return 1 - (text_features * frozen_features).sum(dim=-1).mean()


def base_of(state_dict: Mapping[str, torch.Tensor]) -> str:
    """The BASE that a state dict was trained with."""
    if any(key.startswith(MAPLE) for key in state_dict):
        return "maple"
    return "coop" if "ctx" in state_dict else "clip"


def vector_names(state_dict: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of the classes that a state dict holds vectors of."""
    return names_in(state_dict, VECTORS)


def _check_earlier(earlier, own, path):
    """Raises UserError where class vectors would come into another context than theirs, or do not fit the backbone.

    load_pretrained_weights passes over what does not fit; but vectors mean nothing without their context.
    """
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
    class_axes = {}
    other_learner = "vectors of other classes"

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        options = cfg.TRAINER.LAMM
        require(cfg, "TRAINER.LAMM.BASE", one_of=BASES)
        check_templates([options.TEMPLATE], "LAMM.TEMPLATE")
        if options.BASE == "coop":
            check_context(cfg, "LAMM")
        elif options.BASE == "maple":
            check_deep_context(cfg, "MAPLE", "N_CTX", "PROMPT_DEPTH")
        for key in ("WC_WEIGHT", "COS_WEIGHT", "KD_WEIGHT"):
            require(cfg, f"TRAINER.LAMM.{key}", at_least=0)
        require(cfg, "TRAINER.LAMM.KD_TEMPERATURE", above=0)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PromptedCLIP:
        cfg, path = self.cfg, self.cfg.MODEL.INIT_WEIGHTS
        earlier = {}
        if path:
            earlier = load_checkpoint(path)
            earlier = earlier.get("state_dict", earlier)
        ours = list(dict.fromkeys(map(plain, classnames[: self.num_seen])))  # unseen pairs go by their names
        kept = [n for n in vector_names(earlier) if cfg.TRAINER.LAMM.FREEZE_EARLIER or n not in ours]

        new = [name for name in ours if name not in kept]
        learner = PromptLearner(cfg, classnames, text_encoder, new, kept, clip_model.visual)
        if vector_names(earlier):
            _check_earlier(earlier, learner.state_dict(), path)
            logger.info("%d class vectors come from %s, %d of them stay", len(vector_names(earlier)), path, len(kept))
            for key, parameter in learner.named_parameters():
                if cfg.TRAINER.LAMM.FREEZE_EARLIER and not key.startswith(VECTORS):
                    parameter.requires_grad_(False)
        self.frozen_image_encoder = learner.maple is None
        return (PromptedCLIP if learner.maple is None else DeepPromptedCLIP)(clip_model, learner, text_encoder)

    def learner_for(self, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> PromptLearner | None:
        # Weights of other classes: each class with a vector there takes it, the rest go by their names.
        names, model = vector_names(state_dict), self.model
        if not names:
            raise UserError(f"the weights in {source} hold no class vectors: they are not LAMM's")
        if set(names) == set(model.prompt_learner.vectors.names):
            return None
        classnames = self.dm.dataset.classnames
        return PromptLearner(self.cfg, classnames, model.text_encoder, names, visual=model.image_encoder)

    def vectors_among_words(self) -> list[tuple[str, torch.Tensor]]:
        vectors = self.model.prompt_learner.vectors
        return super().vectors_among_words() + list(zip(vectors.names, vectors(), strict=True))

    def before_train(self) -> None:
        if self._optims[PROMPT_LEARNER] is None:
            raise UserError(
                f"{self.cfg.MODEL.INIT_WEIGHTS} (MODEL.INIT_WEIGHTS) has a vector for every class here, so there is "
                "nothing to learn: set TRAINER.LAMM.FREEZE_EARLIER False to train them further"
            )
        super().before_train()
        self.frozen_features = self.zero_shot_features(self.cfg.TRAINER.LAMM.TEMPLATE)

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        options, model = self.cfg.TRAINER.LAMM, self.model
        image_features = F.normalize(model.encode_image(images).float(), dim=-1)
        text_features = model.encode_text()[: self.num_seen]
        logits = model.logits(image_features, text_features)

        def zero_shot_logits() -> torch.Tensor:
            features = image_features
            if not self.frozen_image_encoder:  # those of MaPLe's prompts are not zero-shot CLIP's
                features = F.normalize(model.image_encoder(images.to(model.dtype)).float(), dim=-1)
            return model.logits(features, self.frozen_features)

        loss, accuracy = self.cross_entropy(logits, labels)
        summary = {"loss_ce": loss.item()}
        vectors = model.prompt_learner.vectors.learned
        terms = {
            "wc": lambda: parameter_loss(vectors, model.prompt_learner.initial),
            "cos": lambda: feature_loss(text_features, self.frozen_features),
            "kd": lambda: distillation_loss(logits, zero_shot_logits(), options.KD_TEMPERATURE),
        }
        for name, term in terms.items():
            weight = options[f"{name.upper()}_WEIGHT"]
            if weight > 0:
                value = term()
                loss = loss + weight * value
                summary[f"loss_{name}"] = value.item()
        return loss, summary | accuracy
