"""An epoch's steps looked at together: the same log, scalars and errors as of looking at each, in a transfer a line."""

import re

import pytest
import torch
from torch import nn

from dassl.engine.trainer import NonFiniteLossError
from dassl.optim import build_optimizer
from tests.dassl.tiny import Tiny, same, state
from tests.pretend_cuda import CudaTensor, pretend_cuda

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")


class OnDevice(Tiny):
    """Tiny, on a GPU where there is one; it gives numbers of all kinds for the log, and notes what is written."""

    bad = ()  # (epoch, batch) of losses that are not finite

    def build_model(self):
        torch.manual_seed(0)
        super().build_model()
        self.body.to(self.device), self.head.to(self.device)
        self.running, self.written = torch.zeros((), device=self.device), []

    def forward_backward(self, batch):
        image, label, _ = self.parse_batch_train(batch)
        loss = nn.functional.cross_entropy(self.model_inference(image), label)
        if (self.epoch, self.batch_idx) in self.bad:
            loss = loss + float("nan")
        self.model_backward_and_update(loss)
        self.running += 1.0  # changes in place after it was told
        numbers = {"loss": loss, "half": loss[None].half(), "count": self.running}
        return numbers | {"whole": torch.tensor(self.batch_idx)} | ({"seldom": 2.5} if self.batch_idx % 2 else {})

    def write_scalar(self, tag, value, step=None):
        self.written.append((tag, round(float(value), 6), step))


class OneByOne(OnDevice):
    """Looks at every number at once, as Dassl does."""

    def forward_backward(self, batch):
        summary = super().forward_backward(batch)
        return {name: x.item() if isinstance(x, torch.Tensor) else x for name, x in summary.items()}


def lines(caplog):
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("epoch [")]
    caplog.clear()
    return [re.sub(r"time .* data \S+ \(\S+\)|eta .*", "", line) for line in told]


@pytest.mark.parametrize("frequency", [0, 1, 4, 100])
def test_the_log_is_that_of_looking_at_each(cfg, caplog, frequency, tmp_path):
    cfg.TRAIN.PRINT_FREQ, cfg.OPTIM.MAX_EPOCH = frequency, 2
    found = []
    with caplog.at_level("INFO", "dassl"):
        for k, (kind, gpu) in enumerate([(OneByOne, False), (OnDevice, False), (OneByOne, True), (OnDevice, True)]):
            cfg.OUTPUT_DIR = str(tmp_path / str(k))
            if gpu:
                with pretend_cuda():
                    trainer = kind(cfg)
                    assert isinstance(trainer.body.weight, CudaTensor)
                    trainer.train()
            else:
                trainer = kind(cfg)
                trainer.train()
            found.append((lines(caplog), trainer.written))
    logged, written = found[0]
    assert len(logged) == 2 * {0: 0, 1: 6, 4: 1, 100: 6}[frequency]
    assert len([tag for tag, *_ in written if tag == "train/seldom"]) == 2 * 5
    assert all(other == found[0] for other in found[1:])


def test_times_are_of_a_batch(cfg, caplog):
    """The mean since the last line, and since the epoch began; both are positive and add up."""
    cfg.TRAIN.PRINT_FREQ, cfg.OPTIM.MAX_EPOCH = 3, 1
    with caplog.at_level("INFO", "dassl"):
        Tiny(cfg).train()
    found = [re.search(r"time (\S+) \((\S+)\) data (\S+) \((\S+)\)", r.getMessage()) for r in caplog.records]
    (first, second) = ([float(x) for x in match.groups()] for match in found if match)
    assert first[0] == first[1] >= first[2] == first[3] >= 0
    assert second[1] == pytest.approx((first[0] + second[0]) / 2, abs=1.1e-3)


@pytest.mark.parametrize("frequency", [0, 2])
def test_waiting_does_not_grow_with_the_steps(cfg, frequency):
    """One transfer for a log line, or at the epoch's end."""
    cfg.TRAIN.PRINT_FREQ = frequency
    with pretend_cuda() as gpu:
        trainer = OnDevice(cfg)
        trainer.init_writer, trainer.epoch = lambda *args: None, 0
        gpu.clear()
        trainer.run_epoch()
        assert trainer.num_batches == 6 and gpu.syncs == {"tolist": 3 if frequency else 1}


@pytest.mark.parametrize("frequency", [0, 4])
def test_a_broken_loss_is_named_though_it_is_seen_later(cfg, caplog, frequency):
    cfg.TRAIN.PRINT_FREQ = frequency
    OnDevice.bad, saved, steps = [(1, 2), (1, 3)], [], []

    class Noting(OnDevice):
        def save_model(self, epoch, *args, **options):
            super().save_model(epoch, *args, **options)
            saved.append(epoch)

        def forward_backward(self, batch):
            steps.append((self.epoch, self.batch_idx))
            return super().forward_backward(batch)

    try:
        with pretend_cuda():
            trainer = Noting(cfg)
            with pytest.raises(NonFiniteLossError, match=r"at epoch 2, batch 3 .*the last checkpoint is kept"):
                trainer.train()
    finally:
        OnDevice.bad = ()
    assert saved == [0] and steps[-1] == (1, 3 if frequency else 5)
    told = [step for tag, _, step in trainer.written if tag == "train/loss"]
    assert told == list(range(6 + 2)), "the batches before it are told of"


def test_a_checkpoint_in_an_epoch_is_not_of_a_broken_loss(cfg):
    cfg.TRAIN.PRINT_FREQ = 0

    class Saving(OnDevice):
        bad = [(0, 1)]

        def forward_backward(self, batch):
            if self.batch_idx == 4:
                self.save_model(self.epoch, self.output_dir)
            return super().forward_backward(batch)

    with pretend_cuda(), pytest.raises(NonFiniteLossError, match=r"epoch 1, batch 2 .*no checkpoint was written yet"):
        trainer = Saving(cfg)
        trainer.train()
    assert trainer.batch_idx == 4


def test_loops_of_their_own_learn_of_it_at_once(cfg):
    """Of a release that overrides run_epoch nobody else looks."""

    class OwnLoop(OnDevice):
        bad = [(0, 1)]

        def run_epoch(self):
            self.num_batches = len(self.train_loader_x)
            for self.batch_idx, batch in enumerate(self.train_loader_x):
                self.forward_backward(batch)

    with pretend_cuda(), pytest.raises(NonFiniteLossError, match="epoch 1, batch 2"):
        trainer = OwnLoop(cfg)
        trainer.train()
    assert trainer.batch_idx == 1


# Optimizers


def learner(cfg, name, device, **settings):
    cfg.OPTIM.update({"NAME": name, "LR": 0.1, "MOMENTUM": 0.9, **settings})
    torch.manual_seed(0)
    model = nn.Linear(3, 2).to(device)
    return model, build_optimizer(model, cfg.OPTIM, [{"params": iter([model.weight])}, {"params": model.bias}])


def steps(model, optimizer, number, scaler=None, broken=()):
    """Steps on fixed data, `broken` ones with infinite gradients."""
    data = torch.arange(12.0).view(4, 3).to(model.weight.device)
    for k in range(number):
        optimizer.zero_grad()
        loss = model(data).square().mean() * (float("inf") if k in broken else 1)
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    return torch.cat([p.detach().cpu().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["sgd", "adam", "amsgrad", "adamw"])
def test_fused_on_a_gpu_alone_and_checkpoints_of_either_load(cfg, name):
    model, plain = learner(cfg, name, "cpu")
    before = steps(model, plain, 2)
    halfway = {"model": model.state_dict(), "optimizer": plain.state_dict()}
    halfway = torch.load(_saved(halfway, cfg))
    expected = steps(model, plain, 2)
    assert not any(group["fused"] for group in plain.param_groups)
    with pretend_cuda():
        model, fused = learner(cfg, name, "cuda")
        assert [(group["fused"], group["lr"]) for group in fused.param_groups] == [(True, 0.1)] * 2
        assert torch.allclose(steps(model, fused, 2), before, atol=1e-6)
        back = torch.load(_saved({"model": model.state_dict(), "optimizer": fused.state_dict()}, cfg))
        model, fused = learner(cfg, name, "cuda")
        model.load_state_dict(halfway["model"])
        fused.load_state_dict(halfway["optimizer"])
        assert all(group["fused"] for group in fused.param_groups)
        assert torch.allclose(steps(model, fused, 2), expected, atol=1e-6)
    model, plain = learner(cfg, name, "cpu")
    model.load_state_dict(back["model"])
    plain.load_state_dict(back["optimizer"])
    assert not any(group["fused"] for group in plain.param_groups)
    assert torch.allclose(steps(model, plain, 2), expected, atol=1e-6)


def _saved(state, cfg):
    path = f"{cfg.OUTPUT_DIR}.pt"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_scaler_leaves_out_steps_without_waiting(cfg, name):
    """The first step too, after which a fused SGD's momentum would be whatever was in memory: here, NaN."""
    model, plain = learner(cfg, name, "cpu")
    expected = steps(model, plain, 3)
    with pretend_cuda() as gpu:
        model, fused = learner(cfg, name, "cuda")
        scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
        torch.use_deterministic_algorithms(True)
        try:
            steps(model, fused, 1, scaler, broken=[0])
        finally:
            torch.use_deterministic_algorithms(False)
        assert torch.allclose(steps(model, fused, 4, scaler, broken=[1]), expected, atol=1e-6)
        gpu.clear()
        steps(model, fused, 3, scaler)
        assert gpu.syncs == {"upload": 1, "to cpu": 2}, "the data, and the parameters at the end"


def test_not_fused_with_dampening(cfg):
    with pretend_cuda():
        assert not any(g["fused"] for g in learner(cfg, "sgd", "cuda", SGD_DAMPNING=0.5)[1].param_groups)
        learner(cfg, "rmsprop", "cuda"), learner(cfg, "radam", "cuda")


def test_trained_as_on_a_cpu(cfg, tmp_path):
    trainer = OnDevice(cfg)
    trainer.train()
    cfg.OUTPUT_DIR = str(tmp_path / "gpu")
    with pretend_cuda():
        on_gpu = OnDevice(cfg)
        on_gpu.train()
        found = {name: value.cpu() for name, value in state(on_gpu).items()}
    assert same(state(trainer), found)
