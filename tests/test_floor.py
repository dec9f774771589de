"""The certified lower bound: below the truth in 95 % of draws, whatever the critic, and near it where that is good."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_audit import at
from torch import nn

import infomax as im
from infomax.benchmarks import tasks
from infomax.estimation import CopulaJS, Estimate, Fitted, estimate
from infomax.estimation import pairs as inputs
from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.evidence import checks, floor
from infomax.estimation.evidence.fold import Fold
from infomax.evaluation import Subject, certified

EVERY = {task.name: task for task in (*tasks.the_set(), *tasks.held_out())}


def true_scores(task: tasks.Task, n: int, rng: np.random.Generator) -> torch.Tensor:
    """The true log ratio of all pairs of n rows, [n, n]."""
    x, y = task.sample(n, rng)
    row, column = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
    return torch.from_numpy(task.log_ratio(x[row], y[column]).reshape(n, n))


def test_pseudo_values_are_the_jackknife_by_leaving_out():
    scores = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    values = floor.pseudo_values([scores, scores.T])
    assert values.mean() == pytest.approx((floor.infonce(scores) + floor.infonce(scores.T)) / 2)
    without = []
    for i in range(12):
        stay = torch.arange(12) != i
        without.append(sum(floor.infonce(s[stay][:, stay]) for s in (scores, scores.T)) / 2)
    assert np.std(values, ddof=1) / math.sqrt(12) == pytest.approx(inputs.jackknife_error(without))
    assert np.allclose(values - values.mean(), 11 * (np.mean(without) - np.array(without)))


def test_scores_of_any_size_give_finite_pseudo_values():
    hub = torch.zeros(6, 6)
    hub[:, 2] = 1e4  # every row takes the third for its own
    values = floor.pseudo_values([hub])
    assert np.isfinite(values).all()
    assert values.mean() < 0


@pytest.mark.parametrize("rare", [0.002, 0.02, 0.3])
def test_the_bound_covers_means_of_which_failures_are_rare(rare):
    """Where Student's t alone is too high: of 100 values most samples have no failure, or none of its spread."""
    rng = np.random.default_rng(0)
    draws = np.where(rng.random((1000, 100)) < rare, floor.LOWEST, 3.0)
    mean = rare * floor.LOWEST + (1 - rare) * 3.0
    bounds = np.array([floor.lower_bound(each) for each in draws])
    assert (bounds > mean).mean() <= 0.05
    assert np.median(bounds) > mean - 1.2


@pytest.mark.parametrize("steep", [0.2, 1.0, 5.0])
def test_a_critic_of_any_steepness_certifies_as_much(steep):
    task, rng = tasks.gaussian(5, 2.0), np.random.default_rng(0)
    select, report = (true_scores(task, n, rng) for n in (200, 400))
    scale, value = floor.calibrated([steep * select])
    assert scale * steep == pytest.approx(1, rel=0.5)
    assert value == pytest.approx(1.9, abs=0.2)
    assert 1.75 < floor.lower_bound(floor.pseudo_values([scale * steep * report])) < 2.0


def cross_fitted(task: tasks.Task, n: int, seed: int) -> float:
    """The floor of n pairs by Gaussian copulas of three folds of five, calibrated on a fourth, read on the last."""
    x, y = (torch.from_numpy(np.asarray(side)).double() for side in task.sample(n, [seed, 1]))
    values = []
    for parts in inputs.folds(inputs.Pairs(x, y, torch.arange(n)), 5, seed):
        maps = NormalScores(parts[0].x), NormalScores(parts[0].y)
        sides = (side for part in parts[:2] for side in (maps[0](part.x), maps[1](part.y)))
        fitted = Fitted(CopulaJS(), GaussianCopula(*sides), maps, {})
        values.append(Fold(CopulaJS(), fitted, parts, 0, "cpu").floor_values)
    return floor.lower_bound(np.concatenate(values))


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize(
    "name", ["gaussian 10, 0 nats", "independent Cauchys", "normal 1, weak", "gaussian 5, 2 nats", "wiggly 1"]
)
def test_the_floor_of_folds_is_below_the_truth_in_95_of_100_draws(name, n):
    task = EVERY[name]
    above = [cross_fitted(task, n, seed) > task.mi for seed in range(100)]
    assert np.mean(above) <= 0.05


@pytest.mark.slow
def test_the_floor_is_below_the_truth_of_every_distribution():
    """Of a few draws each, as in all they are many: none of them more often than chance allows."""
    numbers = [task for task in EVERY.values() if "labels" not in task.name]
    above = {task.name: [cross_fitted(task, 100, seed) > task.mi for seed in range(5)] for task in numbers}
    assert len(above) > 50
    assert np.mean(list(above.values())) <= 0.05
    assert max(map(sum, above.values())) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("steep", [0.3, 1.0, 4.0])
def test_the_floor_of_scaled_true_ratios_is_below_the_truth(steep):
    rng = np.random.default_rng(1)
    for name in ("normal 1, weak", "gaussian 5, 2 nats", "Cauchy 1, uncorrelated", "gaussian 10, 6 nats"):
        task, above = EVERY[name], []
        for _ in range(50):
            select, report = (steep * true_scores(task, n, rng) for n in (30, 40))
            scale, _ = floor.calibrated([select])
            above.append(floor.lower_bound(floor.pseudo_values([scale * report])) > task.mi)
        assert np.mean(above) <= 0.05


@pytest.mark.slow
def test_folds_together_certify_most_of_what_there_is():
    """Of 2 nats, 500 pairs."""
    found = estimate(*EVERY["gaussian 5, 2 nats"].sample(500, 0))
    assert 1.5 < found.floor < 2.0


# Of an encoder's views -----------------------------------------------------------------------------------------------


def views_of(n: int, d: int, mi: float, seed: int) -> certified.Views:
    """Features [2, n, d] of two first views and two second views of n images; I(Z1; Z2) is `mi` nats."""
    share = math.sqrt(1 - math.exp(-2 * mi / d))
    image, *noise = torch.randn(5, n, d, generator=torch.Generator().manual_seed(seed))
    views = [math.sqrt(share) * image + math.sqrt(1 - share) * each for each in noise]
    return torch.stack(views[:2]), torch.stack(views[2:])


def subject_of(d: int, critic: nn.Module | None) -> Subject:
    return Subject(nn.Identity(), nn.Identity(), None, None, critic=critic)  # type: ignore[arg-type]


def a_run(n: int, d: int, mi: float, seed: int, critic: nn.Module | None) -> Estimate:
    """An estimate that certifies nothing, given the floor of n held-out images."""
    parts = (views_of(m, d, mi, 3 * seed + i) for i, m in enumerate((400, 200, n)))
    nothing = replace(at(mi), floor=-1.0, protocol={"floor_on_validation": 0.0})
    return certified.certify(nothing, subject_of(d, critic), *parts, seed)


@pytest.mark.parametrize("critic", [None, im.Bilinear(5, 5), im.Cosine(0.5)])
def test_a_gaussian_and_the_runs_own_critic_certify_most_of_what_views_share(critic):
    found = a_run(600, 5, 2.0, 0, critic)
    assert 1.7 < found.floor < 2.0
    assert set(found.protocol["floor_critic"]) == {"gaussian"} | ({"own critic"} if critic is not None else set())
    assert found.to_dict()["protocol"]["floor_views"] == [2, 2]


def test_the_estimates_own_critic_is_kept_where_training_images_prefer_it():
    parts = [views_of(n, 5, 1.0, i) for i, n in enumerate((200, 100, 100))]
    better = replace(at(1.0), floor=0.7, protocol={"floor_on_validation": 3.0})
    found = certified.certify(better, subject_of(5, None), *parts, 0)
    assert found.floor == 0.7 and found.protocol["floor_critic"] == "the estimate's own"


def test_a_floor_above_the_interval_is_told():
    low = replace(at(0.5), protocol={"floor_on_validation": 0.0}, checks=(checks.bracket(0.4, 0.6, 0.1, None),))
    parts = [views_of(n, 5, 3.0, i) for i, n in enumerate((400, 200, 400))]
    [check] = certified.certify(low, subject_of(5, None), *parts, 0).checks
    assert check.verdict == "fail" and "the value is too low" in check.sentence


def test_weights_are_those_of_the_highest_bound():
    task, rng = tasks.gaussian(3, 1.5), np.random.default_rng(0)
    true = true_scores(task, 200, rng)
    noise = torch.randn(200, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by = certified.weights([[3 * true], [noise]])
    assert by[0] == pytest.approx(1 / 3, rel=0.2) and abs(by[1]) < 0.1

    def value(by: torch.Tensor) -> float:
        return float((by[0] * 3 * true + by[1] * noise).log_softmax(1).diagonal().mean())

    assert all(value(by) >= value(by + 0.02 * torch.tensor(step)) for step in ((1, 0), (-1, 0), (0, 1), (0, -1)))
    assert certified.weights([[3 * true], [3 * true]]).sum() == pytest.approx(1 / 3, rel=0.2)  # two that are alike


@pytest.mark.slow
@pytest.mark.parametrize("mi", [0.0, 0.3, 2.0])
def test_the_floor_of_views_is_below_the_truth(mi):
    """Four pairs of views an image: errors are of images, and not of pairs."""
    above = [a_run(100, 5, mi, seed, im.Cosine(0.5)).floor > mi for seed in range(100)]
    assert np.mean(above) <= 0.05
