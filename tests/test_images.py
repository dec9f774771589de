"""Images: their columns keep their places, and what stands where is found whether or not pairs lie on each other."""

import math

import numpy as np
import pytest
import torch

from infomax.benchmarks import consistency, readings
from infomax.estimation import Budget, estimate
from infomax.estimation import pairs as inputs
from infomax.estimation.audit import WRONG
from infomax.estimation.bases import spatial
from infomax.estimation.bases.base import Principal
from infomax.estimation.estimators.copula_js import CopulaJS
from infomax.estimation.pairs import Image, Pairs
from infomax.objectives import Anchor, JSPlugin

SHORT = Budget(steps=20, every=10, folds=1)


def blobs(n: int, seed: int, mirrored: bool = False) -> tuple[np.ndarray, np.ndarray, float]:
    """x, y [n, 16, 16] of four fair bits, one a quadrant, and their MI: a bit is a bar's direction, its place random;
    y's bits are x's, flipped with probability .1."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (n, 2, 2))
    flipped = bits ^ (rng.random(bits.shape) < 0.1)
    bar = np.zeros((2, 2, 2, 8, 8), np.float32)  # direction, place, place
    for a in range(2):
        for b in range(2):
            bar[0, a, b, 1 + 4 * a, 1 + b : 6 + b] = 1
            bar[1, a, b, 1 + b : 6 + b, 1 + 4 * a] = 1

    def side(which: np.ndarray) -> np.ndarray:
        tiles = bar[which, rng.integers(0, 2, which.shape), rng.integers(0, 2, which.shape)]
        images = tiles.transpose(0, 1, 3, 2, 4).reshape(n, 16, 16)
        return images + 0.1 * rng.standard_normal(images.shape, dtype=np.float32)

    h2 = -sum(p * math.log(p) for p in (0.1, 0.9))
    y = side(flipped)
    return side(bits), y[:, :, ::-1].copy() if mirrored else y, 4 * (math.log(2) - h2)


def test_columns_of_an_image_go_back_to_their_places():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 2, 8, 9))
    x[:, 1, 3, 4] = 7  # never changes, and is left out
    pairs = inputs.prepared([(x, x + 1, None)])[0][0]
    image = pairs.images[0]
    assert image is not None and image.shape == (2, 8, 9) and pairs.x.shape[1] == 2 * 8 * 9 - 1
    x[:, 1, 3, 4] = 0
    assert torch.equal(image(pairs.x), torch.from_numpy(x))
    parts = inputs.folds(pairs, 5, seed=0)
    assert all(part.images == pairs.images for fold in parts for part in fold)
    assert inputs.joined([pairs, pairs]).images == pairs.images


@pytest.mark.parametrize(("shape", "image"), [((8, 8), True), ((3, 8, 30), True), ((64,), False), ((7, 30), False),
                                              ((2, 3, 8, 8), False)])  # fmt: skip
def test_what_is_an_image(shape, image):
    x = np.random.default_rng(0).standard_normal((60, *shape))
    assert (inputs.prepared([(x, x + 1, None)])[0][0].images[0] is not None) == image


@pytest.mark.slow
def test_flat_arrays_are_estimated_by_their_columns_alone(monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(spatial, "fitted", never)
    x, y, _ = blobs(300, 0)
    estimate(x.reshape(300, -1), y.reshape(300, -1), budget=SHORT)
    estimate(x, y.reshape(300, -1), budget=SHORT)
    with pytest.raises(AssertionError):
        estimate(x, y, budget=SHORT)


def test_the_critic_of_places_starts_at_zero_and_its_pairs_are_its_diagonal():
    torch.manual_seed(0)
    critic = spatial.SpatialCritic((1, 28, 70), (2, 17, 9))
    x, y = torch.randn(5, 28 * 70), torch.randn(5, 2 * 17 * 9)
    assert not critic.score(*critic.embed(x, y)).any()
    torch.nn.init.normal_(critic.h.last.weight)
    ex, ey = critic.embed(x, y)
    torch.testing.assert_close(critic.score(ex, ey).diagonal(), critic.pair(ex, ey))
    assert max(math.prod(tower.grid) for tower in (critic.g, critic.h)) <= spatial.PLACES
    # Of images of one size, each place starts with itself.
    assert torch.equal(spatial.SpatialCritic((1, 28, 70), (3, 28, 70)).places, torch.eye(36))


def test_pixels_have_one_scale_a_channel():
    rows = torch.randn(500, 2 * 8 * 8) * 3 + 5
    rows[:, 64:] *= 10
    made = spatial.Pixels(rows, Image((2, 8, 8), torch.arange(128)))(rows).unflatten(1, (2, 64))
    torch.testing.assert_close(made.mean((0, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.std((0, 2)), torch.ones(2), atol=1e-3, rtol=0)


class Known(torch.nn.Module):
    """a log r + b of correlated normals, as an inner product; what is above 0 is `bent` by a factor."""

    def __init__(self, a: float = 1.0, b: float = 0.0, rho: float = 0.8, bent: float = 1.0):
        super().__init__()
        last = torch.nn.Linear(3, 3, bias=False)
        torch.nn.init.eye_(last.weight).mul_(a)
        self.g, self.rho, self.bent = torch.nn.ModuleDict({"last": last}), rho, bent
        self.constant = torch.nn.Parameter(torch.tensor(b))

    def embed(self, x, y):
        c = self.rho / (1 - self.rho**2)
        own, one = -0.5 * self.rho * c, torch.ones_like(x)
        g = self.g["last"](torch.cat([c * x, own * x**2 - 0.5 * math.log(1 - self.rho**2), one], 1))
        return torch.cat([g, self.constant.expand(len(x), 1)], 1), torch.cat([y, one, own * y**2, one], 1)

    def score(self, ex, ey):
        s = ex @ ey.T
        return torch.where(s > 0, self.bent * s, s)

    def pairs(self, n: int, views: int = 1) -> Pairs:
        x, noise = torch.randn(2, n, 1).repeat_interleave(views, 1)
        return Pairs(x, self.rho * x + math.sqrt(1 - self.rho**2) * noise, torch.arange(n).repeat_interleave(views))


@pytest.mark.slow
@pytest.mark.parametrize("negatives", [1.0, 64.0])
@torch.no_grad()
def test_scores_that_are_too_sure_are_scaled_back_to_log_ratios(negatives):
    torch.manual_seed(0)
    critic = Known(1.6, 1.0)
    pairs = critic.pairs(2000)
    # The scale that 2,000 pairs of half a nat say has a standard error of 5 %.
    assert spatial._calibrate(critic, pairs, negatives)["scale"] == pytest.approx(1 / 1.6, rel=0.2)  # type: ignore[arg-type]
    ex, ey = critic.embed(pairs.x, pairs.y)
    assert float((ex * ey).sum(1).mean()) == pytest.approx(-0.5 * math.log(1 - critic.rho**2), abs=0.1)
    assert spatial._calibrate(critic, pairs, negatives)["scale"] == pytest.approx(1, abs=1e-3)  # type: ignore[arg-type]


@torch.no_grad()
def test_what_scales_scores_looks_at_those_near_log_of_the_negatives():
    """Scores that are right below 0, and above it .7 of log r."""
    found = []
    for negatives in (1.0, 64.0):
        torch.manual_seed(0)
        critic = Known(rho=0.999, bent=0.7)
        found.append(spatial._calibrate(critic, critic.pairs(1000), negatives)["scale"])  # type: ignore[arg-type]
    assert found[1] > 1.1 * found[0]


@pytest.mark.parametrize("negatives", [1.0, 64.0])
@pytest.mark.parametrize(("a", "b"), [(0.8, -4.0), (1.0, 6.0), (1.5, 2.0), (1.9, 0.0), (0.6, 6.0)])
@torch.no_grad()
def test_scores_far_from_log_ratios_are_scaled_to_them(a, b, negatives):
    """Whole Newton steps from so far away end in a singular matrix."""
    torch.manual_seed(0)
    critic = Known(a, b, rho=0.98)
    pairs = critic.pairs(300)
    told = spatial._calibrate(critic, pairs, negatives)  # type: ignore[arg-type]
    assert told["scale"] == pytest.approx(1 / a, rel=0.1)
    assert told["constant"] == pytest.approx(-b / a, abs=0.8)
    assert spatial._calibrate(critic, pairs, negatives)["scale"] == pytest.approx(1, abs=1e-3)  # type: ignore[arg-type]


@torch.no_grad()
def test_scores_that_separate_all_pairs_are_left_as_they_are():
    critic = Known(60.0, rho=1 - 1e-6)
    assert spatial._calibrate(critic, critic.pairs(50), 64.0) == {"scale": 1.0, "constant": 0.0, "negatives": 64.0}  # type: ignore[arg-type]


@torch.no_grad()
def test_other_views_of_a_sample_do_not_scale_scores_down():
    found = []
    for views in (1, 4):
        torch.manual_seed(0)
        critic = Known(rho=0.98)
        found.append(spatial._calibrate(critic, critic.pairs(100, views), 64.0)["constant"])  # type: ignore[arg-type]
    assert found[1] == pytest.approx(found[0], abs=1e-3)


@pytest.mark.slow
def test_components_of_images_of_few_factors_have_a_closed_form():
    """28 x 28 numbers of 9 factors: as many columns as pairs to fit on, and still no harder than 9 columns."""
    parts = consistency.noisy("baseline", 1500, 0)
    pairs = inputs.prepared([(*part, None) for part in parts])[0]
    assert Principal(pairs[0].x)(pairs[1].x).shape == (225, 9)
    truth = consistency.SOURCES["noisy images"].truth
    found = readings.read([CopulaJS()], *parts, Budget(steps=20, every=10), 0)["default"]
    assert truth is not None
    assert found["low"] <= truth <= found["high"]
    assert found["mi"] == pytest.approx(truth, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [False, True])
def test_what_stands_where_is_found_though_no_column_tells(mirrored):
    x, y, truth = blobs(5000, 0, mirrored)
    found = estimate(x, y, budget=Budget(folds=1))
    assert abs(found.mi - truth) < WRONG
    assert found.interval[0] <= truth <= found.interval[1]
    assert "same places" in found.protocol["training"]


@pytest.mark.parametrize(("first", "then", "kept"), [(0.5, 3.0, "before"), (3.0, 0.5, "trained")])
def test_what_is_learned_at_high_scores_is_kept_where_the_bound_of_select_pairs_gains(first, then, kept, monkeypatch):
    x, y, _ = blobs(200, 0)
    fit, select = inputs.prepared([(x, y, None)] * 2, True)[0]
    climbs, scaled = [], []

    def learn(objective, critic, *_):  # scores that are one constant have their highest bound at 0
        climbs.append(type(objective))
        with torch.no_grad():
            critic.constant.fill_(then if isinstance(objective, Anchor) else first)
        return {"kept": "trained"}

    def calibrate(_, __, negatives=1.0):
        scaled.append(negatives)
        return {"negatives": negatives}

    monkeypatch.setattr(spatial, "_learn", learn)
    monkeypatch.setattr(spatial, "_calibrate", calibrate)
    found = spatial.fitted(CopulaJS(), fit, select, SHORT, 0, "cpu")
    assert climbs == [JSPlugin, JSPlugin, Anchor]
    assert scaled == [1.0, spatial.NU]
    assert float(found.critic.residual.constant.detach()) == 0.5
    assert found.protocol["high scores"]["kept"] == kept
    assert found.protocol["scale"]["negatives"] == (spatial.NU if kept == "trained" else 1.0)


@pytest.mark.slow
def test_batches_too_small_for_anchor_do_without_it():
    x, y, _ = blobs(60, 0)
    fit, select = inputs.prepared([(x, y, np.arange(60) // 2 + 30 * part) for part in (0, 1)], True)[0]
    found = spatial.fitted(CopulaJS(), fit, select, Budget(steps=4, every=2, batch_size=3), 0, "cpu")
    assert "high scores" not in found.protocol
