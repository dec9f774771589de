"""The base of pairs of columns: it adds nothing to what is Gaussian, much to what is not, as an inner product."""

import math

import numpy as np
import pytest
import torch

import infomax as im
from infomax.benchmarks import tasks
from infomax.estimation.bases import pair_copula
from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.bases.pair_copula import PairwiseCopula, closed_form
from infomax.estimation.bases.student import StudentCopula


def split(task_or_draw, n: int, seed: int):
    """Normal scores of fit and select rows, and of as many report rows that neither has seen."""
    x, y = task_or_draw(2 * n, seed)
    x, y = (torch.from_numpy(np.asarray(side)).float() for side in (x, y))
    fit = round(0.8 * n)
    maps = NormalScores(x[:fit]), NormalScores(y[:fit])
    x, y = maps[0](x), maps[1](y)
    return tuple((x[part], y[part]) for part in (slice(fit), slice(fit, n), slice(n, None)))


def cubes(n: int, seed: int):
    """y = x^3 + noise, three columns: 2.62 nats, by quadrature in `truth_of_cubes`."""
    x, noise = np.random.default_rng(seed).standard_normal((2, n, 3))
    return x, x**3 + noise


def truth_of_cubes() -> float:
    """3 (h(y) - h(noise)), with y's density by quadrature over x."""
    x = np.linspace(-7, 7, 4001)
    y = np.linspace(-150, 150, 60_001)
    weight = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    density = np.zeros_like(y)
    for at, w in zip(x**3, weight, strict=True):
        near = slice(*np.searchsorted(y, [at - 9, at + 9]))
        density[near] += w * np.exp(-0.5 * (y[near] - at) ** 2) / math.sqrt(2 * math.pi)
    entropy = -np.sum(density * np.log(np.maximum(density, 1e-300))) * (y[1] - y[0])
    return 3 * (entropy - 0.5 * math.log(2 * math.pi * math.e))


def of(fit, select):
    return closed_form(*fit, *select)


def value(base, x, y) -> float:
    with torch.no_grad():
        return float(base.pair(*base.embed(x, y)).mean())


@pytest.mark.parametrize("d", [1, 5, 20])
@pytest.mark.slow
def test_what_is_gaussian_has_no_pairs_of_its_own(d):
    found = 0
    for seed in range(10):
        fit, select, _ = split(tasks.gaussian(d, 0.4 * d).sample, 600, seed)
        found += len(PairwiseCopula(GaussianCopula(*fit, *select), *fit, *select).matched)
    assert found <= 0.03 * 10 * d, found


@pytest.mark.parametrize(
    ("draw", "true", "by", "gaussian"),
    [
        (cubes, None, 0.25, 1.8),
        (tasks.mixed_channels(5, 2.0).sample, 2.0, 0.3, 0.3),
        (tasks.uniform_noise("", 0.3).sample, 0.3 - math.log(0.6), 0.1, 0.7),
    ],
)
def test_what_is_not_gaussian_in_pairs_of_columns_needs_no_network(draw, true, by, gaussian):
    """Beside the truth, and beside what a Gaussian copula sees of it."""
    true = truth_of_cubes() if true is None else true
    fit, select, (x, y) = split(draw, 3000, 1)
    base = of(fit, select)
    assert isinstance(base, PairwiseCopula)
    assert len(base.matched) == x.shape[1]
    assert abs(value(base, x, y) - true) < by
    assert value(GaussianCopula(*fit, *select), x, y) < gaussian < true - by


def test_pairs_are_found_wherever_the_columns_stand():
    order = np.random.default_rng(0).permutation(12)

    def shuffled(n, seed):
        x, y = tasks.together("", tasks.mixed_channels(3, 1.5), tasks.gaussian(9, 0.0)).sample(n, seed)
        return x, y[:, order]

    fit, select, _ = split(shuffled, 1500, 2)
    assert sorted(of(fit, select).matched) == [(i, int(np.argsort(order)[i])) for i in range(3)]


def test_a_score_is_a_ratio_of_densities_and_pairs_are_its_diagonal():
    fit, select, (x, y) = split(cubes, 2000, 3)
    base = of(fit, select)
    with torch.no_grad():
        ex, ey = base.embed(x, y)
        scores = base.score(ex, ey)
        assert ex.shape[1] == base.features
        torch.testing.assert_close(base.pair(ex, ey), scores.diagonal(), rtol=1e-4, atol=1e-3)
        negative = scores[~torch.eye(len(x), dtype=torch.bool)]
    assert abs(float(negative.exp().mean()) - 1) < 0.1


def test_the_inner_product_is_the_table_it_stands_for():
    x, y = cubes(2000, 4)
    u, v = (NormalScores(torch.from_numpy(side).float())(torch.from_numpy(side).float())[:, 0] for side in (x, y))
    density = pair_copula._Density(u, v)
    factors = density.factors()
    a, b = u.double().numpy(), v.double().numpy()
    direct = density._read(density.table, *density._decorrelated(a, b))
    error = pair_copula._read(factors, u, v).double().numpy() - direct
    assert math.sqrt((error**2).mean()) < 0.05
    assert factors[0].shape[1] < len(factors[0]) / 2  # else nothing is saved


def test_kernels_keep_what_is_gaussian():
    """Of a Gaussian's rows, density and copula agree to what noise leaves, at any bandwidth."""
    rng = np.random.default_rng(5)
    u = rng.standard_normal(20_000)
    v = 0.8 * u + 0.6 * rng.standard_normal(20_000)
    sides = (torch.from_numpy(side).float()[:, None] for side in (u, v))
    density = pair_copula._Density(*(NormalScores(side)(side)[:, 0] for side in sides))
    middle = density.table[60:101, 60:101]  # both within 2
    assert np.abs(middle).max() < 0.1
    assert not density.certain


def test_tails_that_are_students_stay_students():
    fit, select, _ = split(tasks.student(10, 2.0, 3).sample, 3000, 6)
    assert isinstance(of(fit, select), StudentCopula)


def shared(n: int, seed: int, copies: int, noise: float):
    """y = |t| + noise, and each side several times: pairs of columns of one cause, which must not be added up."""
    rng = np.random.default_rng(seed)
    t = rng.standard_normal((n, 1))
    y = np.abs(t) + 0.3 * rng.standard_normal((n, 1))
    near = [side + noise * rng.standard_normal((n, copies)) for side in (t, y)]
    return near[0], near[1]


@pytest.mark.parametrize(("copies", "noise"), [(2, 0.0), (5, 0.3), (20, 0.05)])
def test_columns_of_one_cause_count_once(copies, noise):
    fit, select, (x, y) = split(lambda n, seed: shared(n, seed, copies, noise), 1000, 3)
    base = of(fit, select)
    assert not isinstance(base, PairwiseCopula) or len(base.matched) == 1
    with torch.no_grad():
        scores = base.score(*base.embed(x, y))
        negative = scores[~torch.eye(len(x), dtype=torch.bool)]
    assert float(negative.exp().mean().log()) < 0.2
    assert value(base, x, y) < 0.9  # .76 in all


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.poisson(1.0, (n, 20)).astype(float),
        lambda rng, n: (rng.random((n, 20)) < 0.02).astype(float),
        lambda rng, n: np.clip(np.round(rng.standard_normal((n, 6))), -2, 2),
        lambda rng, n: np.maximum(rng.standard_normal((n, 5)), -1.0),
    ],
)
def test_columns_with_ties_have_no_kernels(draw):
    """Not even where they depend: their density beside a normal's would be what is counted."""
    rng = np.random.default_rng(5)
    for x, y in ((draw(rng, 500), draw(rng, 500)), [draw(rng, 500)] * 2):
        fit, select, _ = split(lambda n, seed, x=x, y=y: (x, y), 250, 0)
        assert not isinstance(of(fit, select), PairwiseCopula)


@pytest.mark.slow
def test_many_pairs_are_bounded_in_memory():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4000, 96))
    y = np.sin(3 * x) + 0.3 * rng.standard_normal(x.shape)
    fit, select, _ = split(lambda n, seed: (x, y), 2000, 0)
    base = of(fit, select)
    assert isinstance(base, PairwiseCopula) and 10 < len(base.matched) < 96
    assert base.features <= pair_copula.WIDEST + base.gaussian.features


def test_a_side_that_does_not_vary_where_it_is_fitted_is_no_dependence():
    rare = torch.zeros(300, 1)
    rare[290] = 1.0
    y = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    base = closed_form(rare[:200], y[:200], rare[200:], y[200:])
    assert value(base, rare[200:], y[200:]) == 0


@pytest.mark.slow
def test_the_estimate_of_sensors_of_one_cause_is_right_or_not_trusted():
    rng = np.random.default_rng(1)
    t = rng.standard_normal((1000, 1))
    x = t + 0.3 * rng.standard_normal((1000, 5))
    y = np.abs(t) + 0.3 * rng.standard_normal((1000, 1)) + 0.3 * rng.standard_normal((1000, 5))
    found = im.estimate(x, y)
    assert abs(found.mi - 0.637) < 0.25 or not found.trusted  # by quadrature: the means of the sensors tell all


@pytest.mark.slow
def test_the_estimate_of_cubes_with_noise_covers_the_truth():
    x, y = cubes(600, 1)
    found = im.estimate(x, y)
    assert found.interval[0] < truth_of_cubes() < found.interval[1]
    assert found.mi > 2.0  # a Gaussian copula and a network: 1.6
