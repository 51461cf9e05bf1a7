"""A table of classes or functions by name, which anyone may extend."""

from dassl.errors import UserError, nearest


class Registry:
    """Maps the name of a class or function to the object.

        TRAINER_REGISTRY = Registry("TRAINER")

        @TRAINER_REGISTRY.register()
        class MyTrainer: ...

        TRAINER_REGISTRY.get("MyTrainer")

    Args:
        name: what it holds, for messages.
    """

    def __init__(self, name):
        self._name = name
        self._objects = {}

    def register(self, obj=None, force=False):
        """Enter an object under its __name__; without `obj`, a decorator that does so.

        Args:
            obj: a class or function.
            force: replace an object of the same name.

        Returns:
            The object.

        Raises:
            UserError: the name is taken, and `force` is false.
        """
        if obj is None:
            return lambda obj: self.register(obj, force)
        name = obj.__name__
        if name in self._objects and not force:
            modules = f"{self._objects[name].__module__} and {obj.__module__}"
            raise UserError(
                f'two objects named "{name}" in the {self._name} registry, from {modules}: rename one, '
                "or register with force=True"
            )
        self._objects[name] = obj
        return obj

    def get(self, name):
        """The object of that name. Raises UserError with the nearest names if there is none."""
        if name not in self._objects:
            raise UserError(f'no "{name}" in the {self._name} registry: {nearest(name, self._objects)}')
        return self._objects[name]

    def registered_names(self):
        """All names, as a list."""
        return list(self._objects)
