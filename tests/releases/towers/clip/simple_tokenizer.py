"""The installed package's tokenizer, whose vocabulary needs no second copy."""

import importlib.util
from importlib.metadata import distribution

_spec = importlib.util.spec_from_file_location(
    "installed_tokenizer", distribution("clip-anytorch").locate_file("clip/simple_tokenizer.py")
)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
SimpleTokenizer = _module.SimpleTokenizer
