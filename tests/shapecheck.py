"""The checker of shape annotations: beartype, with an int where a float is annotated, as Python's typing has it."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_made: dict[tuple[Any, ...], Callable[..., Any]] = {}


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype of `function`, which takes its arguments and does nothing: made once for all of one name and signature.

    jaxtyping hands over such a function for each that the library defines, and so anew for each closure, for which
    beartype would each time write and compile the same check.
    """
    code, named = function.__code__, function.__kwdefaults__ or {}
    defaults = [*(function.__defaults__ or ()), *named.values()]
    key = (
        (function.__module__, function.__qualname__, code.co_varnames, code.co_code, code.co_flags, *named),
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        (*defaults, *map(type, defaults)),
        tuple(function.__annotations__.items()),
    )
    try:
        if key not in _made:
            _made[key] = _checked(function)
        return _made[key]
    except TypeError:  # an annotation or a default without a hash
        return _checked(function)
