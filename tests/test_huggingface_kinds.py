"""hf: HDF5, Lance and NIfTI as their own libraries write them, columns of arrays, and the head of a stream."""

import io
import sys
import zipfile

import datasets as hub
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from infomax.data import dataset
from infomax.data import folder as module
from infomax.data import scans as scanned
from infomax.errors import UserError

N = 15


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def pixels(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 9, 3), dtype=np.uint8)


def as_images(values: np.ndarray) -> list[bytes]:
    """[n, h, w, c] -> each image's bytes [c, h, w], sorted."""
    return sorted(value.transpose(2, 0, 1).tobytes() for value in values)


def read(split) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in split.batch(range(len(split))))


def as_hdf5(root):
    for seed, part in enumerate(("train", "test")):
        with h5py.File(root / f"{part}.h5", "w") as file:
            file.create_dataset("picture", data=pixels(seed), chunks=(4, 8, 9, 3), compression="gzip")
            file["label"] = np.arange(N) % 3
    return root


def as_arrays_in_parquet(root):
    kinds = hub.Features({"picture": hub.Array3D((8, 9, 3), "uint8"), "label": hub.Value("int64")})
    for seed, part in enumerate(("train", "test")):
        table = hub.Dataset.from_dict({"picture": list(pixels(seed)), "label": np.arange(N) % 3}, features=kinds)
        table.to_parquet(root / f"{part}-00000-of-00001.parquet")
    return root


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def as_lance(root):
    lance, pyarrow = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    for seed, part in enumerate(("train", "test")):
        columns = {"picture": [png(picture) for picture in pixels(seed)], "label": [i % 3 for i in range(N)]}
        lance.write_dataset(pyarrow.table(columns), str(root / f"{part}.lance"))
    return root


@pytest.mark.parametrize("write", [as_hdf5, as_arrays_in_parquet, as_lance])
def test_every_form_gives_the_pixels_and_labels_that_went_in(write, tmp_path, monkeypatch):
    data = dataset(f"hf:{write(tmp_path)}")
    assert data.notes == ("The images are column picture, the labels column label (3 classes).",)
    assert data.classes == ["0", "1", "2"] and data.shape == (3, 8, 9)
    for seed, split in enumerate((data.train, data.test)):
        assert read(split) == as_images(pixels(seed))
        for image, label in zip(split.batch(range(N)).numpy(), split.labels.tolist(), strict=True):
            row = next(i for i, p in enumerate(pixels(seed)) if p.transpose(2, 0, 1).tobytes() == image.tobytes())
            assert label == row % 3
    monkeypatch.setattr(module, "MEMORY_BUDGET", 1000)
    lazy = dataset(f"hf:{tmp_path}")
    assert not lazy.train.in_memory and torch.equal(lazy.train.batch([3, 1]), data.train.batch([3, 1]))
    assert (lazy.mean, lazy.std) == (data.mean, data.std)


def test_one_lance_table_and_one_hdf5_file(tmp_path):
    file = as_hdf5(tmp_path) / "train.h5"
    data = dataset(f"hf:{file}")
    assert sorted([*read(data.train), *read(data.test)]) == as_images(pixels(0)) and len(data.test) == 3
    (tmp_path / "l").mkdir()
    table = as_lance(tmp_path / "l") / "test.lance"
    data = dataset(f"hf:{table}")
    assert sorted([*read(data.train), *read(data.test)]) == as_images(pixels(1))


def test_hdf5_of_floats_is_scaled_and_a_choice_is_asked_for(tmp_path):
    deep = np.random.default_rng(0).uniform(-3, 5, (N, 8, 9)).astype(np.float32)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["depth"], file["colour"], file["site"] = deep, pixels(0), [f"s{i % 2}" for i in range(N)]
    with pytest.raises(UserError, match=r"several columns of images, colour, depth: say which with .*\?image=colour"):
        dataset(f"hf:{tmp_path / 'two.h5'}")
    data = dataset(f"hf:{tmp_path / 'two.h5'}?image=depth&label=site")
    assert data.shape == (1, 8, 9) and data.classes == ["s0", "s1"]
    assert "Pixels of float32 are brought to 8 bits" in " ".join(data.notes)
    with pytest.raises(UserError, match=r"holds Value\('string'\)|names are not there"):
        dataset(f"hf:{tmp_path / 'two.h5'}?image=site")


def test_hdf5_that_is_no_table_says_what_is(tmp_path):
    with h5py.File(tmp_path / "lengths.h5", "w") as file:
        file["x_train"], file["x_test"] = pixels(0), pixels(1, 5)
    with pytest.raises(UserError, match="columns of one length, so give each part its own file"):
        dataset(f"hf:{tmp_path / 'lengths.h5'}")
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        file["train/image"], file["test/image"] = pixels(0), pixels(1)
    with pytest.raises(UserError, match="no column of images; its columns are"):
        dataset(f"hf:{tmp_path / 'groups.h5'}")
    with h5py.File(tmp_path / "numbers.h5", "w") as file:
        file["x"] = np.zeros((5, 3))
    with pytest.raises(UserError, match="no column of images; its columns are x"):
        dataset(f"hf:{tmp_path / 'numbers.h5'}")
    (tmp_path / "no.h5").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="cannot be read as a data set") as caught:
        dataset(f"hf:{tmp_path / 'no.h5'}")
    assert "\n" not in str(caught.value)


SCANS = np.random.default_rng(5).integers(0, 256, (10, 9, 8, 6)).astype(np.int16)  # [scan, right, front, up]


def as_nifti(root, affine, of=lambda values: values, ending="nii"):
    """Ten scans of two classes. affine: of the stored axes, as `of` turns the array."""
    nibabel = pytest.importorskip("nibabel")
    for i, scan in enumerate(SCANS):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(np.ascontiguousarray(of(scan)), affine)
        nibabel.save(image, root / "ab"[i % 2] / f"{i}.{ending}")
    return root


def slices(scan: np.ndarray) -> list[bytes]:
    return sorted(scan[:, :, z].T[::-1].astype(np.uint8).tobytes() for z in range(scan.shape[2]))


def test_slices_of_scans_are_images_of_their_scans_part(tmp_path, monkeypatch):
    everything = sorted(s for scan in SCANS for s in slices(scan))
    data = dataset(f"hf:{as_nifti(tmp_path / 'ras', np.eye(4))}")
    assert data.shape == (1, 8, 9) and len(data.train) == 48 and len(data.test) == 12 and data.classes == ["a", "b"]
    assert sorted([*read(data.train), *read(data.test)]) == everything
    whole = [set(slices(scan)) for scan in SCANS]
    test = set(read(data.test))
    assert sum(scan <= test for scan in whole) == 2 and all(scan <= test or not scan & test for scan in whole)
    for image, label in zip(data.test.batch(range(12)).numpy(), data.test.labels.tolist(), strict=True):
        assert next(i for i, scan in enumerate(whole) if image.tobytes() in scan) % 2 == label
    assert "The slices of 10 scans along their third axis (up) are 60 images" in " ".join(data.notes)
    # Stored from the right to the left and packed by gzip, or with the first two axes swapped: the same pictures.
    turned = as_nifti(tmp_path / "las", np.diag([-1.0, 1, 1, 1]), lambda scan: scan[::-1], "nii.gz")
    swapped = as_nifti(tmp_path / "ars", np.eye(4)[:, [1, 0, 2, 3]], lambda scan: scan.swapaxes(0, 1))
    for place in (turned, swapped):
        other = dataset(f"hf:{place}")
        assert other.classes == ["a", "b"] and other.train.labels is not None
        assert sorted([*read(other.train), *read(other.test)]) == everything
    monkeypatch.setattr(module, "MEMORY_BUDGET", 1000)
    monkeypatch.setattr(scanned._recent, "most", 1000)
    lazy = dataset(f"hf:{tmp_path / 'ras'}")
    assert not lazy.train.in_memory and torch.equal(lazy.train.batch([40, 2]), data.train.batch([40, 2]))


def test_packed_scans_in_parts_and_in_one_folder(tmp_path):
    """Folders of classes are labels, folders of parts and the folder that holds all scans are not."""
    for part in ("train", "test"):
        as_nifti(tmp_path / "both" / part, np.eye(4), ending="nii.gz")
    data = dataset(f"hf:{tmp_path / 'both'}")
    assert data.classes == ["a", "b"] and len(data.train) == len(data.test) == 60
    for place in sorted((tmp_path / "both").rglob("*.nii.gz")):
        place.rename(place.parent.parent / place.name)
    data = dataset(f"hf:{tmp_path / 'both'}")
    assert data.train.labels is None and len(data.train) == len(data.test) == 60
    assert dataset(f"hf:{tmp_path / 'both' / 'train'}").train.labels is None


def test_slices_are_channels_where_asked(tmp_path):
    place = as_nifti(tmp_path / "ras", np.eye(4))
    data = dataset(f"hf:{place}?slices=channels")
    assert data.shape == (6, 8, 9) and len(data.train) == 8
    want = sorted(scan.transpose(2, 1, 0)[:, ::-1].astype(np.uint8).tobytes() for scan in SCANS)
    assert sorted([*read(data.train), *read(data.test)]) == want and not data.colour
    assert "Each scan is one image, whose channels are its slices along the third axis (up)." in data.notes
    assert data.fingerprint != dataset(f"hf:{place}").fingerprint
    with pytest.raises(UserError, match=r"slices is images or channels, not 'channel'.*channels"):
        dataset(f"hf:{place}?slices=channel")


def test_scans_inside_a_table_of_two_versions_and_over_time(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    over_time = np.stack([SCANS, SCANS[::-1]], -1)
    files = []
    for i, scan in enumerate(over_time):
        kind = nibabel.Nifti2Image if i % 2 else nibabel.Nifti1Image
        files.append({"bytes": kind(scan, np.eye(4)).to_bytes(), "path": None})
    table = hub.Dataset.from_dict({"scan": files}, features=hub.Features({"scan": hub.Nifti()}))
    table.save_to_disk(tmp_path / "saved")
    data = dataset(f"hf:{tmp_path / 'saved'}")
    assert data.shape == (2, 8, 9) and len(data.train) + len(data.test) == 60
    pictures = over_time.transpose(0, 3, 4, 2, 1)[..., ::-1, :].astype(np.uint8)  # [scan, up, time, front, right]
    want = sorted(picture.tobytes() for scan in pictures for picture in scan)
    assert sorted([*read(data.train), *read(data.test)]) == want


def test_scans_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    place = as_nifti(tmp_path / "ras", np.eye(4))
    whole = (place / "a/0.nii").read_bytes()
    (place / "a/0.nii").write_bytes(whole[:400])
    with pytest.raises(UserError, match=r"0\.nii.* cannot be read") as caught:
        dataset(f"hf:{place}")
    assert "\n" not in str(caught.value)
    (place / "a/0.nii").write_bytes(b"no scan")
    with pytest.raises(UserError, match=r"a/0\.nii cannot be read"):
        dataset(f"hf:{place}")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UserError, match=r'the module nibabel: pip install nibabel, or "infomax\[nifti\]"'):
        dataset(f"hf:{place}")


def test_slices_are_asked_of_scans_alone(tmp_path):
    with pytest.raises(UserError, match="slices= is of scans, and the column picture"):
        dataset(f"hf:{as_hdf5(tmp_path)}?slices=images")


def test_without_its_package_a_kind_says_what_to_install(tmp_path, monkeypatch):
    file = as_hdf5(tmp_path) / "train.h5"
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r'the module h5py: pip install h5py, or "infomax\[tables\]"'):
        dataset(f"hf:{file}")
    for folder in ("_versions", "_transactions", "data"):
        (tmp_path / "t.lance" / folder).mkdir(parents=True)
    (tmp_path / "t.lance/_versions/1.manifest").write_bytes(b"x")
    (tmp_path / "t.lance/data/1.lance").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(UserError, match=r'the module lance: pip install pylance, or "infomax\[lance\]"'):
        dataset(f"hf:{tmp_path / 't.lance'}")


def labelled(root, n=N):
    kinds = hub.Features({"img": hub.Image(), "fine": hub.ClassLabel(names=["cat", "dog", "owl"])})
    for seed, part in enumerate(("train", "test")):
        columns = {"img": [Image.fromarray(p) for p in pixels(seed, n)], "fine": [i % 3 for i in range(n)]}
        hub.Dataset.from_dict(columns, features=kinds).to_parquet(root / f"{part}-00000-of-00001.parquet")
    return root


def test_the_head_of_a_stream_is_read_and_held(tmp_path):
    place = f"hf:{labelled(tmp_path)}"
    data = dataset(f"{place}?streaming=yes&rows=6")
    assert read(data.train) == as_images(pixels(0)[:6]) and read(data.test) == as_images(pixels(1)[:6])
    assert data.classes == ["cat", "dog", "owl"]
    assert any("the first rows are read" in note and "6 of train, 6 of test" in note for note in data.notes)
    assert data.fingerprint == dataset(f"{place}?rows=6&streaming=true").fingerprint
    assert data.fingerprint != dataset(f"{place}?streaming=yes&rows=7").fingerprint
    assert dataset(f"{place}?streaming=yes&rows=99&label=fine").fingerprint == dataset(place).fingerprint


def test_other_kinds_stream_too(tmp_path):
    for write, name in ((as_hdf5, "h5"), (as_arrays_in_parquet, "arrays")):
        (tmp_path / name).mkdir()
        data = dataset(f"hf:{write(tmp_path / name)}?streaming=yes&rows=9")
        assert read(data.train) == as_images(pixels(0)[:9])
    for i, picture in enumerate(pixels(0)):
        (tmp_path / "files").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"files/{i}.png")
    table = hub.Dataset.from_dict({"path": [f"files/{i}.png" for i in range(N)], "label": [i % 2 for i in range(N)]})
    table.to_parquet(tmp_path / "t.parquet")
    data = dataset(f"hf:{tmp_path / 't.parquet'}?streaming=yes&rows=10")
    assert sorted([*read(data.train), *read(data.test)]) == as_images(pixels(0)[:10])


def test_images_of_a_stream_that_lie_in_an_archive_are_fetched(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for i, picture in enumerate(pixels(0)):
            archive.writestr(f"{i}.png", png(picture))
    paths = [{"path": f"zip://{i}.png::{tmp_path / 'all.zip'}", "bytes": None} for i in range(N)]
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kinds = hub.Features({"img": hub.Image()})
    table = pyarrow.table({"img": paths}, schema=kinds.arrow_schema)
    parquet.write_table(table, tmp_path / "train.parquet")
    data = dataset(f"hf:{tmp_path / 'train.parquet'}?streaming=yes&rows=10")
    assert sorted([*read(data.train), *read(data.test)]) == as_images(pixels(0)[:10])


def test_what_a_stream_lacks_is_asked_for(tmp_path):
    place = f"hf:{labelled(tmp_path)}"
    for choice, words in (
        ("streaming=yes", r"how many rows of each part are read and held in memory, .*\?streaming=yes&rows=10000\.$"),
        ("streaming=no&rows=5", "streaming is yes, or is left out, not 'no'"),
        ("rows=5", "rows= goes with a stream"),
        ("streaming=yes&rows=none", "a whole number from 1, not 'none'"),
        ("streaming=yes&rows=0", "a whole number from 1, not '0'"),
    ):
        with pytest.raises(UserError, match=words):
            dataset(f"{place}?{choice}")
    hub.Dataset.from_dict({"x": [1]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="as save_to_disk wrote it: leave out streaming=yes"):
        dataset(f"hf:{tmp_path / 'saved'}?streaming=yes&rows=5")
