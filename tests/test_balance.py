"""Unbalanced classes: balanced accuracy sees what accuracy hides, its interval covers, and it is shown where needed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_report import Reader, flat, found  # noqa: F401  # found: an estimate, of which a page is made

from infomax import ui
from infomax.evaluation import Probes, Terms
from infomax.evaluation.balance import balance, balanced
from infomax.evaluation.probing import Probe, probe_features, wilson
from infomax.ui import report
from infomax.ui.pictures import confusion


def noise(n: int, rare: int, seed: int):
    """Features that know nothing, and labels: of `rare` images class 1, of the others class 0."""
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32), (np.arange(n) < rare).astype(np.int64)


@pytest.fixture(scope="module")
def blind():
    return probe_features(*noise(600, 30, 0), *noise(400, 20, 1), names=["common", "rare"])


def test_noise_with_a_rare_class_looks_good_by_accuracy_alone(blind):
    assert blind.accuracy >= 0.94 and blind.knn >= 0.94
    told = blind.balance
    assert (told.majority, told.share, told.unbalanced) == ("common", 0.95, True)
    for value, (low, high) in (
        (told.accuracy, told.accuracy_interval), (told.knn, told.knn_interval), (told.shots_10, told.shots_10_interval)
    ):  # fmt: skip
        assert value == pytest.approx(0.5, abs=0.06) and 0 <= low <= value <= high <= 1
    assert told.accuracy_interval[0] < 0.5 < told.accuracy_interval[1]
    assert "always 'common' would be right 0.950" in str(blind) and "balanced, linear" in str(blind)
    assert json.loads(json.dumps(blind.to_dict()))["balance"]["classes"][1]["name"] == "rare"


def test_a_rare_class_that_is_found_counts_as_much_as_the_common_one():
    (x, y), (t, u) = noise(600, 60, 0), noise(400, 40, 1)
    x[y == 1] += 4
    t[u == 1] += 4
    told = probe_features(x, y, t, u).balance
    assert told is not None and told.accuracy > 0.97
    found_rare = told.classes[1].recall_interval
    assert found_rare is not None and found_rare[0] > 0.85


def test_classes_by_hand():
    y, t = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 0, 1, 1])
    told = balance(y, t, np.array([0, 0, 0, 1, 1, 2]), None, t, ["a", "b", "c"])
    assert told.confusion == ((3, 1, 0), (0, 1, 1), (0, 0, 0))
    assert [(c.name, c.train, c.test, c.recall, c.precision) for c in told.classes] == [
        ("a", 2, 4, 0.75, 1.0), ("b", 2, 2, 0.5, 0.5), ("c", 2, 0, None, 0.0),
    ]  # fmt: skip
    assert told.accuracy == pytest.approx((0.75 + 0.5) / 2), "a class without test images has no recall"
    assert (told.knn, told.shots_10, told.share, told.unbalanced) == (1.0, None, 4 / 6, True)
    many = np.arange(202) % 101
    assert balance(many, many, many, None, many).confusion is None


@pytest.mark.parametrize(
    ("counts", "recalls"),
    [((100, 50, 20, 8), (0.9, 0.7, 0.5, 0.8)), ((50,) * 10, (0.97,) * 10), ((900, 100), (0.98, 0.9))],
)
def test_the_interval_of_balanced_accuracy_covers(counts, recalls):
    # Of 1,000 test sets of a classifier whose recalls are known, about 95 % hold their mean.
    t, right = np.repeat(np.arange(len(counts)), counts), np.repeat(recalls, counts)
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        answers = np.where(rng.random(len(t)) < right, t, (t + 1) % len(counts))
        low, high = balanced(t, answers)[1]
        covered += low <= np.mean(recalls) <= high
    assert 0.93 <= covered / 1000 <= 0.98


@pytest.mark.parametrize("small", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("recall", [0.5, 0.7])
def test_the_interval_covers_where_one_class_is_small(small, recall):
    """Wilson's at as many images covers 77 to 91 % of them where recalls are .5 or .7."""
    counts, recalls = (200, 200, 200, small), (0.95, 0.95, 0.95, recall)
    t, right = np.repeat(np.arange(4), counts), np.repeat(recalls, counts)
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        answers = np.where(rng.random(len(t)) < right, t, (t + 1) % 4)
        mean, (low, high) = balanced(t, answers)
        covered += low <= np.mean(recalls) <= high
        assert 0 <= low <= mean <= high <= 1
    assert covered >= 0.94 * 300, covered


@pytest.mark.parametrize("counts", [(2, 2, 500), (3, 4, 200), (2, 2, 200, 200), (8, 9, 300)])
@pytest.mark.parametrize("recall", [0.5, 0.8])
def test_the_interval_covers_where_two_classes_are_small(counts, recall):
    """Wilson's at as many images covers as few as 90 %."""
    recalls = np.array([recall, recall, 0.95, 0.95])[: len(counts)]
    t, right = np.repeat(np.arange(len(counts)), counts), np.repeat(recalls, counts)
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        answers = np.where(rng.random(len(t)) < right, t, -1)
        low, high = balanced(t, answers)[1]
        covered += low <= recalls.mean() <= high
    assert covered >= 0.94 * 300, covered


def test_of_even_classes_it_is_accuracy_and_about_its_interval():
    t = np.repeat(np.arange(4), 25)
    answers = np.where(np.arange(100) % 7, t, 0)
    accuracy = float(np.mean(answers == t))
    assert balanced(t, answers) == (pytest.approx(accuracy), pytest.approx(wilson(accuracy, 100), abs=0.003))


def test_the_table_has_balanced_accuracy_where_classes_are_unbalanced(blind, capsys):
    ui.print_evaluation(Probes(blind, blind, blind), None)
    out = capsys.readouterr().out
    told = " ".join(out.split())
    assert "always answering common is right 95.0 % of the time" in told and out.count("trained encoder") == 4
    assert all(len(line) <= 80 for line in out.splitlines())
    (x, y), (t, u) = noise(200, 100, 0), noise(199, 99, 1)
    even = probe_features(x, y, t, u)
    assert even.balance is not None and not even.balance.unbalanced
    ui.print_evaluation(Probes(even, even, None), None)
    assert "unbalanced" not in capsys.readouterr().out


def test_the_page_has_a_table_and_a_picture_of_the_classes(blind, found, tmp_path, capsys):  # noqa: F811
    page = report.of_run(Terms(found), Probes(blind, blind, None), None, tmp_path / "run", "noise")
    text = flat(page)
    for told in ("By class", "always answering common is right for 95.0 %", "taken for", "Each class", "rare"):
        assert told in text, told
    Reader(page)
    bare = Probe(0.9, (0.8, 0.95), None, None, 0.7, (0.6, 0.8), {"test_images": 16})
    without = report.of_run(Terms(found), Probes(bare, bare, None), None, tmp_path / "run", "noise")
    rare = replace(bare, protocol={"test_images": 16, "left_out": {"classes": ["lynx", "owl"], "test_images": 0}})
    probes = Probes(rare, rare, None)
    line = "Classes of one training image are left out: lynx, owl."
    assert line in flat(report.of_run(Terms(found), probes, None, tmp_path / "run", "noise")) and line not in text
    ui.print_evaluation(probes, None)
    assert line in " ".join(capsys.readouterr().out.split()) and line in str(probes)
    assert "By class" not in flat(without) and page.count("<svg") == without.count("<svg") + 1


def test_names_of_classes_come_from_the_data_set():
    from torch import nn

    import infomax as im

    images = torch.randint(0, 255, (40, 1, 4, 4), dtype=torch.uint8)
    labels = ["cat" if i % 4 else "dog" for i in range(40)]
    data = im.data.from_tensors(images[:20], labels[:20], images[20:], labels[20:])
    told = im.probe(nn.Flatten(), data).balance
    assert told is not None and [c.name for c in told.classes] == ["cat", "dog"] and told.majority == "cat"


def test_names_with_dollars_are_no_formulas():
    y = np.array([0, 1, 1])
    drawn = confusion(balance(y, y, y, None, y, ["$5_$10", "a$\\frac$"]))
    assert "$5_$10" in drawn and "a$\\frac$" in drawn
