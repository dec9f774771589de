"""One walk over the scores of all views against all, of which half is visited."""

from collections.abc import Sequence

import torch
from torch import Tensor

from infomax.scores.accumulate import Buffers, Ready, Running, by_two_passes, tile_gradient
from infomax.scores.critic_tiles import Gradient, InnerProduct, Part, filled
from infomax.scores.functions import LARGEST
from infomax.scores.plan import Head, Plan, Results, Term
from infomax.scores.reductions import Reduction, Tile, shared_forms
from infomax.scores.tiles import shares
from infomax.scores.workers import Workers


class Symmetric:
    """One walk over the scores of all 2 n views against all, for a critic that is symmetric: t = e e^T + offset.

    Tiles above the diagonal stand for those below.
    """

    def __init__(
        self, plan: Plan, workers: Workers, ex: Tensor, ey: Tensor, extra: Tensor | None, parameters: Sequence[Tensor],
        needs: Sequence[bool], only_gradient: bool,
    ):  # fmt: skip
        assert extra is None and plan.offset is not None and plan.views is not None
        self.workers = workers
        self.plan, self.tiles, self.e, self.n = plan, plan.tiles, ex, plan.views
        self.critic = InnerProduct(plan.offset, ex, ex)
        self.leaves = [ex if needs[0] else None, None, *(p if need else None for p, need in
                                                         zip(parameters, needs[3:], strict=True))]  # fmt: skip
        if not only_gradient:
            half = InnerProduct(plan.offset, ex[: self.n], ex).pair(ex[self.n :])
            self.positive = torch.cat([half, half])
            largest = self.critic.largest()
            self.forms = shared_forms(plan.requests, largest) if largest <= LARGEST else None
            self.buffers = [Buffers(plan.dtype, ex.device) for _ in range(workers.count)]

    def tile(self, r: slice, c: slice, worker: int) -> Tile:
        rows, columns, buffers = r.stop - r.start, c.stop - c.start, self.buffers[worker]
        s = self.critic.scores(r, c, buffers.tile("scores", rows, columns))
        return Tile(self.tiles, s, r, c, self.forms, buffers.tile("room", rows, columns), rest=self.plan.rest)

    def values(self) -> Results:
        running = Running(self.plan, self.e.device, self.forms)

        def work(place: tuple[slice, slice], worker: int) -> list[tuple[Reduction, slice, Tensor, Tensor | None]]:
            r, c = place
            tile, sums = self.tile(r, c, worker), []
            for q in self.plan.requests:
                for which, where in ((q, r), (q.mirrored, c)) if r != c else ((q, r),):
                    peak = tile.peak(which)
                    sums.append((q, where, which.total(tile.summand(which, peak)), peak))
            return sums

        for r, cut in self.tiles.upper():
            for sums in self.workers.in_turn(work, [(r, c) for c in cut]):
                for q, where, total, peak in sums:
                    running.add(q, ... if q.dim is None else where, total, peak)
        return running.results()

    def values_and_gradients(self, head: Head | None) -> tuple[Results, list[Ready]]:
        if not self.plan.carried or head is None:
            return self.values(), []
        return by_two_passes(self, self.plan, head)

    def gradient(self, terms: "Sequence[Term]") -> Gradient:
        total = Gradient(self.leaves)
        of_offset = len(total.parts) > 2 and total.parts[2] is not None

        def work(place: tuple[int, tuple[slice, slice]], worker: int) -> Part:
            number, (r, c) = place
            tile = self.tile(r, c, worker)
            ds = tile_gradient(tile, [*terms, *(t.mirrored for t in terms)], r, c)  # of s[i, j] and s[j, i] together
            of_rows = None
            if total.ex is not None:
                of_rows = torch.mm(ds, self.e[c], out=self.buffers[0].part(number)(len(ds), self.e.shape[1]))
                if r != c:
                    total.ex[c].addmm_(ds.T, self.e[r])
            return of_rows, ds.sum() * (0.5 if r == c else 1.0) if of_offset else None

        for r, cut in self.tiles.upper():
            for share in shares([(r, c) for c in cut]):
                self.critic.add(total, self.workers.in_turn(work, share), r)
        return total

    def home(self, gradient: Gradient) -> list[Tensor | None]:
        return list(gradient.parts)

    def pull_pairs(self, parts: list[Tensor | None], positive: Tensor) -> list[Tensor | None]:
        parts = filled(parts, self.leaves)
        n, (one, other) = self.n, positive.to(self.e.dtype)[:, None].split(self.n)
        if (gradient := parts[0]) is not None:
            gradient[:n].addcmul_(self.e[n:], one + other)
            gradient[n:].addcmul_(self.e[:n], one + other)
        if len(parts) > 2 and parts[2] is not None:
            parts[2] += positive.sum()
        return parts
