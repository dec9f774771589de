"""Fewer than 250 pairs: an interval that says how little is known, and no trusted value that it does not hold up."""

import math

import numpy as np
import pytest

import infomax as im
from infomax.benchmarks import accuracy, tasks
from infomax.estimation import Budget
from infomax.estimation.evidence import checks

NAME = "few pairs"


@pytest.mark.parametrize(
    ("pairs", "mi", "low", "high", "verdict"),
    [
        (60, 0.0, -0.1, 0.2, "pass"),
        (60, 1.0, 0.8, 1.26, "fail"),
        (60, 1.0, 0.7, 1.1, "fail"),
        (249, 4.0, 3.7, 4.35, "pass"),
        (249, 4.0, 3.7, 4.45, "fail"),
        (100, math.nan, math.nan, math.nan, "fail"),
    ],
)
def test_all_of_the_interval_is_near_the_value(pairs, mi, low, high, verdict):
    check = checks.few_pairs(pairs, mi, low, high)
    assert check is not None and check.verdict == verdict
    assert (f"of {pairs} pairs" in check.sentence) == (verdict == "fail")
    assert checks.few_pairs(250, mi, low, high) is None


def test_as_many_columns_as_pairs_fail():
    """From one column a pair on, as the docstring says: at exactly one too."""
    assert [checks.columns(n, 60).verdict for n in (59, 60, 61)] == ["warn", "fail", "fail"]


def test_few_independent_pairs_are_trusted_and_few_that_depend_are_not():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 80))
    alone, depends = im.estimate(x, noise, "GCMI"), im.estimate(x, x + 0.5 * noise, "GCMI")
    assert alone.trusted and alone.interval[0] <= 0 <= alone.interval[1] > 0.01
    assert not depends.trusted and any("of 80 pairs" in reason for reason in depends.reasons)
    given = im.estimate(x, x + 0.5 * noise, "GCMI", given=rng.normal(size=80))
    assert [c.verdict for c in given.checks if c.name == NAME] == ["fail"] and not given.trusted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("saturated, with noise 2", 60),
        ("student 5, 2 degrees, two pairs", 60),
        ("normal noise on uniforms, rotated", 60),
        ("one pair of channels of 30", 100),
        ("cubes with noise 3", 100),
    ],
)
def test_what_was_trusted_and_wrong_is_not_trusted(name, n, tmp_path):
    [found] = accuracy.accuracy((n,), (0,), "CopulaJS", [name], tmp_path)["cells"]
    assert not (found["trusted"] and accuracy.is_wrong(found)), found


def test_fewer_pairs_than_columns_are_not_trusted():
    task = next(task for task in tasks.the_set() if task.name == "gaussian 20, 4 nats")
    found = im.estimate(*task.sample(60, 0), budget=Budget(steps=0))
    assert found.n < 2 * 20 * 2 and not found.trusted
    assert found.interval[1] - found.interval[0] > 0.5
