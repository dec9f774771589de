"""Critics: features of pairs -> scores, read as log-density-ratios log p(x, y) / p(x) p(y), in nats.

A critic splits into `embed`, once per side, O(n), and `score`, once per pair of embedded rows. What shapes a score
(normalisation, temperature, bias) belongs here and not to an objective.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from infomax.errors import UserError, is_count, is_number
from infomax.scores.face import dense
from infomax.spelling import Spelled

Embedded = tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]  # what score reads of x and of y


class Critic(Spelled, nn.Module):
    """Base: subclasses give embed and score, and override pair where the diagonal of score is cheaper alone."""

    width = 1  # numbers of working memory per score, from which the tile's size is chosen

    def embed(self, x: Float[Tensor, "n dx"], y: Float[Tensor, "m dy"]) -> Embedded:
        """x [n, dx], y [m, dy] -> what score reads: [n, ...], [m, ...]; row by row."""
        return x, y

    def score(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """ex [n, ...], ey [m, ...] -> scores of all pairs [n, m]."""
        raise TypeError(f"{type(self).__name__} defines no score(ex, ey).")

    def pair(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """ex [n, ...], ey [n, ...] -> scores of the pairs of equal rows [n]."""
        return torch.cat([self.score(ex[i : i + 1], ey[i : i + 1]).flatten() for i in range(len(ex))])

    def forward(self, x: Float[Tensor, "n dx"], y: Float[Tensor, "m dy"]) -> Float[Tensor, "n m"]:
        """x [n, dx], y [m, dy] -> the dense matrix of scores [n, m], with autograd; for small n."""
        return dense(self, x, y)


class InnerProduct(Critic):
    """score = <ex, ey> + offset, which the engine computes by products alone; it reads `offset` instead of score."""

    offset: Tensor | float = 0.0

    def score(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        return ex @ ey.T

    def pair(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        return (ex * ey).sum(-1)


_InnerProduct = InnerProduct  # its earlier name


class Cosine(InnerProduct):
    """cos(x, y) / temperature + bias: SimCLR's critic. (Chen et al., 2020)

    Bounded by 1 / temperature + |bias|, so it represents an MI of at most about that. A row's length has no part in it;
    a row of zeros has cosine 0 with all, and no gradient. learn=True learns log temperature and bias (as CLIP and
    SigLIP do), learn="bias" the bias alone. minimum: below it no learnt temperature falls, for every use in training
    first brings it back there (0.01, as CLIP's scale of 100 at most); a fixed one is not limited. Without an end it
    would fall for ever where the value is not bounded, as DV's. Raises UserError: temperature <= 0, another `learn`, a
    minimum <= 0, or above a temperature that is learnt.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        bias: float = 0.0,
        learn: bool | Literal["bias"] = False,
        minimum: float = 0.01,
    ):
        super().__init__()
        if not (is_number(temperature) and temperature > 1e-37 and math.isfinite(temperature)):
            raise UserError(f"temperature must be a positive number, not {temperature!r}; 0.05 to 0.5 are usual.")
        if not (is_number(bias) and math.isfinite(bias)):
            raise UserError(f"bias is a finite number that is added to scores, not {bias!r}.")
        if not isinstance(learn, bool | str) or learn not in (True, False, "bias"):
            raise UserError(f'learn is True, False or "bias", not {learn!r}.')
        if not (is_number(minimum) and minimum > 0 and math.isfinite(minimum)):
            raise UserError(f"minimum must be a positive temperature, not {minimum!r}; 0.01 is usual.")
        if learn is True and temperature < minimum:
            raise UserError(
                f"A learnt temperature starts at its minimum, {minimum!r}, or above, and not at {temperature!r}: start"
                " higher; a script of your own can give Cosine a lower minimum."
            )
        self.temperature, self.bias, self.learn, self.minimum = temperature, bias, learn, minimum
        # Constants stay Python floats, exact in any dtype; what is learnt is a parameter.
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learn is True else None
        self.shift = nn.Parameter(torch.tensor(float(bias))) if learn else float(bias)

    @property
    def offset(self) -> Tensor | float:  # type: ignore[override]
        return self.shift

    def embed(self, x: Shaped[Tensor, "n ..."], y: Shaped[Tensor, "m ..."]) -> Embedded:
        _check(self, x, y)
        if x.shape[1] != y.shape[1]:
            raise UserError(
                f"Cosine takes x and y of one width, not {x.shape[1]} and {y.shape[1]} features; Bilinear and Separable"
                " take two."
            )
        # Dividing one side, O(N d), rather than the scores, O(N^2); autograd then gives d log temperature for free.
        if self.log_temperature is None:
            return _Lengthened.apply((1 / self.temperature, 1.0), x, y)  # type: ignore[return-value]
        ex, ey = _Lengthened.apply((1.0, 1.0), x, y)  # type: ignore[misc]
        return ex * (-self._bounded()).exp(), ey

    def embed_alike(self, z: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        """z [n, d] -> e [n, d] with score(x, y) = <e(x), e(y)> + offset: the critic is symmetric."""
        _check(self, z, z)
        if self.log_temperature is None:
            return _Lengthened.apply((self.temperature**-0.5,), z)[0]  # type: ignore[index]
        return _Lengthened.apply((1.0,), z)[0] * (-0.5 * self._bounded()).exp()  # type: ignore[index]

    def _bounded(self) -> Tensor:
        """The log temperature, no lower than its bound; in training the parameter itself is brought back to it.

        Projected, for a clamp's gradient would be 0 below the bound, and nothing would raise it again. Through `data`:
        another use of the parameter, before backward, is not one of a number that has changed since. An evaluation
        changes no parameter.
        """
        assert self.log_temperature is not None
        if not (self.training and torch.is_grad_enabled()):
            return self.log_temperature.clamp(min=math.log(self.minimum))
        self.log_temperature.data.clamp_(min=math.log(self.minimum))
        return self.log_temperature

    def score(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        return ex @ ey.T + self.shift

    def pair(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        pair = (ex * ey).sum(-1)
        return pair if isinstance(self.shift, float) and self.shift == 0 else pair + self.shift


class Bilinear(InnerProduct):
    """x^T W y: the critic of contrastive predictive coding. (van den Oord et al., 2018) W starts small, so s near 0.

    dx, dy: the widths of x and y.
    """

    def __init__(self, dx: int, dy: int):
        super().__init__()
        _check_counts(self, dx=dx, dy=dy)
        self.dx, self.dy = dx, dy
        self.weight = nn.Parameter(torch.randn(dx, dy) * 0.1 / math.sqrt(dx * dy))

    def embed(self, x: Shaped[Tensor, "n ..."], y: Shaped[Tensor, "m ..."]) -> Embedded:
        _check(self, x, y, self.dx, self.dy)
        return x @ self.weight, y


class Separable(InnerProduct):
    """<g(x), h(y)> with an MLP a side: O(n) network calls for n^2 scores. (Poole et al., 2019; Song & Ermon, 2020)

    dx, dy: the widths of x and y. hidden: units of a hidden layer, of which there are `layers`. out: features.
    """

    def __init__(self, dx: int, dy: int, hidden: int = 256, out: int = 32, layers: int = 2):
        super().__init__()
        _check_counts(self, dx=dx, dy=dy)
        self.dx, self.dy, self.hidden, self.out, self.layers = dx, dy, hidden, out, layers
        self.g = mlp(dx, hidden, out, layers)
        self.h = mlp(dy, hidden, out, layers)

    def embed(self, x: Shaped[Tensor, "n ..."], y: Shaped[Tensor, "m ..."]) -> Embedded:
        _check(self, x, y, self.dx, self.dy)
        return self.g(x), self.h(y)


class Concat(Critic):
    """An MLP of (x, y) for each of the n^2 pairs, the joint critic. (Belghazi et al., 2018; Song & Ermon, 2020)

    dx, dy: the widths of x and y. hidden: units of a hidden layer, of which there are `layers`. The first layer is
    split, W_x x + W_y y, so that only later layers cost O(n^2).
    """

    def __init__(self, dx: int, dy: int, hidden: int = 256, layers: int = 2):
        super().__init__()
        _check_counts(self, dx=dx, dy=dy, hidden=hidden)
        if not is_count(layers):
            raise UserError(f"Concat needs at least one hidden layer, and layers={layers!r}.")
        self.dx, self.dy, self.hidden, self.layers = dx, dy, hidden, layers
        # One layer of dx + dy inputs, initialised as one, then split by columns.
        first = nn.Linear(dx + dy, hidden)
        self.weight_x = nn.Parameter(first.weight.detach()[:, :dx].clone())
        self.weight_y = nn.Parameter(first.weight.detach()[:, dx:].clone())
        self.first_bias = nn.Parameter(first.bias.detach().clone())
        self.rest = mlp(hidden, hidden, 1, layers - 1)

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.hidden * (self.layers + 1)

    def embed(self, x: Shaped[Tensor, "n ..."], y: Shaped[Tensor, "m ..."]) -> Embedded:
        _check(self, x, y, self.dx, self.dy)
        return x @ self.weight_x.T, y @ self.weight_y.T + self.first_bias

    def score(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        return self.rest(F.relu(ex[:, None] + ey[None])).squeeze(-1)

    def pair(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        return self.rest(F.relu(ex + ey)).squeeze(-1)


class ConvSeparable(InnerProduct):
    """<g(x), h(y)> with a convolutional network a side: images, as rows of numbers. (Song & Ermon, 2020)

    shape: channels, height and width of an image of x, whose rows have as many numbers; shape_y: of y, by default
    alike. Two 3 x 3 convolutions halve each side, to `channels` and twice as many, before a hidden layer of `hidden`
    units and `out` features. Raises UserError: a shape that is no three whole numbers.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        shape_y: tuple[int, int, int] | None = None,
        channels: int = 16,
        hidden: int = 128,
        out: int = 32,
    ):
        super().__init__()
        self.shape, self.shape_y = _shape(shape), None if shape_y is None else _shape(shape_y)
        _check_counts(self, channels=channels)
        self.channels, self.hidden, self.out = channels, hidden, out
        self.g = _images(self.shape, channels, hidden, out)
        self.h = _images(self.shape_y or self.shape, channels, hidden, out)

    def embed(self, x: Shaped[Tensor, "n ..."], y: Shaped[Tensor, "m ..."]) -> Embedded:
        _check(self, x, y, math.prod(self.shape), math.prod(self.shape_y or self.shape))
        return self.g(x), self.h(y)


class ConvConcat(Critic):
    """A convolutional network of the image (x, y), on channels, for each of the n^2 pairs. (Song & Ermon, 2020)

    shape, shape_y: as ConvSeparable's, of one height and width. A convolution is linear, so the first is split, W_x x +
    W_y y, and only later layers cost O(n^2). channels, hidden: as ConvSeparable's. Raises UserError: shapes that cannot
    be laid on each other.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        shape_y: tuple[int, int, int] | None = None,
        channels: int = 16,
        hidden: int = 128,
    ):
        super().__init__()
        self.shape, self.shape_y = _shape(shape), None if shape_y is None else _shape(shape_y)
        other = self.shape_y or self.shape
        if self.shape[1:] != other[1:]:
            raise UserError(
                f"ConvConcat lays images on each other, so {self.shape} and {other} need one height and width; use "
                "ConvSeparable."
            )
        _check_counts(self, channels=channels)
        self.channels, self.hidden = channels, hidden
        # One convolution of both images' channels, initialised as one, then split by channels.
        first = nn.Conv2d(self.shape[0] + other[0], channels, 3, stride=2, padding=1)
        self.weight_x = nn.Parameter(first.weight.detach()[:, : self.shape[0]].clone())
        self.weight_y = nn.Parameter(first.weight.detach()[:, self.shape[0] :].clone())
        self.first_bias = nn.Parameter(first.bias.detach().clone())  # type: ignore[union-attr]
        self.inner = (channels, *map(_halved, self.shape[1:]))
        self.rest = _after_the_first(self.inner, hidden, 1)

    @property
    def width(self) -> int:  # type: ignore[override]
        return 3 * math.prod(self.inner)

    def embed(self, x: Shaped[Tensor, "n ..."], y: Shaped[Tensor, "m ..."]) -> Embedded:
        _check(self, x, y, math.prod(self.shape), math.prod(self.shape_y or self.shape))
        ex = F.conv2d(x.unflatten(1, self.shape), self.weight_x, stride=2, padding=1)
        ey = F.conv2d(y.unflatten(1, self.shape_y or self.shape), self.weight_y, self.first_bias, stride=2, padding=1)
        return ex.flatten(1), ey.flatten(1)

    def score(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        both = F.relu(ex[:, None] + ey[None]).flatten(0, 1)
        return self.rest(both.unflatten(1, self.inner)).view(len(ex), len(ey))

    def pair(self, ex: Float[Tensor, "n d"], ey: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        return self.rest(F.relu(ex + ey).unflatten(1, self.inner)).squeeze(-1)


def _check(critic: Critic, x: Tensor, y: Tensor, dx: int | None = None, dy: int | None = None) -> None:
    """Raises UserError for features that a critic of these widths cannot take."""
    name = type(critic).__name__
    for side, t, width in (("x", x, dx), ("y", y, dy)):
        if t.ndim != 2 or t.shape[1] == 0:
            raise UserError(f"{name} takes {side} as rows of features, [n, d], and not of shape {list(t.shape)}.")
        if not t.is_floating_point():
            kind = str(t.dtype).removeprefix("torch.")
            raise UserError(f"{name} takes {side} in floating point, and not in {kind}; convert it, as by .float().")
        if width is not None and t.shape[1] != width:
            raise UserError(f"{name} was made for {side} of {width} features, and is given {t.shape[1]}.")


def _check_counts(critic: Critic, **counts: int) -> None:
    for name, count in counts.items():
        if not is_count(count):
            raise UserError(f"{type(critic).__name__}'s {name} is how many features it has, 1 or more, not {count!r}.")


def _shape(shape: Sequence[int]) -> tuple[int, int, int]:
    found = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(found) != 3 or not all(isinstance(size, int) and size > 0 for size in found):
        raise UserError(f"An image's shape is channels, height and width, such as (1, 28, 28), and not {shape!r}.")
    return found


def _halved(size: int) -> int:
    return (size + 1) // 2  # by a convolution of stride 2, padded by 1


def _images(shape: tuple[int, int, int], channels: int, hidden: int, out: int) -> nn.Sequential:
    inner = (channels, *map(_halved, shape[1:]))
    first = nn.Conv2d(shape[0], channels, 3, stride=2, padding=1)
    return nn.Sequential(nn.Unflatten(1, shape), first, nn.ReLU(), *_after_the_first(inner, hidden, out))


def _after_the_first(inner: tuple[int, ...], hidden: int, out: int) -> nn.Sequential:
    channels, height, width = inner
    second = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
    numbers = 2 * channels * _halved(height) * _halved(width)
    return nn.Sequential(second, nn.ReLU(), nn.Flatten(), *mlp(numbers, hidden, out, 1))


class _Lengthened(torch.autograd.Function):
    """(lengths, *sides [n, d]) -> rows of each side made so long: F.normalize in one node, in less time and memory."""

    @staticmethod
    def forward(ctx, lengths: tuple[float, ...], *sides: Tensor):
        ctx.lengths = lengths
        ctx.factors = [_factor(x, length) for x, length in zip(sides, lengths, strict=True)]
        results = tuple(x * factor for x, factor in zip(sides, ctx.factors, strict=True))
        ctx.save_for_backward(*sides, *results)
        return results

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # type: ignore[override]
        count, found = len(ctx.lengths), []
        for i, (length, gradient) in enumerate(zip(ctx.lengths, gradients, strict=True)):
            x, e = ctx.saved_tensors[i], ctx.saved_tensors[count + i]
            # Where this is differentiated again, the factor is a function of x.
            factor = _factor(x, length) if torch.is_grad_enabled() else ctx.factors[i]
            along = (gradient * e).sum(-1, keepdim=True) * (-1 / length**2)
            found.append(torch.addcmul(gradient, e, along) * factor)
        return None, *found


def _factor(x: Tensor, length: float) -> Tensor:
    """What makes rows [n, d] so long; 0 for a row of zeros."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if not norm.is_cuda and norm.numel() and x.dtype not in (torch.float16, torch.bfloat16):
        least, most = norm.detach().aminmax()
        if float(least) > 1e-12 and float(most) < 1e15:
            return norm.reciprocal() * length
    # Squares of very large or small numbers leave a float's range. A power of two as scale changes no bit of the rest.
    # On a GPU always: to ask there would be to wait for it.
    peak = x.detach().abs().amax(-1, keepdim=True)
    if x.dtype in (torch.float16, torch.bfloat16):
        scale = torch.ones_like(peak)
    else:
        scale = torch.ldexp(torch.ones_like(peak), -torch.frexp(peak).exponent.clamp(-120, 120))
    norm = torch.linalg.vector_norm(x * scale, dim=-1, keepdim=True)
    return torch.where(peak == 0, 0.0, norm.where(peak != 0, 1.0).reciprocal() * length * scale)


def mlp(inputs: int, hidden: int, out: int, layers: int) -> nn.Sequential:
    """[n, inputs] -> [n, out] by so many hidden ReLU layers. Raises UserError: sizes that are no positive numbers."""
    for name, size in (("hidden", hidden), ("out", out)):
        if not is_count(size):  # torch makes networks of no numbers, which score 0
            raise UserError(f"A critic's {name} is a number of units, 1 or more, and not {size!r}.")
    if not (is_count(layers) or (layers == 0 and not isinstance(layers, bool))):
        raise UserError(f"A critic's layers is a number of hidden ones, 0 or more, and not {layers!r}.")
    sizes = [inputs] + [hidden] * layers
    body = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*body, nn.Linear(sizes[-1], out))


registry: dict[str, type[Critic]] = {
    c.__name__.lower(): c for c in (Cosine, Bilinear, Separable, Concat, ConvSeparable, ConvConcat)
}
