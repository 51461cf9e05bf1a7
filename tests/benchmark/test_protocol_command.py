"""`python -m benchmark protocol`, as the scripts call it: each protocol whole, on tiny data."""

import pytest

from benchmark.__main__ import main


@pytest.fixture
def protocol(toy_root, toy_backbone, tmp_path, capsys):
    """protocol(name, trainer, *words, root=, ...): its exit status and the lines that it printed itself."""

    def call(*words, root=toy_root, **options):
        options = {"seeds": "1", "backbone": toy_backbone, "output": str(tmp_path), "device": "cpu"} | options
        options = [word for name, value in options.items() for word in (f"--{name}", *value.split())]
        status = main(["protocol", *words, "--root", root, *options])
        told = capsys.readouterr()
        return status, told.out.splitlines(), told.err.splitlines()

    return call


@pytest.mark.parametrize(("trainer", "seeds"), [("MoCoOp", "1"), ("ZeroshotCLIP", "3")])
def test_base2new(trainer, seeds, protocol):
    status, lines, _ = protocol("base2new", trainer, "caltech101", *(["2"] if trainer == "MoCoOp" else []), seeds=seeds)
    assert status == 0
    assert [line.split()[0] for line in lines[-5:]] == ["seed", "------", seeds, "mean", "std"]


def test_few_shot_once_and_again(protocol, tmp_path):
    status, table, _ = protocol("few_shot", "LinearProbe", "caltech101", "2")
    assert status == 0 and table[1].startswith("LinearProbe (vit_b16) on caltech101, 2 shots")
    assert (tmp_path / "caltech101/LinearProbe/vit_b16_2shots/seed1/metrics.json").is_file()
    status, (told, *again), _ = protocol("few_shot", "LinearProbe", "caltech101", "2")
    assert status == 0 and told.startswith("finished already: ") and again == table


def test_domain_generalization(protocol):
    """On the embedded icons, the only set of domains at hand."""
    status, lines, _ = protocol("domain_generalization", "ZeroshotCLIP", "icons_rare")
    head, _, seed, _, _ = lines[-5:]
    assert head.split() == [*("seed", "outline", "filled", "duotone", "pixel", "hand-drawn", "colour", "average")]
    tested = [float(figure) for figure in seed.split()[2:-1]]
    assert float(seed.split()[-1]) == pytest.approx(sum(tested) / 5, abs=0.01)


def test_incremental(protocol):
    """One half of the classes after the other: LAMM, whose first half stays as it was, and CoOp beside it."""
    small = {"beside": "CoOp/vit_b16_ep50_ctxv1"}
    status, lines, _ = protocol("incremental", "LAMM", "caltech101", "2", **small)
    assert status == 0
    coop, lamm = (line.split() for line in lines[-2:])
    assert coop[2] == "CoOp" and lamm[2] == "LAMM" and lamm[5] == lamm[6]


@pytest.mark.parametrize(("trainer", "worlds"), [("CSP", ["closed", "open"]), ("ZeroshotCLIP", ["closed"])])
def test_czsl(trainer, worlds, toy_pairs_root, protocol):
    status, lines, _ = protocol("czsl", trainer, "mit_states", root=toy_pairs_root)
    assert status == 0
    assert [line.split()[-2] for line in lines if line.endswith(" world")] == worlds
    assert [line.split()[0] for line in lines if line and line[0] in "1ms"].count("std") == len(worlds)


def test_a_failed_run_is_told(protocol, tmp_path):
    status, _, errors = protocol("few_shot", "CoOp", "caltech101", "2", root=str(tmp_path))
    assert status == 1 and errors[-1].endswith("seed 1 failed with exit status 1; the same command tries it again")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fewshot", "CoOp", "dtd", "1"], "did you mean few_shot"),
        (["few_shot", "Mine", "caltech101", "1"], "name one by CFG"),
    ],
)
def test_mistakes(words, told, protocol):
    status, _, (error,) = protocol(*words)
    assert status == 1 and told in error
