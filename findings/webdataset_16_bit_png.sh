#!/usr/bin/env bash
# webdataset: 16-bit PNGs are cut at 255 where they are grey, and divided by 256 where they are in colour.
#
# Expected: decode("rgb") gives float32 from 0 to 1, so a 16-bit image is divided by 65,535; "rgb8" keeps the upper
#   byte.
# Happens: the decoder asks Pillow for mode RGB. Of 16 bits in grey Pillow clips all values above 255: a microscope's
#   image is plain white, 1.0 everywhere. Of 16 bits in colour it keeps the upper byte: the same picture is right. One
#   shard with grey and colour files gives both, in silence.
# Version: webdataset 1.0.2, Pillow 13.0.0.
# Why it matters: white images carry no information, and nothing warns of them. Read such files as arrays (decode()
#   with a handler of one's own, or .npy) and look at some.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(webdataset==1.0.2 pillow==13.0.0 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import io
import struct
import sys
import tarfile
import zlib

import numpy as np
import webdataset as wds
from PIL import Image


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def colour_png(pixels):
    """A PNG of 16 bits a channel, by the format's rules: Pillow does not write them."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    made = b"".join(struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in parts)
    return b"\x89PNG\r\n\x1a\n" + made


ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
grey = io.BytesIO()
Image.fromarray(ramp).save(grey, "png")
with tarfile.open("shard.tar", "w") as tar:
    for key, data in (("0", grey.getvalue()), ("1", colour_png(np.repeat(ramp[..., None], 3, 2)))):
        entry = tarfile.TarInfo(f"{key}.png")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
for kind, top in (("rgb8", 255), ("rgb", 1.0)):
    images = {s["__key__"]: s["png"] for s in wds.WebDataset("file:shard.tar", shardshuffle=False).decode(kind)}
    white = (images["0"] == top).mean()
    check(white > 0.99, f'decode("{kind}") of a 16-bit grey ramp: {white:.1%} of the pixels are {top}')
    wrong = np.abs(images["1"][..., 0] / top - ramp / 65535).max()
    check(wrong < 0.01, f"of the same ramp in 16-bit colour: right to {wrong:.4f}")
PYTHON
