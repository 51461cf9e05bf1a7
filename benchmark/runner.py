"""Many runs on this machine, each in a process of its own.

The processes are forked from a server that has imported what train.py needs, and nothing else: they are as clean as
those of `python train.py` and compute the same bits, without its seconds of imports. If this process ends, they end.

A process that was forked after CUDA began cannot use a GPU. So neither this process nor the server ever touches CUDA;
where there are several GPUs, each run is told by CUDA_VISIBLE_DEVICES which one is its own.
"""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing import connection, get_context
from typing import Any

from benchmark.place import CONSOLE, FAILED, Place
from benchmark.protocol import Run
from dassl.errors import Stopped, UserError, printable
from dassl.signals import grace, heard

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["benchmark.server", "benchmark.worker"])


class Local:
    """Does runs on this machine.

    Args:
        place: the runs' Place.
        workers: how many at a time.
        quiet: whether they print to their folders instead of the console.
        gpus: of `find_gpus`; a run gets the one that has the fewest of these runs, the first of equals. None of them:
            runs see those that this process sees, and take the first.
    """

    def __init__(self, place: Place, workers: int = 1, quiet: bool = False, gpus: Sequence[str] = ()) -> None:
        self.place, self.slots, self.quiet, self.gpus = place, workers, quiet, list(gpus)
        if workers > 1:  # else each would take all processors
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        self.processes: dict[Run, Any] = {}
        self.gpu_of: dict[Run, str] = {}

    def start(self, run: Run) -> None:
        environment = {**os.environ}
        if self.gpus:
            load = Counter(self.gpu_of[other] for other in self.processes)
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu_of[run] = min(self.gpus, key=lambda gpu: load[gpu])
        self.processes[run] = CONTEXT.Process(target=_perform, args=(run, self.place, self.quiet, environment))
        self.processes[run].start()

    def wait(self, seconds: float | None = None) -> dict[Run, int]:
        """Those of the started runs that ended, within some seconds: {run: exit status}; negative ones are signals."""
        ended = connection.wait([process.sentinel for process in self.processes.values()], seconds)
        statuses = {}
        for run in [run for run, process in self.processes.items() if process.sentinel in ended]:
            process = self.processes.pop(run)
            process.join()
            statuses[run] = process.exitcode
        return statuses

    def stop(self, number: int = signal.SIGINT) -> dict[Run, int]:
        """Send the current runs a signal, and wait until they end: {run: exit status}.

        Those that have not ended soon after the time that SIGTERM leaves them are killed.
        """
        for process in self.processes.values():
            _send(process, number)
        end, statuses = time.monotonic() + grace() + 3, dict[Run, int]()
        try:
            while self.processes and time.monotonic() < end:
                statuses |= self.wait(1)
        finally:
            for process in self.processes.values():
                process.kill()
        return statuses


def ask(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of a module returns in a process of the server's, which ends with this one."""
    answer, told = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(told, function, args))
    process.start()
    told.close()
    try:
        error, value = answer.recv()
    except EOFError:
        process.join()
        raise UserError(f"the process that looks at runs and GPUs ended with status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        answer.close()
    if error is not None:
        raise error
    return value


def find_gpus(asked: str | None = None) -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them; they are counted in a process of the server's.

    Args:
        asked: numbers or UUIDs between commas; None: all that this process may use.

    Raises:
        UserError: one that was asked for is not there.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if asked is None else asked
    names = None if visible is None else list(dict.fromkeys(name.strip() for name in visible.split(",")))
    count = ask(_count_gpus, names)
    if asked is not None and names is not None and count < len(names):  # CUDA sees none behind one that is not there
        raise UserError(f'--gpus: this machine has no GPU "{names[count]}": give numbers from 0 on, as in 0,1')
    return [str(i) for i in range(count)] if names is None else names[:count]


def last_lines(run: Run, place: Place, count: int = 5) -> list[str]:
    """The end of what a quiet run printed that failed or was killed: lines."""
    for name in (FAILED, CONSOLE):
        if (path := place.folder(run) / name).is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return [printable(line) for line in lines if line.strip()][-count:]
    return []


class Watch:
    """Callbacks for run progress. This one stays silent."""

    def started(self, run: Run) -> None:
        """The run was given to the launcher."""

    def ended(self, run: Run, status: int) -> None:
        """The run ended with this exit status; it failed unless that is 0."""

    def tick(self) -> None:
        """A second went by, or something happened."""


def survey(runs: Sequence[Run], place: Place, thorough: bool = False) -> tuple[dict[Run, str], dict[str, list[Run]]]:
    """How runs stand, {run: one of place.STATES}, and what would stop them at their start, {line: runs}.

    Args:
        runs: a list of Run.
        place: their Place.
        thorough: look for their trainers, weights and data too; weights that can be downloaded are.
    """
    answers = ask(_survey, runs, place, thorough)  # of one process: what all ask for is read once
    found = dict(zip(runs, answers, strict=True))
    problems: dict[str, list[Run]] = {}
    for run, (_, lines) in found.items():
        for line in lines:
            problems.setdefault(line, []).append(run)
    return {run: state for run, (state, _) in found.items()}, problems


def execute(runs: Sequence[Run], launcher: Any, watch: Watch | None = None) -> dict[Run, int]:
    """Do runs, each once the run that it needs is done. A run that is not among them counts as done.

    Args:
        runs: a list of Run, those that others need before them.
        launcher: a Local, or what has its methods.
        watch: a Watch.

    Returns:
        {run: exit status} of those that failed, or were stopped to go on later (GO_ON_LATER); what needs them is not
        done.

    Where this process is interrupted or told to end the runs are, too, and what is unfinished is said on stderr.
    """
    watch = Watch() if watch is None else watch
    waiting, failed = dict.fromkeys(runs), dict[Run, int]()
    going, given_up = set[Run](), set[Run]()
    try:
        while waiting or going:
            free = launcher.slots - len(going)
            for run in list(waiting):
                if run.needs in failed or run.needs in given_up:
                    given_up.add(run)
                elif free <= 0 or run.needs in waiting or run.needs in going:
                    continue
                else:
                    watch.started(run)
                    launcher.start(run)
                    going.add(run)
                    free -= 1
                del waiting[run]
            for run, status in launcher.wait(1).items() if going else ():
                going.remove(run)
                if status:
                    failed[run] = status
                watch.ended(run, status)
            watch.tick()
    except BaseException as error:
        # SIGTERM comes as Stopped, in a launcher's own process, or through its code, as another SystemExit
        stopped = launcher.stop(signal.SIGTERM if isinstance(error, SystemExit) else signal.SIGINT)
        left = [*(run for run in going if stopped.get(run) != 0), *failed, *given_up, *waiting]
        tell_unfinished(left, len(runs), launcher.place)
        if heard():
            raise Stopped from error
        raise
    return failed


def tell_unfinished(left: Sequence[Run], count: int, place: Place) -> None:
    """Say on stderr which of so many runs are not done."""
    if left:
        first = f"the first {place.folder(left[0])}"
        print(f"unfinished: {len(left)} of {count} runs, {first}; the same command goes on", file=sys.stderr)


def _send(process, number):
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:  # it has just ended
        pass


# These are called in the server's processes, which have the worker; here its imports would take seconds.


def _perform(run, place, quiet, environment):
    import torch

    from benchmark import worker

    os.environ.update(environment)  # the server has that of its start
    if environment.get("OMP_NUM_THREADS", "").isdigit():  # which torch read then
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    worker.perform(run, place, quiet)


def _answer(told, function, args):
    from benchmark import worker

    worker.end_with_parent()
    try:
        told.send((None, function(*args)))
    except Exception as error:
        told.send((error, None))


def _count_gpus(names):
    import torch

    if names is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    return torch.cuda.device_count()


def _survey(runs, place, thorough):
    from benchmark import worker

    return [worker.survey(run, place, thorough) for run in runs]
