"""What pip installs: one package beside other people's, everything found in it, from anywhere."""

import subprocess
import sys
import zipfile

import pytest

import mocoop
from tests.conftest import REPO


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages as pip fills it: the wheel's, and another package called `datasets`, like Hugging Face's."""
    folder = tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True)
    for name in names.stdout.splitlines():  # a build leaves files behind: not in the clone
        if not name.startswith("tests/") and (REPO / name).is_file():
            (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "clone" / name).symlink_to(REPO / name)
    build = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=folder / "clone", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    (folder / "site" / "datasets").mkdir()
    (folder / "site" / "datasets" / "__init__.py").write_text("load_dataset = 'not ours'\n")
    return folder / "site"


def run(site, folder, *words):
    command = [sys.executable, *map(str, words)]
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "MOCOOP_CACHE": str(folder / "cache")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_wheel_installs_one_name(site):
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"mocoop", "datasets"}


def test_what_packages_read_beside_their_code_comes_along(site):
    home = site / "mocoop" / "home"
    packages = [path for path in REPO.iterdir() if (path / "__init__.py").is_file() and path.name != "tests"]
    beside = [
        path for package in packages for path in package.rglob("*") if path.suffix in (".html", ".csv", ".pt", ".zip")
    ]
    missing = [str(path.relative_to(REPO)) for path in beside if not (home / path.relative_to(REPO)).is_file()]
    assert len(beside) > 5 and not missing


def test_the_other_datasets_stays_what_it_is(site, tmp_path):
    done = run(site, tmp_path, "-c", "import mocoop, datasets; print(datasets.load_dataset)")
    assert done.stdout == "not ours\n"


def test_commands_work_from_anywhere(site, tmp_path):
    done = run(site, tmp_path, "-m", "mocoop", "datasets", "check", "icons_rare")
    assert done.returncode == 0, done.stderr
    assert "icons_rare" in done.stdout.lower() or "IconsRare" in done.stdout
    grid = site / "mocoop" / "home" / "configs" / "grids" / "demo.yaml"
    done = run(site, tmp_path, "-m", "mocoop", "benchmark", "run", grid, "--dry-run")
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if not line.startswith("# ")]
    assert len(commands) > 10 and all(f"{site}/mocoop/home/train.py" in line for line in commands)


def test_a_run_from_an_installation(site, tmp_path):
    home = site / "mocoop" / "home"
    words = ["--trainer", "ZeroshotCLIP", "--backbone", "icon-clip", "--eval-only", "--output-dir", tmp_path / "run"]
    words += ["--dataset-config-file", home / "configs/datasets/icons_rare.yaml"]
    words += ["--config-file", home / "configs/trainers/ZeroshotCLIP/vit_b16.yaml", "--seed", "1"]
    done = run(site, tmp_path, "-m", "mocoop", "train", *words, "DATASET.SUBSAMPLE_CLASSES", "base")
    assert done.returncode == 0, done.stderr
    assert "* accuracy: 13.9%" in done.stdout


def test_a_folder_with_packages_of_the_same_names(tmp_path):
    """As CoOp's clone is: what lies in the folder that one stands in is not ours."""
    for name in ("datasets", "trainers", "dassl", "clip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} of this folder')")
    done = run("", tmp_path, REPO / "mocoop", "datasets", "check", "icons_rare")
    assert done.returncode == 0, done.stderr


def test_a_foreign_package_imported_before_is_told(site, tmp_path):
    done = run(site, tmp_path, "-c", "import datasets, mocoop; mocoop.enter()")
    assert "another package called datasets is already imported" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("words, status, message", [
    (["--help"], 0, "usage: mocoop COMMAND"),
    ([], 2, "usage: mocoop COMMAND"),
    (["trian"], 2, 'error: unknown command "trian": did you mean train?\n'),
    (["--version"], 0, f"mocoop {mocoop.__version__}\n"),
])  # fmt: skip
def test_the_command(words, status, message, tmp_path):
    done = run("", tmp_path, REPO / "mocoop", *words)
    assert done.returncode == status and (done.stdout + done.stderr).startswith(message)
