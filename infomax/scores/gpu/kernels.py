"""Triton's side of `fused`: what runs on a tile of scores while it is in registers. One source for all objectives.

A form is (KIND, CODE, REST): a sum or a log-sum-exp of the function CODE of a score, with or without each row's first
negative. A term is (KIND, CODE, REST, AXIS, SLOT): a form, whether its weight is a number a row, a number a column or
one number, and where among those it stands. Both are constants of a kernel. What Triton's compiler asks for shapes
the rest: blocks are powers of two, so features come in CHUNKS of BD; Python's loops over tuples are unrolled.

Tiles with no entry to leave out take a loop without masks, the others a second one. No index is a row times a column,
and row offsets are 64-bit.
"""
# What follows is Triton's language, which knows no starred tuples and types nothing.
# ruff: noqa: RUF005, SIM108
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportAssignmentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOptionalSubscript=false, reportOptionalIterable=false

import triton
import triton.language as tl

SUM, LOGSUMEXP = tl.constexpr(0), tl.constexpr(1)
IDENTITY, CLIP, SOFTPLUS, SQUARE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
ROW, COLUMN, SCALAR = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _value(s, a, CODE: tl.constexpr):
    """fn(s); a is the function's parameter"""
    if CODE == CLIP:
        value = tl.minimum(tl.maximum(s, -a), a)
    elif CODE == SOFTPLUS:
        z = s - a
        e = tl.exp(-tl.abs(z))
        u = 1 + e
        # log1p(e) without a library call: the last term restores what 1 + e lost.
        value = tl.maximum(z, 0.0) + tl.log(u) + (e - (u - 1)) / u
    elif CODE == SQUARE:
        value = s * s
    else:
        value = s
    return value


@triton.jit
def _times_slope(t, s, a, CODE: tl.constexpr):
    """t * fn'(s)"""
    if CODE == CLIP:
        t = tl.where(tl.abs(s) <= a, t, 0.0)
    elif CODE == SOFTPLUS:
        e = tl.exp(-tl.abs(s - a))
        t = t * (tl.where(s >= a, 1.0, e) / (1 + e))
    elif CODE == SQUARE:
        t = t * (2 * s)
    return t


@triton.jit
def _parameters(parameters, LENGTH: tl.constexpr):
    found = ()
    for q in tl.static_range(LENGTH):
        found = found + (tl.load(parameters + q),)
    return found


@triton.jit
def _rows(x, i, rows, CHUNKS: tl.constexpr, BD: tl.constexpr):
    """The features of rows i, in chunks"""
    found = ()
    at = x + i.to(tl.int64)[:, None] * (CHUNKS * BD) + tl.arange(0, BD)[None, :]
    for c in tl.static_range(CHUNKS):
        found = found + (tl.load(at + c * BD, mask=(i < rows)[:, None], other=0.0),)
    return found


@triton.jit
def _scores(
    xs, y, tile, columns, shift_by, MASKED: tl.constexpr, CHUNKS: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """The scores of the rows xs and a tile of columns, and those columns' features"""
    j = tl.arange(0, BN)
    at = y + tile.to(tl.int64) * (BN * CHUNKS * BD) + j[:, None] * (CHUNKS * BD) + tl.arange(0, BD)[None, :]
    ys = ()
    s = tl.zeros((BM, BN), ACC)
    for c in tl.static_range(CHUNKS):
        if MASKED:
            part = tl.load(at + c * BD, mask=(tile * BN + j < columns)[:, None], other=0.0)
        else:
            part = tl.load(at + c * BD)
        ys = ys + (part,)
        s = tl.dot(xs[c], tl.trans(part), s, input_precision=PRECISION, out_dtype=ACC)
    if OFFSET:
        s += shift_by
    return s, ys


@triton.jit
def _kept(i, j, names_i, names_j, first_i, first_j, columns, shift, NAMED: tl.constexpr, FIRST: tl.constexpr):
    """Which entries are negatives; and without each row's first, where FIRST says which side the rows are"""
    inside = (j < columns)[None, :]
    if NAMED:
        kept = inside & (names_i[:, None] != names_j[None, :])
    else:
        kept = inside & (i[:, None] + shift != j[None, :])
    rest = kept
    if FIRST == ROW:
        rest = kept & (first_i[:, None] != j[None, :])
    elif FIRST == COLUMN:
        rest = kept & (i[:, None] != first_j[None, :])
    return kept, rest


@triton.jit
def _masked_tiles(i0, columns, shift, ANYWHERE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Of the tiles of columns of the rows from i0: full ones, and the range of those that need masks

    Beside that range, a ragged last tile needs one. ANYWHERE: all do.
    """
    full = columns // BN
    if ANYWHERE:
        low = full * 0
        high = full
    else:
        low = tl.minimum(tl.maximum(i0 + shift, 0) // BN, full)
        high = tl.minimum(tl.maximum(i0 + shift + BM + BN - 1, 0) // BN, full)
    return full, low, high


@triton.jit
def _add(state, s, kept, rest, parameters, FORMS: tl.constexpr, CARRY: tl.constexpr, MASKED: tl.constexpr):
    """Adds a tile to the running (peak, total) of each form

    Returns as well, of the form CARRY, d summand / d s and what its earlier sums are to be multiplied by.
    """
    after = ()
    slope = s
    scale = state[0][1]
    for q in tl.static_range(len(FORMS)):
        peak, total = state[q]
        f = _value(s, parameters[q], FORMS[q][1])
        if FORMS[q][0] == SUM:
            if MASKED:
                f = tl.where(rest if FORMS[q][2] else kept, f, 0.0)
            after = after + ((peak, total + tl.sum(f, 1)),)
            if q == CARRY:
                slope = _times_slope(tl.zeros_like(s) + 1, s, parameters[q], FORMS[q][1])
                if MASKED:
                    slope = tl.where(rest if FORMS[q][2] else kept, slope, 0.0)
                scale = tl.zeros_like(total) + 1
        else:
            if MASKED:
                f = tl.where(rest if FORMS[q][2] else kept, f, float("-inf"))
            top = tl.maximum(peak, tl.max(f, 1))
            # A row without a negative so far, or one that overflows, is not shifted.
            by = tl.where((top > float("-inf")) & (top < float("inf")), top, 0.0)
            f = tl.exp(f - by[:, None])
            less = tl.exp(peak - by)
            after = after + ((top, total * less + tl.sum(f, 1)),)
            if q == CARRY:
                slope = _times_slope(f, s, parameters[q], FORMS[q][1])
                scale = less
    return after, slope, scale


@triton.jit
def _reduce_tile(
    state, sums, xs, y, tile, i, names_i, names_y, first_i, columns, shift, shift_by, parameters, FORMS: tl.constexpr,
    CARRY: tl.constexpr, MASKED: tl.constexpr, OFFSET: tl.constexpr, NAMED: tl.constexpr, FIRST: tl.constexpr,
    CHUNKS: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    s, ys = _scores(xs, y, tile, columns, shift_by, MASKED, CHUNKS, BD, BM, BN, ACC, PRECISION, OFFSET)
    kept = tile
    rest = tile
    if MASKED:
        j = tile * BN + tl.arange(0, BN)
        names_j = j
        if NAMED:
            names_j = tl.load(names_y + j, mask=j < columns, other=-1)
        kept, rest = _kept(i, j, names_i, names_j, first_i, j, columns, shift, NAMED, FIRST)
    state, slope, scale = _add(state, s, kept, rest, parameters, FORMS, CARRY, MASKED)
    if CARRY >= 0:
        slope = slope.to(ys[0].dtype)
        after = ()
        for c in tl.static_range(CHUNKS):
            after = after + (tl.dot(slope, ys[c], sums[c] * scale[:, None], input_precision=PRECISION, out_dtype=ACC),)
        sums = after
    return state, sums


@triton.jit
def reduce(
    x, y, offset, parameters, names_x, names_y, first, peaks, totals, pulled, rows, columns, shift,
    FORMS: tl.constexpr, CARRY: tl.constexpr, FIRST: tl.constexpr, SPLITS: tl.constexpr, CHUNKS: tl.constexpr,
    BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(peak, total) of each form over each row: the log-sum-exp is peak + log total, the sum is total

    x [rows, D], y [columns, D]; peaks, totals [forms, SPLITS, rows]; a program takes BM rows and every SPLITS-th tile
    of columns. CARRY >= 0: pulled [SPLITS, rows, D], the sum over columns of y and that form's d summand / d s.
    """
    NAMED: tl.constexpr = names_x is not None
    OFFSET: tl.constexpr = offset is not None
    split = tl.program_id(1)
    i0 = tl.program_id(0) * BM
    i = i0 + tl.arange(0, BM)
    xs = _rows(x, i, rows, CHUNKS, BD)
    a = _parameters(parameters, len(FORMS))
    shift_by = tl.load(offset) if OFFSET else 0.0
    names_i = tl.load(names_x + i, mask=i < rows, other=-2) if NAMED else i
    first_i = tl.load(first + i, mask=i < rows, other=-1) if FIRST == ROW else i
    state = ()
    for _ in tl.static_range(len(FORMS)):
        state = state + ((tl.full((BM,), float("-inf"), ACC), tl.zeros((BM,), ACC)),)
    sums = ()
    if CARRY >= 0:
        for _ in tl.static_range(CHUNKS):
            sums = sums + (tl.zeros((BM, BD), ACC),)
    full, low, high = _masked_tiles(i0, columns, shift, NAMED or FIRST == ROW, BM, BN)
    for t in range(split, full - (high - low), SPLITS):
        tile = tl.where(t >= low, t + (high - low), t)
        state, sums = _reduce_tile(
            state, sums, xs, y, tile, i, names_i, names_y, first_i, columns, shift, shift_by, a, FORMS, CARRY, False,
            OFFSET, NAMED, FIRST, CHUNKS, BD, BM, BN, ACC, PRECISION,
        )  # fmt: skip
    ragged = (columns + BN - 1) // BN - full
    for t in range(split, high - low + ragged, SPLITS):
        tile = tl.where(t >= high - low, full, t + low)
        state, sums = _reduce_tile(
            state, sums, xs, y, tile, i, names_i, names_y, first_i, columns, shift, shift_by, a, FORMS, CARRY, True,
            OFFSET, NAMED, FIRST, CHUNKS, BD, BM, BN, ACC, PRECISION,
        )  # fmt: skip
    for q in tl.static_range(len(FORMS)):
        peak, total = state[q]
        at = (q * SPLITS + split).to(tl.int64) * rows + i
        tl.store(peaks + at, peak, mask=i < rows)
        tl.store(totals + at, total, mask=i < rows)
    if CARRY >= 0:
        at = (split.to(tl.int64) * rows + i)[:, None] * (CHUNKS * BD) + tl.arange(0, BD)[None, :]
        for c in tl.static_range(CHUNKS):
            tl.store(pulled + at + c * BD, sums[c], mask=(i < rows)[:, None])


@triton.jit
def _weights(place, i, length, COUNT: tl.constexpr):
    """(weight, result) of each slot at i; place is [COUNT, 2, length]"""
    found = ()
    for k in tl.static_range(COUNT):
        at = place + (2 * k + tl.zeros_like(i)).to(tl.int64) * length + i
        found = found + ((tl.load(at, mask=i < length, other=0.0), tl.load(at + length, mask=i < length, other=0.0)),)
    return found


@triton.jit
def _slopes(
    s, kept, rest, parameters, by_row, by_column, scalars, TERMS: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """d objective / d s, the sum over terms of weight * d summand / d s, where e^fn(s) is divided by e^result"""
    slopes = tl.zeros_like(s)
    for q in tl.static_range(len(TERMS)):
        if TERMS[q][3] == ROW:
            weight, result = by_row[TERMS[q][4]]
            weight, result = weight[:, None], result[:, None]
        elif TERMS[q][3] == COLUMN:
            weight, result = by_column[TERMS[q][4]]
            weight, result = weight[None, :], result[None, :]
        else:
            weight, result = scalars[TERMS[q][4]]
        if TERMS[q][0] == SUM:
            piece = tl.zeros_like(s) + weight
        else:
            piece = tl.exp(_value(s, parameters[q], TERMS[q][1]) - result) * weight
        piece = _times_slope(piece, s, parameters[q], TERMS[q][1])
        if MASKED:
            piece = tl.where(rest if TERMS[q][2] else kept, piece, 0.0)
        slopes = piece if q == 0 else slopes + piece
    return slopes


@triton.jit
def _pull_tile(
    sums, total, xs, y, tile, i, names_i, names_y, first_i, first, columns, shift, shift_by, parameters, by_row,
    by_column, scalars, TERMS: tl.constexpr, COLUMN_SLOTS: tl.constexpr, MASKED: tl.constexpr, OFFSET: tl.constexpr,
    NAMED: tl.constexpr, FIRST: tl.constexpr, TOTAL: tl.constexpr, CHUNKS: tl.constexpr, BD: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    s, ys = _scores(xs, y, tile, columns, shift_by, MASKED, CHUNKS, BD, BM, BN, ACC, PRECISION, OFFSET)
    j = tile * BN + tl.arange(0, BN)
    kept = tile
    rest = tile
    if MASKED:
        names_j = j
        first_j = j
        if NAMED:
            names_j = tl.load(names_y + j, mask=j < columns, other=-1)
        if FIRST == COLUMN:
            first_j = tl.load(first + j, mask=j < columns, other=-1)
        kept, rest = _kept(i, j, names_i, names_j, first_i, first_j, columns, shift, NAMED, FIRST)
    by_columns = _weights(by_column, j, columns, COLUMN_SLOTS)
    slopes = _slopes(s, kept, rest, parameters, by_row, by_columns, scalars, TERMS, MASKED)
    if TOTAL:
        total += tl.sum(slopes, 1)
    slopes = slopes.to(ys[0].dtype)
    after = ()
    for c in tl.static_range(CHUNKS):
        after = after + (tl.dot(slopes, ys[c], sums[c], input_precision=PRECISION, out_dtype=ACC),)
    return after, total


@triton.jit
def pull(
    x, y, offset, parameters, names_x, names_y, first, by_row, by_column, scalars, pulled, totals, rows, columns, shift,
    TERMS: tl.constexpr, ROW_SLOTS: tl.constexpr, COLUMN_SLOTS: tl.constexpr, SCALAR_SLOTS: tl.constexpr,
    FIRST: tl.constexpr, SPLITS: tl.constexpr, CHUNKS: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sum over columns of y and d objective / d s, pulled [SPLITS, rows, D], from the weights of all terms

    by_row [slots, 2, rows], by_column [slots, 2, columns], scalars [slots, 2, 1]: weights and results.
    totals [SPLITS, rows], where not None: the sum of d objective / d s alone.
    """
    NAMED: tl.constexpr = names_x is not None
    OFFSET: tl.constexpr = offset is not None
    TOTAL: tl.constexpr = totals is not None
    split = tl.program_id(1)
    i0 = tl.program_id(0) * BM
    i = i0 + tl.arange(0, BM)
    xs = _rows(x, i, rows, CHUNKS, BD)
    a = _parameters(parameters, len(TERMS))
    shift_by = tl.load(offset) if OFFSET else 0.0
    names_i = tl.load(names_x + i, mask=i < rows, other=-2) if NAMED else i
    first_i = tl.load(first + i, mask=i < rows, other=-1) if FIRST == ROW else i
    by_rows = _weights(by_row, i, rows, ROW_SLOTS)
    by_all = _weights(scalars, tl.program_id(0) * 0, 1, SCALAR_SLOTS)
    total = tl.zeros((BM,), ACC)
    sums = ()
    for _ in tl.static_range(CHUNKS):
        sums = sums + (tl.zeros((BM, BD), ACC),)
    full, low, high = _masked_tiles(i0, columns, shift, NAMED or FIRST != SCALAR, BM, BN)
    for t in range(split, full - (high - low), SPLITS):
        tile = tl.where(t >= low, t + (high - low), t)
        sums, total = _pull_tile(
            sums, total, xs, y, tile, i, names_i, names_y, first_i, first, columns, shift, shift_by, a, by_rows,
            by_column, by_all, TERMS, COLUMN_SLOTS, False, OFFSET, NAMED, FIRST, TOTAL, CHUNKS, BD, BM, BN, ACC,
            PRECISION,
        )  # fmt: skip
    ragged = (columns + BN - 1) // BN - full
    for t in range(split, high - low + ragged, SPLITS):
        tile = tl.where(t >= high - low, full, t + low)
        sums, total = _pull_tile(
            sums, total, xs, y, tile, i, names_i, names_y, first_i, first, columns, shift, shift_by, a, by_rows,
            by_column, by_all, TERMS, COLUMN_SLOTS, True, OFFSET, NAMED, FIRST, TOTAL, CHUNKS, BD, BM, BN, ACC,
            PRECISION,
        )  # fmt: skip
    at = (split.to(tl.int64) * rows + i)[:, None] * (CHUNKS * BD) + tl.arange(0, BD)[None, :]
    for c in tl.static_range(CHUNKS):
        tl.store(pulled + at + c * BD, sums[c], mask=(i < rows)[:, None])
    if TOTAL:
        tl.store(totals + split.to(tl.int64) * rows + i, total, mask=i < rows)


@triton.jit
def reduce_block(
    s, offset, parameters, names_x, names_y, first, peaks, totals, rows, columns, shift, stride_i, stride_j,
    FORMS: tl.constexpr, FIRST: tl.constexpr, SPLITS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """`reduce` of scores that are stored: s[i, j] at i * stride_i + j * stride_j"""
    NAMED: tl.constexpr = names_x is not None
    split = tl.program_id(1)
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    a = _parameters(parameters, len(FORMS))
    shift_by = tl.load(offset) if offset is not None else 0.0
    names_i = tl.load(names_x + i, mask=i < rows, other=-2) if NAMED else i
    first_i = tl.load(first + i, mask=i < rows, other=-1) if FIRST == ROW else i
    state = ()
    for _ in tl.static_range(len(FORMS)):
        state = state + ((tl.full((BM,), float("-inf"), ACC), tl.zeros((BM,), ACC)),)
    at = s + i.to(tl.int64)[:, None] * stride_i
    for tile in range(split, (columns + BN - 1) // BN, SPLITS):
        j = tile * BN + tl.arange(0, BN)
        names_j = tl.load(names_y + j, mask=j < columns, other=-1) if NAMED else j
        kept, rest = _kept(i, j, names_i, names_j, first_i, j, columns, shift, NAMED, FIRST)
        inside = (i < rows)[:, None] & (j < columns)[None, :]
        scores = tl.load(at + j.to(tl.int64)[None, :] * stride_j, mask=inside, other=0.0) + shift_by
        state, _slope, _scale = _add(state, scores, kept, rest, a, FORMS, -1, True)
    for q in tl.static_range(len(FORMS)):
        peak, total = state[q]
        to = (q * SPLITS + split).to(tl.int64) * rows + i
        tl.store(peaks + to, peak, mask=i < rows)
        tl.store(totals + to, total, mask=i < rows)


@triton.jit
def slope_block(
    s, offset, parameters, names_x, names_y, first, by_row, by_column, scalars, slopes, totals, rows, columns, shift,
    TERMS: tl.constexpr, ROW_SLOTS: tl.constexpr, COLUMN_SLOTS: tl.constexpr, SCALAR_SLOTS: tl.constexpr,
    FIRST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """d objective / d s of stored scores, s [rows, columns], into slopes, which may be s

    totals, where not None: its sum, a number a program.
    """
    NAMED: tl.constexpr = names_x is not None
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    j = tl.program_id(1) * BN + tl.arange(0, BN)
    a = _parameters(parameters, len(TERMS))
    names_i = tl.load(names_x + i, mask=i < rows, other=-2) if NAMED else i
    names_j = tl.load(names_y + j, mask=j < columns, other=-1) if NAMED else j
    first_i = tl.load(first + i, mask=i < rows, other=-1) if FIRST == ROW else i
    by_rows, by_columns = _weights(by_row, i, rows, ROW_SLOTS), _weights(by_column, j, columns, COLUMN_SLOTS)
    by_all = _weights(scalars, tl.program_id(0) * 0, 1, SCALAR_SLOTS)
    kept, rest = _kept(i, j, names_i, names_j, first_i, j, columns, shift, NAMED, FIRST)
    at = i.to(tl.int64)[:, None] * columns + j[None, :]
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    scores = tl.load(s + at, mask=inside, other=0.0)
    if offset is not None:
        scores += tl.load(offset)
    found = _slopes(scores, kept & inside, rest & inside, a, by_rows, by_columns, by_all, TERMS, True)
    tl.store(slopes + at, found, mask=inside)
    if totals is not None:
        tl.store(totals + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.sum(tl.sum(found, 1), 0))
