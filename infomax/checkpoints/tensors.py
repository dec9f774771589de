"""State without pickle: nested dicts, lists and tensors as JSON beside safetensors."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


def take_apart(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A JSON form of nested dicts, lists, tuples and scalars; its tensors and arrays are put into `tensors` by name."""
    if isinstance(value, Tensor | np.ndarray):
        array = isinstance(value, np.ndarray)
        # A copy: safetensors wants contiguous tensors that share no memory, and training may go on while it is written.
        source = torch.from_numpy(value) if array else value.detach()
        tensors[name] = source.to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"$array" if array else "$tensor": name}
    if isinstance(value, np.generic):
        return take_apart(value.item(), tensors, name)
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: take_apart(item, tensors, f"{name}.{key}") for key, item in value.items()}
        return {"$dict": [[take_apart(k, {}, ""), take_apart(v, tensors, f"{name}.{k}")] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [take_apart(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [take_apart(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: a {type(value).__name__} cannot be saved; use tensors, numbers, text, lists and dicts.")


def put_together(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(form, list):
        return [put_together(item, tensors) for item in form]
    if not isinstance(form, dict):
        return form
    match form:
        case {"$tensor": name}:
            return tensors[name]
        case {"$array": name}:
            return tensors[name].numpy()
        case {"$tuple": items}:
            return tuple(put_together(item, tensors) for item in items)
        case {"$float": text}:
            return float(text)
        case {"$dict": pairs}:
            return {put_together(key, tensors): put_together(item, tensors) for key, item in pairs}
    return {key: put_together(item, tensors) for key, item in form.items()}
