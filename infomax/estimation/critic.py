"""What estimation asks of a critic beside scores, and the critic that adds a learned residual to a closed form."""

from typing import Any

import torch
from torch import Tensor, nn

from infomax.critics import Critic, Embedded, InnerProduct
from infomax.scores.face import offset_of


class FittedCritic(Critic):
    """Base class of critics that estimation makes: scores are log r of mapped pairs. What is asked has defaults.

    costly: whether a score takes a pass through a network of its own, so that n^2 of them are not read lightly.
    open: a gate; where it is closed, what was learned does not count.
    """

    costly = False
    open = True

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)  # what is fitted to arrays has no text that makes it

    @property
    def is_zero(self) -> bool:
        """Whether every score is 0, by choice on the validation pairs."""
        return False

    @property
    def at_ceiling(self) -> bool:
        """Whether a part of it has the highest value that it can have, so that the true one may be any above it."""
        return False

    @property
    def closed_form(self) -> "FittedCritic | None":
        """What needed no descent, of the same mapped pairs: it bounds MI from below by itself."""
        return None

    @property
    def known(self) -> "FittedCritic":
        """Of a closed form: what of it is known as well as its moments are, which kernels are not."""
        return self

    @property
    def columns(self) -> "tuple[nn.Module, nn.Module] | None":
        """What its residual's features of each side are made of; None where it has no such residual."""
        return None

    @property
    def named(self) -> str:
        """The text of the critic that a user may choose or change."""
        return repr(self)


class ClosedForm(FittedCritic):
    """Base class of copulas: log r of normal scores without descent.

    strength: by which correlations were shrunk; 0 is the zero critic. share_read: of a side's variance, the least
    share that the copula reads.
    """

    strength: float
    share_read: float

    @property
    def features(self) -> int:
        """How many features embed makes of a side."""
        raise TypeError(f"{type(self).__name__} does not say how many features it has.")

    def protocol(self) -> dict[str, Any]:
        """How it came about, as JSON-able values."""
        return {
            "kind": type(self).__name__, "strength": self.strength, "share_read": self.share_read, "dof": None,
            "pairs": 0,
        }  # fmt: skip


class GatedCritic(FittedCritic):
    """The sum of a closed form (or none) and a residual, which a gate can close. Features stand side by side.

    Make one by `gated`, which says so where the sum is an inner product.
    """

    def __init__(self, base: ClosedForm | None, residual: Any):
        super().__init__()
        self.base, self.residual, self.open = base, residual, True

    @property
    def is_zero(self) -> bool:
        return not self.open and (self.base is None or self.base.strength == 0)

    @property
    def closed_form(self) -> ClosedForm | None:
        return self.base

    @property
    def at_ceiling(self) -> bool:
        return self.base is not None and self.base.at_ceiling

    @property
    def columns(self) -> "tuple[nn.Module, nn.Module] | None":
        return getattr(self.residual, "columns", None)  # a user's critic has none

    @property
    def named(self) -> str:
        return repr(self.residual)

    @property
    def width(self) -> int:  # type: ignore[override]
        return getattr(self.residual, "width", 1)  # a user's critic need not be on a base class of ours

    def embed(self, x: Tensor, y: Tensor) -> Embedded:
        if not self.open:
            return self.base.embed(x, y) if self.base is not None else (x.new_zeros(len(x), 1), y.new_zeros(len(y), 1))
        ex, ey = self.residual.embed(x, y)
        if self.base is None:
            return ex, ey
        bx, by = self.base.embed(x, y)
        return torch.cat([bx, ex], 1), torch.cat([by, ey], 1)

    def score(self, ex: Tensor, ey: Tensor) -> Tensor:
        if self.base is None:
            return self.residual.score(ex, ey) if self.open else ex.new_zeros(len(ex), len(ey))
        k = self.base.features
        s = self.base.score(ex[:, :k], ey[:, :k])
        return s + self.residual.score(ex[:, k:], ey[:, k:]) if self.open else s

    def pair(self, ex: Tensor, ey: Tensor) -> Tensor:
        if self.base is None:
            return self.residual.pair(ex, ey) if self.open else ex.new_zeros(len(ex))
        k = self.base.features
        s = self.base.pair(ex[:, :k], ey[:, :k])
        return s + self.residual.pair(ex[:, k:], ey[:, k:]) if self.open else s


class GatedInnerProduct(GatedCritic, InnerProduct):
    """The same of two inner products: a sum of inner products is one, of the features side by side."""

    @property
    def offset(self) -> Tensor | float:  # type: ignore[override]
        known = 0.0 if self.base is None else offset_of(self.base) or 0.0  # a closed form has nothing to learn
        return known + self.residual.offset if self.open else known

    # Said anew, as the engine believes an `offset` of the class that gives both. It is the sum of the parts' own
    # scores, which differs from the product by rounding.
    score = GatedCritic.score


def gated(base: ClosedForm | None, residual: Any) -> GatedCritic:
    """A closed form (or none) plus a residual, as one critic: an inner product where both are."""
    parts = (residual,) if base is None else (base, residual)
    inner = all(offset_of(part) is not None for part in parts)
    return (GatedInnerProduct if inner else GatedCritic)(base, residual)
