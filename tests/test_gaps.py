"""Missing values by pair of columns, in pairwise, select and infomax matrix; what a matrix takes; tables it writes."""

import csv
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import polars
import pytest
from test_matrices import mixed_table, xor
from test_matrix_command import run  # noqa: F401 - a fixture

import infomax as im
from infomax.errors import UserError
from infomax.estimation.questions.columns import columns_of, complete
from infomax.estimation.questions.significance import q_values


def gappy(n: int = 300) -> np.ndarray:
    """Columns [n, 7] that depend on each other: two complete, two that miss the same rows, three that miss others."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, 3))
    x = np.stack([
        z[:, 0], z[:, 0] + z[:, 1], np.abs(z[:, 1]), (z[:, 0] > 0) * 1.0, rng.integers(0, 4, n) + (z[:, 1] > 0),
        np.sin(3 * z[:, 2]), z[:, 2] + z[:, 0],
    ], 1)  # fmt: skip
    x[:40, 2] = x[:40, 3] = np.nan
    for c in (4, 5, 6):
        x[rng.random(n) < 0.2, c] = np.nan
    return x


def test_each_pair_is_that_of_its_complete_rows():
    x = gappy()
    found = im.pairwise(x, missing="drop")
    assert found.symmetric and found.rows is not None and np.isnan(np.diagonal(found.mi)).all()
    for i in range(7):
        for j in range(i + 1, 7):
            there = ~np.isnan(x[:, [i, j]]).any(1)
            alone = im.pairwise(x[there][:, [i, j]])
            assert found.rows[i, j] == found.rows[j, i] == there.sum()
            for whole, part in (
                (found.mi, alone.mi), (found.p_value, alone.p_value), *zip(found.interval, alone.interval, strict=True)
            ):  # fmt: skip
                assert whole[i, j] == whole[j, i] == pytest.approx(part[0, 1], abs=2e-6, rel=1e-4)
    upper = np.triu_indices(7, 1)
    np.testing.assert_allclose(found.q_value[upper], q_values(found.p_value[upper]))


def test_two_tables_have_the_rows_that_miss_nothing_on_either_side():
    x = gappy()
    y = x[:, ::-1].copy()
    y[100:140] = np.nan
    found, other = im.pairwise(x[:, :5], y, missing="drop"), im.pairwise(y, x[:, :5], missing="drop")
    there = ~np.isnan(x[:, 2]) & ~np.isnan(y[:, 1])
    assert found.rows[2, 1] == there.sum()
    assert found.mi[2, 1] == pytest.approx(im.pairwise(x[there, 2], y[there, 1]).mi[0, 0], abs=1e-5)
    np.testing.assert_allclose(found.mi, other.mi.T, atol=1e-5)


def test_without_gaps_nothing_changes():
    x = mixed_table()
    found, plain = im.pairwise(x, missing="drop"), im.pairwise(x)
    np.testing.assert_array_equal(found.mi, plain.mi)
    np.testing.assert_array_equal(found.q_value, plain.q_value)
    assert found.rows is plain.rows is None and str(found) == str(plain)


def test_columns_of_one_pattern_are_worked_out_together():
    x = columns_of("X", np.tile(gappy(), (1, 10)), missing="drop")
    x = x.part(np.ones(x.n, bool), np.arange(70))
    parts = list(complete(x, x, *np.triu_indices(70, 1)))
    assert len(parts) == 5 * 6 / 2 and sum(len(part.number) for part in parts) == 70 * 69 / 2
    assert max(len(part.number) for part in parts) == 20 * 20  # complete columns with those that miss the first forty
    assert all(not part.x.has_gaps and not part.y.has_gaps for part in parts)


def test_pairs_without_rows_have_no_value():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 3))
    x[:100, 0] = x[90:, 1] = np.nan
    found = im.pairwise(x, missing="drop")
    assert found.rows[0, 1] == 0 and np.isnan([found.mi[0, 1], found.p_value[0, 1], found.q_value[0, 1]]).all()
    assert np.isfinite([found.mi[0, 2], found.mi[1, 2]]).all() and found.rows[1, 2] == 90
    assert "3 pairs of columns [3 x 3], 0 to 100 of 200 rows" in str(found)
    assert [pair["rows"] for pair in found.strongest()][-1] == 0 and found.discoveries() == 0
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["mi"][0][1] is None
    found.plot()


def test_whatever_marks_a_missing_value():
    x = gappy()[:, [0, 1, 4]]
    mi = im.pairwise(x, missing="drop").mi[0]
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["c"] = frame["c"].astype("Int64")
    masked = np.ma.masked_invalid(x)
    lists = [[None if np.isnan(each) else float(each) for each in row] for row in x]
    for table in (frame, polars.from_pandas(frame), masked, lists):
        np.testing.assert_allclose(im.pairwise(table, missing="drop").mi[0], mi, atol=1e-6)
    frame["c"] = pd.Categorical(frame["c"].astype(str).where(frame["c"].notna()))
    found = im.pairwise(frame, missing="drop")
    assert found.x_names == ("a", "b", "c") and found.rows[0, 2] == (~np.isnan(x[:, 2])).sum()
    np.testing.assert_allclose(found.mi[0], mi, atol=1e-5)
    assert list(found.to_frame().columns)[-1] == "rows"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: (x, "refuse"), r"NaN or infinity in \d+ of 300 rows \(columns 2, 3, 4, 5, 6\)"),
        (lambda x: (np.where(np.isnan(x), np.inf, x), "drop"), r"X has infinity in \d+ of 300 rows"),
        (lambda x: (x, "fill"), "missing is 'fill'"),
        (lambda x: (np.where(np.arange(7) == 3, np.nan, x), "drop"), r"fewer than 20 values in 1 of 7 columns \(3\)"),
        (lambda x: (pd.DataFrame({"a": x[:, 0], "b": ["u", None, "v"] * 100}), "drop"), "column b of X holds texts"),
    ],
)
def test_what_is_no_gap_is_a_sentence(change, sentence):
    table, missing = change(gappy())
    with pytest.raises(UserError, match=sentence):
        im.pairwise(table, missing=missing)


# select ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mim", "mrmr", "jmi", "cmim"])
def test_columns_are_chosen_from_the_rows_that_there_are(method):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((900, 8))
    y = (x[:, 1] + 0.5 * x[:, 4] + 0.3 * rng.standard_normal(900) > 0).astype(float)
    x[:, 2] = x[:, 1] + 0.05 * rng.standard_normal(900)
    gaps = np.where(rng.random(x.shape) < 0.1, np.nan, x)
    gaps[:, 0] = x[:, 0]
    with pytest.raises(UserError, match="NaN or infinity"):
        im.select(gaps, y, 2, method)
    found, whole = im.select(gaps, y, 2, method, missing="drop"), im.select(x, y, 2, method)
    # Of two near copies either may be the first.
    assert {1 if c == 2 else int(c) for c in found.indices} == {1 if c == 2 else int(c) for c in whole.indices}
    np.testing.assert_allclose(found.scores[0], whole.scores[0], rtol=0.15)
    without = np.where(np.arange(900) < 60, np.nan, y)
    rest = im.select(x[60:], y[60:], 2, method)
    same = im.select(x, without, 2, method, missing="drop")
    np.testing.assert_array_equal(same.indices, rest.indices)
    np.testing.assert_allclose(same.scores, rest.scores, rtol=1e-6)
    complete_ = im.select(x, y, 2, method, missing="drop")
    np.testing.assert_array_equal(complete_.scores, whole.scores)


@pytest.mark.parametrize("method", ["mim", "mrmr", "jmi", "cmim"])
def test_a_column_that_never_meets_y_comes_last(method):
    """By a score of 0 it would come before what is told twice, whose score by mrmr is below 0."""
    rng = np.random.default_rng(4)
    y = rng.standard_normal(300)
    x = np.stack([y + 0.3 * rng.standard_normal(300), rng.standard_normal(300), rng.standard_normal(300)], 1)
    x = np.c_[np.where(np.arange(300) < 110, x[:, 0], np.nan), x, x[:, 0] + 0.01 * rng.standard_normal(300)]
    y[:100] = np.nan
    found = im.select(x, y, 5, method, missing="drop")
    assert found.indices[-1] == 0 and np.isnan(found.scores[-1])
    assert np.isfinite(found.scores[:-1]).all() and (method != "mrmr" or found.scores[-2] < 0)
    rest = im.select(x[:, 1:], y, 4, method, missing="drop")
    np.testing.assert_array_equal(found.indices[:-1], rest.indices + 1)
    np.testing.assert_array_equal(found.scores[:-1], rest.scores)


@pytest.mark.parametrize("method", ["mrmr", "jmi", "cmim"])
def test_two_columns_that_never_meet_are_compared_by_the_others(method):
    rng = np.random.default_rng(5)
    y = rng.standard_normal(400)
    x = y[:, None] + np.array([0.5, 0.8, 1.0, 4.0]) * rng.standard_normal((400, 4))
    x[:200, 0], x[200:, 1] = np.nan, np.nan
    found = im.select(x, y, 4, method, missing="drop")
    assert np.isfinite(found.scores).sum() >= 3 and {*found.indices} == {0, 1, 2, 3}
    first = im.select(x, y, 2, method, missing="drop")
    assert first.indices[0] == 0 and first.indices[1] == 2, "what was never seen beside the first is not preferred"
    assert (found.indices[1:3] == [2, 1]).all() and np.isfinite(found.scores[2]), "beside the second it is"


def test_xor_is_seen_through_gaps():
    x, y = xor(600, 0)
    x[np.random.default_rng(3).random(x.shape) < 0.1] = np.nan
    for method in ("jmi", "cmim"):
        assert set(im.select(x, y, 2, method, missing="drop").indices) == {4, 11}


# the command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def patients(tmp_path) -> np.ndarray:
    """t.csv with columns a to d, some of whose cells are empty, and a column of texts."""
    x = gappy(200)[:, [0, 1, 4, 6]]
    kind = np.where(x[:, 0] > 0, "up", "down").astype(object)
    kind[:30] = None
    table = pd.DataFrame(x, columns=list("abcd"))
    table["kind"] = kind
    table.to_csv(tmp_path / "t.csv", index=False)
    return x


def test_the_command_line_drops_by_pair(run, patients, tmp_path):  # noqa: F811
    status, out, err = run("matrix", "t.csv")
    assert (status, out) == (2, "") and "values in column c" in err and "--missing drop" in err
    status, out, err = run("matrix", "t.csv", "--missing", "drop", "--json")
    assert (status, err) == (0, "")
    found = {(pair["x"], pair["y"]): pair for pair in json.loads(out)["strongest"]}
    there = ~np.isnan(patients[:, 3])
    assert found["b", "d"]["rows"] == there.sum() and found["a", "kind"]["rows"] == 170
    assert found["b", "d"]["mi"] == pytest.approx(im.pairwise(patients[there][:, [1, 3]]).mi[0, 1], abs=1e-5)
    rows = list(csv.DictReader((tmp_path / "t-mi.csv").read_text().splitlines()))
    assert len(rows) == 10 and {int(row["rows"]) for row in rows} >= {200, 170, int(there.sum())}
    assert "of 200 rows" in run("matrix", "t.csv", "--y", "kind", "--missing", "drop")[1]
    assert "missing is 'some'" in run("matrix", "t.csv", "--missing", "some")[2]


def test_parquet_by_its_ending(run, patients, tmp_path, monkeypatch):  # noqa: F811
    status, out, err = run("matrix", "t.csv", "--missing", "drop", "--output", "pairs.parquet", "--json")
    assert (status, err) == (0, "") and json.loads(out)["table"] == "pairs.parquet"
    assert (tmp_path / "pairs.png").exists() and not list(tmp_path.glob("*.csv.*"))
    found = polars.read_parquet(tmp_path / "pairs.parquet")
    assert run("matrix", "t.csv", "--missing", "drop", "--output", "pairs.csv")[0] == 0
    assert found.columns == ["x", "y", "mi", "low", "high", "p_value", "q_value", "rows"]
    same = polars.read_csv(tmp_path / "pairs.csv")
    assert found["x"].to_list() == same["x"].to_list() and found["rows"].to_list() == same["rows"].to_list()
    np.testing.assert_array_equal(found["mi"], same["mi"])
    monkeypatch.setitem(sys.modules, "polars", None)
    status, out, err = run("matrix", "t.csv", "--output", "other.parquet")
    assert (status, out) == (2, "") and 'polars is needed and missing: pip install "infomax[tables]"' in err
    assert not (tmp_path / "other.png").exists()


# memory ---------------------------------------------------------------------------------------------------------------


def test_memory_is_linear_in_the_pairs_of_columns():
    """Arrays by tracemalloc, and tensors, which it does not see, by what the process takes."""
    rng = np.random.default_rng(4)
    peaks = []
    for p in (100, 200):
        table = rng.standard_normal((100, p))
        tracemalloc.start()
        im.pairwise(table)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4.5 * peaks[0] and peaks[1] < 500 * 200**2


MEASURED = """
import resource, sys, numpy, infomax as im
unit = 1 if sys.platform == "darwin" else 1024  # bytes
def at(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20  # MiB
tables = [numpy.random.default_rng(0).standard_normal((2000, p)) for p in (20, 200)]
im.pairwise(tables[0])
before = at()
im.pairwise(tables[1])
print(at() - before)
"""


@pytest.mark.slow
def test_no_array_has_all_rows_of_all_pairs():
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, timeout=600, check=True)
    assert float(done.stdout) < 0.5 * 2000 * 199 * 200 / 2 * 4 / 2**20  # half of it in float32


def test_ties_of_columns_with_other_gaps_are_broken_apart():
    """Else two columns of one number in their parts have equal values in one order, and seem to depend."""
    generator = np.random.default_rng(0)
    X = np.where(generator.random((1000, 2)) < 0.6, 0.0, generator.normal(size=(1000, 2)))
    X[3, 0] = np.nan
    found = im.pairwise(X, missing="drop")
    assert abs(found.mi[0, 1]) < 0.02
    assert "0 pairs" in str(im.pairwise(X[:, :1], missing="drop"))
