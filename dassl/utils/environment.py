"""Where a run takes place, for the head of its log."""

import platform
from importlib.metadata import version

import torch

from dassl.utils.numerics import numerics

PACKAGES = ("torch", "torchvision", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide numbers."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def collect_env_info() -> str:
    """Versions, processor and GPUs, one per line. It starts no process and imports no package."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts = {
        **versions(),
        "CUDA": torch.version.cuda,
        "GPU": ", ".join(gpus) or "none",
        "numerics": ", ".join(f"{name} {value}" for name, value in numerics().items()),
        "CPU threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())
