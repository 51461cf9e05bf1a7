"""Datum and DatasetBase: few-shot sets, and lists pickled by CoOp's code and for it."""

import pickle
import random
from copy import copy
from dataclasses import astuple, dataclass

import pytest

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, base_dataset, build_dataset
from dassl.utils import UserError


class Bare:
    """A Datum as Dassl lays it out in a pickle: four attributes behind properties, in a __dict__."""

    def __init__(self, impath="", label=0, domain=0, classname=""):
        self._impath, self._label, self._domain, self._classname = impath, label, domain, classname


Bare.__module__, Bare.__name__, Bare.__qualname__ = "dassl.data.datasets.base_dataset", "Datum", "Datum"


class Boxed(Datum):
    box = None


@dataclass(slots=True, eq=False)
class Captioned(Datum):
    caption: str = ""


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_few_shot_pickles_go_either_way(protocol, monkeypatch):
    """split_fewshot/shot_16-seed_1.pkl, as CoOp's code wrote it on Dassl, and as it writes it here."""
    facts = {"train": [("/a/0.jpg", 3, 1, "ant"), ("/a/1.jpg", 3, 1, "ant")], "val": [("/b/0.jpg", 0, 0, "sea shell")]}
    monkeypatch.setattr(base_dataset, "Datum", Bare)
    dassls = pickle.dumps({part: [Bare(*fact) for fact in facts[part]] for part in facts}, protocol)
    monkeypatch.undo()
    loaded = pickle.loads(dassls)
    assert {type(item) for items in loaded.values() for item in items} == {Datum}
    assert {part: [astuple(item) for item in loaded[part]] for part in loaded} == facts

    ours = pickle.dumps({part: [Datum(*fact) for fact in facts[part]] for part in facts}, protocol)
    assert ours == dassls, "byte for byte"


def test_data_of_other_kinds_are_pickled_and_copied():
    boxed, captioned = Boxed("/a.jpg", 1, 2, "a"), Captioned("/a.jpg", 1, 2, "a", "an a")
    boxed.box = [1, 2]
    for again in (pickle.loads(pickle.dumps([boxed, captioned])), [copy(boxed), copy(captioned)]):
        assert [type(item) for item in again] == [Boxed, Captioned] and again[0].box == [1, 2]
        assert astuple(again[0]) == ("/a.jpg", 1, 2, "a") and astuple(again[1]) == ("/a.jpg", 1, 2, "a", "an a")
    earlier = Datum()
    earlier.__setstate__((None, {"impath": "/a.jpg", "label": 1, "domain": 2, "classname": "a"}))
    assert astuple(earlier) == ("/a.jpg", 1, 2, "a")


def test_datum_is_light_and_can_be_extended():
    class Captioned(Datum):
        def __init__(self, caption, **kwargs):
            super().__init__(**kwargs)
            self.caption = caption

    item = Captioned("a cat", impath="x.jpg", label=2, classname="cat")
    assert (item.impath, item.label, item.domain, item.classname) == ("x.jpg", 2, 0, "cat")
    assert item.caption == "a cat"
    assert not hasattr(Datum(), "__dict__")
    assert len({Datum(), Datum()}) == 2


def test_dataset_base():
    train = [Datum("a", 2, 1, "c"), Datum("b", 0, 0, "a"), Datum("c", 1, 0, "b"), Datum("d", 2, 0, "c")]
    dataset = DatasetBase(train_x=train, test=train[:1])
    assert (dataset.train_x, dataset.train_u, dataset.val, dataset.test) == (train, None, None, train[:1])
    assert dataset.num_classes == 3
    assert dataset.lab2cname == {0: "a", 1: "b", 2: "c"}
    assert dataset.classnames == ["a", "b", "c"]
    by_label = dataset.split_dataset_by_label(train)
    assert list(by_label) == [2, 0, 1] and by_label[2] == [train[0], train[3]]
    assert dataset.split_dataset_by_domain(train) == {1: train[:1], 0: train[1:]}
    dataset.domains = ["photo", "sketch"]
    dataset.check_input_domains(["photo"], ["sketch"])
    with pytest.raises(UserError, match='no domain "skech": did you mean sketch'):
        dataset.check_input_domains(["photo"], ["skech"])


def test_few_shots_are_drawn_class_by_class_in_order_of_appearance():
    labels = [3, 1, 3, 0, 1, 3, 1, 3]
    train = [Datum(str(i), label, classname=str(label)) for i, label in enumerate(labels)]
    dataset = DatasetBase(train_x=train)
    shots, val = dataset.generate_fewshot_dataset(train, train, num_shots=2, rng=random.Random(5))

    random.seed(5)
    expected = []
    for _ in range(2):
        for positions in ([0, 2, 5, 7], [1, 4, 6]):
            expected += [str(i) for i in random.sample(positions, 2)]
        expected.append("3")  # the only one of its class
    assert [item.impath for item in shots + val] == expected

    assert dataset.generate_fewshot_dataset(train, num_shots=-1) is train
    repeated = dataset.generate_fewshot_dataset(train, num_shots=5, repeat=True)
    assert [item.label for item in repeated] == [3] * 5 + [1] * 5 + [0] * 5


def test_an_unknown_dataset_gets_the_nearest_names():
    cfg = get_cfg_default()
    cfg.DATASET.NAME = "Caltech11"
    DATASET_REGISTRY.register(type("Caltech12", (), {}), force=True)
    with pytest.raises(UserError, match="did you mean Caltech1"):
        build_dataset(cfg)
