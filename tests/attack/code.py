"""Files that hold code, in every place that takes a path: nothing of it runs.

What runs would write a file, and so does the audit hook of the process whenever something is unpickled into a call.
"""

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import predict
from benchmark import __main__ as benchmark
from dassl.utils import UserError
from tests.attack import runs
from tests.attack.child import call
from tests.attack.flips import a_run, small
from tests.attack.harness import Attack, Attempt

MARK = "executed"


class Payload:
    """Pickled, it is a call that writes a file named by the environment."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os; open(os.environ['ATTACK_MARK'], 'w')",)


class Script(torch.nn.Module):
    """A TorchScript module that writes a file when it is loaded."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark
        self.weight = torch.nn.Parameter(torch.zeros(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[str, torch.Tensor, bool]:
        return (self.mark, self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, torch.Tensor, bool]) -> None:
        self.mark = state[0]
        self.weight = state[1]
        self.training = state[2]
        torch.save(state[1], state[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight


def as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Payload(), "epoch": 1}))


def as_zip(path: Path) -> None:
    torch.save({"state_dict": {"ctx": Payload()}, "epoch": 1, "run_state": Payload()}, path)


def as_old_file(path: Path) -> None:
    torch.save({"state_dict": Payload(), "epoch": 1}, path, _use_new_zipfile_serialization=False)


def as_script(path: Path) -> None:
    """Its code goes for OpenAI's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(Script(os.environ["ATTACK_MARK"])).save(str(path))
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text + b"\n# torch.sigmoid(\n" * name.endswith(".py"))


def as_array(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)


FILES: dict[str, Callable[[Path], None]] = {
    "pickle": as_pickle,
    "zip": as_zip,
    "old": as_old_file,
    "script": as_script,
    "array": as_array,
}


def checkpoint(make: Callable[[Path], None], place: Path, data: str) -> Any:
    make(place / "run" / "prompt_learner" / "model.pth.tar-3")
    return runs.do(small("CoOp", data).words(place / "found", "--eval-only", "--model-dir", place / "run"))


def resumed(make: Callable[[Path], None], place: Path, data: str) -> Any:
    make(place / "run" / "prompt_learner" / "model.pth.tar-3")
    return runs.do(small("CoOp", data).words(place / "found", "--resume", place / "run"))


def own(make: Callable[[Path], None], place: Path, data: str) -> Any:
    make(place / "run" / "prompt_learner" / "model.pth.tar-3")
    (place / "run" / "metrics.json").unlink()
    return runs.do(small("CoOp", data).words(place / "run"))


def start(make: Callable[[Path], None], place: Path, data: str) -> Any:
    make(place / "weights.pt")
    return runs.do(small("CoOp", data).words(place / "found", keys=("MODEL.INIT_WEIGHTS", place / "weights.pt")))


def of_a_backbone(name: str, suffix: str = ".pt") -> Callable[..., Any]:
    def backbone(make: Callable[[Path], None], place: Path, data: str) -> Any:
        path = place / f"backbone{suffix}"
        make(path)
        if name == "hf:{}":
            folder = place / "folder"
            folder.mkdir()
            shutil.move(path, folder / "pytorch_model.bin")
            auto = {"AutoConfig": "own.C", "AutoModel": "own.M"}
            (folder / "config.json").write_text(json.dumps({"model_type": "clip", "auto_map": auto}))
            own = "import os; open(os.environ['ATTACK_MARK'], 'w')\nclass C: pass\nclass M: pass\n"
            (folder / "own.py").write_text(own)
            path = folder
        keys = ("MODEL.BACKBONE.FAMILY", "openai") if name == "{}" else ()
        return runs.do(small("ZeroshotCLIP", data, *keys, backbone=name.format(path)).words(place / "found"))

    return backbone


def of_a_foreign_run(make: Callable[[Path], None], place: Path, data: str) -> Any:
    """Predictions by a run whose config names the file as its backbone."""
    path = place / "run" / "config.yaml"
    make(place / "backbone.pt")
    cfg = yaml.safe_load(path.read_text())
    cfg["MODEL"]["BACKBONE"] |= {"NAME": str(place / "backbone.pt"), "FAMILY": "openai"}
    path.write_text(yaml.safe_dump(cfg))
    return predict.run(["--model-dir", str(place / "run"), str(Path(runs.data(data)[0]))])


def metadata(make: Callable[[Path], None], place: Path, data: str) -> Any:
    root = shutil.copytree(runs.data(data)[1], place / "root")
    make(next(Path(root).glob("*/metadata*.t7")))
    return runs.do(small("CSP", data).words(place / "found", keys=("DATASET.ROOT", root)))


def converted(make: Callable[[Path], None], place: Path, data: str) -> Any:
    """What is kept in the cache of weights in another precision, and of features."""
    from prompting import shared_weights

    shared_weights.FROM = 0
    words = small("ZeroshotCLIP", data).words(place / "found")
    os.environ["MOCOOP_CACHE"] = str(place / "cache")
    runs.do(words)
    for path in [path for path in (place / "cache").rglob("*") if path.is_file()]:
        make(path)
    return runs.do(words)


YAML = "!!python/object/apply:os.system ['touch \"$ATTACK_MARK\"']"


def in_yaml(make: Callable[[Path], None], place: Path, data: str) -> Any:
    """Configs, grids and a run's config with yaml's tag for a call."""
    (place / "x.yaml").write_text(f"OPTIM: {YAML}\n")
    (place / "run" / "config.yaml").write_text(f"OPTIM: {YAML}\n")
    (place / "run" / "log.txt").write_text(
        f"** Config **\n************\nTRAINER: {YAML}\nCollecting env info\n=> result\n* accuracy: 50.0%\n"
    )
    words = small("CoOp", data).words(place / "found")
    runs.do([*words[:-2], "--config-file", str(place / "x.yaml")])
    runs.do([*words[:-2], "--dataset-config-file", str(place / "x.yaml")])
    benchmark.main(["run", str(place / "x.yaml"), "--dry-run"])
    benchmark.main(["results", str(place)])
    return predict.run(["--model-dir", str(place / "run"), str(place)])


def in_archives(make: Callable[[Path], None], place: Path, data: str) -> Any:
    """Archives of data sets whose names, links and devices lead out of their folder."""
    from datasets.sources import Source
    from datasets.tools.prepare import lay_out

    names = ("../executed", "/tmp/../executed", f"{os.environ['ATTACK_MARK']}", "a/../../executed", "link/executed")
    (place / "into").mkdir()
    for i, name in enumerate(names):
        with zipfile.ZipFile(place / f"{i}.zip", "w") as archive:
            archive.writestr(name, "x")
        with tarfile.open(place / f"{i}.tar", "w") as tar:
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, str(place)
            tar.addfile(link)
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        for kind in ("zip", "tar"):
            try:
                lay_out(Source(f"{i}.{kind}", gives={".": ""}), str(place / f"{i}.{kind}"), str(place / "into"))
            except UserError as error:
                print(error)
    return 0


PLACES: dict[str, Callable[..., Any]] = {
    "checkpoint": checkpoint,
    "resume": resumed,
    "own-folder": own,
    "init-weights": start,
    "backbone": of_a_backbone("{}"),
    "backbone-of-open_clip": of_a_backbone("open_clip:ViT-B-32,{}"),
    "backbone-of-open_clip-npz": of_a_backbone("open_clip:ViT-B-32,{}", ".npz"),
    "backbone-of-hf": of_a_backbone("hf:{}"),
    "foreign-run": of_a_foreign_run,
    "metadata": metadata,
    "cache": converted,
    "yaml": in_yaml,
    "archives": in_archives,
}


def put(target: str, kind: str, place: str, data: str) -> Any:
    """Do what a target says with a file of a kind, in this process."""
    return PLACES[target](FILES[kind], Path(place), data)


class Code(Attack):
    __doc__ = __doc__
    name = "code"
    long = len(FILES) * len(PLACES)

    def targets(self) -> list[str]:
        return list(PLACES)

    def attempt(self, target: str, seed: int) -> Attempt:
        kind = list(FILES)[seed % len(FILES)]
        whole = self.once("run", lambda: self.whole())
        place = Path(shutil.copytree(whole, self.place(target) / "x"))
        mark = place.parent / MARK
        environment = {**runs.environment(self.folder / "cache"), "ATTACK_MARK": str(mark)}
        environment |= {"HF_HUB_OFFLINE": "1"}
        args = target, kind, str(place), str(self.folder / "data")
        outcome = call(put, *args, environment=environment)
        found = list(place.parent.rglob(MARK)) or [path for path in (place.parent.parent / MARK,) if path.exists()]
        if found:
            fell: str | None = "executed"
        elif (outcome.status == 0 and target not in ("archives", "cache", "own-folder")) and kind != "array":
            fell = "taken for what it should be"
        else:
            fell = outcome.complaint() if target != "yaml" else None
        return Attempt([(seed, f"{kind}: {fell}")] if fell else [])

    def whole(self) -> Path:
        place = self.place("whole") / "x"
        place.mkdir()
        a_run(self, place)
        return place
