"""Targets: read from tables and arrays, kept by every split; probed by R^2 and mAP that are right, with intervals."""

import json
import math
import tracemalloc
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from conftest import command
from PIL import Image
from test_report import Reader, flat
from torch import nn

import infomax as im
from infomax import ui
from infomax.data.targets import Target, tagged
from infomax.evaluation import features, probe_all, targets
from infomax.evaluation.features import of_array
from infomax.evaluation.targets import _mean, _precisions, _r2, probe_targets


def number(n: int, noise: float, seed: int, d: int = 6):
    """Features [n, d] of which the first is a number up to noise, and the number as a target."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    y = 40 + 9 * (x[:, 0] + noise * rng.normal(size=n))
    return torch.from_numpy(x), (Target("age", torch.from_numpy(y)),)


# ------------------------------------------------------------------------------------------------------- probes


def test_r2_is_the_share_that_features_explain():
    for noise, share in ((1.0, 0.5), (0.5, 0.8)):
        [found] = probe_targets(*number(1000, noise, 0), *number(500, noise, 1))
        assert (found.name, found.kind, found.chance) == ("age", "R2", 0.0)
        assert found.score is not None and found.interval is not None
        assert found.score == pytest.approx(share, abs=0.06)
        assert found.interval[0] < found.score < found.interval[1]
        assert found.interval[1] - found.interval[0] < 0.18
    [found] = probe_targets(*number(400, 1e6, 0), *number(400, 1e6, 1))
    assert found.score is not None and -0.1 < found.score < 0.05, "noise explains nothing"


def test_the_interval_of_r2_covers():
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        t = rng.normal(size=200)
        drawn = _r2(t, 0.5 * t + 0.5 * rng.normal(size=200), targets._draws(200, seed))
        low, high = targets._percentiles(drawn)
        covered += low <= 0.5 <= high  # 1 - (.25 + .25) / 1
    assert covered >= 88


def test_scores_are_those_of_scikit_learn():
    from sklearn.metrics import average_precision_score, r2_score

    rng = np.random.default_rng(0)
    t, answers = rng.normal(size=50), rng.normal(size=50)
    assert _r2(t, answers, np.ones((1, 50)))[0] == pytest.approx(r2_score(t, answers))
    tags, scores = rng.random((50, 3)) < 0.3, rng.integers(0, 8, (50, 3)).astype(float)  # with ties
    weights = rng.integers(0, 3, (4, 50)).astype(float)
    found = _precisions(tags, scores, weights)
    for b in range(4):
        for k in range(3):
            expected = average_precision_score(tags[:, k], scores[:, k], sample_weight=weights[b])
            assert found[b, k] == pytest.approx(expected)
    assert np.isnan(_precisions(tags & False, scores, weights)).all()
    assert _mean(np.array([[0.5, np.nan], [np.nan, np.nan]])).tolist()[0] == 0.5


@pytest.mark.parametrize("d", [3, 300])
def test_ridge_is_that_of_scikit_learn_with_more_rows_or_more_columns(d):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    X, T = rng.normal(size=(80, d)).astype(np.float32), rng.normal(size=(20, d)).astype(np.float32)
    y = X[:, 0] * 2 + rng.normal(size=80)
    own = targets._Ridge(of_array(X, "X"), y[:, None]).predict(of_array(T, "T"), [0.1])[0][:, 0]
    mean, deviation = X.mean(0), X.std(0)
    theirs = Ridge(alpha=0.1 * 80).fit((X - mean) / deviation, y).predict((T - mean) / deviation)
    assert own == pytest.approx(theirs, abs=1e-4)


def test_wide_features_of_many_images_are_projected(monkeypatch):
    monkeypatch.setattr(targets, "COLUMNS", 40)
    (x, y), (t, u) = number(300, 0.1, 0, d=60), number(200, 0.1, 1, d=60)
    [found] = probe_targets(x, y, t, u)
    assert found.protocol["projected"] and found.score is not None and found.score > 0.3
    assert found == probe_targets(x, y, t, u)[0]


def words(n: int, seed: int):
    rng = np.random.default_rng(seed)
    tags = rng.random((n, 4)) < (0.5, 0.2, 0.3, 0.0)
    x = (tags @ np.eye(4, 6)[:, :6] * 3 + rng.normal(size=(n, 6))).astype(np.float32)
    x[:, 2] = rng.normal(size=n)  # of the third word nothing is seen
    return torch.from_numpy(x), (Target("label", torch.from_numpy(tags), ("cat", "dog", "owl", "yak")),)


@pytest.mark.parametrize("count", [1, 4])
def test_all_targets_take_four_walks_over_features_and_two_squares(count, monkeypatch):
    n, d = 900, 500
    monkeypatch.setattr(features, "ELEMENTS", 2**14)
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(100, d)).astype(np.float32)
    y, u = (tuple(Target(f"{i}", torch.from_numpy(z[:, i].astype(float))) for i in range(count)) for z in (x, t))
    walked, blocks = [], features.Features.blocks

    def counted(self, *args):
        for block in blocks(self, *args):
            walked.extend([len(block)] if len(self) == n else [])
            yield block

    monkeypatch.setattr(features.Features, "blocks", counted)
    X, T = of_array(x, "x"), of_array(t, "t")
    probe_targets(X, y, T, u)  # imports
    walked.clear()
    tracemalloc.start()
    probe_targets(X, y, T, u)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(walked) <= 4 * n
    assert peak < 2.6 * 8 * d**2, peak / (8 * d**2)


def test_words_are_ranked_and_a_word_that_is_nowhere_is_left_out():
    [found] = probe_targets(*words(600, 0), *words(400, 1))
    each = found.protocol["words"]
    assert found.kind == "mAP" and list(each) == ["cat", "dog", "owl"] and found.protocol["left_out"] == ["yak"]
    assert each["cat"] > 0.95 and each["dog"] > 0.9 and each["owl"] == pytest.approx(0.3, abs=0.12)
    assert found.score is not None and found.interval is not None
    assert found.score == pytest.approx(np.mean(list(each.values())))
    assert found.interval[0] < found.score < found.interval[1]
    assert found.chance == pytest.approx(1 / 3, abs=0.05)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("m", "r"), [(m, r) for m in range(1, 8) for r in range(1, m + 1)])
def test_chance_is_the_mean_over_all_rankings(m, r):
    scores = np.arange(m, 0, -1.0)[:, None]
    every = []
    for ranks in combinations(range(m), r):  # every order has one of these, equally often
        there = np.isin(np.arange(m), ranks)[:, None]
        every.append(_precisions(there, scores, np.ones((1, m)))[0, 0])
    assert targets.random_precision([r], m) == pytest.approx(np.mean(every), rel=1e-12)


def test_noise_scores_what_chance_says():
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x, y = (torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32)) for n in (100, 100)), []
        for n in (100, 100):
            there = torch.from_numpy(rng.random((n, 12)) < 0.04)
            y.append((Target("tags", there, tuple("abcdefghijkl")),))
        a, b = x
        [one] = probe_targets(a, y[0], b, y[1])
        found.append((one.score, one.chance))
    scores, chances = np.array(found).T
    assert abs((scores - chances).mean()) < 3 * (scores - chances).std(ddof=1) / 12**0.5
    assert chances.mean() > 1.5 * 0.045, "a share is far below what noise scores"


def test_choices_do_not_depend_on_the_test_images():
    (x, y), (t, u) = number(200, 1.0, 0), number(100, 1.0, 1)
    other = (Target("age", u[0].values * 3 + 1),)
    first, second = probe_targets(x, y, t, u)[0], probe_targets(x, y, t, other)[0]
    assert (first.protocol["penalty"], first.protocol["held_out_score"]) == (
        second.protocol["penalty"], second.protocol["held_out_score"],
    )  # fmt: skip


def test_what_cannot_be_probed_says_why():
    (x, y), (t, u) = number(50, 1.0, 0), number(30, 1.0, 1)
    same = (Target("age", torch.ones(50, dtype=torch.float64)),)
    assert probe_targets(x, same, t, u)[0].protocol["reason"] == "it is the same for every training image"
    assert "10 are needed" in probe_targets(x[:5], (y[0].of(torch.arange(5)),), t, u)[0].protocol["reason"]
    none = (Target("label", torch.zeros(50, 1, dtype=torch.bool), ("cat",)),)
    there = (Target("label", torch.zeros(30, 1, dtype=torch.bool), ("cat",)),)
    found = probe_targets(x, none, t, there)[0]
    assert found.score is None and "no word" in found.protocol["reason"]
    with pytest.raises(im.UserError, match="other targets"):
        probe_targets(x, y, t, there)


# --------------------------------------------------------------------------------------------------------- data


def bright(n: int, seed: int):
    """Images whose upper half is as bright as a number says, and words for what is bright."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 200, n)
    images = rng.integers(0, 50, (n, 1, 8, 8)).astype(np.uint8)
    images[:, :, :4] += level[:, None, None, None].astype(np.uint8)
    return images, level


@pytest.fixture
def table(tmp_path):
    """A table of 60 images without classes: a number, and words."""
    images, level = bright(60, 0)
    lines = ["path,label,target:Age,split"]
    for i, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / f"{i}.png")
        told = "|".join(word for word, there in (("cat", level[i] > 100), ("dog", i % 3 == 0)) if there)
        lines.append(f"{i}.png,{told},{level[i]},{'test' if i % 3 == 1 else 'train'}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "t.csv"


def test_a_table_gives_numbers_and_words(table):
    data = im.data.dataset(f"csv:{table}")
    assert data.train.labels is None and any("several words, 2 of them" in note for note in data.notes)
    _, level = bright(60, 0)
    kept = np.arange(60) % 3 != 1
    tags, age = data.train.targets
    assert (tags.name, tags.words, age.name, age.words) == ("label", ("cat", "dog"), "Age", ())
    assert age.values.tolist() == level[kept].tolist()
    assert tags.values[:, 0].tolist() == (level[kept] > 100).tolist()
    assert data.test.targets[1].values.tolist() == level[~kept].tolist()
    some = data.train.subset([5, 2])
    assert some.targets[1].values.tolist() == age.values[[5, 2]].tolist()
    assert im.data.dataset(f"csv:{table}", limit=7).train.targets[1].values.tolist() == age.values[:7].tolist()
    bright_rows = data.train.batch(range(40)).float()[:, 0, :4].mean((1, 2))
    assert np.corrcoef(bright_rows, age.values)[0, 1] > 0.98, "each image lies beside its own number"


def test_numbers_stay_beside_their_images_where_classes_order_them(table):
    rows = [line.split(",") for line in table.read_text().splitlines()]
    lines = [",".join([r[0], "ab"[i % 2], r[2]]) for i, r in enumerate(rows[1:])]
    table.write_text("\n".join(["path,label,target:Age", *lines]))
    data = im.data.dataset(f"csv:{table}")
    assert data.classes == ["a", "b"]
    for split in (data.train, data.test):
        shown = split.batch(range(len(split))).float()[:, 0, :4].mean((1, 2))
        assert np.corrcoef(shown, split.targets[0].values)[0, 1] > 0.98


@pytest.mark.parametrize(
    ("head", "cell", "told"),
    [
        ("path,target:Age", "old", "Line 3 of .* has 'old' in the column target:Age, which is no number"),
        ("path,target:Age", "", "has '' in the column target:Age"),
        ("path,target:Age", "inf", "has 'inf'"),
        ("path,age", "1", "has no column label; its columns are path, age: name them .* target:NAME"),
    ],
)
def test_a_number_that_is_none_is_named_with_its_line(table, head, cell, told):
    table.write_text(f"{head}\n0.png,1\n1.png,{cell}\n2.png,3\n")
    with pytest.raises(im.UserError, match=told):
        im.data.dataset(f"csv:{table}")


def arrays(**more):
    (train, level), (test, other) = bright(80, 0), bright(40, 1)
    given: dict[str, Any] = {"targets": (level, other)} | more
    return im.data.from_tensors(train, None, test, None, **given)


def test_arrays_in_hand_bring_their_targets():
    data = arrays(target_names=["age"])
    assert data.train.targets[0].name == "age" and len(data.test.targets[0].values) == 40
    two = arrays(targets=(np.zeros((80, 2)), torch.ones(40, 2)))
    assert [t.name for t in two.train.targets] == ["target 0", "target 1"]
    tags = arrays(targets=(np.eye(80, 3, dtype=bool), np.zeros((40, 3), bool)), target_names=["a", "b", "c"])
    assert tags.train.targets[0].words == ("a", "b", "c") and tags.train.targets[0].values.dtype == torch.bool
    assert data.fingerprint == arrays(targets=None).fingerprint, "a run on the same images goes on"
    signals = im.data.from_signals(np.random.rand(9, 5), None, np.random.rand(4, 5), None, targets=([1] * 9, [2] * 4))
    assert signals.test.targets[0].values.tolist() == [2.0] * 4
    assert tagged("t", ["b| a", "", "b|b"]).values.tolist() == [[True, True], [False, False], [False, True]]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"targets": np.zeros(80)}, "a pair"),
        ({"targets": (np.zeros(79), np.zeros(40))}, "80 training samples but 79 rows"),
        ({"targets": (np.zeros(80), np.full(40, math.nan))}, "test targets hold NaN or infinity in 40 rows"),
        ({"targets": (["a"] * 80, ["b"] * 40)}, "training targets are <U1"),
        ({"targets": (np.zeros((80, 2)), np.zeros(40))}, "same kind and columns"),
        ({"target_names": ["a", "b"]}, "1 different names"),
        ({"targets": None, "target_names": ["a"]}, "none are given"),
    ],
)
def test_odd_targets_are_refused(more, told):
    with pytest.raises(im.UserError, match=told):
        arrays(**more)


def test_factors_of_drawn_samples_are_targets():
    from infomax.data import scenes, waves

    made = im.data.dataset("scenes:12")
    assert [t.name for t in made.train.targets] == list(scenes.NUMBERS)
    assert made.train.targets[1].values.tolist() == scenes.factors(torch.arange(12))[:, 2].tolist()
    assert [t.name for t in im.data.dataset("waves:12").test.targets] == list(waves.NUMBERS)


# ----------------------------------------------------------------------------------------------- the evaluation


class Rows(nn.Module):
    def forward(self, x):
        return x.mean((1, 3))


def test_targets_are_probed_without_labels_and_shown(capsys):
    found = probe_all(Rows(), arrays(target_names=["age"]))
    assert isinstance(found.probes, str) and "no labels" in found.probes and found.targets is not None
    trained, pixels = found.targets.trained[0], found.targets.pixels[0]
    assert trained.score is not None and trained.score > 0.9 and pixels.score is not None
    assert found.targets.untrained is None
    told = found.to_dict()
    assert told["targets"]["age"]["score"] == trained.score and told["not_measured"] == found.probes
    assert told["targets"]["age"]["pixels"]["score"] == pixels.score
    json.dumps(told, allow_nan=False)
    ui.print_evaluation(found.probes, None, targets=found.targets)
    out = capsys.readouterr().out
    assert "age, R2" in out and "no labels" in out and f"{trained.score:.2f} [" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert probe_all(Rows(), arrays(targets=None)).targets is None


@pytest.mark.slow
def test_the_commands_probe_targets(finished, table, tmp_path):
    ended = command(tmp_path, ["infomax", "probe", str(finished[0]), "--dataset", f"csv:{table}"])
    assert ended.status == 0, ended.err
    assert "label, mAP" in ended.out and "Age, R2" in ended.out and "has no labels" in ended.out
    ended = command(tmp_path, ["infomax", "probe", str(finished[0]), "--dataset", f"csv:{table}", "--json"])
    assert json.loads(ended.out)["targets"]["Age"]["untrained"]["kind"] == "R2"


def test_the_page_has_targets(tmp_path):
    from test_audit import at

    from infomax.evaluation import Terms
    from infomax.ui import report

    found = probe_all(Rows(), arrays(target_names=["<age>"]))
    page = report.of_run(Terms(at(2.0)), found.probes, None, tmp_path / "run", "bright", found.targets)
    Reader(page)
    assert "Targets" in flat(page) and "<age>, R2" in flat(page) and "<age>" not in page
