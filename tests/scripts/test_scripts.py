"""The protocol scripts as a user calls them; what they call is tested in tests/benchmark."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

import train
from benchmark.facts import methods
from benchmark.protocol import Point
from benchmark.protocols import PROTOCOLS, runs_of
from tests.conftest import REPO

SCRIPTS = sorted(path.relative_to(REPO) for path in REPO.glob("scripts/*/*.sh"))
FOLDERS = {"ZeroshotCLIP": "zsclip", "LinearProbe": "linear_probe"}
BY_ENVIRONMENT = {("ZeroshotCLIP2", name) for name in PROTOCOLS} | {("CoOp", "incremental")}
"""What other methods' scripts do where TRAINER says so."""

COOPS = {"scripts/coop/main.sh", *(f"scripts/cocoop/{name}.sh" for name in ("base2new_train", "base2new_test"))}
COOPS |= {f"scripts/cocoop/{name}.sh" for name in ("xd_train", "xd_test")}
"""CoOp's own, by their names."""


def bash(script, *args, **environment):
    environment = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(["bash", str(REPO / script), *args], env=environment, capture_output=True, text=True)


def test_every_protocol_of_every_trainer_has_its_script():
    wanted = {
        f"scripts/{FOLDERS.get(trainer, trainer.lower())}/{protocol}.sh": (protocol, trainer)
        for trainer, protocols in ((method.name, method.configs) for method in methods())
        for protocol in protocols
        if (trainer, protocol) not in BY_ENVIRONMENT
    }
    assert {str(script) for script in SCRIPTS} == set(wanted) | COOPS
    for script, (protocol, trainer) in wanted.items():
        *_, call = (REPO / script).read_text().splitlines()
        assert call in (f'protocol {protocol} {trainer} "$@"', f'protocol {protocol} "${{TRAINER:-{trainer}}}" "$@"')


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_help_and_wrong_use(protocol):
    script = f"scripts/{'lamm' if protocol == 'incremental' else 'coop'}/{protocol}.sh"
    told = bash(script, "--help")
    assert told.returncode == 0 and told.stdout.startswith(f"Usage: bash {REPO / script} ")
    assert all(
        name in told.stdout for name in ("DATASET", "DATA ", "SEEDS ", "CFG ", "BACKBONE ", "OUTPUT ", "DEVICE ")
    )
    wrong = bash(script, "dtd", "16", "more")
    assert wrong.returncode == 2 and wrong.stderr.startswith("Usage: bash ") and not wrong.stdout


def test_the_environment_is_obeyed(toy_root, toy_backbone, tmp_path):
    settings = {"DATA": toy_root, "BACKBONE": toy_backbone, "OUTPUT": str(tmp_path), "SEEDS": "1 2", "DEVICE": "cpu"}
    done = bash("scripts/coop/base2new.sh", "caltech101", "2", **settings, CFG="vit_b16_ep50")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("=> result\n* total: ") == 4 and "USE_CUDA: False" in done.stdout
    assert list(tmp_path.glob("base2new/test_new/caltech101/shots_2/CoOp/vit_b16_ep50-tiny-*/seed2/metrics.json"))
    first_words = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert first_words[-6:] == ["seed", "------", "1", "2", "mean", "std"]


def asked(script, *args, **environment):
    """The output folder and the config of each run that a script of CoOp's asks for."""
    done = bash(script, *args, PYTHON="echo", DATA="data", OUTPUT="o", **environment)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        args = train.parse_args(shlex.split(line)[2:])
        yield args, train.setup_cfg(args)


@pytest.mark.parametrize(
    ("script", "args", "dataset"),
    [
        ("base2new_train", ("caltech101", "2"), "caltech101"),
        ("base2new_test", ("caltech101", "2"), "caltech101"),
        ("xd_train", ("2",), "imagenet"),
        ("xd_test", ("dtd", "2"), "imagenet"),
    ],
)
def test_coops_scripts_do_what_the_protocols_do(script, args, dataset):
    """In the same folders, so that the protocol finds the runs finished."""
    protocol = "cross_dataset" if dataset == "imagenet" else "base2new"
    runs = runs_of(protocol, [Point(dataset, 16, "CoCoOp", "vit_b16_c4_ep10_batch1_ctxv1", 2)])
    ((got, cfg),) = asked(f"scripts/cocoop/{script}.sh", *args)
    (run,) = [run for run in runs if f"o/{run.folder}" == cfg.OUTPUT_DIR]
    wanted = train.parse_args(["--root", "data", "--output-dir", cfg.OUTPUT_DIR, *run.arguments])
    assert cfg == train.setup_cfg(wanted) and got.eval_only == wanted.eval_only == script.endswith("test")
    assert got.model_dir == (f"o/{run.needs.folder}" if run.needs else "")


def test_coops_main():
    *_, (_, last) = runs = list(asked("scripts/coop/main.sh", "dtd", "rn50_ep50", "middle", "4", "1", "True"))
    assert [cfg.SEED for _, cfg in runs] == [1, 2, 3]
    assert last.OUTPUT_DIR == "o/dtd/CoOp/rn50_ep50_1shots/nctx4_cscTrue_ctpmiddle/seed3"
    assert PROTOCOLS["few_shot"].pattern.match(last.OUTPUT_DIR.removeprefix("o/"))["variant"]
    options = last.TRAINER.COOP
    assert (options.N_CTX, options.CSC, options.CLASS_TOKEN_POSITION, last.DATASET.NUM_SHOTS) == (4, True, "middle", 1)
    ((_, cfg),) = asked("scripts/coop/main.sh", "dtd", "rn50", "end", "4", "1", "False", SEEDS="5", DEVICE="cpu")
    assert cfg.SEED == 5 and not cfg.USE_CUDA
    wrong = bash("scripts/coop/main.sh", "dtd")
    assert wrong.returncode == 2 and wrong.stderr.startswith("Usage: bash ") and not wrong.stdout
    assert bash("scripts/coop/main.sh", "--help").stdout.startswith("Usage: bash ")


def test_mistakes(tmp_path):
    done = bash("scripts/coop/base2new.sh", "caltech102", "16", OUTPUT=str(tmp_path))
    assert done.returncode == 1 and "caltech102.yaml" in done.stderr and len(done.stderr.splitlines()) == 1
    done = bash("scripts/coop/base2new.sh", "caltech101", "sixteen", OUTPUT=str(tmp_path))
    assert done.returncode == 1 and 'SHOTS is "sixteen"' in done.stderr
    done = bash("scripts/coop/base2new.sh", "caltech101", "16", OUTPUT=str(tmp_path), DEVICE="tpu")
    assert done.returncode == 1 and 'DEVICE is "tpu"' in done.stderr
    done = bash("scripts/coop/main.sh", *"icons_rare rn50 end 4 1 False".split(), OUTPUT=str(tmp_path), DEVICE="tpu")
    assert done.returncode == 1 and done.stderr == 'error: DEVICE is "tpu": give cpu or cuda\n'
    keys = ("OPTIM.MAX_EPOCHS", "2")
    done = bash("scripts/coop/base2new.sh", "icons_rare", "16", *keys, OUTPUT=str(tmp_path), SEEDS="1 2")
    assert done.returncode == 1 and "did you mean MAX_EPOCH" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not done.stdout and not list(tmp_path.iterdir())


def test_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    scripts = [*SCRIPTS, "scripts/lib.sh", ".ci/run", ".ci/try"]
    done = subprocess.run(["shellcheck", "-x", *map(str, scripts)], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
