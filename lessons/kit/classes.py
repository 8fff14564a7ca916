"""A class that grows through a notebook, method by method, and is whole in the module."""

from collections.abc import Callable
from typing import Any


def method_of(owner: Any) -> Callable[[Any], Any]:
    """Make the decorated function a method of a class that stands in an earlier cell.

    In the notebook it is attached when its cell runs, as if it had been written in the class's
    body; `lessons build` writes it there, without this decorator. It stands above all other
    decorators (`@torch.no_grad()`, `@property`, `@checked`, …). Raises TypeError for what is no
    class and for what has no name.
    """
    if not isinstance(owner, type):
        raise TypeError(f"method_of takes a class, not {type(owner).__name__}")

    def attach(method: Any) -> Any:
        function = getattr(method, "fget", None) or getattr(method, "__func__", None) or method
        if not callable(function) or not hasattr(function, "__name__"):
            raise TypeError(f"method_of({owner.__name__}) takes a function, not {method!r}")
        function.__qualname__ = f"{owner.__qualname__}.{function.__name__}"
        setattr(owner, function.__name__, method)
        return method

    return attach
