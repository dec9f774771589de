"""Targets: read from tables and arrays, kept by every split; probed by R^2 and mAP that are right, with intervals."""

import json
import math
import tracemalloc
from dataclasses import replace
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
from infomax.evaluation.jackknife import jackknife, log_odds, of_log_odds
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


def r2_interval(t, answers):
    without = targets.r2_without(t, answers)
    return jackknife(_r2(t, answers), without, targets._log_left, targets._of_log_left)


def test_the_interval_of_r2_covers():
    """Of 10 test images too, where percentiles of a bootstrap cover 85 to 89 %."""
    for m, r2 in ((10, 0.5), (10, 0.95), (20, 0.95), (200, 0.5)):
        covered = 0
        for seed in range(400):
            rng = np.random.default_rng([m, seed])
            seen = r2**0.5 * rng.normal(size=m)
            interval = r2_interval(seen + (1 - r2) ** 0.5 * rng.normal(size=m), seen)
            covered += isinstance(interval, tuple) and interval[0] <= r2 <= interval[1]  # none: a miss
        assert covered >= 0.92 * 400, (m, r2, covered)


def r2_probe(t, answers):
    """What a number t [m] and answers [m] to it give."""
    y = t[:, None]
    return targets._Asked(Target("rare", torch.from_numpy(t), ()), y, y, ()).probe(answers[:, None], {})


@pytest.mark.parametrize(("m", "share"), [(50, 0.05), (100, 0.05), (200, 0.02), (200, 0.05), (500, 0.02)])
def test_the_interval_of_r2_covers_rare_values_where_there_is_one(m, share):
    """Without counting them, 66, 80 and 80 % would cover of the first three."""
    scores, intervals = [], []
    for seed in range(500):
        rng = np.random.default_rng([m, seed])
        t = (rng.random(m) < share).astype(float)
        answers = share + 0.5 * (t - share) * (rng.random(m) < 0.7) + 0.02 * rng.normal(size=m)
        if t.any():
            probe = r2_probe(t, answers)
            scores.append(probe.score)
            intervals.append(probe.interval)
    there = [interval for interval in intervals if interval is not None]
    if m * share < 10:
        assert len(there) < 0.06 * len(intervals)
        return
    mean = np.mean(scores)
    assert len(there) > 0.4 * len(intervals)
    assert sum(low <= mean <= high for low, high in there) >= 0.92 * len(there)


def test_r2_of_a_value_on_few_images_has_no_interval():
    rng = np.random.default_rng(0)
    for images in (1, 2, 9, 10):
        probe = r2_probe((np.arange(100) < images).astype(float), 0.01 * rng.normal(size=100))
        assert (probe.interval is None) == (images < 10)
        if 1 < images < 10:
            assert f"{images} test images lack the number's commonest value, and 10" in probe.protocol["interval"]
    two = r2_probe(np.repeat([0.0, 1.0], 5), np.repeat([0.1, 0.8], 5) + 0.1 * rng.normal(size=10))
    assert two.interval is None and "5 test images lack" in two.protocol["interval"]
    three = np.arange(12) % 3
    assert r2_probe(three.astype(float), three + 0.3 * rng.normal(size=12)).interval is not None


def test_an_interval_that_says_nothing_is_none(recwarn):
    t = np.random.default_rng(0).normal(size=30)
    off = t.copy()
    off[0] += 1e5
    off[1:] += 0.1
    probe = r2_probe(t, off)
    assert probe.score is not None and probe.score < -1e8
    assert probe.interval is None and "leave 1 - R2 uncertain by a factor above 55" in probe.protocol["interval"]
    without = np.full(30, 0.5)
    without[0] = 1e-300
    assert jackknife(0.5, without, log_odds, of_log_odds) == "wide"
    far = -np.exp(np.linspace(708.9, 709.7, 30))  # the upper end is no double
    assert jackknife(float(far[29]), far, targets._log_left, targets._of_log_left) == "undefined"
    rng = np.random.default_rng(0)
    has = np.arange(46)[:, None] % 2 == 0
    scores = has + 1e-3 * rng.random((46, 1))
    scores[0] = -1  # the last of all, without which the order is right
    asked = targets._Asked(Target("tags", torch.from_numpy(has), ("a",)), has * 1.0, has * 1.0, ("a",))
    found = asked.probe(scores, {})
    assert found.score is not None and 0.9 < found.score < 1 and found.interval is None
    assert not recwarn.list


def test_what_held_out_images_cannot_score_is_null():
    """Two images of a word, none of them held out."""
    has = torch.zeros(12, 2, dtype=torch.bool)
    has[:2] = True
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), (Target("tags", has, ("a", "b")),)
    probes = [probe_targets(x, y, x, y, seed=seed)[0] for seed in range(5)]
    assert any(probe.protocol["held_out_score"] is None for probe in probes)
    for probe in probes:
        json.dumps(probe.to_dict(), allow_nan=False)


def drawn_words(rng, m, share, words, strength):
    """Which of m images has which word, [m, words], and scores of it; what is said of one image's words is alike."""
    has = rng.random((m, words)) < share
    return has, 0.6 * rng.normal(size=(m, 1)) + 0.8 * rng.normal(size=has.shape) + strength * has


def map_intervals(m, share, words, strength, times):
    """Scores and intervals of draws of test images; None where there is none."""
    found = []
    for seed in range(times):
        has, scores = drawn_words(np.random.default_rng([m, words, seed]), m, share, words, strength)
        use = has.any(0) & ~has.all(0)
        if use.any():
            named = tuple(f"word {i}" for i in range(words))
            one = targets._Asked(
                Target("tags", torch.from_numpy(has), named), has[:, use].astype(float), has[:, use].astype(float),
                tuple(np.array(named)[use].tolist()),
            )  # fmt: skip
            probed = one.probe(scores[:, use], {})
            found.append((probed.score, probed.interval))
    return found


GRID = [(m, share, words, strength) for words in (1, 10) for m in (100, 500, 2000) for share in (0.02, 0.1, 0.5)
        for strength in (0.0, 0.5, 2.0)]  # fmt: skip


@pytest.mark.parametrize(
    ("m", "share", "words", "strength"),
    [
        pytest.param(*cell, marks=[] if cell in ((500, 0.1, 10, 0.0), (100, 0.5, 1, 2.0)) else pytest.mark.slow)
        for cell in GRID
    ],
)
def test_the_interval_of_map_covers(m, share, words, strength):
    """The mean score of test parts of m images; a percentile of a bootstrap covers 0 to 92 % of what it is about."""
    found = map_intervals(m, share, words, strength, 400 if m < 2000 else 200)
    mean = np.mean([score for score, _ in found])
    measured = [interval for _, interval in found if interval is not None]
    covered = sum(low <= mean <= high for low, high in measured)
    print(
        f"{m} images, {share:.0%}, {words} words, strength {strength}: {covered} of {len(measured)}, {len(found)} draws"
    )
    if m * share < 25:  # a word on 20 images is the exception then, and so are its scores
        assert len(measured) < 40
        return
    assert len(measured) > 0.5 * len(found) and covered >= 0.88 * len(measured)  # 90 % but for draws


def test_scores_are_those_of_scikit_learn():
    from sklearn.metrics import average_precision_score, r2_score

    rng = np.random.default_rng(0)
    t, answers = rng.normal(size=50), rng.normal(size=50)
    assert _r2(t, answers) == pytest.approx(r2_score(t, answers))
    tags, scores = rng.random((50, 3)) < 0.3, rng.integers(0, 8, (50, 3)).astype(float)  # with ties
    for rows in (slice(None), slice(0, 17), slice(20, 50)):
        found = _precisions(tags[rows], scores[rows])
        for k in range(3):
            assert found[k] == pytest.approx(average_precision_score(tags[rows, k], scores[rows, k]))
    assert np.isnan(_precisions(tags & False, scores)).all()
    assert _mean(np.array([0.5, np.nan])) == 0.5 and math.isnan(_mean(np.array([np.nan])))
    assert math.isnan(_r2(np.ones(9), answers[:9]))


def test_scores_without_an_image_are_those_of_the_others():
    rng = np.random.default_rng(1)
    for m, ties in ((2, 3), (9, 2), (30, 6), (30, 10**6)):
        t, scores = rng.random((m, 3)) < 0.4, rng.integers(0, ties, (m, 3)).astype(float)
        t[0, 0], t[1:, 0] = True, False  # without it there is none
        numbers, answers = rng.normal(size=m), rng.normal(size=m)
        for i in range(m):
            rest = np.arange(m) != i
            expected = _precisions(t[rest], scores[rest])
            for k in range(3):
                found = targets.precision_without(t[:, k], scores[:, k])[i]
                assert found == pytest.approx(expected[k], nan_ok=True, rel=1e-12)
            assert targets._mean_without(t, scores)[i] == pytest.approx(_mean(expected), nan_ok=True)
            expected_r2 = _r2(numbers[rest], answers[rest])
            assert targets.r2_without(numbers, answers)[i] == pytest.approx(expected_r2, nan_ok=True)


def test_a_score_that_says_nothing_of_its_spread_has_no_interval(capsys):
    rng = np.random.default_rng(0)
    has = np.arange(120)[:, None] % np.array([[3, 4]]) == 0
    x = np.concatenate([has, rng.normal(size=(120, 3))], 1).astype(np.float32)
    given = torch.from_numpy(x), (Target("tags", torch.from_numpy(has), ("a", "b")),)
    [found] = probe_targets(*given, *given)
    assert found.score == 1.0 and found.interval is None and "come first" in found.protocol["interval"]
    rare = has & (np.arange(120)[:, None] < 16)
    given = given[0], (Target("tags", torch.from_numpy(rare), ("a", "b")),)
    [found] = probe_targets(*given, *given)
    assert found.score is not None and found.interval is None
    assert found.protocol["interval"].startswith("none: words are on (or off) 4.8 test images")
    y = (Target("age", torch.from_numpy(np.where(np.arange(120) == 5, 9.0, 1.0))),)
    [number] = probe_targets(given[0], y, given[0], y)
    assert number.interval is None and number.protocol["interval"].startswith("none: a test image alone")
    ui.print_evaluation("none", None, targets=targets.TargetProbes((found, number), (found, number), None))
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert said.count("No interval of tags: words are on (or off) 4.8 test images") == 1
    assert said.count("No interval of age: a test image alone decides the score") == 1
    assert f"{found.score:.2f} [no interval]" in out and all(len(line) <= 80 for line in out.splitlines())


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
        every.append(_precisions(there, scores)[0])
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
    assert "No interval" not in flat(page) and found.targets is not None
    rare = replace(found.targets.trained[0], interval=None, protocol={"interval": "none: <few> images"})
    shown = replace(found.targets, trained=(rare,))
    page = report.of_run(Terms(at(2.0)), found.probes, None, tmp_path / "run", "bright", shown)
    assert "No interval of <age>: <few> images." in flat(page) and "<few>" not in page
    assert "Targets" in flat(page) and "<age>, R2" in flat(page) and "<age>" not in page
