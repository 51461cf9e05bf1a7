"""How users add their own code: files dropped into a package's folder, and modules that entry points name.

One policy for trainers, data sets, protocols, backbones, metrics and evaluators: a module that fails is left out, with
a line that says why, and the others work without it. Importing this imports no torch.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Any


def load(
    package: str,
    group: str,
    leave_out: Callable[[str], object],
    use: Callable[[ModuleType], object] | None = None,
) -> list[ModuleType]:
    """Import every module in a package's folder, then those that the entry points of a group name.

    Args:
        package: the name of a package that is imported, or on its way.
        leave_out: called for each module that fails, with the reason.
        use: takes what is wanted from a module; where it raises, the module has failed.

    Returns:
        The modules that work.
    """
    found: dict[str, Callable[[], Any]] = {
        f"{package.replace('.', '/')}/{info.name}{'' if info.ispkg else '.py'}": partial(
            import_module, f"{package}.{info.name}"
        )
        for info in iter_modules(sys.modules[package].__path__)
        if info.name != "__main__"
    }
    for point in entry_points(group=group):
        found[f"the entry point {point.name} = {point.value}"] = point.load
    modules = []
    for source, get in found.items():
        try:
            module = get()
            if use is not None:
                use(module)
        except Exception as error:  # whatever is in the file
            leave_out(failure(source, error))
        else:
            modules.append(module)
    return modules


def collect(package: str, group: str, attribute: str) -> tuple[dict[str, Any], list[ModuleType], list[str]]:
    """The values that modules hold under one attribute, each alone or in a list, by their `name`.

    A name that two modules give is neither's.

    Returns:
        {name: value}, the modules, and what was left out and why.
    """
    values: dict[str, Any] = {}
    owners: dict[str, list[str]] = {}
    left_out: list[str] = []

    def use(module: ModuleType) -> None:
        held = getattr(module, attribute)
        for value in held if isinstance(held, list | tuple) else [held]:
            values[value.name] = value
            owners.setdefault(value.name, []).append(module.__name__)

    modules = load(package, group, left_out.append, use)
    for name, several in owners.items():
        if len(several) > 1:
            del values[name]
            left_out.append(f'two named "{name}", in {" and ".join(several)} (rename one)')
    return values, modules, left_out


def failure(source: str, error: Exception) -> str:
    """What failed and why, in one line."""
    return f"{source} ({type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]})"


def told(left_out: list[str]) -> str:
    """What to add to the message that a name is unknown; "" where nothing was left out."""
    return f"; left out because they failed: {', '.join(left_out)}" if left_out else ""
