"""Features of an epoch's views: those of the views that a loader gives, the same for whoever asks, and bit by bit."""

import pytest
import torch

import train
from dassl.data import in_order
from dassl.data.samplers import RandomSampler
from dassl.data.seeding import SeededSampler, seed_of, seeded
from dassl.utils import UserError, read_image, set_random_seed
from tests.in_a_process import status_of, train_until_killed
from trainers.coop import CoOp

CONFIGS = {
    "CoOp": "vit_b16_ep50",
    "CoCoOp": "vit_b16_c4_ep10_batch1",
    "KgCoOp": "vit_b16_ep100_ctxv1",
    "LAMM": "vit_b16_ep50",
    "ProGrad": "vit_b16_ep50_ctxv1",
    "PromptSRC": "vit_b16_c2_ep20_batch4_4+4ctx",
}
FROZEN = [trainer for trainer in CONFIGS if trainer != "PromptSRC"]
AUGMENTED = ("INPUT.TRANSFORMS", ["random_resized_crop", "random_flip", "colorjitter", "normalize"])


@pytest.fixture
def run(toy_args, tmp_path, closing_logger):
    """run(name, *keys, trainer="CoOp"): a finished trainer."""

    def run(name, *keys, trainer="CoOp", flags=()):
        keys = (f"TRAINER.{trainer.upper()}.PREC", "fp32", *AUGMENTED, *keys)
        return train.main(toy_args(trainer, tmp_path / name, *keys, flags=flags, config=CONFIGS[trainer]))

    return run


def learned(trainer):
    return torch.cat([value.flatten().float() for value in trainer.model.prompt_learner.state_dict().values()])


def epoch(loader, number):
    loader.set_epoch(number)
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in ("index", "img")}


def test_an_epoch_follows_from_seed_and_number(run):
    """Not from method, size of batches, workers, or what was drawn before."""
    one = run("one", "OPTIM.MAX_EPOCH", 1).train_loader_x
    other = run(
        "other", "OPTIM.MAX_EPOCH", 1, "DATALOADER.TRAIN_X.BATCH_SIZE", 1, "DATALOADER.NUM_WORKERS", 1, trainer="CoCoOp"
    ).train_loader_x
    set_random_seed(5)
    expected, found = epoch(one, 1), epoch(other, 1)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    again, later = epoch(one, 1), epoch(one, 2)
    assert torch.equal(expected["img"], again["img"]) and not torch.equal(expected["index"], later["index"])
    for index, image in zip(expected["index"].tolist(), expected["img"], strict=True):
        with seeded(seed_of("view", 1, 1, 0, index)):
            assert torch.equal(one.dataset.transform(read_image(one.dataset.data_source[index].impath)), image)


def test_passes_within_an_epoch_and_seeds_differ():
    def given(seed=1, epoch=0, views=0, passes=1):
        sampler = SeededSampler(RandomSampler(range(20)), seed, views)
        sampler.set_epoch(epoch)
        for _ in range(passes):
            found = [(int(i), i.seed) for i in sampler]
        return found

    first = given()
    others = [given(seed=2), given(epoch=1), given(passes=2)]
    assert given() == first and all(found != first and dict(found) != dict(first) for found in others)
    turned = given(epoch=3, views=3)
    assert dict(turned) == dict(first) and turned != first, "the views of epoch 0 in the order of epoch 3"
    set_random_seed(1)
    assert given(seed=-1) != given(seed=-1), "no seed: drawn"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_hold_the_features_of_their_views(run, precision):
    trainer = run("run", "TRAINER.PROGRAD.PREC", precision, "OPTIM.MAX_EPOCH", 1, trainer="ProGrad")
    trainer.epoch = 2
    trainer.train_loader_x.set_epoch(2)
    batches = trainer.training_batches()
    expected = epoch(trainer.train_loader_x, 2)
    assert torch.equal(torch.cat([batch["index"] for batch in batches]), expected["index"])
    items = trainer.train_loader_x.dataset.data_source
    for batch in batches:
        assert batch["label"].tolist() == [items[i].label for i in batch["index"]]
        assert batch["impath"] == [items[i].impath for i in batch["index"]]
    for name, encoder in trainer.frozen_encoders().items():
        one_by_one = torch.cat([encoder.encode(image[None]) for image in expected["img"]]).float()
        found = torch.cat([batch[name] for batch in batches]).float()
        assert (found - one_by_one).abs().max() < (1e-5 if name == "teacher" or precision == "fp32" else 3e-2)
    assert sorted(trainer.frozen_encoders()) == (["features"] if precision == "fp32" else ["features", "teacher"])


@pytest.mark.parametrize("seed", [1, -1])
def test_images_and_features_of_a_batch_are_of_the_same_views(run, seed):
    """Without a seed, too, where views are drawn."""
    keys = ("OPTIM.MAX_EPOCH", 1, "TRAINER.PROMPTSRC.TEMPLATES", ["a {}."])
    trainer = run("run", *keys, trainer="PromptSRC", flags=["--seed", str(seed)])
    trainer.train_loader_x.set_epoch(1)
    trainer.epoch = 1
    encoder = trainer.frozen_encoders()["zero_shot"]
    for batch in trainer.training_batches():
        assert torch.allclose(encoder.encode(batch["img"]), batch["zero_shot"], atol=1e-5)


def test_an_evaluation_under_amp_is_in_float32_and_shares_its_features(run, tmp_cache):
    """Autocast is for training: features of its half precision have another name."""

    def entries():
        return sorted(path.name for path in (tmp_cache / "image_features").glob("[!.]*"))

    trainer = run("run", "OPTIM.MAX_EPOCH", 1)
    before = entries()
    trainer.image_precision = "amp"
    trainer._image_features.clear()
    trainer.image_features(trainer.test_loader)
    assert entries() == before


def test_found_made_or_not_kept_gives_the_same_bits(run, tmp_path, toy_args):
    made = run("made")
    found = run("found")
    alone = run("alone", "TRAIN.FEATURE_CACHE", False)
    args = toy_args("CoOp", tmp_path / "killed", "TRAINER.COOP.PREC", "fp32", *AUGMENTED)
    assert status_of(train_until_killed, args, "CoOp") < 0
    resumed = run("killed")
    for other in (found, alone, resumed):
        assert torch.equal(learned(made), learned(other))
    streamed = run("streamed", "TRAIN.FEATURES_GB", 0.0)
    assert torch.allclose(learned(made), learned(streamed), atol=1e-5)


def test_methods_share_what_is_kept(run, tmp_cache):
    def entries():
        return {path.name: path.stat().st_ino for path in (tmp_cache / "image_features").glob("[!.]*")}

    run("first", "TEST.NO_TEST", True)
    first = entries()
    assert len(first) == 3, "one for each epoch"
    for method in FROZEN:
        run(method, "TEST.NO_TEST", True, "OPTIM.LR", 0.1, trainer=method)
    assert entries().items() >= first.items() and len(entries()) == 3
    run("turns", "TEST.NO_TEST", True, "INPUT.VIEWS", 2)
    assert len(entries()) == 3, "the views of epochs 0, 1, 0"
    run("seed", "TEST.NO_TEST", True, flags=["--seed", "2"])
    assert len(entries()) == 6


def test_a_model_that_does_not_say_what_it_encodes_keeps_nothing(run, tmp_cache, monkeypatch):
    run("run")
    before = len(list((tmp_cache / "image_features").iterdir()))

    class Doubled(type(run("again", "OPTIM.MAX_EPOCH", 1).model)):
        def encode_image(self, images):
            return 2 * super().encode_image(images)

    build = CoOp.build_prompted_clip

    def doubled(self, *args):
        model = build(self, *args)
        model.__class__ = Doubled
        return model

    monkeypatch.setattr(CoOp, "build_prompted_clip", doubled)
    run("doubled")
    assert len(list((tmp_cache / "image_features").iterdir())) == before


def test_one_that_trains_its_image_encoder_has_to_say_so(run, monkeypatch):
    build = CoOp.build_prompted_clip

    def open_to_training(self, *args):
        model = build(self, *args)
        model.image_encoder.requires_grad_(True)
        return model

    monkeypatch.setattr(CoOp, "build_prompted_clip", open_to_training)
    with pytest.raises(UserError, match="CoOp trains its image encoder: set its frozen_image_encoder False"):
        run("run")


def test_loaders_of_others_have_no_views_in_order(run):
    loader = torch.utils.data.DataLoader(run("run", "OPTIM.MAX_EPOCH", 1).train_loader_x.dataset, shuffle=True)
    assert in_order(loader, 4) is None
