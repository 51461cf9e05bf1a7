"""parse_test_res.py on logs, by hand."""

import pytest

from parse_test_res import main

TRAINED = "* accuracy: 1.0%\nFinish training\n=> result\n* total: 10\n* accuracy: {}%\n* macro_f1: 50.0%\n"


def write(folder, text):
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("head\n" + text)


@pytest.fixture
def runs(tmp_path):
    for seed, accuracy in ((1, 90.0), (2, 92.0)):
        write(tmp_path / "caltech101" / f"seed{seed}", TRAINED.format(accuracy))
    write(tmp_path / "dtd" / "seed1", TRAINED.format(61.0))
    return tmp_path


def test_mean_over_seeds(runs, capsys):
    assert main([str(runs / "caltech101")]) == 0
    told = capsys.readouterr().out
    assert "* accuracy: 91.00% +- 1.00%" in told and "seed2/log.txt. accuracy: 92.00%" in told
    assert main([str(runs / "caltech101"), "--keyword", "macro_f1", "--ci95"]) == 0
    assert "* macro_f1: 50.00% +- 0.00%" in capsys.readouterr().out
    main([str(runs / "caltech101"), "--ci95"])
    assert "* accuracy: 91.00% +- 1.39%" in capsys.readouterr().out


def test_the_newest_log_that_closed_counts(runs, capsys):
    """A run that was resumed has its result in a later log; a try after that may have come to nothing."""
    folder = runs / "caltech101" / "seed1"
    (folder / "log.txt").write_text("head\n* accuracy: 1.0%\nepoch [3/50] ...\n")  # killed
    (folder / "log.txt-2026-11-21-04-20-00").write_text("head\n" + TRAINED.format(80.0))
    (folder / "log.txt-2026-11-21-05-00-00").write_text("head\n" + TRAINED.format(86.0))  # tested once more
    (folder / "log.txt-2026-11-21-06-00-00").write_text("head\nFinish training\n")  # killed in its test
    assert main([str(runs / "caltech101")]) == 0
    told = capsys.readouterr().out
    assert "* accuracy: 89.00% +- 3.00%" in told and "seed1/log.txt-2026-11-21-05-00-00. accuracy: 86.00%" in told


def test_several_experiments(runs, capsys):
    assert main([str(runs), "--multi-exp"]) == 0
    assert capsys.readouterr().out.endswith("Average performance\n* accuracy: 76.00%\n")


def test_logs_of_evaluation_only(tmp_path, capsys):
    write(tmp_path / "seed1", "=> result\n* accuracy: 80.0%\n")
    assert main([str(tmp_path)]) == 1 and "Finish training" in capsys.readouterr().err
    assert main([str(tmp_path), "--test-log"]) == 0 and "80.00%" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_nothing_there(folder, tmp_path, capsys):
    (tmp_path / "empty" / "seed1").mkdir(parents=True)
    assert main([str(tmp_path / folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and folder in line
