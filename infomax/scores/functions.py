"""The closed set of elementwise functions that a reduction over negatives may apply to a score.

Closed, so that a fused kernel can be written for each. A function is its formula and its derivative, both called on
tiles of the score matrix outside autograd, and safe for any score. Where no score is large (|s| <= LARGEST), e^s is
computed once for all reductions, and a function may say how it and its derivative follow from e = e^s alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from infomax.errors import UserError

# Up to here neither e^s nor a sum of 2^40 of them leaves float32, and no shift by a maximum is needed. An inner product
# of features at temperature 0.02 stays below it, at 0.01 it does not.
LARGEST = 60.0

Kind = Literal["sum", "logsumexp"]


class FromExponential(NamedTuple):
    """A reduction's summand and its slope, as functions of e = e^s and of room to write in; e itself is kept.

    value(e, room, axis): fn(s) for a sum, e^fn(s) for a log-sum-exp, or fewer numbers, each of which is the sum of
    some of these along the axis. slope(e, room): d value / d s. Where e = 0, no negative, the slope is 0, and so is
    the value unless `masked` says that it must be made so.
    """

    value: Callable[[Tensor, Tensor, int], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    masked: bool = False


@dataclass(frozen=True)
class Identity:
    """s"""

    def __call__(self, s: Tensor) -> Tensor:
        return s

    def derivative(self, s: Tensor) -> Tensor:
        """d fn / d s at each score s, of s's shape."""
        return torch.ones_like(s)

    def from_exponential(self, kind: Kind, largest: float) -> FromExponential | None:
        """How a reduction of this kind follows from e^s where |s| <= largest; None where it does not."""
        return FromExponential(_same, _same) if kind == "logsumexp" else None


@dataclass(frozen=True)
class Clip:
    """s clipped to [-tau, tau]"""

    tau: float

    def __post_init__(self):
        if not (isinstance(self.tau, Real) and self.tau > 0):
            raise UserError(f"tau must be positive, and {self.tau!r} is not; 1, 5 and inf are usual.")

    def __call__(self, s: Tensor) -> Tensor:
        return s.clamp(-self.tau, self.tau) if self.tau < math.inf else s

    def derivative(self, s: Tensor) -> Tensor:
        """d fn / d s at each score s, of s's shape."""
        return (s.abs() <= self.tau).to(s.dtype)

    def from_exponential(self, kind: Kind, largest: float) -> FromExponential | None:
        """How a reduction of this kind follows from e^s where |s| <= largest; None where it does not."""
        if kind != "logsumexp":
            return None
        if self.tau >= largest:  # clips nothing
            return FromExponential(_same, _same)
        low, high = math.exp(-self.tau), math.exp(self.tau)
        return FromExponential(
            lambda e, room, axis: torch.clamp(e, low, high, out=room),
            lambda e, room: torch.mul(e, (e >= low) & (e <= high), out=room),
            masked=True,
        )


@dataclass(frozen=True)
class Softplus:
    """log(1 + e^(s - shift))"""

    shift: float = 0.0

    def __call__(self, s: Tensor) -> Tensor:
        z = s - self.shift
        # max(z, 0) + log1p(e^-|z|) is exact at every z; F.softplus switches to z itself above 20, exact only in fp32.
        return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))

    def derivative(self, s: Tensor) -> Tensor:
        """d fn / d s at each score s, of s's shape."""
        return torch.sigmoid(s - self.shift)

    def from_exponential(self, kind: Kind, largest: float) -> FromExponential | None:
        """How a reduction of this kind follows from e^s where |s| <= largest; None where it does not."""
        if kind != "sum" or abs(self.shift) > 20:
            return None
        scale = math.exp(self.shift)
        # A product of so many factors 1 + e stays in float32.
        most = max(1, int(80 / (max(0.0, largest - self.shift) + 0.7)))

        def value(e: Tensor, room: Tensor, axis: int) -> Tensor:
            e = e if scale == 1 else torch.mul(e, 1 / scale, out=room)
            return _log1p(_one_less_than_products(e, room, axis, min(most, 8)))

        def slope(e: Tensor, room: Tensor) -> Tensor:
            return torch.div(e, torch.add(e, scale, out=room), out=room)

        return FromExponential(value, slope)


@dataclass(frozen=True)
class Square:
    """s^2"""

    def __call__(self, s: Tensor) -> Tensor:
        return s * s

    def derivative(self, s: Tensor) -> Tensor:
        """d fn / d s at each score s, of s's shape."""
        return 2 * s

    def from_exponential(self, kind: Kind, largest: float) -> FromExponential | None:
        """How a reduction of this kind follows from e^s where |s| <= largest; None where it does not."""
        return None


def _same(e: Tensor, room: Tensor, axis: int = 0) -> Tensor:
    return e


def _one_less_than_products(e: Tensor, room: Tensor, axis: int, most: int) -> Tensor:
    """Products of 1 + e over up to `most` entries along the axis, less 1. It lies in `room`, or is e.

    A sum of logarithms is the logarithm of a product, and logarithms are what costs. Small e are not lost, since
    (1 + a)(1 + b) - 1 = a + b + ab.
    """
    while most > 1 and e.shape[axis] % 2 == 0:
        a, b = e.chunk(2, axis)
        if e.data_ptr() == room.data_ptr():
            e = a.addcmul_(a, b).add_(b)
        else:
            e = torch.add(a, b, out=room.narrow(axis, 0, a.shape[axis])).addcmul_(a, b)
        most //= 2
    return e


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x), a new tensor; by log alone, which torch computes five times faster than log1p on a CPU. (Kahan)"""
    u = x + 1
    tiny = 1e-30  # 0 / 0 where u rounds to 1 becomes 1
    slope = (u - 1).add_(tiny)
    return u.log_().add_(tiny).div_(slope).mul_(x)


Function = Identity | Clip | Softplus | Square

identity = Identity()
softplus = Softplus()
square = Square()
