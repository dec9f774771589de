"""Retrieval by label: the numbers of a plain float64 ranking and of scikit-learn, intervals that cover, where shown."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from test_report import flat, found  # noqa: F401  # found: an estimate, of which a page is made

from infomax import ui
from infomax.evaluation import Probes, Terms, by_label
from infomax.evaluation.by_label import retrieval_by_label
from infomax.evaluation.common import wilson
from infomax.evaluation.features import Store, of_array
from infomax.evaluation.probing import probe_features
from infomax.ui import report

# [30, 4]: of length 1 or 2, so that their cosines are exact and many are equal.
SIGNS = np.random.default_rng(5).choice([-1.0, 1.0], (30, 4)).astype(np.float32)


def drawn(m: int, classes: int, seed: int = 0, gap: float = 1.0):
    """Normal clouds [m, 6] around a centre a class, and labels [m]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, m)
    centres = gap * np.random.default_rng(99).normal(size=(classes, 6))
    return (centres[y] + rng.normal(size=(m, 6))).astype(np.float32), y


def plain(x, y, draws: int = 400) -> tuple[dict[int, float], float]:
    """Recall by k and mAP, one query after the other, in float64; ties by the mean of `draws` random orders."""
    x = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    hits: dict[int, list[float]] = {k: [] for k in by_label.KS}
    precisions, rng = [], np.random.default_rng(0)
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        cosines, right = (x @ x[i])[others], (y == y[i])[others]
        if right.any():
            precisions.append(average_precision_score(right, cosines))
            tied = len(np.unique(cosines)) < len(cosines)
            orders = [np.lexsort((rng.random(len(cosines)), -cosines)) for _ in range(draws if tied else 1)]
            for k, shares in hits.items():
                shares.append(float(np.mean([right[order[:k]].any() for order in orders])))
    return {k: float(np.mean(shares)) for k, shares in hits.items()}, float(np.mean(precisions or [np.nan]))


@pytest.mark.parametrize(("m", "classes"), [(60, 3), (60, 25), (200, 10), (12, 2)])
def test_the_numbers_of_a_plain_ranking_and_of_scikit_learn(m, classes):
    x, y = drawn(m, classes)
    got = retrieval_by_label(of_array(x, "x"), y)
    recalls, precision = plain(x, y)
    assert got is not None
    assert got.mean_average_precision == pytest.approx(precision, abs=1e-9)
    assert (got.recall_1, got.recall_5, got.recall_10) == pytest.approx(tuple(recalls.values()), abs=1e-12)
    lone = int((np.bincount(y)[y] == 1).sum())
    assert (got.queries, got.gallery, got.left_out) == (m - lone, m - 1, lone)


def test_equal_cosines_come_in_any_order():
    y = np.arange(30) % 4
    got = retrieval_by_label(of_array(SIGNS, "x"), y)
    recalls, precision = plain(SIGNS, y)
    assert got is not None and got.mean_average_precision == pytest.approx(precision, abs=1e-9)
    assert (got.recall_1, got.recall_5, got.recall_10) == pytest.approx(tuple(recalls.values()), abs=0.01)
    same = retrieval_by_label(of_array(np.ones((30, 4)), "x"), y)
    assert same is not None
    # Without one of r right images among k of 29: of 16 images r is 7, of 14 it is 6.
    for k, got in zip(by_label.KS, (same.recall_1, same.recall_5, same.recall_10), strict=True):
        missed = (16 * math.comb(22, k) + 14 * math.comb(23, k)) / math.comb(29, k) / 30
        assert [got, same.chance[f"recall_{k}"]] == pytest.approx([1 - missed] * 2)
    assert same.mean_average_precision == pytest.approx((16 * 7 + 14 * 6) / 30 / 29)  # classes of 8 and 7


@pytest.mark.parametrize("case", ["clouds", "small classes", "equal cosines"])
def test_without_each_image_is_what_the_others_give(case):
    x, y = drawn(40, 4) if case == "clouds" else drawn(40, 15)
    if case == "equal cosines":
        x, y = SIGNS, np.r_[np.arange(20) % 4, np.arange(10) % 8 + 4]
        assert (np.bincount(y) == 1).any() and (np.bincount(y) == 2).any()
    counts = np.bincount(y)
    state = by_label._Found(len(y))
    for at, cosines in by_label._cosines(of_array(x, "x"), np.flatnonzero(counts[y] > 1)):
        state.add(at, cosines, torch.from_numpy(y))
    left = [plain(np.delete(x, j, 0), np.delete(y, j), draws=1)[1] for j in range(len(y))]
    assert state.without / state.among == pytest.approx(np.array(left), abs=1e-9)


def test_blocks_and_disk_give_the_same_numbers(monkeypatch):
    x, y = drawn(300, 12)
    whole = retrieval_by_label(of_array(x, "x"), y)
    on_disk = Store(memory=0).hold([x], len(x))
    assert on_disk.on_disk and retrieval_by_label(on_disk, y) == whole
    for name, value in (("COSINES", 300 * 32), ("RANKED", 300 * 7), ("NUMBERS", 6 * 50)):
        monkeypatch.setattr(by_label, name, value)
    for parts in (of_array(x, "x"), on_disk):
        again = retrieval_by_label(parts, y)
        assert again is not None and whole is not None
        for key in by_label.SHOWN:
            assert getattr(again, key) == pytest.approx(getattr(whole, key), abs=1e-6)
            assert getattr(again, f"{key}_interval") == pytest.approx(getattr(whole, f"{key}_interval"), abs=1e-5)


@pytest.mark.parametrize("classes", [4, 40])
def test_intervals_cover(classes):
    """Of 300 test parts; Wilson's interval at all queries covers recall@1 in less than 90 %."""
    parts = [drawn(120, classes, seed) for seed in range(300)]
    rows = [row for x, y in parts if (row := retrieval_by_label(of_array(x, "x"), y)) is not None]
    for key in by_label.SHOWN:
        values = np.array([getattr(one, key) for one in rows])
        ends = np.array([getattr(one, f"{key}_interval") for one in rows])
        covered = np.mean((ends[:, 0] <= values.mean()) & (values.mean() <= ends[:, 1]))
        assert covered >= 0.92, (key, covered)
        # Nor are they far too wide.
        assert np.mean(ends[:, 1] - ends[:, 0]) < 1.7 * 2 * 1.96 * values.std(), key
    ones = [(row.recall_1, row.queries) for row in rows if row.recall_1 is not None]
    mean = np.mean([value for value, _ in ones])
    assert np.mean([low <= mean <= high for low, high in (wilson(*one) for one in ones)]) < 0.9


def test_few_images_and_ends():
    x = np.eye(4, dtype=np.float32)
    assert retrieval_by_label(of_array(x, "x"), np.arange(4)) is None
    pair = retrieval_by_label(of_array(x[[0, 0, 1]], "x"), np.array([1, 1, 0]))
    assert pair is not None and (pair.recall_1, pair.recall_5, pair.mean_average_precision) == (1.0, None, 1.0)
    assert pair.mean_average_precision_interval is None and "mAP 1.000 [no interval]" in str(pair)
    assert pair.recall_1_interval is not None and pair.recall_1_interval[0] < wilson(1.0, 2)[0]
    zeros = retrieval_by_label(of_array(0 * x, "x"), np.arange(4) // 2)
    assert zeros is not None and zeros.recall_1 == pytest.approx(1 / 3)


def test_shown_beside_the_baselines_and_saved(found, tmp_path, capsys):  # noqa: F811
    (x, y), (t, u) = drawn(200, 3, gap=2), drawn(100, 3, seed=1, gap=2)
    y[:2], u[0] = 3, 3
    row = probe_features(x, y, t, u)
    raw = probe_features(x[:, :1], y, t[:, :1], u)
    own = row.retrieval
    assert own is not None and raw.retrieval is not None and own == retrieval_by_label(of_array(t, "t"), u)
    saved = json.loads(json.dumps(row.to_dict()))["retrieval"]
    assert saved["recall_1"] == own.recall_1 and saved["chance"]["recall_5"] < 1 and saved["left_out"] == 1
    alone = "1 test image, alone in its class, is left out as a query of retrieval."
    assert f"retrieval by label  {own}\n{alone}" in str(row)
    ui.print_evaluation(Probes(row, raw, None), None)
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines()) and alone in " ".join(out.split())
    page = flat(report.of_run(Terms(found), Probes(row, raw, None), None, tmp_path / "run", "clouds"))
    assert "Retrieval by label" in page and alone in page
    for text in (out, page):
        for one in (own, raw.retrieval):
            low, high = one.mean_average_precision_interval or (0.0, 0.0)
            assert f"{100 * one.mean_average_precision:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in text
    none = probe_features(x, y, t[:3], np.array([0, 1, 2]))
    assert none.retrieval is None and "retrieval" not in str(none)
    ui.print_evaluation(Probes(none, none, None), None)
    assert "Retrieval" not in capsys.readouterr().out
    assert "Retrieval by label" not in flat(
        report.of_run(Terms(found), Probes(none, none, None), None, tmp_path / "run", "clouds")
    )
