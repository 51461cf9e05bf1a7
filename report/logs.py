"""The logs in a run's folder, ours and those of CoOp's own code, and the figures that they close with."""

import re
from pathlib import Path

from dassl.layout import LOG

TRAINED = "Finish training"


def read_logs(folder: Path | str) -> list[tuple[Path, str]]:
    """A folder's logs and what they say, in the order of writing: log.txt, then those that end in their time."""
    return [(path, path.read_text(encoding="utf-8", errors="replace")) for path in sorted(Path(folder).glob(f"{LOG}*"))]


def closing_figures(text: str, trained: bool) -> dict[str, float]:
    """{name: figure} of a log's last result, {} where it has none.

    Args:
        text: the log.
        trained: what was measured before the end of training is no result.
    """
    if trained:
        text = text.partition(f"\n{TRAINED}\n")[2]
    number = r"\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?"
    found = re.findall(rf"^\* (\w+): ({number})%?$", text.rpartition("=> result\n")[2], re.MULTILINE)
    return {name: float(figure.replace(",", "")) for name, figure in found}
