"""Audits: each check fires on a method with its fault and stays silent on one without, whatever the pairs are like."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_estimation import QUICK, SMALL, check, gauss

import infomax as im
from infomax.benchmarks import given as benchmark
from infomax.estimation import Budget, Estimate, audit_splits
from infomax.estimation import audit as audited
from infomax.estimation import pairs as inputs
from infomax.estimation.audit import (
    REFITS,
    additivity,
    calibration,
    independence,
    lossy,
    other_estimators,
    repeated,
    seeds,
)
from infomax.estimation.evidence.changed import Part, gaussians, gaussians_about, parts_of

NAMES = ("independence", "data processing", "data processing, lossy", "additivity", "calibration", "seeds")


def at(mi: float, half: float = 0.05, ceiling: float = 6.0) -> Estimate:
    """An estimate of this value and interval."""
    interval = (mi - half, mi + half)
    return Estimate(mi, half / 2, interval, 2000, (1200, 300, 500), ceiling, 0.0, None, (), "DV()", "Bilinear()", 0, {})


def test_each_check_fires_and_does_not():
    cases = [
        (independence(at(0.01)), independence(at(0.2)), independence(at(0.04, 0.01))),
        (independence(at(-0.03)), independence(at(0.4, 5.0)), independence(at(0.1, 0.3))),
        (independence(at(0.0)), independence(at(math.nan)), None),
        (repeated(at(2.0), at(2.09)), repeated(at(2.0), at(2.3)), repeated(at(2.0, 0.2), at(2.15, 0.2))),
        (repeated(at(0.001), at(0.02)), repeated(at(0.0), at(0.5)), None),
        (repeated(at(2.0), at(1.95)), repeated(at(2.0), at(1.7)), None),
        (lossy(at(2.0), at(1.0)), lossy(at(2.0), at(2.3)), lossy(at(2.0, 0.2), at(2.2, 0.2))),
        (additivity(at(1.0), at(1.2), at(2.2)), additivity(at(1.0), at(1.2), at(1.8)), None),
        (additivity(at(1.0), at(1.2), at(2.1)), additivity(at(1), at(1.2), at(-math.inf)), None),
        (calibration(2.0, at(2.1)), calibration(2.0, at(1.5)), calibration(2.0, at(1.8))),
        (calibration(6.0, at(5.7)), calibration(6.0, at(5.0)), calibration(6.0, at(6.5))),
        (seeds([at(2.0), at(2.05), at(1.98)]), seeds([at(2.0), at(2.5), at(2.1)]), seeds([at(2), at(2.2), at(2.1)])),
        (seeds([at(1.0, 0.4)] * 3), seeds([at(1.0), at(math.nan), at(1.0)]), None),
    ]
    for passes, fails, warns in cases:
        assert passes.verdict == "pass", passes
        assert fails.verdict == "fail", fails
        assert warns is None or warns.verdict == "warn", warns
        for found in (passes, fails, *([warns] if warns else [])):
            assert found.sentence.endswith(".") and found.sentence.count("\n") == 0
    above = additivity(at(3.5), at(3.5), at(5.5))
    assert above.verdict == "warn" and "above the ceiling 6.00" in above.sentence


# On data --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_default_passes_its_audit():
    x, y = gauss(1600, 3, 1.0)
    found = audited(x, y, budget=QUICK)
    assert found.trusted, found
    assert [c.name for c in found.checks[-6:]] == list(NAMES)
    assert sum(c.verdict == "pass" for c in found.checks[-6:]) >= 5, found
    plain = im.estimate(x, y, budget=QUICK)
    assert (found.mi, found.interval, found.checks[:-6]) == (plain.mi, plain.interval, plain.checks)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))["protocol"]["audit"]
    assert len(record) == REFITS
    assert record["calibration"]["known"] == found.mi
    assert record["additivity, first half"]["n"] == 800


@pytest.mark.slow
def test_infonce_fails_additivity_where_it_saturates():
    found = audited(*gauss(1200, 10, 2.6), "InfoNCE", SMALL, budget=QUICK)
    assert check(found, "additivity").verdict == "fail", found
    assert check(found, "independence").verdict == "pass", found


class Peeking(im.DV):
    """DV of a bilinear critic that is fitted to the very pairs that it reports on."""

    def surrogate(self, s):
        return super().estimate(s)

    def estimate(self, s):
        x, y = s.x.detach(), s.y.detach()
        with torch.enable_grad():
            w = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
            ascent = torch.optim.Adam([w], lr=0.05, maximize=True)
            for _ in range(12):
                ascent.zero_grad()
                (value := self._dv(x @ w @ y.T)).backward()
                ascent.step()
        return value.detach()

    @staticmethod
    def _dv(scores):
        away = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -math.inf)
        return scores.diagonal().mean() - away.flatten().logsumexp(0) + math.log(len(scores) * (len(scores) - 1))


@pytest.mark.slow
def test_a_method_that_fits_what_it_reports_on_fails_independence():
    once = Budget(steps=1, every=1, patience=1)
    found = audited(*gauss(160, 10, 1.0), Peeking(), "Bilinear", budget=once)
    assert check(found, "independence").verdict == "fail", found
    assert "finds what is not there" in check(found, "independence").sentence
    assert not found.trusted


@pytest.mark.slow
def test_a_critic_that_sees_only_lines_fails_data_processing():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(800, 1))
    x = np.abs(y - y.mean() - y.std() / 2) + 0.1 * rng.normal(size=(800, 1))  # not a line in y, a line in |y - c|
    found = audited(x, y, "InfoNCE", "Bilinear", budget=replace(QUICK, learning_rate=0.03))
    assert check(found, "data processing").verdict == "fail", found
    assert check(found, "data processing, lossy").verdict == "fail", found


@pytest.mark.slow
def test_a_budget_that_is_too_short_fails_calibration():
    found = audited(*gauss(800, 5, 2.0), "JS", SMALL, budget=Budget(steps=40, every=20, learning_rate=2e-3))
    assert check(found, "calibration").verdict == "fail", found


@pytest.mark.slow
def test_labels_and_views_are_audited_within_given_splits():
    rng = np.random.default_rng(0)

    def part(n, first):
        label = rng.integers(0, 4, n)
        return label, rng.normal(size=(n, 2)) + 2 * label[:, None], first + np.arange(n) // 2

    found = audit_splits(part(240, 0), part(80, 500), part(160, 900), "NWJ", "Bilinear", budget=Budget(steps=0))
    assert {c.name for c in found.checks} >= set(NAMES)
    assert found.splits == (240, 80, 160)
    untested = [c.name for c in found.checks if "could not be tested" in c.sentence]
    assert untested == []
    both = audited(part(300, 0)[0] % 2, part(300, 0)[0] % 2, "NWJ", "Bilinear", budget=Budget(steps=0))
    assert "both sides are labels" in check(both, "data processing").sentence
    assert check(both, "data processing, lossy").verdict == "warn"


def test_what_an_estimate_refuses_an_audit_refuses():
    x, y = gauss(100, 2, 1.0)
    with pytest.raises(im.UserError, match="x has 100 rows and y has 99"):
        audited(x, y[:-1])
    few = audited(x[:90], y[:90], "DV", "Bilinear", budget=Budget(steps=0))
    assert "could not be tested: There are 45 pairs" in check(few, "additivity").sentence


# Given a third variable -----------------------------------------------------------------------------------------------

GIVEN = (*NAMES, "conditional independence", "other estimators")
CLOSED = Budget(steps=0)


def of_known(name: str, n: int):
    """x, y, z of a distribution of `infomax benchmark given`, and its I(X; Y | Z)."""
    [known] = [known for known in benchmark.known() if known.name == name]
    return known.sample(n, np.random.default_rng([0, n])), known.mi


def audit_of_known(name: str, n: int, method: str):
    (x, y, z), true = of_known(name, n)
    found = audited(x, y, method, given=z, budget=CLOSED)
    plain = im.estimate(x, y, method, given=z, budget=CLOSED)
    assert (found.mi, found.interval, found.quantity) == (plain.mi, plain.interval, "I(X; Y | Z)")
    assert found.checks[: -len(GIVEN)] == plain.checks and [c.name for c in found.checks[-len(GIVEN) :]] == [*GIVEN]
    assert found.interval[0] <= true <= found.interval[1]
    return found


@pytest.mark.slow
def test_of_normal_columns_an_audit_given_z_passes_and_names_who_was_asked():
    found = audit_of_known("partial correlation", 200, "GCMI")
    assert found.trusted and sum(c.verdict == "pass" for c in found.checks[-len(GIVEN) :]) >= 7, found
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))["protocol"]["audit"]
    assert len(record) == REFITS + 3
    assert record["calibration"]["known"] == found.mi and record["additivity, first half"]["n"] == 100
    assert abs(record["conditional independence"]["mi"]) < 0.05
    said = check(found, "other estimators")
    assert said.verdict == "pass" and "by GCMI(shrinkage=None); " in said.sentence and "by KSG(k=5)." in said.sentence
    low, high = record["other estimators, CopulaJS"]["interval"]
    assert low <= -0.5 * math.log(1 - 0.6**2) <= high


@pytest.mark.slow
def test_of_labels_an_audit_leaves_out_who_cannot_read_them():
    found = audit_of_known("labels", 200, "CopulaJS")
    assert found.trusted, found
    said = check(found, "other estimators")
    assert said.verdict == "pass" and math.isnan(said.statistic)
    assert "no other estimator reads such rows; GCMI is left out (" in said.sentence and "; KSG is left out (" in str(
        said
    )
    assert "both sides are labels" in check(found, "data processing").sentence
    assert abs(found.protocol["audit"]["independence"]["mi"]) < 0.05


def test_other_estimators_warn_and_never_fail():
    alike, apart = other_estimators(at(1.0), [at(1.03)]), other_estimators(at(1.0), [at(1.02), at(0.5)], ["KSG is out"])
    assert (alike.verdict, apart.verdict) == ("pass", "warn") and apart.statistic == 0.5
    assert "DV() further off than the intervals say" in apart.sentence and apart.sentence.endswith("; KSG is out.")
    assert other_estimators(at(1.0, 0.4), [at(1.5, 0.4)]).verdict == "pass"  # within the noise of both
    assert other_estimators(at(1.0), [at(math.nan)]).verdict == "warn"


def test_gaussians_about_z_share_what_is_said_beyond_it():
    rng = np.random.default_rng(0)
    wave = rng.uniform(-2, 2, (20_000, 1))
    for z in (np.hstack([wave, wave**2]), rng.integers(0, 3, 20_000)):
        first = z if z.ndim == 1 else wave[:, 0]
        x = np.stack([first + 0.1 * rng.normal(size=20_000), rng.normal(size=20_000)], 1)
        y = first[:, None] ** 2 + rng.normal(size=(20_000, 3))
        [pairs], _, _ = inputs.prepared([(x, y, None)])
        u, v, w, ids = gaussians_about(inputs.side("given", z), pairs, 0.8, torch.Generator().manual_seed(0))
        assert u.shape == (20_000, 2) and v.shape == (20_000, 3) and len(w) == len(ids) == 20_000
        known = np.column_stack([w if z.ndim > 1 else np.eye(3)[w[:, 0]][:, 1:], np.ones(20_000)])
        rest = [side - known @ np.linalg.lstsq(known, side, rcond=None)[0] for side in (u.numpy(), v.numpy())]
        log_det = [np.linalg.slogdet(np.cov(side.T))[1] for side in (*rest, np.hstack(rest))]
        assert (log_det[0] + log_det[1] - log_det[2]) / 2 == pytest.approx(0.8, abs=0.03)
        assert np.corrcoef(u[:, 0], first)[0, 1] > 0.95  # what z tells of x is still there
        assert np.std(rest[0], 0) == pytest.approx([0.1, 1.0], rel=0.05)
    with pytest.raises(im.UserError, match="given predicts y without error"):
        gaussians_about(inputs.side("given", y), pairs, 0.8, torch.Generator())
    with pytest.raises(im.UserError, match="given has 3 columns and 6 rows"):
        gaussians_about(inputs.side("given", y[:6]), pairs.first(6), 0.8, torch.Generator())


def test_rows_keep_their_z():
    part = Part(
        (torch.randn(60, 2), torch.arange(60.0)[:, None], torch.arange(60)[:, None]), (0, 0, 60), torch.arange(60)
    )
    x, y, z, _ = part.deranged(torch.Generator().manual_seed(0))
    assert torch.equal(y[:, 0].long(), z[:, 0]) and not bool((x == part.sides[0][z[:, 0]]).any())
    left, right = part.halves(torch.Generator().manual_seed(0))
    _, y, z, ids = part.beside(left, right)
    assert torch.equal(z[:, 0], left * 60 + right) and torch.equal(y[:, 0].long(), ids)
    for rows in (part.doubled(), part.folded(), part.rows(torch.arange(60))):
        assert len(rows) == 4 and torch.equal(rows[2], part.sides[2])


@pytest.mark.slow
def test_what_x_and_y_share_by_z_alone_is_none_of_it_in_an_audit(run, tmp_path):
    """I(X; Y) is 1.3 nats, and I(X; Y | Z) 0, in a table: rows that share z alone are no stranger than these."""
    x, y, z = (side[:, 0] for side in of_known("common cause, I(X; Y) = 1.3", 200)[0])
    pd.DataFrame({"a": x, "b": y, "c": z}).to_csv(tmp_path / "t.csv", index=False)
    asked = ("--x", "a", "--y", "b", "--given", "c", "--audit", "--blocks", "2", "--estimator", "KSG")
    ended = run("infomax", "estimate", "t.csv", *asked, "--report", "page.html", "--output", "found.json")
    assert ended.status == 0, ended.err
    found = json.loads((tmp_path / "found.json").read_text())["estimate"]
    audit, checks = found["protocol"]["audit"], {check["name"]: check for check in found["checks"]}
    assert found["interval"][0] <= 0 <= found["interval"][1] and found["protocol"]["names"]["given"] == ["c"]
    assert set(GIVEN) <= set(checks) and set(audit) > {"conditional independence", "other estimators, GCMI"}
    assert abs(audit["conditional independence"]["mi"]) < 0.25 and abs(audit["other estimators, GCMI"]["mi"]) < 0.05
    assert "between Gaussians that share given alone, where there are 0" in ended.out
    assert "other estimators, GCMI" in (tmp_path / "page.html").read_text()


# How pairs are changed ------------------------------------------------------------------------------------------------


def a_part(n: int = 60, views: int = 1) -> Part:
    ids = torch.arange(n) // views
    return Part((torch.randn(n, 2), torch.randn(n, 3)), (0, 0), ids)


@pytest.mark.parametrize("views", [1, 3, 25])
def test_deranged_pairs_meet_no_view_of_their_own(views):
    part = a_part(views=views)
    x, y, ids = part.deranged(torch.Generator().manual_seed(0))
    origin = (part.sides[1][:, 0][None] == y[:, 0][:, None]).int().argmax(1)
    assert bool((part.ids[origin] != ids).all())
    assert len(origin.unique()) == len(x) == 60
    assert bool((part.sides[0][:, 0].sort().values == x[:, 0].sort().values).all())


def test_deranged_blocks_stay_series():
    """A block's rows keep their order, and meet another block's rows in theirs."""
    part = replace(a_part(), ids=torch.arange(60) // 12)
    x, y, ids = part.deranged(torch.Generator().manual_seed(0))
    order = (part.sides[0][:, 0][None] == x[:, 0][:, None]).int().argmax(1).view(5, 12)
    origin = (part.sides[1][:, 0][None] == y[:, 0][:, None]).int().argmax(1).view(5, 12)
    for place in (order, origin):
        assert torch.equal(place - place[:, :1], torch.arange(12).expand(5, 12))
    assert sorted(order[:, 0].tolist()) == [0, 12, 24, 36, 48] and bool((order != origin).all())
    assert torch.equal(ids, order.flatten() // 12)


@pytest.mark.slow
def test_an_audit_of_series_moves_whole_blocks():
    """Two independent series that drift: row by row, half of the pairs at a time, they would look dependent."""
    z = np.random.default_rng(4).normal(size=(2, 3230)).cumsum(1)
    x, y = z[:, 30:] - z[:, :-30]
    found = audited(x, y, "GCMI", blocks=40)
    plain = im.estimate(x, y, "GCMI", blocks=40)
    assert (found.mi, found.interval, found.n) == (plain.mi, plain.interval, 3200)
    record = found.protocol["audit"]
    assert record["additivity, first half"]["n"] == 1600 and len(record) == REFITS
    assert check(found, "independence").verdict != "fail", found
    named = audited(x, y, "GCMI", blocks=np.repeat([f"trial {k:02}" for k in range(80)], 40))
    assert named.mi == found.mi
    with pytest.raises(im.UserError, match="ids and blocks are both given"):
        audited(x, y, "GCMI", blocks=40, ids=np.arange(3200))


def test_one_id_with_most_pairs_cannot_be_deranged():
    part = replace(a_part(), ids=torch.cat([torch.zeros(31), torch.arange(29) + 1]).long())
    with pytest.raises(im.UserError, match="one id has 31 of 60 pairs"):
        part.deranged(torch.Generator())


@pytest.mark.parametrize("views", [1, 2, 7])
def test_halves_share_no_sample(views):
    part = a_part(views=views)
    left, right = part.halves(torch.Generator().manual_seed(0))
    assert not set(part.ids[left].tolist()) & set(part.ids[right].tolist())
    assert len(left) == len(right) >= 60 // 2 - views
    assert len({*left.tolist(), *right.tolist()}) == 2 * len(left)
    x, y, ids = part.beside(left, right)
    assert x.shape == (len(left), 4) and y.shape == (len(left), 6)
    assert torch.equal(x[:, 2:], part.sides[0][right]) and torch.equal(ids, part.ids[left])


def test_two_labels_side_by_side_are_one_and_a_label_is_merged():
    label = torch.tensor([0, 1, 2, 1])[:, None]
    part = Part((label, label), (3, 3), torch.arange(4))
    assert part.beside(torch.tensor([0, 1]), torch.tensor([2, 3]))[0].flatten().tolist() == [2, 4]
    assert part.folded()[1].flatten().tolist() == [0, 0, 1, 0]


@pytest.mark.slow
def test_the_gaussian_has_its_mi_and_the_shape_of_the_data():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(4000, 1))
    x = common + 0.5 * rng.normal(size=(4000, 6))  # one strong direction
    pairs, told, _ = inputs.prepared([(x, rng.normal(size=(4000, 3)), None)])
    assert len(parts_of(pairs, told)) == 1
    [(u, v, _)] = gaussians(pairs, 1.5, torch.Generator().manual_seed(0))
    assert u.shape == (4000, 6) and v.shape == (4000, 3)
    expected = np.corrcoef(x.T)
    assert np.allclose(np.corrcoef(u.T.numpy()), expected, atol=0.08)
    # -1/2 log det of the correlation of both over those of each: the MI of normal variables
    log_det = [np.linalg.slogdet(np.corrcoef(side.T.numpy()))[1] for side in (torch.cat([u, v], 1), u, v)]
    assert (log_det[1] + log_det[2] - log_det[0]) / 2 == pytest.approx(1.5, abs=0.06)


def test_images_stay_images():
    """Columns next to each other are channels; pixels that never change come back, or nothing would be an image."""
    images = torch.rand(60, 8, 9)
    images[:, 0] = 0
    pairs, told, _ = inputs.prepared([(images, torch.rand(60, 3, 8, 8), None)])
    (part,) = parts_of(pairs, told)
    x, y, _ = part.doubled()
    assert x.shape == (60, 2, 8, 9) and y.shape == (60, 6, 8, 8)
    assert torch.equal(x[:, 0], images) and torch.equal(x[:, 1], images)
    left, right = torch.arange(30), torch.arange(30, 60)
    assert torch.equal(part.beside(left, right)[0][:, 1], images[30:])
