"""KEY VALUE words: which of a command line's they are, and a label for every set of them."""

import itertools

import pytest

from benchmark import overrides
from dassl.errors import UserError


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("protocol p T dtd 16", ""),
        ("protocol p T dtd 16 OPTIM.LR 1 TRAINER.T.CSC True --root there", "OPTIM.LR 1 TRAINER.T.CSC True"),
        ("protocol p T dtd --seeds 1 2 OPTIM.LR -1e-5 USE_CUDA False", "OPTIM.LR -1e-5 USE_CUDA False"),
        ("protocol p T --output RUNS.NEW dtd OPTIM.LR 1", "OPTIM.LR 1"),
        ("protocol p T ./a.B mr.x V2", ""),
    ],
)
def test_where_they_stand(words, found):
    others, keys = overrides.split(words.split())
    assert keys == found.split() and " ".join(others).split() == words.replace(found, "").split()


def test_pairs():
    assert list(overrides.pairs("OPTIM.LR 1 A.B 2 OPTIM.LR 3".split()).items()) == [("A.B", "2"), ("OPTIM.LR", "3")]
    with pytest.raises(UserError, match='"OPTIM.LR A.B 2" is not a list of KEY VALUE pairs'):
        overrides.pairs("OPTIM.LR A.B 2".split())


@pytest.mark.parametrize(
    ("pairs", "label"),
    [
        ({}, ""),
        ({"OPTIM.MAX_EPOCH": "2"}, "MAX_EPOCH2"),
        ({"TRAINER.COOP.CSC": "True", "OPTIM.LR": "1e-05"}, "LR1e-05-COOP.CSC=True"),
        ({"DATALOADER.TEST.BATCH_SIZE": "8"}, "DATALOADER.TEST.BATCH_SIZE8"),
    ],
)
def test_a_label_is_readable(pairs, label):
    assert overrides.label(pairs) == label


def test_a_label_tells_sets_apart_and_is_safe():
    keys = ("OPTIM.LR", "OPTIM.LR1", "TRAINER.T.LR", "TRAINER.T.LR_", "TEST.SPLIT", "TRAIN.LR", "USE_CUDA")
    values = ("1", "11", "1e-5", "-1", "", "a", "a-LR1", "a b", "a_b", "a/b", "../..", "[1, 2]", "A=1", "é", "x" * 300)
    sets = [{key: value} for key in keys for value in values]
    sets += [one | other for one, other in itertools.combinations(sets, 2)]
    told = {}
    for pairs in sets:
        label = overrides.label(pairs)
        assert told.setdefault(label, pairs) == pairs
        assert label == overrides.label(dict(reversed(pairs.items())))
        assert label.isascii() and not set(label) & set("/ '\"[],*") and 0 < len(label) <= 120
