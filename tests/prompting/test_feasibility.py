"""Feasibility of pairs against loops over them; word vectors read and refused."""

import pytest
import torch
import torch.nn.functional as F

from dassl.utils import UserError
from prompting.feasibility import GLOVE_NAMES, feasibility, word_vectors


def test_feasibility_pair_by_pair():
    torch.manual_seed(0)
    attributes, objects = torch.randn(4, 6), torch.randn(5, 3)
    seen = torch.rand(4, 5) < 0.4
    seen[1], seen[:, 2] = False, False  # nothing seen with an attribute, nothing with an object
    found = feasibility(attributes, objects, seen)
    for a in range(4):
        for o in range(5):
            by_object = [F.cosine_similarity(objects[o], objects[x], dim=0) for x in range(5) if seen[a, x]]
            by_attribute = [F.cosine_similarity(attributes[a], attributes[x], dim=0) for x in range(4) if seen[x, o]]
            expected = (max(by_object, default=-1.0) + max(by_attribute, default=-1.0)) / 2
            assert found[a, o].item() == pytest.approx(float(expected), abs=1e-6)
    assert found[1, 2] == -1
    assert torch.allclose(found[seen], torch.ones(seen.sum()))


def test_word_vectors(tmp_path, caplog):
    path = tmp_path / "glove.txt"
    path.write_text("cut 0 2\nfaux 1 0\n, 5 5\nleather 3 4\nfaux 9 9\nt 2 2\n")
    vectors = word_vectors(path, ["Leather.Faux", "cut", "gnu", "t-shirt"])
    assert vectors.tolist() == [[2, 2], [0, 2], [0, 0], [2, 2]]
    assert "No word vector for 2 of 6 words: gnu, shirt" in caplog.text


def test_names_that_are_looked_up_as_others(tmp_path):
    """As CSP's release does; words end at underscores, and at hyphens where they must."""
    path = tmp_path / "glove.txt"
    path.write_text(
        "fake 1 0\nfur 0 1\nmidcalf 2 0\nboots 0 2\nt-shirt 7 7\nt 1 1\ndry 3 0\nerase 0 3\nboard 3 3\nmid 9 9\n"
    )
    names = ["Faux.Fur", "faux fur", "Boots.Mid-Calf", "t-shirt", "Dry-erase_board", "mid-t"]
    expected = [[0.5, 0.5], [0.5, 0.5], [1, 1], [7, 7], [2, 2], [5, 5]]
    assert word_vectors(path, names).tolist() == expected
    assert len(GLOVE_NAMES) == 21


@pytest.mark.parametrize(
    "text, message",
    [
        ("cut 1 2\ndog 1\n", "glove.txt, line 2 has 1 numbers, not 2: is the file complete?"),
        ("cut 1 x\n", "glove.txt, line 1 is not a word and its numbers"),
        ("cut\n", "glove.txt, line 1 has 0 numbers, not any"),
        ("gnu 1 2\n", "glove.txt has a vector for none of the 2 words"),
    ],
)
def test_broken_word_vectors(tmp_path, text, message):
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        word_vectors(path, ["cut", "dog"])
