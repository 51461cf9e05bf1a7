"""SIGTERM in a run: the epoch is finished if there is time, the status says to go on later, the bits are the same."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train
from dassl import signals
from dassl.engine import TRAINER_REGISTRY, stopping
from dassl.errors import GO_ON_LATER, Stopped, UserError, exit_status
from dassl.utils import load_checkpoint, set_random_seed
from tests.dassl.tiny import Tiny, same, state
from tests.in_a_process import CONTEXT, status_of, together


def told():
    os.kill(os.getpid(), signal.SIGTERM)


class Told(Tiny):
    """Gets SIGTERM in a batch, or in the closing evaluation."""

    at = None

    def forward_backward(self, batch):
        if (self.epoch, self.batch_idx) == self.at:
            told()
        return super().forward_backward(batch)

    def model_inference(self, image):
        if self.at == "test" and not torch.is_grad_enabled():
            told()
        return super().model_inference(image)


class OwnLoop(Told):
    """As releases have it, with an epoch of its own that the engine does not see into."""

    def run_epoch(self):
        self.set_model_mode("train")
        for self.batch_idx, batch in enumerate(self.train_loader_x):
            self.num_batches = len(self.train_loader_x)
            self.forward_backward(batch)


class OwnSaving(Told):
    """As Dassl has it: at the end alone, unless the config says more."""

    def after_epoch(self):
        if self.epoch + 1 == self.max_epoch:
            self.save_model(self.epoch, self.output_dir)


def last(cfg):
    return sorted(path.name for path in Path(cfg.OUTPUT_DIR, "body").glob("model.pth.tar-*"))[-1:]


@pytest.mark.parametrize(
    ("kind", "grace", "left"),
    [(Told, "60", 1), (Told, "0", 0), (OwnLoop, "60", 1), (OwnLoop, "0", 0), (OwnSaving, "60", 1)],
)
def test_a_run_told_anywhere_goes_on_to_the_same_weights(kind, grace, left, cfg, monkeypatch, capfd):
    monkeypatch.setenv("MOCOOP_GRACE", grace)
    whole = kind(cfg)
    whole.train()
    folder = cfg.OUTPUT_DIR
    for at in [(0, 0), (0, 4), (1, 0), (1, 5), (2, 3), "test"]:
        cfg.OUTPUT_DIR = f"{folder}-{at}"
        set_random_seed(1)
        kind.at = at
        capfd.readouterr()
        with pytest.raises(Stopped):
            kind(cfg).train()
        line = capfd.readouterr().err
        assert line.count("\n") == 1 and line.endswith("the same command " + line.partition("the same command ")[2])
        finished = 3 if at == "test" else at[0] + left
        assert last(cfg) == ([f"model.pth.tar-{finished}"] if finished else [])
        assert not Path(cfg.OUTPUT_DIR, "metrics.json").exists()
        kind.at = None
        set_random_seed(99 if finished else 1)
        resumed = kind(cfg)
        resumed.train()
        assert resumed.start_epoch == finished and same(state(whole), state(resumed)), at
        assert Path(cfg.OUTPUT_DIR, "metrics.json").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and not signals.heard()


@pytest.mark.parametrize(
    ("batch", "epochs", "spent", "line"),
    [
        (0, [], 5, "epoch 1, if that takes no longer than 25 s, is finished first"),
        (2, [], 10, "stopped by SIGTERM"),  # of 10 batches two took 10 s
        (6, [], 30, "epoch 1, which takes about 20 s, is finished first"),
        (0, [80], 5, "stopped by SIGTERM"),
        (9, [80], 61, "epoch 2, which takes about 7 s, is finished first"),
        (9, [80], 99, "epoch 2, which takes about 1 s, is finished first"),  # what it takes beyond is cut short
    ],
)
def test_whether_there_is_time(batch, epochs, spent, line, monkeypatch, capfd):
    now = [0.0]
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: now[0]))
    trainer = SimpleNamespace(epoch=0, batch_idx=batch, num_batches=10, close_writer=lambda: None)
    with pytest.raises(Stopped), stopping.between_epochs(trainer) as end:
        for trainer.epoch, seconds in enumerate(epochs, start=1):
            now[0] += seconds
            end()
        now[0] += spent
        told()
        assert "finished first" in line
        end()
    assert capfd.readouterr().err.startswith(line if line.startswith("stopped") else f"SIGTERM: {line}")


def test_a_grace_that_is_no_time(monkeypatch):
    for said in ("soon", "-1", "inf", "nan"):
        monkeypatch.setenv("MOCOOP_GRACE", said)
        with pytest.raises(UserError, match=f'MOCOOP_GRACE is "{said}": give the seconds'), signals.heeding():
            pass


def in_a_long_epoch(how):
    """It never comes to its end."""

    def work():
        with stopping.between_epochs(SimpleNamespace(epoch=0)):
            told()
            told()  # passed on by a launcher
            if how == "told twice":
                signals._heard -= signals.SAME + 1
                told()
            while True:
                time.sleep(0.01)

    os.environ["MOCOOP_GRACE"] = "0.2" if how == "too long" else "1000"
    exit_status(work)


@pytest.mark.parametrize("how", ["too long", "told twice"])
def test_an_end_at_once(how):
    assert status_of(in_a_long_epoch, how) == GO_ON_LATER


def in_deaf_code():
    os.environ["MOCOOP_GRACE"], signals.UNWINDING = "0", 0.2
    with signals.heeding():
        with pytest.raises(Stopped), signals.heeding():
            told()
        time.sleep(60)


def test_stopped_that_is_swallowed():
    assert status_of(in_deaf_code) == GO_ON_LATER


def done():
    signals.end_in_one_line()
    with signals.heeding():
        pass
    told()


def test_a_program_that_is_done_is_done():
    assert status_of(done) == 0


def in_an_import(number, folder):
    Path(folder, "told_when_imported.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {number})\nexcept BaseException:\n    pass\n"
    )
    os.sys.path.insert(0, folder)
    signals.end_in_one_line()
    with open(Path(folder, "told.txt"), "wb") as file:
        os.dup2(file.fileno(), 2)

    def work():
        with signals.heeding():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            import told_when_imported  # noqa: F401

    exit_status(work)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, GO_ON_LATER)])
def test_modules_that_catch_everything(number, status, tmp_path):
    assert status_of(in_an_import, int(number), str(tmp_path)) == status
    assert (tmp_path / "told.txt").read_text().count("the same command continues where it stopped\n") == 1


def train_until_told(argv, group=False):
    """Train until SIGTERM in the second batch of the second epoch, to the process or to all of its group."""
    multiprocessing.set_start_method(None, force=True)  # as under train.py
    if group:
        os.setpgid(0, 0)
    kind = TRAINER_REGISTRY.get("CoOp")
    step = kind.model_backward_and_update

    def then_told(self, *loss):
        if (self.epoch, self.batch_idx) == (1, 1) and os.environ.get("RANK", "1") in ("1", os.environ.get("ALL")):
            os.killpg(0, signal.SIGTERM) if group else told()
        step(self, *loss)

    kind.model_backward_and_update = then_told
    raise SystemExit(train.run(argv))


def weights(folder):
    return load_checkpoint(Path(folder, "prompt_learner", "model.pth.tar-3"))["state_dict"]["ctx"]


def test_all_processes_of_a_job_are_told(tmp_path, toy_args, toy_run):
    """As systemd and timeout do: those that load the epoch's images stay for its end, and no longer."""
    keys = ("DATALOADER.NUM_WORKERS", 2, "TRAIN.FEATURE_CACHE", False, "USE_CUDA", False)
    words = toy_args("CoOp", tmp_path / "run", *keys)
    process = CONTEXT.Process(target=train_until_told, args=(words, True))
    process.start()
    process.join()
    assert process.exitcode == GO_ON_LATER
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    folder = tmp_path / "run"
    assert (folder / "prompt_learner" / "checkpoint").read_text() == "model.pth.tar-2\n"
    assert not (folder / "metrics.json").exists() and not (folder / ".lock").exists()
    assert (
        (folder / "log.txt").read_text().endswith("\nstopped by SIGTERM; the same command continues where it stopped\n")
    )
    toy_run("CoOp", folder, *keys)
    toy_run("CoOp", tmp_path / "whole", *keys)
    assert torch.equal(weights(folder), weights(tmp_path / "whole"))


def test_processes_that_train_together_stop_alike(tmp_path, toy_args):
    """Whichever of them is told."""
    words = toy_args("CoOp", tmp_path / "run", "DATALOADER.NUM_WORKERS", 0, "USE_CUDA", False)
    assert together(tmp_path / "told", train_until_told, words) == [GO_ON_LATER] * 2
    assert (tmp_path / "run" / "prompt_learner" / "checkpoint").read_text() == "model.pth.tar-2\n"
