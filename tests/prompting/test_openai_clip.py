"""The CLIP code that we build on is the installed one, whatever lies beside."""

import os
import subprocess
import sys

from tests.conftest import REPO

FOREIGN = "def load(name):\n    return 'theirs'\n"
PROBE = """
import torch
asked = []
torch.cuda.is_available = lambda: bool(asked.append(1))
from prompting import backbone, deep_prompts, openai_clip, tokenizers
assert not asked, "to import it asks nothing of CUDA"
openai_clip.clip._download = lambda *a: "nothing"
try:
    openai_clip.clip.load("RN50")
except Exception:
    assert asked, "load itself does"
import clip
print(clip.load.__module__, openai_clip.model.CLIP.__module__)
print(tokenizers.openai_tokenizer().encode("a photo"), backbone.load_backbone("icon-clip").visual.input_resolution)
"""


def probe(folder, *, beside, path):
    """What a script prints that lies in a folder with a `clip/`, or that finds one on PYTHONPATH, or neither."""
    for place in [folder] * beside + [folder / "more"] * path:
        (place / "clip").mkdir(parents=True)
        (place / "clip" / "__init__.py").write_text(FOREIGN)
        (place / "clip" / "model.py").write_text("raise ImportError('theirs')")
    (folder / "probe.py").write_text(PROBE)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "more"), str(REPO)])}
    done = subprocess.run(
        [sys.executable, "probe.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_clip_folder_in_the_way(tmp_path):
    ours = "[320, 1125] 64"
    for name, options in {"root": {"beside": 1, "path": 0}, "path": {"beside": 0, "path": 1}}.items():
        (tmp_path / name).mkdir()
        assert probe(tmp_path / name, **options) == ["clip installed_clip.model", ours], "theirs stays `clip`"
    (tmp_path / "none").mkdir()
    assert probe(tmp_path / "none", beside=0, path=0) == ["clip.clip clip.model", ours], "one copy where one is enough"
