"""The truth that estimators are measured on: recomputed from the tasks' own log-ratios, which are ratios indeed."""

import math

import numpy as np
import pytest

import infomax as im
from infomax.benchmarks import tasks

ALL = {task.name: task for task in (*tasks.the_set(), *tasks.held_out())}


def test_the_set_is_broad_and_its_names_are_distinct():
    assert len(tasks.the_set()) >= 25
    assert len(ALL) == len(tasks.the_set()) + len(tasks.held_out())
    widths = {task.sample(2, 0)[0].shape[1] for task in tasks.the_set()}
    assert {1, 100} <= widths


def test_tasks_repeat_themselves_and_are_finite():
    for task in ALL.values():
        x, y = task.sample(100, 7)
        again = task.sample(100, 7)
        assert np.array_equal(x, again[0]) and np.array_equal(y, again[1])
        assert not np.array_equal(x, task.sample(100, 8)[0])
        assert x.ndim == y.ndim == 2 and np.isfinite(x).all() and np.isfinite(y).all()


@pytest.mark.parametrize("name", [name for name, task in ALL.items() if task.formula is not None])
def test_a_formula_is_the_mean_log_ratio(name):
    task = ALL[name]
    each = task.log_ratio(*task.sample(5_000, 1))
    assert each.mean() == pytest.approx(task.mi, abs=4.5 * each.std() / math.sqrt(len(each)) + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, task in ALL.items() if task.formula is None])
def test_monte_carlo_truth_is_found_again_with_another_seed(name):
    task = ALL[name]
    assert 0 < task.mi_error < 0.003
    each = task.log_ratio(*task.sample(100_000, 1))
    assert each.mean() == pytest.approx(task.mi, abs=4.5 * math.hypot(each.std() / math.sqrt(len(each)), task.mi_error))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, task in ALL.items() if task.formula is None or task.formula < 1.5])
def test_a_log_ratio_has_mean_ratio_one_over_independent_pairs(name):
    # What tells a log-ratio from any function with the right mean: E[p(x, y) / p(x) p(y)] = 1 under p(x) p(y).
    task = ALL[name]
    x, _ = task.sample(20_000, 2)
    _, y = task.sample(20_000, 3)
    ratio = np.exp(task.log_ratio(x, y))
    error = ratio.std() / math.sqrt(len(ratio))
    assert ratio.mean() == pytest.approx(1, abs=max(6 * error, 1e-9))
    assert error < 0.2


@pytest.mark.parametrize("mi", [2.0, 10.0])
@pytest.mark.parametrize(
    "make", [tasks.gaussian, tasks.cubic, tasks.rotated_cubic, tasks.spirals, tasks.student, tasks.mixed_channels]
)
def test_staircases_have_the_mi_that_was_asked_for(make, mi):
    task = make(20, mi)
    assert task.mi == pytest.approx(mi)
    each = task.log_ratio(*task.sample(10_000, 0))
    assert each.mean() == pytest.approx(mi, abs=4.5 * each.std() / math.sqrt(len(each)))


@pytest.mark.parametrize(
    ("map_", "d"),
    [(tasks.CUBE, 3), (tasks.HALF_CUBE, 3), (tasks.ASINH, 3), (tasks.EXP, 3), (tasks.CDF, 3), (tasks.WIGGLY, 3),
     (tasks.rotation(4, 0), 4), (tasks.spiral(5, 0.7), 5), (tasks.SWISS_ROLL, 1)],
)  # fmt: skip
def test_maps_are_invertible(map_, d):
    t = np.random.default_rng(0).standard_normal((500, d))
    assert np.allclose(map_.inverse(map_.forward(t)), t, atol=1e-9)


def test_what_is_impossible_is_refused():
    with pytest.raises(im.UserError, match="never negative"):
        tasks.gaussian(2, -1.0)
    with pytest.raises(im.UserError, match="Student's tails alone give"):
        tasks.student(5, 0.1, dof=1)
    with pytest.raises(im.UserError, match="above 0 nats"):
        tasks.mixed_channels(2, 0.0)
