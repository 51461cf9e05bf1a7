"""The training loop: its hooks and their order, checkpoints of several models, labelled beside unlabelled data."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dassl.data import DataManager
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from dassl.engine import TRAINER_REGISTRY, SimpleNet, SimpleTrainer, TrainerBase, TrainerX, TrainerXU, build_trainer
from dassl.engine import trainer as engine
from dassl.engine.trainer import NonFiniteLossError
from dassl.utils import UserError
from tests.conftest import REPO
from tests.dassl.tiny import Tiny


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


def test_unlabelled_images_come_in_an_order_of_their_own(cfg):
    """Also where they are as many, or the same ones."""
    found = {"train_loader_x": [], "train_loader_u": []}
    dataset = DATASET_REGISTRY.get("Toy")(cfg)
    dataset._train_u = dataset.train_x
    dm = DataManager(cfg, dataset=dataset)
    for name, given in found.items():
        loader = getattr(dm, name)
        for epoch in (0, 1, 0):
            loader.set_epoch(epoch)
            given.append({int(i): i.seed for i in loader.batch_sampler.sampler})
    for x, u in zip(*found.values(), strict=True):
        assert sorted(x) == sorted(u) and list(x) != list(u) and not set(x.values()) & set(u.values())
    assert all(given[0] == given[2] != given[1] for given in found.values())


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
