"""Scans in three dimensions, as NIfTI files hold them: their slices are images, or the channels of one.

A scan is brought to the nearest of the axes right, front and up (RAS+), so that slices of differently stored scans lie
alike. Slices are those along the third of these axes. A picture of one has the front at its top and the patient's
right at its right.
"""

import gzip
import importlib
import io
from collections.abc import Iterator
from functools import partial
from typing import Any, final

import numpy as np

from infomax.data.packed import File, Packed, Recent, packed_array
from infomax.data.pixels import unreadable


@final
class Scan:
    """One NIfTI file [x, y, z] or [x, y, z, time], whose times are channels. file: the scan, packed or by its path."""

    def __init__(self, file: File) -> None:
        self.file = file

    def images(self, channels: bool) -> Iterator[Packed]:
        """Its slices, or one image whose channels they are. Raises UserError where its header cannot be read."""
        try:
            scan = _opened(self.file)
            sides = (*scan.shape, 1, 1, 1)[:3] if len(scan.shape) < 3 else scan.shape
            to = _axes(scan)[:, 0].astype(int).tolist()
            depth = sides[to.index(2)]
            size = int(np.prod(sides)) * scan.get_data_dtype().itemsize
        except Exception as error:  # nibabel raises many kinds for what is no scan
            raise unreadable(self.file, error) from error
        if channels:
            yield packed_array(str(self.file), size, partial(self._read, slice(None)))
            return
        for place in range(depth):
            yield packed_array(f"{self.file}/{place:04}", size // depth, partial(self._read, slice(place, place + 1)))

    def _read(self, places: slice) -> np.ndarray:
        # [y, x, channels], the front first
        values = _recent.get(self, partial(_turned, self.file))[:, :, places]
        return np.ascontiguousarray(values.reshape(*values.shape[:2], -1).swapaxes(0, 1)[::-1])


_recent = Recent(1 << 28)


def _turned(file: File) -> np.ndarray:
    scan = _opened(file)
    values = np.asanyarray(scan.dataobj)  # in the file's own dtype, unless it holds a slope
    values = values.reshape(*values.shape, *(1,) * (3 - values.ndim))
    return importlib.import_module("nibabel").orientations.apply_orientation(values, _axes(scan))


def _axes(scan: Any) -> np.ndarray:
    axes = importlib.import_module("nibabel").io_orientation(scan.affine)
    if np.isnan(axes).any():
        raise ValueError("its affine matrix leaves out an axis")
    return axes


def _opened(file: File) -> Any:
    nibabel = importlib.import_module("nibabel")
    if not isinstance(file, Packed):
        return nibabel.load(file)
    content = file.open().read()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    second = 540 in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big"))  # its header's size
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    return kind.from_stream(io.BytesIO(content))
