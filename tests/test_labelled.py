"""A side of labels: what its closed form is, that few pairs are enough for it, and what is claimed where it lost."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from infomax import estimate
from infomax.benchmarks import tasks
from infomax.estimation import Budget
from infomax.estimation import pairs as inputs
from infomax.estimation.bases import discriminant
from infomax.estimation.estimators.copula_js import CopulaJS

CLOSED = Budget(steps=0)  # no network


def gaussians(n, d, means, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(means), n)
    return rng.normal(size=(n, d)) + np.asarray(means)[label], label


def one_hot(label, number):
    return torch.nn.functional.one_hot(torch.as_tensor(label), number).float()


def folds(x, label, number, seed=0):
    pairs = inputs.Pairs(torch.as_tensor(x).float(), one_hot(label, number), torch.arange(len(label)))
    return inputs.folds(pairs, 5, seed)


@pytest.mark.parametrize(
    ("labels", "d", "spread", "n", "within"), [(2, 15, 0.4, 500, 0.1), (8, 8, 1.0, 500, 0.2), (60, 10, 1.2, 1000, 0.4)]
)
@pytest.mark.slow
def test_few_pairs_are_enough_for_gaussian_classes(labels, d, spread, n, within):
    task = tasks.labels("", spread * np.random.default_rng(100).normal(size=(labels, d)))
    found = estimate(*task.sample(n, 0), budget=CLOSED)
    assert found.mi == pytest.approx(task.mi, abs=within)
    assert found.interval[0] <= task.mi <= found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.5 + 0.5 * task.mi


@pytest.mark.slow
def test_either_side_may_be_the_label_and_the_same_seed_gives_the_same_bits():
    x, label = gaussians(300, 4, [[0.0] * 4, [0.7] * 4, [0.0, 0.0, 1.5, 0.0]])
    first, again, turned = estimate(x, label), estimate(x, label), estimate(label, x)
    assert (first.mi, first.interval) == (again.mi, again.interval)
    assert (first.mi, first.stderr) == pytest.approx((turned.mi, turned.stderr), abs=1e-6)


@pytest.mark.parametrize("own", [False, True])
def test_a_discriminant_is_bayes_rule(own):
    """On many rows the base's log-ratio is that of the classes' true densities, of one covariance or of two."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(6000) % 2
    roots = torch.stack([torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[1.0, 0.0], [-0.6, 0.8]])])
    roots = roots if own else roots[:1].expand(2, 2, 2)
    means = torch.tensor([[0.0, 0.0], [0.8, -0.5]])
    x = means[label] + (roots[label] @ torch.randn(6000, 2, 1, generator=generator)).squeeze(2)
    fit, select, report = folds(x, label, 2)[0]
    base = discriminant.base_of(fit, select, 1, 1e-4)
    densities = [MultivariateNormal(m, scale_tril=r).log_prob(report.x) for m, r in zip(means, roots, strict=True)]
    true = torch.stack(densities, 1).log_softmax(1) + math.log(2)
    assert base.classifier is not None
    found = base.classifier.log_ratio(base.map(report.x))
    assert float((found.exp() - true.exp()).abs().mean()) < 0.04  # ratios of 0 to 2
    if own:
        assert base.protocol is not None
        assert base.protocol["kind"] == "quadratic"


def test_a_ratio_normalises_and_a_row_can_cost_only_so_much():
    x, label = gaussians(400, 3, 3 * np.eye(3))
    fit, select, report = folds(x, label, 3)[0]
    doubt = 1 / len(select)
    [fitted] = CopulaJS().fit_folds([(fit, select)], Budget(), 0, "cpu")
    log_ratio = fitted.critic.log_ratio(torch.cat([fitted.maps[0](report.x), torch.full((1, 3), 1e4)]))
    torch.testing.assert_close((log_ratio.exp() @ fitted.critic.log_prior.exp()), torch.ones(len(report) + 1))
    assert float(log_ratio.min()) >= math.log(doubt) - 1e-5


@pytest.mark.slow
def test_columns_that_hardly_ever_change_do_no_harm():
    x, label = gaussians(600, 3, np.eye(3))
    rare = (np.random.default_rng(1).random((600, 12)) < 0.004).astype(float)
    assert estimate(np.hstack([x, rare]), label).mi == pytest.approx(estimate(x, label).mi, abs=0.1)


@pytest.mark.slow
def test_a_network_learns_what_the_closed_form_misses():
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], (1000, 3))
    x, label = 2 * signs + rng.normal(size=(1000, 3)), (signs.prod(1) > 0).astype(int)  # no two columns tell anything
    closed, found = estimate(x, label, budget=CLOSED), estimate(x, label)
    assert abs(closed.mi) < 0.05
    assert found.mi > 0.3  # of 0.53
    assert "trained" in {part["kept"] for part in found.protocol["training"]}


def test_where_the_closed_form_is_right_no_network_is_trained():
    x, label = gaussians(2000, 2, [[0, 0], [1, 1]])
    found = CopulaJS().fit_folds([part[:2] for part in folds(x, label, 2)], Budget(), 0, "cpu")
    assert all(fold.protocol["steps"] == 0 and fold.protocol["evidence"] < 2.5 for fold in found)
    label = np.arange(2000) % 2
    bimodal = np.sin(9 * np.random.default_rng(0).uniform(size=(2000, 1))) + label[:, None]
    parts = [part[:2] for part in folds(bimodal, label, 2)]
    bent = CopulaJS().fit_folds(parts, Budget(steps=20, every=10), 0, "cpu")
    assert all(fold.protocol["evidence"] > 2.5 for fold in bent)


def test_labels_are_counted_beside_labels():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 10, 500)
    y = np.where(rng.random(500) < 0.6, (3 * x + 1) % 10, rng.integers(0, 10, 500))
    joint = np.full((10, 10), 0.4 / 100)
    joint[np.arange(10), (3 * np.arange(10) + 1) % 10] += 0.06
    found = estimate(x, y)
    assert found.mi == pytest.approx(float((joint * np.log(100 * joint)).sum()), abs=0.15)
    assert {part["base"]["kind"] for part in found.protocol["training"]} == {"counted"}


@pytest.mark.slow
def test_where_nothing_was_kept_the_interval_says_how_little_such_pairs_show():
    widths = []
    for n in (300, 1200, 4800):
        rng = np.random.default_rng(n)
        found = estimate(rng.normal(size=(n, 6)), rng.integers(0, 3, n), budget=CLOSED)
        assert found.mi == pytest.approx(0, abs=0.02)
        assert found.interval[0] <= 0 <= found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
    assert 0.3 > widths[0] > 2 * widths[1] > 4 * widths[2] > 0


@pytest.mark.parametrize("rare", [1, 2, 4])
@pytest.mark.slow
def test_labels_that_few_rows_have_are_no_harm(rare):
    x, label = gaussians(300, 4, [[0.0] * 4, [1.0] * 4])
    without = estimate(x, label, budget=CLOSED).mi
    label[[7, 90, 150, 222][:rare]] = 2  # in some folds' fit rows there is none
    found = estimate(x, label, budget=CLOSED)
    assert math.isfinite(found.stderr)
    assert found.mi == pytest.approx(without, abs=0.15)


def test_labels_that_determine_the_columns_have_their_entropy():
    label = np.arange(300) % 4
    x = np.stack([1.0 * label, (3.0 * label) % 4], 1)
    assert estimate(x, label, budget=CLOSED).mi == pytest.approx(math.log(4), abs=0.05)


def test_of_more_columns_than_are_read_some_directions_are():
    x, label = gaussians(300, 1500, [[0.0] * 1500, [0.1] * 1500])
    fit, select, report = folds(x, label, 2)[0]
    base = discriminant.base_of(fit, select, 1, 0.01)
    assert base.classifier is not None
    found = base.classifier.log_ratio(base.map(report.x)).gather(1, report.y.argmax(1)[:, None])
    assert float(found.mean()) > 0.2
