"""Imported by the server that processes are forked from: what commands would import one after the other."""

import importlib
import pkgutil

import benchmark.protocols  # noqa: F401
import benchmark.worker  # noqa: F401
import report.page  # noqa: F401

for package in ("learned", "report", "benchmark"):
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.name not in ("__main__", "inside_release", "on_ray", "on_slurm"):
            importlib.import_module(f"{package}.{module.name}")
