"""What trainers have in common that train LayerNorms of the image encoder too, as LASP's release does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dassl.engine import MisfitError
from dassl.utils import UserError
from trainers.base import PromptTrainer


class LayerNormTrainer(PromptTrainer):
    """A trainer with the key TUNE_LAYERNORM.

    Attributes:
        layernorms: those LayerNorms of the image encoder that are trained (`tune_layernorms`), else None.
    """

    layernorms: nn.ModuleList | None = None

    def tune_layernorms(self, clip_model: nn.Module, learner: nn.Module) -> None:
        """Train the LayerNorms of the image encoder's blocks too, at a tenth of OPTIM.LR; not ln_pre and ln_post. The
        prompt learner saves and loads them.

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
        if self.layernorms is None:
            return None
        tuned = {id(p) for p in self.layernorms.parameters()}
        rest = [p for p in self.model.prompt_learner.parameters() if id(p) not in tuned]
        return [{"params": rest}, {"params": list(self.layernorms.parameters()), "lr": 0.1 * self.cfg.OPTIM.LR}]

    def load_weights(self, name: str, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> None:
        if self.layernorms is None and any(key.startswith("layernorms.") for key in state_dict):
            raise MisfitError(
                f"the weights in {source} were learned with the image encoder's LayerNorms: set "
                f"TRAINER.{self.section}.TUNE_LAYERNORM True, as it was"
            )
        super().load_weights(name, state_dict, source)

    def adopt(self, learner: nn.Module) -> None:
        if self.layernorms is not None:
            learner.layernorms = self.layernorms
