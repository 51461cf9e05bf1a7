"""What Dassl.pytorch has and this does not, and what to do instead, which importing one of the names says."""

import sys
from collections.abc import Callable
from typing import Any

_COPY = "copy the file of the one you need into your project; its @{}_REGISTRY.register() works here"
_TORCHVISION = "name the transform in INPUT.TRANSFORMS, or take torchvision.transforms.v2's"

ABSENT = {
    "dassl.modeling": "build networks with torchvision or timm; dassl.engine.SimpleNet takes torchvision's",
    "dassl.engine.da": _COPY.format("TRAINER"),
    "dassl.engine.dg": _COPY.format("TRAINER"),
    "dassl.engine.ssl": _COPY.format("TRAINER"),
    "dassl.data.datasets.da": _COPY.format("DATASET"),
    "dassl.data.datasets.dg": _COPY.format("DATASET"),
    "dassl.data.datasets.ssl": _COPY.format("DATASET"),
    "dassl.data.transforms.autoaugment": _TORCHVISION,
    "dassl.data.transforms.randaugment": _TORCHVISION,
    "dassl.data.transforms.transforms.Random2DTranslation": "name random_translation in INPUT.TRANSFORMS",
    "dassl.data.transforms.transforms.InstanceNormalization": "name instance_norm in INPUT.TRANSFORMS",
    "dassl.data.transforms.transforms.GaussianNoise": "name gaussian_noise in INPUT.TRANSFORMS",
    "dassl.optim.radam.AdamW": "use torch.optim.AdamW, or OPTIM.NAME adamw",
}
"""Module, or name in a module, to what to do."""


def message(name: str) -> str:
    return f"{name} of Dassl.pytorch is left out here: {ABSENT[name]} (docs/dassl.md)"


class Finder:
    """Asked last for a module that nobody has. Raises ImportError with advice for those of ABSENT."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name in ABSENT:
            raise ImportError(message(name), name=name)  # a ModuleNotFoundError is swallowed by `from dassl import ...`


def getter(module: str) -> Callable[[str], Any]:
    """The __getattr__ of a module that lacks names of ABSENT: for these an ImportError with advice."""

    def __getattr__(name: str) -> Any:
        if f"{module}.{name}" in ABSENT:
            raise ImportError(message(f"{module}.{name}"), name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__


def tell() -> None:
    """Have Python ask `Finder` from now on."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)
