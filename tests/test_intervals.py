"""The interval at any level: nested, the 95 % one as it is; and the benchmark that counts how often it holds."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t
from test_estimation import gauss
from test_statement import an_estimate

import infomax as im
from infomax.benchmarks import coverage
from infomax.estimation import Budget, Estimate

CLOSED = Budget(steps=0)  # the copula alone: nothing is trained
LEVELS = (1e-6, 0.1, 0.5, 0.8, 0.9, 0.95, 0.99, 0.9999)


def _given() -> Estimate:
    z, u, v = np.random.default_rng(0).normal(size=(3, 200))
    return im.estimate(z + u, z + u + v, given=z, budget=CLOSED)


ESTIMATES = {
    "folds": lambda: im.estimate(*gauss(200, 1, 0.5), budget=CLOSED),
    "nothing trained": lambda: im.estimate(*gauss(300, 1, 0.5), "GCMI"),
    "one split": lambda: im.estimate(*gauss(200, 1, 0.5), "InfoNCE", "Bilinear", budget=CLOSED),
    "given": _given,
}


@pytest.fixture(scope="module", params=ESTIMATES)
def estimate(request) -> Estimate:
    return ESTIMATES[request.param]()


def test_intervals_are_nested_in_level(estimate):
    ends = [estimate.interval_at(level) for level in LEVELS]
    for (low, high), (lower, higher) in itertools.pairwise(ends):
        assert lower < low and high < higher
    assert estimate.interval_at(0.95) == estimate.interval  # to the bit


def test_each_level_has_its_factor_of_the_error(estimate):
    for level in LEVELS:
        low, high = estimate.interval_at(level)
        wider = t.ppf((1 + level) / 2, estimate.freedom) - t.ppf(0.975, estimate.freedom)
        assert estimate.interval[0] - low == pytest.approx(wider * estimate.stderr)
        assert high - estimate.interval[1] == pytest.approx(wider * estimate.stderr)
    # Without sampling error what is left is what a critic may have missed, which depends on no level.
    low, high = estimate.interval_at(1e-9)
    missed = estimate.protocol["missed"]
    assert low == pytest.approx(estimate.mi - max(0.0, -missed), abs=1e-6)
    assert high == pytest.approx(estimate.mi + max(0.0, missed), abs=1e-6)


def test_the_95_percent_interval_is_students(estimate):
    assert estimate.freedom in (24, 20, 120)  # of 25 groups; of five folds, where they decide and where they do not
    assert estimate.to_dict()["freedom"] == estimate.freedom
    low = t.ppf(0.975, estimate.freedom) * estimate.stderr
    assert estimate.mi - estimate.interval[0] == pytest.approx(low + max(0.0, -estimate.protocol["missed"]))


def test_an_estimate_that_was_put_together_by_hand_has_a_normals_interval():
    assert an_estimate().to_dict()["freedom"] is None
    assert an_estimate().interval_at(0.5)[0] == pytest.approx(0.7912 - 0.02 * (norm.ppf(0.75) - norm.ppf(0.975)))


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, math.nan, True, "95 %"])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(im.UserError, match=f"level is {level!r}: it is a share between 0 and 1, such as 0.9"):
        an_estimate().interval_at(level)


def test_of_an_error_that_is_not_finite_every_level_has_the_same():
    found = replace(an_estimate(), stderr=math.inf, interval=(-math.inf, math.inf))
    assert found.interval_at(0.5) == (-math.inf, math.inf)


# The benchmark --------------------------------------------------------------------------------------------------------


HALVES = [0.1 * norm.ppf((1 + level) / 2) for level in coverage.LEVELS]


def _draw(mi: float, *, kind: str = "normal", trusted: bool = True) -> dict:
    """A draw of a true MI of 1, whose error is .1 and whose upper end is raised by .05."""
    ends = [[level, mi - half, mi + half + 0.05] for level, half in zip(coverage.LEVELS, HALVES, strict=True)]
    return {
        "kind": kind, "name": "", "n": 500, "seed": 0, "true": 1.0, "mi": mi, "stderr": 0.1, "freedom": math.inf,
        "trusted": trusted, "intervals": ends, "lowered": 0.0, "raised": 0.05, "seconds": 1.0,
    }  # fmt: skip


def test_where_the_truth_is():
    assert [coverage.side(_draw(mi), 0.95) for mi in (1.25, 1.0, 0.8, 0.7)] == [-1, 0, 0, 1]
    assert coverage.side(_draw(0.8), 0.95, raised=False) == 1
    assert coverage.side(_draw(0.8), 0.99, raised=False) == 0


def test_normal_errors_are_covered_as_often_as_a_level_says():
    """The machinery on values whose error is what they say it is: each level is within its binomial band."""
    draws = [_draw(mi) for mi in np.random.default_rng(0).normal(1, 0.1, 2000)]
    lines = {line["kind"]: line for line in coverage.summary(draws)}
    assert list(lines) == ["normal", "all", "trusted", "all, by sampling error alone"]
    alone = lines["all, by sampling error alone"]["held"]
    for level, share in alone:
        low, high = coverage.band(level, 2000)
        assert low <= share <= high
    # What raises the upper end lets no truth go that was held, and is too much where nothing was missed.
    for (_, more), (level, less) in zip(lines["normal"]["held"], alone, strict=True):
        assert more >= less and (level > 0.9 or more > less + 0.02)
    assert lines["normal"]["below"] == pytest.approx(0.025, abs=0.01) and lines["normal"]["above"] < 0.015


def test_a_share_that_chance_does_not_explain_is_bold():
    held, missed = [_draw(1.0)] * 10, [_draw(2.0, kind="labels", trusted=False)] * 10
    text = coverage.table({"summary": coverage.summary(held + missed)})
    assert "| labels | 10 | **0** | **0** | **0** | **0** | **0** | 100.0, 0.0 | +1.000 | 0.100 | 0.050 | 0 % |" in text
    assert "| normal | 10 | **100** | 100 | 100 | 100 | 100 | 0.0, 0.0 | +0.000 |" in text
    assert "| trusted | 10 | **100** | 100 |" in text and "| all | 20 | 50 | **50** |" in text


def test_a_band_is_where_the_shares_of_a_right_level_lie():
    low, high = coverage.band(0.9, 200)
    counts = np.random.default_rng(0).binomial(200, 0.9, 20_000) / 200
    assert 0.95 <= ((low <= counts) & (counts <= high)).mean() <= 0.97
    assert coverage.band(0.5, 1) == (0, 1)


def test_the_command_goes_on_where_it_ended(tmp_path):
    options = {"pairs": 120, "method": "GCMI", "names": ("normal", "columns bent"), "output": tmp_path, "json": True}
    coverage.command(draws=2, **options)
    first = json.loads((tmp_path / "coverage.json").read_text())
    assert [(cell["kind"], cell["seed"]) for cell in first["cells"]] == [
        ("normal", 0), ("columns bent", 0), ("normal", 1), ("columns bent", 1),
    ]  # fmt: skip
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.json")}
    coverage.command(draws=3, **options)
    more = json.loads((tmp_path / "coverage.json").read_text())
    assert more["cells"][:4] == first["cells"] and len(more["cells"]) == 6
    assert all(path.stat().st_mtime_ns == at for path, at in written.items())
    assert {line["draws"] for line in more["summary"][:2]} == {3}
    for cell in more["cells"]:
        assert [level for level, *_ in cell["intervals"]] == list(coverage.LEVELS)
        assert cell["true"] == pytest.approx({"normal": 0.2545, "columns bent": 0.4133}[cell["kind"]], abs=1e-3)
    assert (tmp_path / "coverage.png").stat().st_size > 5000
    assert (tmp_path / "table.md").read_text().count("\n") == 9


def test_a_kind_that_is_none_is_named(run, tmp_path):
    bad = run("infomax", "benchmark", "coverage", "--names", "normel", "--output", "r")
    assert bad.status == 2 and "There is no kind 'normel'. Did you mean 'normal'?" in bad.err
    assert not (tmp_path / "r").exists()
