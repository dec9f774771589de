"""Data frames, series, missing values, and arrays of every kind: what holds the pairs changes no value."""

import datetime
import re
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import infomax as im
from infomax.evaluation.probing import probe_features

N = 400
RNG = np.random.default_rng(0)
A = RNG.normal(size=(N, 2))
B = A[:, 0] + RNG.normal(size=N)
LABEL = np.where(A[:, 1] + 0.5 * RNG.normal(size=N) > 0, "yes", "no")
FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}


def mi(x, y, **options) -> im.estimation.Estimate:
    return im.estimate(x, y, "GCMI", **options)


PLAIN = mi(A, B)


# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_is_its_array_with_names(kind):
    frame = FRAMES[kind]({"age": A[:, 0], "height": A[:, 1], "weight": B})
    x = frame.select(["age", "height"]) if kind == "pyarrow" else frame[["age", "height"]]
    for y in (frame["weight"], frame.select(["weight"]) if kind != "pandas" else frame[["weight"]]):
        found = mi(x, y)
        assert (found.mi, found.interval, found.floor) == (PLAIN.mi, PLAIN.interval, PLAIN.floor)
        named = type(y) is not pa.ChunkedArray
        assert found.names == {"x": ["age", "height"], "y": ["weight" if named else "y"]}
        assert found.to_dict()["protocol"]["names"] == found.names
        assert mi(x, B).mi == PLAIN.mi, "beside an array"
    assert PLAIN.names == {}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("held", ["texts", "categories", "booleans"])
def test_labels_are_the_labels_of_whole_numbers(kind, held):
    known = im.estimate(A, (LABEL == "yes").astype(np.int64), "DV", budget=im.estimation.Budget(steps=5))
    columns = {
        "pandas": {"categories": lambda: pd.Series(pd.Categorical(LABEL)), "texts": lambda: pd.Series(LABEL),
                   "booleans": lambda: pd.Series(LABEL == "yes")},
        "polars": {"categories": lambda: pl.Series(LABEL).cast(pl.Enum(["no", "yes"])),
                   "texts": lambda: pl.Series(LABEL), "booleans": lambda: pl.Series(LABEL == "yes")},
        "pyarrow": {"categories": lambda: pa.array(LABEL.tolist()).dictionary_encode(),
                    "texts": lambda: pa.array(LABEL.tolist()), "booleans": lambda: pa.array(LABEL == "yes")},
    }  # fmt: skip
    y = columns[kind][held]()
    found = im.estimate(A, y, "DV", budget=im.estimation.Budget(steps=5))
    assert found.cap == pytest.approx(known.cap)
    assert found.n == N
    [check] = [c for c in found.checks if c.name == "labels in y"]
    assert f"of {held}" in check.sentence and "integers" not in check.sentence
    if not (kind == "pyarrow" and held == "categories"):  # whose order is that of first appearance
        assert found.mi == known.mi


def test_the_order_of_categories_is_kept():
    sizes = pd.Series(np.array(["small", "middle", "large"])[RNG.integers(0, 3, N)])
    ordered = pd.Series(pd.Categorical(sizes, ["small", "middle", "large"], ordered=True))
    tables = im.estimation.pairs.frames.read({"x": A, "y": ordered})
    assert np.array_equal(tables.sides["y"], ordered.cat.codes)


def test_of_several_columns_whole_numbers_are_quantities_and_labels_are_one_hot_or_one_label():
    read = im.estimation.pairs.frames.read
    frame = pd.DataFrame({"age": A[:, 0], "visits": RNG.integers(0, 50, N), "sex": LABEL, "old": A[:, 0] > 1})
    tables = read({"x": frame, "y": B})
    want = np.c_[A[:, 0], frame["visits"], LABEL == "yes", A[:, 0] > 1].astype(float)
    assert np.array_equal(tables.sides["x"], want)
    assert tables.names["x"] == ["age", "visits", "sex=yes", "old"]
    assert {c.name: c.verdict for c in tables.checks} == {"whole numbers of x": "pass", "labels of x": "pass"}
    both = pd.DataFrame({"sex": LABEL, "arm": np.where(RNG.random(N) < 0.5, "left", "right")})
    tables = read({"x": both, "y": B})
    assert tables.sides["x"].shape == (N,) and len(np.unique(tables.sides["x"])) == 4
    assert "'sex' and 'arm'" in tables.kinds["x"]


@pytest.mark.parametrize("kind", ["int64", "uint8", "int16", "bool"])
def test_whole_numbers_in_several_columns_are_quantities_in_an_array_as_in_a_frame(kind):
    counts = RNG.poisson(np.exp(A) * 2).clip(max=200).astype(kind)
    frame = pd.DataFrame(counts, columns=["visits", "calls"])
    steps = im.estimation.Budget(steps=5)
    known = im.estimate(counts.astype(float), B, "DV", budget=steps)
    for x in (counts, torch.from_numpy(counts), counts.tolist(), frame):
        found = im.estimate(x, B, "DV", budget=steps)
        assert (found.mi, found.interval, found.floor) == (known.mi, known.interval, known.floor)
        [check] = [c for c in found.checks if c.name == "whole numbers of x"]
        assert check.verdict == "pass" and check.statistic == 2
        assert ("visits, calls" in check.sentence) == (x is frame)


def test_sentences_name_columns():
    frame = pd.DataFrame({"flat": np.ones(N), "height": A[:, 1], "age": A[:, 0]})
    found = mi(frame, pd.DataFrame({"noise": RNG.normal(size=N), "age twice": 2 * A[:, 0]}))
    sentences = {c.name: c.sentence for c in found.checks}
    assert "y['age twice'] is a function of x['age']" in sentences["function"]
    assert "1 of 3 columns of x ('flat') never change" in sentences["constant columns of x"]


def test_names_that_are_odd():
    frame = pd.DataFrame(A)  # columns 0 and 1
    assert mi(frame, pd.Series(B)).names == {"x": ["0", "1"], "y": ["y"]}
    with pytest.raises(im.UserError, match="Expected unique column names, got: - 'a' 2 times"):
        mi(pd.DataFrame(A, columns=["a", "a"]), B)


@pytest.mark.parametrize(
    "y",
    [
        pd.Series(B).astype("Float64"),
        pd.Series(B).astype("float64[pyarrow]"),
        pd.Series(B, dtype=object),
        pd.array(B),
        pd.Index(B),
        pa.array(B),
        pa.chunked_array([B[:100], B[100:]]),
        pa.record_batch({"b": B}),
        pl.Series(B),
        pl.DataFrame({"b": B}),
    ],
    ids=lambda y: f"{type(y).__module__}.{type(y).__name__}",
)
def test_numbers_of_tables_of_every_type(y):
    assert mi(A, y).mi == PLAIN.mi


@pytest.mark.parametrize("kind", ["Int64", "UInt8", "int32[pyarrow]", "boolean"])
def test_nullable_whole_numbers_are_whole_numbers(kind):
    label = (LABEL == "yes").astype(np.int64)
    tables = im.estimation.pairs.frames.read({"x": A, "y": pd.Series(label).astype(kind)})
    assert tables.sides["y"].dtype.kind in "ib" and np.array_equal(tables.sides["y"], label)


# Missing values -------------------------------------------------------------------------------------------------------

GONE = np.array([3, 50, 77])
KEPT = np.setdiff1d(np.arange(N), [3, 50, 77, 120])


def with_gaps(kind: str):
    """x with three values missing in "a", of which one row also misses "b"; y with one missing."""
    a, b, y = A[:, 0].astype(object), A[:, 1].astype(object), B.astype(object)
    a[GONE], b[3], y[120] = None, None, None
    x, y = {"a": a.tolist(), "b": b.tolist()}, {"c": y.tolist()}
    if kind == "Float64":
        return pd.DataFrame(x).astype("Float64"), pd.DataFrame(y).astype("Float64")
    if kind == "object":
        return pd.DataFrame(x, dtype=object), pd.DataFrame(y, dtype=object)
    return FRAMES[kind](x), FRAMES[kind](y)


@pytest.mark.parametrize("kind", [*FRAMES, "Float64", "object"])
def test_missing_values_are_refused_by_name_or_dropped_by_pair(kind):
    x, y = with_gaps(kind)
    with pytest.raises(im.UserError, match=r"missing in 4 of 400 rows \(3 in 'a' of x, 1 in 'b' of x, 1 in 'c' of y\)"):
        mi(x, y)
    found = mi(x, y, missing="drop")
    assert (found.mi, found.n) == (mi(A[KEPT], B[KEPT]).mi, N - 4)
    [check] = [c for c in found.checks if c.name == "missing values"]
    assert (check.statistic, check.verdict) == (4.0, "warn") and "3 in 'a' of x" in check.sentence


def test_missing_values_of_arrays_are_dropped_where_asked():
    x, y = A.copy(), B.copy()
    x[GONE, 0], y[120] = np.nan, np.nan
    known = mi(A[KEPT], B[KEPT])
    masked = np.ma.masked_invalid(x)
    objects = np.where(np.isnan(x), None, x.astype(object))
    for one in (x, torch.from_numpy(x), x.tolist(), masked, objects):
        found = mi(one, torch.from_numpy(y), missing="drop")
        assert (found.mi, found.n) == (known.mi, N - 4)
    assert mi(x, y, missing="drop").mi == known.mi
    with pytest.raises(im.UserError, match="NaN or infinity in 3 of 400 rows"):
        mi(x, B)
    with pytest.raises(im.UserError, match="infinity"):
        mi(np.where(np.isnan(x), np.inf, x), B, missing="drop")
    noise = np.random.default_rng(1).normal(size=N)
    for gone in (masked, objects, x):
        for options in ({"x": gone, "y": B}, {"x": A, "y": gone}, {"x": noise, "y": B, "given": gone}):
            with pytest.raises(im.UserError, match=r"missing='drop'\)\.$"):
                mi(**options)
            assert mi(**options, missing="drop").n == N - 3
    with pytest.raises(im.UserError, match=r"repair them\.$"):
        mi(np.where(np.isnan(x), np.inf, x), B)
    assert mi(A, B, missing="drop") == PLAIN, "where nothing is missing"


def test_missing_values_of_what_is_given_go_with_their_rows():
    z = A[:, 1] + np.random.default_rng(1).normal(size=N)
    gone = z.copy()
    gone[GONE] = np.nan
    kept = np.setdiff1d(np.arange(N), GONE)
    known = mi(A[kept, 0], B[kept], given=z[kept]).mi
    for given in (gone, torch.from_numpy(gone), gone.tolist(), np.ma.masked_invalid(gone), pd.Series(gone)):
        assert mi(A[:, 0], B, given=given, missing="drop").mi == known


@pytest.mark.parametrize("kind", [np.asarray, list, torch.from_numpy, np.ma.masked_invalid, pd.Series, pl.Series])
def test_a_series_that_misses_values_is_not_told_to_drop_rows(kind):
    gone = B.copy()
    gone[GONE] = np.nan
    calls = (
        lambda: im.lagged(kind(gone), B, 1),
        lambda: im.transfer_entropy(A[:, 0], kind(gone)),
        lambda: im.lagged(A, B, 1, given=kind(gone)),
    )
    for call in calls:
        with pytest.raises(im.UserError, match=r"missing in 3 of 400 rows .*: fill them, or give a part without"):
            call()


def test_ids_and_blocks_follow_the_rows_that_are_left():
    x, y = A.copy(), pd.Series(B)
    x[GONE] = np.nan
    kept = np.setdiff1d(np.arange(N), GONE)
    names = np.repeat(np.arange(N // 5), 5)
    known = mi(A[kept], B[kept], ids=names[kept])
    texts = pl.Series([f"{name:03}" for name in names])
    for options in (
        {"blocks": 5},
        {"ids": names},
        {"ids": pd.Series(names)},
        {"blocks": texts},
        {"ids": torch.from_numpy(names)},
    ):
        found = mi(x, y, missing="drop", **options)
        assert (found.mi, found.n) == (known.mi, known.n)
    with pytest.raises(im.UserError, match="ids has 1 missing"):
        mi(A, B, ids=pd.Series([None, *map(str, range(N - 1))]))


@pytest.mark.parametrize(
    ("x", "options", "sentence"),
    [
        (pd.DataFrame({"a": A[:, 0], "empty": [None] * N}), {}, "missing in 400 of 400 rows .400 in 'empty' of x"),
        (pl.DataFrame({"empty": [None] * N}), {"missing": "drop"}, "Only 0 of 400 rows .* leave out the columns"),
        (pd.DataFrame({"flat": np.ones(N)}), {}, r"x \('flat'\) is the same in every row"),
        (pd.Series(["one"] * N, name="flat"), {}, r"x \('flat'\) is the same in every row"),
        (pd.Series(pd.date_range("2020-01-01", periods=N), name="day"), {}, "'day' of x holds dates"),
        (pl.Series("day", [datetime.date(2020, 1, 1)] * N), {}, "'day' of x holds dates"),
        (pd.Series(pd.to_timedelta(np.arange(N), "s"), name="wait"), {}, "'wait' of x holds durations"),
        (pl.Series("list", [[1, 2]] * N), {}, "several values a row"),
        (pd.Series([f"name {i}" for i in range(N)], name="who"), {}, "400 different values in 400 rows: too many"),
        (pd.Series([*A[1:, 0].astype(str), "n/a"], name="a"), {}, "texts that are numbers, but for 'n/a'"),
        (pd.Series([1.0, "n/a"] * 200, name="a"), {}, "mixes texts with float, such as 'n/a'"),
        (pd.Series([object()] * N, name="a"), {}, "'a' of x holds object"),
        (pd.Series(np.where(np.arange(N) == 7, np.inf, B), name="a"), {}, "infinity in 1 rows of 'a'"),
        (pl.LazyFrame({"a": B}), {}, r"give x.collect\(\)"),
        (pd.DataFrame(index=range(N)), {}, "without columns"),
        (pd.DataFrame({"a": B[:-1]}), {}, "x has 399 rows and y has 400"),
        (A, {"missing": "ignore"}, "missing is 'ignore'"),
    ],
)
def test_what_a_table_cannot_be_read_as_is_told_by_column(x, options, sentence):
    with pytest.raises(im.UserError, match=sentence):
        mi(x, B, **options)


def test_frames_of_different_indexes_are_never_paired_by_position():
    x, y = pd.DataFrame({"a": B}), pd.Series(A[:, 0])
    for other in (y[::-1], y.set_axis(y.index + 1), y.sample(frac=1, random_state=0)):
        with pytest.raises(im.UserError, match=re.escape("y.loc[x.index]")):
            mi(x, other)
    assert mi(x.sample(frac=1, random_state=0), y.sample(frac=1, random_state=0)).mi == pytest.approx(mi(x, y).mi)
    with pytest.raises(im.UserError, match="x and ids have different indexes"):
        mi(x, A, ids=pd.Series(range(N), index=range(1, N + 1)))


TABLE = pd.DataFrame({"a": B, "b": A[:, 1], "c": A[:, 0]})
VECTOR = pd.Series(A[:, 0], name="v")
LABELS = pd.Series(np.arange(N) % 2, name="l")
BLOCKS = pd.Series([f"day {k // 10}" for k in range(N)], name="day")


def moved(values: Any) -> Any:
    return values.set_axis(values.index[::-1])


@pytest.mark.parametrize(
    ("first", "second", "call"),
    [
        ("X", "Y", lambda: im.pairwise(TABLE, moved(TABLE))),
        ("X", "Y", lambda: im.pairwise(TABLE, moved(VECTOR), missing="drop")),
        ("X", "y", lambda: im.select(TABLE, moved(VECTOR), 1)),
        ("x", "given", lambda: mi(VECTOR, A, given=moved(TABLE))),
        ("y", "given", lambda: mi(A, VECTOR, given=moved(TABLE))),
        ("y", "blocks", lambda: mi(A, VECTOR, blocks=moved(BLOCKS))),
        ("given", "blocks", lambda: mi(A, B, given=VECTOR, blocks=moved(BLOCKS))),
        ("x", "y", lambda: im.lagged(VECTOR, moved(VECTOR), 1)),
        ("y", "given", lambda: im.lagged(A, VECTOR, 1, given=moved(VECTOR))),
        ("y", "blocks", lambda: im.lagged(A, VECTOR, 1, blocks=moved(BLOCKS))),
        ("x", "given[1]", lambda: im.transfer_entropy(VECTOR, B, given=(A, moved(VECTOR)))),
        ("x", "blocks", lambda: im.transfer_entropy(VECTOR, B, blocks=moved(BLOCKS))),
        ("x", "y", lambda: im.estimation.audit(VECTOR, moved(VECTOR))),
        ("x", "y", lambda: im.estimation.estimate_splits((VECTOR, moved(VECTOR)), (A, B), (A, B))),
        ("y", "ids", lambda: im.estimation.estimate_splits((A, B, None), (A, VECTOR, moved(LABELS)), (A, B, None))),
        ("x", "y", lambda: im.estimation.audit_splits((A, B), (A, B), (VECTOR, moved(VECTOR)))),
        ("train_x", "train_y", lambda: probe_features(TABLE, moved(LABELS), TABLE, LABELS)),
        ("test_x", "test_y", lambda: probe_features(TABLE, LABELS, TABLE, moved(LABELS))),
    ],
)
def test_every_door_refuses_tables_of_different_indexes(first, second, call):
    with pytest.raises(im.UserError, match=rf"^{re.escape(first)} and {re.escape(second)} have different indexes: row"):
        call()


def test_a_split_of_another_number_of_arrays_is_a_sentence():
    with pytest.raises(im.UserError, match=r"A split is \(x, y\) or \(x, y, ids\), and one has 1 of them"):
        im.estimation.estimate_splits((A,), (A, B), (A, B))


def test_labels_that_miss_are_compared_too():
    """pandas' NA is neither equal to a label nor different from it."""
    values = np.random.default_rng(0).normal(size=N)
    one, other = (pd.Index([pd.NA, *range(first, N)], dtype="Int64") for first in (1, 1))
    assert mi(pd.Series(values, one), pd.Series(values[::-1].copy(), other)).n == N
    with pytest.raises(im.UserError, match="row 0 is <NA> of x and 0 of y"):
        mi(pd.Series(values, one), pd.Series(values, pd.RangeIndex(N)))
    with pytest.raises(im.UserError, match="row 0 is '0' of x and 0 of y"):
        mi(pd.Series(values, [str(k) for k in range(N)]), pd.Series(values))


def test_indexes_that_say_the_same_pair():
    days = pd.date_range("2020-01-01", periods=N, tz="UTC")
    frame, other = TABLE.set_axis(days), VECTOR.set_axis(days.tz_convert("Europe/Berlin"))
    found = im.pairwise(frame, other)
    assert found.mi == pytest.approx(im.pairwise(TABLE.to_numpy(), VECTOR.to_numpy()).mi)
    assert im.pairwise(frame, VECTOR.to_numpy()).mi == pytest.approx(found.mi), "an array has no index"


def test_names_of_blocks_from_a_table_are_read_over_time():
    names = BLOCKS.to_list()
    tables = [BLOCKS, BLOCKS.astype("category"), pl.Series(names), BLOCKS.to_frame(), names]
    found = [im.lagged(A[:, 0], B, 1, estimator="GCMI", blocks=each)[1] for each in tables]
    assert {(each.mi, each.interval) for each in found} == {(found[0].mi, found[0].interval)}
    with pytest.raises(im.UserError, match="blocks has 1 missing values"):
        im.lagged(A[:, 0], B, 1, blocks=BLOCKS.where(np.arange(N) != 3))


# Arrays ---------------------------------------------------------------------------------------------------------------


def on_disc(array: np.ndarray, tmp_path) -> np.ndarray:
    np.save(tmp_path / "array.npy", array)
    return np.load(tmp_path / "array.npy", mmap_mode="r")


@pytest.mark.parametrize(
    "held",
    [
        lambda a, _: a.tolist(),
        lambda a, _: tuple(map(tuple, a)),
        lambda a, _: np.asfortranarray(a),
        lambda a, _: a.astype(">f8"),
        lambda a, _: np.repeat(a, 2, axis=0)[::2],
        lambda a, _: torch.from_numpy(a),
        lambda a, _: torch.from_numpy(a).requires_grad_(),
        lambda a, _: torch.from_numpy(np.asfortranarray(a)),
        on_disc,
        lambda a, path: on_disc(np.asfortranarray(a), path),
        lambda a, path: on_disc(a.astype(">f8"), path),
    ],
    ids=["lists", "tuples", "fortran", "big-endian", "strided", "torch", "grad", "torch fortran", "map", "fortran map",
         "big-endian map"],
)  # fmt: skip
def test_what_holds_the_numbers_changes_no_value(held, tmp_path):
    assert mi(held(A, tmp_path), B) == PLAIN


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_tensors_of_fewer_bits_are_their_numbers(kind):
    x = torch.from_numpy(A).to(getattr(torch, kind))
    assert mi(x, B).mi == mi(x.float().numpy(), B).mi


@pytest.mark.slow
def test_an_audit_reads_frames():
    x, y = with_gaps("pandas")
    found = im.estimation.audit(x, y, "GCMI", missing="drop")
    assert found.n == N - 4 and found.names == {"x": ["a", "b"], "y": ["c"]}
    assert "independence" in found.protocol["audit"]


@pytest.fixture(scope="module")
def labelled():
    """Labels, a column that they move, a short budget, and what an estimate says of float32 one-hot columns."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, 5, 300)
    y = label[:, None] + generator.normal(size=(300, 1))
    few = im.estimation.Budget(steps=5)
    return label, y, few, im.estimate(np.eye(5, dtype=np.float32)[label], y, "SMILE", budget=few)


@pytest.mark.parametrize("kind", [np.int64, np.float64, bool])
def test_one_hot_columns_are_a_label_whatever_they_are_made_of(kind, labelled):
    label, y, few, want = labelled
    found = im.estimate(np.eye(5)[label].astype(kind), y, "SMILE", budget=few)
    assert (found.mi, found.interval) == (want.mi, want.interval)
    assert not any(check.name.startswith("whole numbers") for check in found.checks)
