"""Closed-form densities of many pairs of columns at once: what each row knows of the log-ratio, in batches of arrays.

Two columns without ties: kernels about decorrelated normal scores beside a Gaussian copula, as `bases.pair_copula` fits
them for one pair, on grids as fine as a pair's own bandwidth asks for. Levels beside numbers: kernels within each
level. Levels beside levels: their table. In each case the bandwidth, or the share of independence that is mixed in, is
what the rows make likeliest, each left out of its own density.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

REACH, WIDER = 4.5, 0.15  # of grids of normal scores
LEVELS = (
    (0.22, (0.75, 0.55, 0.4, 0.3)),
    (0.11, (0.21, 0.15, 0.11)),
    (0.065, (0.08, 0.06)),
)  # steps of grids, bandwidths
BANDWIDTHS = (1.0, *(h for _, some in LEVELS for h in some))
STRONGEST = 0.9999  # correlation, at most
CELLS = 1 << 20  # of the grids of a batch
ROUNDS = 2  # of steps in bandwidths
MARGIN = 0.5  # standard errors by which kernels have to be likelier than a Gaussian copula
# How far from the left-out mean log-ratio to the rows' own the value lies. The likeliest bandwidth has smoothing cost
# half of what noise costs (h^4 against h^-2), or more where a density has edges; the rows' own mean is above the
# left-out one by twice the noise, so the truth is three quarters of the way up, or more.
SHARE_2D = 0.85
SHARE_1D = 0.75  # of numbers beside levels: h^4 against h^-1, or h of edges
SHARE_0D = 0.5  # of levels alone: nothing is smoothed, and both ends are wrong by the same
ATTENUATION = 0.3  # nats times n (1 - |rho|) that a Gaussian's ranks lose against its values, measured
EDGES, SHARP = 0.15, 0.1  # a bandwidth, and nats
NEIGHBOURS = 3
MIXED = (0.85, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02, 0.005)  # shares of independence


@dataclass(frozen=True)
class Values:
    """Of pairs of columns [b]: the MI in nats, its sampling error, and half of how far the two readings are apart."""

    mi: Tensor
    stderr: Tensor
    gap: Tensor


@dataclass(frozen=True)
class _Grid:
    """Knots from -REACH to REACH, `step` apart in the middle and ever farther in the tails, where rows are few, and
    kernels about them, as densities beside the normal's. Knot k is at t / (1 - WIDER |t|) with t = k step."""

    step: float

    @property
    def side(self) -> int:
        """How many knots are above 0."""
        return math.ceil(REACH / (1 + WIDER * REACH) / self.step)

    @property
    def knots(self) -> int:
        return 2 * self.side + 1

    def bins(self, x: Tensor) -> Tensor:
        """The nearest knot's number."""
        at = x / (x.abs().mul_(WIDER * self.step).add_(self.step))
        return at.add_(self.side + 0.5).clamp_(0, self.knots - 1).long()

    @cache  # noqa: B019 - a few grids in all
    def kernel(self, h: float) -> tuple[Tensor, Tensor]:
        """K [knots, knots], the density at one knot about sqrt(1 - h^2) times another over the normal's, and its
        diagonal: what a row adds to its own."""
        t = (torch.arange(self.knots, dtype=torch.float64) - self.side) * self.step
        x = t / (1 - WIDER * t.abs())
        apart = self.step * (1 + WIDER * x.abs()) ** 2
        normal = torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
        k = normal[:, None].expand(-1, self.knots)
        if h < 1:
            k = torch.exp(-0.5 * ((x[:, None] - math.sqrt(1 - h * h) * x) / h) ** 2)
        k = k / (apart[:, None] * k).sum(0)
        edges = (t[1:] + t[:-1]) / 2
        below = torch.special.ndtr(edges / (1 - WIDER * edges.abs()))
        share = torch.cat([below, below.new_ones(1)]) - torch.cat([below.new_zeros(1), below])
        # Over what a normal's rows give on this grid, and not the normal's own density: steps have no part in it.
        k = (k / (k @ share)[:, None]).float()
        return k, k.diagonal().contiguous()


GRIDS = tuple(_Grid(step) for step, _ in LEVELS)
FINE = _Grid(0.04)  # of one axis
FINE_BANDWIDTHS = (0.75, 0.55, 0.4, 0.3, 0.21, 0.15, 0.1, 0.07, 0.05)


class _Search:
    """The likeliest bandwidths of pairs of normal scores u, v [b, n]."""

    def __init__(self, u: Tensor, v: Tensor):
        b, n = u.shape
        self.n, self.floor = n, 0.5 / n  # a share of independence, so that no row is impossible
        self.rho = (u * v).mean(1).clamp(-STRONGEST, STRONGEST)
        r = self.rho[:, None]
        square = r * r
        log = -0.5 * torch.log1p(-square) - (square * (u * u + v * v) - 2 * r * u * v) / (2 * (1 - square))
        self.gauss = log.exp_().mul_(1 - self.floor)
        self.base = (self.gauss + self.floor).log_()
        self.p, self.q = (u + v) * (2 * (1 + r)).rsqrt(), (u - v) * (2 * (1 - r)).rsqrt()
        self.rows = self.base.clone()  # left-out log-ratios of the best so far
        self.left_out = self.base.mean(1)
        self.own = self.left_out.clone()
        self.h = torch.zeros(b, 2, dtype=torch.long)  # of BANDWIDTHS; 0: the Gaussian copula

    def run(self) -> Values:
        alive = torch.arange(len(self.rho))
        for number, (_, some) in enumerate(LEVELS):
            if len(alive):
                alive = self._at(number, some, alive)
        n, gauss = self.n, self.h[:, 0] + self.h[:, 1] == 0
        # rho itself was fitted to the rows, which is worth 1 / 2n to them, and costs ranks' normal scores their noise.
        lost = (ATTENUATION / (n * (1 - self.rho.abs()))).clamp(max=0.1) * gauss
        value = self.left_out + SHARE_2D * (self.own - self.left_out) - 0.5 / n + lost
        stderr = torch.hypot(_stderr(self.rows, 1), 0.4 * lost)  # what is lost varies by so much of itself, measured
        return Values(value, stderr, 0.5 * (self.own - self.left_out) + 0.5 / n)

    def _at(self, number: int, some: tuple[float, ...], alive: Tensor) -> Tensor:
        """On one grid: equal bandwidths, then each axis alone a step up or down from the best. Which pairs want a finer
        grid."""
        grid, n = GRIDS[number], self.n
        if len(alive) > (size := CELLS // grid.knots**2):
            return torch.cat([self._at(number, some, few) for few in alive.split(size)])
        bins = grid.bins(self.p[alive]), grid.bins(self.q[alive])
        index = bins[0].mul_(grid.knots).add_(bins[1])
        cells = grid.knots**2
        offset = (torch.arange(len(alive)) * cells)[:, None]
        counts = torch.bincount((index + offset).view(-1), minlength=len(alive) * cells).float().div_(n)
        counts = counts.view(-1, grid.knots, grid.knots)
        finest = BANDWIDTHS.index(some[-1])
        whole = torch.arange(len(alive))

        def attempt(few: Tensor, first: int, second: int) -> Tensor:
            """Which of a few pairs are likelier so [k]."""
            (k1, d1), (k2, d2) = grid.kernel(BANDWIDTHS[first]), grid.kernel(BANDWIDTHS[second])
            every, at = len(few) == len(alive), alive[few]
            density = (k1 @ (counts if every else counts[few]) @ k2.T).sub_(torch.outer(d1, d2 / n))
            here = index if every else index[few]
            gauss = self.gauss[at]
            left = density.flatten(1).gather(1, here)
            rows = (left.clamp(min=0).mul_(n / (n - 1)).mul_(gauss).add_(self.floor)).log_()
            mean = rows.mean(1)
            k = (mean > self.left_out[at]).nonzero().flatten()
            k = k[_is_likelier(rows[k], self.base[at[k]])]
            if len(k):
                to, cell = at[k], here[k]
                self.left_out[to], self.rows[to] = mean[k], rows[k]
                full = left[k] + d1[cell // grid.knots] * d2[cell % grid.knots] / n
                self.own[to] = full.mul_(gauss[k]).add_(self.floor).log_().mean(1)
                self.h[to, 0], self.h[to, 1] = first, second
            return few[k]

        for h in some:
            attempt(whole, *[BANDWIDTHS.index(h)] * 2)
        last = number == len(LEVELS) - 1
        moving = whole if last else (self.h[alive] != finest).all(1).nonzero().flatten()
        for _ in range(ROUNDS):
            now, moved = self.h[alive], []
            for first, second in {(int(i), int(j)) for i, j in now[moving].tolist()} - {(0, 0)}:
                few = moving[(now[moving, 0] == first) & (now[moving, 1] == second)]
                for i, j in ((first, second + 1), (first + 1, second), (first, second - 1), (first - 1, second)):
                    if 0 <= i <= finest and 0 <= j <= finest:
                        moved.append(attempt(few, i, j))
            if not moved or not sum(map(len, moved)):
                break
            moving = torch.cat(moved).unique()
        return alive[(self.h[alive] == finest).any(1)]


def _is_likelier(rows: Tensor, base: Tensor) -> Tensor:
    over = rows - base
    mean = over.mean(1)
    return mean > MARGIN * (((over * over).mean(1) - mean**2).clamp(min=0) / over.shape[1]).sqrt()


def _stderr(rows: Tensor, freedom: Tensor | float) -> Tensor:
    """Of the mean of rows [b, n], at independence too, where 2n times the value is chi-squared of so many degrees."""
    n = rows.shape[1]
    return (rows.var(1) / n + freedom / (2 * n * n)).sqrt()


def of_numbers(u: Tensor, v: Tensor) -> Values:
    """Of pairs of columns without levels, by their normal scores u, v [b, n]."""
    return _Search(u, v).run()


def of_levels_and_numbers(levels: Tensor, number: int, v: Tensor) -> Values:
    """Of levels [b, n], whole numbers below `number`, and normal scores v [b, n]."""
    b, n = v.shape
    grid = FINE
    bins = grid.bins(v)
    index = (levels * grid.knots + bins).long()
    cells = number * grid.knots
    counts = torch.bincount((index + (torch.arange(b) * cells)[:, None]).view(-1), minlength=b * cells).float()
    counts = counts.view(b, number, grid.knots)
    size = counts.sum(2).gather(1, levels.long())  # of each row's level [b, n]

    def ratios(h: float) -> tuple[Tensor, Tensor]:
        kernel, diagonal = grid.kernel(h)
        summed = (counts @ kernel.T).flatten(1).gather(1, index)
        left = (summed - diagonal[bins]).clamp_(min=0) / (size - 1).clamp(min=1)
        return summed / size, torch.where(size > 1, left, 1.0)

    found, best = _likeliest(
        [lambda h=h: ratios(h) for h in FINE_BANDWIDTHS], SHARE_1D, 3 * (levels_of(levels) - 1), b, n
    )
    # Bandwidths as small as that are of edges, which kernels blur: distances to neighbours do not, and are noisier.
    edges = ((best >= FINE_BANDWIDTHS.index(EDGES)) & (found.mi > SHARP)).nonzero().flatten()
    if len(edges):
        found.mi[edges] = _by_neighbours(levels[edges], v[edges])
        found.stderr[edges] = torch.hypot(found.stderr[edges], torch.tensor(0.5 / math.sqrt(n)))
    return found


def _by_neighbours(levels: Tensor, v: Tensor) -> Tensor:
    """The MI of levels and numbers [b, n] from the distance to the NEIGHBOURS-th neighbour of a row's own level, and
    how many of all rows are nearer. (Ross, 2014)"""
    n, k = v.shape[1], NEIGHBOURS
    order = (levels * (4 * REACH) + v).argsort(1)
    level, at = levels.gather(1, order), v.gather(1, order)
    near = []
    for offset in range(1, k + 1):
        apart = (at[:, offset:] - at[:, :-offset]).masked_fill(level[:, offset:] != level[:, :-offset], math.inf)
        end = apart.new_full((len(v), offset), math.inf)
        near += [torch.cat([apart, end], 1), torch.cat([end, apart], 1)]
    reach = torch.stack(near).kthvalue(k, dim=0).values
    table = v.sort(1).values
    inside = torch.searchsorted(table, at + reach) - torch.searchsorted(table, at - reach, right=True)
    counts = v.new_zeros(len(v), int(levels.max()) + 1).scatter_add_(1, levels.long(), torch.ones_like(v))
    size = counts.gather(1, level.long())
    own = math.log(n) + float(torch.digamma(torch.tensor(float(k)))) - torch.digamma(size)
    each = own - torch.digamma(inside.clamp(min=k).float())
    # Of a level of as few rows, nothing is known: as in a draw of independent columns.
    return torch.where(size > k, each, 0.0).mean(1)


def of_levels(first: Tensor, second: Tensor, number: int) -> Values:
    """Of two columns of levels [b, n] below `number`."""
    b, n = first.shape
    index = (first * number + second).long()
    cells = number**2
    counts = torch.bincount((index + (torch.arange(b) * cells)[:, None]).view(-1), minlength=b * cells).float()
    counts = counts.view(b, number, number)
    both = counts.flatten(1).gather(1, index)
    one, other = counts.sum(2).gather(1, first.long()), counts.sum(1).gather(1, second.long())
    left = (both - 1) * (n - 1) / ((one - 1) * (other - 1)).clamp(min=1)
    freedom = (levels_of(first) - 1) * (levels_of(second) - 1)
    return _likeliest([lambda: (both * n / (one * other), left)], SHARE_0D, freedom, b, n)[0]


def levels_of(levels: Tensor) -> Tensor:
    """How many levels each column of whole numbers from 0 has [b]."""
    return levels.amax(1).float() + 1


def _likeliest(
    ratios: list[Callable[[], tuple[Tensor, Tensor]]], share: float, freedom: Tensor, b: int, n: int
) -> tuple[Values, Tensor]:
    """Of ratios that rows have [b, n], their own and left out, each with shares of independence mixed in; and which of
    the ratios were likeliest [b], -1: independence."""
    left_out, own = torch.zeros(2, b, dtype=torch.float32)
    rows = torch.zeros(b, n, dtype=torch.float32)
    best = torch.full((b,), -1)
    for number, each in enumerate(ratios):
        full, left = each()
        for mixed in MIXED:
            logs = (left * (1 - mixed) + mixed).log_()
            mean = logs.mean(1)
            k = (mean > left_out).nonzero().flatten()
            if len(k):
                left_out[k], rows[k], best[k] = mean[k], logs[k], number
                own[k] = (full[k] * (1 - mixed) + mixed).log_().mean(1)
    values = Values(left_out + share * (own - left_out), _stderr(rows, freedom), 0.5 * (own - left_out))
    return values, best
