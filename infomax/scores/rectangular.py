"""One walk over a matrix of rows x and columns y."""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from infomax.scores.accumulate import Buffers, Ready, Running, Sums, by_two_passes, rescaled, tile_gradient
from infomax.scores.critic_tiles import AnyCritic, Gradient, InnerProduct, Part, filled
from infomax.scores.functions import LARGEST
from infomax.scores.plan import Head, Plan, Results, Term
from infomax.scores.reductions import Forms, Reduction, Tile, shared_forms
from infomax.scores.tiles import shares
from infomax.scores.workers import Workers


class Rectangular:
    """One walk over a matrix of rows x and columns y."""

    def __init__(
        self, plan: Plan, workers: Workers, ex: Tensor, ey: Tensor, extra: Tensor | None, parameters: Sequence[Tensor],
        needs: Sequence[bool], only_gradient: bool,
    ):  # fmt: skip
        self.workers = workers
        self.plan, self.tiles, self.own, self.extra = plan, plan.tiles, ey, extra
        self.positive: Tensor | None = None
        need_x, need_y, need_extra, *others = needs
        whole = ey if only_gradient or plan.ring else plan.ranks.gather(ey)
        self.gathered, queue = len(whole), len(extra) if extra is not None and need_extra else 0
        shares = plan.ranks.size if plan.sharded and not (only_gradient or plan.ring) else 1
        columns = _like(ey, self.gathered + queue * shares)
        self.leaves = [t if need and t.is_floating_point() else None for t, need in zip(
            (ex, columns, *parameters), (need_x, need_y or need_extra, *others), strict=True
        )]  # fmt: skip
        self.own_leaf = None if self.leaves[1] is None else _like(ey, len(ey) + queue)
        if extra is not None and not only_gradient and not plan.ring:
            whole = torch.cat([whole, plan.all_extra(extra)])
        if plan.offset is None:
            self.critic: InnerProduct | AnyCritic = AnyCritic(plan.critic, ex, whole, parameters, any(needs))
        else:
            self.critic = InnerProduct(plan.offset, ex, whole)
            if not only_gradient:
                self.positive = self.critic.pair(plan.of_positives(ey))
        if not only_gradient:
            self.forms = self._forms()
            self.buffers = [Buffers(plan.dtype, ex.device) for _ in range(workers.count)]

    def _forms(self) -> Forms | None:
        largest = self.critic.largest()
        if self.plan.ring:  # of the columns that come around, too
            if self.extra is not None and self.plan.offset is not None:
                largest = max(largest, InnerProduct(self.plan.offset, self.critic.ex, self.extra).largest())
            largest = float(self.plan.ranks.gather(torch.tensor([largest], device=self.own.device)).max())
        return shared_forms(self.plan.requests, largest) if largest <= LARGEST else None

    def tile(self, r: slice, c: slice, worker: int, held: int | None = None) -> Tile:
        """By that worker. held: where in the block of rows it begins, if all its tiles are kept."""
        rows, columns = r.stop - r.start, c.stop - c.start
        if held is None:
            out = self.buffers[worker].tile("scores", rows, columns)
        else:
            out = self.buffers[0].tile("held", rows, columns, held * rows, self.tiles.total * rows)
        s = self.critic.scores(r, c, out)
        return Tile(self.tiles, s, r, c, self.forms, self.room(r, c, worker), rest=self.plan.rest)

    def room(self, r: slice, c: slice, worker: int) -> Tensor:
        return self.buffers[worker].tile("room", r.stop - r.start, c.stop - c.start)

    def turns(self, gradients: Sequence[Gradient] = ()) -> Iterator[slice]:
        """The columns that are at hand, all at once or those of one process after another's, then extra ones."""
        if not self.plan.ring:
            yield slice(0, self.tiles.total)
            return
        own, ranks = len(self.own), self.plan.ranks
        columns = [g.ey for g in gradients]
        for first, block in ranks.around(self.own, [None if ey is None else ey[:own] for ey in columns]):
            self.critic.first, self.critic.into, self.critic.ey = first, 0, block
            yield slice(first, first + len(block))
        if self.extra is None:
            return
        blocks: Iterable[tuple[int, Tensor]] = [(0, self.extra)]  # alike everywhere: no process sends them
        if self.plan.sharded:
            blocks = ranks.around(self.extra, [None if ey is None or len(ey) == own else ey[own:] for ey in columns])
        for first, block in blocks:
            self.critic.first, self.critic.into, self.critic.ey = own * ranks.size + first, own, block
            yield slice(self.critic.first, self.critic.first + len(block))

    def values(self) -> Results:
        """All results, and no gradient: one product."""
        running = Running(self.plan, self.own.device, self.forms)

        def work(place: tuple[slice, slice], worker: int) -> Sums:
            tile = self.tile(*place, worker)
            return [(q, q.total(tile.summand(q, peak)), peak) for q in self.plan.requests for peak in (tile.peak(q),)]

        with self.critic.without_graph():
            for columns in self.turns():
                for r, cut in self.tiles.blocks(columns, held=False):
                    for c, sums in zip(cut, self.workers.in_turn(work, [(r, c) for c in cut]), strict=True):
                        running.add_all(sums, r, c)
        return running.results()

    def values_and_gradients(self, head: Head | None) -> tuple[Results, list[Ready]]:
        """All results, and the gradient of what is carried."""
        plan = self.plan
        dims = {q.dim for q in plan.carried}
        if not plan.carried:
            return self.values(), []
        if plan.ring:  # whole rows are never at hand, nor a shift by a maximum that all processes share
            once = dims == {None} and self.forms is not None
        else:
            once = dims == {None} or (0 not in dims and plan.offset is not None)
        if once:
            return self.one_pass(head)
        if head is None:
            return self.values(), []
        return by_two_passes(self, self.plan, head)

    def one_pass(self, head: Head | None) -> tuple[Results, list[Ready]]:
        plan, running = self.plan, Running(self.plan, self.own.device, self.forms)
        scalars = {q: Ready(Gradient(self.leaves), q) for q in plan.carried if q.dim is None}
        # Where e^s is not safe, scalars are shifted by a running peak, which a block's tiles have in common.
        shifted = [q for q in scalars if plan.offset is not None and self.forms is None and q.kind == "logsumexp"]
        foreseen = [q for q in plan.carried if q.dim == 1]
        used = {q: torch.empty_like(running.totals[q]) for q in foreseen}  # the weights
        by_rows = Ready(Gradient(self.leaves if foreseen else []), weights=used)
        held = bool(foreseen or shifted)
        # Carried ones last: what they leave in the tile's room is used at once.
        requests = sorted(plan.requests, key=plan.carried.__contains__)

        def first(place: tuple[int, tuple[slice, slice]], worker: int) -> tuple[Tile, Sums, dict[Reduction, Part]]:
            (number, (r, c)), sums, parts = place, [], {}
            tile = self.tile(r, c, worker, c.start if held else None)
            for q in requests:
                peak = tile.peak(q)
                summand = tile.summand(q, peak)
                sums.append((q, q.total(summand), peak))
                if q in shifted or q not in scalars or (peak is not None and not bool(peak > -math.inf)):
                    continue
                slope = tile.slope(q, peak, summand)
                if peak is not None:
                    slope = slope.mul_(rescaled(scalars[q], peak))
                into = self.buffers[0].part(number, q)
                parts[q] = self.critic.pull(scalars[q].gradient, slope, r, c, into=into)
            return tile, sums, parts

        for columns in self.turns([part.gradient for part in scalars.values()]):
            for r, cut in self.tiles.blocks(columns, held):
                if held:  # its memory, before workers ask for parts of it
                    self.buffers[0].tile("held", 0, 0, 0, self.tiles.total * (r.stop - r.start))
                tiles: list[Tile] = []
                peaks: dict[Reduction, list[Tensor]] = {q: [] for q in shifted}
                for share in shares([(r, c) for c in cut]):
                    done = self.workers.in_turn(first, share)
                    for q, ready in scalars.items():
                        self.critic.add(ready.gradient, [parts[q] for *_, parts in done if q in parts], r)
                    for tile, sums, _ in done:
                        running.add_all(sums, r, tile.c)
                        tiles.append(tile)
                        for q, _, peak in sums:
                            if q in peaks and peak is not None:
                                peaks[q].append(peak)
                for q in shifted:
                    peak = torch.stack(peaks[q]).amax()
                    if bool(peak > -math.inf):  # else no negative is in the block
                        rescaled(scalars[q], peak)
                        self.pull_block(scalars[q].gradient, tiles, q, scalars[q].peak)
                if foreseen:
                    assert head is not None
                    complete = {q: running.finished(q, r if q.dim == 1 else ...) for q in plan.requests}
                    weights = head(r, complete, self.positive)
                    for q in foreseen:
                        used[q][r] = weights[q]
                        term = Term(q, complete[q], weights[q])
                        if self.forms is None:
                            self.pull_block(by_rows.gradient, tiles, q, term.result, term.weight)
                        else:
                            self.pull_block(by_rows.gradient, tiles, q, None, term.scale())
        return running.results(), [*scalars.values(), *([by_rows] if foreseen else [])]

    def pull_block(
        self, gradient: Gradient, block: Sequence[Tile], q: Reduction, peak: Tensor | None, rows: Tensor | None = None
    ) -> None:
        """Adds the gradient of a reduction, relative to its peak, times a number a row, in the tiles of some rows."""
        peak = None if peak is None else peak.to(self.plan.dtype)

        def second(numbered: tuple[int, Tile], worker: int) -> Part:
            number, tile = numbered
            tile.room, into = self.room(tile.r, tile.c, worker), self.buffers[0].part(number)
            return self.critic.pull(gradient, tile.slope(q, peak), tile.r, tile.c, rows, into=into)

        for share in shares(block):
            self.critic.add(gradient, self.workers.in_turn(second, share), block[0].r, rows)

    def gradient(self, terms: "Sequence[Term]") -> Gradient:
        """The gradient with the given weights of complete results: two products beside the scores' own."""
        total = Gradient(self.leaves)
        of_rows = len(terms) == 1 and terms[0].q.dim == 1 and self.forms is not None

        def work(place: tuple[int, tuple[slice, slice]], worker: int) -> Part:
            number, (r, c) = place
            tile, into = self.tile(r, c, worker), self.buffers[0].part(number)
            if of_rows:
                return self.critic.pull(total, tile.slope(terms[0].q, None), r, c, terms[0].scale(r), into=into)
            return self.critic.pull(total, tile_gradient(tile, terms, r, c), r, c, into=into)

        for columns in self.turns([total]):
            for r, cut in self.tiles.blocks(columns, held=False):
                for share in shares([(r, c) for c in cut]):
                    parts = self.workers.in_turn(work, share)
                    self.critic.add(total, parts, r, terms[0].scale(r) if of_rows else None)
        return total

    def home(self, gradient: Gradient) -> list[Tensor | None]:
        """Columns' gradients summed where the columns are. Those of extra ones that all processes have are not: what a
        critic's parameters make of them is a part of each process's gradient, as their rows' is."""
        ex, ey, *rest = gradient.parts
        if ey is not None and not self.plan.ring:
            ey = columns_home(self.plan, ey, self.gathered)
        return [ex, ey, *rest]

    def pull_pairs(self, parts: list[Tensor | None], positive: Tensor) -> list[Tensor | None]:
        assert isinstance(self.critic, InnerProduct)
        parts = filled(parts, [self.leaves[0], self.own_leaf, *self.leaves[2:]])
        self.critic.pull_pairs(parts, self.own, positive, self.plan.positive)
        return parts


def columns_home(plan: Plan, ey: Tensor, gathered: int) -> Tensor:
    """Gradients of all columns, `gathered` of them no extra ones, -> of this process's, summed over processes."""
    if len(ey) == gathered or plan.ranks.size == 1:
        return plan.ranks.scatter_sum(ey)
    extra = plan.ranks.scatter_sum(ey[gathered:]) if plan.sharded else ey[gathered:]
    return torch.cat([plan.ranks.scatter_sum(ey[:gathered]), extra])


def _like(t: Tensor, rows: int) -> Tensor:
    """A stand-in for so many rows like t's, which takes no memory."""
    return t.new_empty(()).expand(rows, *t.shape[1:])
