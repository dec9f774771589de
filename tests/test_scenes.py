"""Scenes: functions of (seed, id) with factors that are even, independent, and can be read back from the pixels."""

import hashlib
import math

import pytest
import torch

from infomax.data import dataset
from infomax.data.scenes import FACTORS, SHAPES, drawn, factors, scenes
from infomax.errors import UserError

N = 4000


def read_back(images: torch.Tensor) -> torch.Tensor:
    """Factors [n, 6] by looking: the background in the corners, the figure where there is colour, the best mask."""
    x = images.double()
    corners = torch.stack([x[:, :, i, j] for i in (0, 31) for j in (0, 31)], -1).mean((1, 2))
    background = ((corners - 24) / 20).round().long()
    colour = x.amax(1) - x.amin(1)
    # How much of a pixel is figure: saturation is 255 inside and 0 outside.
    inside = (colour / 255).flatten(1)
    grid = torch.cartesian_prod(*(torch.arange(FACTORS[name]) for name in ("shape", "size", "x", "y")))
    rest = torch.zeros(len(grid), 2, dtype=torch.long)  # red on the darkest grey
    masks = drawn(torch.cat([grid, rest], 1)).double()
    masks = ((masks.amax(1) - masks.amin(1)) / 255).flatten(1)
    best = (masks.square().sum(1) - 2 * inside @ masks.T).argmin(1)
    sure = (inside * masks[best] > 0.9).double()
    mean = (x.flatten(2) * sure[:, None]).sum(2) / sure.sum(1, keepdim=True)
    palette = torch.zeros(16, 6, dtype=torch.long)
    palette[:, 1:4] = torch.tensor([3, 8, 8])
    palette[:, 4] = torch.arange(16)
    hues = drawn(palette)[:, :, 16, 16].double()
    hue = torch.cdist(mean, hues).argmin(1)
    return torch.cat([grid[best], hue[:, None], background[:, None]], 1)


def test_factors_can_be_read_back_without_error():
    ids = torch.arange(600)
    assert torch.equal(read_back(scenes(ids, 3)), factors(ids, 3))


def test_a_scene_is_a_function_of_seed_and_id():
    ids = torch.tensor([5, 0, 1 << 40, 77])
    some = scenes(ids, 1)
    for i, one in enumerate(ids):
        assert torch.equal(scenes(one[None], 1)[0], some[i])
    assert not torch.equal(scenes(ids, 2), some)
    assert some.flatten(1).unique(dim=0).shape[0] == 4
    # The same on every machine: this one's checksum.
    shown = hashlib.sha256(scenes(torch.arange(64), 0).numpy().tobytes()).hexdigest()
    assert shown.startswith("e552faf680796962")


def test_factors_are_even_and_independent():
    values = factors(torch.arange(60_000), 0)
    names = list(FACTORS)
    for i, name in enumerate(names):
        counts = values[:, i].bincount(minlength=FACTORS[name]).double()
        assert len(counts) == FACTORS[name]
        expected = len(values) / FACTORS[name]
        assert (counts - expected).abs().max() < 5 * math.sqrt(expected)
        for j in range(i):
            joint = (values[:, i] * FACTORS[names[j]] + values[:, j]).bincount().double() / len(values)
            joint = torch.nn.functional.pad(joint, (0, FACTORS[name] * FACTORS[names[j]] - len(joint)))
            table = joint.view(FACTORS[name], FACTORS[names[j]])
            apart = table.sum(1, keepdim=True) * table.sum(0)
            mi = float((table * (table / apart).clamp(min=1e-300).log()).sum())
            # 2 n MI is chi-squared of (a - 1)(b - 1) degrees of freedom: MI = 0 but for the sample.
            freedom = (FACTORS[name] - 1) * (FACTORS[names[j]] - 1)
            assert 2 * len(values) * mi < freedom + 5 * math.sqrt(2 * freedom)


def test_figures_lie_inside_and_are_of_about_one_area():
    middle_and_ends = torch.tensor([8, 0, 15])
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(4), middle_and_ends, middle_and_ends)
    masks = drawn(torch.cat([grid, torch.zeros(len(grid), 2, dtype=torch.long)], 1))
    areas = ((masks.amax(1) - masks.amin(1)) / 255).sum((1, 2)).view(4, 4, 9)
    assert torch.allclose(areas, areas[:, :, :1].expand(-1, -1, 9), rtol=0.01)  # none is cut off
    mean = areas[:, :, 0].mean(0)
    assert ((areas[:, :, 0] - mean).abs() / mean).max() < 0.1


def test_scenes_as_a_data_set():
    data = dataset("scenes:60,4", limit=40)
    assert (data.shape, data.classes, len(data.train), len(data.test)) == ((3, 32, 32), list(SHAPES), 40, 12)
    assert torch.equal(data.test.batch(range(12)), scenes(torch.arange(12) + (1 << 40), 4))
    assert torch.equal(data.test.labels, factors(torch.arange(12) + (1 << 40), 4)[:, 0])
    assert torch.equal(dataset("scenes:100,4").test.batch(range(12)), data.test.batch(range(12)))
    assert dataset("scenes:60").fingerprint != dataset("scenes:60,1").fingerprint


@pytest.mark.slow
def test_the_data_set_of_that_name():
    data = dataset("scenes")
    assert (len(data.train), len(data.test)) == (8000, 2000)
    assert torch.equal(data.train.batch(range(50)), dataset("scenes:50").train.batch(range(50)))


@pytest.mark.parametrize(("name", "size"), [("scenes:", None), ("scenes:3", None), ("scenes:9,x", None),
                                            ("scenes:9999999", None), ("scenes:50", 16),
                                            ("scenes:9,-1", None)])  # fmt: skip
def test_mistakes_are_told(name, size):
    with pytest.raises(UserError):
        dataset(name, size=size)
