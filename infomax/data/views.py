"""Augmented views, made in batches on the images' device, each sample with parameters of its own.

A view is a function of (seed, epoch, sample id, view) alone: its random numbers are a hash of those four, so the batch,
the worker, the process and torch's generators have no part in it. What touches a pixel is elementwise or a gather (no
matrix product, no floating-point reduction), so a sample's view also comes out bit for bit the same in any batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.nn import functional

from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.data.datasets import Dataset

__all__ = ["Policy", "Views", "digits", "natural", "permutation", "policies", "uniforms", "views_for"]

# ------------------------------------------------------------------------------------------------- random numbers

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _mix(word: int) -> int:
    # The output function of splitmix64 (Steele, Lea & Flood, 2014).
    word ^= word >> _SHIFTS[0]
    word = word * _MULTIPLIERS[0] & _MASK
    word ^= word >> _SHIFTS[1]
    word = word * _MULTIPLIERS[1] & _MASK
    return word ^ word >> _SHIFTS[2]


def _mix_tensor(words: Tensor) -> Tensor:
    # The same on int64, in place: products wrap around, and a mask turns the arithmetic shift into a logical one.
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, None), strict=True):
        words.bitwise_xor_((words >> shift).bitwise_and_((1 << (64 - shift)) - 1))
        if multiplier is not None:
            words.mul_(_signed(multiplier))
    return words


def _key(*numbers: int) -> int:
    key = 0
    for number in numbers:
        key = _mix((key + _GOLDEN + (number & _MASK)) & _MASK)
    return key


def _words(ids: Tensor, count: int, key: int) -> Tensor:
    # ids [b] -> hashed 64-bit words [count, b]. Sample by sample in a row, so that every row is contiguous however long
    # the batch is: vectorised and scalar versions of exp or cos may differ in the last bit.
    mixed = _mix_tensor(ids.to(torch.int64) * _signed(_GOLDEN) + _signed(key))
    draws = torch.arange(1, count + 1, device=ids.device) * _signed(_GOLDEN)
    return _mix_tensor(mixed[None, :] + draws[:, None])


def uniforms(ids: Tensor, count: int, *key: int) -> Tensor:
    """`count` numbers in [0, 1) for each id, a hash of (key, id): ids int64 [b] -> float32 [count, b]."""
    return (_words(ids, count, _key(*key)) >> 40).bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24)


def permutation(n: int, *key: int) -> Tensor:
    """A permutation of 0 .. n-1, int64 [n] on the CPU, that depends on (n, key) alone."""
    # Sorting hashes rather than torch.randperm: the same on every version, and no generator is touched.
    return torch.argsort(_words(torch.arange(n), 1, _key(*key))[0], stable=True)


# ------------------------------------------------------------------------------------------------------- policies


@final
@dataclass(frozen=True)
class Policy:
    """How strongly views are augmented; its repr is its constructor call. A field at its default leaves images alone.

    Geometry, one resampling for all of it: scale, the range of the part of the image's area that is seen (above 1
    zooms out), placed at random; ratio, the largest aspect ratio of that part; translate, a further shift in half image
    sizes; rotate and shear in degrees, each to either side; flip, the probability of a left-right flip; elastic, the
    largest displacement in half image sizes of a smooth field (Simard et al., 2003); padding, what lies outside:
    "zeros", "border" or "reflection".
    Strokes: thickness, how far bright strokes are at most thinned or thickened by one pixel, 0 to 1.
    Colour: brightness, contrast and saturation multiply by 1 +- the value; hue turns by up to that fraction of a
    circle; jitter is the probability that the four are drawn at all; gray that of a grey image; blur is the largest
    standard deviation in pixels, blurred the probability of any; noise the standard deviation of noise in [0, 1] units.
    Erasing: erase is the probability of a black box, erase_area the range of its part of the image.
    Raises UserError for values out of range.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    ratio: float = 1.0
    translate: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    flip: float = 0.0
    elastic: float = 0.0
    padding: str = "zeros"
    thickness: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 1.0
    gray: float = 0.0
    blur: float = 0.0
    blurred: float = 1.0
    noise: float = 0.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.2)

    def __post_init__(self) -> None:
        for name in ("scale", "erase_area"):
            pair = getattr(self, name)
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_is_number, pair))) or not (
                0 < pair[0] <= pair[1] < math.inf
            ):
                raise UserError(f"Policy's {name} is a range (low, high) with 0 < low <= high, not {pair!r}.")
            object.__setattr__(self, name, tuple(pair))  # a list, where JSON gives it back
        if self.erase_area[1] > 1:
            raise UserError(f"Policy's erase_area is a part of the image, at most 1, not {self.erase_area!r}.")
        if self.padding not in ("zeros", "border", "reflection"):
            raise UserError(f"Policy's padding is 'zeros', 'border' or 'reflection', not {self.padding!r}.")
        limits = {"ratio": 100, "rotate": 180, "shear": 60, "translate": 2, "hue": 0.5, "blur": 50}
        for name in (field.name for field in fields(self) if field.name not in ("scale", "erase_area", "padding")):
            value, low, high = getattr(self, name), int(name == "ratio"), limits.get(name, 1)
            if not _is_number(value) or not low <= value <= high:
                raise UserError(f"Policy's {name} lies in {low} .. {high}, not {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def digits() -> Policy:
    """For writing on black: crops, turns, shears, bends and stroke widths; never mirrored, which would change it."""
    return Policy(
        scale=(0.5, 1.3),
        ratio=1.33,
        translate=0.1,
        rotate=20.0,
        shear=15.0,
        elastic=0.08,
        thickness=0.6,
        brightness=0.4,
        erase=0.3,
        erase_area=(0.02, 0.15),
    )


def natural(flip: bool = True) -> Policy:
    """For photographs: SimCLR's crops, flips and colours, at its strengths for CIFAR-10. (Chen et al., 2020)"""
    return Policy(
        scale=(0.2, 1.0),
        ratio=4 / 3,
        flip=0.5 if flip else 0.0,
        padding="reflection",
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        jitter=0.8,
        gray=0.2,
    )


policies: dict[str, Callable[[], Policy]] = {"digits": digits, "natural": natural}

# ---------------------------------------------------------------------------------------------------------- views

_KNOTS = 4  # of the elastic field, each way
_LUMA = (0.299, 0.587, 0.114)


@final
class Views:
    """Images to normalised views: `Views(policy, mean, std)(images, ids, seed, epoch, view)`.

    mean and std: a number per channel, of images in [0, 1]. Raises UserError for a std that is not positive.
    """

    def __init__(self, policy: Policy, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not mean or not all(0 < value < math.inf for value in std):
            raise UserError(f"Views need as many means as positive deviations, not mean={mean!r}, std={std!r}.")
        self.policy = policy
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    def __repr__(self) -> str:
        return f"Views({self.policy!r}, mean={self.mean!r}, std={self.std!r})"

    @torch.no_grad()
    def __call__(self, images: Tensor, ids: Tensor, seed: int, epoch: int, view: int) -> Tensor:
        """images uint8 [b, c, h, w], ids int64 [b] on the same device -> float32 [b, c, h, w], normalised."""
        self._check(images)
        if ids.shape != images.shape[:1]:
            raise UserError(f"{images.shape[0]} images came with ids of shape {list(ids.shape)}: one id an image.")
        policy = self.policy
        # A number each, in a fixed order: strengths may change without changing what the other draws are.
        u = uniforms(ids, 22 + 2 * _KNOTS * _KNOTS, seed, epoch, view)
        x = _unit(images)
        x = _geometry(policy, x, u[:8], u[22:])
        if policy.thickness > 0:
            x = _thickness(policy, x, u[8])
        x = _colour(policy, images, x, u[9:16])
        if policy.blur > 0:
            x = _blur(policy, x, u[16:18])
        if policy.noise > 0:
            x = _noise(policy, x, ids, (seed, epoch, view))
        if policy.erase > 0:
            x = _erase(policy, x, u[18:22])
        return self._normalise(x.clamp_(0, 1))

    @torch.no_grad()
    def plain(self, images: Tensor) -> Tensor:
        """images uint8 [b, c, h, w] -> float32 [b, c, h, w], normalised and otherwise as they are."""
        self._check(images)
        return self._normalise(_unit(images))

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise UserError(f"Views are made of uint8 images [b, c, h, w], not {images.dtype} {list(images.shape)}.")
        if images.shape[1] != len(self.mean):
            raise UserError(f"These views are for images of {len(self.mean)} channels, not {images.shape[1]}.")

    def _normalise(self, x: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=x.device)[:, None, None]
        return x.sub_(mean).div_(torch.tensor(self.std, device=x.device)[:, None, None])


def views_for(dataset: "Dataset", policy: Policy | None = None) -> Views:
    """The views that suit a data set: its kind's policy, else the given one, with its mean and deviation."""
    if policy is None:
        policy = natural(dataset.flip) if dataset.kind == "natural" else digits()
    return Views(policy, dataset.mean, dataset.std)


def _unit(images: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _either(u: Tensor, extent: float) -> Tensor:
    return (2 * u - 1) * extent  # uniform in -extent .. extent


def _pixels(values: Tensor) -> Tensor:
    return values[:, None, None]  # [b] against [b, h, w]


def _geometry(policy: Policy, x: Tensor, u: Tensor, knots: Tensor) -> Tensor:
    # x [b, c, h, w], u [8, b], knots [2 * _KNOTS^2, b]. Where in the image does the view's pixel (X, Y) in [-1, 1] lie?
    # At turn(shear(size * (X, Y))) + shift. align_corners=False also keeps cuDNN's sampler out, which rounds otherwise.
    b, _, h, w = x.shape
    low, high = policy.scale
    area = low + (high - low) * u[0]
    stretch = torch.exp(_either(u[1], 0.5 * math.log(policy.ratio)))
    root = area.sqrt()
    width, height = root * stretch, root / stretch
    if high <= 1:  # a crop stays inside the image, whatever its ratio
        width, height = width.clamp(max=1), height.clamp(max=1)
    shift_x = _either(u[2], 1) * (1 - width).abs() + _either(u[3], policy.translate)
    shift_y = _either(u[4], 1) * (1 - height).abs() + _either(u[5], policy.translate)
    turn = _either(u[6], math.radians(policy.rotate))
    # One draw serves two: whether to flip, and what is left of it, stretched to [0, 1) again, for the shear.
    flipped = u[7] < policy.flip
    rest = torch.where(flipped, u[7] / max(policy.flip, 1e-9), (u[7] - policy.flip) / max(1 - policy.flip, 1e-9))
    slant = torch.tan(_either(rest.clamp(0, 1), math.radians(policy.shear)))
    width = torch.where(flipped, -width, width)
    cos, sin = torch.cos(turn), torch.sin(turn)
    aspect = w / h  # a turn is one of pixels, not of the [-1, 1] square
    xx, xy = cos * width, (cos * slant - sin) * height / aspect
    yx, yy = sin * width * aspect, (sin * slant + cos) * height

    across = ((torch.arange(w, device=x.device) * 2 + 1) / w - 1)[None, None, :]
    down = ((torch.arange(h, device=x.device) * 2 + 1) / h - 1)[None, :, None]
    grid = x.new_empty(b, h, w, 2)
    torch.add(_pixels(xx) * across, _pixels(xy) * down + _pixels(shift_x), out=grid[..., 0])
    torch.add(_pixels(yx) * across, _pixels(yy) * down + _pixels(shift_y), out=grid[..., 1])
    if policy.elastic > 0:
        for axis, field in enumerate(knots.view(2, _KNOTS, _KNOTS, b)):
            grid[..., axis] += _field(_either(field, policy.elastic), h, w)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode=policy.padding, align_corners=False)


def _field(knots: Tensor, h: int, w: int) -> Tensor:
    # Knots [k, k, b] -> a smooth field [b, h, w]. Sums of elementwise products: a matrix product may round otherwise in
    # another batch.
    k = knots.shape[0]
    down, across = _bumps(h, k, knots.device), _bumps(w, k, knots.device)
    rows = [
        sum((knots[i, j][:, None] * across[j] for j in range(1, k)), knots[i, 0][:, None] * across[0]) for i in range(k)
    ]
    field = rows[0][:, None, :] * down[0][:, None]
    for i in range(1, k):
        field += rows[i][:, None, :] * down[i][:, None]
    return field


def _bumps(n: int, k: int, device: torch.device) -> Tensor:
    # k overlapping raised cosines over n pixels that sum to one: [k, n].
    place = (torch.arange(n, device=device) + 0.5) / n * (k - 1)
    distance = (place[None, :] - torch.arange(k, device=device)[:, None]).abs()
    return torch.where(distance < 1, 0.5 + 0.5 * torch.cos(math.pi * distance.clamp(max=1)), torch.zeros_like(distance))


def _thickness(policy: Policy, x: Tensor, u: Tensor) -> Tensor:
    # Towards the brightest (above 0) or the darkest (below) of the 3x3 neighbours.
    amount = _either(u, policy.thickness)[:, None, None, None]
    thick, thin = _extreme(x, torch.maximum), _extreme(x, torch.minimum)
    return x + amount.clamp(min=0) * (thick - x) + (-amount).clamp(min=0) * (thin - x)


def _extreme(x: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    for dim in (2, 3):  # seven times as fast on a CPU as max_pool2d
        n = x.shape[dim]
        if n > 1:
            inner = pick(x.narrow(dim, 0, n - 1), x.narrow(dim, 1, n - 1))  # of neighbours k, k + 1
            ends = x.narrow(dim, 0, 1), x.narrow(dim, n - 1, 1)
            x = pick(torch.cat((ends[0], inner), dim), torch.cat((inner, ends[1]), dim))
    return x


def _colour(policy: Policy, images: Tensor, x: Tensor, u: Tensor) -> Tensor:
    # One affine map of the colours of each sample: brightness, contrast, saturation, hue, in this order.
    c = x.shape[1]
    drawn = u[0] < policy.jitter
    one = torch.ones_like(u[0])
    brightness = torch.where(drawn, 1 + _either(u[1], policy.brightness), one)
    contrast = torch.where(drawn, 1 + _either(u[2], policy.contrast), one)
    saturation = torch.where(drawn, 1 + _either(u[3], policy.saturation), one)
    angle = torch.where(drawn, _either(u[4], 2 * math.pi * policy.hue), torch.zeros_like(one))
    saturation = torch.where(u[5] < policy.gray, torch.zeros_like(one), saturation)

    if policy.contrast > 0:
        # The pivot is the image's mean. A sum of integers is exact in any order; one of floats is not.
        total = images.sum(dim=(2, 3), dtype=torch.int64).to(torch.float32) / (255 * x.shape[2] * x.shape[3])
        level = sum(total[:, i] * weight for i, weight in enumerate(_LUMA)) if c == 3 else total[:, 0]
        if c not in (1, 3):
            for i in range(1, c):
                level = level + total[:, i]
            level = level / c
        offset = brightness * level * (1 - contrast)
    else:
        offset = torch.zeros_like(one)
    gain = brightness * contrast
    if policy.brightness > 0 or policy.contrast > 0:
        x = x * gain[:, None, None, None] + offset[:, None, None, None]
    if c != 3 or (policy.saturation == 0 and policy.hue == 0 and policy.gray == 0):
        return x
    # Colour differences from the luma: turned about the grey axis by the hue, shrunk or stretched by the saturation.
    cos, sin = (torch.cos(angle) * saturation)[:, None, None], (torch.sin(angle) * saturation)[:, None, None]
    red, green, blue = x.unbind(1)
    luma = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    i = red * 0.5959 - green * 0.2746 - blue * 0.3213
    q = red * 0.2115 - green * 0.5227 + blue * 0.3112
    i, q = i * cos - q * sin, i * sin + q * cos
    return torch.stack(
        (luma + 0.956 * i + 0.619 * q, luma - 0.272 * i - 0.647 * q, luma - 1.106 * i + 1.703 * q), dim=1
    )


def _blur(policy: Policy, x: Tensor, u: Tensor) -> Tensor:
    # A separable Gaussian, as shifted sums: a convolution's rounding may depend on the batch.
    sigma = torch.where(u[1] < policy.blurred, 0.1 + u[0] * max(policy.blur - 0.1, 0.0), torch.full_like(u[0], 1e-3))
    radius = min(max(1, math.ceil(2 * policy.blur)), x.shape[2] - 1, x.shape[3] - 1)
    if radius < 1:
        return x
    taps = [torch.exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]  # [b] each
    total = taps[0]
    for tap in taps[1:]:
        total = total + 2 * tap
    weights = [(tap / total)[:, None, None, None] for tap in taps]
    for dim, pad in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        padded, n = functional.pad(x, pad, mode="replicate"), x.shape[dim]
        x = x * weights[0]
        for k in range(1, radius + 1):
            x += (padded.narrow(dim, radius - k, n) + padded.narrow(dim, radius + k, n)) * weights[k]
    return x


def _noise(policy: Policy, x: Tensor, ids: Tensor, key: tuple[int, ...]) -> Tensor:
    # Uniform, of the stated deviation; keyed apart from the other draws.
    b, c, h, w = x.shape
    u = uniforms(ids, c * h * w, *key, 1).T.reshape(b, c, h, w)
    return x + _either(u, policy.noise * math.sqrt(3))


def _erase(policy: Policy, x: Tensor, u: Tensor) -> Tensor:
    h, w = x.shape[2:]
    low, high = policy.erase_area
    # One draw serves two again: u[0] / erase is uniform given that something is erased at all.
    erased = u[0] < policy.erase
    root = (low + (high - low) * (u[0] / policy.erase).clamp(max=1)).sqrt()
    stretch = torch.exp(_either(u[1], 0.5 * math.log(3)))
    height, width = (root * stretch * h).clamp(1, h), (root / stretch * w).clamp(1, w)
    top, left = u[2] * (h - height), u[3] * (w - width)
    y = torch.arange(h, device=x.device)[None, :] + 0.5
    z = torch.arange(w, device=x.device)[None, :] + 0.5
    rows = (y >= top[:, None]) & (y < (top + height)[:, None]) & erased[:, None]
    columns = (z >= left[:, None]) & (z < (left + width)[:, None])
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
