"""Kernels in closed form, and the score test that says whether they, or a network, have anything to learn."""

import math

import numpy as np
import pytest
import torch

import infomax as im
from infomax.estimation.bases import kernels
from infomax.estimation.bases.gains import jensen_shannon
from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.estimators import residuals
from infomax.estimation.evidence.checks import score_test
from infomax.estimation.pairs import Pairs


class Given(torch.nn.Module):
    """Scores that are known: a correlation's log-density-ratio of two columns."""

    def __init__(self, rho: float):
        super().__init__()
        self.rho = rho

    def embed(self, x, y):
        return x, y

    def pair(self, x, y):
        rho, x, y = self.rho, x[:, 0], y[:, 0]
        return -0.5 * math.log(1 - rho**2) - (rho**2 * (x**2 + y**2) - 2 * rho * x * y) / (2 * (1 - rho**2))

    def score(self, x, y):
        n, m = len(x), len(y)
        return self.pair(x.repeat_interleave(m, 0), y.repeat(n, 1)).view(n, m)


def pairs(x, y, ids=None) -> Pairs:
    return Pairs(x, y, torch.arange(len(x)) if ids is None else ids)


def correlated(n: int, rho: float, seed: int) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    x, e = torch.randn(2, n, 1, generator=generator)
    return pairs(x, rho * x + math.sqrt(1 - rho**2) * e)


SAME = (torch.nn.Identity(), torch.nn.Identity())


@pytest.mark.parametrize("ids", [None, torch.tensor([0, 0, 1, 2, 3, 3, 4, 5])])
def test_the_slope_is_the_bounds_derivative(ids):
    s = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
    bound = jensen_shannon(s[None], None if ids is None else ids[None])
    [wanted] = torch.autograd.grad(bound.sum(), [s])
    found = kernels._Block(torch.arange(8), s.detach(), ids).slope() / 8
    assert torch.allclose(found, wanted, atol=1e-15)


def test_true_scores_leave_about_a_standard_normal_number():
    each = []
    for seed in range(60):
        rho = (0.0, 0.5, 0.9)[seed % 3]
        each.append(
            kernels.evidence(Given(rho), SAME, correlated(300, rho, 2 * seed), correlated(300, rho, 2 * seed + 1), seed)
        )
    assert abs(np.mean(each)) < 3.5 / math.sqrt(60)
    assert 0.75 < np.std(each) < 1.25


@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_what_a_critic_lacks_is_seen(rho):
    fit, held_out = correlated(300, rho, 0), correlated(300, rho, 1)
    assert kernels.evidence(Given(0.0), SAME, fit, held_out, 0) > 3
    # A curve that no correlation sees.
    x = torch.randn(600, 1, generator=torch.Generator().manual_seed(2))
    y = x**2 + 0.5 * torch.randn(600, 1, generator=torch.Generator().manual_seed(3))
    assert kernels.evidence(Given(0.0), SAME, pairs(x[:300], y[:300]), pairs(x[300:], y[300:]), 0) > 3


def test_labels_chances_that_are_right_leave_a_standard_normal_number_and_others_are_seen():
    each, lacking = [], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        z, chance = torch.randn(600, 2, generator=generator), torch.rand(600, generator=generator)
        right = torch.stack([z[:, 0], -z[:, 0]], 1).softmax(1)
        label = torch.nn.functional.one_hot((chance > right[:, 0]).long(), 2)
        for q, found in ((right, each), (torch.full((600, 2), 0.5), lacking)):
            surprise = label - q
            found.append(kernels.label_evidence(z[:300], surprise[:300], z[300:], surprise[300:], seed))
    assert abs(np.mean(each)) < 3.5 / math.sqrt(60)
    assert 0.75 < np.std(each) < 1.25
    assert min(lacking) > 4


def test_many_pairs_see_what_is_worth_no_descent():
    assert [residuals._evident_from(n) for n in (500, 2000, 3000)] == [2.5] * 3
    assert residuals._evident_from(5000) == pytest.approx(math.sqrt(10))
    assert residuals._evident_from(10_000) == residuals._evident_from(10**6) == 4


def test_kernels_learn_what_is_lacking_and_stop_on_validation_pairs():
    fit, select, test = (correlated(800, 0.8, seed) for seed in range(3))
    (f, g), how = kernels.fitted(Given(0.0), SAME, fit, select, 0)
    assert 0 < how["best_step"] <= how["steps"] <= kernels.STEPS
    with torch.no_grad():
        learned = (f(test.x) * g(test.y)).sum(1)
        every = f(test.x) @ g(test.y).T
    truth = Given(0.8).pair(test.x, test.y)
    assert float(((learned - truth) ** 2).mean()) < 0.25 * float(truth.var())
    assert abs(float(every.exp().mean().log())) < 0.1  # a ratio of densities has mean 1
    assert float(learned.mean()) == pytest.approx(-0.5 * math.log(1 - 0.64), abs=0.1)


def test_rows_of_one_sample_are_no_negatives_of_each_other():
    """Each pair four times over: without ids, copies would be negatives of the highest score."""
    once = correlated(200, 0.8, 0)
    four = pairs(once.x.repeat(4, 1), once.y.repeat(4, 1), torch.arange(200).repeat(4))
    select = correlated(200, 0.8, 1)
    (f, g), _ = kernels.fitted(Given(0.8), SAME, four, select, 0)
    with torch.no_grad():
        assert float((f(select.x) * g(select.y)).sum(1).abs().mean()) < 0.2  # nothing was lacking


@pytest.mark.slow
def test_a_copula_that_fits_trains_nothing_and_one_that_does_not_is_added_to():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 2))
    plain = im.estimate(x, x + rng.normal(size=(600, 2)))
    assert all(fold["steps"] == 0 and fold["kept"] == "zero" for fold in plain.protocol["training"])
    # A ring: neither columns nor components are normal together, and pairs of columns do not tell it.
    angle = rng.uniform(0, 2 * np.pi, 600)
    y = np.stack([np.cos(angle), np.sin(angle)], 1) * (1 + 0.05 * rng.normal(size=(600, 1)))
    other = np.stack([np.cos(2 * angle), np.sin(2 * angle)], 1) + 0.3 * rng.normal(size=(600, 2))
    bent = im.estimate(y, other)
    assert all(fold["evidence"] > 3 for fold in bent.protocol["training"])
    assert any(fold["kept"] != "zero" for fold in bent.protocol["training"])


def test_the_check_fires_and_does_not():
    assert score_test(2.4, 500, 1.0).verdict == "pass"
    assert score_test(5.0, 500, 1.0).verdict == "fail"
    assert score_test(5.0, 10_000, 1.0).verdict == "warn"  # sure, and little


def test_a_gaussian_copula_of_normal_pairs_passes_the_score_test():
    fit, select = correlated(400, 0.7, 5), correlated(400, 0.7, 6)
    maps = NormalScores(fit.x), NormalScores(fit.y)
    mapped = [pairs(maps[0](p.x), maps[1](p.y)) for p in (fit, select)]
    copula = GaussianCopula(mapped[0].x, mapped[0].y, mapped[1].x, mapped[1].y)
    assert kernels.evidence(copula, SAME, *mapped, 0) < 3
