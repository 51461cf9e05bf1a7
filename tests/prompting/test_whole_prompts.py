"""Whole prompts against packed ones, on a causal tower, where both are exact. The families' own tests do the rest."""

import pytest
import torch

from prompting import whole_prompts
from prompting.text_encoder import TextEncoder
from prompting.whole_prompts import encode_whole
from tests.prompting.test_text_encoder import features_and_gradients, make_prompts
from tests.reference import relative_error, tiny_clip


@pytest.mark.parametrize("memory", [2.0, 0.0])
@pytest.mark.parametrize(("lengths", "own_rows"), [(None, 1), ([6, 4, 5], 1), ([6, 4, 5], 3)])
def test_equals_packed_prompts(memory, lengths, own_rows, monkeypatch):
    """Rows of different lengths, own parts of each row, deep prompts; at once, or each prompt by itself."""
    monkeypatch.setattr(whole_prompts, "MEMORY_GB", memory)
    model = tiny_clip(layers=3)
    encoder = TextEncoder(model)
    shared, own, eot = make_prompts(model, 3, 6, [1, 4, 2, 3], own_rows=own_rows)
    eot = torch.stack([eot, eot - 1, eot - 1]) if own_rows == 3 else eot
    deep = 0.2 * torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1))
    want = features_and_gradients(lambda s, o, *d: encoder(s, o, eot, lengths, d), [shared, own, *deep])
    got = features_and_gradients(lambda s, o, *d: encode_whole(encoder, s, o, eot, lengths, d), [shared, own, *deep])
    for value, reference in zip(got, want, strict=True):
        assert relative_error(value, reference) < 1e-5
