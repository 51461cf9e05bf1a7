"""One run, in the process that does it and ends with it. Importing this module imports all that train.py needs."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import NoReturn

import sklearn.linear_model  # noqa: F401  these two are what runs import late
import torch.utils.tensorboard  # noqa: F401

import datasets  # noqa: F401
import train
import trainers  # noqa: F401
from benchmark import preflight
from benchmark.place import CONSOLE, FAILED, Place, command
from benchmark.protocol import Run
from dassl import signals
from dassl.engine import run_folder
from dassl.errors import GO_ON_LATER, exit_status
from dassl.layout import LOCK, METRICS, POINTER
from dassl.utils import UserError, locks

STOPPED = (GO_ON_LATER, 130)
"""Exit statuses of a run that is to go on from where it was stopped, by SIGTERM or Ctrl-C."""


def perform(run: Run, place: Place, quiet: bool = False) -> NoReturn:
    """Do a run unless it is finished, and end the process with train.py's exit status.

    A run that another process is at is waited for.

    Args:
        run, place: as `place.command` takes them.
        quiet: print to the run's own folder instead of the console.
    """
    # loaders' workers start as under train.py: those of a fork server would outlive a run that is killed
    multiprocessing.set_start_method(None, force=True)
    end_with_parent()
    signals.end_in_one_line()
    sys.exit(exit_status(_perform, run, place, quiet))


def end_with_parent() -> None:
    """Have this process, and those that it will start, end as by a kill when the one that wanted it has ended.

    Ctrl-C is that one's.
    """

    def end() -> None:
        wait([parent_process().sentinel])  # type: ignore[union-attr]
        os.killpg(0, signal.SIGKILL)

    os.setpgid(0, 0)
    threading.Thread(target=end, daemon=True).start()


def is_finished(run: Run, place: Place) -> bool:
    """Whether the run's result is there, of this config, and no older than that of the run that it needs."""
    try:
        return _has_result(_config(run, place), run, place)
    except UserError:
        return False


def _has_result(cfg, run, place):
    if not run_folder.is_finished(cfg):
        return False
    results = [place.folder(one) / METRICS for one in (run.needs, run) if one]
    return all(path.is_file() for path in results) and results[0].stat().st_mtime <= results[-1].stat().st_mtime


def survey(run: Run, place: Place, thorough: bool = False) -> tuple[str, list[str]]:
    """How a run stands, one of place.STATES, and what would stop it at its start, lines.

    Args:
        run, place: as `perform` takes them.
        thorough: look for its trainer, weights and data too; weights that can be downloaded are.
    """
    folder = place.folder(run)
    if locks.owner(folder / LOCK):
        return "running", []
    left = "begun" if any(folder.glob(f"*/{POINTER}")) else "waiting"
    if (folder / FAILED).is_file():
        left = "failed"
    try:
        cfg = _config(run, place)
        if _has_result(cfg, run, place):
            return "done", []
        differing = run_folder.conflict(cfg)
    except UserError as error:
        return left, [str(error)]
    problems = preflight.problems(cfg) if thorough else []
    if run.needs:  # the weights to start from have no name yet where that run is not done
        differing.pop(run_folder.WEIGHTS, None)
    if differing:
        left = "other"
        problems.append(
            f"its folder holds a run of another config ({run_folder.tell(differing)}): choose another output, give the "
            "changes a label, or remove that folder"
        )
    return left, problems


def _config(run, place):
    return train.setup_cfg(train.parse_args(command(run, place)))


def _perform(run, place, quiet):
    folder = place.folder(run)
    with signals.heeding():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with run_folder.alone_in(folder, wait=True):
            (folder / FAILED).unlink(missing_ok=True)
            if is_finished(run, place):
                if not quiet:
                    print(f"finished already: {folder}", flush=True)
                return 0
            if quiet:
                with open(folder / CONSOLE, "wb") as file:
                    os.dup2(file.fileno(), sys.stdout.fileno())
                    os.dup2(file.fileno(), sys.stderr.fileno())
            status = _train(command(run, place))
            if quiet and status not in (0, *STOPPED):
                os.replace(folder / CONSOLE, folder / FAILED)
            elif quiet:
                (folder / CONSOLE).unlink()
            return status


def _train(arguments):
    try:
        return train.run(arguments)
    except Exception:  # no mistake of the user's
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
