"""`infomax benchmark transfer`: its truth, its table, and that what is kept is not run again."""

import json

import numpy as np
import pytest

import infomax as im
from infomax.benchmarks import rival_worker, transfer
from infomax.benchmarks.transfer import KINDS, PEERS, Var


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_is_that_of_a_long_series(kind):
    """By regressions of y on its own row before, and on x's too."""
    x, y = KINDS[kind].sample(100_000, np.random.default_rng(0))
    left = []
    for known in ([y[:-1]], [y[:-1], x[:-1]]):
        rows = np.stack([np.ones(len(y) - 1), *known], 1)
        left.append(np.var(y[1:] - rows @ np.linalg.lstsq(rows, y[1:], rcond=None)[0]))
    assert 0.5 * np.log(left[0] / left[1]) == pytest.approx(KINDS[kind].forth, abs=0.01)
    assert Var(0.5, 0.5, 0.0).forth == 0


def test_a_line_by_hand():
    def cell(seed: int, mi: float, other: float | None) -> dict:
        own = {"mi": mi, "seconds": 4.0, "interval": [0.0, 0.2], "trusted": seed == 0, "p_value": 0.5}
        return {"kind": "weak", "way": "x to y", "n": 1000, "seed": seed, "true": 0.1, "infomax": own,
                "infomeasure, KSG": {"mi": other, "seconds": None if other is None else 0.5}}  # fmt: skip

    text = transfer.table({"cells": [cell(0, 0.12, 0.2), cell(1, 0.10, None)]})
    assert text.splitlines()[-1] == (
        "| weak | x to y | 0.100 | 1000 | 2 | +0.010 (0.014) | +0.100 (0.000) | 2, 1 | 4 / 0.5 |"
    )


def test_every_peer_has_a_worker_and_a_pinned_version():
    for name, peer in PEERS.items():
        assert name in rival_worker.RIVALS
        assert all("==" in requirement for requirement in peer.requirements)


@pytest.mark.slow
def test_it_is_kept_and_refuses(tmp_path, capsys):
    transfer.command((300,), 1, tmp_path, alone=True, json=True)
    found = json.loads(capsys.readouterr().out)
    assert [(c["kind"], c["way"]) for c in found["cells"]] == [(k, w) for k in KINDS for w in transfer.WAYS]
    for cell in found["cells"]:
        assert cell["infomax"]["interval"][0] <= cell["true"] <= cell["infomax"]["interval"][1]
    assert (tmp_path / "table.md").read_text().startswith("| series |")
    with pytest.raises(im.UserError, match="--rows has 50"):
        transfer.command((50,), 1, tmp_path, alone=True)
