"""Image files that are read as arrays in their own depth: .npy, TIFFs of any kind, 16-bit PNG, PGM and JPEG 2000.

The axes of an array become height, width and channels: pages, z-planes and colours are all channels, but of several
colour pages the first is read. Alpha is composed onto white, unless it is asked for as a fourth channel.
"""

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from infomax.data.packed import File, readable
from infomax.errors import UserError

MAX_PIXELS = 64 * 1024**2  # of one image file: a small file can claim to be larger than memory
MAX_CHANNELS = 64  # pages and channels of one picture; beyond, it is a film or a volume
_MAX_LAST = 16  # channels of an array [h, w, c] that tifffile wrote as h pages; with more, pages are pages
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXIF = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
_PAGES = "pages or channels are read as {} channels"
_LAST = (
    "pages, as tifffile writes [h, w, c] where nothing is said, are read as {} channels, for that side is shortest; "
    "where they are pages, write them with metadata={{'axes': 'CYX'}}"
)


def is_array(path: File) -> bool:
    return str(path)[-4:].lower() == ".npy"


def is_tiff(path: File) -> bool:
    with path.open("rb") as file:
        return file.read(4) in _TIFFS


def header(path: File, image: Any = None) -> tuple[int, int, int, str, str, str, bool]:
    """(width, height, channels without alpha, dtype if not uint8 else "", note, alpha and colour as Header has them).
    image: the file, opened by Pillow, if it can."""
    if is_array(path):
        values = _mapped(path)
        height, width, channels = _sides(values.shape)
        note = _PAGES.format(channels) if channels > 4 else ""
        return width, height, channels, _named(values.dtype), note, "", channels == 3
    if image is None or image.format == "TIFF":
        return _tiff_header(path, image)
    channels = 3 if len(image.getbands()) >= 3 and not _is_grey_png(image) else 1
    width, height = image.size if orientation(image) < 5 else image.size[::-1]
    alpha = "sure" if image.format == "PNG" and str(image.tile[0].args).startswith(("LA", "RGBA")) else ""
    return width, height, channels, "uint16", "", alpha, channels == 3


def pixels(path: File, image: Any = None, channels: int = 0) -> np.ndarray:
    """[h, w, c] in the file's own dtype; with channels=4 the alpha of a colour picture is the fourth. Raises ValueError
    for NaN, infinity and what is not numbers."""
    if is_array(path):
        values = np.asarray(_mapped(path))
        if values.ndim == 2:
            values = values[..., None]
        elif _channels_first(values.shape):
            values = np.moveaxis(values, 0, -1)
    elif image is None or image.format == "TIFF":
        values = _tiff(path, image, channels)
    elif image.mode in ("RGB", "RGBA"):
        values = turned(_deep_png(path, image, channels), orientation(image))
    else:
        values = np.asarray(image)[..., None]
        if values.dtype.kind == "i" and values.min() >= 0 and values.max() < 2**16:
            values = values.astype(np.uint16)  # Pillow's mode I: a PGM's 16 bits in 32
        values = turned(values, orientation(image))
    _named(values.dtype)
    if values.dtype.kind == "f":
        lost = ~np.isfinite(values)
        if lost.any():
            raise ValueError(f"{lost.mean():.2%} of its pixels are NaN or infinite: give them a number")
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def turned(values: np.ndarray, how: int) -> np.ndarray:
    """[h, w, c] as EXIF's orientation, 1 to 8, says that it is shown."""
    if how >= 5:
        values = values.swapaxes(0, 1)
    if how in (2, 3, 6, 7):
        values = values[:, ::-1]
    if how in (3, 4, 7, 8):
        values = values[::-1]
    return values


def orientation(image: Any) -> int:
    """How EXIF says that Pillow's image is to be turned, 1 to 8; 1 where EXIF cannot be read, as viewers do."""
    try:
        found = image.getexif().get(0x0112, 1) if _EXIF & image.info.keys() else 1
    except Exception:  # Pillow raises many kinds for damaged EXIF
        return 1
    return found if found in range(1, 9) else 1


def _named(dtype: np.dtype) -> str:
    if dtype.kind not in "biuf":
        raise ValueError(f"its values are {dtype}, not numbers of one channel each")
    return "" if dtype in (np.uint8, np.bool_) else dtype.newbyteorder("=").name


def _mapped(path: File) -> np.ndarray:
    def loaded() -> np.ndarray:
        return np.load(readable(path), mmap_mode="r" if isinstance(path, Path) else None, allow_pickle=False)

    try:
        try:
            values = loaded()
        except SystemError:  # headers are parsed by Python 3.11's parser, which threads can disturb (CPython 106905)
            values = loaded()
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise ValueError("it holds Python objects, which are never loaded: save an array of numbers") from error
        raise
    _sides(values.shape)
    return values


def _sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    # Height, width, channels of an array [h, w], [h, w, c] or [c, h, w].
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"its shape is {list(shape)}, not [h, w], [h, w, c] or [c, h, w]")
    if len(shape) == 2:
        return _reasonable(shape[0], shape[1], 1)
    height, width, channels = (*shape[1:], shape[0]) if _channels_first(shape) else shape
    return _reasonable(height, width, channels)


def _channels_first(shape: tuple[int, ...]) -> bool:
    # The shorter of the outer two sides holds the channels.
    return shape[0] < shape[2]


def _reasonable(height: int, width: int, channels: int) -> tuple[int, int, int]:
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS} pixels")
    if channels > MAX_CHANNELS:
        raise ValueError(f"its {channels} pages or channels are more than {MAX_CHANNELS}: save one file a picture")
    if height * width * channels > 4 * MAX_PIXELS:
        raise ValueError(f"{width} x {height} x {channels} numbers are more than {4 * MAX_PIXELS}")
    return height, width, channels


def on_white(values: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """[h, w, c + 1], the last of them alpha, composed onto white -> [h, w, c] of the same dtype."""
    integer = values.dtype.kind in "iu"
    most = float(np.iinfo(values.dtype).max) if integer else 1.0
    alpha = values[..., -1:] / most
    colour = values[..., :-1] if premultiplied else values[..., :-1] * alpha
    made = colour + (1 - alpha) * most
    return (np.clip(np.rint(made), 0, most) if integer else made).astype(values.dtype)


# 16-bit PNG in colour, of which Pillow keeps the upper bytes.


def _is_grey_png(image: Any) -> bool:
    return bool(image.tile) and str(image.tile[0].args).startswith("LA")


def _deep_png(path: File, image: Any, channels: int) -> np.ndarray:
    # The decoder is asked for all bytes: once for the upper of each two, once for the lower. A PNG's are big-endian,
    # so reading them as little-endian finds the lower one where it expects the upper. Grey and alpha are four bytes.
    from PIL import Image

    raw = str(image.tile[0].args)
    if image.format != "PNG":
        raise ValueError(f"its pixels are of a kind, {raw}, whose 16 bits cannot be read: save it as TIFF")

    def read(kind: str) -> np.ndarray:
        with Image.open(readable(path)) as again:
            tiles: Any = again
            tiles.tile = [tile._replace(args=kind) for tile in tiles.tile]
            return np.asarray(again).astype(np.uint16)

    if raw.startswith("LA"):
        bytes_ = read("RGBA")
        values = bytes_[..., ::2] << 8 | bytes_[..., 1::2]
    else:
        values = read(raw) << 8 | read(raw.replace(";16B", ";16L"))
    return on_white(values) if values.shape[2] in (2, 4) and not values.shape[2] == channels == 4 else values


# TIFF: by tifffile where it is installed, else what Pillow reads.


def _tifffile() -> Any:
    try:
        return importlib.import_module("tifffile")
    except ImportError:
        return None


def _needs_tifffile(path: File, what: str) -> UserError:
    return UserError(
        f"The image {path} cannot be read ({what}) without tifffile: pip install tifffile, or infomax[images]."
    )


def _tiff_header(path: File, image: Any) -> tuple[int, int, int, str, str, str, bool]:
    tifffile = _tifffile()
    if tifffile is None:
        width, height, pages, dtype = _pillow_tiff(path, image)
        note = _LAST if _channels_last(_described(image), (pages, height, width)) else _PAGES
        if note is _LAST:
            height, width, pages = _reasonable(pages, height, width)
        else:
            _reasonable(height, width, pages)
        return width, height, pages, _named(dtype), note.format(pages) if pages > 1 or note is _LAST else "", "", False
    with tifffile.TiffFile(readable(path)) as file:
        series, page = file.series[0], file.series[0].keyframe
        axes = _axes_of(series)
        height, width, channels, frames = _axes(axes, series.shape)
        dtype = np.dtype(series.dtype)
        if page.photometric == 3:  # a palette
            channels, dtype = 3 * channels, np.dtype(np.uint16)
        alpha = _alpha(page)
        if alpha:
            channels -= 1
        if page.photometric == 5 and channels == 4 and dtype.kind == "u":  # inks, which become colours
            channels, alpha = 3, 0
        note = "of several colour pages the first is read" if frames > 1 else ""
        if channels > 4 or (channels > 1 and "S" not in axes and page.photometric != 3):
            note = (_PAGES if axes == series.axes else _LAST).format(channels)
        if _orientation_of(page) >= 5:
            height, width = width, height
        colour = channels == 3 and page.photometric not in (0, 1)  # of grey pages three are no colour
        return width, height, channels, _named(dtype), note, ("", "sure", "maybe")[alpha], colour


def _tiff(path: File, image: Any, channels: int) -> np.ndarray:
    tifffile = _tifffile()
    if tifffile is None:
        return _by_pillow(path, image)
    with tifffile.TiffFile(readable(path)) as file:
        series, page = file.series[0], file.series[0].keyframe
        axes = _axes_of(series)
        *_, frames = _axes(axes, series.shape)
        try:
            values = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            if image is not None and image.mode[0] in "IFL":
                return _by_pillow(path, image)
            raise UserError(f"The image {path} is compressed: to read it, pip install imagecodecs.") from error
        values = np.moveaxis(values, (axes.index("Y"), axes.index("X")), (0, 1))
        rest = "".join(a for a in axes if a not in "YX")
        if "S" in rest:  # the colours of one page; of several pages the first
            values = np.moveaxis(values, 2 + rest.index("S"), -1)
            if frames > 1:
                values = values[(slice(None), slice(None), *(0 for _ in rest[1:]))]
        values = values.reshape(*values.shape[:2], -1)
        if page.photometric == 0 and values.dtype.kind == "u":  # white is zero
            values = np.iinfo(values.dtype).max - values
        if page.photometric == 3:
            values = np.moveaxis(np.asarray(page.colormap)[:, values[..., 0]], 0, -1)
        alpha = _alpha(page)
        if alpha and not values.shape[2] == channels == 4:
            values = on_white(values, premultiplied=alpha == 1)
        if page.photometric == 5 and values.shape[2] == 4 and values.dtype.kind == "u":  # inks
            most = np.iinfo(values.dtype).max
            rest_of = most - values.astype(np.float64)
            values = (rest_of[..., :3] * rest_of[..., 3:] / most).round().astype(values.dtype)
        return turned(values, _orientation_of(page))


def _axes_of(series: Any) -> str:
    return "YXQ" if _channels_last(series.axes, series.shape) else series.axes


def _channels_last(axes: str, shape: tuple[int, ...]) -> bool:
    # Whether pages of a file of tifffile's, whose sides nobody named (Q), are the rows of an array [h, w, c]: where the
    # last side is short, and shorter than both others. Pages of films and volumes are square, or nearly so, or longer.
    return axes == "QYX" and shape[2] <= _MAX_LAST and shape[2] < min(shape[:2])


def _described(image: Any) -> str:
    # The axes as tifffile reads them from its own description of pages: {"shape": [16, 16, 5]}.
    text = str(image.tag_v2.get(270, ""))
    return "QYX" if text.startswith('{"shape": [') and '"axes"' not in text and text.count(",") == 2 else ""


def _axes(axes: str, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    # Height, width, channels, and how many colour pages there are, of which the first alone is read.
    if "Y" not in axes or "X" not in axes:
        raise ValueError(f"its axes {axes} of {list(shape)} are no picture's")
    sides = dict(zip(axes, shape, strict=True))
    height, width = sides.pop("Y"), sides.pop("X")
    others = math.prod(sides.values())
    if "S" in sides:
        frames, channels = others // sides["S"], sides["S"]
    else:
        frames, channels = 1, others
    return *_reasonable(height, width, channels), frames


def _alpha(page: Any) -> int:
    # 1: colours come multiplied by it. 2: they do not. 0: there is none.
    extra = tuple(int(kind) for kind in (page.extrasamples or ()))
    return extra[-1] if len(extra) == 1 and extra[0] in (1, 2) else 0


def _orientation_of(page: Any) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None and int(tag.value) in range(1, 9) else 1


def _pillow_tiff(path: File, image: Any) -> tuple[int, int, int, np.dtype]:
    if image is None:
        raise _needs_tifffile(path, "a TIFF of a kind that Pillow does not know")
    tags = image.tag_v2
    bits, sign = max(tags.get(258, (1,))), max(tags.get(339, (1,)))
    if image.mode[0] not in "IFL" or len(image.getbands()) != 1 or tags.get(277, 1) != 1:
        raise _needs_tifffile(path, f"a TIFF of {tags.get(277, 1)} channels of {bits} bits, or of several pages")
    pages = getattr(image, "n_frames", 1)
    kind = {1: "uint", 2: "int", 3: "float"}.get(sign)
    wide = max(8, 1 << (bits - 1).bit_length())
    if kind is None or wide > 64:
        raise _needs_tifffile(path, f"a TIFF of {bits} bits of format {sign}")
    return image.width, image.height, pages, np.dtype(f"{kind}{wide}")


def _by_pillow(path: File, image: Any) -> np.ndarray:
    width, height, pages, dtype = _pillow_tiff(path, image)
    axis = 0 if _channels_last(_described(image), (pages, height, width)) else -1  # the first page describes all
    read = []
    for page in range(pages):
        image.seek(page)
        if image.size != (width, height):
            raise ValueError(
                f"its page {page + 1} is of {image.size[0]} x {image.size[1]} pixels, not {width} x {height}"
            )
        values = np.asarray(image)
        if dtype == np.uint32 and values.dtype == np.int32:
            values = values.view(np.uint32)  # Pillow has no unsigned 32 bits
        values = values.view(np.int8) if dtype == np.int8 else values.astype(dtype, copy=False)
        if image.tag_v2.get(262) == 0 and dtype.kind == "u" and dtype != np.uint8:
            values = np.iinfo(dtype).max - values  # white is zero; of 8 bits Pillow knows
        read.append(values)
    return np.stack(read, axis=axis)
