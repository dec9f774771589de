"""What closed forms work out by hand: the gradient of labels in order, and kernels where rows are."""

import numpy as np
import pytest
import torch

from infomax.estimation.bases import ordered, pair_copula
from infomax.estimation.bases.pair_copula import _among, _Density, _kernel


@pytest.mark.parametrize(("labels", "scale"), [(3, 0.05), (5, 0.3), (12, 0.4)])
def test_the_gradient_of_labels_in_order_is_autograds(labels, scale):
    generator = torch.Generator().manual_seed(labels)
    n, d = 150, 3
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = torch.randint(0, labels, (n,), generator=generator)
    y[y == 1] = 0  # one label that no row has
    values = np.random.default_rng(labels).normal(size=2 * d + labels - 1) * scale
    values[2 * d] -= 2  # thresholds among the rows
    values[2 * d + 1 :] += np.log(4 / labels)
    t = torch.tensor(values, requires_grad=True)
    weights, logs = t[: 2 * d].view(2, d), t[2 * d + 1 :]
    thresholds = torch.cat([t[2 * d : 2 * d + 1], logs.exp()]).cumsum(0)
    each = ordered.log_probabilities(z, weights, thresholds).gather(1, y[:, None])
    ridges = ordered.RIDGE * weights.square().sum() + ordered.SMOOTH * logs.diff().square().sum()
    loss = ridges / n - each.mean()
    loss.backward()
    value, gradient = ordered._loss(values, z.numpy(), y.numpy())
    assert value == pytest.approx(loss.item(), rel=1e-6)
    assert t.grad is not None
    np.testing.assert_allclose(gradient, t.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("spread", [-500.0, 500.0])
def test_steps_that_are_far_too_long_have_a_finite_loss(spread):
    """As a line search takes them; a warning of an overflow would be an error here."""
    z = np.random.default_rng(0).normal(size=(50, 2))
    values = np.array([1.0, -1.0, spread, spread, -1.0, 0.5, 900.0])
    value, gradient = ordered._loss(values, z, np.arange(50) % 4)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_labels_in_order_are_fitted_to_where_the_gradient_is_none():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1000, 2, generator=generator)
    y = torch.bucketize(z @ torch.tensor([1.0, -0.5]) + torch.randn(1000, generator=generator), torch.arange(-2.0, 3))
    found = ordered.ordered(z, y, (torch.bincount(y) / len(y)).log())
    assert found is not None
    logs = found.thresholds.diff().log()
    values = torch.cat([found.weights.flatten(), found.thresholds[:1], logs]).numpy()
    _, gradient = ordered._loss(values, z.double().numpy(), y.numpy())
    assert np.abs(gradient).max() < 1e-3
    assert found.weights[0].tolist() == pytest.approx([1.0, -0.5], abs=0.1)


@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_kernels_are_the_same_where_rows_are_as_on_the_whole_grid(spread):
    p, q = np.clip(np.random.default_rng(0).normal(size=(2, 400)) * [[spread], [1.0]], -8, 8)
    p[0] = min(8.0, 3 * spread)
    whole, inner = [_Density.grid] * 2, [_Density.grid.around(t) for t in (p, q)]
    for grid, t in zip(inner, (p, q), strict=True):
        assert -grid.reach <= t.min() and t.max() <= grid.reach and grid.knots % 2 == 1
        distance = np.abs(grid.points[:, None] - _Density.grid.points).min(1)
        assert distance.max() < 1e-12, "they are knots of the whole grid"
    found = []
    for grids in (whole, inner):
        among = _among(grids, p, q)
        counts = (among.T @ np.full(len(p), 1 / len(p))).reshape(grids[0].knots, grids[1].knots)
        smooth = _kernel(0.2, grids[0], grids[0]) @ counts @ _kernel(0.4, grids[1], grids[1]).T
        found.append(among @ pair_copula._mirrored(smooth, pair_copula.MIRRORS[-1]).ravel())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)
