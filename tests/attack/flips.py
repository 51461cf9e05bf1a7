"""One bit of a file is flipped: what is computed from it is as before, or the user is told.

Told is an error in one line, or a new line in the log that names the file or speaks of damage.
"""

import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import predict
from benchmark import __main__ as benchmark
from prompting import shared_weights
from tests.attack import runs
from tests.attack.child import Outcome, call
from tests.attack.harness import Attack, Attempt, succeeded
from tests.in_a_process import train_until_killed

EMBEDDED = Path(__file__).parents[2] / "embedded"
TOLD = ("damaged", "warning", "differ", "another", "other ", "corrupt")


@dataclass(frozen=True)
class Victim:
    """Files that are hit, and what is done with them.

    Attributes:
        files: patterns below the folder that `make` fills; one that fits is hit.
        make: fills the folder "x", which attempts get a copy of.
        look: what is called with that folder, in a process of its own; gives what may not change.
    """

    files: tuple[str, ...]
    make: Callable[["Flips", Path], None]
    look: Callable[[str, str], Any]


class Flips(Attack):
    __doc__ = __doc__
    name, long = "flips", 2000

    def targets(self) -> list[str]:
        return list(VICTIMS)

    def attempt(self, target: str, seed: int) -> Attempt:
        rng, victim = random.Random(f"{target} {seed}"), VICTIMS[target]
        whole, before = self.once(target, lambda: self.whole(target, victim))
        place = copied(whole, self.place(target))
        path = rng.choice(sorted(path for pattern in victim.files for path in place.glob(pattern) if path.is_file()))
        bit = flip(path, rng)
        outcome = self.looked(victim, place)
        fell = verdict(before, outcome, path.name)
        where = f"bit {bit} of {path.relative_to(place)}"
        if not fell:
            shutil.rmtree(place.parent)
        return Attempt([(seed, f"{where}: {fell}")] if fell else [])

    def whole(self, target: str, victim: Victim) -> tuple[Path, Outcome]:
        """The folder to copy, and what becomes of looking at it when nothing is hit."""
        place = self.place(f"{target}-whole") / "x"
        place.mkdir()
        victim.make(self, place)
        succeeded(self.looked(victim, copied(place, self.place(f"{target}-first"))))  # which keeps what it computes
        return place, succeeded(self.looked(victim, copied(place, self.place(f"{target}-second"))))

    def looked(self, victim: Victim, place: Path) -> Outcome:
        own = place / "cache"
        cache = runs.environment(own if own.exists() else self.folder / "cache")
        outcome = call(victim.look, str(place), str(self.folder / "data"), environment=cache)
        outcome.out, outcome.err = (text.replace(str(place), "HERE") for text in (outcome.out, outcome.err))
        return outcome


def verdict(before: Outcome, after: Outcome, name: str) -> str | None:
    """What is wrong with how a process took a damaged file; None if nothing."""
    if complaint := after.complaint():
        return complaint
    if after.status or after.value == before.value:
        return None
    known = set(before.out.splitlines()) | set(before.err.splitlines())
    new = [line for line in (after.out + after.err).splitlines() if line not in known and "seconds" not in line]
    if any(name in line or any(word in line.lower() for word in TOLD) for line in new):
        return None
    return f"silently {str(after.value)[:100]}, not {str(before.value)[:100]}"


def flip(path: Path, rng: random.Random) -> int:
    """Flip one bit of a file, in a new file of that name; which one."""
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(content)
    return bit


def copied(folder: Path, place: Path) -> Path:
    """A copy of a folder in `place` under the same name; files are linked, and must be replaced, not changed."""
    return Path(shutil.copytree(folder, place / "x", copy_function=os.link))


# What is looked at: each gets the folder and that of the data


def small(trainer: str, data: str, *keys: str, backbone: str = "icon-clip-vit") -> runs.Small:
    return runs.Small(trainer, data, keys, backbone)


def evaluated(place: str, data: str) -> Any:
    """What CoOp's weights in `run` answer to all test images."""
    return runs.do_and_look(small("CoOp", data).words(f"{place}/found", "--eval-only", "--model-dir", f"{place}/run"))


def resumed(place: str, data: str) -> Any:
    """The weights that the killed run comes to."""
    status = runs.do(small("CoOp", data, *FREQUENT).words(f"{place}/run"))
    return status or weights_and_metrics(f"{place}/run", place)


def weights_and_metrics(run: str, place: str) -> str:
    result = runs.result(run)
    return f"{result['weights']} {result['metrics']}".replace(place, "HERE")


def trained(place: str, data: str) -> Any:
    """The weights that a new run comes to."""
    status = runs.do(small("CoOp", data).words(f"{place}/found"))
    return status or str([runs.result(f"{place}/found")[part] for part in ("weights", "metrics")]).replace(
        place, "HERE"
    )


def zero_shot(place: str, data: str, *keys: str, backbone: str = "icon-clip-vit") -> Any:
    return runs.do_and_look(small("ZeroshotCLIP", data, *keys, backbone=backbone).words(f"{place}/found"))


def with_backbone(place: str, data: str) -> Any:
    return zero_shot(place, data, "MODEL.BACKBONE.FAMILY", "openai", backbone=f"{place}/backbone.pt")


def with_converted(place: str, data: str) -> Any:
    shared_weights.FROM = 0
    return zero_shot(place, data)


def with_data(place: str, data: str) -> Any:
    """CoOp's weights on the data that they were learned on."""
    words = small("CoOp", data).words(f"{place}/found", "--eval-only", "--model-dir", f"{place}/run")
    return runs.do_and_look([*words, "DATASET.ROOT", f"{place}/root"])


def icons(place: str, data: str, *keys: str) -> Any:
    config = ("--dataset-config-file", "configs/datasets/icons_rare.yaml")
    words = small("ZeroshotCLIP", data, *keys).words(f"{place}/found", *config)
    return runs.do_and_look(words)


def zipped(place: str, data: str) -> Any:
    """From an archive that is not unpacked yet."""
    from datasets import icons as reader

    reader.ARCHIVE = Path(place, "icons.zip")
    os.environ["MOCOOP_CACHE"] = f"{place}/new-cache"
    return icons(place, data)


def predicted(place: str, data: str) -> Any:
    """What the run in `run` says of the images."""
    images = Path(runs.data(data)[0]) / "caltech-101" / "101_ObjectCategories"
    return printed(predict.run, ["--model-dir", f"{place}/run", str(images), "--format", "csv"])


def listed(place: str, data: str) -> Any:
    """What the results of the folder are."""
    return printed(benchmark.main, ["results", f"{place}/run"])


def printed(main: Callable[[Sequence[str]], int], words: list[str]) -> Any:
    """The exit status of a command, or what it printed where all went well."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = main(words)
    return status or text.getvalue()


# How the folders are filled

FREQUENT = ("TRAIN.CHECKPOINT_FREQ", "1")


def a_run(attack: Flips, place: Path) -> None:
    words = small("CoOp", str(attack.folder / "data")).words(place / "run")
    succeeded(call(runs.do, words, environment=runs.environment(attack.folder / "cache")))


def a_killed_run(attack: Flips, place: Path) -> None:
    words = small("CoOp", str(attack.folder / "data"), *FREQUENT).words(place / "run")
    words[words.index("--output-dir") + 1] = str(place / "run")
    call(train_until_killed, words, "CoOp", environment=runs.environment(attack.folder / "cache"))


def a_cache(look: Callable[[str, str], Any]) -> Callable[[Flips, Path], None]:
    """A cache folder that looking once has filled."""

    def make(attack: Flips, place: Path) -> None:
        other = attack.place("other")
        cache = runs.environment(place / "cache")
        succeeded(call(look, str(other), str(attack.folder / "data"), environment=cache))

    return make


def a_copy(name: str, source: Path) -> Callable[[Flips, Path], None]:
    def make(attack: Flips, place: Path) -> None:
        shutil.copyfile(source, place / name)

    return make


def a_run_and_its_data(attack: Flips, place: Path) -> None:
    a_run(attack, place)
    shutil.copytree(runs.data(str(attack.folder / "data"))[0], place / "root")


VICTIMS = {
    "checkpoint": Victim(("run/*/model*",), a_run, evaluated),
    "killed-run": Victim(("run/*/*",), a_killed_run, resumed),
    "features": Victim(("cache/image_features/*",), a_cache(zero_shot), zero_shot),
    "views": Victim(("cache/image_features/*",), a_cache(trained), trained),
    "backbone": Victim(("backbone.pt",), a_copy("backbone.pt", EMBEDDED / "icon-clip-vit.pt"), with_backbone),
    "converted": Victim(("cache/weights/[!.]*",), a_cache(with_converted), with_converted),
    "icons": Victim(("cache/icons-*/rare/split.json", "cache/icons-*/rare/images/*/*/0*"), a_cache(icons), icons),
    "archive": Victim(("icons.zip",), a_copy("icons.zip", EMBEDDED / "icons.zip"), zipped),
    "data": Victim(("root/*/split*", "root/*/*/*/0.png"), a_run_and_its_data, with_data),
    "config": Victim(("run/config.yaml",), a_run, predicted),
    "classes": Victim(("run/classes.json",), a_run, predicted),
    "classes-evaluated": Victim(("run/classes.json",), a_run, evaluated),
    "metrics": Victim(("run/metrics.json",), a_run, listed),
}
