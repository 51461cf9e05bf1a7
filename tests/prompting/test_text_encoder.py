"""The shared-part/own-part encoder against encoding every prompt in full, forward and backward."""

import clip.model
import pytest
import torch

import prompting.text_encoder
from prompting.text_encoder import TextEncoder
from tests.reference import encode_in_full, relative_error, tiny_clip

TOLERANCE = 1e-5


def make_prompts(model, rows, n_shared, name_lengths, own_rows=1, seed=0):
    """Random shared (rows, P, d) and own (own_rows, N, S, d) embeddings, and the end-of-text index of each own part."""
    generator = torch.Generator().manual_seed(seed)
    width, n, longest = model.positional_embedding.shape[1], len(name_lengths), max(name_lengths) + 2
    shared = 0.2 * torch.randn(rows, n_shared, width, generator=generator)
    own = 0.2 * torch.randn(own_rows, n, longest, width, generator=generator)
    return shared, own, torch.tensor(name_lengths) + 1


def in_full(model, shared, own, eot, lengths=None, deep=()):
    """The same prompts laid out whole, padded to 77 with noise that must not matter, encoded by the reference."""
    rows, width = shared.shape[0], shared.shape[2]
    lengths = lengths or [shared.shape[1]] * rows
    own = own.expand(rows, -1, -1, -1)
    eot = eot.expand(rows, -1)
    prompts = []
    for b in range(rows):
        for n in range(own.shape[1]):
            tokens = [shared[b, : lengths[b]], own[b, n, : eot[b, n] + 1]]
            left = 77 - sum(map(len, tokens))
            prompts.append(torch.cat([*tokens, torch.full((left, width), 3.0)]))
    whole = torch.stack(prompts).unflatten(0, (rows, -1))
    return encode_in_full(model, whole, eot + torch.tensor(lengths)[:, None], deep)


def features_and_gradients(encode, inputs):
    """Features, and the gradients of a random weighting of them with respect to the inputs."""
    inputs = [x.clone().requires_grad_(True) for x in inputs]
    features = encode(*inputs)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(9))
    return [features.detach(), *torch.autograd.grad((features * weights).sum(), inputs)]


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("n_shared", [1, 2, 5, 17])
@pytest.mark.parametrize("bin_tokens", [8, 256])
def test_equals_full_encoding(monkeypatch, kind, rows, n_shared, bin_tokens):
    monkeypatch.setattr(prompting.text_encoder, "BIN_TOKENS", bin_tokens)
    model = tiny_clip(kind)
    encoder = TextEncoder(model)
    shared, own, eot = make_prompts(model, rows, n_shared, [1, 8, 3, 2, 5, 4, 7, 6])
    got = features_and_gradients(lambda s, o: encoder(s, o, eot), [shared, own])
    want = features_and_gradients(lambda s, o: in_full(model, s, o, eot), [shared, own])
    for value, reference in zip(got, want, strict=True):
        assert relative_error(value, reference) < TOLERANCE


@pytest.mark.parametrize("bin_tokens", [8, 256])
def test_rows_of_different_lengths(monkeypatch, bin_tokens):
    """Experts: each row has its own number of shared tokens, its own tokens and its own ends."""
    monkeypatch.setattr(prompting.text_encoder, "BIN_TOKENS", bin_tokens)
    model = tiny_clip()
    encoder = TextEncoder(model)
    shared, own, eot = make_prompts(model, 3, 6, [1, 4, 2, 3, 1], own_rows=3)
    eot = torch.stack([eot, eot - 1, torch.tensor([5, 1, 5, 2, 0])])
    lengths = [6, 1, 4]
    got = features_and_gradients(lambda s, o: encoder(s, o, eot, lengths), [shared, own])
    want = features_and_gradients(lambda s, o: in_full(model, s, o, eot, lengths), [shared, own])
    for value, reference in zip(got, want, strict=True):
        assert relative_error(value, reference) < TOLERANCE


def test_double_precision(monkeypatch):
    """In float64 the two agree to float64 rounding: the difference in float32 is rounding, not approximation."""
    monkeypatch.setattr(clip.model.LayerNorm, "forward", torch.nn.LayerNorm.forward)  # CLIP's own goes by float32
    model = tiny_clip().double()
    shared, own, eot = (x.double() if x.is_floating_point() else x for x in make_prompts(model, 2, 5, [1, 3, 2]))
    got, want = TextEncoder(model)(shared, own, eot), in_full(model, shared, own, eot)
    assert relative_error(got, want) < 1e-13


@pytest.mark.parametrize(("rows", "bin_tokens"), [(1, 256), (3, 8)])
@pytest.mark.parametrize("depth", [1, 3])
def test_deep_prompting_equals_full_encoding(monkeypatch, depth, rows, bin_tokens):
    """Hidden states at the context vectors' places are replaced layer by layer; rows may hold no other shared token."""
    monkeypatch.setattr(prompting.text_encoder, "BIN_TOKENS", bin_tokens)
    monkeypatch.setattr(clip.model.LayerNorm, "forward", torch.nn.LayerNorm.forward)
    model = tiny_clip(layers=4).double()
    encoder = TextEncoder(model)
    shared, own, eot = make_prompts(model, rows, 5, [1, 4, 2, 3, 6])
    lengths = [5, 4, 5][:rows]
    deep = 0.2 * torch.randn(depth, 3, 64, generator=torch.Generator().manual_seed(1))
    inputs = [x.double() for x in (shared, own, *deep)]
    got = features_and_gradients(lambda s, o, *d: encoder(s, o, eot, lengths, d), inputs)
    want = features_and_gradients(lambda s, o, *d: in_full(model, s, o, eot, lengths, d), inputs)
    for value, reference in zip(got, want, strict=True):
        assert relative_error(value, reference) < 1e-11
    assert relative_error(got[0], encoder(*inputs[:2], eot, lengths)) > 0.01, "they matter"


@pytest.mark.parametrize("precision", ["bf16", "fp16", "autocast"])
def test_low_precision_is_as_good_as_full_encoding_in_it(precision):
    """Half precision is off by its rounding; the encoder must not be further off than CLIP's own transformer."""
    exact = tiny_clip()
    shared, own, eot = make_prompts(exact, 2, 5, [1, 3, 2, 8, 4])
    want = features_and_gradients(lambda s, o: in_full(exact, s, o, eot), [shared, own])

    model = tiny_clip()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "autocast": torch.bfloat16}[precision]
    if precision != "autocast":
        clip.model.convert_weights(model)  # all but the normalisation layers, as in OpenAI's models
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype) if parameter.dtype == torch.float16 else parameter.data
    with torch.autocast("cpu", dtype=dtype, enabled=precision == "autocast"):
        got = features_and_gradients(lambda s, o: TextEncoder(model)(s, o, eot), [shared, own])
        plain = features_and_gradients(lambda s, o: in_full(model, s, o, eot), [shared, own])
    for value, full, reference in zip(got, plain, want, strict=True):
        error, full_error = (relative_error(x.float(), reference) for x in (value, full))
        assert error < 2 * full_error + 2 * torch.finfo(dtype).eps


def test_packing_is_reused_and_bounded():
    encoder = TextEncoder(tiny_clip())
    shared, own, eot = make_prompts(tiny_clip(), 1, 3, [1, 2])
    first = encoder(shared, own, eot)
    assert torch.equal(first, encoder(shared, own, eot)) and len(encoder._packings) == 1
    for n_shared in range(1, 30):
        encoder(shared[:, :1].expand(-1, n_shared, -1), own, eot)
    assert len(encoder._packings) <= 16


@pytest.mark.parametrize(("rows", "bin_tokens"), [(1, 256), (3, 256), (3, 8)])
@pytest.mark.parametrize("half", [False, True])
def test_masks_are_made_once_as_the_kernels_take_them(monkeypatch, rows, bin_tokens, half):
    """Of every layer and step the same three, in attention's dtype; rows, bins and queries a multiple of 8 apart."""
    monkeypatch.setattr(prompting.text_encoder, "BIN_TOKENS", bin_tokens)
    attention, seen = torch.nn.functional.scaled_dot_product_attention, []

    def noting(q, k, v, attn_mask):
        seen.append((q, k, attn_mask))
        return attention(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(prompting.text_encoder.F, "scaled_dot_product_attention", noting)
    encoder = TextEncoder(tiny_clip(layers=3))
    shared, own, eot = make_prompts(encoder, rows, 5, [1, 8, 3, 2, 5, 4, 7, 6])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        for _ in range(2):
            encoder(shared, own, eot)
    assert len(seen) == 2 * 5 and len({mask.data_ptr() for _, _, mask in seen}) == 3
    for q, k, mask in seen:
        assert mask.dtype == q.dtype == (torch.bfloat16 if half else torch.float32)
        assert mask.stride(-1) == 1 and all(stride % 8 == 0 for stride in mask.stride()[:-1])
        assert mask.shape[-2:] == (q.shape[2], k.shape[2]) and (mask.dim() == 2 or len(mask) in (1, len(q)))
    assert any(k.shape[2] % 8 for _, k, _ in seen), "else nothing is tested"
