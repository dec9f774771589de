"""estimate(x, y): three splits, a fresh critic, a value on pairs that it never saw, and whether to believe it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from infomax import errors
from infomax.errors import UserError
from infomax.estimation import fitting
from infomax.estimation import pairs as inputs
from infomax.estimation.estimator import Budget, Estimator
from infomax.estimation.evidence import floor
from infomax.estimation.evidence.competition import has_neighbours, is_trusted, nearest, preferred
from infomax.estimation.evidence.evidence import Evidence, Request
from infomax.estimation.evidence.verdict import verdict
from infomax.estimation.pairs import Pairs, frames, is_label
from infomax.estimation.questions.given import conditional
from infomax.estimation.registry import DEFAULT, chosen
from infomax.estimation.result import Check, Estimate
from infomax.objectives import Objective
from infomax.scores.workers import at_work

IMPOSSIBLE = 0.1  # nats outside of what the entropy of few different rows allows: more than shares by chance make
FEW = 20_000  # numbers in both sides, up to which threads wait as long as they compute (docs/engine.md): one has it all
WIDE = 50_000_000  # numbers in both sides, above which one split is fitted instead of folds


@torch.inference_mode(False)  # critics are trained, whatever a caller has switched off
@torch.enable_grad()
def estimate(
    x: Any,
    y: Any,
    objective: str | Estimator | Objective = DEFAULT,
    critic: str | nn.Module | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    *,
    ids: Any = None,
    blocks: Any = None,
    given: Any = None,
    device: str | torch.device = "cpu",
    estimator: str | Estimator | Objective | None = None,
    missing: str = "refuse",
    labels: str | None = None,
) -> Estimate:
    """Estimates the mutual information of x and y, in nats, with an interval and a verdict.

    x [n, ...], y [n, ...]: numpy or torch, lists, or data frames and series of pandas, polars or pyarrow; row i of both
    is a pair. A column of integers is a label, whose values are names of classes or numbers in order, such as counts,
    as validation pairs prefer. A column of texts or categories is a label; of several columns, integers are quantities,
    and parts of a whole become log-ratios. labels: "x", "y", "given", or several as "x,y": the sides whose values, or
    rows of several columns, are names of classes without an order, whatever their type (texts in arrays and lists too);
    a float type settles that whole numbers are numbers. missing: "refuse" missing values, or "drop" the pairs that have
    some, which a check then counts.
    estimator: any of `infomax.estimation.registry`, as a text such as "SMILE(tau=3)" or an object; by default CopulaJS.
    objective: its earlier name. critic: a text such as "Concat" or "Separable(hidden=64)", or a module, of which a copy
    is trained; by default the estimator's own. seed: of the splits and the critic. budget: how long a critic may train,
    and how pairs are split (train / validation / test). ids [n]: rows of one id are views of one sample; they stay in
    one split and are no negatives of each other. blocks: of rows that follow each
    other in time, how many make a block, beyond which they are alike no more, or the name of each row's block [n]: a
    block stays in one split, and is left out as a whole for the error. "auto": a length from the autocorrelation of x
    and y (`pairs.blocks`), which `protocol["blocks"]` keeps. given [n, ...]: what is conditioned on, numbers
    or labels: the value is I(X; Y | Z) = I(X; YZ) - I(X; Z), from one split of the rows (`questions.given`). device:
    where critics are trained, "cpu" or "cuda".
    Same arguments and seed give the same numbers. The global random state is left as it was.
    Raises UserError: x and y of different lengths, fewer than 50 pairs, NaN or infinity (which rows), a constant side,
    integers that are not labels, missing values in a frame (how many in which column), frames whose indexes differ,
    dates, a side of `labels` that is not there or has too many values (a fifth of the pairs, or 1,000), an unknown
    estimator or critic, rows that are alike for so long that "auto" leaves fewer than 20 blocks. The
    checks report a side that is a function of the other, copied pairs, rows in some order and constant columns.
    """
    errors.require_seed(seed)
    named = {"x": x, "y": y} if given is None else {"x": x, "y": y, "given": given}
    tables = frames.read(named, ids, blocks, missing, labels)
    budget, method = budget or Budget(), chosen(estimator, objective)

    def request(pairs: list[Pairs], found: list[Check], cap: float | None) -> Request:
        [whole] = pairs
        wide = len(whole) * (whole.x.shape[1] + whole.y.shape[1]) > WIDE
        if method.cross_fits and critic is None and budget.folds > 1 and not wide:
            parts = inputs.folds(whole, budget.folds, seed, blocks)
        else:
            parts = [inputs.split(whole, budget.parts, seed, blocks)]
        return Request(parts, len(whole), found, cap, method, critic, seed, budget, str(device))

    x, y, ids = tables.sides["x"], tables.sides["y"], tables.ids
    if given is None:
        return tables.described(_estimate([(x, y, ids)], request, method, critic, "".join(tables.unordered)))
    if fitting.reads_images(critic):
        raise UserError(f"given cannot stand beside an image's pixels: leave the critic {critic!r} out.")
    with torch.random.fork_rng(devices=[]), at_work(_numbers([(x, y, ids)]) <= FEW):

        def read(x: torch.Tensor, y: torch.Tensor, unordered: str) -> tuple[Evidence, tuple[Check, ...]]:
            return _evidence([(x, y, ids)], request, method, critic, unordered)

        return tables.described(conditional(x, y, tables.sides["given"], read, tables.unordered))


@torch.inference_mode(False)
@torch.enable_grad()
def estimate_splits(
    fit: Sequence[Any],
    select: Sequence[Any],
    report: Sequence[Any],
    objective: str | Estimator | Objective = DEFAULT,
    critic: str | nn.Module | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    *,
    device: str | torch.device = "cpu",
    estimator: str | Estimator | Objective | None = None,
) -> Estimate:
    """`estimate` with given splits (train / validation / test): no id may be in two of them.

    fit: the training pairs, (x, y) or (x, y, ids), x [n, ...] and y [n, ...]. select: the validation pairs, on which
    training stops. report: the test pairs, whose value is given. critic, seed, device, estimator, and objective,
    its earlier name: as `estimate` takes them. budget: likewise; its parts are not used. Raises UserError as `estimate`
    does, and for a split of fewer than 10 pairs.
    """
    method = chosen(estimator, objective)
    parts = frames.splits(fit, select, report)
    budget = budget or Budget()

    def request(pairs: list[Pairs], found: list[Check], cap: float | None) -> Request:
        roles = (("fit", "training"), ("select", "validation"), ("report", "testing"))
        for (name, role), part in zip(roles, pairs, strict=True):
            if len(part) < inputs.FEWEST_A_SPLIT:
                raise UserError(
                    f"The {name} split has {len(part)} pairs for {role}; it needs at least {inputs.FEWEST_A_SPLIT}."
                )
        return Request([pairs], sum(map(len, pairs)), found, cap, method, critic, seed, budget, str(device))

    return _estimate(parts, request, method, critic)


def _estimate(
    parts: Sequence[tuple[Any, Any, Any]],
    request: Callable[[list[Pairs], list[Check], float | None], Request],
    method: Estimator,
    critic: str | nn.Module | None,
    unordered: str = "",
) -> Estimate:
    """Of each part's x, y and ids. request: from what `inputs.prepared` makes of them. unordered: as it takes it."""
    # Modules initialise and drop out by the global generator: it is forked, and only the CPU's is seeded, as seeding
    # all devices would reach a user's GPU state.
    with torch.random.fork_rng(devices=[]), at_work(_numbers(parts) <= FEW):
        return _concluded(*_evidence(parts, request, method, critic, unordered, of_neighbours=True))


def _numbers(parts: Sequence[tuple[Any, Any, Any]]) -> int:
    """In both sides of all parts, of arrays or lists; of anything else, which is about to be refused, one each."""

    def counted(side: Any) -> int:
        try:
            return math.prod(side.shape if hasattr(side, "shape") else np.shape(side))
        except (TypeError, ValueError):  # rows of several lengths, say
            return 1

    return sum(counted(side) for part in parts for side in part[:2])


def _evidence(
    parts: Sequence[tuple[Any, Any, Any]],
    request: Callable[[list[Pairs], list[Check], float | None], Request],
    method: Estimator,
    critic: str | nn.Module | None,
    unordered: str,
    of_neighbours: bool = False,
) -> tuple[Evidence, tuple[Check, ...]]:
    """What is known of the reading of both sides that the pairs prefer, and what there is to say of the choice.
    of_neighbours: whether it may be that of neighbours, which has no folds."""
    images = fitting.reads_images(critic)
    read = partial(
        inputs.prepared, parts, images, log_ratios=not isinstance(critic, nn.Module), unordered=unordered
    )  # a module knows its width
    first = request(*read())
    if critic is not None and not method.takes_critic:
        raise UserError(f"{method!r} trains no critic of yours: leave the critic {critic!r} out.")

    def evidence(of: Request) -> Evidence:
        return Evidence(of, of.fitted())

    by_default = method.cross_fits and critic is None
    few = "".join(inputs.counts([first.pairs.x, first.pairs.y])) if by_default else ""
    near = of_neighbours and by_default and has_neighbours(first)
    if near and not few and not is_label(first.pairs.x):
        # Networks cost most of the time, and neighbours often tell more: these are asked before any is trained.
        closed = evidence(replace(first, untrained=True))
        believed, said = nearest(closed)
        if is_trusted(believed, said) if believed is not closed else not closed.wants_networks:
            return believed, said
    found, checks = evidence(first), ()
    if few:
        # As classes beside thresholds of what the other side predicts, which numbers' copula is not.
        others = evidence(request(*read(classes=few)))
        found, *checks = preferred(found, others, few)
    # Where sides have few different rows, what is no possible value is read anew, as their MI is that of labels.
    if found.cap is not None and not -IMPOSSIBLE <= found.whole.mi <= found.cap + IMPOSSIBLE:
        found, checks = evidence(request(*read(classes="xy"))), ()
    if near and has_neighbours(found.request):
        believed, said = nearest(found, checks, bool(few))
        return believed, said if believed is not found else (*checks, *said)
    return found, tuple(checks)


def _concluded(evidence: Evidence, more: tuple[Check, ...] = ()) -> Estimate:
    whole, pointwise = evidence.whole, evidence.pointwise
    fitted = evidence if evidence.beside is None else evidence.beside
    request, misfit = fitted.request, evidence.misfit
    protocols = [each.protocol for each in fitted.results]
    return Estimate(
        mi=whole.mi,
        stderr=whole.stderr,
        interval=whole.interval,
        n=request.number,
        splits=fitted.whole.sizes,
        ceiling=evidence.ceiling,
        floor=whole.floor,
        cap=request.cap,
        checks=verdict(evidence) + more,
        method=repr(request.estimator),
        critic=fitted.results[0].named,
        seed=request.seed,
        protocol={
            "budget": asdict(request.budget),
            "training": protocols[0] if len(protocols) == 1 else protocols,
            "value_on": whole.value_on,
            "scores": evidence.histogram,
            "read_by": "critics" if fitted is evidence else "neighbours",
            "folds": [fold.mi for fold in fitted.folds],
            "missed": whole.missed,
            "rise": evidence.rise,
            "lack": None if misfit is None else asdict(misfit),
            "interval": "delete-a-group jackknife over report ids, Student's t, and the spread of folds; the upper end"
            " is raised by what the critic may have missed: the rise from half of the pairs (or by how much better fit"
            " pairs are known), what drawn pairs lack, a share of what was learned",
            "floor": floor.PROTOCOL,
            "floor_scales": [fold.certificate.scale for fold in fitted.folds],
            "floor_on_validation": sum(fold.certificate.on_select for fold in fitted.folds) / len(fitted.folds),
            "torch": torch.__version__,
        },
        p_value=evidence.p_value,
        entropy=request.cap,
        freedom=whole.freedom,
        pointwise=None if pointwise is None else pointwise[0],
        rows=None if pointwise is None else pointwise[1],
    )
