"""setup.py's ranges, requirements.txt's pins and requirements.lock are of one mind, on every Python and platform."""

import importlib.metadata
import re
import runpy

import pytest
import setuptools
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPO

UNPINNED = {"all", "mlflow", "wandb"}
"""Extras that no test needs, and what has them."""

PLACES = [
    {"python_version": version, "python_full_version": f"{version}.1", "sys_platform": system, "os_name": os_name,
     "platform_system": name, "platform_machine": machine, "implementation_name": "cpython",
     "platform_python_implementation": "CPython"}
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14")
    for system, os_name, name, machine in (
        ("linux", "posix", "Linux", "x86_64"), ("linux", "posix", "Linux", "aarch64"),
        ("darwin", "posix", "Darwin", "arm64"), ("win32", "nt", "Windows", "AMD64"),
    )
]  # fmt: skip


def in_place(requirements, place):
    """{name: its requirements that hold in a place}."""
    found = {}
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(place | {"extra": ""}):
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def version(requirement):
    """The version of a pin."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", requirement
    return specifier.version


@pytest.fixture(scope="module")
def pins():
    lines = (REPO / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


@pytest.fixture(scope="module")
def locked():
    """[(requirement, its hashes), ...] in requirements.lock."""
    text = re.sub(r"(?m)^ *#.*\n", "", (REPO / "requirements.lock").read_text())
    entries = [entry.split(" \\\n    --hash=") for entry in re.split(r"\n(?! )", text.strip())]
    return [(Requirement(first), hashes) for first, *hashes in entries]


@pytest.fixture
def ranges(monkeypatch):
    told = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    monkeypatch.chdir(REPO)
    runpy.run_path("setup.py")
    extras = [lines for extra, lines in told["extras_require"].items() if extra not in UNPINNED]
    return [Requirement(line) for lines in (told["install_requires"], *extras) for line in lines]


def test_pins_are_locked(pins, locked):
    for place in PLACES:
        held = in_place([requirement for requirement, _ in locked], place)
        for name, (pin,) in in_place(pins, place).items():
            assert [version(found) for found in held.get(name, [])] == [version(pin)], (name, place)


def test_ranges_hold_what_is_locked(ranges, locked):
    for place in PLACES:
        held = in_place([requirement for requirement, _ in locked], place)
        for name, allowed in in_place(ranges, place).items():
            (found,) = held[name]
            assert all(range_.specifier.contains(version(found)) for range_ in allowed), (found, place)


def test_every_file_has_its_hash_and_no_host_a_name(locked):
    assert len(locked) > 100
    for requirement, hashes in locked:
        version(requirement)
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", h.strip()) for h in hashes), requirement
    assert not re.search(r"://|--(extra-)?index|--find|@ ", (REPO / "requirements.lock").read_text())


def test_what_locked_packages_need_is_locked(locked):
    """Of those that are installed here in the version of the lock."""
    here = dict(default_environment())
    held = in_place([requirement for requirement, _ in locked], here)
    checked = 0
    for name, (found,) in held.items():
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if package.version != version(found):
            continue
        needed = in_place(map(Requirement, package.requires or ()), here)
        checked += len(needed)
        for other, requirements in needed.items():
            assert all(r.specifier.contains(version(held[other][0]), prereleases=True) for r in requirements), (
                name,
                other,
            )
    assert checked > 20
