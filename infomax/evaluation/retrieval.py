"""Evaluation of two towers, or of given views: retrieval of y by x and of x by y, and the MI between the modalities."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation import Estimate, estimate_splits
from infomax.evaluation.common import or_why, require_enough, sample, wilson

if TYPE_CHECKING:
    from infomax.data import GivenViews, Paired, PairedSplit

_log = logging.getLogger("infomax")
KS = (1, 5, 10)  # among so many of the best is the right one looked for
PAIRS = (60_000, 10_000)  # training and test pairs at most, drawn by the seed, that MI is estimated from
SELECT = 0.15  # of the training pairs: the critic of the estimate stops on them (validation)
ROWS = 1024  # at a time through a tower
BLOCK = 4_000_000  # scores at a time


@dataclass(frozen=True)
class Recall:
    """Recall at k: how often the right one is among the k best of all held-out candidates, in [0, 1].

    values: the recall by k. intervals: its 95 % interval by k (Wilson, 1927).
    """

    values: dict[int, float]  # by k, in [0, 1]
    intervals: dict[int, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """{"recall@1": value, "recall@1_interval": [low, high], ...}"""
        found: dict[str, Any] = {}
        for k, value in self.values.items():
            found |= {f"recall@{k}": value, f"recall@{k}_interval": list(self.intervals[k])}
        return found

    def __str__(self) -> str:
        shown = {k: (value, *self.intervals[k]) for k, value in self.values.items()}
        cells = {k: [f"{100 * part:.1f}".replace("100.0", "100") for part in parts] for k, parts in shown.items()}
        return "  ".join(f"@{k} {value} [{low}, {high}]" for k, (value, low, high) in cells.items())


@dataclass(frozen=True)
class Towers:
    """The result of `evaluate` for two towers: retrieval both ways among `pairs` held-out pairs, and I(X; Y) in nats.

    x_to_y, y_to_x: the recall of each way. mi: I(X; Y); a text says why there is none, as of too few pairs.
    checkpoint: which one was read. of: what x and y are, two modalities or the first two views.
    """

    x_to_y: Recall
    y_to_x: Recall
    pairs: int
    mi: Estimate | str
    checkpoint: dict[str, Any] | None = None  # step and checksum of what was evaluated, where that was a checkpoint
    of: str = "modalities"

    def to_dict(self) -> dict[str, Any]:
        """{"checkpoint", "retrieval": {"x_to_y", "y_to_x", "pairs"}, "estimate"}"""
        retrieval = {"x_to_y": self.x_to_y.to_dict(), "y_to_x": self.y_to_x.to_dict(), "pairs": self.pairs}
        mi = {"not_measured": self.mi} if isinstance(self.mi, str) else self.mi.to_dict()
        return {"checkpoint": self.checkpoint, "retrieval": retrieval, "estimate": mi}

    def __str__(self) -> str:
        head = f"Retrieval among {self.pairs} held-out pairs: % found among the k best, with 95 % intervals"
        return f"{head}\nx -> y  {self.x_to_y}\ny -> x  {self.y_to_x}\nI(X; Y) of the projections: {self.mi}"


def evaluate_towers(
    checkpoint: str | Path | nn.Module,
    pairs: "Paired | GivenViews",
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    said: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Towers:
    """Retrieval and MI of a saved TwoTower, or one in hand, on held-out pairs; or of an InfoMax of given views.

    checkpoint: a run or checkpoint folder, or a model. pairs: of its two modalities; the test part is scored, each x
    against every y. Of given views x and y are the first two, each by the one encoder. seed: of the
    split of the training pairs on which the estimate's critic is fitted and stopped. device: for the towers. said: is
    called with the name of the next stage. options: estimator, critic and budget, as estimate takes them. What is
    estimated is the MI of the two projections, which bounds
    I(X; Y) of the modalities from below (data processing), as far as its verdict goes. Raises
    UserError: a folder that cannot be read, another model, pairs of a size that an encoder does not read,
    given views of two shapes.
    """
    from infomax.checkpoints import load, read
    from infomax.data import Paired, pairs_from
    from infomax.data.given import views_of
    from infomax.models import InfoMax, TwoTower

    identity, trained = None, {}
    model: Any = checkpoint
    if not isinstance(checkpoint, nn.Module):
        found = read(checkpoint)
        model, identity = load(found.folder), {"step": found.step, "checksum": found.checksum}
        trained = found.preprocessing or {}
    of_views = isinstance(model, InfoMax) and (identity is None or "view1" in trained)
    if not (of_views or isinstance(model, TwoTower)):
        what = " that was not trained on given views" if isinstance(model, InfoMax) else ""
        raise UserError(f"Retrieval is of two towers, and this is a {type(model).__name__}{what}.")
    if of_views and isinstance(pairs, Paired):
        pairs = views_of(pairs)
    pairs = pairs if isinstance(pairs, Paired) and identity is None else pairs_from(trained, pairs)
    _require_fit(model, pairs, trained)
    said("Retrieval among held-out pairs")
    with torch.no_grad(), _evaluating(model, device):
        train, report = (
            sample(len(split), most, seed) for split, most in zip((pairs.train, pairs.test), PAIRS, strict=True)
        )
        train_x, train_y = _features(model, pairs.train, train, device)
        zx, zy = _features(model, pairs.test, torch.arange(len(pairs.test)), device)
        x_to_y, y_to_x = recalls(model.critic.to("cpu"), zx, zy)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    select, fit = order[: round(SELECT * len(order))], order[round(SELECT * len(order)) :]
    ids = [pairs.train.indices[train[fit]], pairs.train.indices[train[select]], pairs.test.indices[report]]
    x = [train_x[fit], train_x[select], zx[report]]
    y = [train_y[fit], train_y[select], zy[report]]
    of: Any = [*zip(x, y, ids, strict=True)]
    said("Estimating I(X; Y) of the projections")

    def estimated() -> Estimate:
        require_enough("I(X; Y)", "pairs", len(train), len(report), SELECT)
        return estimate_splits(*of, seed=seed, **options)

    mi = or_why(estimated)
    return Towers(x_to_y, y_to_x, len(zx), mi, identity, "first two views" if of_views else "modalities")


def _require_fit(model: Any, pairs: "Paired", trained: Mapping[str, Any]) -> None:
    """Raises UserError where a tower cannot read its side of the pairs; of another size that it reads a line says so.
    trained: by side, what is known of the pairs that it was trained on."""
    for side, modality in pairs.train.sides.items():
        encoder: Any = getattr(model, f"encoder_{side}", None) or model.encoder
        known = (trained.get(side) or {}).get("shape")
        was, now = None if known is None else _size(known), _size(modality.shape)
        row = torch.zeros_like(modality.batch(pairs.train.indices[:1]))
        place = next((parameter.device for parameter in encoder.parameters()), "cpu")
        try:
            with torch.no_grad(), _evaluating(encoder, None):
                encoder(row.to(place))
        except Exception as error:  # whatever the encoder says of a size that it does not take
            before = "" if was is None or was == now else f" was trained on {side} of {was} and"
            advice = f" of {was}" if before else " that the towers were trained for"
            if before and known is not None and len(known) == 3 and known[1] == known[2]:
                kind = "pairs" if pairs.name.startswith("pairs:") else "captions"
                advice += f"; {kind}:TABLE?size={known[1]} reads a table's at that side"
            raise UserError(
                f"The encoder of {side}{before} does not read {side} of {pairs.name}, {now}: give pairs{advice}."
            ) from error
        if was not in (None, now):
            _log.warning("%s: the encoder of %s was trained on %s and reads %s.", pairs.name, side, was, now)


def _size(shape: Sequence[int]) -> str:
    """(3, 28, 14) as "14 x 28 pixels of 3 channels", another one as "[8, 2]"."""
    if len(shape) != 3:
        return str(list(shape))
    channels = "1 channel" if shape[0] == 1 else f"{shape[0]} channels"
    return f"{shape[2]} x {shape[1]} pixels of {channels}"


def recall(scores: Tensor) -> Recall:
    """scores [n, n], the right candidates on the diagonal -> recall@1, 5 and 10 of the rows.

    Of equal scores each is as likely to come first, so that one of two that tie for the first place is half a hit.
    Raises UserError: scores that are not finite.
    """
    return _recall(*_counted(scores, scores.diagonal()[:, None]))


def recalls(critic: Any, zx: Tensor, zy: Tensor) -> tuple[Recall, Recall]:
    """Recall of y by x and of x by y, of a critic's scores of zx [n, d] and zy [n, d], a block of rows at a time."""
    ex, ey = critic.embed(zx, zy)
    parts = torch.arange(len(zx)).split(max(1, BLOCK // len(zx)))
    # Each way with the right scores of its own products, as another product's rounding would undo ties.
    by_x = (critic.score(ex[part], ey) for part in parts)
    by_y = (critic.score(ex, ey[part]).T for part in parts)
    return _of_blocks(by_x, parts), _of_blocks(by_y, parts)


def _of_blocks(blocks: Iterable[Tensor], parts: Sequence[Tensor]) -> Recall:
    counts = [_counted(scores, scores.gather(1, part[:, None])) for scores, part in zip(blocks, parts, strict=True)]
    above, equal = (torch.cat(found) for found in zip(*counts, strict=True))
    return _recall(above, equal)


def _counted(scores: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores of a row are above the right one, and equal to it."""
    if not bool(scores.isfinite().all()):
        raise UserError("Scores are not finite, so that nothing can be found by them: the towers or the critic failed.")
    return (scores > right).sum(1), (scores == right).sum(1)


def _recall(above: Tensor, equal: Tensor) -> Recall:
    n = len(above)
    values = {k: float(((k - above) / equal).clamp(0, 1).double().mean()) for k in KS if k <= n}
    return Recall(values, {k: wilson(value, n) for k, value in values.items()})


class _evaluating:
    """The model in evaluation mode on a device; afterwards in the mode and place that it had."""

    def __init__(self, model: nn.Module, device: str | torch.device | None):
        self.model, self.device = model, device

    def __enter__(self) -> None:
        self.modes = [(module, module.training) for module in self.model.modules()]
        self.place = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self.model.eval()
        if self.device is not None:
            self.model.to(self.device)

    def __exit__(self, *_: object) -> None:
        for module, training in self.modes:
            module.training = training
        self.model.to(self.place)


def _features(model: Any, split: "PairedSplit", at: Tensor, device: str | torch.device | None) -> tuple[Tensor, Tensor]:
    """What the critic is given of the pairs at `at` [n] of a split: [n, d] each, float32 on the CPU."""
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for places in at.split(ROWS):
        x, y = (t.to(device or "cpu") for t in split.batch(places))
        for side, z in zip(sides, model.features(x, y), strict=True):
            side.append(z.float().cpu())
    return torch.cat(sides[0]), torch.cat(sides[1])
