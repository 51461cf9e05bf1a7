"""The head of a run's log: what concerns the run, in the form that readers of CoOp's logs know."""

import yaml

from dassl.layout import flat
from report.results import read_log

KEYS = ("TRAINER.KGCOOP.W", 2.0, "OPTIM.GAMMA", 0.5, "TRAINER.COOP.N_CTX", 2, "DATASET.BACKBONES.vit", "toy")


def head(log):
    """(the arguments, the config) that a log shows."""
    before, _, rest = log.partition("************\n** Config **\n************\n")
    arguments = before.partition("***************\n** Arguments **\n***************\n")[2]
    return yaml.safe_load(arguments), yaml.safe_load(rest.partition("Collecting env info")[0])


def test_the_log_shows_what_concerns_the_run(tmp_path, toy_run):
    toy_run("KgCoOp", tmp_path, *KEYS, config="vit_b16_ep100_ctxv1")
    log = (tmp_path / "log.txt").read_text()
    assert f"; all are in {tmp_path}/config.yaml\n" in log
    arguments, shown = head(log)
    assert {"trainer", "output_dir", "opts"} <= set(arguments) and not {"replay", "keys", "resume"} & set(arguments)
    shown, whole = flat(shown), flat(yaml.safe_load((tmp_path / "config.yaml").read_text()))
    assert {"SEED", "DATASET.NUM_SHOTS", "MODEL.BACKBONE.NAME", "TEST.SPLIT"} <= set(shown) < set(whole)
    assert shown["OPTIM.GAMMA"] == 0.5  # it differs
    assert "DATASET.BACKBONES.vit" not in shown, "the benchmark's"
    own = "TRAINER.KGCOOP."
    assert {key for key in whole if key.startswith(own)} == {key for key in shown if key.startswith(own)}
    assert [key for key in shown if key.startswith("TRAINER.") and not key.startswith((own, "TRAINER.NAME"))] == []
    assert len(shown) < 60 < 180 < len(whole)


def test_results_are_read_from_it(tmp_path, toy_run):
    toy_run("CoOp", tmp_path)
    found = read_log(tmp_path)
    assert (found["trainer"], found["dataset"], found["seed"], found["split"]) == ("CoOp", "Caltech101", 1, "test")
    assert found["shots"] and found["backbone"] and found["total"] == 12
