"""Image files: every pixel is read as it is or a note says what was done; which files, splits and classes there are."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from infomax.data import dataset, paired, views_for
from infomax.data import folder as module
from infomax.data.arrays import on_white, turned
from infomax.data.listing import found_in
from infomax.data.pixels import decode, header, own_depth
from infomax.data.scale import Scale, learned, sampled
from infomax.errors import UserError


def random_numbers(*shape: int, most: int = 256, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, shape).astype(dtype)


def written(root, arrays, ending="png", classes=2, save=None):
    """Files root/<class>/<i>.<ending> of arrays, in turn to the classes."""
    for i, array in enumerate(arrays):
        path = root / f"c{i % classes}" / f"{i:03}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if save is not None:
            save(path, array)
        elif ending == "npy":
            np.save(path, array)
        else:
            Image.fromarray(array).save(path)
    return root


def pixels_of(data) -> torch.Tensor:
    return torch.cat([part.batch(range(len(part))) for part in (data.train, data.test)])


def same_rows(found: torch.Tensor, expected: np.ndarray) -> bool:
    return sorted(found.flatten(1).tolist()) == sorted(np.asarray(expected).reshape(len(expected), -1).tolist())


# Depth.


@pytest.mark.parametrize(("dtype", "ending"), [(np.uint16, "png"), (np.int32, "tif"), (np.uint16, "tif"),
                                               (np.int16, "npy"), (np.uint32, "npy")])  # fmt: skip
def test_whole_numbers_from_0_to_255_stay_as_they_are_in_any_depth(tmp_path, dtype, ending, caplog):
    arrays = random_numbers(10, 9, 7)
    data = dataset(f"folder:{written(tmp_path, arrays.astype(dtype), ending)}")
    assert data.shape == (1, 9, 7)
    assert same_rows(pixels_of(data), arrays)
    (note,) = data.notes
    assert np.dtype(dtype).name in note and "stay as they are" in note
    assert note in caplog.text


@pytest.mark.parametrize(("low", "high", "dtype", "ending"), [
    (0, 4096, np.uint16, "png"), (30_000, 30_900, np.uint16, "png"), (-2000, 2000, np.int16, "npy"),
    (0, 2**32 - 1, np.uint32, "npy"), (-1, 1, np.float32, "tif"), (0, 1, np.float64, "npy"),
    (-1e6, 5e6, np.float32, "npy"), (0, 1, np.float16, "npy")])  # fmt: skip
def test_deeper_pixels_use_all_256_levels_between_percentiles_of_the_training_pixels(
    tmp_path, low, high, dtype, ending
):
    arrays = np.random.default_rng(0).uniform(low, high, (20, 16, 16)).astype(dtype)
    data = dataset(f"folder:{written(tmp_path, arrays, ending)}")
    found = pixels_of(data)
    assert found.unique().numel() > 250
    # Back from bytes: each of the original arrays, to half a level, but for the 0.2 % that were cut.
    first, last = np.percentile(
        np.concatenate([own_depth(f).ravel() for f in _train_files(data, tmp_path)]), (0.1, 99.9)
    )
    expected = np.clip(np.rint((arrays.astype(np.float64) - first) / (last - first) * 255), 0, 255)
    assert np.abs(_sorted(found) - _sorted(expected)).max() <= 1
    assert any(f"{first:.6g} .. {last:.6g}" in note for note in data.notes)


def _train_files(data, root):
    module_budget, module.MEMORY_BUDGET = module.MEMORY_BUDGET, 0
    try:
        return dataset(f"folder:{root}").train.files
    finally:
        module.MEMORY_BUDGET = module_budget


def _sorted(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64).reshape(len(rows), -1)
    return rows[np.argsort(rows.mean(1))]


def test_a_scale_is_of_each_channel_and_is_the_same_on_disk(tmp_path, monkeypatch):
    arrays = random_numbers(20, 8, 8, 2, most=4000, dtype=np.uint16)
    arrays[..., 1] //= 40
    data = dataset(f"folder:{written(tmp_path, arrays, 'npy')}")
    assert data.shape == (2, 8, 8)
    assert pixels_of(data).amax((0, 2, 3)).tolist() == [255, 255]
    monkeypatch.setattr(module, "MEMORY_BUDGET", 0)
    disk = dataset(f"folder:{tmp_path}")
    assert disk.train.scale is not None
    assert torch.equal(pixels_of(disk), pixels_of(data))
    before = disk.fingerprint
    disk.train.scale = Scale((0.0, 0.0), (1.0, 1.0))
    assert disk.fingerprint != before


def test_sixteen_bits_a_colour_keep_their_lower_bits(tmp_path):
    for mode, channels, name in (("RGB", 3, "rgb"), ("RGBA", 4, "rgba"), ("LA", 2, "la")):
        values = random_numbers(6, 5, channels, most=65536, dtype=np.uint16)
        _png16(tmp_path / f"{name}.png", values, {"RGB": 2, "RGBA": 6, "LA": 4}[mode])
        expected = values if mode == "RGB" else on_white(values)
        assert np.array_equal(own_depth(tmp_path / f"{name}.png"), expected)
        assert header(tmp_path / f"{name}.png")[:4] == (5, 6, expected.shape[2], "uint16")


def _png16(path, values, kind):
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_twelve_bits_in_colour_pngs_use_all_levels(tmp_path):
    for i, values in enumerate(random_numbers(10, 8, 8, 3, most=4096, dtype=np.uint16)):
        _png16(tmp_path / f"c{i % 2}" / f"{i}.png", values, 2)
    assert pixels_of(dataset(f"folder:{tmp_path}")).unique().numel() > 250


@pytest.mark.parametrize(("few", "many", "words"), [
    (np.float32, np.uint16, "3 of 10 images are float32 where 7 are uint16"),
    (np.int16, np.float64, "3 of 10 images are int16 where 7 are float64"),
])  # fmt: skip
def test_floats_beside_deep_whole_numbers_are_refused_with_a_count_of_each(tmp_path, few, many, words):
    values = random_numbers(10, 8, 8, most=30_000).astype(np.float64)
    arrays = [(a / 30_000 if kind in (np.float32, np.float64) else a).astype(kind)
              for a, kind in zip(values, [few] * 3 + [many] * 7, strict=True)]  # fmt: skip
    written(tmp_path, arrays, "npy")
    with pytest.raises(UserError, match=r"c0.000\.npy.*save all as one") as error:
        dataset(f"folder:{tmp_path}")
    assert words in str(error.value)


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_floats_of_the_range_of_whole_numbers_share_a_scale_with_them(tmp_path, suffix):
    counts = random_numbers(10, 8, 8, most=60_000, dtype=np.uint16)
    mixed = [a.astype(np.float32) if i % 3 == 0 else a for i, a in enumerate(counts)]
    found = dataset(f"folder:{written(tmp_path / 'mixed', mixed, suffix)}")
    expected = dataset(f"folder:{written(tmp_path / 'whole', counts, suffix)}")
    assert torch.equal(pixels_of(found), pixels_of(expected))


@pytest.mark.parametrize(("top", "factor", "reach"), [
    (40, 1 / 40, "1 and 40"),  # floats of 0 to 1, beside few levels
    (30_000, 1 / 100, "300 and 30000"),
    (300, 100, "30000 and 300"),
])  # fmt: skip
def test_floats_of_another_range_than_whole_numbers_are_refused(tmp_path, top, factor, reach):
    arrays = random_numbers(10, 8, 8, most=top, dtype=np.uint16)
    arrays[:, 0, 0] = top
    mixed = [(a * factor).astype(np.float32) if i % 3 == 0 else a for i, a in enumerate(arrays)]
    with pytest.raises(UserError, match=rf"4 of 10 images are float32 where 6 are uint16, .*values reach {reach}, "):
        dataset(f"folder:{written(tmp_path, mixed, 'npy')}")


def test_floats_of_two_sizes_whole_numbers_of_two_and_bytes_beside_either_go_together(tmp_path):
    values = random_numbers(10, 8, 8)
    for kinds in ((np.float32, np.float64), (np.uint16, np.int32), (np.uint8, np.float32), (np.uint8, np.uint16)):
        place = tmp_path / "".join(np.dtype(kind).name for kind in kinds)
        arrays = [a.astype(kinds[i % 2]) for i, a in enumerate(values)]
        assert dataset(f"folder:{written(place, arrays, 'npy')}").shape == (1, 8, 8)


def test_big_endian_arrays_are_numbers(tmp_path):
    arrays = random_numbers(10, 6, 6, most=256, dtype=np.uint16)
    assert same_rows(pixels_of(dataset(f"folder:{written(tmp_path, arrays.astype('>u2'), 'npy')}")), arrays)


@pytest.mark.parametrize(("value", "words"), [
    (np.full((4, 4), np.nan, np.float32), "100.00% of its pixels are NaN"),
    (np.array([[{}]], object), "Python objects"),
    (np.zeros((4, 4), complex), "complex128"),
    (np.zeros((2, 3, 4, 5), np.uint8), r"shape is [2, 3, 4, 5]"),
    (np.zeros((70, 80, 90), np.uint8), "70 pages or channels are more than 64"),
    (np.zeros(7, np.uint8), "shape is [7]"),
])  # fmt: skip
def test_arrays_that_are_no_pictures_are_named(tmp_path, value, words):
    written(tmp_path, random_numbers(4, 4, 4).astype(np.float32), "npy")
    np.save(tmp_path / "c0" / "odd.npy", value)
    with pytest.raises(UserError, match=r"odd\.npy") as error:
        dataset(f"folder:{tmp_path}")
    assert words in str(error.value)


def test_percentiles_that_coincide_give_way_to_the_extremes():
    dark = np.zeros((1, 40, 40, 1), np.uint16)
    dark[0, 3, 3] = 5000  # one cell on black
    scale, _ = learned([sampled(dark[0], 1)], False)
    assert scale(dark[0])[3, 3, 0] == 255
    assert scale(dark[0]).sum() == 255


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_beside_bytes_the_upper_eight_bits_are_kept(bits):
    values = np.arange(2**bits, dtype=np.uint16).reshape(16, -1, 1)
    scale, _ = learned([sampled(values, 1)], True)
    assert np.array_equal(np.rint(scale(values)).astype(int), values.astype(int) >> (bits - 8))


def test_samples_of_large_images_are_even_and_the_same_each_time():
    ramp = np.arange(3000 * 2000, dtype=np.float32).reshape(3000, 2000, 1)
    taken = sampled(ramp, 64)
    assert len(taken.pixels) == (1 << 22) // 64
    assert np.array_equal(taken.pixels, sampled(ramp, 64).pixels)
    assert np.percentile(taken.pixels, (25, 50, 75)) / ramp.size == pytest.approx((0.25, 0.5, 0.75), abs=1e-3)
    assert len(np.unique(taken.pixels % 2000)) == 2000  # every column
    assert (taken.low, taken.high) == (0, ramp.size - 1)


def test_pixels_that_all_come_out_alike_are_refused(tmp_path):
    written(tmp_path, np.full((10, 6, 6), 7, np.uint8))
    with pytest.raises(UserError, match="come out alike"):
        dataset(f"folder:{tmp_path}")


# Channels.


@pytest.mark.parametrize("shape", [(9, 8, 5), (5, 9, 8), (9, 8, 2), (2, 9, 8), (9, 8, 4)])
def test_channels_of_arrays_stay_as_many(tmp_path, shape):
    arrays = random_numbers(10, *shape)
    data = dataset(f"folder:{written(tmp_path, arrays, 'npy')}")
    first = shape[0] < shape[2]
    expected = arrays if first else arrays.transpose(0, 3, 1, 2)
    assert data.shape == expected.shape[1:]
    assert same_rows(pixels_of(data), expected)
    assert any("5 channels" in note for note in data.notes) == (5 in shape)


def test_another_number_of_channels_is_named(tmp_path):
    written(tmp_path, random_numbers(9, 8, 8, 5), "npy")
    np.save(tmp_path / "c1" / "odd.npy", random_numbers(8, 8, 2))
    with pytest.raises(UserError, match=r"1 of 10 images have 2 channels where 9 have 5.*odd\.npy"):
        dataset(f"folder:{tmp_path}")


def test_palettes_inks_greys_and_alpha_in_one_folder(tmp_path):
    colour = Image.fromarray(random_numbers(12, 12, 3))
    (tmp_path / "c").mkdir()
    for name, image in {
        "rgb.png": colour, "inks.jpg": colour.convert("CMYK"), "palette.png": colour.quantize(64),
        "grey.png": colour.convert("L"), "alpha.png": colour.convert("RGBA"), "bits.png": colour.convert("1"),
        "la.png": colour.convert("LA"), "ycc.jpg": colour.convert("YCbCr"),
    }.items():  # fmt: skip
        image.save(tmp_path / "c" / name)
    data = dataset(f"folder:{tmp_path}")
    assert data.shape == (3, 12, 12)
    assert any("3 are grey" in note for note in data.notes)
    exact = torch.from_numpy(np.array(colour)).permute(2, 0, 1)
    for name in ("rgb.png", "alpha.png"):
        assert torch.equal(decode(tmp_path / "c" / name, (3, 12, 12)), exact)
    grey = decode(tmp_path / "c" / "grey.png", (3, 12, 12))
    assert torch.equal(grey, torch.from_numpy(np.array(colour.convert("L"))).expand(3, -1, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_whatever_their_colour(tmp_path, mode):
    values = random_numbers(10, 10, 4)
    values[..., 3] = 0
    values[3:6, 3:6] = (90, 90, 90, 255)
    values[8, 8] = (0, 0, 0, 51)  # a fifth of black on white
    image = Image.fromarray(values)
    path = tmp_path / "x.png"
    if mode == "P":
        index = np.zeros((10, 10), np.uint8)
        index[3:6, 3:6] = 1
        image = Image.fromarray(index, "L").convert("P")
        image.putpalette([200, 0, 0, 90, 90, 90])
        image.save(path, transparency=0)
    else:
        image.convert(mode).save(path)
    found = decode(path, (3, 10, 10))
    expected = torch.full((3, 10, 10), 255, dtype=torch.uint8)
    expected[:, 3:6, 3:6] = 90
    if mode != "P":
        expected[:, 8, 8] = 204
    assert torch.equal(found, expected)


def test_one_colour_of_a_grey_png_may_be_transparent(tmp_path):
    values = random_numbers(8, 8)
    values[2:5] = 77
    Image.fromarray(values).save(tmp_path / "x.png", transparency=77)
    found = decode(tmp_path / "x.png", (1, 8, 8))[0].numpy()
    assert np.array_equal(found, np.where(values == 77, 255, values))


def _cells(count, *shape, dtype: type = np.uint16):
    # Four channels that were measured, on [0, 1] where they are floats: few values lie at either end.
    values = np.random.default_rng(0).uniform(0.1, 0.9, (count, *shape))
    values[:, :3, 0] = 0
    return (values * (1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max)).astype(dtype)


def _by_default(path, values):
    # What tifffile.imwrite(path, values) writes of four channels, and warns that it will not for ever.
    import tifffile

    planes = "separate" if values.shape[0] == 4 else "contig"
    tifffile.imwrite(path, values, photometric="rgb", planarconfig=planes, extrasamples=["unassalpha"])


def _with_alpha(count, side, dtype=np.uint8, seed=0):
    # Colour [n, h, w, 4] on a transparent ground, as drawings have it.
    values = random_numbers(count, side, side, 4, most=np.iinfo(dtype).max, dtype=dtype, seed=seed)
    values[..., 3] = 0
    values[:, 2:-2, 2:-2, 3] = np.iinfo(dtype).max
    return values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(4, 12, 12), (12, 12, 4)])
def test_four_channels_as_tifffile_writes_them_by_default_are_four_channels(tmp_path, shape, dtype):
    tifffile = pytest.importorskip("tifffile")
    arrays = _cells(10, *shape, dtype=dtype)
    channels = arrays if shape[0] == 4 else arrays.transpose(0, 3, 1, 2)
    data = dataset(f"folder:{written(tmp_path / 'default', arrays, 'tif', save=_by_default)}")
    assert data.shape == (4, 12, 12)
    (note,) = [note for note in data.notes if "alpha" in note]
    assert note.startswith("10 of 10 images mark") and "read as a channel" in note and "?alpha=white" in note
    # The pixels are those of the same channels, marked as what they are.
    save = lambda path, values: tifffile.imwrite(path, values, photometric="minisblack")  # noqa: E731
    marked = dataset(f"folder:{written(tmp_path / 'marked', channels, 'tif', save=save)}")
    assert torch.equal(pixels_of(data), pixels_of(marked))
    white = dataset(f"folder:{tmp_path / 'default'}?alpha=white")
    assert white.shape == (3, 12, 12) and any("composed onto white" in note for note in white.notes)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fourth_channel_that_is_like_alpha_is_alpha(tmp_path, dtype):
    pytest.importorskip("tifffile")
    arrays = _with_alpha(10, 12, dtype)
    written(tmp_path, arrays, "tif", save=_by_default)
    data = dataset(f"folder:{tmp_path}")
    assert data.shape == (3, 12, 12) and (pixels_of(data)[:, :, 0] == 255).all()
    (note,) = [note for note in data.notes if "alpha" in note]
    assert note.startswith("10 of 10 images have alpha, and are composed onto white") and "?alpha=channel" in note
    kept = dataset(f"folder:{tmp_path}?alpha=channel")
    assert kept.shape == (4, 12, 12) and any("as asked" in note for note in kept.notes)
    assert (pixels_of(kept)[:, 3, 4, 2:-2] == 255).all() and not pixels_of(kept)[:, 3, 0].any()
    assert kept.fingerprint != data.fingerprint


def test_transparent_images_are_counted_and_their_alpha_can_be_a_channel(tmp_path):
    arrays = _with_alpha(6, 12)
    written(tmp_path, [*arrays, *random_numbers(4, 12, 12, 3, seed=1)])
    data = dataset(f"folder:{tmp_path}")
    assert any(note.startswith("6 of 10 images have alpha, and are composed") for note in data.notes)
    assert data.shape == (3, 12, 12)
    with pytest.raises(UserError, match="4 of 10 images have 3 channels where 6 have 4"):
        dataset(f"folder:{tmp_path}?alpha=channel")
    grey = random_numbers(12, 12, seed=2)
    written(tmp_path / "kept", [*arrays, grey])
    kept = dataset(f"folder:{tmp_path / 'kept'}?alpha=channel&size=12")
    assert any(note.startswith("6 of 7 images have alpha, which is read as a fourth") for note in kept.notes)
    assert same_rows(pixels_of(kept), np.concatenate([arrays.transpose(0, 3, 1, 2), np.stack([[grey] * 4])]))


def test_few_tiffs_with_odd_alpha_among_pictures_are_composed_as_before(tmp_path):
    pytest.importorskip("tifffile")
    written(tmp_path, random_numbers(8, 12, 12, 3))
    written(tmp_path / "c0", _cells(3, 12, 12, 4, dtype=np.uint8), "tif", save=_by_default)
    data = dataset(f"folder:{tmp_path}")
    assert data.shape == (3, 12, 12)
    assert any(note.startswith("3 of 11 images have alpha, and are composed onto white") for note in data.notes)


def test_tables_and_captions_choose_alpha_as_folders_do(tmp_path):
    written(tmp_path, _with_alpha(8, 12), classes=1)
    lines = [f"c0/{i:03}.png,{'ab'[i % 2]}{i}" for i in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *(line[:-1] for line in lines)]))
    (tmp_path / "captions.csv").write_text("\n".join(["path,text", *lines]))
    assert dataset(f"csv:{tmp_path}/t.csv?alpha=channel").shape == (4, 12, 12)
    pairs = paired(f"captions:{tmp_path}/captions.csv?alpha=channel&size=12")
    assert pairs.train.x.shape == (4, 12, 12)
    with pytest.raises(UserError, match="alpha is white or channel"):
        paired(f"captions:{tmp_path}/captions.csv?alpha=no")


@pytest.mark.parametrize(("asked", "words"), [
    ("alpha=grey", "alpha is white or channel, as in ?alpha=channel, not 'grey'"),
    ("alpha=white&alpha=channel", "chooses alpha twice"),
])  # fmt: skip
def test_what_becomes_of_alpha_is_one_of_two(tmp_path, asked, words):
    written(tmp_path, random_numbers(8, 12, 12, 3))
    with pytest.raises(UserError) as error:
        dataset(f"folder:{tmp_path}?{asked}")
    assert words in str(error.value)


def test_damaged_exif_is_as_if_there_were_none(tmp_path):
    values = random_numbers(8, 8)
    Image.fromarray(values).save(tmp_path / "x.png", exif=b"Exif\0\0rubbish that no camera wrote")
    assert np.array_equal(decode(tmp_path / "x.png", (1, 8, 8))[0].numpy(), values)
    assert header(tmp_path / "x.png")[:3] == (8, 8, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(tmp_path, orientation):
    upright = random_numbers(6, 9, 3)
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    lying = np.ascontiguousarray(turned(upright, back))
    assert np.array_equal(turned(lying, orientation), upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for ending in ("png", "tif", "webp"):
        path = tmp_path / f"x.{ending}"
        Image.fromarray(lying).save(path, exif=exif, lossless=True)
        assert header(path)[:3] == (9, 6, 3)
        assert torch.equal(decode(path, (3, 6, 9)), torch.from_numpy(upright).permute(2, 0, 1))


def test_of_an_animation_the_first_frame_is_read_and_it_is_told(tmp_path):
    frames = [Image.fromarray(frame) for frame in random_numbers(3, 8, 8)]
    (tmp_path / "c").mkdir()
    for i in range(5):
        frames[i % 3].save(tmp_path / "c" / f"{i}.gif", save_all=True, append_images=frames)
    assert any("of several frames the first" in note for note in dataset(f"folder:{tmp_path}").notes)


# TIFF.


def test_a_tiff_of_several_grey_pages_is_read_without_tifffile(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    pages = random_numbers(10, 3, 8, 8, most=200)

    def save(path, stack):
        first, *others = [Image.fromarray(page) for page in stack]
        first.save(path, save_all=True, append_images=others)

    data = dataset(f"folder:{written(tmp_path, pages, 'tif', save=save)}")
    assert data.shape == (3, 8, 8)
    assert same_rows(pixels_of(data), pages)
    assert any("pages or channels are read as 3 channels" in note for note in data.notes)


@pytest.mark.parametrize(("dtype", "options", "colour"), [
    (np.uint16, {"photometric": "minisblack", "planarconfig": "separate"}, False),
    (np.uint8, {"photometric": "minisblack"}, False),
    (np.uint16, {"photometric": "rgb", "planarconfig": "separate"}, True),
    (np.uint8, {"photometric": "rgb", "planarconfig": "separate"}, True),
])  # fmt: skip
def test_three_pages_are_no_colour_and_their_views_turn_no_hue(tmp_path, dtype, options, colour):
    tifffile = pytest.importorskip("tifffile")
    arrays = random_numbers(10, 3, 9, 8, dtype=dtype)
    data = dataset(f"folder:{written(tmp_path, arrays, 'tif', save=lambda p, a: tifffile.imwrite(p, a, **options))}")
    assert data.shape == (3, 9, 8) and same_rows(pixels_of(data), arrays)
    policy = views_for(data).policy
    assert data.colour == colour == (policy.hue > 0) == (policy.saturation > 0) == (policy.gray > 0)
    assert policy.contrast > 0
    assert any("The 3 channels of 10 of 10 images are not red" in note for note in data.notes) != colour


def test_pictures_and_arrays_of_three_channels_are_a_colour(tmp_path):
    colour = random_numbers(10, 9, 8, 3)
    for ending in ("png", "npy"):
        assert dataset(f"folder:{written(tmp_path / ending, colour, ending)}").colour
    assert dataset(f"folder:{written(tmp_path / 'mixed', [*colour[:9], colour[9, ..., 0]])}").colour


@pytest.mark.parametrize(("values", "options"), [
    (random_numbers(8, 9, most=4000, dtype=np.uint16), {}),
    (random_numbers(8, 9, most=4000, dtype=np.int16) - np.int16(2000), {}),
    (random_numbers(8, 9, most=2**31, dtype=np.uint32) * np.uint32(2), {}),
    (np.random.default_rng(0).normal(size=(8, 9)).astype(np.float64), {}),
    (random_numbers(8, 9, 3, most=65536, dtype=np.uint16), {"photometric": "rgb"}),
    (random_numbers(5, 8, 9, most=65536, dtype=np.uint16), {"photometric": "minisblack"}),
    (random_numbers(8, 9, 5), {"photometric": "minisblack", "planarconfig": "contig"}),
    (random_numbers(8, 9, 2), {"photometric": "minisblack", "planarconfig": "contig"}),
    (random_numbers(4, 3, 8, 9, most=900, dtype=np.uint16), {"metadata": {"axes": "ZCYX"}, "ome": True}),
])  # fmt: skip
def test_tiffs_of_any_kind_keep_their_numbers(tmp_path, values, options):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, values, **options)
    found, head = own_depth(path), header(path)
    last = values.ndim == 3 and values.shape[2] < 8
    expected = values if last else values.reshape(-1, 8, 9).transpose(1, 2, 0)
    assert found is not None
    assert found.dtype == values.dtype and np.array_equal(found, expected)
    assert (head.height, head.width, head.channels) == expected.shape
    assert head.depth == ("" if values.dtype == np.uint8 else values.dtype.name)


def test_alpha_white_is_zero_and_palettes_of_deep_tiffs(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = random_numbers(8, 9, 4, most=65536, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(own_depth(tmp_path / "a.tif"), on_white(values))
    tifffile.imwrite(tmp_path / "w.tif", values[..., 0], photometric="miniswhite")
    assert np.array_equal(own_depth(tmp_path / "w.tif")[..., 0], 65535 - values[..., 0])
    tifffile.imwrite(tmp_path / "k.tif", values, photometric="separated")
    assert header(tmp_path / "k.tif").channels == 3
    found = decode(tmp_path / "k.tif", (3, 8, 9), scale=lambda pixels: pixels / 257)
    inks = 1 - values.astype(np.float64) / 65535
    assert np.abs(found.permute(1, 2, 0).numpy() - 255 * inks[..., :3] * inks[..., 3:]).max() < 1
    pages = random_numbers(3, 8, 9, 3)
    tifffile.imwrite(tmp_path / "p.tif", pages, photometric="rgb")
    assert header(tmp_path / "p.tif").note == "of several frames the first is read"
    assert torch.equal(decode(tmp_path / "p.tif", (3, 8, 9)), torch.from_numpy(pages[0]).permute(2, 0, 1))


def test_with_and_without_tifffile_pixels_are_the_same(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    for i, dtype in enumerate((np.uint16, np.int32, np.float32)):
        Image.fromarray(random_numbers(6, 7, most=3000, dtype=dtype)).save(tmp_path / f"{i}.tif")
    values = random_numbers(3, 6, 7, most=3000, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "unsigned.tif", values[0].astype(np.uint32) << 20, photometric="minisblack")
    tifffile.imwrite(tmp_path / "signed.tif", values[0].astype(np.int16) - 1500, photometric="minisblack")
    tifffile.imwrite(tmp_path / "white.tif", values[0], photometric="miniswhite")
    tifffile.imwrite(tmp_path / "pages.tif", values, photometric="minisblack")
    tifffile.imwrite(tmp_path / "bytes.tif", values.astype(np.uint8), photometric="miniswhite")
    tifffile.imwrite(tmp_path / "small.tif", values[0].astype(np.int8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "turned.tif", values[0], byteorder=">", photometric="minisblack")
    files = sorted(tmp_path.iterdir())
    found = [(header(file), own_depth(file)) for file in files]
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for file, (head, expected) in zip(files, found, strict=True):
        assert header(file) == head, file
        there = own_depth(file)
        assert there.dtype == expected.dtype and np.array_equal(there, expected), file


@pytest.mark.parametrize("shape", [(16, 16, 5), (80, 80, 5), (20, 9, 2), (20, 18, 16)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("without", [False, True], ids=["tifffile", "Pillow"])
def test_pages_that_tifffile_made_of_channels_are_channels(tmp_path, monkeypatch, shape, dtype, without):
    tifffile = pytest.importorskip("tifffile")
    arrays = random_numbers(10, *shape, dtype=dtype)
    written(tmp_path, arrays, "tif", save=lambda path, a: tifffile.imwrite(path, a, photometric="minisblack"))
    if without:
        monkeypatch.setitem(sys.modules, "tifffile", None)
    data = dataset(f"folder:{tmp_path}")
    assert data.shape == (shape[2], *shape[:2])
    assert same_rows(pixels_of(data), arrays.transpose(0, 3, 1, 2))
    assert any(f"read as {shape[2]} channels, for that side is shortest" in note for note in data.notes)


_PAGES = ((5, 16, 16), (16, 16, 16), (50, 48, 48), (64, 64, 32), (30, 20, 17), (16, 9, 12), (16, 9, 9))


@pytest.mark.parametrize(("shape", "axes"), [*((shape, None) for shape in _PAGES), ((16, 12, 9), "ZYX")])
@pytest.mark.parametrize("without", [False, True], ids=["tifffile", "Pillow"])
def test_pages_that_are_named_or_no_rows_of_channels_are_pages(tmp_path, monkeypatch, shape, axes, without):
    tifffile = pytest.importorskip("tifffile")
    values = random_numbers(*shape, most=4000, dtype=np.uint16)
    about = {} if axes is None else {"metadata": {"axes": axes}}
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", **about)
    if without:
        monkeypatch.setitem(sys.modules, "tifffile", None)
    assert np.array_equal(own_depth(tmp_path / "x.tif"), values.transpose(1, 2, 0))
    head = header(tmp_path / "x.tif")
    assert (head.channels, head.height, head.width) == shape
    assert head.note == f"pages or channels are read as {shape[0]} channels"


@pytest.mark.parametrize("shape", [(100, 28, 28), (80, 64, 64)])
@pytest.mark.parametrize("without", [False, True], ids=["tifffile", "Pillow"])
def test_a_film_that_tifffile_wrote_is_refused(tmp_path, monkeypatch, shape, without):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "x.tif", random_numbers(*shape, dtype=np.uint16), photometric="minisblack")
    if without:
        monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=rf"its {shape[0]} pages or channels are more than 64: save one file a picture"):
        header(tmp_path / "x.tif")


def _plain_tiff(path, values):
    """A little-endian TIFF of one strip, as the format's description has it: values uint16 [h, w, c]."""
    import struct

    height, width, channels = values.shape
    data, place = values.astype("<u2").tobytes(), 8
    bits = struct.pack(f"<{channels}H", *[16] * channels)
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 16 if channels == 1 else place + len(data)),
               (259, 3, 1, 1),
               (262, 3, 1, 2 if channels == 3 else 1), (273, 4, 1, place), (277, 3, 1, channels), (278, 3, 1, height),
               (279, 4, 1, len(data))]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    start = struct.pack("<4sI", b"II*\0", place + len(data) + len(bits))
    path.write_bytes(start + data + bits + directory + b"\0\0\0\0")


@pytest.mark.parametrize("channels", [3, 5])
def test_what_needs_tifffile_says_so(tmp_path, monkeypatch, channels):
    values = random_numbers(8, 9, channels, most=65536, dtype=np.uint16)
    written(tmp_path, random_numbers(6, 8, 8), "tif")
    _plain_tiff(tmp_path / "c0" / "odd.tif", values)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r"odd\.tif.*pip install tifffile"):
        dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_tiff_by_the_book_is_read(tmp_path, channels):
    if channels > 1:
        pytest.importorskip("tifffile")
    values = random_numbers(8, 9, channels, most=65536, dtype=np.uint16)
    _plain_tiff(tmp_path / "x.tif", values)
    assert np.array_equal(own_depth(tmp_path / "x.tif"), values)


def test_of_several_colour_pages_the_first_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    pages = random_numbers(10, 3, 8, 8, 3)

    def save(path, stack):
        first, *others = [Image.fromarray(page) for page in stack]
        first.save(path, save_all=True, append_images=others)

    data = dataset(f"folder:{written(tmp_path, pages, 'tif', save=save)}")
    assert same_rows(pixels_of(data), pages[:, 0].transpose(0, 3, 1, 2))
    assert any("of several frames the first" in note for note in data.notes)


# Sizes.


def test_long_pictures_of_different_sizes_keep_their_ends(tmp_path):
    arrays = [random_numbers(16, 150 + i % 5, seed=i) for i in range(10)]
    data = dataset(f"folder:{written(tmp_path, arrays)}")
    assert data.shape == (1, 16, 152)
    assert any("kept whole" in note for note in data.notes)
    path = tmp_path / "c0" / "000.png"
    found = decode(path, data.shape, whole=True)  # 150 wide, so no pixel is resampled
    assert torch.equal(found[0, :, 1:151], torch.from_numpy(arrays[0]))
    assert found[0, :, 0].sum() == found[0, :, -1].sum() == 0
    assert dataset(f"folder:{tmp_path}", size=8).shape == (1, 8, 76)


def test_long_pictures_of_one_size_keep_it_and_large_ones_their_shape(tmp_path):
    written(tmp_path / "a", random_numbers(5, 16, 600))
    data = dataset(f"folder:{tmp_path / 'a'}")
    assert data.shape == (1, 16, 600)
    assert same_rows(pixels_of(data), random_numbers(5, 16, 600))
    written(tmp_path / "b", random_numbers(5, 300, 1200))
    assert dataset(f"folder:{tmp_path / 'b'}").shape == (1, 112, 448)


def test_photographs_are_cut_to_a_square_as_ever(tmp_path):
    written(tmp_path, [random_numbers(30, 53, 3, seed=i)[:, : 53 - i % 2] for i in range(6)])
    assert dataset(f"folder:{tmp_path}").shape == (3, 30, 30)


# Which files.


def test_images_are_known_by_their_content_and_what_is_left_out_is_counted(tmp_path, caplog):
    arrays = random_numbers(20, 8, 8)
    written(tmp_path, arrays[:5])
    for i, array in enumerate(arrays[5:], 5):
        Image.fromarray(array).save(tmp_path / f"c{i % 2}" / f"{i}.{('jfif', 'picture', 'PNG_')[i % 3]}", format="PNG")
    for i in range(3):
        (tmp_path / "c0" / f"{i}.txt").write_text("BM, it says, and no more")
    (tmp_path / "c1" / "scan.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (tmp_path / "c1" / "raw.NEF").write_bytes(b"II*\0" + bytes(20))
    (tmp_path / "c1" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "cover.png").write_bytes((tmp_path / "c0" / "000.png").read_bytes())
    data = dataset(f"folder:{tmp_path}")
    assert same_rows(pixels_of(data), arrays)
    told = " ".join(data.notes)
    for words in ("5 files are left out", "3 .txt: no image", "1 .heic: HEIF", "1 .nef: a camera's raw file", "beside"):
        assert words in told
    assert all(note in caplog.text for note in data.notes)
    assert ".DS_Store" not in told


@pytest.mark.parametrize(("ending", "kind", "codec"), [
    ("jpe", "JPEG", "jpg"), ("jfif", "JPEG", "jpg"), ("JPG", "JPEG", "jpg"), ("avif", "AVIF", "avif"),
    ("jp2", "JPEG2000", "jpg_2000"), ("j2k", "JPEG2000", "jpg_2000")])  # fmt: skip
def test_less_usual_endings_are_images_by_name(tmp_path, ending, kind, codec):
    """As Pillow shows them; one that is damaged is an error, and nothing that is left out."""
    if not features.check(codec):
        pytest.skip(f"this Pillow has no {codec}")
    arrays = random_numbers(10, 24, 24, 3)
    written(tmp_path, arrays, ending, save=lambda path, array: Image.fromarray(array).save(path, format=kind))
    data = dataset(f"folder:{tmp_path}")
    shown = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(tmp_path.rglob(f"*.{ending}"))])
    assert len(shown) == 10 and data.shape == (3, 24, 24) and data.notes == ()
    assert same_rows(pixels_of(data), shown.transpose(0, 3, 1, 2))
    (tmp_path / "c0" / f"damaged.{ending}").write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"damaged\.{ending} cannot be read"):
        dataset(f"folder:{tmp_path}")


def test_a_zarr_store_is_no_folder_of_images(tmp_path):
    zarr = pytest.importorskip("zarr")
    for form in (2, 3):
        for store in (tmp_path / f"array{form}.zarr", tmp_path / f"group{form}"):
            group = zarr.open_group(store, mode="w", zarr_format=form)
            group.create_array("images", data=random_numbers(4, 8, 8))
        for place in (tmp_path / f"array{form}.zarr", tmp_path / f"group{form}" / "images"):
            with pytest.raises(UserError, match=r"a zarr store, .*zarr:PATH reads an array .* or write each .* \.npy"):
                dataset(f"folder:{place}")


def test_arrays_beside_pictures_are_something_else(tmp_path):
    arrays = random_numbers(10, 8, 8)
    written(tmp_path, arrays)
    np.save(tmp_path / "c0" / "features.npy", np.zeros((30, 12), np.float32))
    data = dataset(f"folder:{tmp_path}")
    assert same_rows(pixels_of(data), arrays)
    assert data.notes == ("1 file is left out: 1 .npy: arrays beside pictures.",)


def test_clean_folders_have_no_notes(tmp_path, caplog):
    assert dataset(f"folder:{written(tmp_path, random_numbers(10, 8, 8))}").notes == ()
    assert caplog.text == ""


@pytest.mark.slow
def test_notes_are_lines_on_standard_error_of_the_first_process(tmp_path):
    (written(tmp_path, random_numbers(10, 8, 8)) / "c0" / "captions.txt").write_text("words")
    code = f"from infomax.data import dataset; dataset('folder:{tmp_path}')"
    for rank, lines in (("0", 1), ("1", 0)):
        environment = {**os.environ, "RANK": rank}
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        )
        assert ended.stdout == ""
        assert len(ended.stderr.splitlines()) == lines


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("TRAINING", "Testing"), ("training", "validation"),
                                             ("train", "valid"), ("Train", "VAL"), ("train", "eval"), ("trn", "dev"),
                                             ("train", "holdout"), ("train", "held-out"), ("train_set", "test_set"),
                                             ("images_train", "images_val"), ("TrainingSet", "TestSet"),
                                             ("train2017", "val2017"), ("trainset", "testdata")])  # fmt: skip
def test_splits_in_any_usual_spelling(tmp_path, train, test):
    written(tmp_path / train, random_numbers(6, 8, 8))
    written(tmp_path / test, random_numbers(4, 8, 8, seed=1))
    data = dataset(f"folder:{tmp_path}")
    known = {"train", "training", "test", "testing", "val", "valid", "validation", "eval", "trn", "dev", "holdout"}
    notes = [] if {train.lower(), test.lower()} <= known else [
        f"By their names {train} is the training and {test} the test part."
    ]  # fmt: skip
    assert list(data.notes) == notes
    assert (data.classes, len(data.train), len(data.test)) == (["c0", "c1"], 6, 4)
    assert same_rows(data.test.batch(range(4)), random_numbers(4, 8, 8, seed=1))


def test_of_test_and_val_the_test_part_is_read_and_it_is_told(tmp_path):
    for i, part in enumerate(("train", "val", "test")):
        written(tmp_path / part, random_numbers(4 + i, 8, 8, seed=i))
    data = dataset(f"folder:{tmp_path}")
    assert len(data.test) == 6
    assert any("not read: val" in note for note in data.notes)


@pytest.mark.parametrize(("parts", "words"), [(("train", "Training", "test"), "several training parts"),
                                              (("train_1", "train_2", "test"), "several training parts"),
                                              (("test", "val"), "no folder train"),
                                              (("Train", "other", "more"), "beside it more, other, which is neither"),
                                              (("trainval", "test"), "trainval and test, which name parts of a split"),
                                              (("site_a_train", "b_test"), r"hold the same folders \(c0, c1\)"),
                                              (("site_a_train", "site_a_test", "more"), "rename them train and test"),
                                              (("cat_train", "cat_test"), "rename them train and test")])  # fmt: skip
def test_splits_that_are_not_whole_are_refused(tmp_path, parts, words):
    for part in parts:
        written(tmp_path / part, random_numbers(4, 8, 8))
    with pytest.raises(UserError, match=words):
        dataset(f"folder:{tmp_path}")


def test_what_is_no_folder_says_what_a_folder_holds(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for name, there in (("nowhere", "There is no folder "), ("file", "file is a file")):
        with pytest.raises(UserError, match="names a folder of images, or of a folder of images per class") as error:
            dataset(f"folder:{tmp_path / name}")
        assert there in str(error.value)


def test_classes_may_have_a_word_of_a_split_in_their_names(tmp_path):
    for name in ("test_tube", "train_station", "trainer"):
        (tmp_path / name).mkdir()
        for i, array in enumerate(random_numbers(5, 8, 8, seed=len(name))):
            Image.fromarray(array).save(tmp_path / name / f"{i}.png")
    data = dataset(f"folder:{tmp_path}")
    assert (data.classes, data.notes) == (["test_tube", "train_station", "trainer"], ())


@pytest.mark.parametrize("names", [("car", "crash_test", "freight_train"), ("bullet_train", "car", "test_tube")])
def test_such_classes_may_hold_the_same_folders_beside_one_without_the_word(tmp_path, names):
    for i, name in enumerate(names):
        written(tmp_path / name, random_numbers(4, 8, 8, seed=i), classes=1 + (i > 0))
    assert dataset(f"folder:{tmp_path}").classes == list(names)


@pytest.mark.parametrize("flat", [True, False])
def test_of_a_training_part_alone_a_fifth_is_held_out(tmp_path, flat):
    arrays = random_numbers(20, 8, 8)
    if flat:
        (tmp_path / "train").mkdir()
        for i, array in enumerate(arrays):
            Image.fromarray(array).save(tmp_path / "train" / f"{i}.png")
    else:
        written(tmp_path / "train", arrays)
    data = dataset(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test), data.classes) == (16, 4, [] if flat else ["c0", "c1"])
    assert data.notes == ("There is no test part, so a fixed fifth of train is held out.",)
    assert data.fingerprint == dataset(f"folder:{tmp_path / 'train'}").fingerprint


def test_folders_without_images_beside_a_training_part_are_no_other_parts(tmp_path):
    written(tmp_path / "train", random_numbers(10, 8, 8))
    (tmp_path / "annotations" / "deep").mkdir(parents=True)
    (tmp_path / "annotations" / "deep" / "x.json").write_text("{}")
    data = dataset(f"folder:{tmp_path}")
    assert (data.classes, len(data.train), len(data.test)) == (["c0", "c1"], 8, 2)
    assert data.notes == ("There is no test part, so a fixed fifth of train is held out.",)
    Image.fromarray(random_numbers(8, 8)).save(tmp_path / "annotations" / "deep" / "x.png")
    with pytest.raises(UserError, match="beside it annotations, which is neither test nor val"):
        dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("test", [True, False])
def test_images_beside_the_parts_are_left_out_with_a_line(tmp_path, test):
    for part in ("train", *(["test"] if test else [])):
        written(tmp_path / part, random_numbers(10, 8, 8, seed=len(part)))
    np.save(tmp_path / "labels.npy", np.arange(10))
    before = dataset(f"folder:{tmp_path}")
    assert not any("left out" in note for note in before.notes)
    for i, array in enumerate(random_numbers(5, 8, 8, seed=2)):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    data = dataset(f"folder:{tmp_path}")
    line = f"Images that lie in {tmp_path} beside the folders of its parts, 5, are left out."
    assert sorted(data.notes) == sorted((*before.notes, line))
    assert data.fingerprint == before.fingerprint


@pytest.mark.parametrize("inside", ["", "train"])
def test_one_folder_too_many_is_looked_through(tmp_path, inside):
    written(tmp_path / "archive" / "images" / inside, random_numbers(10, 8, 8))
    if inside:
        written(tmp_path / "archive" / "images" / "test", random_numbers(4, 8, 8, seed=1))
    (tmp_path / "archive" / "README.md").write_text("from somewhere")
    (tmp_path / "__MACOSX").mkdir()
    data = dataset(f"folder:{tmp_path}")
    assert data.classes == ["c0", "c1"]
    assert any(f"those of {tmp_path / 'archive' / 'images'}" in note for note in data.notes)


@pytest.mark.parametrize(("train", "test"), [("train_set/train", "test_set/test"), ("train_set/train", "test_set"),
                                             ("training_set/training_set", "test_set/test_set"),
                                             ("train", "test/images"), ("train/images", "test/images")])  # fmt: skip
@pytest.mark.parametrize("flat", [True, False])
def test_parts_with_one_folder_too_many_are_looked_through(tmp_path, train, test, flat):
    for i, part in enumerate((train, test)):
        written(tmp_path / part, random_numbers(10 - 4 * i, 8, 8, seed=i))
    if flat:
        for file in sorted(tmp_path.rglob("*.png")):
            file.rename(file.parent.parent / file.name)
        for folder in tmp_path.rglob("c?"):
            folder.rmdir()
    data = dataset(f"folder:{tmp_path}")
    labelled = not flat or (train, test) == ("train/images", "test/images")  # these may be classes
    assert (len(data.train), len(data.test), data.train.labels is not None) == (10, 6, labelled)
    if not flat:
        assert data.classes == ["c0", "c1"]
        through = [part for part in (train, test) if "/" in part]
        assert [note for note in data.notes if "those of" in note] == [
            f"The images are those of {tmp_path / part}." for part in through
        ]


def test_parts_of_one_class_stay_so_where_its_folders_differ(tmp_path):
    written(tmp_path / "train" / "cat", random_numbers(10, 8, 8))
    written(tmp_path / "test" / "cat", random_numbers(6, 8, 8, seed=1), classes=1)
    (tmp_path / "test" / "cat" / "c0").rename(tmp_path / "test" / "cat" / "c9")
    data = dataset(f"folder:{tmp_path}")
    assert (data.classes, len(data.train), len(data.test)) == (["cat"], 10, 6)


def test_a_training_part_alone_is_looked_through(tmp_path):
    written(tmp_path / "train" / "train", random_numbers(10, 8, 8))
    (tmp_path / "annotations").mkdir()
    data = dataset(f"folder:{tmp_path}")
    assert (data.classes, len(data.train), len(data.test)) == (["c0", "c1"], 8, 2)


def test_a_single_class_stays_one(tmp_path):
    written(tmp_path, random_numbers(10, 8, 8), classes=1)
    data = dataset(f"folder:{tmp_path}")
    assert (data.classes, data.train.labels.tolist()) == (["c0"], [0] * 8)


def test_folders_inside_a_class_are_parts_of_it(tmp_path):
    for name in ("cat", "dog"):
        written(tmp_path / name, random_numbers(10, 8, 8, seed=len(name) + ord(name[0])))
    data = dataset(f"folder:{tmp_path}")
    assert data.classes == ["cat", "dog"]
    assert any("parts of a class" in note for note in data.notes)


def _link(place: Path, target: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target, target_is_directory=True)


def _images_in(root: Path) -> list[str]:
    found = found_in(root)
    return sorted(str(file) for file in found.files)


@pytest.mark.parametrize("links", [
    {"c0/self": ".."}, {"c0/self": "."}, {"self": "."}, {"c1/deep/up": "../.."}, {"c0/self": "..", "c1/self": ".."},
    {"c0/up": "../.."}, {"c0/other": "../c1"},
])  # fmt: skip
def test_links_back_into_a_folder_read_nothing_twice(tmp_path, links):
    root = written(tmp_path / "root", random_numbers(20, 8, 8))
    before = _images_in(root)
    for place, target in links.items():
        _link(root / place, target)
    assert _images_in(root) == before and len(before) == 20
    (note,) = [note for note in dataset(f"folder:{root}").notes if "link" in note]
    assert note.startswith(f"{len(links)} link") and f"the first is {root / next(iter(links))}." in note


def test_a_folder_elsewhere_is_read_once_whatever_links_to_it(tmp_path):
    root = written(tmp_path / "root", random_numbers(10, 8, 8))
    more = written(tmp_path / "more", random_numbers(6, 8, 8, seed=1))
    for place in (root / "c0" / "x", root / "c0" / "y", root / "c1" / "x"):
        _link(place, str(more))
    _link(more / "c1" / "back", "..")
    found = found_in(root)
    assert len(found.files) == 16 and sum("/c0/x/" in str(file) for file in found.files) == 6
    assert found.classes == ["c0", "c1"]
    assert any(note.startswith("3 links to folders that are read already") for note in found.notes)


def test_a_split_that_is_made_of_links_is_followed_and_one_into_the_other_part_is_not(tmp_path):
    store = written(tmp_path / "store", random_numbers(20, 8, 8))
    for part, names in (("train", ("c0", "c1")), ("test", ("c0",))):
        for name in names:
            written(tmp_path / part / name, random_numbers(2, 8, 8, seed=len(part)), classes=1)
    _link(tmp_path / "train" / "c2", str(store / "c0"))  # a class
    _link(tmp_path / "train" / "c1" / "more", str(store / "c1"))  # a part of one
    _link(tmp_path / "train" / "c0" / "more", "../../test/c0")
    found = found_in(tmp_path)
    assert found.classes == ["c0", "c1", "c2"] and found.held.sum() == 2 and len(found.files) == 26
    assert found.labels is not None and np.bincount(found.labels.numpy()).tolist() == [4, 12, 10]
    assert any(note.startswith("1 link to folders that are read already") for note in found.notes)


@pytest.mark.parametrize("store", [".store", "__MACOSX", "c0/__MACOSX"])
def test_a_store_inside_the_folder_that_is_not_read_itself_is_read_by_links(tmp_path, store):
    root = written(tmp_path / "root", random_numbers(10, 8, 8))
    place = written(root / store, random_numbers(12, 8, 8, seed=1))
    _link(root / "c0" / "more", str(place / "c0"))
    _link(root / "c1" / "more", str(place / "c1"))
    found = found_in(root)
    assert found.labels is not None and np.bincount(found.labels.numpy()).tolist() == [11, 11]
    assert not any("link" in note for note in found.notes)
    _link(root / "c1" / "once more", str(place / "c0"))
    found = found_in(root)
    assert len(found.files) == 22 and any(note.startswith("1 link to folders that are") for note in found.notes)


def test_what_a_class_is_a_link_to_is_read_as_that_class_alone(tmp_path):
    root = written(tmp_path / "root", random_numbers(10, 8, 8))
    place = written(root / ".store", random_numbers(6, 8, 8, seed=1))
    _link(root / "c2", ".store/c0")
    _link(root / "c0" / "more", str(place))
    found = found_in(root)
    assert found.labels is not None and np.bincount(found.labels.numpy()).tolist() == [8, 5, 3]
    assert any(note.startswith("1 link to folders that are read already") for note in found.notes)


def test_a_link_to_its_own_folder_alone_is_no_way_to_images(tmp_path):
    _link(tmp_path / "self", ".")
    with pytest.raises(UserError, match="is empty"):
        dataset(f"folder:{tmp_path}")


# Without labels.


def test_a_flat_folder_is_unlabelled_with_a_fixed_fifth_held_out(tmp_path):
    arrays = random_numbers(25, 8, 8)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{i:02}.png")
    data, again = dataset(f"folder:{tmp_path}"), dataset(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test), data.classes) == (20, 5, [])
    assert data.train.labels is None and data.test.labels is None
    assert same_rows(pixels_of(data), arrays)
    assert data.fingerprint == again.fingerprint
    assert len(dataset(f"folder:{tmp_path}", limit=7).train) == 7


@pytest.mark.parametrize("flat", [("train", "test"), ("train",), ("test",)])
def test_flat_parts_are_unlabelled(tmp_path, flat):
    for part, seed in (("train", 0), ("test", 1)):
        if part in flat:
            (tmp_path / part).mkdir()
            for i, array in enumerate(random_numbers(6, 8, 8, seed=seed)):
                Image.fromarray(array).save(tmp_path / part / f"{i}.png")
        else:
            written(tmp_path / part, random_numbers(6, 8, 8, seed=seed))
    data = dataset(f"folder:{tmp_path}")
    assert data.train.labels is None and data.test.labels is None and data.classes == []
    assert same_rows(data.train.batch(range(6)), random_numbers(6, 8, 8, seed=0))
    assert any("neither part has labels" in note for note in data.notes) == (len(flat) == 1)


# Copies.


def _shared(data) -> int:
    rows = [
        {tuple(row) for row in part.batch(range(len(part))).flatten(1).tolist()} for part in (data.train, data.test)
    ]
    return len(rows[0] & rows[1])


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("budget", [None, 0])
def test_copies_of_a_picture_are_in_one_part(tmp_path, monkeypatch, deep, budget):
    if budget is not None:
        monkeypatch.setattr(module, "MEMORY_BUDGET", budget)
    arrays = random_numbers(40, 8, 8, most=60_000, dtype=np.uint16) if deep else random_numbers(40, 8, 8)
    data = dataset(f"folder:{written(tmp_path, np.concatenate([arrays] * 3), classes=4)}")
    assert len(data.train) + len(data.test) == 120
    assert _shared(data) == 0
    assert 15 <= len(data.test) <= 24
    (note,) = [note for note in data.notes if "copies" in note]
    assert note.startswith("80 of 120 images are copies")


def test_a_copy_saved_in_another_format_is_a_copy(tmp_path):
    arrays = random_numbers(20, 8, 8)
    written(tmp_path, arrays)
    written(tmp_path, arrays, "bmp")
    written(tmp_path, arrays, "webp", save=lambda path, array: Image.fromarray(array).save(path, lossless=True))
    data = dataset(f"folder:{tmp_path}")
    assert _shared(data) == 0 and len(data.test) >= 6


def test_copies_under_several_classes_are_in_one_part(tmp_path):
    arrays = random_numbers(30, 8, 8)
    written(tmp_path, np.concatenate([arrays, arrays[::-1]]), classes=3)
    data = dataset(f"folder:{tmp_path}")
    assert _shared(data) == 0 and 6 <= len(data.test) <= 12


@pytest.mark.parametrize("given", [False, True])
def test_copies_with_different_labels_are_counted_and_named(tmp_path, given):
    arrays, odd = random_numbers(20, 8, 8), random_numbers(2, 8, 8, seed=7)
    for part in ("train", "test") if given else ("",):
        written(tmp_path / part, arrays + (1 if part == "test" else 0))
    for label in ("c0", "c1"):
        for i, array in enumerate(odd):
            Image.fromarray(array).save(tmp_path / ("train" if given else "") / label / f"odd{i}.png")
    (note,) = [note for note in dataset(f"folder:{tmp_path}").notes if "copies" in note]
    assert re.search(r"copies with different labels: 2, as \S+c0/odd0\.png and \S+c1/odd0\.png;", note), note


def test_where_copies_are_not_looked_for_a_line_says_so(tmp_path, monkeypatch):
    written(tmp_path, np.concatenate([random_numbers(10, 8, 8)] * 2))
    monkeypatch.setattr(module, "MEMORY_BUDGET", 0)
    monkeypatch.setattr(module, "_HEADERS", 20)
    assert not any("not looked for" in note for note in dataset(f"folder:{tmp_path}").notes)
    monkeypatch.setattr(module, "_HEADERS", 19)
    (note,) = dataset(f"folder:{tmp_path}").notes
    assert note.startswith("Copies of an image were not looked for, among more than 19 images that are not held in")


def test_very_many_copies_take_no_long_time():
    n = 200_000
    held = np.arange(n) % 5 == 0
    prints = [str(i // 3) for i in range(n)]
    start = time.process_time()  # of this process, which no other slows down by much
    changed, notes = module.copies_together(held, False, prints, None, [Path("x")] * n)
    assert time.process_time() - start < 60
    for part in (changed[:-2:3], changed[1:-1:3], changed[2::3]):
        assert np.array_equal(part[: n // 3], changed[: n // 3 * 3 : 3])
    assert abs(changed.mean() - 0.2) < 0.001 and len(notes) == 1


def test_without_copies_the_fifth_is_that_of_the_names(tmp_path):
    written(tmp_path, random_numbers(20, 8, 8))
    before = dataset(f"folder:{tmp_path}").test
    Image.fromarray(random_numbers(8, 8, seed=5)).save(tmp_path / "c0" / "zz.png")
    after = dataset(f"folder:{tmp_path}").test
    assert len(before) == len(after) == 4


def test_copies_across_a_users_own_split_are_told_and_left(tmp_path):
    arrays = random_numbers(10, 8, 8)
    written(tmp_path / "train", arrays)
    written(tmp_path / "test", arrays[:4])
    data = dataset(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (10, 4)
    assert any("4 test images are also training images" in note for note in data.notes)


def test_a_limit_takes_no_other_test_images(tmp_path):
    written(tmp_path, np.concatenate([random_numbers(30, 8, 8)] * 2))
    whole, cut = dataset(f"folder:{tmp_path}"), dataset(f"folder:{tmp_path}", limit=6)
    assert len(cut.train) == 6
    assert torch.equal(whole.test.batch(range(len(whole.test))), cut.test.batch(range(len(cut.test))))


def test_unknown_prefixes_name_those_there_are():
    with pytest.raises(UserError, match=re.escape("starts with one of folder:")):
        dataset("foldr:/somewhere")


@pytest.mark.parametrize("kind", ["npy", "png", "rgb.png", "tif"])
def test_damaged_deep_files_are_read_or_named(tmp_path, kind):
    rng = np.random.default_rng(0)
    arrays = random_numbers(4, 8, 8, 3, most=4000, dtype=np.uint16)
    ending = kind.split(".")[-1]
    written(tmp_path, arrays if kind in ("npy", "rgb.png") else arrays[..., 0], ending,
            save=(lambda path, array: _png16(path, array, 2)) if kind == "rgb.png" else None)  # fmt: skip
    file = tmp_path / "c0" / f"000.{ending}"
    whole = file.read_bytes()
    for _ in range(40):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 300), rng.integers(1, 6)):
            content[place] = rng.integers(256)
        file.write_bytes(content[: int(len(whole) * min(1, rng.uniform(0.05, 1.5)))])
        told = ""
        try:
            data = dataset(f"folder:{tmp_path}")
            assert len(data.train) + len(data.test) == 4
        except UserError as error:
            told = str(error)
        assert told == "" or f"c0/000.{ending}" in told
