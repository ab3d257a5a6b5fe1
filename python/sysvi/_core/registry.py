"""Registries: implementations of one interface by the names that users give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Generic, TypeVar

from sysvi._core.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name. Built-in names are known before the module that defines their class is imported.

    So settings can be checked, and command-line options listed, without importing torch.

    Parameters
    ----------
    kind
        What is registered, for messages: ``"prior"``.
    builtin
        Module that registers each built-in name, by name.

    Examples
    --------
    >>> shapes = Registry("shape", {})
    >>> @shapes.register("square")
    ... class Square: ...
    >>> shapes.names, shapes["square"] is Square
    (('square',), True)
    """

    def __init__(self, kind: str, builtin: Mapping[str, str]):
        self.kind = kind
        self._modules = dict(builtin)
        self._classes: dict[str, type[T]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the built-in ones first."""
        return tuple(dict.fromkeys([*self._modules, *self._classes]))

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that registers a class under a name."""

        def add(cls: type[T]) -> type[T]:
            self._classes[name] = cls
            return cls

        return add

    def check(self, name: object) -> None:
        """Raise an InputError for a name that is not registered."""
        if not isinstance(name, str) or name not in self.names:
            raise InputError(f"{self.kind} is {name!r}; it must be one of {', '.join(self.names)}.")

    def __getitem__(self, name: str) -> type[T]:
        self.check(name)
        if name not in self._classes:
            import_module(self._modules[name])
        return self._classes[name]
