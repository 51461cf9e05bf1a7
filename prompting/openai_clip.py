"""OpenAI's CLIP code as our requirements install it (clip-anytorch), whatever else is called `clip`.

Many releases ship a `clip/` of their own, changed to their needs, beside train.py; found first, it would replace the
code that we build on. Theirs stays importable as `clip`, for the trainer files that came with it; ours is then a
package named `installed_clip`. Where there is no such folder, the two are the same.

Importing this does not touch CUDA, so that processes may be forked afterwards.
"""

import sys
from importlib import import_module
from importlib.metadata import distribution
from importlib.util import find_spec, module_from_spec, spec_from_file_location

import torch


def _package():
    """The name under which the installed package can be imported."""
    path = distribution("clip-anytorch").locate_file("clip/__init__.py")
    if "clip" in sys.modules:
        found = sys.modules["clip"].__spec__
    else:
        found = find_spec("clip")
    if found is not None and found.origin is not None and path.samefile(found.origin):
        return "clip"
    spec = spec_from_file_location("installed_clip", path, submodule_search_locations=[str(path.parent)])
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return spec.name


_is_available, torch.cuda.is_available = torch.cuda.is_available, lambda: False  # `load` asks as it is defined
try:
    _name = _package()
    clip, model, simple_tokenizer = (import_module(f"{_name}.{part}") for part in ("clip", "model", "simple_tokenizer"))
finally:
    torch.cuda.is_available = _is_available
clip.load.__defaults__ = (None, *clip.load.__defaults__[1:])  # None: `load` asks when it is called
