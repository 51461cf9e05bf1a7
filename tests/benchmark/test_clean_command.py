"""`python -m benchmark clean` removes what it is asked to, and never what a running process uses."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from benchmark.__main__ import main
from benchmark.clean import Clean, runs_in, state_of
from benchmark.place import FAILED
from dassl.layout import CONFIG, INPUTS, LOCK, LOG, METRICS
from dassl.utils import caches as folders_of
from dassl.utils import locks
from datasets import icons
from prompting import image_features, shared_weights
from tests.conftest import REPO

IN_A_PROCESS = (
    "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from dassl.utils import locks"
)


@pytest.fixture
def beside():
    """beside(code, path): a process that holds something until the test ends."""
    started = []

    def start(code, path):
        command = [sys.executable, "-c", f"{IN_A_PROCESS}\n{code}\n", str(REPO), str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"there\n"

    yield start
    for process in started:
        process.communicate(b"\n")


ICONS, SPLIT = f"icons-{'1a' * 6}", f"Icons-{'1a' * 8}.json"
HOLDS = "locks.hold(Path(sys.argv[2])); print('there', flush=True); sys.stdin.read(1)"
RUNS = "with locks.owned(Path(sys.argv[2])): print('there', flush=True); sys.stdin.read(1)"


@pytest.fixture
def outputs(tmp_path):
    """Runs in all states, a run of CoOp's own code, and files of the user's."""
    output = tmp_path / "output"
    for name in ("finished", "unfinished", "failed", "damaged", "deep/below", "deep"):
        folder = output / name
        (folder / "prompt_learner").mkdir(parents=True)
        (folder / "prompt_learner" / "checkpoint").write_text("model.pth.tar-2\n")
        (folder / "prompt_learner" / "model.pth.tar-2").write_bytes(bytes(2**20))
        (folder / CONFIG).write_text("OUTPUT_DIR: here\nTRAINER:\n  NAME: CoOp\n")
        (folder / LOG).write_text("epoch\n")
    (output / "finished" / METRICS).write_text(json.dumps({"trainer": "CoOp", "accuracy": 50.0}))
    (output / "failed" / FAILED).write_text("no memory\n")
    (output / "damaged" / "prompt_learner" / "model.pth.tar-2").unlink()
    (output / "unfinished" / "notes.md").write_text("mine")
    (output / "coop").mkdir()
    (output / "coop" / LOG).write_text("** Config **\n")
    return output


def clean(capsys, *options):
    assert main(["clean", *map(str, options)]) == 0
    return capsys.readouterr().out


def left(output):
    return {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}


def test_runs_are_shown_and_nothing_is_removed(outputs, capsys):
    before = left(outputs)
    said = clean(capsys, "--outputs", outputs)
    rows = {line.split()[0]: line.split()[1:4] for line in said.splitlines()}
    assert rows["finished"] == ["1", "1.00", "MiB"] and rows["unfinished"][0] == "3" and rows["damaged"][0] == "1"
    assert f"failed: {outputs}/failed\n" in said and "freed" not in said and left(outputs) == before


def test_what_is_asked_goes_and_what_is_the_users_stays(outputs, capsys):
    before = left(outputs)
    said = clean(capsys, "--outputs", outputs, "--unfinished", "--damaged", "--dry-run")
    assert f"would remove unfinished: {outputs}/deep\n" in said and said.endswith("to be freed: 3.00 MiB\n")
    assert left(outputs) == before
    assert clean(capsys, "--outputs", outputs, "--unfinished", "--damaged").endswith("\nfreed: 3.00 MiB\n")
    gone = {name for name in before if name.startswith(("unfinished/", "damaged/", "deep/"))}
    assert left(outputs) == before - gone | {"unfinished/notes.md"}
    assert {path.name for path in outputs.iterdir()} == {"finished", "failed", "unfinished", "coop"}
    clean(capsys, "--outputs", outputs, "--finished", "--failed")
    assert left(outputs) == {"unfinished/notes.md", f"coop/{LOG}"}


def test_a_run_that_is_under_way_stays(outputs, capsys, beside):
    beside(RUNS, outputs / "unfinished" / LOCK)
    before = left(outputs / "unfinished")
    assert state_of(outputs / "unfinished") == "running"
    said = clean(capsys, "--outputs", outputs, "--unfinished", "--failed", "--damaged", "--finished")
    assert f"running: {outputs}/unfinished\n" in said and left(outputs / "unfinished") == before
    assert not (outputs / "deep").exists()


def test_links_lead_nowhere(outputs, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    (outputs / "deep" / "below").rename(elsewhere)
    (outputs / "deep" / "below").symlink_to(elsewhere)
    clean(capsys, "--outputs", outputs, "--unfinished")
    assert (elsewhere / "prompt_learner" / "model.pth.tar-2").is_file() and (outputs / "deep" / "below").is_symlink()


LINKS = {"prompt_learner": "finished/prompt_learner", "tensorboard": "shared", "backup": "finished/prompt_learner"}


@pytest.mark.parametrize("name", LINKS)
def test_links_inside_a_run_lead_nowhere(name, outputs, capsys):
    (outputs / "shared").mkdir()
    (outputs / "shared" / "events").write_bytes(b"")
    shutil.rmtree(outputs / "unfinished" / "prompt_learner")
    (outputs / "unfinished" / name).symlink_to(outputs / LINKS[name])
    before = left(outputs)
    clean(capsys, "--outputs", outputs, "--unfinished")
    assert (outputs / "unfinished" / name).is_symlink() and not (outputs / "unfinished" / CONFIG).exists()
    assert {path for path in before - left(outputs) if not path.startswith(("unfinished/", "deep/"))} == set()


def test_a_link_beside_a_damaged_run_does_not_make_it_whole(outputs):
    shutil.rmtree(outputs / "unfinished" / "prompt_learner")
    (outputs / "unfinished" / "prompt_learner").symlink_to(outputs / "damaged" / "prompt_learner")
    assert state_of(outputs / "unfinished") == "unfinished"


def test_the_users_copies_of_checkpoints_stay(outputs, capsys):
    copy = outputs / "unfinished" / "backup" / "model.pth.tar-1"
    copy.parent.mkdir()
    copy.write_bytes(b"")
    clean(capsys, "--outputs", outputs, "--unfinished")
    assert left(outputs / "unfinished") == {"notes.md", "backup/model.pth.tar-1"}


FOREIGN = {
    "detectron2": "OUTPUT_DIR: here\nMODEL:\n  WEIGHTS: none\n",
    "of one word": "TRAINER: mine\nOUTPUT_DIR: here\n",
    "unreadable": "a: [\n",
}


@pytest.mark.parametrize("config", FOREIGN)
def test_other_programs_runs_stay(config, tmp_path, capsys):
    (tmp_path / CONFIG).write_text(FOREIGN[config])
    (tmp_path / LOG).write_text("epoch\n")
    (tmp_path / METRICS).write_text('{"loss": 1}\n{"loss": 0}\n')
    assert clean(capsys, "--outputs", tmp_path, "--damaged", "--unfinished").startswith(f"{tmp_path}: 0 runs, ")
    assert left(tmp_path) == {CONFIG, LOG, METRICS}


def test_a_run_whose_config_is_damaged(outputs, capsys):
    """Is ours by the record of what went into it."""
    (outputs / "unfinished" / CONFIG).write_bytes(b"")
    (outputs / "unfinished" / INPUTS).write_text("{}")
    assert f"damaged: {outputs}/unfinished\n" in clean(capsys, "--outputs", outputs)
    assert f"{outputs / 'failed'}: 1 run, " in clean(capsys, "--outputs", outputs / "failed")


def test_a_run_of_train(tmp_path, toy_run, capsys):
    toy_run("CoOp", tmp_path / "run", "OPTIM.MAX_EPOCH", 1)
    (tmp_path / "run" / INPUTS).rename(tmp_path / "inputs")  # as of earlier versions
    assert state_of(*runs_in(tmp_path)) == "finished"
    (tmp_path / "inputs").rename(tmp_path / "run" / INPUTS)
    clean(capsys, "--outputs", tmp_path, "--finished")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def caches(tmp_cache):
    (tmp_cache / "splits").mkdir()
    (tmp_cache / "splits" / SPLIT).write_bytes(bytes(2**20))
    (tmp_cache / ICONS / "images").mkdir(parents=True)
    (tmp_cache / ICONS / "images" / "a.png").write_bytes(bytes(2**20))
    return tmp_cache


def test_caches(caches, capsys):
    first, _, _, *rows = clean(capsys).splitlines()
    assert first == f"{caches}: 2.00 MiB" and [row.split()[0] for row in rows] == [ICONS, "splits"]
    assert clean(capsys, "--caches", "splits").endswith("freed: 1.00 MiB\n") and len(left(caches)) == 1
    assert clean(capsys, "--caches").endswith("freed: 1.00 MiB\n") and list(caches.iterdir()) == []
    assert clean(capsys) == f"{caches}: 0.00 MiB\n"


def test_images_that_a_run_reads_stay(caches, capsys, beside):
    beside(HOLDS, caches / ICONS)
    said = clean(capsys, "--caches")
    assert f"in use, left: {caches}/{ICONS}\n" in said and left(caches) == {f"{ICONS}/images/a.png"}
    assert main(["cache", "--free", "all"]) == 0
    assert f"in use, left: {caches}/{ICONS}\n" in capsys.readouterr().out and left(caches) == {f"{ICONS}/images/a.png"}


@pytest.mark.parametrize("command", [["clean", "--caches"], ["cache", "--free", "all"]])
def test_what_the_project_did_not_make_stays(command, caches, tmp_path, capsys):
    """The cache may be somebody's home: folders of other names, other files in folders of ours, links."""
    theirs = ["Documents/a.txt", "weights/best.pt", "splits/mine.json", "splits/deep/a.json", "icons-old/a.png"]
    hidden = f".{'1a' * 16}.{ICONS}/a.png"
    for name in (*theirs, hidden):
        (caches / name).parent.mkdir(parents=True, exist_ok=True)
        (caches / name).write_bytes(b"")
    for name in ("photos", f"cifar-100-{'1a' * 6}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
        (caches / name).symlink_to(tmp_path / name)
    assert main(command) == 0
    assert left(caches) == {*theirs, hidden} and left(tmp_path) == {"photos/a.png", f"cifar-100-{'1a' * 6}/a.png"}
    assert (caches / "photos").is_symlink() and not (caches / "splits" / SPLIT).exists()
    assert main(["clean", "--caches", "Documents"]) == 1
    assert 'there is no folder "Documents" of ours in' in capsys.readouterr().err


def test_all_that_the_project_makes_is_known(tmp_cache):
    made = {image_features.FOLDER, shared_weights.FOLDER, "splits", icons.unpacked("rare").name}
    made |= {icons.filtered("rare", name).name for name in icons.FILTERS}
    for name in made - {path.name for path in tmp_cache.iterdir()}:
        (tmp_cache / name).mkdir()
    assert folders_of.folders().keys() == made


def test_what_a_run_is_making_stays(caches, capsys):
    with locks.alone(caches / "splits" / f".{'a' * 64}.lock", "waiting"):
        clean(capsys, "--caches")
        assert [path.suffix for path in (caches / "splits").iterdir()] == [".lock"]


@pytest.mark.parametrize(("options", "message"), [
    (["--unfinished"], "--unfinished removes runs: say where they are with --outputs DIR"),
    (["--outputs", "nowhere"], "no folder nowhere: give --outputs the one that runs were written to"),
    (["--caches", "../splits"], 'there is no folder "../splits" of ours in'),
])  # fmt: skip
def test_mistakes(caches, capsys, options, message):
    assert main(["clean", *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}") and len(left(caches)) == 2


def test_examples(caches, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    (caches / "weights").mkdir()
    for example in Clean.examples[::-1]:
        assert main(["clean", *shlex.split(example)]) == 0
