"""The accuracy benchmark: its arithmetic, its refusals, and that it goes on from what is kept."""

import json
import math

import pytest
from PIL import Image

import infomax as im
from infomax.benchmarks import accuracy
from infomax.benchmarks.cells import figure, maker


def cell(mi: float, true: float, half: float, trusted: bool = True, n: int = 500) -> dict:
    return {"set": "set", "name": f"t{true}", "n": n, "seed": 0, "true": true, "mi": mi, "seconds": 1.0,
            "interval": [mi - half, mi + half], "trusted": trusted, "failed": []}  # fmt: skip


def test_the_summary_by_hand():
    cells = [cell(1.0, 1.1, 0.2), cell(2.0, 2.5, 0.1), cell(3.0, 3.0, 0.1, trusted=False), cell(0.0, 5.0, 9, False)]
    [row] = accuracy.summary(cells)
    assert row["mae"] == pytest.approx((0.1 + 0.5 + 0 + 5) / 4)
    assert (row["coverage"], row["coverage_trusted"]) == (0.75, 0.5)
    assert (row["wrong"], row["wrong_trusted"], row["trusted"]) == (0.5, 0.5, 0.5)
    assert accuracy.is_wrong(cell(math.nan, 1.0, 0.1))
    assert not accuracy.is_wrong(cell(9.2, 10.0, 0.1))  # 8 %
    text = accuracy.table({"cells": cells, "summary": [row]})
    assert "| set | 500 | 4 | 1.400 | 75 % | 50 % | 50 % | 50 % | 50 % |" in text
    assert "| t3.0 | 3.00 | 3.00? |" in text


def test_finished_cells_are_kept_and_not_run_again(tmp_path):
    def run() -> dict:
        return accuracy.accuracy((80,), (0,), "GCMI", ["normal 1"], tmp_path)

    first = run()
    [kept] = (tmp_path / "cells").glob("*.json")
    content = json.loads(kept.read_text())
    assert content["result"] == first["cells"][0]
    kept.write_text(json.dumps(content | {"result": content["result"] | {"mi": 7.0}}))
    assert run()["cells"][0]["mi"] == 7.0


def test_what_a_method_refuses_ends_no_run(tmp_path):
    [found] = accuracy.accuracy((80,), (0,), "KSG", ["gaussian 20, 4 nats"], tmp_path)["cells"]
    assert math.isnan(found["mi"]) and found["failed"] == ["refused"] and not found["trusted"]


@pytest.mark.parametrize(
    ("names", "method", "says"),
    [(["normal 7"], "GCMI", "no distribution 'normal 7'"), (["normal 1"], "GCMO", "GCMO")],
)
def test_unknown_names_are_refused(names, method, says, tmp_path):
    with pytest.raises(im.UserError, match=says):
        accuracy.accuracy((80,), (0,), method, names, tmp_path)


def test_the_picture_is_drawn(tmp_path):
    cells = [cell(1.0, 1.1, 0.2), cell(2.0, 2.5, 0.1, trusted=False, n=2000)]
    accuracy.draw({"cells": cells}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["Software"] == f"infomax {im.__version__}, {maker()}"
    _, _, save = figure(tmp_path / "b.png")
    save()
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.info["Software"] == f"infomax {im.__version__}, {maker()}"
