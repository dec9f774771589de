"""Lagged MI and transfer entropy: linear series in closed form, labels, a direction, and what is refused."""

import math

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

import infomax as im
from infomax.estimation import Budget

A = np.array([[0.5, 0.0], [0.4, 0.6]])  # x leads, y follows


def series(n: int, a: np.ndarray = A, seed: int = 0) -> np.ndarray:
    """n rows of z_t = a z_(t-1) + normal noise, from their stationary distribution."""
    rng = np.random.default_rng(seed)
    z = np.zeros((n + 200, len(a)))
    for t in range(1, len(z)):
        z[t] = a @ z[t - 1] + rng.normal(size=len(a))
    return z[200:]


def covariance(a: np.ndarray, lag: int) -> np.ndarray:
    """Of z_t with z_(t - lag), stationary."""
    return np.linalg.matrix_power(a, lag) @ solve_discrete_lyapunov(a, np.eye(len(a)))


def left(a: np.ndarray, known: list[tuple[int, int]], what: int) -> float:
    """The variance of column `what` that is left where (column, lag) of the past are known."""
    all_ = [(what, 0), *known]
    second = np.array([
        [covariance(a, q - p)[i, j] if q >= p else covariance(a, p - q)[j, i] for j, q in all_] for i, p in all_
    ])  # fmt: skip
    rest = second[1:, 1:]
    return float(second[0, 0] - second[0, 1:] @ np.linalg.solve(rest, second[0, 1:]))


def entropy(a: np.ndarray, source: int, target: int, history: int = 1, lag: int = 1, given: tuple = ()) -> float:
    """Transfer entropy in nats, from the variances that are left."""
    past = [(column, k) for k in range(1, history + 1) for column in (target, *given)]
    return 0.5 * math.log(left(a, past, target) / left(a, [*past, (source, lag)], target))


def test_the_truths_agree_with_the_noise_that_is_left():
    assert left(A, [(0, 1), (1, 1)], 1) == pytest.approx(1.0)  # the noise alone
    assert entropy(A, 1, 0) == pytest.approx(0.0, abs=1e-12) and entropy(A, 0, 1) == pytest.approx(0.0923, abs=1e-4)


def test_lags_pick_the_rows_that_they_say():
    z = series(3000)
    found = im.lagged(z[:, 0], z[:, 1], [-2, 0, 1], estimator="GCMI")
    variance = np.diag(covariance(A, 0))
    for lag, estimate in found:
        with_x = covariance(A, abs(lag))[1, 0] if lag >= 0 else covariance(A, -lag)[0, 1]
        true = -0.5 * math.log(1 - with_x**2 / variance[0] / variance[1])
        assert estimate.mi == pytest.approx(true, abs=0.03) and estimate.n == 3000 - abs(lag)
    assert found[1].mi == found.mi[2] == found.estimates[2].mi and len(found) == 3
    assert found.interval.shape == (3, 2) and found.p_value.shape == (3,)
    assert [line.split()[1] for line in str(found).splitlines()] == ["-2", "0", "1"]
    assert found.to_dict()["lags"][0]["lag"] == -2
    # Rows in time are like the next, and without blocks that is said.
    assert not found[0].trusted and found[0].statement.startswith("nothing is certified, as pairs depend")
    with pytest.raises(im.UserError, match="lag 5 was not estimated; there are -2, 0, 1"):
        found[5]


@pytest.mark.parametrize(
    ("source", "target", "history", "lag"), [(0, 1, 1, 1), (1, 0, 1, 1), (0, 1, 2, 1), (0, 1, 1, 2)]
)
def test_transfer_entropy_of_linear_series_is_that_of_the_variances(source, target, history, lag):
    z = series(4000, seed=3)
    found = im.transfer_entropy(z[:, source], z[:, target], history, lag, estimator="GCMI")
    assert found.mi == pytest.approx(entropy(A, source, target, history, lag), abs=0.02)
    assert found.quantity == "I(Y; past of X | past of Y)" and found.n == 4000 - max(history, lag)
    assert found.protocol["history"] == history and found.protocol["lag"] == [lag]


def test_several_lags_enter_together():
    z = series(4000, seed=4)
    both = im.transfer_entropy(z[:, 0], z[:, 1], lag=[1, 2], estimator="GCMI")
    assert both.mi == pytest.approx(entropy(A, 0, 1), abs=0.02)  # of a chain of one step the second adds nothing


def test_a_common_cause_is_no_influence_once_it_is_given():
    a = np.array([[0.2, 0.0, 0.9], [0.0, 0.2, 0.9], [0.0, 0.0, 0.9]])  # z drives both x and y
    z = series(4000, a, seed=5)
    alone = im.transfer_entropy(z[:, 0], z[:, 1], estimator="GCMI")
    assert alone.mi == pytest.approx(entropy(a, 0, 1), abs=0.02) and alone.mi > 0.03
    for given in (z[:, 2], (z[:, 2:], z[:, 2] ** 3 + np.random.default_rng(0).normal(size=4000))):
        told = im.transfer_entropy(z[:, 0], z[:, 1], given=given, estimator="GCMI")
        assert abs(told.mi) < 0.01


def test_blocks_stay_whole_where_rows_are_left_out():
    z = series(400)
    names = np.arange(400) // 10
    found = im.lagged(z[:, 0], z[:, 1], 3, blocks=names, estimator="GCMI")
    again = im.estimate(z[:-3, 0], z[3:, 1], "GCMI", blocks=names[3:])
    assert found[3].mi == again.mi and found[3].stderr == again.stderr
    with pytest.raises(im.UserError, match="one name for each of the 400 rows"):
        im.lagged(z[:, 0], z[:, 1], 3, blocks=names[3:], estimator="GCMI")


X = series(120)


@pytest.mark.parametrize(("ask", "words"), [
    (lambda: im.lagged(X[:, 0], X[:, 1], 500), "lag 500 leaves 0 of 120 rows.* give a shorter one, or a longer series"),
    (lambda: im.lagged(X[:, 0], X[:, 1], [0, -80]), "lag -80 leaves 40 of 120 rows"),
    (lambda: im.lagged(X[:, 0], X[:, 1], 1.5), "lags is 1.5: whole numbers of rows"),
    (lambda: im.lagged(X[:, 0], X[:, 1], []), "lags is empty"),
    (lambda: im.lagged(X[:, 0], X[:-1, 1], 1), "y has 119 rows and x has 120"),
    (lambda: im.transfer_entropy(X[:, 0], X[:, 1], lag=0), "history is 1 and lag is 0: the past begins at 1"),
    (lambda: im.transfer_entropy(X[:, 0], X[:, 1], history=0), "history is 0 .* each is at least 1"),
    (lambda: im.transfer_entropy(X[:, 0], X[:, 1], lag=100), "lag 100 leaves 20 of 120 rows"),
    (lambda: im.transfer_entropy(X[:, 0], X[:, 1], history=110), "history 110 leaves 10 of 120 rows"),
    (lambda: im.transfer_entropy(X[:, 0], X[:, 1], history=True), "history is True: whole numbers"),
    (lambda: im.transfer_entropy(X[:, 0], X[:, 1], given=(X[:, 0], X[:9, 0])), r"given\[1\] has 9 rows and x has 120"),
])  # fmt: skip
def test_what_cannot_be_asked_is_a_sentence(ask, words):
    with pytest.raises(im.UserError, match=words):
        ask()


@pytest.mark.slow
def test_of_labels_it_is_what_the_other_told():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, 1500)
    y = np.where(rng.random(1500) < 0.9, np.roll(x, 1), 1 - np.roll(x, 1))
    true = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    found = im.transfer_entropy(x, y, history=2, lag=[1, 2], budget=Budget(steps=100))
    assert found.mi == pytest.approx(true, abs=0.05) and found.interval[0] <= true <= found.interval[1]
    assert abs(im.transfer_entropy(y, x, budget=Budget(steps=100)).mi) < 0.02


@pytest.mark.slow
def test_coupled_logistic_maps_have_a_direction():
    rng = np.random.default_rng(0)
    x, y = np.full((2, 900), 0.4)
    for t in range(1, 900):
        before = np.array([x[t - 1], 0.5 * y[t - 1] + 0.5 * x[t - 1]])  # x drives y
        after = np.abs(3.9 * before * (1 - before) + 0.05 * rng.normal(size=2))
        x[t], y[t] = 1 - np.abs(1 - after)  # stays between 0 and 1
    forth, back = (im.transfer_entropy(*pair, blocks=9) for pair in ((x, y), (y, x)))
    assert forth.mi > 0.5 and forth.p_value < 0.01
    assert back.mi < 0.1 and back.p_value > 0.05


@pytest.mark.slow
def test_series_in_blocks_cover_what_is_known():
    z = series(1200, seed=7)
    found = im.transfer_entropy(z[:, 0], z[:, 1], blocks=12)
    assert found.interval[0] <= entropy(A, 0, 1) <= found.interval[1] and found.trusted and found.p_value < 0.05
    back = im.transfer_entropy(z[:, 1], z[:, 0], blocks=12)
    assert back.interval[0] <= 0 <= back.interval[1] and back.p_value > 0.05
