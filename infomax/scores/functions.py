"""The closed set of elementwise functions that a reduction over negatives may apply to a score.

Closed, so that a fused kernel can be written for each. A function is its formula and its derivative; both are called
on tiles of the score matrix, outside autograd.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from infomax.errors import UserError


@dataclass(frozen=True)
class Identity:
    """s"""

    def __call__(self, s: Tensor) -> Tensor:
        return s

    def derivative(self, s: Tensor) -> Tensor:
        return torch.ones_like(s)


@dataclass(frozen=True)
class Clip:
    """s clipped to [-tau, tau]"""

    tau: float

    def __post_init__(self):
        if not self.tau > 0:
            raise UserError(f"tau must be positive, and {self.tau!r} is not; 1, 5 and inf are usual.")

    def __call__(self, s: Tensor) -> Tensor:
        return s.clamp(-self.tau, self.tau) if self.tau < math.inf else s

    def derivative(self, s: Tensor) -> Tensor:
        return (s.abs() <= self.tau).to(s.dtype)


@dataclass(frozen=True)
class Softplus:
    """log(1 + e^(s - shift))"""

    shift: float = 0.0

    def __call__(self, s: Tensor) -> Tensor:
        z = s - self.shift
        # max(z, 0) + log1p(e^-|z|) is exact at every z; F.softplus switches to z itself above 20, exact only in fp32.
        return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))

    def derivative(self, s: Tensor) -> Tensor:
        return torch.sigmoid(s - self.shift)


@dataclass(frozen=True)
class Square:
    """s^2"""

    def __call__(self, s: Tensor) -> Tensor:
        return s * s

    def derivative(self, s: Tensor) -> Tensor:
        return 2 * s


Function = Identity | Clip | Softplus | Square

identity = Identity()
softplus = Softplus()
square = Square()
