"""Stand-ins for Scores: one that notes what a formula asks for, and one of some rows whose reductions are known."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infomax.scores.negatives import Negatives
from infomax.scores.reductions import Reduction

if TYPE_CHECKING:
    from infomax.scores.scores import Scores

Formula = Callable[[Any], Tensor]


class Recorder:
    """Two placeholder rows in the shape of Scores, which note what a formula asks for."""

    def __init__(self, scores: "Scores"):
        asked: list[Reduction] = []
        zeros = torch.zeros(2, dtype=torch.float64, device=scores._ex.device)

        def note(q: Reduction) -> Tensor:
            if q not in asked:
                asked.append(q)
            return zeros.new_zeros(()) if q.dim is None else zeros.new_zeros(2)

        self.asked, self.positive = asked, zeros
        self.n, self.total, self.dtype = 2, scores.total, scores.dtype
        # Copies, and no circle through this object: a view would keep all features until it is collected.
        self.x, self.y = (t.detach()[:2].clone() for t in (scores.x, scores.y))
        self.negative = Negatives(scores._samples, slice(2), scores.total, note, lambda: zeros)

    def walk_for(self, estimate: Formula, surrogate: Formula) -> "Recorder":
        return self  # of an objective within an objective


class SomeRows:
    """Some rows in the shape of Scores, whose reductions are given."""

    def __init__(self, scores: "Scores", r: slice, results: Mapping[Reduction, Tensor], positive: Tensor):
        self.positive = positive[r].double()
        self.n, self.total, self.dtype = len(self.positive), scores.total, scores.dtype
        self._scores, self._r = scores, r
        self.negative = Negatives(
            scores._samples, r, scores.total, results.__getitem__, lambda: scores._first_scores().detach()[r]
        )

    def walk_for(self, estimate: Formula, surrogate: Formula) -> "SomeRows":
        return self

    @property
    def x(self) -> Tensor:
        return self._scores.x.detach()[self._r]

    @property
    def y(self) -> Tensor:
        return self._scores.y.detach()[self._r]


@contextlib.contextmanager
def left_unchanged(module: Any) -> Iterator[None]:
    """Undoes what a formula that is only looked at does to its objective (running averages, say) and to generators.

    It works on copies of buffers: autograd may have saved the real ones.
    """
    modules = list(module.modules()) if isinstance(module, torch.nn.Module) else []
    before = [dict(vars(m)) for m in modules]
    # The library's own objectives draw nothing; a module within one may.
    draws = torch.random.fork_rng() if len(modules) > 1 else contextlib.nullcontext()
    try:
        for m in modules:
            vars(m)["_buffers"] = {k: None if b is None else b.detach().clone() for k, b in m._buffers.items()}
        with draws:
            yield
    finally:
        for m, attributes in zip(modules, before, strict=True):
            vars(m).clear()
            vars(m).update(attributes)
