"""Every command of README.md and docs/ runs here, or is marked with what it needs and fits its own parser."""

import os

import pytest

from benchmark.runner import CONTEXT
from tests.conftest import REPO
from tests.docs import commands, data_sets

LONGEST = 300
"""Seconds for a command, on a machine that others use too."""

PAGES = sorted([REPO / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").rglob("*.md")])


def failure(line):
    """Why a command's own parser refuses it; "" where it does not."""
    try:
        commands.check(line)
    except (Exception, SystemExit) as error:
        return f"{line}\n    {type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_the_commands_of(page, tmp_path, monkeypatch, capsys):
    """Those without a mark one after the other in a folder that looks like a clone."""
    monkeypatch.chdir(REPO)
    lines = list(commands.lines(page))
    refused = list(filter(None, map(failure, lines)))
    assert not refused, "\n".join(refused) + "\n" + capsys.readouterr().err
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(REPO / name)
    console = tmp_path / "console.txt"
    for line in lines:
        if line.needs:
            continue
        calls = commands.of_mocoop(line)
        assert calls is not None, f"{line}: mark what it needs: only commands of the project run here"
        for words in calls:
            environment = {"MOCOOP_CACHE": os.environ["MOCOOP_CACHE"], **line.environment}
            process = CONTEXT.Process(target=commands.run, args=(tmp_path, console, environment, words))
            process.start()
            process.join(LONGEST)
            slow = process.is_alive()
            process.terminate()  # nothing where it has ended
            process.join()
            assert not slow, f"{line}: takes long: mark that it needs minutes"
            assert process.exitcode == 0, f"{line}\n{console.read_text()[-3000:]}"


MISTAKES = (
    "python train.py --trainer CoOp --config-fil configs/trainers/CoOp/rn50.yaml --otput-dir o",
    "python train.py --trainer CoOp --config-file configs/trainers/CoOp/rn50.yaml OPTIM.MAX_EPOCHS 2",
    "python train.py --trainer CoOp --config-file configs/trainers/CoOp/rn51.yaml",
    "python predict.py --model-dir RUN photo.jpg --topp 3",
    "python -m benchmark run demo --worker-s 2",
    "python -m benchmark run dmeo",
    "python -m benchmark protocol few_shot CoOp caltech102 4",
    "python -m benchmark protocol few_shot CoOp caltech101 4 OPTIM.LRR 1",
    "python -m datasets check caltech102",
    "bash scripts/coop/base2new.sh caltech101",
    "bash scripts/coop/base3new.sh caltech101 16",
    "CFG=rn51 bash scripts/coop/base2new.sh caltech101 16",
    "bash scripts/coop/main.sh caltech101 rn50_ep50 end 16 1",
    "torchrun --nprocs_per_node 4 train.py --trainer CoOp",
    "make dmeo",
    "pip install -e .[clustre]",
    "python -m tests.attack kills --kils 500",
    "mocoop trian --help",
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(commands, "REPO", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"Do\n\n<!-- needs: data, weights -->\n\n    {mistake}   # it's a comment\n")
    (line,) = commands.lines(page)
    monkeypatch.setattr(commands, "REPO", REPO)
    assert failure(line)


def test_blocks_and_marks(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "REPO", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- all need: gpu -->\n\n    python a.py \\\n        --b  # one\n    A=1 bash c.sh\n\n"
        "<!-- needs: data -->\n\n```bash\npip d\n```\n\n```text\npip e\n```\n\n"
        "    a/folder/\n        python\n\nand\n\n    make f\n\n| `make x` | `make y` |\n"
    )
    found = [(line.place, line.words, line.environment, *line.needs) for line in commands.lines(page)]
    assert found == [
        ("page.md:3", ["python", "a.py", "--b"], {}, "gpu"),
        ("page.md:5", ["bash", "c.sh"], {"A": "1"}, "gpu"),
        ("page.md:10", ["pip", "d"], {}, "data"),
        ("page.md:22", ["make", "f"], {}, "gpu"),
        ("page.md:24", ["make", "y"], {}, "data"),
    ]


def test_what_is_said_of_each_data_set_is_what_its_reader_says():
    assert data_sets.PAGE.read_text(encoding="utf-8") == data_sets.page()
