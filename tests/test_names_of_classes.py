"""`labels=` of estimate: which sides are names of classes, of any type, and what then has no order."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import infomax as im
from infomax import cli
from infomax.estimation import Budget
from infomax.estimation import pairs as inputs
from infomax.estimation.bases import discriminant
from infomax.estimation.pairs import frames

N = 300
RNG = np.random.default_rng(0)
CODE = RNG.integers(0, 4, N)
X = np.array([0.0, 2.0, -2.0, 1.0])[CODE] + RNG.normal(size=N)
CLOSED = Budget(steps=0)
NAMES = np.array(list("abcd"))[CODE]
SIDES = {
    "whole numbers": CODE, "[n, 1]": CODE[:, None], "list": CODE.tolist(), "floats": CODE / 10,
    "bytes": CODE.astype("u1"),
    "torch": torch.tensor(CODE), "bfloat16": torch.tensor(CODE).bfloat16(), "torch floats": torch.tensor(CODE) * 0.1,
    "texts": NAMES, "list of texts": NAMES.tolist(), "objects": NAMES.astype(object)[:, None],
    "texts of numbers": np.array(["10", "11", "12", "13"])[CODE],
    "two columns": np.c_[CODE // 2, CODE % 2], "two columns of floats": np.c_[CODE // 2, CODE % 2] / 2.0,
    "pandas floats": pd.Series(CODE / 10), "pandas texts of numbers": pd.Series(CODE.astype(str)),
    "pandas frame": pd.DataFrame({"a": NAMES, "b": CODE / 2}), "polars": pl.Series(NAMES),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIDES)
def test_what_holds_the_names_changes_nothing(kind):
    found = frames.read({"x": X, "y": SIDES[kind]}, labels="y")
    assert found.unordered == ("y",)
    codes = torch.as_tensor(found.sides["y"]).numpy()
    assert codes.shape == (N,)
    assert len({*zip(codes, CODE, strict=True)}) == len({*codes}) == 4
    assert kind == "pandas frame" or np.array_equal(codes, CODE), "in order, but for labels beside numbers"
    assert frames.read({"x": X, "y": CODE}).unordered == ()


@pytest.mark.parametrize(
    ("column", "unordered"),
    [
        (pd.Series(NAMES), ("y",)),
        (pd.Series(pd.Categorical(NAMES)), ("y",)),
        (pd.Series(pd.Categorical(NAMES, list("abcd"), ordered=True)), ()),
        (pl.Series(NAMES).cast(pl.Categorical), ("y",)),
        (pd.Series(CODE), ()),
    ],
)
def test_texts_and_categories_settle_it_themselves(column, unordered):
    assert frames.read({"x": X, "y": column}).unordered == unordered


def counts(n):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 1))
    return x, np.digitize(x[:, 0] + 0.3 * rng.normal(size=n), np.linspace(-1.8, 1.8, 14))


@pytest.mark.parametrize("label", [0, 1])
def test_order_is_not_tried_of_names(label):
    sides = counts(400) if label else counts(400)[::-1]
    kinds = []
    for unordered in ("", "xy"[label], "xy"[1 - label]):
        [pairs], _, _ = inputs.prepared([(*sides, None)], unordered=unordered)
        fit, select, _ = inputs.folds(pairs, 5, 0)[0]
        assert {part.unordered for part in (fit, select.first(20), fit.to("cpu"))} == {unordered}
        kinds.append((discriminant.base_of(fit, select, label, 0.01).protocol or {})["kind"])
    assert kinds[0] == kinds[2] == "ordered", "where it is there, and that of the other side is nobody's"
    assert kinds[1] != "ordered"


@pytest.mark.slow
def test_names_have_no_order_and_whole_numbers_may():
    x, y = counts(600)
    plain = im.estimate(x, y, budget=CLOSED)
    named = im.estimate(x, y, budget=CLOSED, labels="y")
    turned = im.estimate(y, x, budget=CLOSED, labels="x")
    assert [c.name for c in plain.checks if c.name == "order of labels"], "order wins where it is there"
    for found in (named, turned):
        assert not [c.name for c in found.checks if c.name == "order of labels"]
    assert (named.protocol["labels"], turned.protocol["labels"]) == (["y"], ["x"])
    assert named.mi == pytest.approx(turned.mi, abs=1e-6)
    assert "labels" not in plain.protocol


def test_few_floats_are_names_where_they_are_said_to_be():
    """A label without order in floats of few values: by classes alone, where numbers compete without `labels`."""
    found = im.estimate(X, CODE / 10, budget=CLOSED, labels="y")
    assert found.protocol["labels"] == ["y"]
    [check] = [c for c in found.checks if c.name == "labels in y"]
    assert check.sentence.startswith("y is named by labels= and was read as a label with 4 values")
    assert found.cap is not None
    assert not [c for c in found.checks if c.name == "reading of y"]


def test_given_and_both_sides_may_be_names():
    z = RNG.integers(0, 3, N) / 3
    told = im.estimate(X, CODE / 4, given=z, budget=CLOSED, labels="given, y")
    assert told.protocol["labels"] == ["y", "given"]
    sentences = {c.name: c.sentence for c in told.checks}
    for side in ("y", "given"):
        assert sentences[f"labels in {side}"].startswith(f"{side} is named by labels= and was read as a label")
    assert told.mi == pytest.approx(0.55, abs=0.2)
    both = im.estimate(NAMES, CODE % 2, budget=CLOSED, labels="y,x")
    assert both.mi == pytest.approx(np.log(2), abs=0.1)


def test_missing_names_are_counted_or_dropped():
    holes = NAMES.astype(object)
    holes[:7] = None
    with pytest.raises(im.UserError, match=r"missing in 7 of 300 rows \(7 in 'y' of y\)"):
        im.estimate(X, holes, labels="y")
    found = frames.read({"x": X, "y": holes}, missing="drop", labels="y")
    assert np.array_equal(found.sides["y"], CODE[7:])
    gaps = CODE / 4
    gaps[3] = np.nan
    with pytest.raises(im.UserError, match=r"y has NaN or infinity in 1 of 300 rows \(3\)"):
        im.estimate(X, gaps, labels="y")
    assert len(frames.read({"x": X, "y": gaps}, missing="drop", labels="y").sides["y"]) == N - 1


@pytest.mark.parametrize(
    ("labels", "y", "sentence"),
    [
        (
            "x",
            CODE,
            r"labels names x, floating-point numbers with 300 different values in 300 rows: too many .* 60 fit",
        ),
        ("y", np.arange(N), r"labels names y, whole numbers with 300 different values"),
        ("y", [f"name {k}" for k in range(N)], r"'y' of y holds names of 300 different values in 300 rows: too many"),
        ("z", CODE, r"labels is 'z': give the side .* 'x' or 'y'"),
        ("", CODE, r"labels is ''"),
        ("given", CODE, r"labels is 'given' \(nothing is given\)"),
        (True, CODE, r"labels is True"),
        ("y", np.zeros(N), r"y is the same in every row"),
    ],
)
def test_what_cannot_be_names_is_a_sentence(labels, y, sentence):
    with pytest.raises(im.UserError, match=sentence):
        im.estimate(X, y, labels=labels)


def test_the_command_line_takes_them(tmp_path):
    pd.DataFrame({"x": X, "site": CODE / 2}).to_csv(tmp_path / "t.csv", index=False)
    asked = {"x": "x", "y": "site", "estimator": "KSG"}
    with pytest.raises(im.UserError, match="most rows repeat"):
        cli.estimate(tmp_path / "t.csv", **asked)
    for more, sentence in (
        ({}, "label of 4 values"),
        ({"lags": "1"}, "--labels does not go with --lags"),
        ({"missing": "drop"}, "label of 4 values"),
    ):
        with pytest.raises(im.UserError, match=sentence):
            cli.estimate(tmp_path / "t.csv", labels="y", **asked, **more)
    with pytest.raises(im.UserError, match="--labels goes with two arrays"):
        cli.estimate(tmp_path, labels="y")


@pytest.mark.slow
def test_an_audit_keeps_names_where_pairs_are_changed():
    found = im.estimation.audit(X, CODE / 10, budget=CLOSED, labels="y")
    assert found.mi == im.estimate(X, CODE, budget=CLOSED, labels="y").mi
    assert found.protocol["labels"] == ["y"]
    [calibration] = [c for c in found.checks if c.name == "calibration"]
    assert "could not be made" not in calibration.sentence
