"""I(J; Z), which of N images a view shows: beside known truths, and what is said of it."""

import math

import pytest
import torch
from torch import nn

import infomax as im
from infomax.benchmarks.health import gaussians
from infomax.data import from_tensors
from infomax.errors import UserError
from infomax.evaluation import Subject, identity_mi
from infomax.evaluation.identity import READ, of_rows, rows_of_views
from infomax.ui.tables import identity_line


def views_of(n, k, d, apart, generator):
    """Features [n, k, d] of views that differ by noise of deviation 1, about means of deviation `apart`."""
    means = apart * torch.randn(n, 1, d, generator=generator)
    return means + torch.randn(n, k, d, generator=generator)


@pytest.mark.parametrize("among", [4, 16])
def test_features_that_tell_nothing_and_features_that_tell_all(among):
    generator = torch.Generator().manual_seed(0)
    nothing = torch.randn(32, 40, 6, generator=generator)
    found = of_rows(nothing[:, :32], nothing[:, 32:], among=among)
    assert found.floor < 0.01 < 0.2 and found.mi < 0.05 and found.interval[1] < 0.25
    everything = views_of(32, 40, 6, 50.0, generator)
    found = of_rows(everything[:, :32], everything[:, 32:], among=among)
    assert found.cap == math.log(among)
    assert found.mi == pytest.approx(found.cap, abs=0.01) and found.interval[1] == found.cap
    assert sum(found.each) / 32 == pytest.approx(found.mi, abs=0.01) and "each" not in found.to_dict()
    assert found.trusted and f" of {found.cap:.2f} nats (95 %), about {found.cap:.2f}" in found.said()


def test_features_that_are_all_alike_tell_nothing():
    found = of_rows(torch.ones(16, 32, 3), torch.ones(16, 8, 3), among=16)
    assert found.mi == pytest.approx(0, abs=1e-3) and found.floor < 1e-3
    assert "-0.00" not in found.statement


def test_pairs_of_images_that_look_alike_are_not_told_apart():
    generator = torch.Generator().manual_seed(1)
    means = 50 * torch.randn(16, 1, 5, generator=generator)
    rows = means.repeat_interleave(2, 0) + torch.randn(32, 72, 5, generator=generator)
    found = of_rows(rows[:, :64], rows[:, 64:], among=32)
    assert found.mi == pytest.approx(math.log(16), abs=0.05) and found.floor < math.log(16)
    assert found.curve[0][1] == pytest.approx(0, abs=0.05)  # in groups of two that look alike
    assert [n for n, _ in found.curve] == [2, 4, 8, 16, 32]


def test_where_the_curve_stops_to_rise():
    generator = torch.Generator().manual_seed(3)
    means = 50 * torch.randn(4, 1, 5, generator=generator)[torch.arange(64) % 4]  # four kinds of images
    rows = means + torch.randn(64, 40, 5, generator=generator)
    found = of_rows(rows[:, :32], rows[:, 32:], among=64)
    assert found.saturates_at == found.to_dict()["saturates_at"] == 4
    apart = views_of(64, 40, 5, 50.0, generator)
    assert of_rows(apart[:, :32], apart[:, 32:], among=64).saturates_at is None


@pytest.mark.slow
@pytest.mark.parametrize("wide", [0.7, 1.5, 3.0])
def test_the_truth_is_within_the_interval_and_above_the_floor(wide):
    generator = torch.Generator().manual_seed(2)
    rows = views_of(64, 40, 8, 1.5, generator) * (0.5 + torch.rand(64, 1, 8, generator=generator))
    (truth, _), drawn = gaussians(rows, 8, wide, generator)
    found = of_rows(drawn[:, :64], drawn[:, 64:], among=64)
    low, high = found.interval
    assert found.floor <= truth and low <= truth <= high, (truth, found)
    assert found.mi == pytest.approx(truth, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [0.3, 0.7, 1.0])
def test_the_floor_holds_where_the_interval_does_not(wide):
    """Each image has a mode at each of 80 points, in 16 columns, which overlap those of others as a whole: 64 views do
    not show them, and no extrapolation knows. What is said first is certain all the same."""
    generator = torch.Generator().manual_seed(4)
    modes = views_of(64, 80, 16, 0.6, generator)

    def drawn(k):
        at = torch.randint(80, (64, k), generator=generator)
        return modes.gather(1, at[..., None].expand(-1, -1, 16)) + wide * torch.randn(64, k, 16, generator=generator)

    fresh = drawn(100)
    scores = -torch.cdist(fresh.flatten(0, 1), modes.flatten(0, 1)).square() / (2 * wide**2)
    of_image = scores.unflatten(1, (64, 80)).logsumexp(2).log_softmax(1).unflatten(0, (64, 100))
    truth = math.log(64) + float(of_image.diagonal(dim1=0, dim2=2).mean())
    rows = drawn(72)
    found = of_rows(rows[:, :64], rows[:, 64:], among=64)
    assert 0.5 < found.floor <= truth <= found.cap, (truth, found)
    assert found.interval[1] < truth, "the docs say that it is missed here"
    assert found.statement.startswith(f"at least {math.floor(100 * found.floor) / 100:.2f} of 4.16 nats (95 %)")


@pytest.mark.slow
def test_floors_hold_over_many_draws():
    """At most 1 of 20 floors may lie above the truth by chance, each with probability .05; four or more: p < .02."""
    above = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        (truth, _), drawn = gaussians(views_of(64, 40, 4, 1.5, generator), 4, 1.0, generator)
        above += of_rows(drawn[:, :64], drawn[:, 64:], among=64, seed=seed).floor > truth
    assert above <= 3


def test_the_value_is_the_same_twice_and_training_draws_stay():
    rows = views_of(16, 24, 4, 2.0, torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = of_rows(rows[:, :16], rows[:, 16:], among=16, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == of_rows(rows[:, :16], rows[:, 16:], among=16, seed=5)


class Rows(nn.Module):
    """The mean of each row of pixels: [b, 8]."""

    def forward(self, x):
        return x.mean((1, 3))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 255, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return from_tensors(x[:20], None, x[20:], None, name="noise")


def test_an_encoder_is_asked_on_held_out_images(images):
    about = Subject(Rows(), None, images, None)
    rows = rows_of_views(about, 32, 3, seed=1)
    assert rows.shape == (32, 3, 8) and not torch.equal(rows[:, 0], rows[:, 1])
    found = identity_mi(Rows(), images, images=32, among=16, views=16)
    assert found.images == 32 and found.among == 16 and found.views == 16
    assert found == identity_mi(about, images=32, among=16, views=16)
    told = found.to_dict()
    assert told["quantity"] == "I(J; Z)" and told["trusted"] == found.trusted and told["statement"] == found.statement
    line = identity_line(found, "bits")
    assert line.startswith("I(J; Z), which of 16 images a view shows: ") and "4.00" in line and " bits" in line


def test_too_little_is_said_in_a_sentence(images):
    few = from_tensors(images.train.images, None, images.test.images[:15], None, name="few")
    with pytest.raises(UserError, match=r"15 held-out images, and I\(J; Z\) takes 16 or more"):
        identity_mi(Rows(), few)
    with pytest.raises(UserError, match="4 views of 32 images, 16 told apart at once, are too few"):
        identity_mi(Rows(), images, images=32, among=16, views=4)
    broken = torch.ones(16, 8, 2)
    broken[0, 0] = math.nan
    with pytest.raises(UserError, match="features of a view are not finite"):
        of_rows(broken, torch.ones(16, READ, 2), among=16)


def test_what_is_said_where_it_is_not_trusted():
    wide = of_rows(*views_of(16, 24, 2, 0.3, torch.Generator().manual_seed(0)).split([16, 8], 1), among=16)
    check = im.estimation.Check("width", 3.0, 1.0, "fail", "the interval is 3.00 nats wide.")
    from dataclasses import replace

    told = replace(wide, floor=0.126, mi=0.5, checks=(check,))
    assert told.statement == "at least 0.12 of 2.77 nats (95 %); the point estimate 0.50 is not trusted"
    none = replace(told, floor=-0.1)
    assert none.statement.startswith("nothing above 0 of 2.77 nats is certified (95 %)")
