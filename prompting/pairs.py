"""Prompts of attribute-object pairs, "a photo of [attribute] [object]": pairs share what stands for their words.

The pairs of one attribute begin alike, "a photo of [attribute]", so they are a row of the text encoder and each costs
only its object and end token. Rows are encoded in chunks: those of a data set's pairs, and those of the open world, in
which every attribute may go with every object.

As in CSP's release prompts end without full stop, and names keep their underscores.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode

from prompting.chunks import bytes_per_token, encode_in_chunks, how_many_fit
from prompting.context import initial_context
from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import Part, Prompts, sequence, soft
from prompting.text_encoder import TextEncoder

PREFIX = "a photo of"
KINDS = ("attributes", "objects")


class PairPrompts(nn.Module):
    """The prompts of a data set's pairs; by itself, zero-shot CLIP's, of words alone.

    A method that learns says what its prompts start with and what stands for each word, and gives `vectors` for the
    soft entries among them.

    Args:
        dataset: has attributes, objects, pairs and num_seen, as datasets/compositional.py says; a pair may be of more
            than one attribute.
        text_encoder: for its token embeddings.
        tokens: how many own tokens of prompts are encoded at once.
        start: the entries of a sequence that all prompts start with; default: "a photo of".
        words: {"attributes", "objects": in the dataset's order, the entries that stand for each}; default: its name.

    Attributes:
        words: as given.
        seen, unseen: the prompts of seen and of unseen pairs, in the order of the labels; lists of Prompts.
    """

    def __init__(
        self,
        dataset: Any,
        text_encoder: TextEncoder,
        tokens: int,
        start: Sequence[Part] | None = None,
        words: Mapping[str, Sequence[Sequence[Part]]] | None = None,
    ) -> None:
        super().__init__()
        self.start = text_encoder.tokenizer.encode(PREFIX) if start is None else start
        self.words = words or {
            kind: [name_ids(text_encoder, dataset, name) for name in getattr(dataset, kind)] for kind in KINDS
        }
        sequences = [self.sequence(*pair) for pair in dataset.pairs]
        chunk = max(1, tokens // (max(map(len, sequences)) - len(self.start) + 1))  # with the end token

        def prompts(start: int, end: int) -> nn.ModuleList:
            parts = [slice(i, min(i + chunk, end)) for i in range(start, end, chunk)]
            return nn.ModuleList(Prompts(text_encoder, [sequences[part]], dataset.classnames[part]) for part in parts)

        self.seen = prompts(0, dataset.num_seen)
        self.unseen = prompts(dataset.num_seen, len(sequences))

    def sequence(self, *pair: int) -> list[Part]:
        """The prompt of a pair, (attribute, ..., object) indices, to be filled with `vectors`."""
        *attributes, object_ = pair
        words = [self.words["attributes"][a] for a in attributes]
        return sequence(self.start, *words, self.words["objects"][object_])

    def vectors(self) -> torch.Tensor | None:
        """(K, d) what the soft entries stand for; None where there are none."""
        return None

    def forward(self) -> tuple[list[Any], torch.Tensor | None]:
        """What `PairCLIP` encodes: (a list of Prompts, the vectors in them). In training, seen pairs alone."""
        return [*self.seen] if self.training else [*self.seen, *self.unseen], self.vectors()


class PairContext(PairPrompts):
    """CoOp's prompts of pairs in CSP's release: learned context vectors, then one frozen vector for each word.

    Args:
        options: CTX_INIT and N_CTX, as in cfg.TRAINER.COOP.
        dataset, text_encoder, tokens: as PairPrompts takes them.

    Attributes:
        ctx: (n_ctx, d) the context vectors.
    """

    def __init__(self, options: CfgNode, dataset: Any, text_encoder: TextEncoder, tokens: int) -> None:
        ctx = initial_context(options, text_encoder)
        n_ctx, n_attributes = len(ctx), len(dataset.attributes)
        entries = [[soft(n_ctx + k)] for k in range(n_attributes + len(dataset.objects))]
        words = {"attributes": entries[:n_attributes], "objects": entries[n_attributes:]}
        super().__init__(dataset, text_encoder, tokens, soft(range(n_ctx)), words)
        self.ctx = nn.Parameter(ctx)
        frozen = mean_embeddings(text_encoder, dataset, [*dataset.attributes, *dataset.objects])
        self.register_buffer("frozen", frozen, persistent=False)

    def vectors(self) -> torch.Tensor:
        return torch.cat([self.ctx, self.frozen])


def name_ids(text_encoder: TextEncoder, dataset: Any, name: str) -> list[int]:
    """The token ids of an attribute's or object's name, underscores included where the data set has some."""
    return text_encoder.tokenizer.verbatim(getattr(dataset, "spelling", {}).get(name, name), first=False)


@torch.no_grad()
def mean_embeddings(text_encoder: TextEncoder, dataset: Any, names: Sequence[str]) -> torch.Tensor:
    """(N, d) float32: the mean of each name's token embeddings, which a learned vector starts from."""
    embedding = text_encoder.token_embedding.weight
    ids = (torch.tensor(name_ids(text_encoder, dataset, name), device=embedding.device) for name in names)
    means = [embedding[i].float().mean(dim=0) for i in ids]
    return torch.stack(means) if means else embedding.new_zeros(0, embedding.shape[1], dtype=torch.float32)


class PairCLIP(PromptedCLIP):
    """CLIP with text features of pairs: of the seen ones in training, otherwise of all in the data set."""

    def encode_text(self) -> torch.Tensor:
        chunks, vectors = self.prompt_learner()
        return encode_in_chunks(lambda prompts: self._encode(prompts, vectors), chunks)

    def _encode(self, prompts, vectors):
        """(B * N, e) normalised text features of B rows of N prompts."""
        return F.normalize(self.text_encoder(*prompts(vectors)).float(), dim=-1).flatten(0, 1)

    def encode_open_world(self, rows: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (codes, text features) of all attribute x object pairs, those of `rows` attributes at a time.

        A pair's code is attribute * O + object; codes are (rows * O,), features (rows * O, e), normalised.
        """
        learner, n = self.prompt_learner, len(self.prompt_learner.words["objects"])
        vectors, names = learner.vectors(), range(n)
        for attributes in torch.arange(len(learner.words["attributes"])).split(rows):
            sequences = [[learner.sequence(a, o) for o in range(n)] for a in attributes.tolist()]
            prompts = Prompts(self.text_encoder, sequences, names)
            codes = torch.arange(n * int(attributes[0]), n * (int(attributes[-1]) + 1), device=self.logit_scale.device)
            yield codes, self._encode(prompts, vectors)

    def attributes_that_fit(self, images: int, memory_gb: float) -> int:
        """How many attributes' pairs can be encoded and scored at once within a budget in GiB, at least 1.

        Args:
            images: how many images are scored at a time.
            memory_gb: the budget.

        Counts own tokens (object and end) in evaluation, text features, and scores.
        """
        objects = self.prompt_learner.words["objects"]
        tokens = sum(len(words) + 1 for words in objects)
        per_pair = 4 * (3 * self.text_encoder.text_projection.shape[1] + 3 * images)
        per_attribute = tokens * bytes_per_token(self.text_encoder, training=False) + len(objects) * per_pair
        return how_many_fit(memory_gb, per_attribute)
