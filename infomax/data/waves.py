"""Procedural signals with known factors: a wave of two channels and 128 times, any number of them.

A signal is a function of (seed, id): four factors, drawn independently and evenly, and noise of each sample. Two
different factors have I = 0, and a factor has H = log of its number of values, in nats.
"""

from pathlib import Path

import torch
from torch import Tensor

from infomax.data.keyed import uniforms
from infomax.data.signals import SignalSplit
from infomax.data.source import Dataset, Parts, finished, limited
from infomax.data.targets import Target
from infomax.errors import UserError, require_seed

FACTORS = {"wave": 4, "cycles": 4, "phase": 16, "loudness": 4}  # name: number of values
NUMBERS = ("cycles", "loudness")  # the factors that a probe may regress on: phase goes round in a circle
WAVES = ("round", "square", "triangle", "saw")
TIME = 128
_TRAIN, _TEST = 4000, 1000
_FIRST_TEST = 1 << 40  # the id of the first test signal: the test set is the same for any number of training signals
_KEY = 0x3A7E5  # apart from the keys of orders, views and scenes
_NOISE = 0.3  # to either side, of waves from -1 to 1 at full loudness


def factors(ids: Tensor, seed: int = 0) -> Tensor:
    """The factors of signals, int64 [n, 4] in the order of FACTORS, each from 0: ids int64 [n]."""
    u = uniforms(ids, len(FACTORS), seed, _KEY, 0)
    return (u * torch.tensor(list(FACTORS.values()))[:, None]).to(torch.int64).T.contiguous()


def waves(ids: Tensor, seed: int = 0) -> Tensor:
    """The signals of ids int64 [n], float32 [n, 2, 128]."""
    u = uniforms(ids, 2 * TIME, seed, _KEY, 1).T.reshape(len(ids), 2, TIME)
    return drawn(factors(ids, seed)) + (2 * u - 1) * _NOISE


def drawn(values: Tensor) -> Tensor:
    """Signals without noise, float32 [n, 2, 128]: values int64 [n, 4], as factors() gives them.

    The second channel is a quarter of a cycle behind the first.
    """
    wave, cycles, phase, loudness = values.T
    times = (torch.arange(TIME, dtype=torch.float64) + 0.5) / TIME
    turns = times * (2 + cycles.double())[:, None] + phase.double()[:, None] / FACTORS["phase"]
    turns = torch.stack([turns, turns - 0.25], 1) % 1
    shapes = torch.stack([_round(turns), 1 - 2 * (turns >= 0.5).double(), _triangle(turns), 2 * turns - 1], 1)
    chosen = shapes[torch.arange(len(values)), wave]
    return (chosen * (0.4 + 0.2 * loudness.double())[:, None, None]).float()


def _round(turns: Tensor) -> Tensor:
    # Bhaskara's rational sine (7th century): nothing but arithmetic, so that all machines draw the same.
    half = (2 * turns) % 1
    hump = half * (1 - half)
    return torch.where(turns < 0.5, 1.0, -1.0) * 16 * hump / (5 - 4 * hump)


def _triangle(turns: Tensor) -> Tensor:
    return 1 - 4 * ((turns + 0.25) % 1 - 0.5).abs()


def _split(first: int, count: int, seed: int) -> SignalSplit:
    ids = torch.arange(first, first + count)
    known = factors(ids, seed)
    split = SignalSplit(waves(ids, seed), known[:, 0].clone(), WAVES)
    split.targets = tuple(Target(name, known[:, i].double()) for i, name in enumerate(FACTORS) if name in NUMBERS)
    return split


def waves_parts(root: Path) -> Parts:
    return _split(0, _TRAIN, 0), _split(_FIRST_TEST, _TEST, 0), "signals", False


def read_waves(name: str, rest: str, limit: int | None, size: int | None) -> Dataset:
    """`waves:N` or `waves:N,SEED`: N training signals, ids from 0; a fifth as many test signals, at least 4.

    Labels are the waves' shapes. Raises UserError: another spelling, N out of range, a size.
    """
    if size is not None:
        raise UserError(f"Waves are {TIME} times long: leave size={size} out.")
    count, _, seed = rest.partition(",")
    if not (count.strip().isdecimal() and (seed.strip() or "0").isdecimal()) or not 4 <= int(count) <= 10**6:
        raise UserError(f"Waves are asked for as waves:N or waves:N,SEED, N from 4 to 1,000,000, not {name!r}.")
    number = int(seed or 0)
    require_seed(number)
    train = limited(_split(0, int(count), number), limit)
    return finished(name, train, _split(_FIRST_TEST, max(int(count) // 5, 4), number), "signals", False)
