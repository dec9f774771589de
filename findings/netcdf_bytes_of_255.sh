#!/usr/bin/env bash
# netCDF4: the white pixels of a byte image are missing; xarray has them, and keeps what valid_range declares invalid.
#
# Expected: every value of a byte is data where no _FillValue is named, as a byte has no value to spare, and every value
#   was written. Two readers of one file agree on what is missing.
# Happens: netCDF4 masks 255 in uint8 and -127 in int8, the library's default fills, though the file names no _FillValue
#   and every value was written. The mean of the image leaves the brightest pixels out; np.asarray brings them back.
#   xarray gives them as data, but also those outside valid_range, which netCDF4 masks: a sensor's 9,000 of 0 .. 500.
# Version: netCDF4 1.7.5.1.post1, xarray 2026.9.0.
# Why it matters: saturated pixels are dropped from statistics by one reader, and error codes are data to the other. Two
#   sensors that fail together share the code, and have MI for it.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(netCDF4==1.7.5.1.post1 xarray==2026.9.0 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys
import warnings

import netCDF4
import numpy as np
import xarray as xr

warnings.simplefilter("error")


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rng = np.random.default_rng(0)
image = np.minimum(rng.integers(0, 400, 10_000), 255).astype(np.uint8)  # a third of the pixels saturated
signed = rng.integers(-128, 128, 10_000).astype(np.int8)
sensor = np.where(rng.random(10_000) < 0.2, 9000, rng.integers(0, 500, 10_000)).astype(np.int16)
with netCDF4.Dataset("one.nc", "w") as file:
    file.createDimension("n", 10_000)
    for name, values in (("image", image), ("signed", signed), ("sensor", sensor)):
        variable = file.createVariable(name, values.dtype, ("n",))
        if name == "sensor":
            variable.valid_range = np.array([0, 500], np.int16)
        variable[:] = values
with netCDF4.Dataset("one.nc") as file:
    here = {name: file[name][:] for name in ("image", "signed", "sensor")}
    named = [name for name in here if "_FillValue" in file[name].ncattrs()]
with xr.open_dataset("one.nc", engine="netcdf4") as file:
    there = {name: file[name].values for name in here}

check(not named, "the file names no _FillValue")
masked = np.ma.getmaskarray(here["image"])
check(np.array_equal(masked, image == 255), f"uint8: netCDF4 masks the {masked.sum():,} pixels of 255, and no other")
mean = here["image"].mean()
check(mean < image.mean() - 30, f"the image's mean is {mean:.1f}, that of what was written {image.mean():.1f}")
check(np.array_equal(np.asarray(here["image"]), image), "np.asarray has them again")
masked = np.ma.getmaskarray(here["signed"])
check(np.array_equal(masked, signed == -127), f"int8: netCDF4 masks the {masked.sum()} values of -127")
same = np.array_equal(there["image"], image) and np.array_equal(there["signed"], signed)
check(same, "xarray gives all bytes as they were written")
check(here["sensor"].max() < 500, f"valid_range 0 .. 500: netCDF4's largest value is {here['sensor'].max()}")
check(there["sensor"].max() == 9000, f"xarray's is {there['sensor'].max()}, and its mean {there['sensor'].mean():.0f}")
PYTHON
