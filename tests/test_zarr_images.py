"""zarr: stores of images as zarr writes them, of both formats, give the pixels and labels that went in."""

import sys

import numpy as np
import pytest
import torch

from infomax.data import dataset, folder
from infomax.errors import UserError

zarr = pytest.importorskip("zarr")
N = 15


def pixels(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 9, 3), dtype=np.uint8)


def as_images(values: np.ndarray) -> list[bytes]:
    return sorted(value.transpose(2, 0, 1).tobytes() for value in values)


def read(split) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in split.batch(range(len(split))))


def parts(place, form=3, chunk=4):
    """A group of train and test, each of images and labels."""
    store = zarr.open_group(place, mode="w", zarr_format=form)
    for seed, part in enumerate(("train", "test")):
        group = store.create_group(part)
        group.create_array("images", data=pixels(seed), chunks=(chunk, 8, 9, 3))
        group.create_array("label", data=np.arange(N) % 3)
    return place


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("chunk", [1, 4, N])
def test_parts_with_labels(form, chunk, tmp_path, monkeypatch):
    place = parts(tmp_path / "store", form, chunk)
    data = dataset(f"zarr:{place}")
    assert data.notes == ("The images are array images, the labels array label (3 classes).",)
    assert read(data.train) == as_images(pixels(0)) and read(data.test) == as_images(pixels(1))
    assert data.train.labels.tolist() == [i % 3 for i in range(N)] and data.train.shards is None
    assert torch.equal(data.train.batch([7])[0], torch.from_numpy(pixels(0)[7]).permute(2, 0, 1))
    monkeypatch.setattr(folder, "MEMORY_BUDGET", 1000)
    lazy = dataset(f"zarr:{place}")
    assert not lazy.train.in_memory and torch.equal(lazy.train.batch([13, 2]), data.train.batch([13, 2]))
    assert (lazy.mean, lazy.std) == (data.mean, data.std) and lazy.fingerprint == dataset(f"zarr:{place}").fingerprint
    if chunk == 1:
        assert lazy.train.shards is None
        return
    assert lazy.train.shards.tolist() == [i // chunk for i in range(N)]
    assert any(f"30 images in {2 * -(-N // chunk)} chunks do not fit in memory" in note for note in lazy.notes)
    assert sorted(lazy.train.order(0, 1).tolist()) == list(range(N))


def test_one_array_and_one_group(tmp_path):
    zarr.create_array(tmp_path / "one.zarr", data=pixels(0), chunks=(4, 8, 9, 3))
    data = dataset(f"zarr:{tmp_path / 'one.zarr'}")
    assert sorted([*read(data.train), *read(data.test)]) == as_images(pixels(0)) and data.train.labels is None
    group = zarr.open_group(tmp_path / "group", mode="w")
    group.create_array("deep", data=np.random.default_rng(0).uniform(-1, 9, (N, 5, 8, 9)).astype(np.float32))
    group.create_array("mask", data=pixels(3)[..., 0])
    site = group.create_array("site", shape=(N,), dtype=str)
    site[:] = np.array([f"s{i % 2}" for i in range(N)], dtype=object)
    group.create_array("age", data=np.linspace(0, 1, N))
    place = f"zarr:{tmp_path / 'group'}"
    with pytest.raises(UserError, match=r"several columns of images, \w+, \w+: say which with .*\?image="):
        dataset(place)
    data = dataset(f"{place}?image=deep&label=site")
    assert data.shape == (5, 8, 9) and data.classes == ["s0", "s1"]
    assert "Pixels of float32 are brought to 8 bits" in " ".join(data.notes)
    assert dataset(f"{place}?image=mask").shape == (1, 8, 9)
    nested = dataset(f"zarr:{parts(tmp_path / 'store')}/train")
    assert sorted([*read(nested.train), *read(nested.test)]) == as_images(pixels(0))
    with pytest.raises(UserError, match=r"is a zarr store, .*zarr:PATH reads an array"):
        dataset(f"folder:{tmp_path / 'store'}")


def test_what_is_no_store_of_images_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    store = zarr.open_group(tmp_path / "odd", mode="w")
    store.create_array("table", data=np.zeros((5, 3)))
    store.create_array("complex", data=np.zeros((5, 8, 8), np.complex64))
    store.create_array("images", data=pixels(0))
    store.create_array("label", data=np.arange(4))
    deep = zarr.open_group(tmp_path / "deep", mode="w")
    deep.create_group("inner").create_array("volume", data=np.zeros((2, 2, 2, 8, 8)))
    for text, words in (
        ("", "zarr:PATH names a zarr store"),
        (tmp_path / "nothing", "There is no zarr store"),
        (tmp_path / "empty", "cannot be read as a zarr store"),
        (f"{tmp_path / 'odd'}?image=table", r"images are numbers \[n, h, w\]"),
        (f"{tmp_path / 'odd'}?image=complex", r"is complex64 \[5, 8, 8\]"),
        (f"{tmp_path / 'odd'}?image=images", "one label an image is needed"),
        (f"{tmp_path / 'odd'}?image=imagse", "no column 'imagse' to be its image"),
        (tmp_path / "deep", r"has no arrays; its groups are inner: name one, zarr:\S+/inner"),
        (tmp_path / "deep/inner", "has no column of images; its columns are volume"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            dataset(f"zarr:{text}")
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UserError, match=r'pip install "infomax\[tables\]"'):
        dataset(f"zarr:{tmp_path / 'odd'}")
