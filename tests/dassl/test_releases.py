"""What published trainers rely on beside single functions: the order of calls, their own config blocks and test()."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from yacs.config import CfgNode

from dassl.config import get_cfg_default
from dassl.engine import SimpleTrainer, TrainerX, TrainerXU
from dassl.utils import setup_logger
from tests.dassl.tiny import Tiny, same, state


def recorded(base, calls, *names):
    """A subclass that notes each call of the named methods."""

    def noting(name):
        def method(self, *args, **options):
            calls.append(name)
            return getattr(super(kind, self), name)(*args, **options)

        return method

    kind = type("Recorded", (base,), {name: noting(name) for name in names})
    return kind


HOOKS = [
    "check_cfg",
    "build_data_loader",
    "build_model",
    "build_evaluator",
    "before_train",
    "before_epoch",
    "run_epoch",
]
HOOKS += ["forward_backward", "parse_batch_train", "model_backward", "model_update", "update_lr", "after_epoch"]
HOOKS += ["after_train", "test", "parse_batch_test", "model_inference"]


def test_hooks_of_a_whole_run_in_order(cfg):
    cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 2, 12
    calls = []
    trainer = recorded(Tiny, calls, *HOOKS)(cfg)
    assert calls == HOOKS[:4]
    calls.clear()
    trainer.train()
    step = ["forward_backward", "parse_batch_train", "model_inference", "model_backward", "model_update"]
    epoch = ["before_epoch", "run_epoch", *step, *step, "update_lr", "after_epoch"]
    assert calls == ["before_train", *epoch, *epoch, "after_train", "test", "parse_batch_test", "model_inference"]


def test_what_trainers_read_of_themselves(cfg):
    trainer = Tiny(cfg)
    trainer.train()
    for name in (
        *("cfg", "device", "dm", "train_loader_x", "train_loader_u", "val_loader", "test_loader", "num_classes"),
        *(
            "num_source_domains",
            "lab2cname",
            "evaluator",
            "output_dir",
            "start_epoch",
            "epoch",
            "max_epoch",
            "batch_idx",
        ),
        *("num_batches", "best_result", "_models", "_optims", "_scheds", "_writer"),
    ):
        assert hasattr(trainer, name), name
    assert set(next(iter(trainer.train_loader_x))) == {"img", "label", "domain", "impath", "index"}
    assert (trainer.epoch, trainer.batch_idx, trainer.num_batches) == (2, 5, 6)


def test_config_blocks_of_their_own(tmp_path):
    """Declared as in a train.py's extend_cfg, set by a file and by arguments through yacs' own methods, then frozen."""
    cfg = get_cfg_default()
    cfg.TRAINER.MINE = CfgNode()
    cfg.TRAINER.MINE.N_CTX = 16
    cfg.TRAINER.MINE.CTX_INIT = ""
    cfg.TRAINER.MINE.SCALE = 1.0
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    cfg.MINE_AT_THE_TOP = CfgNode({"DEEP": CfgNode({"LIST": [1, 2]})})
    (tmp_path / "mine.yaml").write_text(
        'TRAINER:\n  MINE:\n    CTX_INIT: "a photo of a"\nOPTIM:\n  WARMUP_CONS_LR: 1e-5\n'
    )
    cfg.merge_from_file(str(tmp_path / "mine.yaml"))
    cfg.merge_from_list(["TRAINER.MINE.N_CTX", "4", "MINE_AT_THE_TOP.DEEP.LIST", "[3]", "TRAINER.MINE.SCALE", "2.5"])
    cfg.freeze()
    assert cfg.TRAINER.MINE == {"N_CTX": 4, "CTX_INIT": "a photo of a", "SCALE": 2.5}
    assert cfg.MINE_AT_THE_TOP.DEEP.LIST == [3] and cfg.OPTIM.WARMUP_CONS_LR == 1e-5
    with pytest.raises(AttributeError):
        cfg.TRAINER.MINE.N_CTX = 8
    assert "MINE" not in get_cfg_default().TRAINER, "the defaults are nobody's"


def test_checkpoints_have_dassls_keys(cfg):
    cfg.TEST.FINAL_MODEL = "best_val"
    Tiny(cfg).train()
    for name in ("body", "head"):
        folder = Path(cfg.OUTPUT_DIR, name)
        assert (folder / "checkpoint").read_text() in ("model.pth.tar-3\n", "model-best.pth.tar\n")
        last, best = (torch.load(folder / file) for file in ("model.pth.tar-3", "model-best.pth.tar"))
        assert {"state_dict", "epoch", "optimizer", "scheduler", "val_result"} < set(last)
        assert last["epoch"] == 3 and last["val_result"] is None and 0 <= best["val_result"] <= 100
        assert set(last["state_dict"]) == {"weight", "bias"}


def test_the_log_closes_as_dassls(cfg, closing_logger, capsys):
    setup_logger(cfg.OUTPUT_DIR)
    trainer = Tiny(cfg)
    trainer.train()
    log = Path(cfg.OUTPUT_DIR, "log.txt").read_text()
    closing = log[log.index("Finish training") :].splitlines()
    assert closing[:4] == ["Finish training", "Deploy the last-epoch model", "Evaluate on the *test* set", "=> result"]
    words = ["* total: ", "* correct: ", "* accuracy: ", "* error: ", "* macro_f1: ", "Elapsed: "]
    assert [line.startswith(word) for line, word in zip(closing[4:], words, strict=True)] == [True] * 6
    assert closing[6].endswith("%") and "epoch [1/3] batch [" not in closing


class OwnTest(Tiny):
    """With a test() written for Dassl, and a figure of its own."""

    @torch.no_grad()
    def test(self, split=None):
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = split or self.cfg.TEST.SPLIT
        loader = self.val_loader if split == "val" and self.val_loader is not None else self.test_loader
        for batch in loader:
            input, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(input), label)
        results = self.evaluator.evaluate()
        for k, v in results.items():
            self.write_scalar(f"{split}/{k}", v, self.epoch)
        self.tested = getattr(self, "tested", []) + [split]
        return list(results.values())[0]


def test_a_test_of_their_own_is_called_wherever_ours_would_be(cfg):
    cfg.TEST.FINAL_MODEL = "best_val"
    trainer = OwnTest(cfg)
    trainer.train()
    assert trainer.tested == ["val"] * 3 + ["test"] and trainer.best_result >= 0


def test_metrics_from_a_test_of_their_own(cfg):
    """One line more has it leave what ours leaves."""

    class Writing(OwnTest):
        def test(self, split=None):
            accuracy = super().test(split)
            self.write_metrics(self.cfg.TEST.SPLIT, {"accuracy": accuracy}, 0.5)
            return accuracy

    accuracy = Writing(cfg).test()
    metrics = json.loads(Path(cfg.OUTPUT_DIR, "metrics.json").read_text())
    assert metrics["accuracy"] == accuracy and metrics["total"] == 12 and metrics["test_seconds"] == 0.5


def test_several_models_each_with_a_rate_of_its_own(cfg):
    """Registered with an optimizer, without one, and without a scheduler; the rates follow the epochs."""

    class Several(Tiny):
        def build_model(self):
            super().build_model()
            self.fixed, self.constant = nn.Linear(2, 2), nn.Linear(2, 2)
            self.register_model("fixed", self.fixed)
            self.register_model("constant", self.constant, torch.optim.SGD(self.constant.parameters(), lr=0.3))

    trainer = Several(cfg)
    trainer.train()
    rates = [trainer.get_current_lr(name) for name in ("body", "head", "constant")]
    assert rates == [0.0125, 0.0125, 0.3]
    assert {p.name for p in Path(cfg.OUTPUT_DIR).iterdir() if p.is_dir()} == {*trainer.get_model_names(), "tensorboard"}
    again = Several(cfg)
    again.load_model(cfg.OUTPUT_DIR, epoch=3)
    assert same(state(trainer), state(again)) and torch.equal(trainer.fixed.weight, again.fixed.weight)


def test_labelled_beside_unlabelled_with_two_views_each(cfg):
    """A TrainerXU as FixMatch is: K_TRANSFORMS views, parse_batch_train of both batches at once."""

    class Views(TrainerXU):
        build_model, model_inference = Tiny.build_model, Tiny.model_inference

        def parse_batch_train(self, batch_x, batch_u):
            return batch_x["img"], batch_x["label"], batch_u["img"]

        def forward_backward(self, batch_x, batch_u):
            views_x, label, views_u = self.parse_batch_train(batch_x, batch_u)
            assert [len(views) for views in (views_x, views_u)] == [2, 2] and views_x[0].shape == (4, 3, 32, 32)
            loss = nn.functional.cross_entropy(self.model_inference(views_x[0]), label)
            self.model_backward_and_update(loss)
            return {"loss": loss.item()}

    cfg.DATALOADER.K_TRANSFORMS, cfg.OPTIM.MAX_EPOCH = 2, 1
    trainer = Views(cfg)
    before = state(trainer)
    before = {name: value.clone() for name, value in before.items()}
    trainer.train()
    assert not same(before, state(trainer))


def test_the_classes_are_each_others_children():
    assert TrainerXU.__mro__[1] is TrainerX and TrainerX.__mro__[1] is SimpleTrainer
