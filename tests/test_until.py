"""infomax benchmark until: seconds of training to a kNN accuracy, its clock, its numbers and its mistakes."""

import json
import threading
import time

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from test_model_recipes import tree

import infomax as im
from infomax.benchmarks import until as benchmark
from infomax.evaluation.nearest import KNN_TEMPERATURE

SMALL = ("--dataset", "digits", "--encoder", "resnet10_small_gn", "--batch-size", 128)


@pytest.mark.slow
def test_it_ends_at_the_target_and_its_clock_leaves_measurements_out(run):
    ended = run("infomax", "benchmark", "until", *SMALL, "--target", 0.55, "--epochs", 12, "--every", 2, "--json")
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert found["reached"] and found["best"] >= 0.55 and found["epochs"] < 12
    epochs, knn, seconds, whole = zip(
        *([row[key] for key in ("epoch", "knn", "seconds", "seconds_with_measurements")] for row in found["curve"]),
        strict=True,
    )
    assert epochs == tuple(range(0, found["epochs"] + 1, 2)) and found["steps"] == 11 * found["epochs"]
    assert all(0 < value < 0.55 for value in knn[:-1]) and knn[-1] >= 0.55
    assert seconds[0] == 0 < whole[0] and all(np.diff(seconds) > 0) and all(np.diff(whole) > np.diff(seconds))
    assert found["seconds"] == seconds[-1] and found["seconds_with_measurements"] == whole[-1]
    assert found["images_per_second"] == pytest.approx(128 * found["steps"] / found["seconds"])
    assert (
        found["peak_mib"] > 50
        and found["precision"] in ("no", "bf16")
        and found["machine"]["torch"] == torch.__version__
    )
    assert torch.cuda.is_available() or found["utilisation"] is None
    assert "kNN accuracy 55 % on digits after" in ended.err and f"| {epochs[-1]} | {100 * knn[-1]:.1f} |" in ended.err


@pytest.mark.slow
def test_a_target_that_is_not_reached_is_said(run):
    ended = run("infomax", "benchmark", "until", *SMALL, "--limit", 300, "--target", 1, "--epochs", 1)
    assert ended.status == 0, ended.err
    assert "kNN accuracy 100 % on digits was not reached in 1 epochs, at best " in ended.out
    assert (torch.cuda.is_available() or "no GPU" in ended.out) and ended.out.count(
        "\n| "
    ) == 2  # an untrained encoder's, and one


def test_accuracy_is_that_of_ten_neighbours_by_cosine():
    images = im.data.dataset("digits")
    views = im.data.views_for(images)
    found = benchmark.accuracy(torch.nn.Flatten(), images, views.plain)
    x, t = (views.plain(split.batch(range(len(split)))).flatten(1).numpy() for split in (images.train, images.test))
    peer = KNeighborsClassifier(10, metric="cosine", weights=lambda d: np.exp(-d / KNN_TEMPERATURE))
    want = peer.fit(x, images.train.labels.numpy()).score(t, images.test.labels.numpy())
    assert found == pytest.approx(want, abs=1 / len(t)) and found > 0.9


def test_utilisation_is_read_while_it_watches():
    readings, three = [], threading.Event()

    def read():
        readings.append(len(readings) / 10)
        if len(readings) == 3:
            three.set()
        return readings[-1]

    use = benchmark.Utilisation(read, 0.01)
    assert use.mean is None
    with use.watched():
        assert three.wait(60)
    known = len(readings)
    time.sleep(0.1)
    assert len(readings) == known >= 3 and use.mean == pytest.approx(sum(readings) / known)
    nothing = benchmark.Utilisation(None)
    with nothing.watched():
        pass
    assert nothing.mean is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--target", "2"), "--target is an accuracy above 0 and at most 1"),
        (("--target", "nan"), "--target is an accuracy"),
        (("--dataset", "digitz"), "digitz"),
        (("--dataset", "waves:60"), "needs images with labels"),
        (("--dataset", "digits", "--objective", "InfoNTE()"), "InfoNTE"),
        (("--dataset", "digits", "--encoder", "resnet19"), "Unknown encoder 'resnet19'"),
        (("--dataset", "digits", "--limit", "20"), "20"),
        (("--every", "0"), "--every must be a positive number"),
    ],
)
def test_a_mistake_is_a_sentence(run, tmp_path, options, says):
    ended = run("infomax", "benchmark", "until", *options)
    assert ended.status == 2 and says in ended.err and "Traceback" not in ended.err, ended.err
    assert "kNN accuracy 90" not in ended.out and tree(tmp_path) == []
