"""The process of a release: its own packages and our `dassl`, and another place for what it hard-codes.

benchmark/release.py starts this file as a script. Nothing else of this project can be imported in it, so that `clip`,
`datasets` and `trainers` are the release's own.
"""

import json
import os
import runpy
import sys
import time
import traceback
from contextlib import ExitStack
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


def enter(home: str, folder: str) -> None:
    """Let imports find the release's packages first, none of ours but `dassl`."""
    others = [path for path in sys.path[1:] if os.path.realpath(path or ".") != os.path.realpath(home)]
    sys.path[:] = [home]
    import dassl  # noqa: F401  its own parts are found through it from now on

    sys.path[:] = [folder, *others]


class Weights:
    """An import hook: `_download` of every module that has it as clip/clip.py does gives our file of weights.

    Args:
        folder: the release's.
        name, file: the weights as the user names them, and where they are; "" leaves the release its own choice, and
            a failed download is told in one line.
    """

    def __init__(self, folder: str, name: str, file: str) -> None:
        self.folder, self.name, self.file = folder, name, file

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None or not str(spec.origin).endswith(".py"):
            return None
        if name.partition(".")[0] == "clip" or Path(str(spec.origin)).is_relative_to(self.folder):
            execute = spec.loader.exec_module

            def then_lead(module: ModuleType) -> None:
                execute(module)
                if hasattr(module, "_download") and hasattr(module, "_MODELS"):
                    self.lead(module)

            spec.loader.exec_module = then_lead  # type: ignore[method-assign]
        return spec

    def lead(self, clip: Any) -> None:
        from dassl.errors import UserError

        download = clip._download

        def ours(url: str, *args: Any, **options: Any) -> str:
            if self.file:
                print(f"Weights: {self.name} instead of {os.path.basename(url)}")
                return self.file
            try:
                return download(url, *args, **options)
            except (OSError, RuntimeError) as error:
                raise UserError(
                    f"the release asks for {os.path.basename(url)}, which is not at hand and cannot be downloaded "
                    f"({error}): name other weights with --weights"
                ) from error

        clip._download = ours


def stay_on_the_cpu() -> None:
    """Keep on the CPU what is sent to a GPU, and in float32 what is made half precision."""
    import torch
    from torch.overrides import TorchFunctionMode

    cpu = torch.device("cpu")

    def here(value: Any) -> Any:
        if isinstance(value, str):
            return "cpu" if value.partition(":")[0] == "cuda" else value
        if isinstance(value, torch.device):
            return cpu if value.type == "cuda" else value
        return torch.float32 if value is torch.float16 else value

    class Here(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.Tensor.cuda:
                return args[0]
            if function is torch.Tensor.half:
                return args[0].float()
            return function(*map(here, args), **{key: here(value) for key, value in (kwargs or {}).items()})

    load = torch.load

    def load_here(f: Any, map_location: Any = None, *args: Any, **options: Any) -> Any:
        return load(f, "cpu", *args, **options)

    torch.load = load_here
    torch.cuda.synchronize = torch.cuda.set_device = lambda *args, **options: None
    Here().__enter__()  # till the process ends


def build_trainer(cfg: Any, overwrite: bool, build: Any, ends: ExitStack) -> Any:
    """What the release's train.py gets as dassl's `build_trainer`: it claims the folder and sees to metrics.json.

    Args:
        ends: has the folder till it is closed.
    """
    from dassl.engine import SimpleTrainer, run_folder
    from dassl.utils import set_numerics

    ends.enter_context(run_folder.alone_in(cfg.OUTPUT_DIR))
    run_folder.claim(cfg, overwrite)
    set_numerics(cfg)
    trainer = build(cfg)
    if isinstance(trainer, SimpleTrainer) and type(trainer).test is not SimpleTrainer.test:
        _record(trainer)
    return trainer


def _record(trainer):
    """Have metrics.json written after a closing evaluation by a `test` of the release's own."""
    test, evaluate, found = trainer.test, trainer.evaluator.evaluate, {}

    def remembered() -> Any:
        found["results"] = evaluate()
        return found["results"]

    def closing(split: str | None = None, *args: Any, **options: Any) -> Any:
        start = time.time()
        found.clear()
        result = test(*(() if split is None else (split,)), *args, **options)
        if split is None and "results" in found:
            trainer.write_metrics(trainer.evaluator.split, found["results"], time.time() - start)
        return result

    trainer.evaluator.evaluate, trainer.test = remembered, closing


def main(said: dict[str, Any]) -> None:
    """Run the release's train.py as `python train.py ARGUMENTS` in its folder would."""
    import multiprocessing

    import torch

    from dassl import engine, signals
    from dassl.config.defaults import DEFAULTS

    multiprocessing.set_start_method("fork")  # loaders' workers would not find these packages by themselves
    DEFAULTS.RELEASE.NAME, DEFAULTS.RELEASE.WEIGHTS = said["name"], said["weights"]
    sys.meta_path.insert(0, Weights(said["folder"], said["weights"], said["file"]))
    build = engine.build_trainer
    engine.build_trainer = lambda cfg: build_trainer(cfg, said["overwrite"], build, ends)
    if not torch.cuda.is_available():
        stay_on_the_cpu()
    script = os.path.join(said["folder"], "train.py")
    sys.argv[:] = [script, *said["arguments"]]
    try:
        with ExitStack() as ends, signals.heeding():
            runpy.run_path(script, run_name="__main__")
    except Exception as error:
        raise _mistake(error, said["folder"]) or error from None


def _mistake(error, folder):
    """The UserError that says in one line what a release ran into for want of something; None for its own errors."""
    from dassl.errors import UserError

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_file()]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    where = f"{os.path.relpath(own[-1].filename, folder)}, line {own[-1].lineno}" if own else "train.py"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("dassl"):
        package = error.name.partition(".")[0]
        return UserError(f"the release needs the package {package}, which is not installed ({where}): pip install it")
    if isinstance(error, ImportError):
        return UserError(f"{error} ({where})")
    if isinstance(error, FileNotFoundError) and error.filename:
        return UserError(f"no file {error.filename}, which the release reads ({where})")
    if frames and Path(frames[-1].filename).match("yacs/config.py"):
        return UserError(f"the release's config: {str(error.args[0] if error.args else error)} ({where})")
    return None


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    enter(told["home"], told["folder"])
    from dassl import signals

    signals.end_in_one_line()
    from dassl.errors import exit_status

    sys.exit(exit_status(main, told))
