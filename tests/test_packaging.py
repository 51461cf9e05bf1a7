"""What pip installs: one package beside other people's, everything found in it, from anywhere."""

import os
import re
import runpy
import subprocess
import sys
import zipfile

import pytest
import setuptools
import yaml

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
        path
        for package in packages
        for path in package.rglob("*")
        if path.suffix in (".html", ".css", ".js", ".csv", ".pt", ".zip")
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


def test_coops_scripts_from_an_installation(site, tmp_path):
    """They find the program: it is what tells the mistake."""
    script = site / "mocoop" / "home" / "scripts" / "coop" / "main.sh"
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "MOCOOP_CACHE": str(tmp_path), "SEEDS": "1"}
    command = ["bash", script, "icons", "rn50", "end", "4", "1", "False"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "configs/datasets/icons.yaml" in done.stderr


def test_a_run_from_an_installation(site, tmp_path):
    """Its configs are found by the paths that a clone has."""
    words = ["--trainer", "ZeroshotCLIP", "--backbone", "icon-clip", "--eval-only", "--output-dir", tmp_path / "run"]
    words += ["--dataset-config-file", "configs/datasets/icons_rare.yaml"]
    words += ["--config-file", "configs/trainers/ZeroshotCLIP/vit_b16.yaml", "--seed", "1"]
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
    (["--version", "train"], 0, f"mocoop {mocoop.__version__}\n"),
])  # fmt: skip
def test_the_command(words, status, message, tmp_path):
    done = run("", tmp_path, REPO / "mocoop", *words)
    assert done.returncode == status and (done.stdout + done.stderr).startswith(message)


@pytest.fixture
def told(monkeypatch):
    """What setup.py tells setuptools."""
    said = {}
    monkeypatch.setattr(setuptools, "setup", said.update)
    monkeypatch.chdir(REPO)
    runpy.run_path("setup.py")
    return said


@pytest.fixture
def pythons(told):
    """The Pythons that setup.py promises."""
    lines = [line.rpartition(" :: ")[2] for line in told["classifiers"] if "Python :: 3." in line]
    assert told["python_requires"] == f">={lines[0]}" and lines == sorted(lines, key=lambda v: int(v[2:]))
    return lines


def test_versions_agree(told):
    assert told["version"] == mocoop.__version__
    assert f"\nversion: {mocoop.__version__}\n" in (REPO / "CITATION.cff").read_text()


def test_the_engine_alone_has_all_its_packages():
    listed = re.findall(r'(?m)^    "(dassl[.\w]*)",$', (REPO / "dassl" / "pyproject.toml").read_text())
    assert listed == sorted(".".join(path.parent.relative_to(REPO).parts) for path in REPO.glob("dassl/**/__init__.py"))


def test_extras(told):
    extras = told["extras_require"]
    assert extras["hf"] == extras["transformers"]
    assert set(extras["all"]) == {line for extra in extras for line in extras[extra]} - {
        line for extra in ("dev", "docs", "test") for line in extras[extra]
    }


def test_a_source_distribution_is_a_clone():
    """But for what only a clone's owner uses."""
    manifest = [line.split() for line in (REPO / "MANIFEST.in").read_text().splitlines() if line[:1] not in ("#", "")]
    files = [word for command, *words in manifest if command == "include" for word in words]
    folders = [word for command, *words in manifest if command == "graft" for word in words]
    assert all((REPO / name).is_file() for name in files) and all((REPO / name).is_dir() for name in folders)
    tracked = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    packages = {path.parent.name for path in REPO.glob("*/__init__.py")} | {"configs", "scripts"}
    of_setup = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py", ".pre-commit-config.yaml"}
    of_setup |= {path.name for path in REPO.glob("*.py")}
    left = [
        name for name in filter(None, tracked) if name.split("/")[0] not in {*files, *folders, *packages, *of_setup}
    ]
    assert not left


def test_the_image_is_built_from_what_there_is(told, pythons):
    text = (REPO / "docker" / "Dockerfile").read_text()
    copied = [words.split()[:-1] for words in re.findall(r"(?m)^COPY (.*)$", text)]
    names = {name for words in copied for name in words}
    assert all((REPO / name).exists() for name in names)
    packages = {path.parent.name for path in REPO.glob("*/__init__.py")} - {"tests"}
    programs = {path.name for path in REPO.glob("*.py")}
    assert names == packages | programs | {
        "LICENSE",
        "README.md",
        "configs",
        "pyproject.toml",
        "requirements.txt",
        "scripts",
    }
    assert set(re.findall(r"(?m)^FROM python:([\d.]+)-slim", text)) <= set(pythons)
    extras = re.search(r'(?m)^ARG EXTRAS="(.*)"$', text)[1].split(",")
    assert set(extras) <= set(told["extras_require"]) and "--constraint /tmp/requirements.txt" in text
    ignored = [line for line in (REPO / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert not names & set(ignored)


WORKFLOWS = sorted((REPO / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path, pythons):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"(?m)^([a-z]+):", (REPO / "Makefile").read_text()))
    for job in workflow["jobs"].values():
        assert job["runs-on"] != "ubuntu-latest"
        several = job.get("strategy", {}).get("matrix", {}).get("python")
        assert several in (None, pythons)
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step["uses"])
                python = step.get("with", {}).get("python-version")
                assert python is None or python in pythons or several
            command = step.get("run", "").split()
            if command[:1] == ["make"]:
                assert command[1] in targets
            elif command[:1] == ["bash"]:
                assert (REPO / command[1]).is_file()
        if "id-token" in job.get("permissions", {}):
            assert job["if"].startswith("vars.PUBLISH"), "off unless configured"
    assert path.name != "ci.yml" or "bash .ci/run" in path.read_text()


def test_make_help_lists_all_targets():
    """And make clean names nothing that is a user's."""

    def lines(*command):
        return subprocess.check_output(command, cwd=REPO, text=True, env={"PATH": os.environ["PATH"]}).splitlines()

    targets = re.search(r"(?m)^\.PHONY: (.*)$", (REPO / "Makefile").read_text())[1].split()
    assert [line.split()[1] for line in lines("make", "help")] == targets
    removed = {word for line in lines("make", "--dry-run", "clean") for word in line.split()[2:]}
    assert ".venv" in removed and not removed & {"output", "data"} and not lines("git", "ls-files", *removed)
