"""Targets: what is known of a sample beside its label, a number, or several words of a list; probes predict them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError


@final
@dataclass(frozen=True, eq=False)
class Target:
    """One target of n samples, by its name.

    values: float64 [n], a number each; or bool [n, k], which of the k `words` each sample has. words: none of numbers.
    """

    name: str
    values: Tensor
    words: tuple[str, ...] = ()

    def of(self, index: Tensor) -> "Target":
        """The target of the samples at `index`, int64, in that order."""
        return replace(self, values=self.values[index])


def tagged(name: str, texts: Sequence[str], mark: str = "|") -> Target:
    """The target of several words: "cat|dog", "dog" and "" (none) -> bool [3, 2] of the words cat and dog, in order.

    name: the target's. texts: one a sample, words with `mark` between.
    """
    parts = [{word.strip() for word in text.split(mark)} - {""} for text in texts]
    words = tuple(sorted(set[str]().union(*parts)))
    return Target(name, torch.tensor([[word in part for word in words] for part in parts], dtype=torch.bool), words)


def pair_of_targets(
    pair: Any, names: Sequence[str] | None, lengths: Sequence[int]
) -> tuple[tuple[Target, ...], tuple[Target, ...]]:
    """The targets of the training and the test part from arrays in hand; none where `pair` is None.

    pair: (training, test), numbers [n] or [n, t] of t targets; or bool [n, k], one target of k words. names: of the t
    targets or the k words; by default target 0, target 1, ... lengths: how many samples the parts have. Raises
    UserError: anything else, NaN or infinity, lengths that differ.
    """
    if pair is None:
        if names is not None:
            raise UserError(
                f"target_names={list(names)} names targets, and none are given: give targets=(train, test)."
            )
        return (), ()
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UserError("targets are a pair, targets=(training, test), an array of numbers or of bool each.")
    parts = [_array(what, part, n) for what, part, n in zip(("training", "test"), pair, lengths, strict=True)]
    shapes = [list(part.shape[1:]) for part in parts]
    if shapes[0] != shapes[1] or (parts[0].dtype == bool) != (parts[1].dtype == bool):
        raise UserError(
            f"Training targets are {parts[0].dtype} {list(parts[0].shape)} and test targets {parts[1].dtype} "
            f"{list(parts[1].shape)}: they must have the same kind and columns."
        )
    count = parts[0].shape[1]
    called = [f"target {i}" for i in range(count)] if names is None else [str(name) for name in names]
    if len(called) != count or len(set(called)) != count:
        raise UserError(f"target_names={called} must be {count} different names, one a column of the targets.")
    if parts[0].dtype == bool:
        made = [(Target("tags", torch.from_numpy(part), tuple(called)),) for part in parts]
    else:
        made = [
            tuple(Target(name, torch.from_numpy(part[:, i].copy())) for i, name in enumerate(called)) for part in parts
        ]
    return made[0], made[1]


def _array(what: str, values: Any, n: int) -> np.ndarray:
    array = np.array(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise UserError(
            f"The {what} targets are {array.dtype} {list(array.shape)}: numbers [n] or [n, t], or bool [n, k] of words."
        )
    array = array.reshape(len(array), -1)
    if len(array) != n:
        raise UserError(f"There are {n} {what} samples but {len(array)} rows of targets.")
    array = array if array.dtype == bool else array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise UserError(f"The {what} targets hold NaN or infinity in {len(bad)} rows, the first of them row {bad[0]}.")
    return array
