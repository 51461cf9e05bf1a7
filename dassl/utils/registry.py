"""A table of classes or functions by name that anyone may extend."""

import sys
from typing import Any

from dassl import plugins
from dassl.errors import UserError, nearest


class Registry:
    """Maps the name of a class or function to the object.

        TRAINER_REGISTRY = Registry("TRAINER")

        @TRAINER_REGISTRY.register()
        class MyTrainer: ...

        TRAINER_REGISTRY.get("MyTrainer")

    Args:
        name: what it holds, for messages.
        package, group: where plug-ins are found (see dassl.plugins) when a name is first asked for; "" where whoever
            owns the registry sees to that.

    Attributes:
        left_out: what failed and is therefore not in the table, and why; a text each.
    """

    def __init__(self, name: str, package: str = "", group: str = "") -> None:
        self._name = name
        self._objects: dict[str, Any] = {}
        self._claimed_twice: dict[str, str] = {}  # name -> what is wrong
        self._to_find = (package, group) if package else None
        self.left_out: list[str] = []

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Enter an object under its __name__; without `obj`, a decorator that does so.

        Args:
            obj: a class or function.
            force: replace an object of the same name.

        Returns:
            The object.

        Raises:
            UserError: the name is taken, and `force` is false. Neither object is given out then.
        """
        if obj is None:
            return lambda obj: self.register(obj, force)
        name = obj.__name__
        if name in self._objects and not force:
            modules = f"{self._objects[name].__module__} and {obj.__module__}"
            self._claimed_twice[name] = (
                f'two objects named "{name}" in the {self._name} registry, from {modules}: rename one, '
                "or register with force=True"
            )
            raise UserError(self._claimed_twice[name])
        self._claimed_twice.pop(name, None)
        self._objects[name] = obj
        return obj

    def leave_out(self, reason: str, module: str | None = None) -> None:
        """Note that a module failed, and take out what it had registered till then.

        Args:
            reason: what failed and why, told by `get` where a name is not found.
            module: its name; None: it failed as it was imported, and Python has dropped it.
        """
        self.left_out.append(reason)
        whole = sys.modules.keys() - {module}
        self._objects = {name: obj for name, obj in self._objects.items() if obj.__module__ in whole}

    def get(self, name: str) -> Any:
        """The object of that name. Raises UserError with the nearest names if there is none, or if there are two."""
        self._find()
        if name in self._claimed_twice:
            raise UserError(self._claimed_twice[name])
        if name not in self._objects:
            known = nearest(name, self._objects)
            raise UserError(f'no "{name}" in the {self._name} registry: {known}{plugins.told(self.left_out)}')
        return self._objects[name]

    def registered_names(self) -> list[str]:
        """All names that `get` takes."""
        self._find()
        return [name for name in self._objects if name not in self._claimed_twice]

    def _find(self) -> None:
        if self._to_find:
            where, self._to_find = self._to_find, None
            plugins.load(*where, self.leave_out)
