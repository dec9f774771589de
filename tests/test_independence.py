"""The p-value of an estimate: level under independence, power, and rows that move together."""

import numpy as np
import pytest
import torch
from test_estimation import gauss

import infomax as im
from infomax.estimation import Budget
from infomax.estimation import pairs as inputs
from infomax.estimation.estimators import classical
from infomax.estimation.evidence import independence
from infomax.estimation.evidence.evidence import Evidence, Request
from infomax.estimation.evidence.independence import Products, Units, permuted, share_as_high
from infomax.estimation.evidence.uncertainty import permutation
from infomax.estimation.pairs import Pairs
from infomax.estimation.registry import row

CLOSED = Budget(steps=0)


def p_of(x, y, ids=None, seed=0, budget=CLOSED, method="CopulaJS") -> float:
    """The p-value alone: all else that an estimate says is left out, as it costs most of its time."""
    [whole], found, cap = inputs.prepared([(x, y, ids)])
    parts = inputs.folds(whole, 5, seed)
    request = Request(parts, len(whole), found, cap, row(method), None, seed, budget, "cpu")
    with torch.random.fork_rng(devices=[]):
        return Evidence(request, request.fitted()).p_value


def ar(n: int, phi: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two independent autoregressive series [n, 1]."""
    noise = np.random.default_rng(seed).normal(size=(n, 2))
    z = noise / np.sqrt(1 - phi**2)
    for t in range(1, n):
        z[t] = phi * z[t - 1] + noise[t]
    return z[:, :1], z[:, 1:]


def test_rows_of_a_sample_move_together_and_in_order():
    ids = torch.tensor([7, 3, 7, 3, 7, 5])
    units = Units.of(ids)  # 3: rows 1, 3; 5: row 5; 7: rows 0, 2, 4
    assert len(units) == 3
    assert units.moved(torch.tensor([0, 1, 2])).tolist() == [0, 1, 2, 3, 4, 5]
    assert units.moved(torch.tensor([2, 0, 1])).tolist() == [5, 0, 5, 2, 5, 1]
    assert units.moved(torch.tensor([1, 2, 0])).tolist() == [1, 5, 3, 5, 1, 0]


def test_a_share_counts_the_pairs_themselves_and_rounding_is_no_difference():
    assert share_as_high(1.0, np.array([0.0, 0.5, 2.0])) == 0.5
    assert share_as_high(1.0, np.array([0.0, 0.5, 1 - 1e-12])) == 0.5
    assert share_as_high(np.nan, np.zeros(3)) == 1.0
    units = Units.of(torch.arange(50))
    for at_once in (1, 40):
        assert permuted(lambda y: (y == torch.arange(50)).double().mean(1), units, 199, 0, at_once) == 1 / 200


@pytest.mark.parametrize("method", [*(pytest.param(m, marks=pytest.mark.slow) for m in ("CopulaJS", "JSPlugin")),
                                    "GCMI", "KSG"])  # fmt: skip
def test_strong_dependence_has_the_least_p_value_that_there_is(method):
    found = im.estimate(*gauss(300, 1, 0.7), method, budget=Budget(steps=40, learning_rate=5e-3))
    least = {"CopulaJS": 5 / 1000, "JSPlugin": 1 / 1000}.get(method, 1 / 200)
    assert found.p_value == pytest.approx(least)


@pytest.mark.parametrize("ids", [torch.arange(60), torch.arange(60) // 2], ids=["rows", "views"])
@pytest.mark.parametrize("method", ["GCMI", "KSG"])
def test_values_of_matchings_are_those_of_pairs_matched_so(method, ids, monkeypatch):
    """To the last bit; where rows are samples, with normal scores of each side that are worked out once for all."""
    made = []

    class Counted(classical.NormalScores):
        def __init__(self, side: torch.Tensor):
            made.append(side)
            super().__init__(side)

    monkeypatch.setattr(classical, "NormalScores", Counted)
    x, y = (torch.from_numpy(side) for side in gauss(60, 2, 0.3))
    pairs = Pairs(x.float(), y.float(), ids)
    units = Units.of(ids)
    matchings = units.moved(torch.stack([torch.randperm(len(units)) for _ in range(5)]))
    fitted = row(method).fit(pairs, pairs, None, CLOSED, 0, "cpu")
    found = fitted.matched_values(pairs, matchings)
    assert len(made) == (2 if len(units) == 60 else 10)
    assert found == [fitted.value(Pairs(pairs.x, pairs.y[rows], ids)) for rows in matchings]


def test_products_see_what_any_width_has():
    x, y = (torch.from_numpy(side) for side in gauss(300, 3, 1.0))
    train, test = (Pairs(x[part], y[part], torch.arange(300)[part]) for part in (slice(0, 200), slice(200, 300)))
    wide = Pairs(*(torch.cat([side, torch.randn(200, 900).double()], 1) for side in (train.x, train.y)), train.ids)
    for given in (train, wide):
        critic = Products(given)
        assert critic.narrow == (given is train)
    critic = Products(train)
    ex, ey = critic.embed(test.x, test.y)
    assert float(critic.pair(ex, ey).mean()) > 5 * abs(float(critic.pair(ex, ey.roll(1, 0)).mean()))


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 3])
def test_of_independent_pairs_about_one_in_twenty_is_below_5_percent(columns):
    rng = np.random.default_rng(columns)
    found = np.array([p_of(*rng.normal(size=(2, 120, columns)), seed=k) for k in range(40)])
    assert (found <= 0.05).sum() <= 6  # 2 expected; more than 6 in one of 300 cases
    assert (found <= 0.5).mean() > 0.2  # Bonferroni's bound of five is no more careful than that


@pytest.mark.slow
def test_of_independent_labels_and_of_values_that_no_critic_gives_too():
    rng = np.random.default_rng(5)
    labels = np.array([p_of(rng.integers(0, 3, 120), rng.normal(size=(120, 1)), seed=k) for k in range(30)])
    assert (labels <= 0.05).sum() <= 5
    free = [im.estimate(*rng.normal(size=(2, 80, 1)), "GCMI", seed=k).p_value for k in range(100)]
    assert 1 <= (np.array(free) <= 0.05).sum() <= 11


@pytest.mark.slow
def test_of_independent_series_in_blocks_too_which_rows_by_themselves_would_not():
    blocks = np.arange(400) // 10
    moved = np.array([p_of(*ar(400, 0.8, k), ids=blocks, seed=k) for k in range(25)])
    assert (moved <= 0.05).sum() <= 5
    alone = np.array([p_of(*ar(400, 0.8, k), seed=k) for k in range(25)])
    assert (alone <= 0.05).mean() > 0.15  # each row is like the next, and no row of the null is


@pytest.mark.slow
def test_dependence_in_blocks_is_seen():
    x, noise = ar(600, 0.8, 1)
    assert p_of(x, 0.7 * x + noise, ids=np.arange(600) // 12) <= 0.01


def test_scores_that_are_looked_up_give_what_each_matching_alone_gives(monkeypatch):
    """Labels recur, so that many matchings have equal means: none is told apart by rounding."""
    x, y = gauss(300, 2, 0.02)
    label = np.random.default_rng(0).integers(0, 3, 300)
    for sides in ((x, y), (label, label * (np.random.default_rng(1).random(300) < 0.1)), (label % 2, label // 2)):
        [whole], found, cap = inputs.prepared([(*sides, None)])
        request = Request(inputs.folds(whole, 5, 0), len(whole), found, cap, row("CopulaJS"), None, 0, CLOSED, "cpu")
        fitted, known = request.fitted(), []
        for most in (independence.TABLE, 0):
            monkeypatch.setattr(independence, "TABLE", most)
            evidence = Evidence(request, fitted)
            known.append((evidence.p_value, [permutation(fold.fitted, fold.test, 0) for fold in evidence.folds]))
        monkeypatch.undo()
        assert known[0] == known[1]
