"""What arrays are read as, and what is said of pairs that are odd: right values of kinds that once went wrong."""

import datetime
import math

import numpy as np
import pytest
import scipy.sparse
import torch

import infomax as im
from infomax.estimation import estimate
from infomax.estimation import pairs as inputs
from infomax.estimation.result import Check

RNG = np.random.default_rng(0)
Y = RNG.normal(size=(200, 1))
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
