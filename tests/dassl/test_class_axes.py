"""Weights of some classes for others: every class takes its own by name, by hand and by a loop."""

import pytest
import torch
from torch import nn

from dassl.engine.class_axes import doubtful, match
from dassl.utils import UserError

OWN = {"w": torch.zeros(3, 2), "ctx": torch.zeros(4, 3, 2), "shared": torch.zeros(3)}
AXES = {"w": 0, "ctx": 1}
THEIRS = ["ant", "bee", "crab claw"]


def weights(n=3):
    return {
        "w": torch.arange(n * 2.0).view(n, 2),
        "ctx": torch.arange(4 * n * 2.0).view(4, n, 2),
        "shared": torch.ones(3),
    }


def test_by_name():
    given = weights()
    found = match(given, OWN, AXES, THEIRS, ["crab_claw", "ant", "bee"], "X")
    assert found["w"].tolist() == [[4, 5], [0, 1], [2, 3]]
    for row in range(4):
        for here, there in enumerate([2, 0, 1]):
            assert torch.equal(found["ctx"][row, here], given["ctx"][row, there])
    assert found["shared"] is given["shared"]
    assert given["w"].tolist() == [[0, 1], [2, 3], [4, 5]] and not OWN["w"].any(), "both as they were"


def test_some_of_many():
    found = match(weights(5), OWN, AXES, ["a", "b", "ant", "bee", "crab claw"], THEIRS, "X")
    assert found["w"].tolist() == [[4, 5], [6, 7], [8, 9]] and found["ctx"].shape == (4, 3, 2)


def test_the_same_classes_and_what_belongs_to_none_stay_as_they_are():
    given = weights()
    assert match(given, OWN, AXES, THEIRS, ["ant", "bee", "crab_claw"], "X") is given
    assert match(given, OWN, {}, THEIRS, ["x", "y", "z"], "X") is given
    assert match({"shared": given["shared"]}, OWN, AXES, None, THEIRS, "X").keys() == {"shared"}
    twins = ["crane", "crane", "ant"]
    assert match(given, OWN, AXES, twins, twins, "X") is given


def test_a_class_that_they_do_not_know():
    ours = ["ant", "emu", "bee"]
    with pytest.raises(UserError, match=r'X holds values for each of its 3 classes \(w and ctx\).* 1 of .*"emu"'):
        match(weights(), OWN, AXES, THEIRS, ours, "X")
    own = OWN | {"w": torch.full((3, 2), 7.0)}
    assert match(weights(), own, AXES, THEIRS, ours, "X", as_started=True)["w"].tolist() == [[0, 1], [7, 7], [2, 3]]


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (None, r"no classes\.json beside it names the classes"),
        (["ant", "ant", "bee"], 'two classes named "ant"'),
        (["ant", "bee", "crab claw", "emu"], "does not match the 4 classes"),
    ],
)
def test_what_cannot_be_known(theirs, message):
    with pytest.raises(UserError, match=message) as caught:
        match(weights(), OWN, AXES, theirs, ["bee", "ant", "crab claw" if theirs and len(theirs) > 3 else "bee"], "X")
    assert len(str(caught.value).splitlines()) == 1


def test_doubtful_are_learned_parameters_of_that_length():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3).requires_grad_(False), nn.BatchNorm1d(5))
    assert doubtful(model, ["a", "b", "c"], ["a", "c", "d"]) == ["0.weight", "0.bias"]
    assert doubtful(model, ["a", "b", "c"], ["a", "b", "c"]) == doubtful(model, ["a", "b"], ["a", "b", "d"]) == []
