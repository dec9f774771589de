"""One image file: its header, and its pixels as uint8 [c, h, w] or in their own depth.

Files of 8 bits a channel go through Pillow alone. What one byte does not hold (16 and 32 bits, signed numbers, floating
point), and channels that are neither grey nor colour, are read as arrays (arrays.py) and brought to bytes by one scale
for the data set (scale.py).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from infomax.data import arrays
from infomax.data.arrays import MAX_PIXELS
from infomax.data.packed import File, Packed, readable, size_of
from infomax.errors import UserError

_SKIP = "leave out all such files with --skip-unreadable (skip_unreadable=True)"
_GREY = ("1", "L", "LA", "La")  # modes of Pillow
ToBytes = Callable[[np.ndarray], np.ndarray]  # pixels [h, w, c] of any dtype -> numbers [h, w, c] from 0 to 255


class Header(NamedTuple):
    """Width and height as a viewer shows the picture; channels without alpha; the pixels' dtype where it is not uint8,
    else "". alpha: "" where there is none, "maybe" in a TIFF that marks its last channel as alpha that colours are not
    multiplied by, which tifffile does with any fourth channel, else "sure". colour: whether the channels are red, green
    and blue, as far as the file says."""

    width: int
    height: int
    channels: int
    depth: str = ""
    note: str = ""
    alpha: str = ""
    colour: bool = False


def opened(path: File) -> Any:
    """Pillow's image, its header read. Raises ValueError for more than MAX_PIXELS pixels."""
    from PIL import Image

    image = Image.open(readable(path))
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS} pixels")
    return image


def _bytes_hold(image: Any) -> bool:
    # Whether Pillow reads every channel, none of which has more than 8 bits.
    if image.mode[0] in "IF":
        return False
    if image.format == "PNG":
        return not image.tile or ";16" not in image.tile[0][3]
    if image.format == "TIFF":
        tags = image.tag_v2
        bits, signs = tags.get(258, (1,)), tags.get(339, (1,))
        return (
            max(bits) <= 8
            and set(signs) == {1}
            and tags.get(277, 1) == len(image.getbands())
            and (image.mode not in ("1", "L") or getattr(image, "n_frames", 1) == 1)  # grey pages are channels
        )
    return True


def header(path: File) -> Header:
    """What the file says of itself. Raises UserError, with the file's name, where it cannot be read."""
    try:
        if arrays.is_array(path):
            return Header(*arrays.header(path))
        try:
            image = opened(path)
        except OSError:
            if not arrays.is_tiff(path):
                raise
            return Header(*arrays.header(path))  # a TIFF of kinds that Pillow does not know
        with image:
            if not _bytes_hold(image):
                return Header(*arrays.header(path, image))
            width, height = image.size
            if _turn(image) >= 5:
                width, height = height, width
            note = "of several frames the first is read" if getattr(image, "is_animated", False) else ""
            alpha = "sure" if image.has_transparency_data else ""
            if alpha and image.format == "TIFF" and image.tag_v2.get(338) != (1,):
                alpha = "maybe"
            colour = image.mode not in _GREY
            return Header(width, height, 3 if colour else 1, "", note, alpha, colour)
    except Exception as error:
        raise unreadable(path, error) from error


def decode(path: File, shape: tuple[int, int, int], whole: bool = False, scale: ToBytes | None = None) -> Tensor:
    """One file -> uint8 [c, h, w].

    Scaled to cover the height and width and cut about its middle; or, where `whole`, scaled to fit inside, with black
    around it. scale: what brings pixels of more than 8 bits to bytes. Alpha is composed onto white; of a colour picture
    it is the last of four channels, where there are to be four. Raises UserError, with the file's name.
    """
    channels, height, width = shape
    try:
        image = None
        if not arrays.is_array(path):
            try:
                image = opened(path)
            except OSError:
                if not arrays.is_tiff(path):
                    raise
        if image is not None:
            with image:
                if not _bytes_hold(image):
                    pixels = arrays.pixels(path, image, channels)
                elif channels in (1, 3):
                    return _plain(image, shape, whole)
                else:
                    pixels = _in_bytes(image, channels)
        else:
            pixels = arrays.pixels(path, None, channels)
        values = as_channels(pixels, channels)
        if values.dtype != np.uint8:
            if scale is None:
                raise ValueError(f"its pixels are {values.dtype}, where those of other images are bytes")
            values = scale(values)
        fitted = np.stack([_fitted(values[..., i], width, height, whole) for i in range(channels)])
        return torch.from_numpy(fitted)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise unreadable(path, error) from error


def own_depth(path: File, channels: int = 0) -> np.ndarray | None:
    """The pixels [h, w, c] in their own dtype; None for a file whose channels bytes hold. channels: as decode() has
    them, for alpha. Raises UserError."""
    try:
        if arrays.is_array(path):
            return arrays.pixels(path)
        try:
            image = opened(path)
        except OSError:
            if not arrays.is_tiff(path):
                raise
            return arrays.pixels(path, None, channels)
        with image:
            return None if _bytes_hold(image) else arrays.pixels(path, image, channels)
    except Exception as error:
        raise unreadable(path, error) from error


def as_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """[h, w, c] with a grey picture repeated to `channels`; another number of channels raises ValueError."""
    if pixels.shape[2] not in (1, channels):
        raise ValueError(f"it has {pixels.shape[2]} channels where other images have {channels}")
    return np.broadcast_to(pixels, (*pixels.shape[:2], channels))


def _plain(image: Any, shape: tuple[int, int, int], whole: bool) -> Tensor:
    from PIL import Image, ImageOps

    channels, height, width = shape
    image.load()
    turn, image = _turn(image), _opaque(image, "L" if channels == 1 else "RGB")
    if turn > 1:
        image = image.transpose(_transposes()[turn])
    if image.size != (width, height):
        make = ImageOps.pad if whole else ImageOps.fit
        image = make(image, (width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).reshape(height, width, channels).permute(2, 0, 1)


def _opaque(image: Any, mode: str) -> Any:
    from PIL import Image

    made = image
    if image.mode != mode or "transparency" in image.info:
        if image.has_transparency_data:
            # What is fully transparent has colours that no viewer shows: on white, as on a page.
            made = image.convert("RGBA")
            made = Image.alpha_composite(Image.new("RGBA", made.size, "white"), made)
        made = made.convert(mode)
    return made


def _in_bytes(image: Any, channels: int) -> np.ndarray:
    # uint8 [h, w, c] among images of another number of channels than grey and colour have: 1, 3, or with alpha 4.
    image.load()
    if image.mode in _GREY:
        made = _opaque(image, "L")
    else:
        made = image.convert("RGBA") if channels == 4 and image.has_transparency_data else _opaque(image, "RGB")
    values = np.asarray(made)
    return arrays.turned(values[..., None] if values.ndim == 2 else values, _turn(image))


def fourth(path: File) -> np.ndarray:
    """The alpha [h, w] of a colour picture, in its own dtype. Raises UserError."""
    values = own_depth(path, 4)
    try:
        if values is None:
            with opened(path) as image:
                values = _in_bytes(image, 4)
    except Exception as error:
        raise unreadable(path, error) from error
    return values[..., -1]


def _turn(image: Any) -> int:
    # How EXIF says the picture is to be turned, 1 to 8. Pillow turns TIFFs itself, and their headers' sizes.
    return 1 if image.format == "TIFF" else arrays.orientation(image)


def _transposes() -> dict[int, Any]:
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _fitted(plane: np.ndarray, width: int, height: int, whole: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    if plane.shape != (height, width):
        image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        make = ImageOps.pad if whole else ImageOps.fit
        plane = np.asarray(make(image, (width, height), Image.Resampling.BILINEAR))
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)


class Unreadable(UserError):
    """An image file that cannot be read whatever is installed, and that may be left out."""


def require_readable(path: File) -> None:
    """Decodes a file whole. Raises Unreadable where it cannot be read; another UserError where a package is missing."""
    if isinstance(path, Path) and not path.exists():
        raise Unreadable(f"The image {path} is not there.")
    header(path)
    if own_depth(path) is None:
        try:
            with opened(path) as image:
                image.load()
        except Exception as error:
            raise unreadable(path, error) from error


def unreadable(path: File, error: Exception) -> UserError:
    """The sentence that names the file and says what is wrong with it."""
    if isinstance(error, UserError):
        return error
    if (isinstance(path, Packed) or path.is_file()) and size_of(path) == 0:
        return Unreadable(f"The image {path} is empty (0 bytes): remove it, copy it again, or {_SKIP}.")
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).replace(str(path), "it").rstrip(".")
    reason = re.sub(r"<_io\.BytesIO object at \w+>", "it", reason)  # an image inside another file
    return Unreadable(f"The image {path} cannot be read ({reason}): remove it, replace it, or {_SKIP}.")
