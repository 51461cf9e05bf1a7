"""Chunks: features and gradients as of all at once, the budget against what is kept."""

import torch

from prompting.chunks import bytes_per_token, encode_in_chunks, how_many_fit
from prompting.prompts import Prompts, sequence, soft
from prompting.text_encoder import TextEncoder
from tests.reference import tiny_clip


def test_chunks_change_nothing_and_hold_one_at_a_time():
    x, weight = torch.randn(6, 3), torch.randn(3, 2, requires_grad=True)
    held = []

    def encode(chunk):
        held.append(len(chunk))
        return (chunk @ weight).sin()

    found = []
    for size in (6, 2):
        features = encode_in_chunks(encode, x.split(size))
        (gradient,) = torch.autograd.grad(features.square().sum(), weight)
        found.append((features, gradient))
    assert held == [6] + [2] * 6, "each chunk once forward and once again for its backward pass"
    for whole, chunked in zip(*found, strict=True):
        assert torch.allclose(whole, chunked)
    held.clear()
    with torch.no_grad():
        encode_in_chunks(encode, x.split(2))
    assert held == [2] * 3


def test_budget():
    encoder = TextEncoder(tiny_clip(width=64, layers=2))
    assert bytes_per_token(encoder) == 2 * bytes_per_token(encoder, training=False) == 2 * 20 * 64 * 4
    assert how_many_fit(1.0, 2**28) == 4 and how_many_fit(1e-9, 2**28) == 1


def test_what_waits_for_the_backward_pass_is_most_of_the_estimate():
    """Counted tensor by tensor; what the passes need beside it was measured once (VECTORS_PER_TOKEN)."""
    encoder = TextEncoder(tiny_clip(width=256, layers=4))
    prompts = Prompts(encoder, [[sequence(soft(range(4)), f"{n}.") for n in range(50)]], range(50))
    context = torch.randn(4, 4, 256, requires_grad=True)
    arguments = prompts(context)
    known = {t.untyped_storage().data_ptr() for t in (*encoder.parameters(), *prompts.buffers())}
    kept = {}

    def count(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        features = encoder(*arguments)  # keeps the graph, and so what was counted, alive
    tokens = prompts.shared.shape[1] + int((prompts.eot + 1).sum())
    share = sum(kept[key] for key in kept.keys() - known) / (len(features) * tokens * bytes_per_token(encoder))
    assert 0.55 < share < 0.9
