"""The walk on a GPU, by Triton kernels: for critics that are inner products, behind the same face as `walk`.

Up to 384 features (128 in float32), attention-shaped kernels hold a tile of scores in registers only, `reduce` and
`pull` of `fused_kernels`. Forward computes the scores once, and where one form's gradient by x is wanted it goes along,
since it needs no weights but a number a row: <softmax, Y> is d log-sum-exp / d x. Backward computes them again for
y's. That is 4 products, with whatever weights arrive: nothing is foreseen, and nothing waits for the GPU. A symmetric
matrix (NT-Xent) takes 3. With more features, scores are stored by blocks, which cuBLAS makes and takes; one kernel
reads a block once for all reductions, another turns it into its gradient, in place.

Every sum has a fixed order, so results repeat bit by bit; blocks are chosen by arithmetic, not by timing.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from infomax.scores import critic_tiles
from infomax.scores.accumulate import over_ranks, terms_of
from infomax.scores.critic_tiles import InnerProduct
from infomax.scores.functions import Clip, Function, Identity, Kind, Softplus, Square, identity
from infomax.scores.plan import Plan, Term
from infomax.scores.rectangular import columns_home
from infomax.scores.reductions import Reduction
from infomax.scores.tiles import Tiles
from infomax.scores.walk import by_input, run_of
from infomax.scores.workers import Workers

# Above it a row's running sums, in float32 also the two halves of its features, do not stay in registers.
LARGEST_DIM = {torch.bfloat16: 384, torch.float32: 128, torch.float64: 384}
BLOCK = (4096, 8192)  # scores that are stored at a time, 128 MiB in fp32
# As in fused_kernels. A function that is not listed takes the other walk.
CODES: dict[type, int] = {Identity: 0, Clip: 1, Softplus: 2, Square: 3}
KINDS: dict[Kind, int] = {"sum": 0, "logsumexp": 1}
ROW, COLUMN, SCALAR = 0, 1, 2

Form = tuple[Kind, Function, bool]  # a reduction less its direction


def applies(plan: Plan, ex: Tensor, ey: Tensor) -> bool:
    """Whether the kernels can run a plan: on a GPU of compute capability 8 or more, or under Triton's interpreter."""
    if plan.offset is None or plan.ring or any(type(q.fn) not in CODES for q in plan.requests):
        return False
    if ex.ndim != 2 or not ex.shape[1] or ex.dtype != ey.dtype or ex.device != ey.device:
        return False
    if interpreted():
        return ex.dtype in (torch.float32, torch.float64)
    return ex.dtype == torch.float32 and _capable(ex.device)


@functools.cache
def interpreted() -> bool:
    """Whether kernels run on the CPU, by TRITON_INTERPRET=1 at their import."""
    try:
        from triton import knobs
    except ImportError:
        return False
    return bool(knobs.runtime.interpret)


@functools.cache
def _capable(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    try:
        import triton  # noqa: F401  # which is not on every system
    except ImportError:
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def form(q: Reduction) -> Form:
    return q.kind, q.fn, q.rest


class FusedWalk(torch.autograd.Function):
    """As `Walk`: (plan, ex [n, d], ey [m, d], extra [k, d], *parameters) -> positives, a float64 tensor per request."""

    @staticmethod
    def forward(ctx, plan: Plan, ex: Tensor, ey: Tensor, extra: Tensor | None, *parameters: Tensor):
        _, need_x, need_y, need_extra, *need_offset = ctx.needs_input_grad
        with _surroundings(ex):
            own = plan.of_positives(ey) if plan.views is None else ex.roll(-plan.views, 0)  # in the order of rows
            positive = InnerProduct(plan.offset or 0.0, ex, own).pair(own)
            matrix = _matrix(plan, ex, _columns(plan, ey, extra))
            rows = tuple(dict.fromkeys(form(q) for q in plan.requests if q.dim != 0))
            columns = tuple(dict.fromkeys(form(q) for q in plan.requests if q.dim == 0))
            carried = {form(q) for q in plan.carried}
            # Not where scores are needed again for x's gradient anyway.
            carry = plan.grad and need_x and len(carried) == 1 and all(q.dim != 0 for q in plan.carried)
            carry = carry and matrix.fits() and plan.views is None
            # The offset's gradient goes along with that of all columns.
            carry = carry and ((need_y and (extra is None or need_extra)) or not any(need_offset))
            place = rows.index(carried.pop()) if carry else -1
            by_row, by_column, pulled = values(matrix, rows, columns, place, plan.tiles)
            results = []
            for q in plan.requests:
                t = by_column[columns.index(form(q))] if q.dim == 0 else by_row[rows.index(form(q))]
                if q.dim is None:
                    t = t.logsumexp(0) if q.kind == "logsumexp" else t.sum()
                t = over_ranks(plan.ranks, q, t)
                results.append(plan.ranks.own(t).clone() if q.dim == 0 else t.clone())
        ctx.plan, ctx.matrix = plan, replace(matrix, x=None, y=None)
        ctx.carried = rows[place] if carry else None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ex, ey, extra, pulled, by_row[place] if carry else None, *results)
        return positive.double(), *results

    @staticmethod
    @once_differentiable
    def backward(ctx, positive: Tensor | None, *gradients: Tensor | None):
        plan: Plan = ctx.plan
        ex, ey, extra, pulled, by_row, *results = ctx.saved_tensors
        _, need_x, need_y, need_extra, *need_offset = ctx.needs_input_grad
        arrived = {q: g for q, g in zip(plan.requests, gradients, strict=True) if g is not None}
        with _surroundings(ex):
            matrix = _with_features(ctx.matrix, ex, _columns(plan, ey, extra))
            terms = terms_of(plan.ranks, dict(zip(plan.requests, results, strict=True)), arrived)
            if plan.views is not None:  # s[i, j] and s[j, i] together, to the one tensor that is both sides
                both = [*terms, *(t.mirrored for t in terms)]
                d_ex, d_ey, total = gradient(matrix, both, True, 0, any(need_offset), plan.tiles)
                total = None if total is None else 0.5 * total
            else:
                gathered = plan.ranks.size * len(ey)
                columns = plan.tiles.total if need_extra else gathered if need_y else 0
                done = [t for t in terms if form(t.q) == ctx.carried and t.q.dim != 0]
                if need_x and len(done) == len(terms):  # all of x's gradient is there but for its rows' scales
                    d_ex, d_ey, total = gradient(matrix, terms, False, columns, any(need_offset), plan.tiles)
                    d_ex = pulled * _scales(done, by_row).to(pulled.dtype)[:, None]
                else:
                    d_ex, d_ey, total = gradient(matrix, terms, need_x, columns, any(need_offset), plan.tiles)
                if d_ey is not None:
                    d_ey = columns_home(plan, d_ey[:, : ex.shape[1]], gathered)
            parameters = [plan.offset] if isinstance(plan.offset, Tensor) else []
            if total is not None:
                total = total.to(parameters[0]).reshape(parameters[0].shape)
            sides = (d_ex if need_x else None), (d_ey if need_y or need_extra else None)
            parts = [None if t is None else t[:, : ex.shape[1]] for t in sides]
            parts += [total if need else None for need in need_offset]
            if positive is not None:
                run = run_of(plan, Workers(), ex, ey, extra, parameters, ctx.needs_input_grad[1:], only_gradient=True)
                parts = run.pull_pairs(parts, positive)
        return None, *by_input(parts, len(ey), ctx.needs_input_grad[1:])


def _columns(plan: Plan, ey: Tensor, extra: Tensor | None) -> Tensor:
    """All columns: those of all processes, then extra ones."""
    whole = plan.ranks.gather(ey)
    return whole if extra is None else torch.cat([whole, plan.all_extra(extra)])


def _scales(terms: Sequence[Term], by_row: Tensor) -> Tensor:
    """What each row's carried gradient is multiplied by: weights, for a scalar log-sum-exp times the row's share."""
    scale = torch.zeros_like(by_row)
    for t in terms:
        share = (by_row - t.result).exp() if t.q.dim is None and t.q.kind == "logsumexp" else 1.0
        scale = scale + t.weight * share
    return scale


@contextlib.contextmanager
def _surroundings(t: Tensor) -> Iterator[None]:
    """No autocast, float32 products in float32 (cuBLAS's by the setting, the kernels' always), t's device current."""
    setting: Any = torch.backends.cuda.matmul
    before = setting.fp32_precision if t.is_cuda else None
    with critic_tiles.products(t), torch.cuda.device_of(t):
        try:
            if before not in (None, "ieee"):
                setting.fp32_precision = "ieee"
            yield
        finally:
            if before not in (None, "ieee"):
                setting.fp32_precision = before


@dataclass(frozen=True)
class Matrix:
    """Scores x y^T + offset, and which of them are negatives: a row's own column is not, nor are equal names."""

    x: Tensor | None  # [rows, D], in the precision of products, D whole chunks
    y: Tensor | None  # [columns, D]
    dtype: torch.dtype  # of products
    offset: Tensor | None  # one number
    shift: int  # row i's own column is i + shift
    names: tuple[Tensor, Tensor] | None = None  # int32 [rows], [columns]; own columns have equal names
    first: Tensor | None = None  # int32: the column of each row's first negative
    first_by: int = SCALAR  # which side `first` is of; SCALAR for none

    def exchanged(self) -> "Matrix":
        """The transposed matrix."""
        sides = {ROW: COLUMN, COLUMN: ROW, SCALAR: SCALAR}
        names = None if self.names is None else (self.names[1], self.names[0])
        return replace(self, x=self.y, y=self.x, shift=-self.shift, names=names, first_by=sides[self.first_by])

    def without_first(self) -> "Matrix":
        return replace(self, first=None, first_by=SCALAR)

    def block(self, r: slice, c: slice) -> "Matrix":
        return replace(
            self, x=self.left[r], y=self.right[c], shift=self.shift + r.start - c.start,
            names=None if self.names is None else (self.names[0][r], self.names[1][c]),
            first=None if self.first is None else self.first[r] - c.start,
        )  # fmt: skip

    @property
    def left(self) -> Tensor:
        assert self.x is not None
        return self.x

    @property
    def right(self) -> Tensor:
        assert self.y is not None
        return self.y

    @property
    def sums(self) -> torch.dtype:
        """The dtype of scores and running sums."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def fits(self) -> bool:
        return self.left.shape[1] <= LARGEST_DIM[self.dtype]

    def arguments(self) -> tuple:
        """What every kernel takes of it beside features, parameters and shape."""
        names = self.names or (None, None)
        return (*names, self.first)


def _with_features(matrix: Matrix, ex: Tensor, ey: Tensor) -> Matrix:
    """The matrix with features as the kernels read them."""
    pad = -ex.shape[1] % chunk(ex.shape[1], matrix.dtype)
    x, y = ((F.pad(t, (0, pad)) if pad else t).to(matrix.dtype).contiguous() for t in (ex.detach(), ey.detach()))
    return replace(matrix, x=x, y=y)


def _matrix(plan: Plan, ex: Tensor, ey: Tensor) -> Matrix:
    dtype = torch.bfloat16 if ex.dtype == torch.float32 and not critic_tiles.exact_products() else ex.dtype
    offset = None
    if isinstance(plan.offset, Tensor):
        offset = plan.offset.detach().to(ex).reshape(1)
    elif plan.offset:
        offset = ex.new_full((1,), plan.offset)  # filled there, not sent there
    tiles = plan.tiles
    first = None if tiles.first is None else tiles.first.columns.int()
    matrix = Matrix(
        None, None, dtype, offset, tiles.start, _names(tiles, ex.device), first, SCALAR if first is None else ROW
    )  # fmt: skip
    return _with_features(matrix, ex, ey)


def _names(tiles: Tiles, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """A number for each row and each column, equal where their pair is no negative; None: own columns alone."""
    if tiles.ids is not None:
        own, everyone = tiles.ids
        _, numbers = torch.cat([own, everyone]).unique(return_inverse=True)
        numbers = numbers.int()
        return numbers[: tiles.n], numbers[tiles.n :]
    if tiles.same is None:
        return None
    pairs = tiles.same
    first = torch.full((tiles.n,), tiles.total, device=device)
    first = first.scatter_reduce(0, pairs.rows, pairs.columns, "amin")  # the earliest column of its id
    columns = torch.full((tiles.total,), -1, device=device).scatter(0, pairs.columns, first[pairs.rows])
    return first.int(), columns.int()


# ---- launching


def _kernels() -> Any:
    from infomax.scores.gpu import kernels  # Triton types no launch

    return kernels


@dataclass(frozen=True)
class Launch:
    """The size of a program: BM rows, BN columns at a time, features in chunks of BD."""

    BM: int
    BN: int
    BD: int
    num_warps: int
    num_stages: int


def chunk(d: int, dtype: torch.dtype) -> int:
    """A power of two, at least 16: of few features all, else 128 or 64, whichever pads less."""
    if d <= 64:
        return max(16, 1 << (d - 1).bit_length())
    # Halves of float32 features spill less in 64s.
    return 64 if dtype == torch.float32 or -d % 128 >= 64 else 128


def launch(d: int, dtype: torch.dtype, heavy: bool = False) -> Launch:
    """For d features, a multiple of their chunk; heavy: more than one exponential a score beside a carried gradient.

    Chosen so that no tile spills from Hopper's registers, by its assembler's report (tests/test_fused.py).
    """
    size = chunk(d, dtype)
    if interpreted():
        return Launch(16, 16, size, 4, 1)
    rows, columns, warps, stages = 128, 32, 8, 2
    if dtype != torch.float32 and d <= 128:
        # Measured on an H100: 15 % faster than 128 rows and 8 warps.
        rows, columns, warps, stages = 64, 128, 4, 3
    elif dtype != torch.float32 and d <= 256:
        columns = 64
    return Launch(rows, max(columns // 2, 16) if heavy and d <= 256 else columns, size, warps, stages)


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def splits(blocks: int, tiles: int, device: torch.device) -> int:
    """Programs that share a block of rows, so that few rows occupy the device: fewest rounds, then fewest programs."""
    processors = _processors(device)
    return min(range(1, min(tiles, 64) + 1), key=lambda s: -(-blocks * s // processors) / s * (1 + s / 50))


def _options(matrix: Matrix, plan: Launch) -> dict[str, Any]:
    """The constants that feature kernels share."""
    return {
        "CHUNKS": matrix.left.shape[1] // plan.BD, **vars(plan), **_common(matrix),
        "PRECISION": "tf32x3" if matrix.dtype == torch.float32 else "ieee",
    }  # fmt: skip


def _common(matrix: Matrix) -> dict[str, Any]:
    """The constants that all kernels share."""
    import triton.language as tl

    sums = tl.float64 if matrix.sums == torch.float64 else tl.float32
    return {"FIRST": matrix.first_by, "ACC": sums, "enable_fp_fusion": True}


def _constants(forms: Sequence[Form]) -> tuple[tuple[int, int, bool], ...]:
    return tuple((KINDS[kind], CODES[type(fn)], rest) for kind, fn, rest in forms)


def _parameters(forms: Sequence[Form], matrix: Matrix) -> Tensor:
    """Each function's own number, 0 where it has none."""
    numbers = [next(iter(astuple(fn)), 0.0) for _, fn, _ in forms]
    return torch.tensor(numbers, dtype=matrix.sums, pin_memory=matrix.left.is_cuda).to(
        matrix.left.device, non_blocking=True
    )


def values(
    matrix: Matrix, rows: Sequence[Form], columns: Sequence[Form], carry: int, tiles: Tiles
) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
    """Results of forms over rows and over columns, float64; and of rows[carry], if not -1, d result / d x [rows, D]."""
    if not matrix.fits():
        return *_values_by_blocks(matrix, rows, columns, tiles), None
    by_row, pulled = _reduce(matrix, rows, carry) if rows else ([], None)
    by_column = _reduce(matrix.exchanged().without_first(), columns, -1)[0] if columns else []
    return by_row, by_column, pulled


def gradient(
    matrix: Matrix, terms: Sequence[Term], x: bool, y: int, total: bool, tiles: Tiles
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """d objective / d x [rows, D], / d y [y, D] of the first y columns and / d offset, as far as wanted."""
    if not terms:
        return None, None, None
    if not matrix.fits():
        return _gradient_by_blocks(matrix, terms, x, y, total, tiles)
    d_y = d_x = sums = None
    whole = y == len(matrix.right)
    if y:
        of = matrix if whole else matrix.block(slice(0, len(matrix.left)), slice(0, y))
        d_y, sums = _pull(of.exchanged(), terms, True, total and whole)
    if x or (total and not whole):
        d_x, other = _pull(matrix, terms, False, total and not whole)
        sums = other if sums is None else sums
    return d_x, d_y, sums


def _reduce(matrix: Matrix, forms: Sequence[Form], carry: int) -> tuple[list[Tensor], Tensor | None]:
    x, y = matrix.left, matrix.right
    heavy = carry >= 0 and (len(forms) > 1 or forms[carry][:2] != ("logsumexp", identity))
    plan = launch(x.shape[1], matrix.dtype, heavy)
    blocks, n = -(-len(x) // plan.BM), len(x)
    parts = splits(blocks, -(-len(y) // plan.BN), x.device)
    peaks, totals = x.new_empty((2, len(forms), parts, n), dtype=matrix.sums)
    pulled = None if carry < 0 else x.new_empty((parts, n, x.shape[1]), dtype=matrix.sums)
    _kernels().reduce[blocks, parts](
        x, y, matrix.offset, _parameters(forms, matrix), *matrix.arguments(), peaks, totals, pulled, n, len(y),
        matrix.shift, FORMS=_constants(forms), CARRY=carry, SPLITS=parts, **_options(matrix, plan),
    )  # fmt: skip
    results = _merge(forms, peaks, totals)
    if pulled is None:
        return results, None
    if forms[carry][0] == "logsumexp":
        shift = peaks[carry].double()
        scale = (shift - results[carry]).exp()  # from a part's peak to the result
        pulled *= scale.where(results[carry] > -math.inf, 0.0).to(pulled.dtype)[:, :, None]
    return results, pulled[0] if parts == 1 else pulled.sum(0)


def _merge(forms: Sequence[Form], peaks: Tensor, totals: Tensor) -> list[Tensor]:
    """[forms, parts, n] -> a float64 result [n] of each form."""
    return [
        totals[q].double().sum(0) if kind == "sum" else (_finite(peaks[q]) + totals[q].double().log()).logsumexp(0)
        for q, (kind, _, _) in enumerate(forms)
    ]


def _finite(peak: Tensor) -> Tensor:
    """What a peak shifted by: itself, or nothing where it is infinite."""
    peak = peak.double()
    return peak.where(peak.isfinite(), 0.0)


@dataclass
class _Weights:
    """Terms as kernels take them: constants, and weights and results by slot, rows', columns' and scalars'."""

    terms: tuple[tuple[int, int, bool, int, int], ...]
    tensors: tuple[Tensor | None, Tensor | None, Tensor | None]
    slots: dict[str, int]

    @staticmethod
    def of(matrix: Matrix, terms: Sequence[Term], exchanged: bool) -> "_Weights":
        axes = {1: COLUMN, 0: ROW, None: SCALAR} if exchanged else {1: ROW, 0: COLUMN, None: SCALAR}
        slots: list[list[Tensor]] = [[], [], []]
        constants = []
        for t in terms:
            (kind, code, rest), axis = _constants([form(t.q)])[0], axes[t.q.dim]
            constants.append((kind, code, rest, axis, len(slots[axis])))
            slots[axis].append(_scaled(t, matrix.sums))
        tensors = tuple(torch.stack(s).contiguous() if s else None for s in slots)
        names = ("ROW_SLOTS", "COLUMN_SLOTS", "SCALAR_SLOTS")
        return _Weights(tuple(constants), tensors, {k: len(s) for k, s in zip(names, slots, strict=True)})  # type: ignore[arg-type]

    def block(self, r: slice, c: slice) -> "_Weights":
        row, column, scalar = self.tensors
        row = None if row is None else row[:, :, r].contiguous()
        column = None if column is None else column[:, :, c].contiguous()
        return replace(self, tensors=(row, column, scalar))


def _scaled(t: Term, dtype: torch.dtype) -> Tensor:
    """(weight, result) [2, length], the weight making up for the rounding of the result."""
    weight, result = t.weight.double().reshape(-1), t.result.reshape(-1)
    if t.q.kind == "sum":
        return torch.stack([weight, torch.zeros_like(weight)]).to(dtype)
    finite = result.isfinite()  # -inf: no negatives; +inf: no finite score has a share
    rounded = result.where(finite, 0.0).to(dtype)
    weight = (weight * (rounded.double() - result).exp()).where(finite, 0.0)
    return torch.stack([weight.to(dtype), rounded])


def _pull(matrix: Matrix, terms: Sequence[Term], exchanged: bool, total: bool) -> tuple[Tensor, Tensor | None]:
    x, y = matrix.left, matrix.right
    plan = launch(x.shape[1], matrix.dtype)
    blocks, n = -(-len(x) // plan.BM), len(x)
    parts = splits(blocks, -(-len(y) // plan.BN), x.device)
    weights = _Weights.of(matrix, terms, exchanged)
    pulled = x.new_empty((parts, n, x.shape[1]), dtype=matrix.sums)
    totals = x.new_empty((parts, n), dtype=matrix.sums) if total else None
    _kernels().pull[blocks, parts](
        x, y, matrix.offset, _parameters([form(t.q) for t in terms], matrix), *matrix.arguments(), *weights.tensors,
        pulled, totals, n, len(y), matrix.shift, TERMS=weights.terms, SPLITS=parts, **weights.slots,
        **_options(matrix, plan),
    )  # fmt: skip
    sums = None if totals is None else totals.double().sum()
    return pulled[0] if parts == 1 else pulled.sum(0), sums


# ---- many features: scores are stored by blocks


def _blocks(matrix: Matrix, tiles: Tiles) -> Iterator[tuple[slice, slice, Matrix, Tensor]]:
    """Blocks of scores without their offset, in one buffer."""
    n, m = len(matrix.left), len(matrix.right)
    rows, columns = min(tiles.rows or BLOCK[0], n), min(tiles.columns or BLOCK[1], m)
    room = matrix.left.new_empty(rows * columns, dtype=matrix.sums)
    for i in range(0, n, rows):
        for j in range(0, m, columns):
            r, c = slice(i, min(i + rows, n)), slice(j, min(j + columns, m))
            s = room[: (r.stop - i) * (c.stop - j)].view(r.stop - i, c.stop - j)
            yield r, c, matrix.block(r, c), _product(matrix.left[r], matrix.right[c].T, s)


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    return torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)  # torch has no such product there


def _values_by_blocks(
    matrix: Matrix, rows: Sequence[Form], columns: Sequence[Form], tiles: Tiles
) -> tuple[list[Tensor], list[Tensor]]:
    results = _start(rows, matrix.left), _start(columns, matrix.right)
    parameters = _parameters(rows, matrix), _parameters(columns, matrix)
    for r, c, part, s in _blocks(matrix, tiles):
        exchanged = part.exchanged().without_first()
        for side, forms, view, block, place in ((0, rows, part, s, r), (1, columns, exchanged, s.T, c)):
            if forms:
                for q, found in enumerate(_reduce_block(view, block, forms, parameters[side])):
                    whole = results[side][q][place]
                    whole.copy_(whole + found if forms[q][0] == "sum" else torch.logaddexp(whole, found))
    return results[0], results[1]


def _start(forms: Sequence[Form], side: Tensor) -> list[Tensor]:
    empty = {"sum": 0.0, "logsumexp": -math.inf}
    return [side.new_full((len(side),), empty[kind], dtype=torch.float64) for kind, _, _ in forms]


def _reduce_block(matrix: Matrix, s: Tensor, forms: Sequence[Form], parameters: Tensor) -> list[Tensor]:
    n, m = s.shape
    bm, bn = (16, 16) if interpreted() else (16, 256) if s.stride(1) == 1 else (128, 32)
    blocks = -(-n // bm)
    parts = splits(blocks, -(-m // bn), s.device)
    peaks, totals = s.new_empty((2, len(forms), parts, n))
    _kernels().reduce_block[blocks, parts](
        s, matrix.offset, parameters, *matrix.arguments(), peaks, totals, n, m, matrix.shift, s.stride(0), s.stride(1),
        FORMS=_constants(forms), SPLITS=parts, BM=bm, BN=bn, num_warps=4, **_common(matrix),
    )  # fmt: skip
    return _merge(forms, peaks, totals)


def _gradient_by_blocks(
    matrix: Matrix, terms: Sequence[Term], x: bool, y: int, total: bool, tiles: Tiles
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    weights = _Weights.of(matrix, terms, False)
    parameters = _parameters([form(t.q) for t in terms], matrix)
    d_x, d_y = (
        torch.zeros_like(t, dtype=matrix.sums) if need else None
        for t, need in ((matrix.left, x), (matrix.right[:y], y))
    )
    sums = torch.zeros((), dtype=torch.float64, device=matrix.left.device) if total else None
    bm, bn = (16, 16) if interpreted() else (32, 128)
    for r, c, part, s in _blocks(matrix, tiles):
        grid = -(-s.shape[0] // bm), -(-s.shape[1] // bn)
        slopes = s if matrix.dtype == s.dtype else torch.empty_like(s, dtype=matrix.dtype)
        totals = s.new_empty(grid) if total else None
        own = weights.block(r, c)
        _kernels().slope_block[grid](
            s, matrix.offset, parameters, *part.arguments(), *own.tensors, slopes, totals, *s.shape, part.shift,
            TERMS=own.terms, **own.slots, BM=bm, BN=bn, num_warps=4, **_common(matrix),
        )  # fmt: skip
        if sums is not None and totals is not None:
            sums += totals.double().sum()
        if d_x is not None:
            _add_product(d_x[r], slopes, part.right)
        if d_y is not None and c.start < y:
            _add_product(d_y[c], slopes[:, : y - c.start].T, part.left)
    return d_x, d_y, sums


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += _product(a, b, torch.empty_like(total))
