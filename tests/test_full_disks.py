"""Disks that are full or read-only, and limits of the system: one line, and nothing lost that was there."""

import errno
import logging
import os
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch

from benchmark.__main__ import main
from dassl.errors import exit_status
from dassl.layout import LOG, METRICS, TENSORBOARD
from dassl.loggers.tensorboard import LateWriter
from dassl.utils import setup_logger
from dassl.utils.files import WriteError
from tests.in_a_process import on_a_small_disk, outputs, status_of


@contextmanager
def no_room(size=0):
    """No file can grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [2_000, 7_000, 12_000, 16_000])
def test_a_run_ends_in_a_line_and_goes_on_when_there_is_room(size, toy_args, toy_run, tmp_path):
    keys = "OPTIM.MAX_EPOCH", 2, "TEST.COMPUTE_CMAT", True, "DATALOADER.NUM_WORKERS", 0
    whole = toy_run("CoOp", str(tmp_path / "whole"), *keys)
    argv, stderr = toy_args("CoOp", str(tmp_path / "run"), *keys), tmp_path / "stderr.txt"
    assert status_of(on_a_small_disk, argv, size, str(stderr)) == 1
    *warnings, error = stderr.read_text().splitlines()
    assert error.startswith("error: cannot write ") and error.endswith(": File too large")
    assert len(warnings) <= 1 and all(line.startswith("warning: cannot write ") for line in warnings)
    assert not (tmp_path / "run" / METRICS).exists()
    resumed = toy_run("CoOp", str(tmp_path / "run"), *keys)
    assert torch.equal(outputs(resumed), outputs(whole))


def test_a_log_that_is_lost_costs_a_warning(tmp_path, closing_logger, capsys):
    setup_logger(tmp_path)
    closing_logger.info("kept")
    with no_room():
        for _ in range(3):
            closing_logger.info("gone")
            print("printed")
    out, err = capsys.readouterr()
    assert out.count("gone") == 3 and out.count("printed") == 3
    assert err == (f"warning: cannot write {tmp_path / LOG}: File too large: the run goes on, and its log ends here\n")
    setup_logger()
    assert (tmp_path / LOG).read_text() == "kept\n"


def test_a_log_that_cannot_be_opened(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot "):
        setup_logger(tmp_path / "file" / "run")


def test_names_in_the_log_do_not_command_the_terminal(tmp_path, closing_logger, capsys):
    setup_logger(tmp_path)
    closing_logger.info("class: \x1b[31mred\r\x9b\n\tsecond")
    assert capsys.readouterr().out == "class: \\x1b[31mred\\r\\x9b\n\tsecond\n"
    setup_logger()


@pytest.mark.parametrize("wrote", [False, True])
def test_tensorboard_costs_a_warning(wrote, tmp_path, caplog, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    writer = LateWriter(tmp_path / TENSORBOARD)
    if wrote:
        writer.add_scalar("loss", 1.0, 0)
        writer.flush()
    with no_room():
        for step in range(200):
            writer.add_scalar("loss", 1.0, step)
            if step == 100:
                writer.add_image("image", torch.zeros(3, 4, 4), step)
        writer.close()
    (line,) = caplog.messages
    assert line.startswith(f"cannot write to {tmp_path / TENSORBOARD}") and line.endswith("on without TensorBoard")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EMFILE, errno.EIO])
def test_what_the_machine_refuses(number, capsys):
    def refused():
        raise OSError(number, os.strerror(number), "/some/fi\x1ble")

    assert exit_status(refused) == 1
    assert capsys.readouterr().err == f"error: {os.strerror(number)}: /some/fi\\x1ble\n"


def test_batches_that_have_no_room_in_shared_memory(capsys):
    def shared():
        with no_room():
            torch.zeros(9).share_memory_()

    assert exit_status(shared) == 1
    assert "DATALOADER.NUM_WORKERS 0" in capsys.readouterr().err


def test_torchs_own_error_is_of_the_disk(tmp_path, capsys):
    def saved():
        with open(tmp_path / "file", "wb", buffering=0) as file, no_room():
            torch.save(torch.zeros(9), file)

    assert exit_status(saved) == 1
    assert capsys.readouterr().err.startswith("error: File too large: ")


def test_a_mistake_of_ours_keeps_its_traceback():
    def ours():
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    with pytest.raises(FileNotFoundError):
        exit_status(ours)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_console_that_is_full():
    code = "import sys; from dassl.errors import exit_status; sys.exit(exit_status(print, 'x' * 9))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: No space left on device") and done.stderr[-1] == "\n"
    assert len(done.stderr.splitlines()) == 1


def test_a_console_that_is_full_costs_a_warning(tmp_path, closing_logger, monkeypatch, capsys):
    setup_logger(tmp_path)
    full = open("/dev/full", "w", buffering=1)
    monkeypatch.setattr(sys.stdout, "console", full)
    closing_logger.info("one")
    logging.getLogger("dassl.engine").info("two")
    monkeypatch.undo()
    with pytest.raises(OSError):
        full.close()
    err = capsys.readouterr().err
    assert err == "warning: the console takes no more (No space left on device): the run goes on\n"
    assert (tmp_path / LOG).read_text() == "one\ntwo\n"
    setup_logger()


def test_a_report(toy_run, tmp_path, capsys):
    toy_run(
        "ZeroshotCLIP",
        str(tmp_path / "runs/caltech101/ZeroshotCLIP/vit_b16/seed1"),
        flags=["--eval-only"],
        config="vit_b16",
    )
    capsys.readouterr()
    for size in (0, 300, 5000):
        with no_room(size):
            status = main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")])
        assert status == 1, size
        err = capsys.readouterr().err
        assert err.startswith("error: cannot write ") and len(err.splitlines()) == 1
        assert all(path.stat().st_size <= size for path in (tmp_path / "report").rglob("*") if path.is_file())
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
