"""The project's entry point from anywhere: its own packages come before others of the same names.

The packages have the plain names that CoOp's readers know (`datasets`, `trainers`, `dassl`). One of them is also the
name of Hugging Face's package, so an installation puts `mocoop` alone beside other people's packages, and this puts the
rest in front of them, for the process that asks.
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

_INSTALLED = Path(__file__).parent / "home"
HOME = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1]
"""The folder that holds `dassl`, `datasets`, `configs`, `train.py` and the others: a clone, or where pip put them."""

PACKAGES = ("benchmark", "dassl", "datasets", "embedded", "learned", "prompting", "report", "trainers")


def version() -> str:
    """Of the installation; "" in a clone, whose commit says more."""
    return __version__ if _INSTALLED.is_dir() else ""


def typed(words: str) -> str:
    """A command as one types it: `mocoop WORDS` where pip put it or that was typed, else as in a clone."""
    called = Path(sys.argv[0] if sys.argv else "")
    if _INSTALLED.is_dir() or called.stem == "mocoop" or called.parts[-2:] == ("mocoop", "__main__.py"):
        return f"mocoop {words}"
    return f"python {words}.py" if words in ("train", "predict") else f"python -m {words}"


def enter() -> None:
    """Let the project's packages be found under their names, before all others.

    Raises:
        ImportError: another package of one of these names is imported already, such as Hugging Face's `datasets`.
    """
    home = str(HOME)
    sys.path[:] = [home, *(path for path in sys.path if path != home)]
    for name in PACKAGES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in sys.modules and not (file and Path(file).resolve().is_relative_to(HOME.resolve())):
            raise ImportError(
                f"another package called {name} is already imported ({file}): call mocoop.enter() before importing it, "
                "in a process of its own"
            )
