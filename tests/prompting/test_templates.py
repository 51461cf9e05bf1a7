"""Templates of data sets, which stand with their readers."""

import pytest
import yaml

import datasets  # noqa: F401  registers the readers
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError
from prompting.templates import all_templates, custom_template
from tests.conftest import REPO, SHARED


def test_as_zero_shot_clip_was_released():
    file = SHARED / "published" / "recipes" / "templates.yaml"
    if not file.is_file():
        pytest.skip("the release's templates are not at ../shared/published/recipes")
    released = yaml.safe_load(file.read_text())["zeroshot"]["by_dataset"]
    assert len(released) > 10
    for config, template in released.items():
        reader = yaml.safe_load((REPO / f"configs/datasets/{config}.yaml").read_text())["DATASET"]["NAME"]
        assert custom_template(reader) == template


@pytest.mark.parametrize(
    ("reader", "template"),
    [
        ("DescribableTextures", "{} texture."),
        ("IconsRare", "an icon of a {}."),
        ("IconsPairs", "a photo of a {}."),
        ("MITStates", "a photo of {}."),
        ("AAOFolder", "a photo of {}."),
        ("CIFAR100", "a photo of a {}."),
    ],
)
def test_of_a_reader(reader, template):
    assert custom_template(reader) == template and all_templates(reader)[-1] in (template, "a tattoo of the {}.")


def test_readers_without_one_and_with_a_wrong_one(monkeypatch):
    monkeypatch.setattr(DATASET_REGISTRY, "_objects", {"Plain": type("Plain", (), {})})
    assert custom_template("Plain") == "a photo of a {}."
    DATASET_REGISTRY._objects["Wrong"] = type("Wrong", (), {"template": "a photo of a pet."})
    with pytest.raises(UserError, match="template 'a photo of a pet.' of the data set Wrong must hold one {}"):
        custom_template("Wrong")
    with pytest.raises(UserError, match='no "Missing" in the DATASET registry'):
        custom_template("Missing")
