"""Augmentations of a batch of images [b, c, h, w] in [0, 1], or of signals [b, c, time], with random numbers of its own
for each sample."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from infomax.data.keyed import uniforms
from infomax.data.policy import Policy, SignalPolicy

if TYPE_CHECKING:
    pass


KNOTS = 4  # of the elastic field, each way
_LUMA, _I, _Q = (0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)  # of red, green, blue
_TO_RGB = ((0.956, 0.619), (-0.272, -0.647), (-1.106, 1.703))  # what I and Q add to the luma


def as_unit(images: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _either(u: Tensor, extent: float) -> Tensor:
    return (2 * u - 1) * extent  # uniform in -extent .. extent


def _pixels(values: Tensor) -> Tensor:
    return values[:, None, None]  # [b] against [b, h, w]


def _sample(values: Tensor) -> Tensor:
    return values[:, None, None, None]  # [b] against [b, c, h, w]


def moved(policy: Policy, x: Tensor, u: Tensor, knots: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    # x [b, c, h, w], u [8, b], knots [2 * KNOTS^2, b]. Where in the image does the view's pixel (X, Y) in [-1, 1] lie?
    # At turn(shear(size * (X, Y))) + shift. align_corners=False also keeps cuDNN's sampler out, which rounds otherwise.
    # size: (height, width) of the view, by default the image's own.
    b, _, h, w = x.shape
    h, w = size or (h, w)
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
    aspect = x.shape[3] / x.shape[2]  # a turn is one of pixels, not of the [-1, 1] square
    xx, xy = cos * width, (cos * slant - sin) * height / aspect
    yx, yy = sin * width * aspect, (sin * slant + cos) * height

    across = ((torch.arange(w, device=x.device) * 2 + 1) / w - 1)[None, None, :]
    down = ((torch.arange(h, device=x.device) * 2 + 1) / h - 1)[None, :, None]
    grid = x.new_empty(b, h, w, 2)
    torch.addcmul(_pixels(xy) * down + _pixels(shift_x), _pixels(xx), across, out=grid[..., 0])
    torch.addcmul(_pixels(yy) * down + _pixels(shift_y), _pixels(yx), across, out=grid[..., 1])
    if policy.elastic > 0:
        bumps = _bumps(h, KNOTS, x.device), _bumps(w, KNOTS, x.device)
        for axis, field in enumerate(knots.view(2, KNOTS, KNOTS, b)):
            grid[..., axis] += _field(_either(field, policy.elastic), *bumps)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode=policy.padding, align_corners=False)


def _field(knots: Tensor, down: Tensor, across: Tensor) -> Tensor:
    # Knots [k, k, b], bumps [k, h] and [k, w] -> a smooth field [b, h, w]. Sums of elementwise products: a matrix
    # product may round otherwise in another batch.
    k = len(down)
    rows = knots[:, 0, :, None] * across[0]  # [k, b, w]
    for j in range(1, k):
        rows.addcmul_(knots[:, j, :, None], across[j])
    field = rows[0][:, None, :] * down[0][:, None]
    for i in range(1, k):
        field.addcmul_(rows[i][:, None, :], down[i][:, None])
    return field


def _bumps(n: int, k: int, device: torch.device) -> Tensor:
    # k overlapping raised cosines over n pixels that sum to one: [k, n].
    place = (torch.arange(n, device=device) + 0.5) / n * (k - 1)
    distance = (place[None, :] - torch.arange(k, device=device)[:, None]).abs()
    return torch.where(distance < 1, 0.5 + 0.5 * torch.cos(math.pi * distance.clamp(max=1)), torch.zeros_like(distance))


def thickened(policy: Policy, x: Tensor, u: Tensor) -> Tensor:
    # Towards the brightest (above 0) or the darkest (below) of the 3x3 neighbours.
    # Thinning is thickening of the negative, so that each sample goes one of the two ways and not both.
    amount = _either(u, policy.thickness)[:, None, None, None]
    way = torch.where(amount < 0, -1.0, 1.0)
    signed = x * way
    return x + amount * (_brightest(signed).sub_(signed))


def _brightest(x: Tensor) -> Tensor:
    # The largest of the 3x3 neighbours: in shifted pairs, seven times as fast on a CPU as max_pool2d.
    for dim in (2, 3):
        n = x.shape[dim]
        if n > 1:
            inner = torch.maximum(x.narrow(dim, 0, n - 1), x.narrow(dim, 1, n - 1))  # of neighbours k, k + 1
            found = torch.empty_like(x)
            found.narrow(dim, 0, 1).copy_(inner.narrow(dim, 0, 1))
            found.narrow(dim, n - 1, 1).copy_(inner.narrow(dim, n - 2, 1))
            if n > 2:
                first, second = inner.narrow(dim, 0, n - 2), inner.narrow(dim, 1, n - 2)
                torch.maximum(first, second, out=found.narrow(dim, 1, n - 2))
            x = found
    return x


def coloured(policy: Policy, images: Tensor, x: Tensor, u: Tensor) -> Tensor:
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
    if c != 3 or (policy.saturation == 0 and policy.hue == 0 and policy.gray == 0):
        if policy.brightness > 0 or policy.contrast > 0:
            x = torch.addcmul(_sample(offset), x, _sample(gain))
        return x
    # Colour differences from the luma are turned about the grey axis by the hue, and shrunk or stretched by the
    # saturation: with brightness and contrast, one matrix a sample, whose rows are summed in one order in any batch.
    turned, across = torch.cos(angle) * saturation * gain, torch.sin(angle) * saturation * gain
    planes = x.unbind(1)
    found = torch.empty_like(x)
    for channel, plane in enumerate(found.unbind(1)):
        of_i, of_q = _TO_RGB[channel]
        weights = [
            gain * luma + turned * (of_i * i + of_q * q) + across * (of_q * i - of_i * q)
            for luma, i, q in zip(_LUMA, _I, _Q, strict=True)
        ]
        # An offset of all three colours alike has no colour difference, and stays as it is.
        torch.addcmul(_pixels(offset), planes[0], _pixels(weights[0]), out=plane)
        for k in (1, 2):
            plane.addcmul_(planes[k], _pixels(weights[k]))
    return found


def blurred(policy: Policy, x: Tensor, u: Tensor) -> Tensor:
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


def noisy(policy: Policy, x: Tensor, ids: Tensor, key: tuple[int, ...]) -> Tensor:
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
    box = rows.to(x.dtype)[:, :, None] * columns.to(x.dtype)[:, None, :]
    return x.mul_(box.neg_().add_(1)[:, None])


def cropped(policy: SignalPolicy, x: Tensor, u: Tensor) -> Tensor:
    # x [b, c, time], u [3, b]. Sample t of the view lies at place (t + 1/2) * part + start - 1/2 of the signal; between
    # two samples a straight line, beyond the ends the signal reflected.
    time = x.shape[2]
    low, high = policy.crop
    part = low + (high - low) * u[0]
    start = (u[1] * (1 - part) + _either(u[2], policy.shift)) * time
    place = (torch.arange(time, device=x.device)[None, :] + 0.5) * part[:, None] + start[:, None] - 0.5
    last = max(time - 1, 1)
    place = (last - ((place % (2 * last)) - last).abs()).clamp(0, time - 1)
    before = place.floor().to(torch.int64).clamp(max=max(time - 2, 0))
    after, weight = (before + 1).clamp(max=time - 1), (place - before)[:, None]
    one, other = (x.gather(2, at[:, None].expand(-1, x.shape[1], -1)) for at in (before, after))
    return one + (other - one) * weight


def rescaled(policy: SignalPolicy, x: Tensor, u: Tensor) -> Tensor:
    # u [c, b], a number a channel.
    return x * torch.exp(_either(u, policy.scale)).T[:, :, None]


def jittered(policy: SignalPolicy, x: Tensor, ids: Tensor, key: tuple[int, ...]) -> Tensor:
    u = uniforms(ids, x.shape[1] * x.shape[2], *key, 1).T.reshape(x.shape)
    return x + _either(u, policy.jitter * math.sqrt(3))


def masked(policy: SignalPolicy, x: Tensor, u: Tensor) -> Tensor:
    # u [2, b]: the length of the piece, and where it begins.
    time = x.shape[2]
    length = policy.mask * u[0] * time
    begin = u[1] * (time - length)
    places = torch.arange(time, device=x.device)[None, :] + 0.5
    hidden = (places >= begin[:, None]) & (places < (begin + length)[:, None])
    return x.masked_fill(hidden[:, None], 0.0)
