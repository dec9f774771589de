"""Which augmentations make a view, and how strong they are: Policy of images, SignalPolicy; the library's own."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, final

from infomax.errors import UserError, is_number
from infomax.spelling import of_python


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
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(is_number, pair))) or not (
                0 < pair[0] <= pair[1] < math.inf
            ):
                raise UserError(f"Policy's {name} is a range (low, high) with 0 < low <= high, not {pair!r}.")
            _keep(self, name, tuple(map(of_python, pair)))  # a list, where JSON gives it back
        if self.erase_area[1] > 1:
            raise UserError(f"Policy's erase_area is a part of the image, at most 1, not {self.erase_area!r}.")
        if self.padding not in ("zeros", "border", "reflection"):
            raise UserError(f"Policy's padding is 'zeros', 'border' or 'reflection', not {self.padding!r}.")
        limits = {"ratio": 100, "rotate": 180, "shear": 60, "translate": 2, "hue": 0.5, "blur": 50}
        for name in (field.name for field in fields(self) if field.name not in ("scale", "erase_area", "padding")):
            value, low, high = getattr(self, name), int(name == "ratio"), limits.get(name, 1)
            if not is_number(value) or not low <= value <= high:
                raise UserError(f"Policy's {name} lies in {low} .. {high}, not {value!r}.")
            _keep(self, name, of_python(value))


@final
@dataclass(frozen=True)
class SignalPolicy:
    """How strongly views of signals are augmented; its repr is its constructor call. Fields at defaults do nothing.

    crop, the range of the part of the time that is seen, placed at random and stretched to the whole length; shift, a
    further shift to either side, as a part of the length, where what lies outside is reflected; scale multiplies each
    channel by exp(-scale) to exp(scale); jitter is the deviation of noise, in deviations of the channel; mask the
    largest part of the time, in one piece, that is set to the channels' means. Raises UserError: values out of range.
    """

    crop: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    scale: float = 0.0
    jitter: float = 0.0
    mask: float = 0.0

    def __post_init__(self) -> None:
        pair = self.crop
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(is_number, pair))) or not (
            0 < pair[0] <= pair[1] <= 1
        ):
            raise UserError(f"SignalPolicy's crop is a range (low, high) with 0 < low <= high <= 1, not {pair!r}.")
        _keep(self, "crop", tuple(map(of_python, pair)))  # a list, where JSON gives it back
        for name, high in (("shift", 1), ("scale", 5), ("jitter", 10), ("mask", 1)):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= high:
                raise UserError(f"SignalPolicy's {name} lies in 0 .. {high}, not {value!r}.")
            _keep(self, name, of_python(value))


def _keep(policy: Policy | SignalPolicy, name: str, value: Any) -> None:
    object.__setattr__(policy, name, value)  # frozen


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


def natural(flip: bool = True, colour: bool = True) -> Policy:
    """For photographs: SimCLR's crops, flips and colours, at its strengths for CIFAR-10. (Chen et al., 2020)

    flip: whether a mirrored image is as good. colour: whether hue, saturation and grey images are drawn, which are of
    red, green and blue alone.
    """
    return Policy(
        scale=(0.2, 1.0),
        ratio=4 / 3,
        flip=0.5 if flip else 0.0,
        padding="reflection",
        brightness=0.4,
        contrast=0.4,
        saturation=0.4 if colour else 0.0,
        hue=0.1 if colour else 0.0,
        jitter=0.8,
        gray=0.2 if colour else 0.0,
    )


def signals() -> SignalPolicy:
    """For signals whose meaning lies in their shape, wherever and however strong it is."""
    return SignalPolicy(crop=(0.5, 1.0), shift=0.1, scale=0.3, jitter=0.2, mask=0.2)


policies: dict[str, Callable[[], Policy]] = {"digits": digits, "natural": natural}
