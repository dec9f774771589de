"""infomax estimate --lags, --transfer and --blocks: what they print, and mistakes as sentences."""

import json

import numpy as np
import pandas as pd
import pytest
from test_lagged import series

import infomax as im
from infomax.ui.sides import MOST, lags_of

Z = series(600)


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "x.npy", Z[:, 0])
    np.save(tmp_path / "y.npy", Z[:, 1])
    np.save(tmp_path / "short.npy", Z[:60, 1])
    frame = pd.DataFrame(
        {"x": Z[:, 0], "y": Z[:, 1], "z": np.roll(Z[:, 0], 5), "sign": np.where(Z[:, 1] > 0, "u", "d")}
    )
    frame["gaps"] = np.where(np.arange(600) < 3, np.nan, Z[:, 1])
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "lags"),
    [
        ("0:3", (0, 1, 2, 3)), ("3", (3,)), ("-2:1", (-2, -1, 0, 1)), ("0:10:5", (0, 5, 10)), ("0:9:5", (0, 5)),
        ("0,5, 20", (0, 5, 20)), ("0:2,2:4", (0, 1, 2, 3, 4)),
    ],
)  # fmt: skip
def test_lags_are_read(text, lags):
    assert lags_of(text) == lags


@pytest.mark.parametrize(
    "text", ["", "a", "0:", ":3", "3:0", "0:10:0", "0:10:-1", "1.5", "0,,3", "0:1:2:3", f"0:{MOST}"]
)
def test_lags_that_cannot_be_read_are_told(text):
    with pytest.raises(
        im.UserError, match=f"more than {MOST} lags" if text == f"0:{MOST}" else "names no lags: give 0:10"
    ):
        lags_of(text)


def test_lags_of_two_files_are_a_line_each(run, files):
    done = run("infomax", "estimate", "x.npy", "y.npy", "--lags=-1:2", "--blocks", 12, "--method", "GCMI")
    found = im.lagged(Z[:, 0], Z[:, 1], [-1, 0, 1, 2], blocks=12, estimator="GCMI")
    assert (done.status, done.out) == (0, f"{found}\n")
    assert all(line.endswith(" s") for line in done.err.splitlines()), done.err  # how long it takes, on a busy machine
    assert [line.split()[1] for line in done.out.splitlines()] == ["-1", "0", "1", "2"]
    assert found[1].trusted and f"{found[1].statement}, p = " in done.out
    bits = run("infomax", "estimate", "x.npy", "y.npy", "--lags", "1", "--blocks", 12, "--method", "GCMI", "--bits")
    assert bits.out.startswith(f"lag    1  {found[1].bits.statement}")
    plain = run("infomax", "estimate", "x.npy", "y.npy", "--lags", "1", "--method", "GCMI")
    assert plain.out.startswith("lag    1  nothing is certified, as pairs depend")


def test_lags_of_a_table_as_json(run, files):
    words = ("--lags", "0,1", "--blocks", 12, "--method", "GCMI", "--json", "--output", "found.json")
    done = run("infomax", "estimate", "t.csv", "--x", "x", "--y", "y", "--given", "z", *words)
    found = json.loads(done.out)
    want = im.lagged(Z[:, 0], Z[:, 1], [0, 1], given=np.roll(Z[:, 0], 5), blocks=12, estimator="GCMI")
    assert [each["lag"] for each in found["lags"]] == [0, 1] and [each["mi"] for each in found["lags"]] == [*want.mi]
    assert found["lags"][0]["quantity"] == "I(X; Y | Z)"
    assert json.loads((files / "found.json").read_text())["estimate"] == found


def test_transfer_entropy_goes_both_ways(run, files):
    words = ("--transfer", "--blocks", 12, "--method", "GCMI")
    done = run("infomax", "estimate", "x.npy", "y.npy", *words, "--history", 2, "--json")
    found = json.loads(done.out)
    for way, pair in (("x_to_y", (0, 1)), ("y_to_x", (1, 0))):
        want = im.transfer_entropy(Z[:, pair[0]], Z[:, pair[1]], 2, blocks=12, estimator="GCMI")
        assert found[way]["mi"] == want.mi and found[way]["protocol"]["history"] == 2
    lines = run("infomax", "estimate", "t.csv", "--x", "x", "--y", "y", *words, "--lags", "1:2").out.splitlines()
    want = im.transfer_entropy(Z[:, 0], Z[:, 1], 1, [1, 2], blocks=12, estimator="GCMI")
    assert [line.split("  ")[0] for line in lines] == ["x -> y", "y -> x"] and want.statement in lines[0]


def test_a_series_of_texts_is_one_of_labels():
    names = np.where(Z[:, 1] > 0, "u", "d")
    budget = im.estimation.Budget(steps=0)
    found = im.lagged(pd.Series(Z[:, 0]), pd.Series(names), 1, blocks=12, budget=budget)
    assert found[1].mi == im.lagged(Z[:, 0], (names == "u").astype(int), 1, blocks=12, budget=budget)[1].mi
    with pytest.raises(im.UserError, match="missing in 3 of 600 rows"):
        im.lagged(pd.Series(Z[:, 0]), pd.Series(np.where(np.arange(600) < 3, np.nan, Z[:, 1])), 1)


MISTAKES = {
    "no lags": ("x.npy y.npy --lags 5:1", "--lags '5:1' names no lags: give 0:10"),
    "history": ("x.npy y.npy --history 3", "--history goes with --transfer"),
    "history of none": ("x.npy y.npy --transfer --history 0", "history is 0 and lag is 1: the past begins at 1"),
    "no past": ("x.npy y.npy --transfer --lags 0:2", "the past begins at 1"),
    "too long": ("short.npy short.npy --lags 20", "lag 20 leaves 40 of 60 rows"),
    "lengths": ("x.npy short.npy --lags 1", "y has 60 rows and x has 600"),
    "a run": ("runs --lags 1", "--lags goes with two arrays"),
    "a run's transfer": ("runs --transfer", "--transfer goes with two arrays"),
    "audit": ("x.npy y.npy --lags 1 --audit", "--lags does not go with --audit"),
    "audit of transfer": ("x.npy y.npy --transfer --audit", "--transfer does not go with --audit"),
    "report": ("x.npy y.npy --lags 1 --report page.html", "--report is a page of one estimate"),
    "drop": ("t.csv --x x --y gaps --lags 1 --missing drop", "--missing drop would leave rows out of a series"),
    "gaps": ("t.csv --x x --y gaps --lags 1", "3 in 'gaps' of y"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_sentence(what, run, files):
    words, sentence = MISTAKES[what]
    before = sorted(files.iterdir())
    done = run("infomax", "estimate", *words.split(), "--method", "GCMI")
    assert (done.status, done.out) == (2, "") and sentence in done.err and done.err.count("\n") == 1, done
    assert sorted(files.iterdir()) == before


def test_an_audit_takes_blocks(run, files):
    done = run("infomax", "estimate", "x.npy", "y.npy", "--audit", "--blocks", 12, "--method", "GCMI", "--json")
    assert done.status == 0, done
    want = im.estimation.audit(Z[:, 0], Z[:, 1], "GCMI", blocks=12)
    assert json.loads(done.out)["protocol"]["audit"] == json.loads(json.dumps(want.protocol["audit"]))
