"""Procedural colour scenes with known factors: one figure before a grey background, 3 x 32 x 32, any number of them.

A scene is a function of (seed, id): six factors, drawn independently and evenly, and noise of each pixel. What is known
of them exactly, in nats: two different factors have I = 0, a factor has H = log of its number of values, and as a scene
shows its factors without error, I(scene; factor) = H(factor) and I(scene; all factors) = log 131072 = 11.78.
"""

from pathlib import Path

import torch
from torch import Tensor

from infomax.data.keyed import uniforms
from infomax.data.memory import MemorySplit
from infomax.data.source import Dataset, Parts, finished, limited
from infomax.data.targets import Target
from infomax.errors import UserError, require_seed

FACTORS = {"shape": 4, "size": 4, "x": 16, "y": 16, "hue": 16, "background": 8}  # name: number of values
NUMBERS = ("size", "x", "y", "background")  # the factors that a probe may regress on: hue goes round in a circle
SHAPES = ("disc", "square", "triangle", "cross")
SIDE = 32
_TRAIN, _TEST = 8000, 2000
_FIRST_TEST = 1 << 40  # the id of the first test scene: the test set is the same for any number of training scenes
_KEY = 0x5CE4E5  # apart from the keys of orders and views
_NOISE = 6  # levels of 255, to either side


def factors(ids: Tensor, seed: int = 0) -> Tensor:
    """The factors of scenes, int64 [n, 6] in the order of FACTORS, each from 0: ids int64 [n]."""
    u = uniforms(ids, len(FACTORS), seed, _KEY, 0)
    levels = torch.tensor(list(FACTORS.values()))[:, None]
    return (u * levels).to(torch.int64).T.contiguous()


def scenes(ids: Tensor, seed: int = 0) -> Tensor:
    """The scenes of ids int64 [n], uint8 [n, 3, 32, 32]."""
    clean = drawn(factors(ids, seed))
    u = uniforms(ids, 3 * SIDE * SIDE, seed, _KEY, 1).T.reshape(clean.shape)
    noise = (u * (2 * _NOISE + 1)).to(torch.int64) - _NOISE
    return (clean + noise).clamp(0, 255).to(torch.uint8)


def drawn(values: Tensor) -> Tensor:
    """Scenes without noise, int64 [n, 3, 32, 32] from 0 to 255: values int64 [n, 6], as factors() gives them."""
    shape, size, x, y, hue, background = values.T
    inside = _coverage(shape, 3.0 + size, 8.0 + x, 8.0 + y)[:, None]
    colour, grey = _colours()[hue][:, :, None, None], (24.0 + 20.0 * background)[:, None, None, None]
    return (grey + inside * (colour - grey)).round().to(torch.int64)


def _coverage(shape: Tensor, radius: Tensor, x: Tensor, y: Tensor) -> Tensor:
    # How much of each pixel a figure covers, [n, 32, 32] in [0, 1]: half a pixel either way of its outline. Nothing but
    # arithmetic and roots, so that all machines draw the same. The four figures are of about one area.
    places = torch.arange(SIDE, dtype=torch.float64) + 0.5
    r = radius.double()[:, None, None]
    dx, dy = places[None, None, :] - x.double()[:, None, None], places[None, :, None] - y.double()[:, None, None]
    disc = (dx * dx + dy * dy).sqrt() - r
    square = torch.maximum(dx.abs(), dy.abs()) - 0.886 * r
    # Equilateral, pointing up, (x, y) in the middle of its height: the base, and one slope mirrored.
    down = dy - 0.389 * r
    triangle = torch.maximum(down - 0.778 * r, 0.75**0.5 * dx.abs() - 0.5 * down - 0.778 * r)
    bar, thick = 1.1 * r, 0.46 * r
    upright = torch.maximum(dx.abs() - thick, dy.abs() - bar)
    cross = torch.minimum(upright, torch.maximum(dx.abs() - bar, dy.abs() - thick))
    outlines = torch.stack([disc, square, triangle, cross], 1)
    chosen = outlines[torch.arange(len(shape)), shape]
    return (0.5 - chosen).clamp(0, 1)


def _colours() -> Tensor:
    # 16 hues of full saturation around the circle, float64 [16, 3].
    turn = torch.arange(FACTORS["hue"], dtype=torch.float64) * 6 / FACTORS["hue"]
    channels = [(turn + offset) % 6 for offset in (0, 4, 2)]
    return torch.stack([255 * ((c - 3).abs() - 1).clamp(0, 1) for c in channels], 1)


def _split(first: int, count: int, seed: int) -> MemorySplit:
    ids = torch.arange(first, first + count)
    images = torch.cat([scenes(part, seed) for part in ids.split(1000)])
    known = factors(ids, seed)
    split = MemorySplit(images, known[:, 0].clone(), SHAPES)
    split.targets = tuple(Target(name, known[:, i].double()) for i, name in enumerate(FACTORS) if name in NUMBERS)
    return split


def scenes_parts(root: Path) -> Parts:
    return _split(0, _TRAIN, 0), _split(_FIRST_TEST, _TEST, 0), "natural", True


def read_scenes(name: str, rest: str, limit: int | None, size: int | None) -> Dataset:
    """`scenes:N` or `scenes:N,SEED`: N training scenes, ids from 0; a fifth as many test scenes, at least 4.

    The ids of training scenes count from 0, those of test scenes from 2^40; labels are shapes.
    """
    if size is not None:
        raise UserError(f"Scenes are {SIDE} x {SIDE} pixels: leave size={size} out.")
    count, _, seed = rest.partition(",")
    if not (count.strip().isdecimal() and (seed.strip() or "0").isdecimal()) or not 4 <= int(count) <= 10**6:
        raise UserError(f"Scenes are asked for as scenes:N or scenes:N,SEED, N from 4 to 1,000,000, not {name!r}.")
    number = int(seed or 0)
    require_seed(number)
    train = limited(_split(0, int(count), number), limit)
    return finished(name, train, _split(_FIRST_TEST, max(int(count) // 5, 4), number), "natural", True)
