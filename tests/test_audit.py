"""Audits: each check fires on a method with its fault and stays silent on one without, whatever the pairs are like."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_estimation import QUICK, SMALL, check, gauss

import infomax as im
from infomax.estimation import Budget, Estimate, audit_splits
from infomax.estimation import audit as audited
from infomax.estimation import pairs as inputs
from infomax.estimation.audit import (
    REFITS,
    _gaussians,
    _Part,
    _parts,
    additivity,
    calibration,
    independence,
    lossy,
    repeated,
    seeds,
)

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


# How pairs are changed ------------------------------------------------------------------------------------------------


def a_part(n: int = 60, views: int = 1) -> _Part:
    ids = torch.arange(n) // views
    return _Part((torch.randn(n, 2), torch.randn(n, 3)), (0, 0), ids)


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
    part = _Part((label, label), (3, 3), torch.arange(4))
    assert part.beside(torch.tensor([0, 1]), torch.tensor([2, 3]))[0].flatten().tolist() == [2, 4]
    assert part.folded()[1].flatten().tolist() == [0, 0, 1, 0]


@pytest.mark.slow
def test_the_gaussian_has_its_mi_and_the_shape_of_the_data():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(4000, 1))
    x = common + 0.5 * rng.normal(size=(4000, 6))  # one strong direction
    pairs, told, _ = inputs.prepared([(x, rng.normal(size=(4000, 3)), None)])
    assert len(_parts(pairs, told)) == 1
    [(u, v, _)] = _gaussians(pairs, 1.5, torch.Generator().manual_seed(0))
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
    (part,) = _parts(pairs, told)
    x, y, _ = part.doubled()
    assert x.shape == (60, 2, 8, 9) and y.shape == (60, 6, 8, 8)
    assert torch.equal(x[:, 0], images) and torch.equal(x[:, 1], images)
    left, right = torch.arange(30), torch.arange(30, 60)
    assert torch.equal(part.beside(left, right)[0][:, 1], images[30:])
