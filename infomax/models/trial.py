"""Which part of a model cannot take some inputs, and why: the sentence that stands in place of torch's words."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from infomax.errors import UserError


@torch.no_grad()
def tried(model: nn.Module, sides: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
    """Calls sides(inputs, None) in evaluation mode; modes and weights stay as they were.

    Raises UserError: the part of `model` that began and did not end, what it was given, and the error's first line.
    """
    modes = [(module, module.training) for module in model.modules()]
    running: list[tuple[str, nn.Module, Any]] = []  # parts that have begun and not ended, with what they were given
    ended: set[str] = set()
    hooks = [hook for name, part in model.named_children() for hook in _watched(name, part, running, ended)]
    try:
        model.eval()
        sides(inputs, None)
    except UserError:
        raise
    except Exception as error:  # an encoder of the user's own may raise anything
        raise UserError(_refusal(model, inputs, running, ended, error)) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training


def _watched(
    name: str, part: nn.Module, running: list[tuple[str, nn.Module, Any]], ended: set[str]
) -> list[RemovableHandle]:
    def begin(module: nn.Module, given: tuple[Any, ...]) -> None:
        running.append((name, module, given[0] if given else None))

    def end(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        ended.add(running.pop()[0])

    return [part.register_forward_pre_hook(begin), part.register_forward_hook(end)]


def _refusal(
    model: nn.Module,
    inputs: Sequence[Any],
    running: Sequence[tuple[str, nn.Module, Any]],
    ended: set[str],
    error: Exception,
) -> str:
    """Which part could not take what, and why."""
    encoder = getattr(model, "encoder", None)
    if running:
        name, part, given = running[-1]
        who = f"The {name}, a {type(part).__name__},"
    elif isinstance(encoder, nn.Module) and "encoder" not in ended:  # by a method of its own, such as forward_features
        name, who, given = "encoder", f"The encoder, a {type(encoder).__name__},", inputs[0]
    else:
        name, who, given = "model", f"The model, a {type(model).__name__},", inputs[0]
    reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    if isinstance(error, KeyError) or not reason:
        reason = f"{type(error).__name__} {reason}".strip()
    images = isinstance(given, torch.Tensor) and given.ndim == 4
    advice = "another encoder, such as resnet18_small or resnet18" if images and "encoder" in name else "another one"
    told = "Its sides(inputs, ids) raised that" if name == "model" else f"Choose {advice}"
    return f"{who} cannot take {_what(given)}: {reason}. {told}."


def _what(given: Any) -> str:
    if not isinstance(given, torch.Tensor):
        return f"a {type(given).__name__}"
    shape = "x".join(map(str, given.shape[1:])) or "one number"
    if given.ndim == 4:
        return f"images of {shape} (channels, height, width)"
    return f"rows of {shape} numbers" if given.ndim == 2 else f"inputs of {shape} a sample"
