"""Surrogates of conditional independence: how often p is below 5 %, what they see, labels, blocks, the benchmark."""

import json

import numpy as np
import pytest
import torch

import infomax as im
from infomax.benchmarks import conditional
from infomax.benchmarks.conditional import KINDS
from infomax.estimation.evidence import surrogates

DRAWS = 40


def p_values(kind: str, n: int = 400, draws: int = DRAWS, length: int = 20) -> np.ndarray:
    found = []
    for seed in range(draws):
        x, y, z = (torch.tensor(side) for side in KINDS[kind].sample(n, np.random.default_rng(seed)))
        found.append(surrogates.p_value(x, y, z, torch.arange(len(x)) // (length if KINDS[kind].in_time else 1), seed))
    return np.array(found)


@pytest.mark.parametrize("kind", [
    "transfer, AR(1) of .9, uncoupled", "X <- Z -> Y, linear", "X <- Z -> Y, sin and square",
])  # fmt: skip
def test_of_what_is_independent_given_z_few_are_below_5_percent(kind):
    """At most 6 of 40, which 5 % exceed once in a hundred times."""
    assert (p_values(kind) <= 0.05).sum() <= 6


def test_a_marginal_matching_would_call_the_common_cause_dependence():
    x, y, z = (torch.tensor(side) for side in KINDS["X <- Z -> Y, linear"].sample(400, np.random.default_rng(0)))
    nothing = torch.randn(len(z), 1, generator=torch.Generator().manual_seed(0))
    assert surrogates.p_value(x, y, nothing, torch.arange(len(z)), 0) == 0.001
    assert surrogates.p_value(x, y, z, torch.arange(len(z)), 0) > 0.05


@pytest.mark.parametrize("kind", ["transfer, logistic maps, .02", "partial correlation of .15", "XOR of signs"])
def test_of_what_is_dependent_given_z_most_are_below_5_percent(kind):
    assert (p_values(kind, 600, 10) <= 0.05).sum() >= 5


def one_hot(codes: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(codes))


def test_labels_are_compared_within_the_labels_of_z():
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, 600)
    x, y = ((z + (rng.random(600) < 0.3)) % 3 for _ in range(2))
    ids = torch.arange(600)
    assert surrogates.p_value(one_hot(x), one_hot(y), one_hot(z), ids, 0) > 0.05
    assert surrogates.p_value(one_hot(x), one_hot(y), one_hot(rng.integers(0, 3, 600)), ids, 0) == 0.001
    a, b = rng.integers(0, 2, (2, 600))
    assert surrogates.p_value(one_hot(a), one_hot(b), one_hot(a ^ b), ids, 0) <= 0.003  # by one sum of three


def test_blocks_stay_together_and_neighbours_of_them_too():
    blocks = torch.tensor([7, 7, 3, 3, 9, 9] * 1 + [k for k in range(20, 62) for _ in range(2)])
    groups = surrogates.groups_of(blocks)
    assert len(np.unique(groups)) == 45 // surrogates.TOGETHER and (np.diff(groups) >= 0).all()
    assert all(len(set(groups[(blocks == name).numpy()])) == 1 for name in blocks.unique())
    assert len(np.unique(surrogates.groups_of(torch.arange(1000)))) == surrogates.GROUPS
    assert len(np.unique(surrogates.groups_of(torch.arange(8)))) == surrogates.FEWEST_GROUPS


def test_what_z_tells_all_of_has_p_value_1():
    z = torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert surrogates.p_value(2 * z, torch.randn(200, 1, dtype=torch.float64), z, torch.arange(200), 0) == 1.0


def test_wide_sides_are_read_by_components():
    rng = np.random.default_rng(0)
    u, z = rng.normal(size=(2, 300, 1))
    x, y = (u @ rng.normal(size=(1, 300)) + z + rng.normal(size=(300, 300)) for _ in range(2))
    other = rng.normal(size=(300, 300)) + z
    asked = [surrogates.p_value(torch.tensor(side), torch.tensor(y), torch.tensor(z), torch.arange(300), 0)
             for side in (x, other)]  # fmt: skip
    assert asked[0] == 0.001 and asked[1] > 0.05


def test_an_estimate_joins_both_p_values_and_repeats_them():
    x, y, z = KINDS["partial correlation of .15"].sample(300, np.random.default_rng(0))
    found, again = (im.estimate(x, y, "GCMI", given=z, blocks=5, seed=3) for _ in range(2))
    both = found.protocol["p_values"]
    assert found.p_value == min(1.0, both["surrogates"] / 0.9, both["scores"] / (1 - 0.9))
    assert both == again.protocol["p_values"] and found.p_value == again.p_value
    assert im.estimate(x, y, "GCMI", blocks=5).protocol.get("p_values") is None


def test_a_line_by_hand():
    cells = [{"kind": "XOR of signs", "n": 600, "seed": k, "surrogates": p, "seconds": 0.02}
             for k, p in enumerate((0.05, 0.2))]  # fmt: skip
    assert conditional.table(conditional.summary(cells)).splitlines()[-1] == (
        "| XOR of signs | dependent | 600 | 2 | 50.0 [1.3, 98.7] | 0.02 |"
    )


def test_the_benchmark_is_kept_and_refuses(tmp_path, capsys):
    conditional.command((200,), 2, names=("X <- Z -> Y, linear",), alone=True, output=tmp_path, json=True)
    found = json.loads(capsys.readouterr().out)
    assert [cell["seed"] for cell in found["cells"]] == [0, 1] and found["summary"][0]["draws"] == 2
    assert (tmp_path / "table.md").read_text().startswith("| x, y and z |")
    with pytest.raises(im.UserError, match="There is no kind 'XOR'"):
        conditional.command(names=("XOR",), output=tmp_path)
