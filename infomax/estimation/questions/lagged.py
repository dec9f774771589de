"""Dependence over time: I(X; Y) at lags, and transfer entropy, which has a direction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation import pairs as inputs
from infomax.estimation.estimate import estimate
from infomax.estimation.estimator import Budget, Estimator
from infomax.estimation.pairs import frames
from infomax.estimation.pairs.arrays import tensor_of
from infomax.estimation.pairs.indexes import require_one_index
from infomax.estimation.questions.given import joined
from infomax.estimation.registry import DEFAULT
from infomax.estimation.result import Estimate
from infomax.objectives import Objective


@dataclass(frozen=True)
class Lagged:
    """Estimates at lags: `lags` [k], and of each its Estimate in `estimates` [k]. `found[2]` is that of lag 2."""

    lags: tuple[int, ...]
    estimates: tuple[Estimate, ...]

    def __getitem__(self, lag: int) -> Estimate:
        """The estimate at a lag. Raises UserError: a lag that was not asked for."""
        if lag not in self.lags:
            raise UserError(f"lag {lag} was not estimated; there are {', '.join(map(str, self.lags))}.")
        return self.estimates[self.lags.index(lag)]

    def __iter__(self) -> Iterator[tuple[int, Estimate]]:
        return iter(zip(self.lags, self.estimates, strict=True))

    def __len__(self) -> int:
        return len(self.lags)

    @property
    def mi(self) -> np.ndarray:
        """The values [k], in nats."""
        return np.array([estimate.mi for estimate in self.estimates])

    @property
    def interval(self) -> np.ndarray:
        """Their 95 % intervals [k, 2], in nats, each for itself."""
        return np.array([estimate.interval for estimate in self.estimates])

    @property
    def p_value(self) -> np.ndarray:
        """Their p-values [k], each for itself: among k lags, one of independent series is below .05 / k in 5 %."""
        return np.array([np.nan if e.p_value is None else e.p_value for e in self.estimates])

    def to_dict(self) -> dict[str, Any]:
        """{"lags": [...]}: each estimate as JSON-able values, with its "lag"."""
        return {"lags": [{"lag": lag} | estimate.to_dict() for lag, estimate in self]}

    def shown(self, unit: Literal["nats", "bits"] = "nats") -> str:
        """A line a lag: the statement in `unit`, "nats" or "bits", and the p-value of independence."""
        return "\n".join(f"lag {lag:4}  {in_a_line(estimate, unit)}" for lag, estimate in self)

    def __str__(self) -> str:
        return self.shown()


def in_a_line(estimate: Estimate, unit: Literal["nats", "bits"] = "nats") -> str:
    """The statement of an estimate in `unit`, "nats" or "bits", with its p-value and the blocks that were chosen."""
    p = "" if estimate.p_value is None else f", p = {estimate.p_value:.3g}"
    blocks = "" if estimate.blocks is None else f", blocks of {estimate.blocks} rows"
    return f"{estimate.statement if unit == 'nats' else estimate.bits.statement}{p}{blocks}"


def lagged(
    x: Any,
    y: Any,
    lags: int | Sequence[int],
    *,
    given: Any = None,
    blocks: Any = None,
    estimator: str | Estimator | Objective = DEFAULT,
    critic: str | nn.Module | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    device: str | torch.device = "cpu",
) -> Lagged:
    """I(X at t - lag; Y at t) for each of `lags`, in nats: an Estimate each.

    x [n, ...], y [n, ...]: two series, arrays or data frames, row t of both at one time, in one recording without gaps.
    lags: numbers of rows by which x comes before y; negative where it comes after. given [n, ...]: what is conditioned
    on, at the time of y. blocks: how many rows follow each other until they are alike no more, or the name of each
    row's block [n]; "auto": chosen at each lag, as `estimate` does; a series without them is told as such and not
    trusted. estimator, critic, seed, budget, device: as `estimate` takes them.
    Raises UserError: as `estimate` does; a lag that is no whole number, or leaves fewer than 50 rows; missing values,
    as a series has no rows to spare.
    """
    wanted = tuple(_whole("lags", lag) for lag in (lags if isinstance(lags, Sequence | np.ndarray) else [lags]))
    if not wanted:
        raise UserError("lags is empty: name at least one, such as 0.")
    series, blocks = _series({"x": x, "y": y} | ({} if given is None else {"given": given}), blocks)
    n = len(series["x"])
    for lag in wanted:
        _require_rows(n, abs(lag), f"lag {lag}")
    found = []
    for lag in wanted:
        first, last = max(0, lag), n + min(0, lag)  # rows as slices, which are no copies
        now = slice(first, last)
        found.append(
            estimate(
                series["x"][first - lag : last - lag], series["y"][now], estimator, critic, seed, budget,
                blocks=_at(blocks, torch.arange(first, last), n), given=None if given is None else series["given"][now],
                device=device,
            )
        )  # fmt: skip
    return Lagged(wanted, tuple(found))


def transfer_entropy(
    x: Any,
    y: Any,
    history: int = 1,
    lag: int | Sequence[int] = 1,
    *,
    given: Any = None,
    blocks: Any = None,
    estimator: str | Estimator | Objective = DEFAULT,
    critic: str | nn.Module | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    device: str | torch.device = "cpu",
) -> Estimate:
    """What x's past tells of y beyond y's own past, in nats: I(Y at t; X at t - lag | Y at t - 1 ... t - history).

    x [n, ...], y [n, ...]: two series, as `lagged` takes them. history: how many rows of y's past are conditioned on.
    lag: which row of x, or which rows together, from 1. given: further series [n, ...], or several in a tuple, whose
    last `history` rows are conditioned on too: a common cause. blocks: as `lagged` takes them. estimator, critic,
    seed, budget, device: as `estimate` takes them.
    It is 0 where y follows from its own past as well without x. A history that is too short leaves some of y's own
    past to x, and a common cause that is not given looks like an influence. (Schreiber, 2000) p_value: of x's past
    and y independent given y's own, by surrogates in which what that leaves of y changes sign, two blocks at a time.
    Raises UserError: as `estimate` does; a history or lag that is no whole number from 1, or leaves fewer than 50 rows.
    """
    lags = [_whole("lag", each) for each in (lag if isinstance(lag, Sequence | np.ndarray) else [lag])]
    history = _whole("history", history)
    if not lags or min(lags) < 1 or history < 1:
        told = ", ".join(map(str, lags)) or "empty"
        raise UserError(f"history is {history} and lag is {told}: the past begins at 1, so each is at least 1.")
    others = given if isinstance(given, tuple) else () if given is None else (given,)
    named = {"x": x, "y": y} | {f"given[{k}]" if len(others) > 1 else "given": s for k, s in enumerate(others)}
    series, blocks = _series(named, blocks)
    n, begin = len(series["x"]), max(history, *lags)
    _require_rows(n, begin, f"lag {max(lags)}" if max(lags) >= history else f"history {history}")
    now, past = torch.arange(begin, n), range(1, history + 1)
    known = inputs.side("y's past", _rows(series["y"], now, past))
    for name, other in list(series.items())[2:]:
        known = inputs.side("what is given", joined(known, inputs.side(name, _rows(other, now, past))))
    # y is told by both pasts, rather than x's past by y: the same value, and what prediction learns best.
    found = estimate(
        series["y"][now], _rows(series["x"], now, lags), estimator, critic, seed, budget,
        given=known.values, blocks=_at(blocks, now, n), device=device,
    )  # fmt: skip
    protocol = found.protocol | {"history": history, "lag": lags}
    return replace(found, quantity="I(Y; past of X | past of Y)", protocol=protocol)


def _series(named: dict[str, Any], blocks: Any) -> tuple[dict[str, Tensor], Any]:
    """Series of one length [n, ...], of arrays or data frames, and blocks without a table about them."""
    require_one_index({**named, "blocks": blocks})
    frames.require_all(named)
    series = {name: tensor_of(name, value) for name, value in frames.read(named).sides.items()}
    for name, side in series.items():
        if len(side) != len(series["x"]):
            raise UserError(
                f"{name} has {len(side)} rows and x has {len(series['x'])}: row t of every series is of one time, so "
                "they must be equal."
            )
    return series, frames.names_of_rows("blocks", blocks)


def _rows(series: Tensor, now: Tensor, lags: Sequence[int]) -> Tensor:
    """Rows at now - lag for each lag, side by side [len(now), ...]; of whole numbers, a number for each combination."""
    parts = [series[now - lag] for lag in lags]
    if len(parts) == 1:
        return parts[0]
    beside = torch.cat([part.flatten(1) if part.ndim > 1 else part[:, None] for part in parts], 1)
    if beside.dtype.is_floating_point or series[:1].numel() > 1:
        return beside
    return beside.unique(dim=0, return_inverse=True)[1]


def _at(blocks: Any, now: Tensor, n: int) -> Any:
    """The blocks of rows `now`: a number of rows and "auto" stay, names are picked."""
    if blocks is None or (isinstance(blocks, int | np.integer | str) and not isinstance(blocks, bool)):
        return blocks
    names = np.asarray(blocks.cpu() if isinstance(blocks, Tensor) else blocks)
    if names.shape != (n,):
        raise UserError(f"blocks is a number of rows, or one name for each of the {n} rows; it is {[*names.shape]}.")
    return names[now.numpy()]


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UserError(f"{name} is {value!r}: whole numbers of rows are needed.")
    return int(value)


def _require_rows(n: int, lost: int, what: str) -> None:
    if n - lost < inputs.FEWEST:
        raise UserError(
            f"{what} leaves {max(0, n - lost)} of {n} rows, and fewer than {inputs.FEWEST} say nothing: give a shorter "
            "one, or a longer series."
        )
