"""The sentence to believe, bits, the normalised value and the log ratio of each pair: of estimates of known MI."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from test_estimation import gauss

import infomax as im
from infomax.estimation import Budget, Check, Estimate
from infomax.ui.tables import last_line

CLOSED = Budget(steps=0)  # the copula alone: nothing is trained
FAILED = Check("ceiling", -0.5, 0.5, "fail", "above the ceiling.")


def an_estimate(**changes) -> Estimate:
    whole = Estimate(
        0.8312, 0.02, (0.7912, 0.8791), 4000, (2400, 600, 1000), math.log(1000), 0.7049, None,
        (Check("finite", 0.0, 0.0, "pass", "finite."),), "CopulaJS()", "Separable()", 0, {},
    )  # fmt: skip
    return replace(whole, **changes)


@pytest.fixture(scope="module")
def normal() -> Estimate:
    return im.estimate(*gauss(400, 1, 0.5), budget=CLOSED)


@pytest.fixture(scope="module")
def quick() -> Estimate:
    return im.estimate(*gauss(400, 1, 0.5), "GCMI")


@pytest.fixture(scope="module")
def label() -> Estimate:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    return im.estimate(np.where(rng.random(400) < 0.9, y, 1 - y), y, budget=CLOSED)


def test_a_trusted_value_is_stated_with_its_interval():
    assert an_estimate().statement == "0.83 nats [0.79, 0.88]"
    assert an_estimate(mi=-0.001, interval=(-0.004, 0.002)).statement == "0.00 nats [0.00, 0.00]"


@pytest.mark.parametrize(("mi", "where"), [(8.0, "above"), (6.8, "too near to")])
def test_what_is_certified_comes_before_a_value_that_is_not_trusted(mi, where):
    found = an_estimate(mi=mi, floor=5.2, checks=(FAILED,))
    assert found.statement == (
        f"at least 5.20 nats (95 %); the point estimate {mi:.2f} is not trusted: "
        f"{where} log of the 1,000 held-out pairs"
    )
    assert last_line(found, "I(Z1; Z2)") == f"At least 5.20 nats (95 %): I(Z1; Z2); {mi:.2f} is not trusted"
    assert last_line(an_estimate(), "I(Z1; Z2)") == "I(Z1; Z2): 0.83 nats [0.79, 0.88]"


@pytest.mark.parametrize(
    ("floor", "certain"),
    [
        (-0.3, "nothing above 0"),
        (0.004, "nothing above 0"),
        (0.0099, "nothing above 0"),
        (0.0199, "at least 0.01 nats"),
    ],
)
def test_a_floor_is_never_rounded_up(floor, certain):
    assert an_estimate(floor=floor, checks=(FAILED,)).statement.startswith(certain)


def test_what_a_small_p_value_says_stands_beside_a_floor_of_0():
    found = an_estimate(floor=-0.3, p_value=0.001, checks=(FAILED,))
    told = "nothing above 0 nats is certified (95 %), though they are dependent (p = 0.001)"
    assert found.statement.startswith(f"{told}; the point estimate")
    assert "dependent" not in replace(found, p_value=0.2).statement
    assert "dependent" not in replace(found, floor=0.1).statement


@pytest.mark.parametrize("name", ["row order", "duplicated pairs", "I(X; YZ): row order"])
def test_nothing_is_certified_of_pairs_that_depend_on_each_other(name):
    found = an_estimate(floor=3.0, checks=(replace(FAILED, name=name),))
    assert found.statement.startswith("nothing is certified, as pairs depend on each other; the point estimate 0.83")


def test_an_unknown_check_gives_its_own_sentence_and_the_number_of_the_others():
    own = replace(FAILED, name="mine", sentence="it is Tuesday.")
    assert an_estimate(checks=(own,)).statement.endswith("is not trusted: it is Tuesday")
    assert an_estimate(checks=(own, FAILED, FAILED)).statement.endswith("it is Tuesday (and 2 more checks failed)")


def test_the_statement_is_said_first_everywhere(quick):
    from infomax.ui import report

    assert str(quick).splitlines()[0] == quick.statement
    assert next(iter(quick.to_dict().items())) == ("statement", quick.statement)
    assert f'<p class="value"><strong>{quick.statement}</strong>' in report.of_pairs(quick, "x and y")
    saved = json.loads(json.dumps(quick.to_dict(), allow_nan=False))
    assert saved["p_value"] == quick.p_value and saved["normalised"] == quick.normalised
    assert saved["bits"]["mi"] == pytest.approx(quick.mi / math.log(2)) and "pointwise" not in saved


def test_bits_are_nats_over_log_2():
    found = an_estimate(cap=math.log(4)).bits
    assert (found.cap, found.ceiling) == pytest.approx((2.0, math.log2(1000)))
    assert found.mi == pytest.approx(0.8312 / math.log(2))
    assert str(found) == found.statement == "1.20 bits [1.14, 1.27]"
    shown = an_estimate().shown("bits").splitlines()
    assert shown[0] == found.statement and shown[1].startswith("MI 1.199 bits, 95 % interval [1.141, 1.268], trusted")
    assert an_estimate(floor=5.2, checks=(FAILED,)).bits.statement.startswith("at least 7.50 bits (95 %); the point")


def test_normalised_is_the_correlation_of_normal_pairs(quick):
    rho = math.sqrt(1 - math.exp(-2 * 0.5))
    assert quick.normalised == pytest.approx(rho, abs=0.05)
    assert quick.normalised == pytest.approx(math.sqrt(1 - math.exp(-2 * quick.mi)))


@pytest.mark.slow
def test_normalised_is_the_uncertainty_coefficient_of_labels(label):
    known = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert label.normalised == pytest.approx(known / math.log(2), abs=0.1)
    assert label.normalised == label.mi / label.entropy and label.entropy == pytest.approx(math.log(2), abs=0.02)


@pytest.mark.parametrize(("changes", "normalised"), [
    ({"mi": -0.01, "interval": (-0.03, 0.01)}, 0.0),
    ({"mi": -0.05, "interval": (-0.08, -0.02)}, None),
    ({"mi": math.nan, "interval": (math.nan, math.nan)}, None),
    ({"mi": 0.7, "interval": (0.6, 0.8), "entropy": math.log(2)}, 1.0),
    ({"mi": 0.9, "interval": (0.8, 1.0), "entropy": math.log(2)}, None),
    ({"entropy": 1.0, "quantity": "I(X; Y | Z)"}, None),
])  # fmt: skip
def test_normalised_is_between_0_and_1_or_undefined(changes, normalised):
    assert an_estimate(**changes).normalised == normalised


@pytest.mark.slow
def test_pointwise_is_each_pairs_log_ratio_and_its_mean_the_value(normal, label):
    x, y = gauss(400, 1, 0.5)
    rho = math.sqrt(1 - math.exp(-1))
    true = -0.5 * np.log(1 - rho**2) - (rho**2 * (x**2 + y**2) - 2 * rho * x * y)[:, 0] / (2 * (1 - rho**2))
    assert np.array_equal(normal.rows, np.arange(400))  # cross-fitted: every pair is tested
    assert normal.pointwise.mean() == pytest.approx(normal.mi, abs=1e-12)
    assert np.corrcoef(normal.pointwise, true)[0, 1] > 0.95 and abs(normal.pointwise - true).mean() < 0.15
    assert label.pointwise.mean() == pytest.approx(label.mi, abs=1e-12)
    assert len(np.unique(label.pointwise.round(6))) <= 5 * 4  # of each fold, one a pair of labels


@pytest.mark.slow
def test_pointwise_knows_the_rows_of_one_split_and_is_none_without_log_ratios():
    x, y = gauss(200, 1, 0.5)
    found = im.estimate(x, y, "JSPlugin", budget=Budget(steps=20))
    assert len(found.pointwise) == len(found.rows) == found.splits[2] and np.all(np.diff(found.rows) > 0)
    again = im.estimation.estimate_splits(
        *((x[part], y[part]) for part in (slice(0, 120), slice(120, 150), slice(150, 200))), "GCMI"
    )
    assert again.pointwise is None and im.estimate(x, y, "InfoNCE", budget=Budget(steps=20)).pointwise is None
