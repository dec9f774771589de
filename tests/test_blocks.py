"""blocks="auto": the length of blocks from the autocorrelation of the rows, beside what theory gives."""

import datetime
import json

import numpy as np
import pandas as pd
import pytest
import torch

import infomax as im
from infomax.benchmarks import series
from infomax.estimation import audit
from infomax.estimation.pairs import of_blocks
from infomax.estimation.pairs.blocks import Chosen, chosen, too_short


def two(n: int, memory: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two independent autoregressive series [n]."""
    return series.independent(n, memory, [seed, n])


def theory(n: int, memory: float) -> tuple[float, float]:
    """The autocorrelation time and the best length of two series of one memory: r(k) = memory^2k, in closed form."""
    a = memory**2
    return (1 + a) / (1 - a), (1.5 * n * (2 * a / (1 - a**2)) ** 2) ** (1 / 3)


@pytest.mark.parametrize(("n", "memory"), [(600, 0.9), (2000, 0.9), (2000, -0.9), (1000, 0.7), (20_000, 0.98)])
def test_the_length_is_that_of_theory_within_a_factor_of_two(n, memory):
    time, length = theory(n, memory)
    for seed in range(6):
        x, y = two(n, memory, seed)
        found, names = chosen(x, y)
        assert length / 2 <= found.length <= 2 * length and time / 2 <= found.time <= 2 * time
        np.testing.assert_array_equal(names, of_blocks(found.length, n))


@pytest.mark.parametrize("n", [50, 600, 3000])
def test_independent_rows_are_blocks_of_their_own(n):
    rng = np.random.default_rng(n)
    walk = rng.normal(size=n).cumsum()
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(size=(n, 5))
        for x, y in ((noise[:, :1], noise[:, 1:]), (walk, noise[:, 0]), (noise[:, 0] > 0, noise[:, 1])):
            assert chosen(x, y) == chosen(y, x) == (Chosen(1, 1.0), None)


def test_what_is_given_counts_where_it_hides_a_memory():
    """x and y are slow series under much noise, which z has: beside z both are slow."""
    n = 2000
    for seed in range(4):
        slow = two(n, 0.95, seed)
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(n, 2))
        x, y = (0.2 * s + 3 * c for s, c in zip(slow, z.T, strict=True))
        assert chosen(x, y)[0].length == 1
        alone = chosen(*slow)[0].length
        assert 0.5 * alone < chosen(x, y, given=z)[0].length < 2 * alone
        assert chosen(x, y, given=np.exp(z))[0].length > 10, "whatever its scale"
        labels = rng.integers(0, 4, n)
        assert chosen(0.2 * slow[0] + 5 * labels, 0.2 * slow[1] - 5 * labels, given=labels)[0].length > 10
        assert [c.name for c in too_short(2, x, y, given=z)] == ["block length"] and not too_short(2, x, y)
        there = rng.random(n) > 0.2
        assert chosen(x[there], y[there], there, z[there])[0].length > 10


def test_what_is_given_asks_for_nothing_where_it_alone_is_slow():
    n = 1500
    walk = np.random.default_rng(0).normal(size=n).cumsum()
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(size=(n, 2))
        for x, y in (noise.T, (walk, noise[:, 0])):
            assert chosen(x, y, given=walk) == (Chosen(1, 1.0), None)
            assert chosen(x, y, given=np.c_[x, y]) == (Chosen(1, 1.0), None), "nothing is left of either"
        own_past = two(n, 0.9, seed)[0]
        assert chosen(own_past[1:], noise[1:, 0], given=own_past[:-1])[0].length == 1, "as transfer entropy asks"


def test_estimate_counts_what_is_given():
    n = 1500
    slow, z = two(n, 0.9, 0), np.random.default_rng(0).normal(size=n)
    x, y = (0.2 * s + 3 * z for s in slow)
    [found, plain] = [
        im.estimation.pairs.frames.read({"x": x, "y": y} | more, blocks="auto") for more in ({"given": z}, {})
    ]
    assert found.blocks is not None and found.blocks.length > 10 and len(np.unique(found.ids)) < n / 10
    assert plain.blocks == Chosen(1, 1.0)


def test_a_length_of_one_changes_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y = x + rng.normal(size=300)
    found, plain = im.estimate(x, y, "GCMI", blocks="auto"), im.estimate(x, y, "GCMI")
    assert found.protocol.pop("blocks") == {"length": 1, "autocorrelation_time": 1.0, "rule": "Politis & White, 2004"}
    assert found == plain and "blocks of" not in str(plain)


def test_what_is_slow_in_any_column_or_in_its_size_counts():
    rng = np.random.default_rng(1)
    x, y = two(3000, 0.95, 0)
    beside = np.c_[rng.normal(size=(3000, 80)), 3 * x]
    alone = chosen(x, y)[0].length
    assert alone > 20 and chosen(beside[:, 76:], y)[0].length == alone
    assert chosen(beside, np.exp(y))[0].length > 1  # by random sums of 81 columns
    swings = np.exp(x)[:, None] * rng.normal(size=(3000, 1))  # white, but for how large it is
    assert chosen(swings, y)[0].length > 5
    labels = (y > 0) + (y > 1).astype(int)
    assert chosen(x, labels)[0].length > 15


def test_rows_that_are_missing_leave_gaps():
    x, y = two(2000, 0.9, 3)
    there = np.random.default_rng(0).random(2000) < 0.7
    found, names = chosen(x[there], y[there], there)
    assert found.length == pytest.approx(chosen(x, y)[0].length, rel=0.3)
    np.testing.assert_array_equal(names, of_blocks(found.length, 2000)[there])
    table = pd.DataFrame({"x": x, "y": np.where(there, y, np.nan)})
    kept = im.estimate(table[["x"]], table["y"], "GCMI", blocks="auto", missing="drop")
    assert kept.protocol["blocks"]["length"] == found.length and kept.n == there.sum()
    arrays = im.estimate(x, table["y"].to_numpy(), "GCMI", blocks="auto", missing="drop")
    assert arrays.protocol["blocks"] == kept.protocol["blocks"] and arrays.mi == kept.mi


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.zeros((0, 2)), "empty"),
        (np.ones(60), "same in every row"),
        (np.full(60, np.nan), "NaN"),
        (np.arange(9.0), "60"),
    ],
)
def test_what_is_no_series_is_told_as_without_blocks(x, sentence):
    y = np.random.default_rng(0).normal(size=0 if len(x) == 0 else 60)
    with pytest.raises(im.UserError, match=sentence):
        im.estimate(x, y, blocks="auto")


@pytest.mark.parametrize("n", [600, 2000])
def test_what_has_too_few_blocks_is_refused(n):
    t = np.arange(n)
    cycles = np.sin(t / 9), np.cos(t / 9) + 0.3 * np.random.default_rng(0).normal(size=n)
    for x, y in (*(two(n, 1.0, seed) for seed in range(6)), cycles, (t.astype(float), np.sqrt(t))):
        with pytest.raises(im.UserError, match=rf"a block would have \d+ of {n} rows, and 20 blocks are needed"):
            im.estimate(x, y, blocks="auto")


@pytest.mark.parametrize(("memory", "most"), [(0.98, 1), (1.0, 0)])
def test_blocks_that_are_shorter_than_rows_are_alike_are_not_trusted(memory, most):
    left = 0
    for seed in range(10):
        found = im.estimate(*two(600, memory, seed), "GCMI", blocks=20)
        told = [check for check in found.checks if check.name == "block length"]
        left += not told
        if told:
            assert told[0].verdict == "fail" and not found.trusted
            assert "a block has 20 rows, and rows are alike for about" in told[0].sentence
    assert left <= most


def test_blocks_that_are_longer_than_rows_are_alike_are_left_alone():
    for seed in range(10):
        x, y = two(600, 0.9, seed)
        assert "block length" not in {check.name for check in im.estimate(x, y, "GCMI", blocks=20).checks}
    assert "block length" in {check.name for check in im.estimate(x, y, "GCMI", blocks=1).checks}
    noise = np.random.default_rng(0).normal(size=(2, 600))
    assert "block length" not in {check.name for check in im.estimate(*noise, "GCMI", blocks=1).checks}


def test_the_length_is_kept_and_every_question_takes_it(tmp_path):
    x, y = two(600, 0.9, 1)
    length = chosen(x, y)[0].length
    found, given = im.estimate(x, y, "GCMI", blocks="auto"), im.estimate(x, y, "GCMI", blocks=length)
    assert found.blocks == found.to_dict()["protocol"]["blocks"]["length"] == length and given.blocks is None
    assert f"seed 0, blocks of {length} rows" in str(found) and "blocks of" not in str(given)
    assert (found.mi, found.interval, found.p_value) == (given.mi, given.interval, given.p_value)
    lagged = im.lagged(x, y, [0, 2], blocks="auto", estimator="GCMI")
    assert lagged[0].interval == given.interval and f", blocks of {length} rows" in str(lagged)
    assert im.transfer_entropy(x, y, blocks="auto", estimator="GCMI").protocol["blocks"]["length"] > 5
    audited = audit(x, y, "GCMI", blocks="auto")
    assert audited.interval == given.interval and audited.protocol["blocks"] == found.protocol["blocks"]
    with pytest.raises(im.UserError, match="blocks is 'atuo': give a number of rows, a name for each row, or 'auto'"):
        im.estimate(x, y, "GCMI", blocks="atuo")


def test_the_command_line_takes_it(run, tmp_path):
    for name, side in zip(("x", "y"), two(600, 0.9, 1), strict=True):
        np.save(tmp_path / f"{name}.npy", side)
    for name, side in zip(("a", "b"), two(600, 1.0, 0), strict=True):
        np.save(tmp_path / f"{name}.npy", side)
    words = ("x.npy", "y.npy", "--method", "GCMI", "--blocks", "auto")
    length = json.loads(run("infomax", "estimate", *words, "--json").out)["protocol"]["blocks"]["length"]
    assert length > 10 and f"blocks of {length} rows" in run("infomax", "estimate", *words).out
    assert f"blocks of {length} rows" in run("infomax", "estimate", *words, "--lags", "0").out
    ended = run("infomax", "estimate", "a.npy", "b.npy", "--blocks", "auto")
    assert (ended.status, ended.out) == (2, "") and "20 blocks are needed" in ended.err and ended.err.count("\n") == 1
    ended = run("infomax", "estimate", "x.npy", "y.npy", "--blocks", "some")
    assert (ended.status, ended.out) == (2, "")
    assert "--blocks is 'some': give how many rows make a block, or auto." in ended.err


def test_shares_have_exact_intervals():
    assert series.interval(0, 100) == (0.0, pytest.approx(1 - 0.025 ** (1 / 100)))
    assert series.interval(100, 100)[1] == 1.0 and series.interval(10, 200) == pytest.approx((0.0242, 0.0900), abs=1e-4)


@pytest.mark.slow
def test_the_benchmark_counts(tmp_path, capsys):
    how = {"rows": (120,), "draws": 2, "names": ("AR(1) of .9", "random walk"), "output": tmp_path, "json": True}
    series.command(**how)
    found = json.loads(capsys.readouterr().out)
    lines = {(line["kind"], line["blocks"]): line for line in found["summary"]}
    assert len(lines) == 6 and lines["random walk", "auto"]["refused"] == 2
    assert lines["AR(1) of .9", "none"]["estimated"] == 2 and lines["AR(1) of .9", "none"]["length"] is None
    assert "random walk | 120 | auto | 2 | 2 | - | - | - |" in (tmp_path / "table.md").read_text()
    for wrong, sentence in (({"names": ("AR",)}, "no kind of series 'AR'"), ({"blocks": ("x",)}, "no kind of blocks")):
        with pytest.raises(im.UserError, match=sentence):
            series.command(**how | wrong)


def test_blocks_are_counted_where_rows_are_left():
    x, y = two(2000, 0.9, 0)
    x[150:] = np.nan
    with pytest.raises(im.UserError, match=r"are in \d+ of them, where 20 are needed"):
        im.estimate(x, y, blocks="auto", missing="drop")


def test_half_precision_has_a_length():
    x, y = (torch.tensor(side) for side in two(600, 0.9, 0))
    assert chosen(x.bfloat16(), y.bfloat16())[0].length > 5


@pytest.mark.parametrize(
    "names",
    [
        np.array(["a", "b", "c", "d"], object),
        [datetime.date(2026, 1, 1 + k) for k in range(4)],
        pd.Series(pd.date_range("2026-01-01", periods=4)).tolist(),
    ],
)
def test_texts_and_times_as_objects_name_blocks(names):
    found = of_blocks(names, 4)
    assert found.shape == (4,) and len(np.unique(found)) == 4 and found.dtype.kind == "U"


def test_other_objects_do_not():
    with pytest.raises(im.UserError, match="they are object"):
        of_blocks(np.array([None, "a", "b", "c"], object), 4)
