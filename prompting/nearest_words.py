"""What learned vectors resemble: the words of CLIP's vocabulary whose token embeddings are nearest (CoOp, IJCV 2022,
section 4.4)."""

from collections.abc import Iterable

import torch

from prompting.tokenizers import Tokenizer


@torch.no_grad()
def nearest_words(
    vectors: torch.Tensor, embedding: torch.Tensor, known: Iterable[int], n: int, tokenizer: Tokenizer
) -> list[list[tuple[str, float]]]:
    """The n nearest words of each vector, by Euclidean distance.

    Args:
        vectors: (K, d).
        embedding: (V, d) token embeddings.
        known: ids of the tokens that count; those that stand for no text never do.
        n: how many.
        tokenizer: what the ids are of.

    Returns:
        K lists of n (word, distance), nearest first. Tokens that are no whole word have a hyphen.
    """
    ids = torch.tensor([i for i in known if i not in tokenizer.special], device=embedding.device)
    # the usual way through a matrix product loses the small distances, those that matter
    distance = torch.cdist(vectors.float(), embedding[ids].float(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.topk(min(n, len(ids)), largest=False)
    return [
        [(tokenizer.word(int(ids[i])), d) for i, d in zip(indices, distances, strict=True)]
        for indices, distances in zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
    ]
