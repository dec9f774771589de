"""Probes: numbers that are right on planted features, chosen without the test set, and refused with a sentence."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import infomax as im
from infomax.data import from_tensors
from infomax.evaluation import probing
from infomax.evaluation.features import Store, features, of_array
from infomax.evaluation.nearest import votes
from infomax.evaluation.probing import probe_features, wilson


def clouds(n: int, classes: int = 4, gap: float = 3.0, seed: int = 0):
    """Features [n, 6] of normal clouds whose first columns hold the class, and labels [n]."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, 6))
    x[np.arange(n), y] += gap
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def found():
    return probe_features(*clouds(400), *clouds(200, seed=1))


def test_planted_classes_are_found_and_the_numbers_carry_intervals(found):
    # Bayes' rule for four clouds 3 apart is right .956 of the time (measured on 100,000 points).
    assert 0.86 < found.accuracy <= 0.98
    assert 0.85 < found.knn <= 0.98
    assert found.shots_10 is not None
    assert 0.8 < found.shots_10 < found.accuracy + 0.03
    for value, (low, high) in (
        (found.accuracy, found.accuracy_interval),
        (found.knn, found.knn_interval),
        (found.shots_10, found.shots_10_interval),
    ):
        assert 0 <= low < value < high <= 1
    assert len(found.protocol["shots_10"]["accuracies"]) == 20
    assert np.mean(found.protocol["shots_10"]["accuracies"]) == pytest.approx(found.shots_10)


@pytest.mark.parametrize("length", [1e-30, 1e-13, 1e18, 1e30])
def test_neighbours_do_not_depend_on_the_length_of_rows(length):
    (x, y), (t, u) = clouds(400), clouds(200, seed=1)
    own = np.random.default_rng(2).uniform(0.5, 2, (600, 1)).astype(np.float32)
    [same] = votes(of_array(x, "x"), y, of_array(t, "t"), [5], 4)
    assert 0.85 < (same == u).mean() <= 0.98
    bank, queries = of_array(length * own[:400] * x, "x"), of_array(length * own[400:] * t, "t")
    assert np.array_equal(votes(bank, y, queries, [5], 4)[0], same)


def test_shuffled_labels_are_not_found():
    (x, y), (t, u) = clouds(400), clouds(200, seed=1)
    found = probe_features(x, np.random.default_rng(0).permutation(y), t, u)
    assert found.accuracy < 0.45
    assert found.knn < 0.45


def test_same_inputs_and_seed_give_the_same_numbers_and_leave_the_global_state(found):
    torch.manual_seed(5)
    np.random.seed(5)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    again = probe_features(*map(torch.from_numpy, clouds(400)), *map(torch.from_numpy, clouds(200, seed=1)))
    assert again == found
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert probe_features(*clouds(400), *clouds(200, seed=1), seed=1).shots_10 != found.shots_10


def test_choices_do_not_depend_on_the_test_set(found):
    other = probe_features(*clouds(400), *clouds(200, gap=0.0, seed=2))
    for part, chosen in (("linear", "C"), ("knn", "k"), ("shots_10", "C")):
        assert other.protocol[part][chosen] == found.protocol[part][chosen]


def test_features_need_not_be_scaled(found):
    (x, y), (t, u) = clouds(400), clouds(200, seed=1)
    scale = np.array([1e-3, 1, 1e3, 1, 1, 1], dtype=np.float32)
    assert probe_features(x * scale + 7, y, t * scale + 7, u).accuracy == pytest.approx(found.accuracy, abs=0.02)


def test_shown_and_saved_with_interval_and_protocol(found):
    assert json.loads(json.dumps(found.to_dict()))["accuracy_interval"] == list(found.accuracy_interval)
    assert {"accuracy", "shots_10", "shots_10_interval", "knn", "knn_interval", "protocol"} <= set(found.to_dict())
    shown = str(found)
    assert f"{found.accuracy:.3f} [{found.accuracy_interval[0]:.3f}, " in shown
    assert "chosen on a held-out part of train" in shown


def test_few_images_a_class_leave_the_other_probes():
    found = probe_features(*clouds(40), *clouds(40, seed=1))
    assert found.shots_10 is None
    assert "15 are needed" in str(found) and re.search("class [012] has 1[0-4] training images", str(found))
    assert found.accuracy > 0.6


def test_a_class_of_one_training_image_is_left_out_and_named():
    (x, y), (t, u) = clouds(400), clouds(200, seed=1)
    y, u = np.where(np.arange(400) == 7, 9, y), np.where(np.arange(200) < 3, 9, u)
    names = [f"c{label}" for label in range(10)]
    found = probe_features(x, y, t, u, names=names)
    rest = probe_features(x[y != 9], y[y != 9], t[u != 9], u[u != 9], names=names)
    assert found.protocol.pop("left_out") == {"classes": ["c9"], "train_images": 1, "test_images": 3}
    assert found == rest and found.protocol["test_images"] == 197
    on_disk = [Store(memory=0).hold([rows], len(rows)) for rows in (x, t)]
    assert probe_features(on_disk[0], y, on_disk[1], u, names=names).accuracy == found.accuracy
    shown = str(probe_features(x, y, t, u, names=names))
    assert "Classes of one training image are left out, and 3 test images with them: c9." in shown
    with pytest.raises(im.UserError, match="has the label c1: a probe needs at least two classes"):
        probe_features(x, y * 0 + 1, t, u * 0 + 1, names=names)
    with pytest.raises(im.UserError, match="images of class c8, of which the training set has none"):
        probe_features(x, y, t, u * 0 + 8, names=names)


def test_labels_need_not_start_at_zero():
    (x, y), (t, u) = clouds(400), clouds(200, seed=1)
    assert probe_features(x, 10 * y + 3, t, 10 * u + 3).accuracy == probe_features(x, y, t, u).accuracy


def test_wilson_interval():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # golden, by the textbook formula
    assert wilson(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-4)
    assert wilson(0.0, 10)[0] == 0.0


def test_fits_that_do_not_converge_are_silent():
    x, y = clouds(60, gap=30.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe_features(x * 1e3, y, x * 1e3, y)
    assert not caught


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, y, t, u: (x, np.zeros_like(y), t, np.zeros_like(u)), "at least two classes"),
        (lambda x, y, t, u: (x, y[:-1], t, u), "400 training features and 399 labels"),
        (lambda x, y, t, u: (x, None, t, u), "no labels"),
        (lambda x, y, t, u: (x, y, t, u + 9), "class 9, of which the training set has none"),
        (
            lambda x, y, t, u: (x, np.where(np.arange(400) == 7, 1, 0), t, u * 0),
            "0 alone has two training images or more",
        ),
        (lambda x, y, t, u: (x[:3], np.arange(3), t[:3], np.arange(3)), "No class has two training images or more"),
        (lambda x, y, t, u: (x, np.where(np.arange(400) == 7, 9, y), t, u * 0 + 9), "No test image is of a class"),
        (lambda x, y, t, u: (x, y, t[:, :3], u), "6 columns and test features 3"),
        (lambda x, y, t, u: (np.where(np.arange(400)[:, None] == 7, np.nan, x), y, t, u), r"1 of 400 rows \(7\)"),
        (lambda x, y, t, u: (x, y, t[:0], u[:0]), "no test images"),
        (lambda x, y, t, u: (x, y + 0.5, t, u), "whole numbers"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(change, sentence):
    with pytest.raises(im.UserError, match=sentence):
        probe_features(*change(*clouds(400), *clouds(200, seed=1)))


# Images -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    """Two classes of 8x8 images, bright above or below, 40 a class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    x = torch.randint(0, 100, (120, 1, 8, 8), generator=generator, dtype=torch.uint8)
    x[y == 0, :, :4] += 100
    x[y == 1, :, 4:] += 100
    return from_tensors(x[:80], y[:80], x[80:], y[80:], name="halves")


class Net(nn.Module):
    num_features = 64

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.flatten = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten()

    def forward(self, x):
        return self.flatten(self.drop(self.norm(x)))


def test_features_are_taken_in_evaluation_mode_and_modes_come_back(images):
    net = Net().train()
    net.norm.eval()
    plain = im.data.views_for(images).plain
    whole = features(net, images.train, plain)
    assert whole.shape == (80, 64)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, features(net, images.train, plain, batch_size=7))
    assert not whole.requires_grad
    assert net.training
    assert net.drop.training
    assert not net.norm.training
    assert int(net.norm.num_batches_tracked) == 0


def test_modes_come_back_after_an_error(images):
    class Broken(Net):
        def forward(self, x):
            raise RuntimeError("broken")

    net = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        features(net, images.train, im.data.views_for(images).plain)
    assert net.training


def test_features_that_are_not_finite_are_refused(images):
    class Endless(nn.Flatten):
        def forward(self, input):
            return super().forward(input) / 0

    with pytest.raises(im.UserError, match="The encoder's features hold NaN or infinity in 80 of 80 rows"):
        features(Endless(), images.train, im.data.views_for(images).plain)


def test_probe_of_an_encoder_and_a_dataset(images):
    found = im.probe(nn.Flatten(), images)
    assert found.accuracy == 1.0
    assert found.protocol["features"] == 64


def test_data_without_labels_are_refused(images):
    class Unlabelled:
        labels = None

    with pytest.raises(im.UserError, match="has no labels"):
        probing.labels(Unlabelled(), "halves")  # type: ignore[arg-type]


@pytest.mark.slow
def test_raw_pixels_of_mnist5k_give_the_reference():
    found = im.probe(nn.Flatten(), "mnist5k")
    assert found.accuracy == pytest.approx(0.915, abs=0.01)
    assert found.shots_10 is not None
    assert found.shots_10 > 0.68
