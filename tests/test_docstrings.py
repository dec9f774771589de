"""Every public function, constructor and method has a docstring that names each of its parameters."""

import dataclasses
import importlib
import inspect
import re
from typing import Any

import pytest

MODULES = (
    "infomax", "infomax.checkpoints", "infomax.critics", "infomax.data", "infomax.encoders", "infomax.errors",
    "infomax.estimation", "infomax.evaluation", "infomax.launch", "infomax.models", "infomax.objectives",
    "infomax.scores", "infomax.training",
)  # fmt: skip
# Modules and packages whose docstrings are not held to this yet, by the module that defines the callable.
LATER: set[str] = set()
ALLOWED = {"self", "cls"}  # what Python passes; *args and **kwargs are named like any other parameter


def public(module: Any) -> list[str]:
    """A module's own list of names, or else what it defines itself."""
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    return sorted(n for n in getattr(module, "__all__", own) if not n.startswith("_"))


def ours(value: Any) -> bool:
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("infomax")


def methods(kind: type) -> list[tuple[str, Any]]:
    """The public methods that a class of the library defines itself, unwrapped."""
    found = []
    for name, value in vars(kind).items():
        value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_") and inspect.isfunction(value):
            found.append((name, value))
    return found


def callables() -> dict[str, tuple[Any, str]]:
    """{module.name: (callable, its docstring)} of all that is public, each where it is defined."""
    found: dict[str, tuple[Any, str]] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for value in (getattr(module, n) for n in public(module)):
            if not ours(value):
                continue
            home = f"{value.__module__}.{value.__qualname__}"
            found[home] = (value, described(value) if inspect.isclass(value) else inspect.getdoc(value) or "")
            for kind in value.__mro__ if inspect.isclass(value) else ():
                if kind.__module__.startswith("infomax"):
                    for method, function in methods(kind):
                        doc = inspect.getdoc(getattr(kind, method)) or ""
                        found[f"{kind.__module__}.{kind.__qualname__}.{method}"] = (function, doc)
    return found


def constructed_by(kind: type) -> type:
    """The class, of a class and its bases, that defines the constructor."""
    return next(base for base in kind.__mro__ if "__init__" in vars(base))


def described(kind: type) -> str:
    """A class's docstring, that of the base whose constructor it takes, and those of a dataclass's fields."""
    text = (kind.__doc__ or "") + " " + (constructed_by(kind).__doc__ or "")
    for base in kind.__mro__:
        if dataclasses.is_dataclass(base) and base.__module__.startswith("infomax"):
            source = inspect.getsource(base)
            text += " " + " ".join(re.findall(r'^    (\w+):[^\n]*(?:\n    """|[^\n]*  # )', source, re.MULTILINE))
    return text


def parameters(value: Any) -> list[str]:
    """Of a function, or of the constructor that a class writes itself or that a dataclass has."""
    if inspect.isclass(value) and not constructed_by(value).__module__.startswith("infomax"):
        return []
    if getattr(value, "_is_protocol", False):  # nothing is constructed from it
        return []
    signature = inspect.signature(value.__init__ if inspect.isclass(value) else value)
    return [name for name in signature.parameters if name not in ALLOWED]


def unnamed(value: Any, doc: str) -> list[str]:
    """The parameters that a docstring does not name as a word."""
    return [name for name in parameters(value) if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", doc)]


CALLABLES = callables()
HELD = {
    name: value for name, value in CALLABLES.items()
    if not any(name == later or name.startswith(later + ".") for later in LATER)
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HELD))
def test_a_docstring_names_every_parameter(name):
    value, doc = HELD[name]
    if parameters(value):
        assert doc.strip(), f"{name} has no docstring"
    assert unnamed(value, doc) == [], f"the docstring of {name} does not name these parameters"


def test_every_public_class_and_function_has_a_docstring():
    bare = [name for name, (value, _) in HELD.items() if value.__qualname__.count(".") == 0 and not value.__doc__]
    assert bare == []


def test_a_docstring_that_lacks_a_parameter_is_caught():
    def lacking(alpha: int, beta: int):
        """alpha: named; the other is not, in alphabeta either."""

    assert unnamed(lacking, lacking.__doc__ or "") == ["beta"]
    assert len(CALLABLES) > 150 and "infomax.training.loop.train" in CALLABLES


if __name__ == "__main__":
    for name, (value, doc) in sorted(CALLABLES.items()):
        if missing := unnamed(value, doc):
            print(name, *missing)
