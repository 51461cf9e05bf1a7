"""Nearest words against a loop over the whole vocabulary, in float64."""

import torch

from prompting.backbone import known_tokens, load_backbone
from prompting.backbones.files import HOME
from prompting.nearest_words import nearest_words
from prompting.tokenizers import openai_tokenizer


def test_by_a_loop_over_known_tokens():
    torch.manual_seed(0)
    embedding = torch.randn(49408, 6)
    vectors = torch.stack([embedding[320] + 1e-4, torch.randn(6), torch.zeros(6), embedding[49407]])
    known = [*range(0, 3000), 49406, 49407]
    found = nearest_words(vectors, embedding, known, 4, openai_tokenizer())
    for vector, near in zip(vectors, found, strict=True):
        distances = []
        for i in known[:-2]:
            distance = sum((a - b) ** 2 for a, b in zip(vector.tolist(), embedding[i].tolist(), strict=True)) ** 0.5
            distances.append((distance, i))
        expected = sorted(distances)[:4]
        assert [w for w, _ in near] == [openai_tokenizer().word(i) for _, i in expected]
        for (_, d), (e, _) in zip(near, expected, strict=True):
            assert abs(d - e) < 1e-6 * (1 + e)


def test_words_and_pieces():
    tokenizer = openai_tokenizer()
    assert [tokenizer.word(i) for i in tokenizer.encode("a photo.")] == ["a", "photo", "."]
    assert [tokenizer.word(i) for i in tokenizer.encode("photogram")] == ["photo-", "gram"]


def test_known_tokens_of_an_embedded_backbone(toy_backbone):
    known = known_tokens("icon-clip")
    rows = torch.load(HOME / "icon-clip.pt", weights_only=True)["token_embedding.weight"]
    assert torch.equal(load_backbone("icon-clip").token_embedding.weight[known], rows.float())
    assert set(openai_tokenizer().encode("a photo of a camera.")) <= set(known) and len(known) < 10000
    assert known_tokens(toy_backbone) == known_tokens("ViT-B/16") == list(range(49408))
