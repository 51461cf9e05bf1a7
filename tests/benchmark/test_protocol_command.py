"""`python -m benchmark protocol`, as the scripts call it: each protocol whole, on tiny data."""

import pytest
import yaml

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
    assert [line.split()[0] for line in lines[-4:]] == ["seed", "------", seeds, "mean"]


def test_few_shot_once_and_again(protocol, tmp_path):
    status, table, _ = protocol("few_shot", "LinearProbe", "caltech101", "2")
    assert table[0] == (
        "LinearProbe takes the config rn50 (default: CoOp: lpclip/linear_probe.py, linear_probe.sh, feat_extractor.py)"
    )
    assert status == 0
    assert list(tmp_path.glob("caltech101/LinearProbe/rn50-tiny-*_2shots/seed1/metrics.json"))
    status, (why, told, *again), _ = protocol("few_shot", "LinearProbe", "caltech101", "2")
    assert status == 0 and told.startswith("finished already: ") and [why, *again] == table


def test_domain_generalization(protocol):
    """On the embedded icons, the only set of domains at hand."""
    status, lines, _ = protocol("domain_generalization", "ZeroshotCLIP", "icons_rare")
    head, _, seed, _ = lines[-4:]
    assert head.split() == [*("seed", "outline", "filled", "duotone", "pixel", "hand-drawn", "colour", "average")]
    tested = [float(figure) for figure in seed.split()[2:-1]]
    assert float(seed.split()[-1]) == pytest.approx(sum(tested) / 5, abs=0.01)


def test_incremental(protocol):
    """One half of the classes after the other: LAMM, whose first half stays as it was, and CoOp beside it."""
    small = {"beside": "CoOp/vit_b16_ep50_ctxv1"}
    status, lines, _ = protocol("incremental", "LAMM", "caltech101", "2", **small)
    assert status == 0
    coop, lamm = (line.split() for line in lines[-2:])
    assert coop[2] == "CoOp" and lamm[2] == "LAMM" and lamm[-4] == lamm[-3]


@pytest.mark.parametrize(("trainer", "worlds"), [("CoOp", ["closed", "open"]), ("ZeroshotCLIP", ["closed", "open"])])
def test_czsl(trainer, worlds, toy_pairs_root, protocol):
    status, lines, _ = protocol("czsl", trainer, "mit_states", root=toy_pairs_root)
    assert status == 0
    assert [line.split()[-2] for line in lines if line.endswith(" world")] == worlds
    assert [line.split()[0] for line in lines if line and line[0] in "1ms"].count("mean") == len(worlds)


def test_a_failed_run_is_told(protocol):
    status, _, errors = protocol("few_shot", "CoOp", "caltech101", "2", "TRAINER.COOP.N_CTX", "99")
    assert status == 1 and errors[-1].endswith("seed 1 failed with exit status 1; the same command tries it again")


def test_key_value(protocol, tmp_path):
    """Beside the plain runs, in folders and a table of their own, whatever the order."""
    keys = ("OPTIM.LR", "0.01", "OPTIM.MAX_EPOCH", "1")
    status, lines, _ = protocol("base2new", "CoOp", "caltech101", "2", *keys)
    place = "base2new/train_base/caltech101/shots_2/CoOp/vit_b16_*ctxv1-LR0.01-MAX_EPOCH1-tiny-*/seed1"
    (folder,) = tmp_path.glob(place)
    assert status == 0 and any("LR0.01-MAX_EPOCH1-tiny-" in line and "caltech101, 2 shots" in line for line in lines)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["OPTIM"]["MAX_EPOCH"] == 1 and config["OPTIM"]["LR"] == 0.01
    _, lines, _ = protocol("base2new", "CoOp", "caltech101", "2", *keys[2:], *keys[:2])
    assert sum(line.startswith("finished already: ") for line in lines) == 2
    assert len(list(tmp_path.glob("base2new/train_base/*/*/*/*"))) == 1


def test_a_folder_of_another_config(protocol, tmp_path):
    """Of another backbone it would have another name; so what it holds comes from elsewhere."""
    assert protocol("few_shot", "ZeroshotCLIP", "caltech101", backbone="icon-clip")[0] == 0
    (folder,) = tmp_path.glob("caltech101/ZeroshotCLIP/vit_b16-icon-clip/seed1")
    for file in (folder / "config.yaml", folder / "metrics.json"):
        file.write_text(file.read_text().replace("icon-clip", "icon-clip-vit"))
    status, _, (error,) = protocol("few_shot", "ZeroshotCLIP", "caltech101", backbone="icon-clip")
    assert status == 1 and "holds a run of another config (MODEL.BACKBONE.NAME was 'icon-clip-vit'" in error
    assert "is now 'icon-clip'" in error and str(folder) in error
    assert protocol("few_shot", "ZeroshotCLIP", "caltech101", backbone="icon-clip-vit")[0] == 0, "beside it"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fewshot", "CoOp", "dtd", "1"], "did you mean few_shot"),
        (["base2new", "Mine", "caltech101", "1"], 'no "Mine" in the TRAINER registry'),
        (
            ["base2new", "CoOp", "caltech101", "1", "OPTIM.MAX_EPOCH"],
            '"OPTIM.MAX_EPOCH" is not a list of KEY VALUE pairs',
        ),
        (["base2new", "CoOp", "caltech101", "1", "OPTIM.EPOCHS", "2"], "unknown config key OPTIM.EPOCHS in OPTIM"),
        (["base2new", "CoOp", "caltech101", "1", "OPTIM.MAX_EPOCH", "two"], "takes a whole number, not 'two'"),
        (["base2new", "CoOp", "caltech101", "1", "DATASET.NUM_SHOTS", "2"], "NUM_SHOTS cannot be overridden"),
        (["base2new", "CoOp", "dtd", "1"], "/dtd/images: DescribableTextures needs "),
        (["czsl", "CoOp", "mit_states"], "mit-states/images: MITStates needs "),
        (["base2new", "CoOp", "caltech101", "1", "--backbone", "ViT-B/61"], "did you mean ViT-B/16"),
        (["base2new", "CoOp", "caltech101", "1", "--backbone", "/no/where.pt"], "/no/where.pt not found"),
    ],
)
def test_mistakes_are_told_once_before_any_run(words, told, protocol, tmp_path):
    options = {"backbone": words.pop()} if words[-2] == "--backbone" and words.remove("--backbone") is None else {}
    status, lines, (error,) = protocol(*words, seeds="1 2 3", **options)
    assert status == 1 and told in error and not lines and not list(tmp_path.iterdir())


def test_all_that_is_missing(protocol, tmp_path):
    """Data and weights in one go, each once; what is there already is not asked for."""
    status, _, errors = protocol("base2new", "CoOp", "dtd", "1", seeds="1 2", backbone="/no/where.pt")
    assert status == 1 and len(errors) == 1
    status, lines, errors = protocol("few_shot", "CoOp", "dtd", "1", seeds="1 2", backbone="ViT-B/61")
    assert status == 1 and [error.split(": ")[1].split()[0] for error in errors] == ["unknown", "no"]
    assert all("(2 of 2 runs, the first " in error for error in errors)
