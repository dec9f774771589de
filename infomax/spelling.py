"""Objects as text and back: one spelling, the constructor call, for command lines, run.json and repr."""

import ast
import importlib
import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from infomax.errors import UserError, nearest


class Renamed:
    """An attribute's earlier name: it reads and sets the attribute `new`, of a class and of its objects.

    A subclass of Spelled that defines the earlier name defines the new one.
    """

    def __init__(self, new: str):
        self.new = new

    def __get__(self, owner: Any, kind: type) -> Any:
        return getattr(kind if owner is None else owner, self.new)

    def __set__(self, owner: Any, value: Any) -> None:
        setattr(owner, self.new, value)


class Spelled:
    """Mixin: repr is the constructor call, read from attributes named like the constructor's parameters."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, value in list(vars(cls).items()):
            earlier = next((vars(base)[name] for base in cls.__mro__[1:] if name in vars(base)), None)
            if isinstance(earlier, Renamed):
                delattr(cls, name)
                setattr(cls, earlier.new, value)

    def __repr__(self) -> str:
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return f"{type(self).__name__}({', '.join(f'{name}={of_python(getattr(self, name))!r}' for name in names)})"

    def extra_repr(self) -> str:
        return ""


def of_python(value: Any) -> Any:
    """`value`, where it is a NumPy scalar as Python's own number, whose text is read back."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def parse(
    text: str,
    registry: Mapping[str, Any],
    kind: str,
    allow_imports: bool = True,
    parts: Mapping[str, Any] | None = None,
) -> Any:
    """The object that `text` spells: "SMILE(tau=3)", "smile", or "module:Class(argument=1)" for a user's own class.

    Arguments are literals only (numbers, inf, strings, booleans, None, lists), or calls of `parts`, which maps
    lower-cased names to classes, as registry does: nothing is evaluated. `kind` names what is spelled in messages.
    Raises UserError: an unknown name (with the nearest ones), arguments that cannot be read or are refused by the
    class, and `module:Class` where allow_imports is False (a text from a file that may be hostile).
    """
    module, colon, rest = text.partition(":")
    if not (colon and module.replace(".", "").isidentifier()):
        module, rest = "", text
    elif not allow_imports:
        raise UserError(_not_imported(text))
    name, positional, keywords = _call(rest, kind, parts or {})
    made = found(module, name, text, registry, kind, allow_imports)
    try:
        return made(*positional, **keywords)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        try:
            takes = f"{name}{inspect.signature(made)}"
        except (TypeError, ValueError):
            takes = name
        raise UserError(f"{kind} {text!r} was refused: {error}. It takes {takes}.") from error


def found(module: str, name: str, text: str, registry: Mapping[str, Any], kind: str, allow_imports: bool) -> Any:
    """The class `name` of a module, or without one the registry's; `text` is what was written, for messages.

    Raises UserError as parse() does.
    """
    if module:
        if not allow_imports:
            raise UserError(_not_imported(text))
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two of a name such as "..x"
            raise UserError(f"{kind} {text!r} could not be imported: {error}.") from error
    if name.lower() not in registry:
        raise UserError(f"Unknown {kind} {name!r}.{nearest(name, map(_spelt, registry.values()))}")
    return registry[name.lower()]


def _not_imported(text: str) -> str:
    return (
        f"{text!r} names a class outside infomax, and loading it would run its code;"
        " pass allow_imports=True if you trust it."
    )


def _spelt(made: Any) -> str:
    """A class's name; a registry may hold one with some of its arguments filled in."""
    return (made.func if isinstance(made, partial) else made).__name__


def is_readable(text: str, parts: Mapping[str, Any]) -> bool:
    """Whether `text` is a call whose arguments parse() reads; parts: as it takes them. Nothing is made."""

    def read(node: ast.expr) -> bool:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.lower() in parts:
            return all(map(read, node.args)) and all(keyword.arg and read(keyword.value) for keyword in node.keywords)
        try:
            _argument(node, {})
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return False
        return True

    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return (
        isinstance(node, ast.Call)
        and all(map(read, node.args))
        and all(keyword.arg is not None and read(keyword.value) for keyword in node.keywords)
    )


def _call(text: str, kind: str, parts: Mapping[str, Any]) -> tuple[str, list[Any], dict[str, Any]]:
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            raise ValueError("it is neither a name nor a call")
        keywords = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError("** is not read")
            keywords[keyword.arg] = _argument(keyword.value, parts)
        return node.func.id, [_argument(argument, parts) for argument in node.args], keywords
    except UserError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:  # the last of nested or odd ones
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "it is nested too deep"
        raise UserError(
            f"{kind} {text!r} cannot be read ({reason}); write it like a call: Name(argument=1.0)."
        ) from error


def _argument(node: ast.expr, parts: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return math.inf if node.id == "inf" else math.nan
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_argument(node.operand, parts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.lower() in parts:
        return parse(ast.unparse(node), parts, "part", allow_imports=False, parts=parts)
    try:
        return ast.literal_eval(node)
    except ValueError as error:  # whose message names an object of the parser
        raise ValueError(f"{ast.unparse(node)} is no number, string, boolean, None or list of these") from error
