"""A mixture of soft prompts: experts, the router that chooses among them per image, and CLIP with both."""

from collections.abc import Sequence

import torch
from torch import nn

from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import Prompts, sequence, soft
from prompting.text_encoder import TextEncoder
from prompting.tokenizers import Tokenizer


class PromptLearner(nn.Module):
    """G experts and their router.

    Args:
        layout: (G, 2), each expert's number of vectors before and after the class name.
        classnames: N class names; `extra` are further ones that serve the text loss alone.
        feature_dim: e, the length of image and text features.
        text_offset: whether to learn a vector that is added to all text features.
        endings: G texts, frozen, at the end of the prompts of the text loss; those to classify with have none. Without
            further names both losses have the prompts to classify with.

    Attributes:
        ctx: (K, d), the vectors of all experts one after another.
        router: linear, normalised image feature (B, e) -> (B, G).
        offset: (e,) or None.
        alike: whether the text loss's prompts begin with those to classify with.
    """

    def __init__(
        self,
        layout: list[list[int]],
        classnames: Sequence[str],
        extra: Sequence[str],
        text_encoder: TextEncoder,
        feature_dim: int,
        text_offset: bool = False,
        endings: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("layout", torch.tensor(layout))
        self.ctx = nn.Parameter(torch.zeros(sum(map(sum, layout)), text_encoder.token_embedding.weight.shape[1]))
        self.router = nn.Linear(feature_dim, len(layout))
        self.offset = nn.Parameter(torch.zeros(feature_dim)) if text_offset else None
        self.prompts = Prompts(text_encoder, _expert_sequences(layout, classnames, [""] * len(layout)), classnames)
        self.text_loss_prompts = self.prompts
        self.alike = not (extra and any(endings))
        if extra:
            names = [*classnames, *extra]
            sequences = _expert_sequences(layout, names, endings or [""] * len(layout))
            self.text_loss_prompts = Prompts(text_encoder, sequences, names)

    def forward(self, with_extra: bool = False, experts: Sequence[int] | None = None) -> tuple:
        """The text encoder's arguments: rows of N prompts, or of N + extra; of all G experts, or of some."""
        return (self.text_loss_prompts if with_extra else self.prompts)(self.ctx, experts)

    def gates(self, image_features: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, e) normalised image features -> router logits (B, G) and gate weights (B, G), zero off the top K."""
        logits = self.router(image_features).to(image_features.dtype)  # autocast makes it half
        top, chosen = logits.topk(top_k, dim=-1)
        return logits, torch.zeros_like(logits).scatter(1, chosen, top.softmax(dim=-1))


def _expert_sequences(layout, names, endings):
    rows, start = [], 0
    for (before, after), ending in zip(layout, endings, strict=True):
        middle, end = start + before, start + before + after
        rows.append([sequence(soft(range(start, middle)), name, soft(range(middle, end)), ending) for name in names])
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

    def encode_text(self, with_extra: bool = False, experts: Sequence[int] | None = None) -> torch.Tensor:
        """(G, N, e) normalised text features of every class and expert; arguments as the prompt learner's."""
        return self.encode_prompts(with_extra, experts)

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
