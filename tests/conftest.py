"""What all tests share: the real data where it is at hand, and a cache folder of their own."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def caltech_root():
    """DATASET.ROOT with the real Caltech101."""
    if not (SHARED_DATA / "caltech-101").is_dir():
        pytest.skip(f"the real Caltech101 is not at {SHARED_DATA}")
    return str(SHARED_DATA)


@pytest.fixture(autouse=True)
def tmp_cache(tmp_path_factory, monkeypatch):
    """The cache folder, empty."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MOCOOP_CACHE", str(path))
    return path
