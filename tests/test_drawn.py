"""Pairs drawn from a critic's ratio: drawn as promised, like the pairs where the critic is right, and not where not."""

import itertools
import math
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.special import digamma

import infomax as im
from infomax import estimation
from infomax.benchmarks import published, tasks
from infomax.estimation import Budget, estimate, estimator
from infomax.estimation import pairs as inputs
from infomax.estimation.bases.discriminant import Classifier, as_they_are
from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.critic import gated
from infomax.estimation.estimators.classical import KSG
from infomax.estimation.evidence import rematching
from infomax.estimation.neighbours import by_codes, by_distances


def normals(d: int, rho: float, claimed: float, n: int = 400, seed: int = 0) -> tuple[estimator.Fitted, inputs.Pairs]:
    """d pairs of normals of correlation rho, and an estimator whose critic is the log-ratio of another correlation."""
    x, e = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, n, d))).float()
    y = rho * x + math.sqrt(1 - rho**2) * e
    base = GaussianCopula(x, y, x, y)
    base.a, base.b, base.rho = torch.eye(d), torch.eye(d), torch.full((d,), claimed)
    model = gated(base, im.Separable(d, d, hidden=4, out=2))
    model.open = False
    return estimator.Fitted(estimation.CopulaJS(), model, (lambda t: t, lambda t: t), {}), inputs.Pairs(
        x, y, torch.arange(n)
    )


def lack(fitted: estimator.Fitted, pairs: inputs.Pairs) -> rematching.Misfit:
    found = rematching.misfit([fitted], [pairs], 0, "cpu")
    assert found is not None
    return found


@pytest.mark.slow
def test_a_matching_is_drawn_by_its_chance():
    s = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.0, -0.5], [-1.0, 0.7, 0.3]])
    every = list(itertools.permutations(range(3)))
    chance = np.exp([sum(float(s[i, j]) for i, j in enumerate(m)) for m in every])
    chance /= chance.sum()
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    found: Counter = Counter()
    for _ in range(1500):
        # What is there is drawn by its chance too: then any length of chain has to keep it.
        there = list(every[rng.choice(6, p=chance)])
        [m] = rematching.matched(s[:, there], 1, generator)
        found[tuple(there[int(j)] for j in m)] += 1
    expected = 1500 * chance
    assert sum((found[m] - e) ** 2 / e for m, e in zip(every, expected, strict=True)) < 20.5  # chi2 of 5, 1 in 1,000


def test_the_neighbours_are_those_of_ksg():
    x, y = (side.double().numpy() for side in (normals(2, 0.8, 0.8)[1].x, normals(2, 0.8, 0.8)[1].y))
    dx, dy = (torch.cdist(torch.from_numpy(s), torch.from_numpy(s), p=math.inf) for s in (x, y))
    found = by_distances(dx, dy, rematching.NEIGHBOURS)
    assert found == pytest.approx(KSG(k=rematching.NEIGHBOURS).of_normal_scores(x, y), abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("d", [1, 3, 12])
@pytest.mark.slow
def test_a_true_ratio_lacks_nothing(d, seed):
    found = lack(*normals(d, 0.6, 0.6, seed=seed))
    assert found.moved > 0.7
    assert found.shown < 0.05


@pytest.mark.parametrize(("d", "claimed"), [(1, 0.3), (3, 0.3), (12, 0.0)])
def test_a_ratio_that_is_too_weak_lacks_the_rest(d, claimed):
    found = lack(*normals(d, 0.8, claimed))
    assert 0.1 < found.shown <= found.mean


def test_dependence_among_many_columns_is_seen():
    task = tasks.together("", tasks.channels("", 1, 0.4), tasks.elliptical("", np.eye(58), 29))
    x, y = (torch.from_numpy(side).float() for side in task.sample(400, 0))
    found = lack(normals(30, 0.0, 0.0)[0], inputs.Pairs(x, y, torch.arange(400)))
    assert 0.1 < found.shown < 0.6


@pytest.mark.slow
def test_labels_that_a_classifier_missed_are_seen():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 170)
    x = rng.normal(size=(170, 64)) + np.where(np.arange(64) < 8, 0.8 * label[:, None], 0.0)
    sides = torch.from_numpy(x).float(), torch.nn.functional.one_hot(torch.from_numpy(label)).float()
    pairs = inputs.Pairs(*sides, torch.arange(170))
    none = Classifier(1, pairs.y.mean(0).log(), 0.01, torch.nn.Linear(64, 2).requires_grad_(False))
    none.open = False
    fitted = estimator.Fitted(estimation.CopulaJS(), none, (as_they_are, as_they_are), {})
    parts = [part[2] for part in inputs.folds(pairs, 5, 0)]
    missed = rematching.misfit([fitted] * 5, parts, 0, "cpu")
    assert missed is not None
    assert 0.1 < missed.shown < math.log(2)  # it is 0.32 nats
    found = estimate(x, label)
    assert found.mi > 0.1
    alone = estimate(rng.normal(size=(170, 64)), label)
    # So few pairs may leave the interval wide, and nothing else is doubted, least of all that a classifier missed some.
    assert {c.name for c in alone.checks if c.verdict == "fail"} <= {"few pairs"}, alone.reasons
    assert alone.interval[0] < 0 < alone.interval[1]
    more = estimate(rng.normal(size=(300, 64)), rng.integers(0, 2, 300))
    assert more.trusted, more.reasons


def waves(rng):
    x = rng.random((500, 1))
    return x, np.sin(20 * math.pi * x) + 0.2 * rng.normal(size=(500, 1))  # ten waves, of which five neighbours see none


def parity(rng):
    x = rng.normal(size=(500, 6))
    return x, (np.sign(x[:, :3]).prod(1) > 0).astype(int)


def mass(rng):
    """A small difference of large numbers: m^2 = E^2 - p^2."""
    p, m = 10 * rng.normal(size=(600, 3)), 5 + 0.5 * rng.normal(size=(600, 1))
    return np.c_[np.sqrt(m**2 + (p**2).sum(1, keepdims=True)), p], m + 0.2 * rng.normal(size=(600, 1))


def epistasis(rng):
    """Genes of three values each, of which combinations matter and no column by itself."""
    genes = rng.integers(0, 3, (600, 3))
    return genes.astype(float), ((genes.sum(1) % 3)[:, None] - 1.0) + 0.4 * rng.normal(size=(600, 1))


@pytest.mark.parametrize(("kind", "least"), [(waves, 0.3), (parity, 0.03), (mass, 0.5), (epistasis, 0.1)])
@pytest.mark.parametrize("turned", [False, True])
def test_dependence_that_five_neighbours_and_single_columns_miss_is_seen(kind, least, turned):
    x, y = kind(np.random.default_rng(0))
    y = torch.nn.functional.one_hot(torch.from_numpy(y)) if y.ndim == 1 else torch.from_numpy(y)
    sides = (torch.from_numpy(x).float(), y.float())
    sides = sides[::-1] if turned else sides
    pairs, silent = inputs.Pairs(*sides, torch.arange(len(x))), torch.zeros(len(x), len(x))
    assert rematching.misfit_of([pairs], [silent], 0).shown > least  # a ratio of 1 everywhere says nothing
    shuffled = inputs.Pairs(sides[0], sides[1][torch.randperm(len(x))], torch.arange(len(x)))
    assert rematching.misfit_of([shuffled], [silent], 0).shown < 0.02


def test_one_row_of_a_rare_class_hides_nothing():
    x, y = mass(np.random.default_rng(0))
    label = (y[:, 0] > np.median(y)).astype(int)
    label[0] = 2
    sides = torch.from_numpy(x).float(), torch.nn.functional.one_hot(torch.from_numpy(label)).float()
    pairs = inputs.Pairs(*sides, torch.arange(600))
    assert rematching.misfit_of([pairs], [torch.zeros(600, 600)], 0).shown > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [waves, parity, mass, epistasis])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_the_default_misses_of_these_kinds_is_not_trusted(kind, seed):
    """Each was trusted near 0, where the truth is .6 to 1.2 nats. Of waves neighbours see the most, and not all."""
    found = estimate(*kind(np.random.default_rng(seed)))
    reason, least = ("finer neighbours", 7) if kind is waves else ("drawn pairs", 0)
    failed = {check.name: check.statistic for check in found.checks if check.verdict == "fail"}
    assert failed.get(reason, -math.inf) > least


@pytest.mark.slow
def test_what_is_not_there_is_seldom_seen():
    """Of independent pairs, in the shapes that each statistic looks at: all at once, 5 of 125 at most."""
    rng, seen = np.random.default_rng(0), []
    for _ in range(25):
        for x, y in (
            (rng.normal(size=(300, 4)), rng.normal(size=(300, 1))),
            (rng.normal(size=(300, 3)), rng.integers(0, 2, 300)),
            (rng.integers(0, 3, (300, 2)).astype(float), rng.normal(size=(300, 1))),
            (rng.standard_t(2, (300, 2)), rng.standard_t(2, (300, 2))),
            (rng.poisson(1, (300, 1)).astype(float), rng.normal(size=(300, 1)).round(1)),
        ):  # fmt: skip
            y = torch.nn.functional.one_hot(torch.from_numpy(y)) if y.ndim == 1 else torch.from_numpy(y)
            pairs = inputs.Pairs(torch.from_numpy(x).float(), y.float(), torch.arange(300))
            seen.append(rematching.misfit_of([pairs], [torch.zeros(300, 300)], 0).shown > 0.02)
    assert sum(seen) <= 5, sum(seen)


def test_neighbours_of_a_label_are_as_the_formula_has_them():
    """Row by row, as the paper has it. (Ross, 2014)"""
    rng, k = np.random.default_rng(0), 3
    x, label = rng.normal(size=(80, 2)), rng.integers(0, 3, 80)
    label[:2] = 7, 8  # each alone: left out
    d = np.abs(x[:, None] - x[None]).max(2)
    each = []
    for i in range(80):
        own = np.flatnonzero(label == label[i])
        if len(own) > 1:
            near = min(k, len(own) - 1)
            reach = np.sort(d[i, own])[near]
            each.append(digamma(80) + digamma(near) - digamma(len(own)) - digamma((d[i] < reach).sum()))
    assert by_codes(torch.from_numpy(d), torch.from_numpy(label), k) == pytest.approx(np.mean(each), abs=1e-12)
    assert by_codes(torch.from_numpy(d), torch.arange(80), k) == 0.0


def test_neighbours_of_numbers_that_repeat_are_as_the_formula_has_them():
    """Row by row: a pair with k copies or more counts its copies. (Gao et al., 2017)"""
    rng, n, k = np.random.default_rng(0), 120, 3
    x = np.where(rng.random(n) < 0.6, rng.integers(0, 2, n), rng.normal(size=n))
    y = np.where(rng.random(n) < 0.6, x, rng.normal(size=n))
    dx, dy = (np.abs(side[:, None] - side) for side in (x, y))
    both, each = np.maximum(dx, dy), []
    for i in range(n):
        reach = np.sort(both[i])[k]
        if reach > 0:
            within, near = k, [(d[i] < reach).sum() for d in (dx, dy)]
        else:
            within, near = (both[i] == 0).sum(), [(d[i] == 0).sum() for d in (dx, dy)]
        each.append(digamma(within) + digamma(n) - sum(map(digamma, near)))
    assert (both == 0).sum(1).max() > k + 1
    assert by_distances(torch.from_numpy(dx), torch.from_numpy(dy), k) == pytest.approx(np.mean(each), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "n"), [(published.smoothed_labels(110), 2000), (published.erasures(55), 1000)], ids=["smoothed", "erased"]
)
def test_what_the_default_misses_of_numbers_that_repeat_is_not_trusted(task, n, monkeypatch):
    """Columns of some hundred values: each was trusted, .6 nats too low, with an interval that left out the truth."""
    near = estimate(*task.sample(n, [0, n]))
    monkeypatch.setattr(sys.modules["infomax.estimation.estimate"], "has_neighbours", lambda request: False)
    found = estimate(*task.sample(n, [0, n]))
    assert found.mi < task.mi - 0.25
    assert not found.trusted and "drawn pairs" in [check.name for check in found.checks if check.verdict == "fail"]
    assert found.interval[0] < task.mi < found.interval[1]
    # Neighbours are half as far off, and know that it is not all.
    assert found.mi + 0.5 * (task.mi - found.mi) < near.mi < task.mi
    assert not near.trusted and "finer neighbours" in [check.name for check in near.checks if check.verdict == "fail"]


def test_what_cannot_be_compared_is_not():
    fitted, pairs = normals(2, 0.6, 0.6)
    assert rematching.misfit([fitted], [inputs.Pairs(pairs.x, pairs.y, pairs.ids // 2)], 0, "cpu") is None
    wide = inputs.Pairs(torch.randn(400, 300), pairs.y, pairs.ids)
    assert rematching.misfit([fitted], [wide], 0, "cpu") is None
    rounded = inputs.Pairs((2 * pairs.x).round() / 2, pairs.y, pairs.ids)
    assert lack(fitted, rounded).moved > 0.8  # numbers that repeat on one side are compared too


def test_dependence_so_strong_that_nothing_moves_is_told():
    found = lack(*normals(20, 0.95, 0.95))
    assert found.moved < 0.1
    assert found.shown == 0


@pytest.mark.slow
@pytest.mark.parametrize(("task", "untrusted"), [
    (tasks.mixed_channels(5, 2.0), "drawn pairs"),
    (tasks.spirals(3, 1.0), "drawn pairs"),
    (tasks.elliptical("", tasks.canonical(tasks.equal(32, 3.0, 4), 32, 32, mixed=2), 32), "learning curve"),
])  # fmt: skip
def test_few_pairs_that_hid_dependence_are_not_trusted(task, untrusted):
    found = estimate(*task.sample(500, [0, 500]), budget=Budget(steps=50))
    assert found.mi < task.mi - 0.25  # as wrong as ever
    assert untrusted in {check.name for check in found.checks if check.verdict == "fail"}


@pytest.mark.slow
def test_few_pairs_of_a_simple_kind_are_trusted():
    found = estimate(*tasks.gaussian(5, 1.0).sample(500, [1, 500]), budget=Budget(steps=50))
    assert found.trusted, found.reasons
    assert found.interval[0] < 1.0 < found.interval[1]
    assert {"drawn pairs", "learning curve"} <= {check.name for check in found.checks}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 3])
def test_cubes_with_noise_of_few_pairs_are_not_trusted(seed):
    """2.62 nats, of which the copula alone finds 1.6, with a narrow interval: only drawn pairs tell."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(600, 3))
    found = estimate(x, x**3 + rng.normal(size=(600, 3)))
    assert not found.trusted or found.mi > 2.2, found
