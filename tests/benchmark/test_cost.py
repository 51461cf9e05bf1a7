"""What grids cost, against counts by hand."""

import pytest

from benchmark import cost
from benchmark.protocol import Point
from benchmark.protocols import runs_of
from dassl.errors import UserError


def cost_of(protocol, dataset, shots, trainer, config, *overrides):
    points = [Point(dataset, shots, trainer, config, 1, overrides=tuple(map(str, overrides)))]
    return sum((cost.of_run(run) for run in runs_of(protocol, points)), cost.Cost())


def test_base_to_new_by_hand():
    """Caltech101 has 100 classes and 2,465 test images: 50 base classes are 800 images, 25 batches."""
    found = cost_of("base2new", "caltech101", 16, "CoOp", "vit_b16_ctxv1")
    assert (found.runs, found.steps, found.trained, found.tested) == (2, 200 * 25, 200 * 800, 2465)
    assert found.flops == pytest.approx((200 * 800 + 2465) * cost.flops_of("ViT-B/16")[0])


def test_the_incomplete_batch_is_dropped():
    """EuroSAT's 10 classes at 4 shots are 40 images: a batch of 32, the other 8 not seen in that epoch."""
    found = cost_of("few_shot", "eurosat", 4, "CoOp", "rn50_ep100")
    assert (found.steps, found.trained, found.tested) == (100, 3200, 8100)
    few = cost_of("few_shot", "eurosat", 1, "CoOp", "rn50_ep50")
    assert (few.steps, few.trained) == (50, 500), "a set smaller than a batch is one"


def test_gradients_inside_the_encoder():
    plain, inside = cost.flops_of("ViT-B/16")
    assert plain == pytest.approx(35.1e9, rel=0.01), "17.6 billion multiplications and additions"
    assert 1.9 * plain < inside < 2.1 * plain, "no gradients of weights"
    found = cost_of("base2new", "dtd", 16, "MaPLe", "vit_b16_c2_ep5_batch4_2ctx")
    images = 5 * 24 * 16  # dtd has 47 classes, 24 of them base
    assert found.trained == images and found.flops == pytest.approx(images * inside + 1692 * plain)


@pytest.mark.parametrize(
    ("trainer", "config"), [("ProGrad", "rn50_ep100"), ("PromptSRC", "vit_b16_c2_ep20_batch4_4+4ctx")]
)
def test_a_teacher_sees_every_training_image_too(trainer, config):
    found = cost_of("base2new", "caltech101", 4, trainer, config)
    assert found.trained == 2 * (100 * 192 if trainer == "ProGrad" else 20 * 200)


def test_what_cannot_be_counted():
    with pytest.raises(UserError, match="FLOPs of icon-clip cannot be counted: known are RN50"):
        cost.flops_of("icon-clip")
    with pytest.raises(UserError, match="the number of images in MITStates is not published"):
        cost_of("czsl", "mit_states", None, "CSP", "vit_l14")
