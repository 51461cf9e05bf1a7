"""Prompts as sequences of tokens and vectors, against CLIP's own tokenizer and text encoder."""

import clip
import pytest
import torch

from dassl.utils import UserError
from prompting.prompts import Prompts, encode_templates, sequence, soft
from prompting.text_encoder import TextEncoder
from prompting.tokenizers import openai_tokenizer
from tests.reference import relative_error, tiny_clip

NAMES = ["yin_yang", "wild cat", "a", "Bobcat 3.5", "crocodile head"]


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder(tiny_clip())


def test_sequence_is_clips_tokenization():
    for text in ["a photo of a dog.", "itap of my café, blurry"]:
        ids = clip.tokenize(text)[0]
        assert openai_tokenizer().sequence(sequence(text)) == ids[: ids.argmax() + 1].tolist()


@pytest.mark.parametrize("templates", [["a photo of a {}.", "{} texture.", "a {} in a video game."]])
def test_templates_equal_clips_encode_text(encoder, templates):
    model = tiny_clip()
    got = encode_templates(encoder, templates, NAMES)
    for template, features in zip(templates, got, strict=True):
        texts = [template.format(name.replace("_", " ")) for name in NAMES]
        assert relative_error(features, model.encode_text(clip.tokenize(texts))) < 1e-5


def test_one_class_and_equal_classes(encoder):
    """Nothing but the end token may be left as a prompt's own."""
    one = encode_templates(encoder, ["a photo of a {}."], ["cat"])
    three = encode_templates(encoder, ["a photo of a {}."], ["cat", "cat", "dog"])
    assert relative_error(one[0, 0], three[0, 0]) < 1e-5 and relative_error(three[0, 1], three[0, 0]) < 1e-5


def test_split_into_shared_and_own(encoder):
    words = soft(range(3))
    prompts = Prompts(encoder, [[sequence(words, "cat", "."), sequence(words, "wild cat", ".")]], ["cat", "wild cat"])
    shared, own, eot, lengths = prompts(torch.randn(3, 64))
    assert shared.shape == (1, 4, 64) and lengths == [4]  # start token, three vectors
    assert own.shape == (1, 2, 4, 64) and eot.tolist() == [2, 3]


def test_vectors_in_place_of_words_give_the_same_features(encoder):
    """A prompt whose vectors are the embeddings of words encodes as those words, wherever they stand."""
    ids = openai_tokenizer().encode("a photo of a")
    vectors = encoder.token_embedding.weight[torch.tensor(ids)]
    layouts = [
        lambda name: (soft(range(4)), name, "."),
        lambda name: (soft(range(2)), name, soft(range(2, 4)), "."),
        lambda name: (name, soft(range(4)), "."),
    ]
    words = [
        lambda name: f"a photo of a {name}.",
        lambda name: f"a photo {name} of a.",
        lambda name: f"{name} a photo of a.",
    ]
    rows = [[sequence(*layout(name)) for name in NAMES] for layout in layouts]
    got = encoder(*Prompts(encoder, rows, NAMES)(vectors))
    for features, text in zip(got, words, strict=True):
        texts = clip.tokenize([text(name.replace("_", " ")) for name in NAMES])
        assert relative_error(features, tiny_clip().encode_text(texts)) < 1e-5


def test_prompt_too_long_names_the_class(encoder):
    name = "very " * 80 + "long"
    with pytest.raises(UserError, match=r"very very.*84 tokens.*77"):
        encode_templates(encoder, ["{}."], ["cat", name])
