"""A frozen CLIP with a prompt learner: from images and prompts to logits."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prompting.deep_prompts import encode_with_prompts
from prompting.text_encoder import TextEncoder


class PromptedCLIP(nn.Module):
    """A frozen CLIP whose text features come from a prompt learner.

    Args:
        clip_model: as `load_backbone` gives it.
        prompt_learner: called without arguments it gives the text encoder's arguments. It may have an
            `offset`, (e,) or None: a learned vector added to all text features.
        text_encoder: the TextEncoder of clip_model.

    Attributes:
        logit_scale, logit_bias: what cosines are multiplied by and what is then added; the latter is None but for
            models trained with a sigmoid (SigLIP).
    """

    def __init__(self, clip_model: nn.Module, prompt_learner: nn.Module, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.image_encoder = clip_model.visual
        self.text_encoder = text_encoder
        self.prompt_learner = prompt_learner
        self.dtype = clip_model.dtype
        self.register_buffer("logit_scale", clip_model.logit_scale.detach().float().exp())
        bias = getattr(clip_model, "logit_bias", None)
        self.register_buffer("logit_bias", None if bias is None else bias.detach().float())

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) images -> (B, e) image features, not normalised."""
        return self.image_encoder(images.to(self.dtype))

    @property
    def encodes(self) -> str | None:
        """What image features are, but for the image encoder's weights: kept ones are shared by models that say the
        same. None, where a model with an `encode_image` of its own does not say: its features are not kept.
        """
        return "" if type(self).encode_image is PromptedCLIP.encode_image else None

    def image_encoding(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """`encode_image` for many batches: what does not depend on images is computed now."""
        return self.encode_image

    def prepare(self, image_features: torch.Tensor) -> torch.Tensor:
        """What `encode_image` gives, as `logits` takes it. Default: (..., e), normalised."""
        return F.normalize(image_features.float(), dim=-1)

    def prepared(self, inputs: torch.Tensor) -> torch.Tensor:
        """What `logits` takes of (B, 3, H, W) images, or of what `encode_image` gives of them."""
        return self.prepare(self.encode_image(inputs) if inputs.dim() == 4 else inputs)

    def encode_prompts(self, *args: Any) -> torch.Tensor:
        """(B, N, e) normalised text features of what the prompt learner gives when called with `args`."""
        features = self.text_encoder(*self.prompt_learner(*args))
        offset = getattr(self.prompt_learner, "offset", None)
        return F.normalize((features if offset is None else features + offset).float(), dim=-1)

    def encode_text(self) -> torch.Tensor:
        """The text features that `logits` takes. Default: (N, e), normalised."""
        return self.encode_prompts()[0]

    def logits(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """(B, e) normalised image features, text features -> (B, N) logits."""
        logits = self.logit_scale * image_features @ text_features.t()
        return logits if self.logit_bias is None else logits + self.logit_bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Images or image features, as `prepared` takes them -> (B, N) logits."""
        return self.logits(self.prepared(inputs), self.encode_text())


class DeepPromptedCLIP(PromptedCLIP):
    """A frozen CLIP with prompts in both towers; the learner's `vision_prompts()` are the image encoder's."""

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.image_encoding()(images)

    def image_encoding(self) -> Callable[[torch.Tensor], torch.Tensor]:
        prompts = self.prompt_learner.vision_prompts()
        return lambda images: encode_with_prompts(self.image_encoder, images.to(self.dtype), prompts)
