"""Pixels of more than 8 bits to bytes: one scale a data set and channel, learned on its training images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

PERCENTILES = (0.1, 99.9)
_NUMBERS = 1 << 22  # of each channel, from all images together, that percentiles are taken of
_GOLDEN = 0.6180339887498949


@final
@dataclass(frozen=True)
class Scale:
    """Numbers to bytes, a channel at a time: low becomes 0, high 255, evenly between them, what lies outside is cut."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """pixels [h, w, c] of any dtype -> float64 [h, w, c] from 0 to 255."""
        low, high = np.array(self.low), np.array(self.high)
        span = np.where(high > low, high - low, np.inf)  # a channel that never changes is 0
        return np.clip((pixels - low) / span, 0, 1) * 255


class Sampled(NamedTuple):
    """Some pixels of one image, [k, c] in its own dtype, and the lowest and highest of all of them, [c]."""

    pixels: np.ndarray
    low: np.ndarray
    high: np.ndarray


def sampled(pixels: np.ndarray, images: int) -> Sampled:
    """pixels [h, w, c] of one of so many images: few enough that those of all fit in memory, the same each time."""
    flat = pixels.reshape(-1, pixels.shape[2])
    low, high = flat.min(0), flat.max(0)
    count = max(1, _NUMBERS // images)
    if len(flat) > count:  # multiples of the golden ratio: even, and in step with no row or column
        flat = flat[((np.arange(1, count + 1) * _GOLDEN) % 1 * len(flat)).astype(np.int64)]
    return Sampled(flat.copy(), low, high)


def learned(samples: Sequence[Sampled], beside_bytes: bool) -> tuple[Scale, str]:
    """The scale for images of these training samples, and the note that states it.

    Whole numbers from 0 to 255 stay as they are. Beside 8-bit images, unsigned ones of 16 bits keep the upper 8 of the
    bits that the brightest needs, an even number. Else the 0.1 and 99.9 percentiles of each channel become 0 and 255;
    where the two are equal, the lowest and the highest value do.
    """
    low, high = np.min([s.low for s in samples], 0), np.max([s.high for s in samples], 0)
    kinds = sorted({s.pixels.dtype.name for s in samples})
    what, channels = f"Pixels of {' and '.join(kinds)}", len(low)
    whole = all(s.pixels.dtype.kind in "iu" for s in samples) and low.min() >= 0
    if whole and high.max() <= 255:
        return Scale((0.0,) * channels, (255.0,) * channels), f"{what} lie in 0 .. 255 and stay as they are."
    if beside_bytes and whole and high.max() < 2**16:
        bits = int(high.max()).bit_length()
        bits += bits % 2  # as cameras have: 10, 12, 14 or 16
        step = 2.0 ** (bits - 8)
        start = (step - 1) / 2  # rounding then keeps the upper bits
        note = f"{what} stand beside 8-bit images: of their {bits} bits the upper 8 are kept."
        return Scale((start,) * channels, (start + 255 * step,) * channels), note
    values = np.concatenate([s.pixels for s in samples]).astype(np.float64)
    first, last = np.percentile(values, PERCENTILES, axis=0)
    first, last = np.where(first < last, first, low), np.where(first < last, last, high)
    ends = ", ".join(f"{a:.6g} .. {b:.6g}" for a, b in zip(first, last, strict=True))
    note = f"{what} are brought to 8 bits: 0 .. 255 is {ends}, the 0.1 and 99.9 percentiles of the training pixels"
    return Scale(tuple(first.tolist()), tuple(last.tolist())), note + (", by channel." if channels > 1 else ".")
