"""What arrays are read as, and what is said of pairs that are odd: right values of kinds that once went wrong."""

import datetime
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from scipy import special, stats

import infomax as im
from infomax.benchmarks import tasks
from infomax.estimation import Budget, estimate
from infomax.estimation import pairs as inputs
from infomax.estimation.bases import circular, ordered
from infomax.estimation.evidence import checks
from infomax.estimation.pairs import circle as circles
from infomax.estimation.pairs import compositions
from infomax.estimation.result import Check

RNG = np.random.default_rng(0)
Y = RNG.normal(size=(200, 1))
NOISY = Y + np.random.default_rng(1).normal(size=Y.shape)
DAYS = np.datetime64("2020-01-01") + np.arange(200)


def told(name: str, x, y, ids=None) -> Check | None:
    _, found, _ = inputs.prepared([(x, y, ids)])
    return next((c for c in found if c.name == name), None)


# Arrays ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (scipy.sparse.random(200, 3, 0.3, format="csr"), r"x is a sparse matrix \(csr_matrix\): give x.toarray\(\)"),
        (scipy.sparse.coo_array(Y.round()), r"give x.toarray\(\)"),
        (torch.tensor(Y).to_sparse(), r"give x.to_dense\(\)"),
        (torch.tensor(Y).to(torch.float8_e4m3fn), r"give x.float\(\)"),
        (torch.empty(200, 1, device="meta"), "on the meta device"),
        (DAYS, r"x holds dates .* numpy\.timedelta64"),
        (DAYS - DAYS[0], "x holds durations"),
        ([datetime.date(2020, 1, 1)] * 200, "x holds a date .*numbers are needed"),
        (iter(range(200)), r"x is an iterator .* give list\(x\)"),
        ((float(v) for v in range(200)), r"x is an iterator \(generator\)"),
        (map(float, range(200)), r"x is an iterator \(map\)"),
        ("x.npy", "x is a text"),
        (["a", "b"] * 100, r"x holds texts .*numpy.unique\(x, return_inverse=True\)"),
        (np.array(["a", 1.0] * 100, dtype=object), "x holds a str"),
        (np.array([1.0, None] * 100, dtype=object), "x has 100 missing values"),
        ({"a": Y}, "x is a dict"),
        (set(range(200)), "x is a set"),
        (None, "x is None"),
        (object(), "x is of type object"),
        (3.0, "x is a single number"),
        (np.zeros(200, dtype=[("a", float)]), "numbers are needed"),
        (np.full(200, 2**64 - 1, dtype=np.uint64), "beyond 2\\^63"),
        ([[1.0], [2.0, 3.0]] * 100, "no array of rows"),
        (np.arange(200) * 1j, "x is complex"),
    ],
)
@pytest.mark.parametrize("side", ["x", "y"])
def test_what_is_no_array_of_numbers_is_refused_with_what_to_do(x, sentence, side):
    if hasattr(x, "__next__") and side == "y":
        x = iter(list(range(200)))
        sentence = "y is an iterator"
    sentence = sentence if side == "x" else sentence.replace("x is", "y is").replace("x holds", "y holds").replace(
        "x has", "y has").replace("x.to", "y.to").replace("x.fl", "y.fl").replace("(x", "(y")  # fmt: skip
    with pytest.raises(im.UserError, match=sentence):
        estimate(*((x, Y) if side == "x" else (Y, x)), "GCMI")


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64", "int8", "bool"])
def test_whole_numbers_of_every_width_are_read_alike(kind):
    label = (Y > 0).astype(np.int64)[:, 0]
    known = inputs.prepared([(Y, label, None)])[0][0]
    for given in (label.astype(kind), torch.from_numpy(label.astype(kind)), label.astype(kind).tolist()):
        found = inputs.prepared([(Y, given, None)])[0][0]
        assert torch.equal(found.y, known.y)


def test_objects_that_are_numbers_are_numbers():
    assert torch.equal(inputs.prepared([(Y.astype(object), Y, None)])[0][0].x, torch.tensor(Y))


# Order ----------------------------------------------------------------------------------------------------------------


def mostly_zero(n: int, share: float, rng) -> np.ndarray:
    return np.where(rng.random((n, 1)) < share, 0.0, rng.normal(size=(n, 1)))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("seed", range(5))
def test_equal_values_are_no_order(share, seed):
    rng = np.random.default_rng(seed)
    x, y = mostly_zero(400, share, rng), mostly_zero(400, share, rng)
    assert told("row order", x, y) is None
    assert told("row order", x, rng.integers(0, 2, 400)) is None
    assert told("row order", rng.integers(0, 3, 400), rng.integers(0, 2, 400)) is None
    assert told("row order", np.repeat(x, 3, 1), (y != 0).astype(float)) is None


def test_runs_of_equal_values_are_an_order():
    runs = np.repeat(RNG.integers(0, 5, (2, 40)), 20, axis=1).astype(float)
    assert told("row order", runs[0][:, None], runs[1][:, None]) is not None


# Copies ---------------------------------------------------------------------------------------------------------------


def silent_together(n: int, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Half of the time both sides are 0, else a Gaussian copula; and the MI in nats: one bit, and half the copula's."""
    rng = np.random.default_rng(seed)
    off = rng.random(n) < 0.5
    z = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    x, y = (np.where(off, 0.0, np.exp(column))[:, None] for column in z.T)
    return x, y, math.log(2) - 0.25 * math.log(1 - rho**2)


def test_zeros_are_no_copies():
    assert told("duplicated pairs", *silent_together(600, 0.8, 3)[:2]) is None


@pytest.mark.slow
def test_a_value_of_silence_and_density_is_right_and_trusted():
    x, y, mi = silent_together(600, 0.8, 3)
    found = estimate(x, y)
    assert found.trusted and found.interval[0] <= mi <= found.interval[1]


def zero_inflated(n: int, rng) -> tuple[np.ndarray, np.ndarray]:
    rate = np.exp(rng.normal(size=(n, 1)))
    return tuple((rng.poisson(3 * rate) * (rng.random((n, 1)) < 0.4)).astype(float) for _ in range(2))


def test_mixtures_of_values_that_recur_are_no_copies():
    rng = np.random.default_rng(1)
    assert told("duplicated pairs", *zero_inflated(500, rng)) is None
    several = [np.maximum(rng.normal(size=(500, 1)) + rng.normal(size=(500, 3)), 0) for _ in range(2)]  # rectified
    assert told("duplicated pairs", *several) is None
    near = rng.integers(0, 300, (1000, 1)).astype(float)
    assert told("duplicated pairs", near, near + rng.integers(-2, 3, (1000, 1))) is None, "rounded"
    clipped = np.clip(rng.normal(size=(500, 2)), -0.5, 0.5)
    assert told("duplicated pairs", clipped[:, :1], clipped[:, 1:]) is None


@pytest.mark.parametrize("times", [2, 5])
def test_copies_among_values_that_recur_are_still_told(times):
    x, y, _ = silent_together(200, 0.8, 0)
    found = told("duplicated pairs", np.tile(x, (times, 1)), np.tile(y, (times, 1)))
    assert found is not None and found.verdict == "fail"
    classes = np.sign(RNG.normal(size=(200, 1)))
    found = told("duplicated pairs", np.tile(classes, (times, 1)), np.tile(Y, (times, 1)))
    assert found is not None and found.verdict == "fail"


# Relations without noise ----------------------------------------------------------------------------------------------


def sides(n: int, dx: int, dy: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dx)), rng.normal(size=(n, dy))


A, B = sides(600, 4, 3)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (A, np.c_[B, A[:, :1]], r"y\[:, 3\] is a function of x\[:, 0\]"),
        (np.c_[B, 5 - 2 * A[:, 1:2]], A, r"is a function of"),
        (A, np.c_[B, A[:, 2:3].astype(np.float32)], r"y\[:, 3\] is a function of x\[:, 2\]"),
        (A, np.c_[B, np.exp(-A[:, :1])], r"y\[:, 3\] is a function of x\[:, 0\]"),
        (A, np.maximum(A[:, :1], 0), r"y\[:, 0\] is a function of x\[:, 0\]"),
        (A, A[:, :1].round(2), r"y\[:, 0\] is a function of x\[:, 0\]"),
        (A, A.sum(1, keepdims=True), r"y\[:, 0\] is a sum of multiples of x's columns"),
        (A.sum(1), A, r"x\[:, 0\] is a sum of multiples of y's columns"),
        (np.c_[A[:, :1] + B[:, :1], A[:, 1:]], np.c_[B[:, 1:], A[:, 1:2] + B[:, 2:]], "sum of multiples of y's"),
        (A[:, :1], A[:, :1] ** 2, r"y\[:, 0\] is a function of x"),
        (A[:, :1], np.sin(3 * A[:, :1]), r"y\[:, 0\] is a function of x"),
        (A[:, :2], np.exp(A[:, :2].sum(1, keepdims=True)), "is a function of x"),
    ],
)
def test_a_relation_without_noise_is_told(x, y, sentence):
    found = told("function", x, y)
    assert found is not None and found.verdict == "fail" and math.isinf(found.statistic)
    assert re.search(sentence, found.sentence)


@pytest.mark.parametrize("rho", [0.0, 0.99, 0.999])
@pytest.mark.parametrize("n", [100, 300, 2000])
def test_noise_however_small_is_no_relation_without(rho, n):
    s = math.sqrt(1 - rho**2)
    for seed in range(3):
        x, e = sides(n, 3, 3, seed)
        far = x / np.abs(e[:, :1])
        for one, other in (
            (x[:, :1], rho * x[:, :1] + s * e[:, :1]),
            (x, rho * x + s * e),
            (x, rho * x.sum(1, keepdims=True) / math.sqrt(3) + s * e[:, :1]),
            (x[:, :1], rho * np.sin(3 * x[:, :1]) + s * e[:, :1]),
            (x[:, :2], rho * np.sin(2 * x[:, :1]) * x[:, 1:2] + s * e[:, :1]),
            (x[:, :1], (rho * x[:, :1] + s * e[:, :1]).round(1)),
            (far, rho * far + s * e),
        ):
            assert told("function", one, other) is None


def test_labels_and_few_values_that_are_told_have_a_finite_mi():
    assert told("function", A[:, :1], (A[:, 0] > 0).astype(int)) is None
    assert told("function", A[:, :1], A[:, :1].round()) is None
    grid = RNG.integers(0, 4, (400, 2)).astype(float)
    assert told("function", grid, grid.sum(1, keepdims=True)) is None
    rounded = told("function", A[:, :1], A[:, :1].round(1))
    assert rounded is not None and rounded.verdict == "pass"
    _, counts = np.unique(A[:, 0].round(1), return_counts=True)
    assert rounded.statistic == pytest.approx(-np.sum(counts / 600 * np.log(counts / 600)))


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 400])
def test_a_column_on_both_sides_is_never_trusted(n):
    x, other = sides(n, 4, 3, n)
    for y in (np.c_[x[:, :1], other], np.c_[other, np.tanh(x[:, 3:])]):
        found = estimate(x, y)
        assert not found.trusted and any("infinite" in reason for reason in found.reasons)


@pytest.mark.slow
def test_a_part_at_its_own_ceiling_is_never_trusted():
    """Noise of a thousandth: 6.9 nats in one of four columns, of which a canonical pair gives 4.3 at most."""
    x, e = sides(2000, 4, 4)
    e[:, 0] = x[:, 0] + 1e-3 * e[:, 0]
    found = estimate(x, e)
    assert next(c for c in found.checks if c.name == "own ceiling").verdict == "fail" and not found.trusted
    assert not any(c.name == "own ceiling" for c in estimate(x, x + e[:, ::-1], "GCMI").checks)


def test_neighbours_end_below_log_n():
    """k neighbours tell no more than log N less digamma(k)."""
    x, e = sides(500, 1, 1)
    found = estimate(x, x + 1e-2 * e, "KSG(k=20)")
    check = next(c for c in found.checks if c.name == "own ceiling")
    assert check.verdict == "fail" and found.mi < math.log(500) - 2
    assert next(c for c in estimate(x, x + e, "KSG").checks if c.name == "own ceiling").verdict == "pass"


@pytest.mark.parametrize(("high", "verdict"), [(2.9, "fail"), (3.0, "pass"), (4.0, "pass")])
def test_less_than_what_a_told_column_has_is_too_low(high, verdict):
    assert checks.told_entirely(high, 3.02).verdict == verdict


# Few different rows ---------------------------------------------------------------------------------------------------


def collapsed(n: int, states: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Most rows alike, and each state's row the other side's in nine of ten; and the MI in nats."""
    rng = np.random.default_rng(seed)
    share = np.r_[0.8, np.full(states - 1, 0.2 / (states - 1))]
    a = rng.choice(states, n, p=share)
    b = np.where(rng.random(n) < 0.9, a, rng.choice(states, n, p=share))
    joint = 0.1 * np.outer(share, share) + 0.9 * np.diag(share)
    x, y = rng.normal(size=(2, states, columns))
    return x[a], y[b], float((joint * np.log(joint / np.outer(share, share))).sum())


def test_few_different_rows_are_labels():
    x, y, _ = collapsed(400, 7, 20, 0)
    [pairs], found, cap = inputs.prepared([(x, y, None)])
    _, counts = np.unique(x, axis=0, return_counts=True)
    assert pairs.x.shape == (400, 7) and inputs.is_label(pairs.x) and inputs.is_label(pairs.y)
    assert cap is not None and cap <= -np.sum(counts / 400 * np.log(counts / 400)) + 1e-9
    assert {c.name for c in found} == {"states of x", "states of y"}
    [many], _, cap = inputs.prepared([(x + 1e-6 * RNG.normal(size=x.shape), y, None)])
    assert many.x.shape == (400, 20) and cap is not None, "y's"


@pytest.mark.slow
@pytest.mark.parametrize(("states", "columns"), [(7, 20), (20, 10), (7, 3)])
def test_nothing_beyond_the_entropy_of_the_states_is_said(states, columns):
    x, y, mi = collapsed(400, states, columns, 1)
    found = estimate(x, y)
    assert found.cap is not None and -0.1 <= found.mi <= found.cap + 0.1
    assert found.interval[0] <= mi <= found.interval[1]


@pytest.mark.slow
def test_channels_that_are_mostly_silent_say_nothing_impossible():
    rng = np.random.default_rng(0)
    x = (rng.random((400, 30)) < 0.01).astype(float)
    found = estimate(x, x * (rng.random(x.shape) < 0.8))
    assert found.cap is not None and -0.1 <= found.mi <= found.cap + 0.1


# Counts ---------------------------------------------------------------------------------------------------------------


def test_labels_in_order_are_the_likeliest_by_thresholds():
    """Thresholds of what x predicts, as they were drawn."""
    generator = torch.Generator().manual_seed(0)
    z, e = torch.randn(2, 4000, 1, generator=generator)
    thresholds = torch.tensor([-0.5, 0.3, 0.7, 2.0])
    y = torch.bucketize((1.5 * z + e).flatten(), thresholds)
    prior = (torch.bincount(y) / 4000).log()
    found = ordered.ordered(z, y, prior)
    assert found is not None
    assert found.weights.flatten().tolist() == pytest.approx([1.5, 0.0], abs=0.1)
    assert found.thresholds.tolist() == pytest.approx(thresholds.tolist(), abs=0.12)
    shares = (found(z) + prior).exp()
    assert torch.allclose(shares.sum(1), torch.ones(4000), atol=1e-4)
    assert ordered.ordered(z, y.clamp(max=1), prior[:2]) is None, "two labels have no order"


def poisson(rates: np.ndarray, weights: np.ndarray) -> float:
    """I(rate; count) in nats, of rates on a grid with these weights and Poisson counts of them."""
    counts = np.arange(int(rates.max() + 12 * math.sqrt(rates.max()) + 20))
    p = stats.poisson.pmf(counts[:, None], rates)
    ratio = np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(p @ weights, 1e-300))[:, None]
    return float(((p * ratio).sum(0) * weights).sum())


def rates(kind: str, n: int, seed: int) -> tuple[np.ndarray, float]:
    """Rates [n], and I(rate; count) by quadrature: .118 of the gamma's, .61 of the log-normal's."""
    rng = np.random.default_rng(seed)
    if kind == "gamma":
        law = stats.gamma(2, scale=0.29)
        return law.rvs(n, random_state=rng), poisson(law.ppf((np.arange(2000) + 0.5) / 2000), np.full(2000, 1 / 2000))
    z = np.linspace(-6, 4.2, 1501)
    weights = np.exp(-0.5 * z**2)
    return 2 * np.exp(rng.normal(size=n)), poisson(2 * np.exp(z), weights / weights.sum())


def perfect(kind: str, rate: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The mean of the true log ratio over these pairs, nats, what a perfect critic reads of them; and its error."""
    if kind == "gamma":  # counts of gamma rates are negative binomial
        marginal = stats.nbinom.logpmf(counts, 2, 1 / 1.29)
    else:
        z = np.linspace(-6, 4.2, 1501)
        weights = np.exp(-0.5 * z**2)
        marginal = np.log(stats.poisson.pmf(counts[:, None], 2 * np.exp(z)) @ (weights / weights.sum()))
    each = stats.poisson.logpmf(counts, rate) - marginal
    return float(each.mean()), float(each.std() / math.sqrt(len(each)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n", "seed"),
    [
        ("log-normal", 500, 1),
        ("log-normal", 500, 2),
        ("log-normal", 500, 3),
        ("log-normal", 1000, 1),
        ("gamma", 2000, 1),
    ],
)
def test_counts_have_one_mi_whatever_type_holds_them(kind, n, seed):
    """The interval holds the truth, and what a perfect critic reads of the same pairs. The first draw is itself unlike
    the law, read as .52 +- .04 of .61 by a perfect critic: there the truth is outside what the pairs show."""
    rate, mi = rates(kind, n, seed)
    counts = np.random.default_rng([seed, 1]).poisson(rate)
    seen, error = perfect(kind, rate, counts)
    unlike = abs(seen - mi) > 1.96 * error
    assert unlike == ((kind, n, seed) == ("log-normal", 500, 1))
    for y in (counts, counts.astype(float)):
        found = estimate(np.log(rate)[:, None] if kind == "log-normal" else rate[:, None], y)
        low, high = found.interval
        assert not found.trusted or low <= seen <= high
        assert not found.trusted or unlike or low <= mi <= high
        assert any("in order" in c.sentence for c in found.checks)


def test_the_mi_of_a_rate_and_its_count_is_that_of_other_quadratures():
    assert rates("gamma", 2, 0)[1] == pytest.approx(0.118, abs=2e-3)
    assert rates("log-normal", 2, 0)[1] == pytest.approx(0.611, abs=2e-3)
    exponential = stats.expon.ppf((np.arange(4000) + 0.5) / 4000)
    assert poisson(exponential, np.full(4000, 1 / 4000)) == pytest.approx(0.3012, abs=1e-3)  # Gao et al., 2017


def shared_counts(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Two columns of counts a side, each a sum of a Poisson number that both sides count and one of its own."""
    rng = np.random.default_rng(seed)
    shared, x, y = rng.poisson(4, (n, 2)), rng.poisson(1, (n, 2)), rng.poisson(1, (n, 2))
    k = np.arange(40)
    given = stats.poisson.pmf(k[:, None] - k, 1)  # of a count, what is shared being known
    joint = given @ np.diag(stats.poisson.pmf(k, 4)) @ given.T
    known = joint > 0
    ratio = joint[known] / np.outer(joint.sum(1), joint.sum(0))[known]
    return shared + x, shared + y, 2 * float((joint[known] * np.log(ratio)).sum())


@pytest.mark.slow
def test_counts_in_two_columns_are_quantities():
    x, y, mi = shared_counts(1000, 0)
    found = estimate(x, y)
    assert found.trusted and found.interval[0] <= mi <= found.interval[1]
    assert {"whole numbers of x", "whole numbers of y"} <= {c.name for c in found.checks}


def test_categoricals_are_classes():
    class Categorical:
        """What pandas makes of texts."""

        dtype = "category"
        categories = ("a", "b", "c")

        def __init__(self, codes):
            self.codes = codes

        def __len__(self) -> int:
            return len(self.codes)

    codes = RNG.integers(0, 3, 200).astype(np.int8)
    assert torch.equal(inputs.prepared([(Y, Categorical(codes), None)])[0][0].y.argmax(1), torch.tensor(codes).long())
    with pytest.raises(im.UserError, match="y has 1 missing values"):
        inputs.prepared([(Y, Categorical(np.where(np.arange(200) == 3, -1, codes)), None)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fast_oscillation_is_seen_or_not_trusted(seed):
    """Six waves within a deviation of x, of which KSG sees a half."""
    task = tasks.curve("sin(20 x)", lambda x: np.sin(20 * x), 0.3)
    found = estimate(*task.sample(3000, seed))
    assert not found.trusted or found.interval[0] <= task.mi <= found.interval[1]


# Angles and parts of a whole ------------------------------------------------------------------------------------------


def circle(angle: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def angles(kind: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Two angles as (cos, sin), and their MI: von Mises noise about a uniform angle, about a von Mises angle that runs
    the other way, and none."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(-math.pi, math.pi, 2048, endpoint=False)
    step = grid[1] - grid[0]

    def entropy(density: np.ndarray) -> float:
        return -float(special.xlogy(density, density).sum()) * step

    if kind == "independent":
        return circle(rng.vonmises(0, 1, n)), circle(rng.vonmises(1, 2, n)), 0.0
    noise = stats.vonmises.pdf(grid, 12)
    if kind == "uniform":
        x = rng.uniform(-math.pi, math.pi, n)
        return circle(x), circle(x + rng.vonmises(0, 12, n)), math.log(2 * math.pi) - entropy(noise)
    x = rng.vonmises(0.5, 2, n)
    of_y = np.fft.ifft(np.fft.fft(stats.vonmises.pdf(grid, 2)) * np.fft.fft(np.fft.ifftshift(noise))).real * step
    return circle(x), circle(1 - x + rng.vonmises(0, 12, n)), entropy(of_y) - entropy(noise)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uniform", "backwards", "independent"])
def test_angles_are_known_around_the_circle(kind):
    x, y, mi = angles(kind, 1000, 0)
    found = estimate(x, 5 * y)  # of any radius
    assert found.interval[0] <= mi <= found.interval[1]
    assert found.mi == pytest.approx(mi, abs=0.1)
    assert found.protocol["training"][0]["copula"]["kind"] == "CircularCopula"


def test_a_circle_is_no_ring():
    x = circle(RNG.uniform(0, 7, 300))
    for side, held in ((x, True), (3 * x, True), (x * (1 + 1e-3 * RNG.random((300, 1))), False), (x + 0.1, False),
                       (np.c_[x, x], False), (x[:, :1], False)):  # fmt: skip
        assert circles.is_circle(torch.from_numpy(side)) == held
        assert circles.is_circle(torch.from_numpy(side).float()) == held


def test_angles_that_tell_nothing_have_a_copula_of_zero():
    x, y, _ = angles("independent", 600, 0)
    x, y = (circular.Turned(torch.from_numpy(side))(torch.from_numpy(side)) for side in (x, y))
    copula = circular.CircularCopula(x[:400], y[:400], x[400:], y[400:])
    assert copula.strength == 0 and not copula.at_ceiling
    ex, ey = copula.embed(x, y)
    assert ex.shape[1] == copula.features and not bool((ex @ ey.T).any())


def test_a_copula_of_angles_is_a_density_ratio():
    x, y, mi = angles("uniform", 3000, 0)
    for maps in ((circular.Unturned(), circular.Unturned()), [circular.Turned(torch.from_numpy(s)) for s in (x, y)]):
        u, v = maps[0](torch.from_numpy(x)), maps[1](torch.from_numpy(y))
        copula = circular.CircularCopula(u[:1500], v[:1500], u[1500:2000], v[1500:2000])
        ex, ey = copula.embed(u[2000:], v[2000:])
        assert float((ex * ey).sum(1).mean()) == pytest.approx(mi, abs=0.1)
        assert float((ex @ ey.T).exp().mean()) == pytest.approx(1, abs=0.15)


def parts(
    n: int, widths: tuple[int, int], correlations: list[float], seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Logistic normal parts of a whole (one part: a normal number), and their MI, that of correlated normals."""
    rng, mixing = np.random.default_rng(seed), np.random.default_rng(7)
    u, v = (rng.normal(size=(n, max(1, width - 1))) for width in widths)
    rho, k = np.array(correlations), len(correlations)
    v[:, :k] = rho * u[:, :k] + np.sqrt(1 - rho**2) * v[:, :k]
    x, y = (
        side if width == 1 else special.softmax(np.c_[side @ mixing.normal(size=(width - 1,) * 2), np.zeros(n)], 1)
        for side, width in zip((u, v), widths, strict=True)
    )
    return x, y, -0.5 * float(np.log1p(-(rho**2)).sum())


@pytest.mark.slow
@pytest.mark.parametrize(("widths", "correlations"), [((4, 4), [0.9, 0.7, 0.5]), ((10, 3), [0.9, 0.6]),
                                                      ((3, 1), [0.8])])  # fmt: skip
def test_parts_of_a_whole_are_known_by_their_ratios(widths, correlations):
    x, y, mi = parts(1000, widths, correlations, 0)
    found = estimate(100 * x, y)
    assert found.trusted and found.interval[0] <= mi <= found.interval[1]
    assert "each sums to 100" in next(c.sentence for c in found.checks if c.name == "composition of x")


def test_log_ratios_can_be_undone_and_are_of_parts_alone():
    x, _, _ = parts(300, (5, 5), [0.5], 0)
    with_zeros = np.where(x < 0.02, 0, x)
    with_zeros /= with_zeros.sum(1, keepdims=True)
    for side, rows in ((x, 0), (100 * x, 0), (with_zeros, int((with_zeros == 0).any(1).sum())), (x.astype("f4"), 0)):
        t = torch.from_numpy(side)
        ratios, [check] = compositions.coordinates("x", t)
        assert ratios.shape == (300, 4) and ratios.dtype == t.dtype and bool(ratios.isfinite().all())
        assert check.statistic == rows and check.verdict == ("warn" if rows else "pass")
        assert len(ratios.unique(dim=0)) == len(t.unique(dim=0))
        _, singular, _ = torch.linalg.svd(ratios - ratios.mean(0))
        assert float(singular[-1]) > 1e-3 * float(singular[0])
    logs = np.log(x) - np.log(x).mean(1, keepdims=True)
    ratios = compositions.coordinates("x", torch.from_numpy(x))[0]
    assert float((ratios - ratios.mean(0)).norm()) == pytest.approx(float(np.linalg.norm(logs - logs.mean(0))))
    labels = np.eye(3)[RNG.integers(0, 3, 300)]
    for other in (x[:, :4], x - 0.1, x * (1 + 1e-3 * RNG.random((300, 1))), 1000 + 1e-4 * RNG.normal(size=(300, 3)),
                  x[:, :1], RNG.normal(size=(300, 3))):  # fmt: skip
        same, told = compositions.coordinates("x", torch.from_numpy(other))
        assert np.array_equal(same.numpy(), other) and not told
    same, [check] = compositions.coordinates("x", torch.from_numpy(np.c_[labels, labels[::-1]]))
    assert same.shape == (300, 6) and check.verdict == "warn" and "most parts are 0" in check.sentence


def test_parts_of_a_whole_keep_their_names_and_a_module_its_columns():
    x, y, _ = parts(300, (3, 1), [0.5], 0)
    copied = np.c_[y, x[:, 1]]
    assert "y[:, 1] is a function of x[:, 1]" in told("function", x, copied).sentence
    [pairs], _, _ = inputs.prepared([(x, y, None)])
    [plain], found, _ = inputs.prepared([(x, y, None)], log_ratios=False)
    assert pairs.x.shape == (300, 2) and np.array_equal(plain.x, x) and not found
    given = inputs.side("given", x)
    assert given.values.shape == (300, 2) and given.raw.shape == (300, 3)
    found = estimate(x, y, "SMILE", im.Concat(3, 1), budget=im.estimation.Budget(steps=2))
    assert math.isfinite(found.mi)


# Series ---------------------------------------------------------------------------------------------------------------


def series(n: int, memory: float, seed: int) -> np.ndarray:
    """Two independent autoregressive series [n, 2]."""
    z = np.random.default_rng(seed).normal(size=(n, 2))
    for t in range(1, n):
        z[t] += memory * z[t - 1]
    return z


def test_series_on_both_sides_fail_and_sorted_rows_are_harmless():
    z = series(1000, 0.95, 0)
    found = told("row order", z[:, :1], z[:, 1:])
    assert found is not None and found.verdict == "fail" and "give blocks" in found.sentence
    clock = told("row order", np.c_[np.arange(1000.0), z[:, 0]], z[:, 1:])
    assert clock is not None and clock.verdict == "fail", "the time is no order of its own"
    x, y = A[:, :1], A[:, :1] + B[:, :1]
    order = x[:, 0].argsort()
    for by in (order, order[::-1], y[:, 0].argsort()):
        found = told("row order", x[by], y[by])
        assert found is not None and found.verdict == "warn" and "sorted" in found.sentence
    label = np.sort(RNG.integers(0, 4, 600))
    found = told("row order", A[:, :1] + 2 * label[:, None], label)
    assert found is not None and found.verdict == "warn"


def test_an_order_that_the_next_row_does_not_show_fails_too():
    z = series(1000, 0.95, 0)
    volume = 1e6 * np.exp(RNG.normal(size=(1000, 1)))
    found = told("row order", np.c_[volume, z[:, 0]], z[:, 1:])
    assert found is not None and found.verdict == "fail", "a column in millions hides none"
    swings = series(1000, -0.95, 0)
    found = told("row order", swings[:, :1], swings[:, 1:])
    assert found is not None and found.verdict == "fail" and "goes with the next" in found.sentence
    of_subject = RNG.normal(size=(20, 2))[np.arange(1000) % 20] + 0.5 * RNG.normal(size=(1000, 2))  # twenty, in turns
    found = told("row order", of_subject[:, :1], of_subject[:, 1:])
    assert found is not None and found.verdict == "fail" and "one 20 rows later" in found.sentence
    assert found.sentence.endswith("best by a name for each row, such as its subject or its day.")


def test_rows_in_no_order_are_told_of_none():
    """y is nearly x, so that both sides' correlations at each of many lags are one draw."""
    told_of = 0
    for seed in range(100):
        x = np.random.default_rng(seed).normal(size=(1600, 1))
        told_of += told("row order", x, x + 0.1 * np.random.default_rng(seed + 1000).normal(size=x.shape)) is not None
    assert told_of <= 1


def test_an_order_that_was_chosen_is_no_failure():
    from scipy.stats import qmc
    from sklearn.datasets import load_digits

    for points in (qmc.Sobol(3, rng=0).random(1024), qmc.Halton(1, rng=0).random(1024)):
        found = told("row order", points, points[:, :1] + 0.3 * RNG.normal(size=(1024, 1)))
        assert found is not None and found.verdict == "warn" and "more evenly than chance" in found.sentence
    noise = RNG.normal(size=800)
    for shown in (np.arange(800) % 2, np.arange(800) % 8):
        found = told("row order", shown, (3.0 * shown + noise)[:, None])
        assert found is not None and found.verdict == "warn" and "order of x's labels" in found.sentence
        found = told("row order", shown[:, None] + 0.0, (3.0 * shown + noise)[:, None])
        assert found is not None and found.verdict == "warn" and "come in one cycle" in found.sentence
    digits = load_digits()  # 0 to 9 again and again, over long stretches
    assert told("row order", digits.data, digits.target) is None
    pixels = digits.data.reshape(-1, 2, 32)
    assert told("row order", pixels[:, 0], pixels[:, 1]) is None
    of_subject = RNG.normal(size=(20, 1))[np.arange(1000) % 20]  # in turns, as are their groups
    group = (np.arange(20) < 10).astype(int)[np.arange(1000) % 20]
    found = told("row order", of_subject + 0.5 * RNG.normal(size=(1000, 1)), group)
    assert found is not None and found.verdict == "fail"
    for size in (2, 4):  # each once a block, in random order
        shown = np.concatenate([RNG.permutation(size) for _ in range(800 // size)])
        assert told("row order", shown, (3.0 * shown + noise)[:, None]) is None


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_repeated_measurements_are_near_copies(copies):
    """In any order; an estimate of independent samples certified 3 nats of them."""
    of_sample = RNG.normal(size=(200, 8)).repeat(copies, 0)
    x, y = np.split(RNG.permutation(of_sample + 0.01 * RNG.normal(size=of_sample.shape)), 2, axis=1)
    found = told("near copies", x, y)
    assert found is not None and found.verdict == "fail" and found.statistic > 0.5
    assert told("near copies", x, RNG.permutation(y)) is None, "one side's copies have other partners"
    assert told("near copies", x, y, np.arange(len(x))) is None, "ids say who is who"
    wide = np.concatenate([x] * 20, 1)
    assert told("near copies", wide, y) is not None


def test_what_is_near_by_nature_is_no_copy():
    x = A[:, :1]
    assert told("near copies", x, x**3) is None
    assert told("near copies", mostly_zero(400, 0.4, RNG), mostly_zero(400, 0.4, RNG)) is None
    assert told("near copies", np.cumsum(A, 0), np.cumsum(B, 0)) is None


def test_rows_of_few_values_may_be_names():
    genes = RNG.integers(0, 3, (600, 3)).astype(float)
    found = told("different rows of x", genes, A[:600, :1])
    assert found is not None and found.verdict == "pass" and "labels='x'" in found.sentence
    assert told("different rows of x", genes + A[:600, :1], A[:600, :1]) is None


def test_blocks_stay_together():
    names = np.repeat(np.arange(20), 50)
    assert np.array_equal(inputs.of_blocks(50, 1000), names)
    z = series(1000, 0.95, 0)
    [pairs], found, _ = inputs.prepared([(z[:, :1], z[:, 1:], inputs.of_blocks(50, 1000))])
    assert not any(c.name == "row order" for c in found)
    for part in inputs.folds(pairs, 5, 0):
        owners = [set(p.ids.tolist()) for p in part]
        assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
        assert all(len(p) == 50 * len(of) for p, of in zip(part, owners, strict=True))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"blocks": 0}, "a block has 1 row at least"),
        ({"blocks": 201}, "blocks is 201: 200 rows are in 1 block, and 24 are needed at least"),
        ({"blocks": 50}, "blocks is 50: 200 rows are in 4 blocks, and 24 are needed at least"),
        ({"blocks": 9}, "blocks is 9: 200 rows are in 23 blocks, and 24 are needed at least"),
        ({"blocks": np.arange(200) // 50}, "^200 rows are in 4 blocks, and 24 are needed at least"),
        (
            {"blocks": np.r_[np.zeros(170, int), np.arange(1, 31)]},
            "leave a part with 4 rows; each needs 10, so shorter ones",
        ),
        ({"blocks": np.arange(199)}, r"blocks are a number of rows, 'auto', or 200 names.*int64 \[199\]"),
        ({"blocks": [[1], [2, 3]]}, "blocks are a number of rows"),
        ({"blocks": 20.0}, "blocks are a number of rows"),
        ({"blocks": pd.Series(range(199))}, "blocks are a number of rows"),
        ({"blocks": 20, "ids": np.arange(200)}, "ids and blocks are both given"),
    ],
)
def test_blocks_that_are_none_are_refused(options, sentence):
    with pytest.raises(im.UserError, match=sentence):
        estimate(Y, NOISY, "GCMI", **options)


@pytest.mark.parametrize("number", [3, 4, 5, (0.6, 0.15, 0.25), (0.2, 0.5, 0.3), (0.9, 0.05, 0.05)])
@pytest.mark.parametrize("blocks", [None, 7])
def test_as_many_ids_or_blocks_as_a_refusal_names_are_enough(blocks, number):
    def parts_of(groups: int) -> Any:
        rows = torch.arange(600)[:, None]
        pairs = inputs.Pairs(rows, rows, torch.arange(600) % groups)
        return (inputs.folds if isinstance(number, int) else inputs.split)(pairs, number, 0, blocks)

    sentence = r"(\d+) are needed at least" if blocks else r"so (\d+) ids are needed at least"
    with pytest.raises(im.UserError, match=sentence) as refused:
        parts_of(3)
    [least] = map(int, re.findall(sentence, str(refused.value)))
    parts_of(least)
    with pytest.raises(im.UserError, match=f"{least} (ids )?are needed at least"):
        parts_of(least - 1)


@pytest.mark.parametrize(("blocks", "number"), [(100, 2), (50, 4), (11, 19), (np.arange(200) // 25, 8)])
def test_the_default_asks_for_blocks_for_each_of_its_folds(blocks, number):
    start = "" if isinstance(blocks, np.ndarray) else f"blocks is {blocks}: "
    for ask in (estimate, im.estimation.audit):
        with pytest.raises(
            im.UserError, match=f"200 rows are in {number} blocks, and 20 are needed at least"
        ) as refused:
            ask(Y, NOISY, blocks=blocks)
        assert str(refused.value).startswith(start if ask is estimate else "200 rows")


def test_a_part_too_small_for_want_of_pairs_is_not_put_down_to_ids():
    with pytest.raises(im.UserError, match=r"^60 pairs leave a split with 2; .* so \d+ pairs are needed at least"):
        estimate(Y[:60], Y[60:120], "GCMI", budget=Budget(folds=1, parts=(0.94, 0.03, 0.03)))


@pytest.mark.slow
def test_independent_series_are_trusted_in_blocks_alone():
    z = series(2000, 0.9, 1)
    assert not estimate(z[:, :1], z[:, 1:]).trusted
    found = estimate(z[:, :1], z[:, 1:], blocks=100)
    assert found.trusted and found.interval[0] <= 0 and found.mi < 0.05


# Columns that are nearly dependent ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("n", [500, 1000])
def test_columns_that_are_nearly_dependent_are_read_by_their_components(n):
    """Three normal pairs, mixed on each side so that the condition numbers of the correlations are 280 and 620."""
    mixed, rho = np.random.default_rng(7).normal(size=(2, 3, 3)), np.array([0.9, 0.7, 0.5])
    rng = np.random.default_rng(n)
    u = rng.normal(size=(n, 3))
    v = rho * u + np.sqrt(1 - rho**2) * rng.normal(size=(n, 3))
    found, truth = estimate(u @ mixed[0], v @ mixed[1]), -0.5 * np.log1p(-(rho**2)).sum()
    assert found.interval[0] <= truth <= found.interval[1], found
    assert found.mi == pytest.approx(truth, abs=0.2)
    other = estimate(u @ mixed[0], v)  # one side alone
    assert other.interval[0] <= truth <= other.interval[1] and other.mi == pytest.approx(truth, abs=0.2)


def test_repeated_compositions_stay_repeated():
    parts = np.random.default_rng(0).dirichlet(np.ones(4), 7)
    rows = torch.tensor(parts[np.random.default_rng(1).integers(0, 7, 400)])
    assert len(compositions.coordinates("x", rows)[0].unique(dim=0)) == 7


def test_sectors_are_no_angles_for_kernels():
    label = np.random.default_rng(0).integers(0, 16, 500)
    for turn in (2 * np.pi * label / 16, 2 * np.pi * (label + 16 * (np.arange(500) % 3)) / 16):
        sectors = torch.tensor(np.stack([np.cos(turn), np.sin(turn)], 1))
        assert circles.is_circle(sectors) and not circles.is_smooth_circle(sectors)
        [check] = circles.sectors("x", sectors)
        assert check.verdict == "fail" and check.sentence.startswith("x is an angle of 16 values: give the number")
    binary = torch.tensor(np.random.default_rng(0).integers(0, 2, (500, 2)))
    assert not circles.sectors("x", torch.nn.functional.one_hot(binary[:, 0]).float())
    assert not circles.sectors("x", 2.0 * binary - 1)
    turn = np.random.default_rng(0).uniform(0, 7, 500)
    assert circles.is_smooth_circle(torch.tensor(np.stack([np.cos(turn), np.sin(turn)], 1)))


@pytest.mark.slow
@pytest.mark.parametrize(("sectors", "wide"), [(16, 1)])
def test_sectors_are_not_trusted_and_right_as_labels(sectors, wide):
    """x of K sectors, y up to W further on either side: log K - log (2 W + 1) nats."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, sectors, 1000)
    y = (x + rng.integers(-wide, wide + 1, 1000)) % sectors
    rows = [np.stack([np.cos(t), np.sin(t)], 1) for t in (2 * np.pi * x / sectors, 2 * np.pi * y / sectors)]
    found, truth = estimate(*rows), math.log(sectors / (2 * wide + 1))
    assert not found.trusted, found
    low, high = estimate(x, y).interval
    assert low <= truth <= high
