"""Forms: what a key may hold that is None unless it is given."""

import pytest

import train
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError


def check(trainer, key, value):
    words = f"--dataset-config-file configs/datasets/icons_common.yaml --trainer {trainer}".split()
    words += ["--backbone", "icon-clip"]
    cfg = train.setup_cfg(train.parse_args([*words, f"TRAINER.{trainer.upper()}.{key}", value]))
    method = TRAINER_REGISTRY.get(trainer)
    method.__new__(method).check_cfg(cfg)


@pytest.mark.parametrize(
    "trainer, key, value, words",
    [
        ("LASP", "N_GROUPS", "1.5", "is 1.5: give a whole number"),
        ("LASP", "NOISE", "much", "is 'much': give a number"),
        ("LASP", "TEMPLATES", "a photo of a {}.", "is 'a photo of a {}.': give a list"),
        ("LASP", "TEMPLATES", "5", "is 5: give a list"),
        ("PLOT", "MAX_ITER", "10.5", "is 10.5: give a whole number"),
        ("PLOT", "THRESH", "small", "is 'small': give a number"),
        ("LAMM", "KD_TEMPERATURE", "warm", "is 'warm': give a number"),
        ("MoCoOp", "SPARSE_BELOW", "x", "is 'x': give a whole number"),
        ("MoCoOp", "ROUTER_TEMPERATURE", "x", "is x: give a number above 0"),
        ("MoCoOp", "GROUPS", "5", "must be a list of lists"),
    ],
)
def test_a_key_of_another_kind_is_a_user_error(trainer, key, value, words):
    with pytest.raises(UserError, match=f"TRAINER.{trainer.upper()}.{key}") as error:
        check(trainer, key, value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "trainer, key, value",
    [
        ("LASP", "NOISE", "0"),
        ("LASP", "TEMPLATES", "['a {}.']"),
        ("LAMM", "KD_TEMPERATURE", "1"),
        ("LASP", "FORM", "paper"),
    ],
)
def test_a_key_of_its_kind_is_taken(trainer, key, value):
    check(trainer, key, value)
