"""The training loop: its hooks and their order, checkpoints of several models, labelled beside unlabelled data."""

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, SimpleNet, SimpleTrainer, TrainerBase, TrainerX, TrainerXU, build_trainer
from dassl.engine import trainer as engine
from dassl.engine.trainer import NonFiniteLossError
from dassl.metrics import compute_accuracy
from dassl.utils import UserError, set_random_seed
from tests.conftest import REPO


@pytest.fixture
def cfg(tmp_path, toy_root):
    """A config of a dataset with labelled and unlabelled images, small enough for any network."""

    @DATASET_REGISTRY.register(force=True)
    class Toy(DatasetBase):
        def __init__(self, cfg):
            split = json.loads((folder.parent / "split_zhou_Caltech101.json").read_text())
            parts = {
                part: [Datum(str(folder / path), label, 0, name) for path, label, name in entries]
                for part, entries in split.items()
            }
            super().__init__(train_x=parts["train"], train_u=parts["train"][:8], val=parts["val"], test=parts["test"])

    folder = Path(toy_root) / "caltech-101" / "101_ObjectCategories"
    cfg = get_cfg_default()
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.DATASET.NAME = "Toy"
    cfg.INPUT.SIZE = (32, 32)
    cfg.INPUT.TRANSFORMS = ("random_flip", "normalize")
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
    cfg.MODEL.BACKBONE.NAME = "squeezenet1_1"
    cfg.OPTIM.MAX_EPOCH = 3
    set_random_seed(1)
    return cfg


class Tiny(TrainerX):
    """A linear classifier of two registered models."""

    def build_model(self):
        self.body, self.head = nn.Linear(3, 5), nn.Linear(5, self.num_classes)
        for name, model in (("body", self.body), ("head", self.head)):
            optim = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            self.register_model(name, model, optim, torch.optim.lr_scheduler.StepLR(optim, 1, 0.5))

    def model_inference(self, image):
        return self.head(self.body(image.mean(dim=(2, 3))).relu())

    def forward_backward(self, batch):
        image, label, domain = self.parse_batch_train(batch)
        output = self.model_inference(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}


def state(trainer):
    return {**trainer.body.state_dict(prefix="body."), **trainer.head.state_dict(prefix="head.")}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_hooks_in_order():
    calls = []

    class Order(TrainerBase):
        def before_train(self):
            calls.append("before_train")
            self.start_epoch = 1

        def before_epoch(self):
            calls.append(f"before_epoch {self.epoch}")

        def run_epoch(self):
            calls.append("run_epoch")

        def after_epoch(self):
            calls.append("after_epoch")

        def after_train(self):
            calls.append("after_train")

    Order().train(0, 3)
    epochs = [[f"before_epoch {e}", "run_epoch", "after_epoch"] for e in (1, 2)]
    assert calls == ["before_train", *epochs[0], *epochs[1], "after_train"]


def test_models_are_registered_once_and_named():
    trainer = TrainerBase()
    trainer.register_model("a", nn.Linear(1, 1))
    trainer.register_model("b", nn.Linear(1, 1))
    assert trainer.get_model_names() == ["a", "b"] and trainer.get_model_names("b") == ["b"]
    with pytest.raises(ValueError, match='already registered as "a"'):
        trainer.register_model("a", nn.Linear(1, 1))
    with pytest.raises(ValueError, match='no model is registered as "c"'):
        trainer.get_model_names(["a", "c"])


def test_modes_steps_and_rates_by_name(cfg):
    trainer = Tiny(cfg)
    trainer.set_model_mode("eval", "head")
    assert trainer.body.training and not trainer.head.training
    trainer.set_model_mode("train")
    assert trainer.head.training
    body, head = trainer.body.weight.clone(), trainer.head.weight.clone()
    loss = trainer.model_inference(torch.ones(2, 3, 8, 8)).sum()
    trainer.model_backward_and_update(loss, names=["head"])
    assert torch.equal(body, trainer.body.weight) and not torch.equal(head, trainer.head.weight)
    trainer.update_lr("head")
    assert trainer.get_current_lr("head") == 0.05 and trainer.get_current_lr() == 0.1


def test_the_step_of_prograds_release_by_hand():
    """At rate 1 a parameter loses its gradient: 3 and 4 on loss_a, less what loss_b says against it, by tensor."""
    for half in (torch.float32, torch.float16):
        model = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(2, dtype=half)) for name in ("obtuse", "acute", "own")}
        )
        model["frozen"] = nn.Parameter(torch.zeros(2), requires_grad=False)
        other = nn.Linear(1, 1)
        trainer = TrainerBase()
        for name, part in (("model", model), ("other", other)):
            learned = [p for p in part.parameters() if p.requires_grad]
            trainer.register_model(name, part, torch.optim.SGD(learned, lr=1.0))
        small = 2.0**-15  # squares of such gradients vanish in half precision
        before = other.weight.clone()

        def losses(model=model, small=small):
            a, b = small * torch.tensor([3.0, 4.0]), small * torch.tensor([0.0, -2.0])
            loss_a = sum((model[name] * a).sum() for name in ("obtuse", "acute", "own"))
            return loss_a, (model["obtuse"] * b).sum() - (model["acute"] * b).sum()

        for weight, left in ((1, 0.0), (0.25, 3.0)):
            for p in model.values():
                p.data.zero_()
            trainer.prograd_backward_and_update(*losses(), weight, names="model")
            moved = {name: (-p / small).tolist() for name, p in model.items()}
            assert moved == {"obtuse": [3, left], "acute": [3, 4], "own": [3, 4], "frozen": [0, 0]}
        assert torch.equal(other.weight, before)
        with pytest.raises(NonFiniteLossError):
            trainer.prograd_backward_and_update(losses()[0], losses()[1] * math.nan)


def test_a_trainer_that_registers_nothing(cfg):
    """As zero-shot ones do: there is nothing to load or to go on from, and all the rest goes as ever."""

    class Bare(TrainerX):
        def build_model(self):
            pass

        def model_inference(self, image):
            return image.mean(dim=(2, 3)) @ torch.ones(3, self.num_classes)

        def forward_backward(self, batch):
            raise AssertionError("no epoch was asked for")

    trainer = Bare(cfg)
    trainer.load_model()
    trainer.load_model(cfg.OUTPUT_DIR, epoch=3)
    assert not trainer.has_weights() and trainer.resume_model_if_exist(cfg.OUTPUT_DIR) == 0
    trainer.max_epoch = 0
    trainer.train()
    assert Path(cfg.OUTPUT_DIR, "metrics.json").is_file()


def test_tensorboard_waits_until_it_is_asked_for():
    code = (
        "import sys; from dassl.engine import trainer; assert 'tensorboard' not in sys.modules; trainer.SummaryWriter"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(REPO)})
    assert engine.SummaryWriter is torch.utils.tensorboard.SummaryWriter
    with pytest.raises(AttributeError, match="'SummaryWritter'"):
        _ = engine.SummaryWritter


def test_training_learns_and_reports(cfg):
    cfg.OPTIM.MAX_EPOCH = 30
    trainer = Tiny(cfg)
    trainer._scheds = dict.fromkeys(trainer._scheds)
    trainer.train()
    assert trainer.test() > 60, "the classes differ in colour"
    assert json.loads(Path(cfg.OUTPUT_DIR, "metrics.json").read_text())["accuracy"] > 60


@pytest.mark.parametrize("stop", [("body", 2), ("head", 2), ("batch", 6)])
def test_a_run_stopped_anywhere_goes_on_to_the_same_weights(cfg, stop, monkeypatch):
    """Also between the files of two models, which leaves one an epoch ahead."""

    class Stopping(Tiny):
        def forward_backward(self, batch):
            if stop == ("batch", self.epoch * self.num_batches + self.batch_idx):
                raise Killed
            return super().forward_backward(batch)

    def save(state, folder, **options):
        real(state, folder, **options)
        if folder.endswith(stop[0]) and state["epoch"] == stop[1]:
            raise Killed

    whole = Tiny(cfg)
    whole.train()
    cfg.OUTPUT_DIR += "2"
    real = engine.save_checkpoint
    monkeypatch.setattr(engine, "save_checkpoint", save)
    set_random_seed(1)
    with pytest.raises(Killed):
        Stopping(cfg).train()
    monkeypatch.setattr(engine, "save_checkpoint", real)
    set_random_seed(99)
    resumed = Tiny(cfg)
    resumed.train()
    assert resumed.start_epoch >= 1 and same(state(whole), state(resumed))
    assert whole.get_current_lr() == resumed.get_current_lr()


class Killed(BaseException):
    pass


class Mortal:
    """Counts the operations that change what lies in a folder; from number `last` on it allows none, as if killed."""

    def __init__(self, monkeypatch, last):
        self.last, self.done = last, 0
        for name in ("replace", "remove", "unlink"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        monkeypatch.setattr(shutil, "copyfile", self.counted(shutil.copyfile))

    def counted(self, real):
        def operation(*args, **options):
            if self.done >= self.last:
                raise Killed
            self.done += 1
            return real(*args, **options)

        return operation


def files(output):
    """{model: the files in its folder}, hidden ones too."""
    return {name: {p.name for p in Path(output, name).iterdir()} for name in ("body", "head")}


@pytest.mark.parametrize(("frequency", "final", "resumed"), [(0, "last_step", True), (2, "best_val", False)])
def test_a_kill_at_any_file_operation_leaves_nothing_behind(cfg, frequency, final, resumed, monkeypatch):
    """Whatever the kill cut short: the next run ends with the same weights and the same files, none stale."""
    results = {}

    class Quick(Tiny):
        def build_data_loader(self):
            super().build_data_loader()
            self.train_loader_x = [batch for _, batch in zip(range(1), self.train_loader_x, strict=False)]

        def test(self, split=None):
            return {0: 1.0, 1: 3.0, 2: 2.0}[self.epoch]

        def init_writer(self, *args):
            pass

    def train(output, last=math.inf, seed=1):
        cfg.OUTPUT_DIR = str(root / output)
        set_random_seed(seed)
        trainer = Quick(cfg)
        with monkeypatch.context() as patched:
            mortal = Mortal(patched, last)
            with contextlib.suppress(Killed):
                trainer.train()
                results[output] = state(trainer)
        return mortal.done

    root = Path(cfg.OUTPUT_DIR)
    cfg.TRAIN.CHECKPOINT_FREQ, cfg.TEST.FINAL_MODEL = frequency, final
    if resumed:  # from a folder that stays as it is
        cfg.OPTIM.MAX_EPOCH = 1
        train("before", seed=2)  # other weights than a start from scratch would come to
        cfg.OPTIM.MAX_EPOCH, cfg.RESUME = 3, str(root / "before")
        before = files(root / "before")
    operations = train("whole")
    expected = files(root / "whole")
    kept = {"checkpoint", "model.pth.tar-3"} | ({"model.pth.tar-2", "model-best.pth.tar"} if frequency else set())
    assert expected == {"body": kept, "head": kept} and operations > 15
    for last in range(operations):
        train(f"{last}", last)
        assert f"{last}" not in results
        train(f"{last}")
        assert same(results["whole"], results[f"{last}"]) and files(root / f"{last}") == expected, last
    if resumed:
        assert files(root / "before") == before


def test_what_is_kept_on_purpose_is_not_swept(cfg):
    """Not by a run that finds itself finished, whatever CHECKPOINT_FREQ is now; not by one that only tests."""
    cfg.TRAIN.CHECKPOINT_FREQ = 1
    Tiny(cfg).train()
    folder = Path(cfg.OUTPUT_DIR, "body")
    for name in ("model.pth.tar-mine", ".notes.txt"):
        (folder / name).touch()
    before = files(cfg.OUTPUT_DIR)
    assert {"model.pth.tar-1", "model.pth.tar-2", "model.pth.tar-3"} < before["body"]
    cfg.TRAIN.CHECKPOINT_FREQ = 0
    Tiny(cfg).train()
    assert files(cfg.OUTPUT_DIR) == before
    Path(cfg.OUTPUT_DIR, "metrics.json").unlink()
    half_written = folder / f".{'0' * 32}.model.pth.tar-4"
    half_written.touch()
    trainer = Tiny(cfg)
    trainer.load_model(cfg.OUTPUT_DIR, epoch=2)
    trainer.test()
    assert files(cfg.OUTPUT_DIR) == before | {"body": before["body"] | {half_written.name}}


def test_the_best_on_val_is_deployed_and_survives_a_resume(cfg):
    results = iter([10.0, 50.0, 20.0])

    class Validated(Tiny):
        def test(self, split=None):
            if split == "val":
                self.kept[self.epoch] = {k: v.clone() for k, v in state(self).items()}
                return next(results)
            return super().test(split)

        kept = {}

    cfg.TEST.FINAL_MODEL = "best_val"
    trainer = Validated(cfg)
    trainer.train()
    assert trainer.best_result == 50.0 and same(trainer.kept[1], state(trainer))
    again = Tiny(cfg)
    again.load_model(cfg.OUTPUT_DIR)
    assert same(trainer.kept[1], state(again)), "the best is what load_model takes by default"
    again.load_model(cfg.OUTPUT_DIR, epoch=3)
    assert same(trainer.kept[2], state(again))
    assert Tiny(cfg).resume_model_if_exist(cfg.OUTPUT_DIR) == 3


def test_a_missing_epoch_says_what_is_there(cfg):
    trainer = Tiny(cfg)
    trainer.train()
    with pytest.raises(UserError, match=r"model\.pth\.tar-7.*found there: model\.pth\.tar-3"):
        trainer.load_model(cfg.OUTPUT_DIR, epoch=7)


def test_weights_of_another_shape_are_refused(cfg):
    trainer = Tiny(cfg)
    with pytest.raises(UserError, match=r"the weights in X do not fit this config's body: .*size mismatch for weight"):
        trainer.load_weights("body", nn.Linear(4, 5).state_dict(), "X")


def test_a_dataset_for_testing_alone_is_tested_but_not_trained_on(cfg):
    @DATASET_REGISTRY.register(force=True)
    class TestAlone(DATASET_REGISTRY.get("Toy")):
        def __init__(self, cfg):
            super().__init__(cfg)
            DatasetBase.__init__(self, test=self.test)

    cfg.DATASET.NAME = "TestAlone"
    trainer = Tiny(cfg)
    assert trainer.num_classes == 4 and 0 <= trainer.test() <= 100
    with pytest.raises(UserError, match="TestAlone has no images to train on: give --eval-only and --model-dir"):
        trainer.train()


def test_a_loss_that_is_not_finite_stops(cfg):
    trainer = Tiny(cfg)
    trainer.epoch, trainer.batch_idx = 4, 6
    for value in ("nan", "inf"):
        with pytest.raises(NonFiniteLossError, match="epoch 5, batch 7"):
            trainer.model_backward_and_update(torch.tensor(float(value)))
    assert issubclass(NonFiniteLossError, FloatingPointError), "what Dassl raises"


@pytest.mark.parametrize(("count", "batches"), [("train_x", 6), ("train_u", 2), ("smaller_one", 2)])
def test_labelled_beside_unlabelled(cfg, count, batches):
    seen = []

    class Both(TrainerXU):
        build_model, model_inference = Tiny.build_model, Tiny.model_inference

        def forward_backward(self, batch_x, batch_u):
            image_x, label_x, image_u = self.parse_batch_train(batch_x, batch_u)
            seen.append((len(image_x), len(label_x), len(image_u)))
            return {"loss": 0.0}

    cfg.TRAIN.COUNT_ITER, cfg.OPTIM.MAX_EPOCH = count, 1
    Both(cfg).train()
    assert seen == [(4, 4, 4)] * batches


def test_scalars_and_log_lines(cfg, caplog):
    written = []

    class Writing(Tiny):
        def write_scalar(self, tag, value, step=None):
            written.append((tag, step))
            super().write_scalar(tag, value, step)

    cfg.TRAIN.PRINT_FREQ = 3
    with caplog.at_level("INFO", "dassl"):
        Writing(cfg).train()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("epoch [")]
    assert len(lines) == 3 * 2 and lines[0].startswith("epoch [1/3] batch [3/6] time ")
    assert all(word in lines[0] for word in (" data ", " loss ", " acc ", " lr 1.0000e-01", " eta "))
    assert [s for t, s in written if t == "train/loss"] == list(range(18)) and ("test/accuracy", 2) in written
    assert list(Path(cfg.OUTPUT_DIR, "tensorboard").glob("events*"))


def test_build_trainer_by_name(cfg):
    TRAINER_REGISTRY.register(Tiny, force=True)
    cfg.TRAINER.NAME = "Tiny"
    assert isinstance(build_trainer(cfg), Tiny)
    cfg.TRAINER.NAME = "Tinny"
    with pytest.raises(UserError, match='no "Tinny" in the TRAINER registry: did you mean Tiny'):
        build_trainer(cfg)


def test_check_cfg_comes_first(cfg):
    class Picky(Tiny):
        def check_cfg(self, cfg):
            raise UserError("no")

        def build_data_loader(self):
            raise AssertionError("checked too late")

    with pytest.raises(UserError, match="^no$"):
        Picky(cfg)


def test_simple_trainer_builds_a_torchvision_network(cfg):
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PRETRAINED = "resnet18", False
    trainer = SimpleTrainer(cfg)
    assert trainer.model.fdim == 512 and trainer.model(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    assert trainer.get_model_names() == ["model"]


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("mobilenet_v3_small", 1024), ("vit_b_32", 768)])
def test_simple_net(cfg, name, width):
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PRETRAINED = name, False
    images = torch.rand(2, 3, 224, 224)
    net = SimpleNet(cfg, cfg.MODEL, 7).eval()
    logits, features = net(images, return_feature=True)
    assert net.fdim == width and logits.shape == (2, 7) and features.shape == (2, width)
    assert torch.allclose(net.classifier(features), logits)
    assert SimpleNet(cfg, cfg.MODEL, 0).eval()(images).shape == (2, width)


def test_simple_net_with_a_head_and_mistakes(cfg):
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PRETRAINED = "resnet18", False
    cfg.MODEL.HEAD.NAME, cfg.MODEL.HEAD.HIDDEN_LAYERS, cfg.MODEL.HEAD.DROPOUT = "mlp", (16, 8), 0.5
    net = SimpleNet(cfg, cfg.MODEL, 3)
    assert net.fdim == 8 and net(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    for key, value, hint in (("HEAD", "mpl", "mlp"), ("BACKBONE", "resnet19", "resnet18")):
        bad = cfg.clone()
        bad.MODEL[key].NAME = value
        with pytest.raises(UserError, match=hint):
            SimpleNet(bad, bad.MODEL, 3)
