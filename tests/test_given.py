"""I(X; Y | Z) where it is known in closed form, its trust, and what is refused."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_estimation import gauss

import infomax as im
from infomax.benchmarks import given as benchmark
from infomax.estimation import Budget
from infomax.estimation import pairs as inputs
from infomax.estimation.questions.given import conditional, joined

KNOWN = {known.name: known for known in benchmark.known()}
CLOSED = Budget(steps=0)


def of(name: str, n: int, seed: int = 0):
    """x, y, z of a distribution of the benchmark."""
    return KNOWN[name].sample(n, np.random.default_rng([seed, n]))


def covers(found, true: float) -> bool:
    return found.interval[0] <= true <= found.interval[1]


def test_the_truths_are_what_tables_and_determinants_say():
    x, y, z = of("two columns each", 200_000)
    second = np.cov(np.hstack([z, x, y]).T)

    def entropy(columns):
        return 0.5 * np.linalg.slogdet(second[np.ix_(columns, columns)])[1]

    value = entropy([0, 1, 2, 3]) + entropy([0, 1, 4, 5]) - entropy([0, 1]) - entropy(range(6))
    assert value == pytest.approx(KNOWN["two columns each"].mi, abs=0.01)
    x, y, z = of("labels", 400_000)
    table = np.zeros((3, 2, 2))
    np.add.at(table, (z, x, y), 1 / len(x))
    assert benchmark._of_table(table) == pytest.approx(KNOWN["labels"].mi, abs=2e-3)
    correlation = np.corrcoef(*(side[:, 0] for side in of("common cause, I(X; Y) = 1.3", 200_000)[:2]))[0, 1]
    assert -0.5 * math.log(1 - correlation**2) == pytest.approx(1.3, abs=0.02)


def test_of_normal_columns_it_is_the_partial_correlations():
    x, y, z = of("partial correlation", 2000)
    found = im.estimate(x, y, "GCMI", given=z)
    residuals = [side - z @ np.linalg.lstsq(z, side, rcond=None)[0] for side in (x, y)]
    partial = np.corrcoef(*(side[:, 0] for side in residuals))[0, 1]
    assert found.mi == pytest.approx(-0.5 * math.log(1 - partial**2), abs=0.02)
    assert covers(found, KNOWN["partial correlation"].mi) and found.trusted
    assert found.normalised == pytest.approx(0.6, abs=0.05) and found.p_value == pytest.approx(1 / 900)
    assert found.quantity == "I(X; Y | Z)" and "I(X; Y | Z) " in str(found)
    assert found.mi == pytest.approx(im.estimate(y, x, "GCMI", given=z).mi, abs=0.02)


def test_one_interval_of_the_difference_is_narrower_than_those_of_its_parts():
    x, y, z = of("common cause, I(X; Y) = 1.3", 1000)
    assert im.estimate(x, y, "GCMI").mi > 1.2
    found = im.estimate(x, y, "GCMI", given=z)
    parts = list(found.protocol["parts"].values())
    assert abs(found.mi) < 0.02 and found.floor == 0.0 and found.p_value > 0.05
    assert found.stderr < 0.3 * min(part["stderr"] for part in parts)
    assert found.mi == pytest.approx(parts[0]["mi"] - parts[1]["mi"])


def test_the_verdict_is_that_of_both_parts_and_its_own():
    x, y, z = of("partial correlation", 500)
    found = im.estimate(x, y, "GCMI", given=z)
    names = {check.name for check in found.checks}
    assert {"I(X; YZ): ceiling", "I(X; Z): ceiling", "width", "bracket", "sign", "finite"} <= names
    told = im.estimate(x, y, "GCMI", given=x + 1e-3 * z)  # given tells x but for a trace: both parts are large
    assert not told.trusted and any(name.startswith("I(X; Z): ") for name in (c.name for c in told.checks))
    assert told.statement.startswith("nothing above 0 nats is certified (95 %)")


def test_two_labels_are_one_of_each_pair_of_values_if_they_are_few():
    first, second = np.arange(100) % 2, np.arange(100) % 3
    both = joined(*(inputs.side("z", side) for side in (first, second)))
    assert len(both.unique()) == 6 and both.dtype == torch.int64
    many = joined(inputs.side("z", np.arange(100) % 9), inputs.side("z", (np.arange(100) // 9) % 9))
    assert many.shape == (100, 16)  # 81 values in 100 rows: indicators, of which one of each label follows
    mixed = joined(inputs.side("z", first), inputs.side("z", gauss(100, 2, 1.0)[0]))
    assert mixed.shape == (100, 3) and mixed.is_floating_point()


@pytest.mark.parametrize(("given", "words"), [
    (lambda x, y: x.copy(), "given is x itself.* I\\(X; Y | Z\\) is 0"),
    (lambda x, y: y, "given is y itself"),
    (lambda x, y: 2 * x + 1, "given is x itself, but for scale and order of columns"),
    (lambda x, y: -np.exp(y.astype(np.float32)), "given is y itself, but for scale"),
    (lambda x, y: np.c_[np.ones(100), x**3, y[::-1]], r"given holds all of x, .* I\(X; Y \| Z\) is 0"),
    (lambda x, y: x[:-1], "given has 99 rows and x has 100"),
    (lambda x, y: np.ones(100), "given is the same in every row, so that .* is I\\(X; Y\\): leave it out"),
    (lambda x, y: np.ones(100, int), "given is the same in every row, so that .* leave it out"),
    (lambda x, y: pd.DataFrame({"a": ["b"] * 100}), "given \\('a'\\) is the same in every row, .* leave it out"),
    (lambda x, y: np.where(np.arange(100) == 7, np.nan, 0.5 * x[:, 0]), "given has NaN or infinity in 1 of 100 rows"),
    (lambda x, y: "z.npy", "given is a text"),
    (lambda x, y: np.zeros((0, 1)), "given is empty"),
    (lambda x, y: 3.0, "given is a single number"),
])  # fmt: skip
def test_what_cannot_be_conditioned_on_is_a_sentence(given, words):
    x, y = gauss(100, 1, 0.5)
    with pytest.raises(im.UserError, match=words):
        im.estimate(x, y, "GCMI", given=given(x, y))


def noisy(n: int, columns: int = 1) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, columns))


@pytest.mark.parametrize(("x", "given", "held"), [
    (X := np.random.default_rng(0).normal(size=(300, 3)), 5 - X[:, ::-1], True),
    (X, np.c_[noisy(300), np.tanh(X)], True),
    (X, np.c_[X[:, :2], noisy(300)], False),
    (np.c_[X[:, :1], np.zeros(300)], X[:, :1], True),
    (X[:, 0], X[:, 0] + 1e-3 * noisy(300)[:, 0], False),
    (X[:, 0], X[:, 0].round(1), False),
    (X[:, 0].round(1), X[:, 0], False),
    (X[:, 0], X[:, 0] ** 2, False),
    ((X[:, 0] > 0).astype(int), X[:, 0], False),
    ((X[:, 0] > 0).astype(int), X[:, 0] <= 0, True),
    ((X[:, 0] * 2).round().astype(int), (X[:, 0] * 2).round() / 3, True),
    ((X[:, 0] * 2).round().astype(int), (X[:, 0] * 2).round().astype(int) % 3, False),
    ((X[:, 0] * 2).round().astype(int) % 3, np.array([1, 0, 2])[(X[:, 0] * 2).round().astype(int) % 3], False),
    (np.arange(300) // 290, np.arange(300) // 280, False),
])  # fmt: skip
def test_given_holds_a_side_where_its_columns_are_the_same_but_for_a_monotone_change(x, given, held):
    y = noisy(300, 2)
    for sides in ((x, y), (y, x)):
        if held:
            with pytest.raises(im.UserError, match=r"given (is|holds all of) [xy]"):
                conditional(*sides, given, never)
        else:
            with pytest.raises(RuntimeError, match="is estimated"):
                conditional(*sides, given, never)


def never(*_: Any) -> Any:
    raise RuntimeError("is estimated")


def test_series_that_only_rise_are_not_one_for_their_ranks():
    """Any two of them have the same ranks: only scale makes them one."""
    rng = np.random.default_rng(0)
    time, count = np.cumsum(rng.random((2, 300)), 1)
    x, y = time[1:] + rng.normal(size=299), noisy(299)
    for side, given in ((time, count), (-time, count), (np.arange(300.0), time)):
        with pytest.raises(RuntimeError, match="is estimated"):
            conditional(side[1:], y, given[1:], never)
        with pytest.raises(im.UserError, match="given is x itself, but for scale"):
            conditional(side[1:], y, 3 - 2 * side[1:], never)
    with pytest.raises(RuntimeError, match="is estimated"):
        conditional(x, count[1:], np.c_[count[:-1]], never)


def test_rounding_makes_no_other_variable():
    """Of float32, which merges a few of many values."""
    x = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    assert len(np.unique(2 * x + 1)) < len(np.unique(x))
    with pytest.raises(im.UserError, match="given is x itself, but for scale"):
        conditional(x, noisy(100_000), 2 * x + 1, never)


def test_a_critic_of_images_has_no_place_for_given():
    x, y = (np.random.default_rng(0).normal(size=(100, 8, 8)) for _ in range(2))
    with pytest.raises(im.UserError, match="given cannot stand beside an image's pixels"):
        im.estimate(x, y, critic="ConvConcat", given=x[:, 0])


def test_the_global_random_state_stays():
    torch.manual_seed(3)
    x, y, z = of("partial correlation", 200)
    first = im.estimate(x, y, "GCMI", given=z)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1)) and first.mi == im.estimate(x, y, "GCMI", given=z).mi


@pytest.mark.slow
@pytest.mark.parametrize("name", list(KNOWN))
def test_the_default_covers_what_is_known_or_is_not_trusted(name):
    x, y, z = of(name, 1000)
    found = im.estimate(x, y, given=z)
    true = KNOWN[name].mi
    assert covers(found, true) or not found.trusted
    if name != "XOR of signs of numbers":
        assert abs(found.mi - true) < 0.1
        assert (found.p_value <= 0.05) == (true > 0) or name == "chain X -> Z -> Y, post-nonlinear"
    assert found.pointwise.mean() == pytest.approx(found.mi, abs=1e-9) and len(found.rows) == 1000


@pytest.mark.slow
def test_of_xor_nothing_is_shared_until_it_is_given():
    x, y, z = of("XOR of labels", 1000)
    apart, together = im.estimate(x, y), im.estimate(x, y, given=z)
    assert abs(apart.mi) < 0.01 and together.mi == pytest.approx(math.log(2), abs=0.02)
    assert together.cap == pytest.approx(math.log(2), abs=0.01) and together.trusted


@pytest.mark.slow
def test_rows_in_blocks_are_left_out_together():
    rng = np.random.default_rng(0)
    x, y, z = (np.repeat(side, 4, 0) + 1e-3 * rng.normal(size=(1200, 1)) for side in of("partial correlation", 300))
    found = im.estimate(x, y, given=z, blocks=4, budget=CLOSED)
    whole = im.estimate(*of("partial correlation", 300)[:2], given=of("partial correlation", 300)[2], budget=CLOSED)
    assert covers(found, KNOWN["partial correlation"].mi) and found.p_value < 0.01
    assert found.stderr > 0.5 * whole.stderr  # four copies of a row are no four rows


@pytest.mark.slow
def test_of_conditionally_independent_rows_about_one_in_twenty_is_below_5_percent():
    found = []
    for seed in range(60):
        x, y, z = of("common cause, I(X; Y) = 1.3", 150, seed)
        found.append(im.estimate(x, y, "GCMI", given=z, seed=seed).p_value)
    assert (np.array(found) <= 0.05).sum() <= 8
