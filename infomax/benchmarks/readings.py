"""Estimates by every estimator of `im.estimation.registry` on one set of pairs; alike ones share a critic."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from infomax.errors import UserError
from infomax.estimation import DEFAULT, Budget, estimate_splits, fitting, registry
from infomax.estimation import pairs as inputs
from infomax.estimation.critic import gated
from infomax.estimation.estimator import Estimator

Part = tuple[Any, Any]  # x and y of a split, arrays of rows
Parts = tuple[Part, Part, Part]  # fit, select, report
SKIPPED = ("smile",)  # stands in the table at the paper's three tau


def groups() -> dict[str, list[Estimator]]:
    """The registry's rows by what trains their critic, SMILE at the paper's three tau, the default first."""
    smiles = [registry["smile"](tau) for tau in (1.0, 5.0, math.inf)]
    others = [make() for name, make in registry.items() if name not in (DEFAULT.lower(), *SKIPPED)]
    rows = [registry[DEFAULT.lower()](), *others, *smiles]
    found: dict[str, list[Estimator]] = {}
    for row in rows:
        found.setdefault(row.trained_by, []).append(row)
    return found


def read(
    rows: Sequence[Estimator], fit: Part, select: Part, report: Part, budget: Budget, seed: int,
    critic: str | None = None, device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Each row's value on the report split, in nats, NaN where a row refuses such pairs; of one training.

    critic: what the rows train that train one, but for the default; by its name alone, of images [n, c, h, w].
    The default's value is the Estimate's, with its interval and verdict; that of a row which fits nothing is of all
    pairs. Raises UserError: a critic that cannot score such pairs.
    """
    if repr(rows[0]) == repr(registry[DEFAULT.lower()]()):
        found = estimate_splits(fit, select, report, seed=seed, budget=budget, device=device)
        low, high = found.interval
        rest = {"low": low, "high": high, "trusted": found.trusted, "reasons": list(found.reasons)}
        return {repr(rows[0]): found.mi, "default": {"mi": found.mi, "floor": found.floor, **rest}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            critic = shaped(critic, *fit) if rows[0].takes_critic else None
            pairs, _, _ = inputs.prepared(
                [(*part, None) for part in (fit, select, report)], fitting.reads_images(critic)
            )
            fitted = rows[0].fit(pairs[0], pairs[1], critic, budget, seed, device)
            reported = inputs.joined(pairs) if rows[0].training_free else pairs[2]
            held_out = fitted.mapped(reported).to(device)
            return {
                repr(row): replace(fitted, estimator=_trained(row, fitted.estimator)).value(held_out) for row in rows
            }
        except UserError:
            if rows[0].takes_critic:  # refuses no pairs, so it was the critic
                raise
            return {repr(row): math.nan for row in rows}


def require_critic(critic: str) -> None:
    """Raises UserError for a critic that cannot score images, before any is trained."""
    x = torch.zeros(2, 1, 28, 28)
    pairs = inputs.Pairs(x.flatten(1), x.flatten(1), torch.arange(2))
    fitting.require_scores(gated(None, fitting.fresh(shaped(critic, x, x), pairs)), pairs)


def shaped(critic: str | None, x: Any, y: Any) -> str | None:
    """The text of a critic with the shapes of images x, y [n, c, h, w], or [n, h, w], where it reads images."""
    if critic is None or not fitting.reads_images(critic):
        return critic
    shapes = [(1, *side.shape[1:])[-3:] for side in (x, y)]
    return f"{critic}(shape={shapes[0]}, shape_y={shapes[1]})"


def _trained(row: Estimator, fitted: Estimator) -> Estimator:
    # What was fitted may hold what it learnt beside the critic (a baseline, running averages).
    return fitted if repr(row) == repr(fitted) else row


def split(x: Any, y: Any, seed: int, parts: tuple[float, float] = (0.6, 0.15)) -> Parts:
    """Pairs in random order, cut in three."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).numpy()
    at = [round(parts[0] * len(x)), round(sum(parts) * len(x))]
    pieces = [(x[i], y[i]) for i in (order[: at[0]], order[at[0] : at[1]], order[at[1] :])]
    return pieces[0], pieces[1], pieces[2]
