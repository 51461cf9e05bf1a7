"""The protocol scripts as a user calls them."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPO

SCRIPTS = sorted(path.relative_to(REPO) for path in REPO.glob("scripts/*/*.sh"))


def bash(script, *args, **environment):
    environment = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(["bash", str(REPO / script), *args], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_help_and_wrong_use(script):
    told = bash(script, "--help")
    assert told.returncode == 0 and told.stdout.startswith("Usage: bash ")
    assert all(
        name in told.stdout for name in ("DATASET", "DATA ", "SEEDS ", "CFG ", "BACKBONE ", "OUTPUT ", "DEVICE ")
    )
    wrong = bash(script)
    assert wrong.returncode == 2 and wrong.stderr.startswith("Usage: bash ") and not wrong.stdout


@pytest.mark.parametrize(("method", "seeds"), [("mocoop", "1"), ("coop", "1 2"), ("zsclip", "3")])
def test_base_to_new(method, seeds, tmp_path, toy_root, toy_backbone):
    settings = {"DATA": toy_root, "BACKBONE": toy_backbone, "OUTPUT": str(tmp_path), "SEEDS": seeds, "DEVICE": "cpu"}
    done = bash(f"scripts/{method}/base2new.sh", "caltech101", *([] if method == "zsclip" else ["2"]), **settings)
    assert done.returncode == 0, done.stderr
    first_words = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert first_words[-4 - len(seeds.split()) :] == ["seed", "------", *seeds.split(), "mean", "std"]


def test_incremental(tmp_path, toy_root, toy_backbone):
    """One half of the classes after the other: LAMM, whose first half stays as it was, and CoOp beside it."""
    settings = {"DATA": toy_root, "BACKBONE": toy_backbone, "OUTPUT": str(tmp_path), "SEEDS": "1", "DEVICE": "cpu"}
    done = bash("scripts/lamm/incremental.sh", "caltech101", "2", **settings)
    assert done.returncode == 0, done.stderr
    coop, lamm = (line.split() for line in done.stdout.splitlines()[-2:])
    assert coop[2] == "CoOp" and lamm[2] == "LAMM" and lamm[5] == lamm[6]


@pytest.mark.parametrize(("method", "worlds"), [("csp", ["closed", "open"]), ("zsclip", ["closed"])])
def test_czsl(method, worlds, tmp_path, toy_pairs_root, toy_backbone):
    settings = {
        "DATA": toy_pairs_root,
        "BACKBONE": toy_backbone,
        "OUTPUT": str(tmp_path),
        "SEEDS": "1",
        "DEVICE": "cpu",
    }
    done = bash(f"scripts/{method}/czsl.sh", "mit_states", **settings)
    assert done.returncode == 0, done.stderr
    heads = [line for line in done.stdout.splitlines() if line.endswith(" world")]
    assert [head.split()[-2] for head in heads] == worlds
    assert [line.split()[0] for line in done.stdout.splitlines()[-3:]] == ["1", "mean", "std"]


def test_mistakes(tmp_path):
    done = bash("scripts/coop/base2new.sh", "caltech102", "16", OUTPUT=str(tmp_path))
    assert done.returncode == 1 and "caltech102.yaml" in done.stderr and len(done.stderr.splitlines()) == 1
    done = bash("scripts/coop/base2new.sh", "caltech101", "16", OUTPUT=str(tmp_path), DEVICE="tpu")
    assert done.returncode == 1 and 'DEVICE is "tpu"' in done.stderr


def test_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    scripts = [*SCRIPTS, "scripts/lib.sh", "scripts/demo.sh", ".ci/run"]
    done = subprocess.run(["shellcheck", "-x", *map(str, scripts)], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
