"""The folder dassl/ is a distribution by itself: it builds, needs what it says, and works where nothing of ours is."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dassl.utils import read_json
from tests.conftest import REPO

FOLDER = REPO / "dassl"
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml"}


def listed(pattern):
    (block,) = re.findall(pattern + r" = \[\n(.*?)\]", (FOLDER / "pyproject.toml").read_text(), flags=re.DOTALL)
    return re.findall(r'"(.+?)"', block)


def test_it_needs_what_it_imports():
    """All of it, and matplotlib for a drawing that one asks for."""
    found = set()
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
    needed = {re.split(r"[<>=]", line)[0] for line in listed("dependencies")}
    needed = {IMPORTED_AS.get(name, name) for name in needed} - {"tensorboard"}  # torch.utils.tensorboard's
    assert found - set(sys.stdlib_module_names) == needed | {"dassl", "matplotlib"}


def test_its_versions_are_the_projects():
    whole = (REPO / "setup.py").read_text()
    assert [line for line in listed("dependencies") if f'"{line}"' not in whole] == []


def test_it_lists_its_packages():
    packages = {str(path.parent.relative_to(REPO)).replace("/", ".") for path in FOLDER.rglob("__init__.py")}
    assert set(listed("packages")) == packages


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages that holds dassl alone, as pip fills it from a copy of dassl/."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copytree(FOLDER, folder / "dassl", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    build = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=folder / "dassl", check=True, capture_output=True)
    (wheel,) = folder.glob("dassl-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


DATASET = """
import sys
import dassl
from pathlib import Path
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import build_trainer

@DATASET_REGISTRY.register()
class Toy(DatasetBase):
    def __init__(self, cfg):
        folders = sorted(path for path in Path(cfg.DATASET.ROOT).iterdir())
        items = [Datum(str(file), y, 0, folder.name) for y, folder in enumerate(folders) for file in folder.iterdir()]
        super().__init__(train_x=items, test=items)
"""

RUN = """
cfg = get_cfg_default()
cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.TRAINER.NAME, cfg.OUTPUT_DIR = "Toy", sys.argv[1], "Linear", "run"
cfg.INPUT.SIZE, cfg.DATALOADER.NUM_WORKERS, cfg.OPTIM.MAX_EPOCH = (16, 16), 0, 2
build_trainer(cfg).train()
print(dassl.__file__, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_readmes_example_trains_where_nothing_of_ours_is(site, toy_root, tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(DATASET + example + RUN)
    images = Path(toy_root, "caltech-101", "101_ObjectCategories")
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "mine.py", images]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["trainer"] == "Linear" and metrics["total"] == 44
    file, *modules = done.stdout.splitlines()[-1].split()
    assert Path(file).is_relative_to(site)
    assert not {"benchmark", "clip", "datasets", "mocoop", "prompting", "sklearn", "trainers"}.intersection(modules)
