"""hf: every form that datasets writes gives the pixels and labels that went in; what cannot be read is one sentence."""

import json
import sys
from pathlib import Path

import datasets as hub
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from infomax.data import dataset
from infomax.data import folder as module
from infomax.errors import UserError

NAMES = ["cat", "dog", "owl"]
N = 15


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def pixels(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 9, 3), dtype=np.uint8)


def table(seed: int, n: int = N, **more):
    """n images of three classes, as datasets' Image and ClassLabel. more: further columns, (kind, values)."""
    columns = {"img": [Image.fromarray(p) for p in pixels(seed, n)], "fine": [i % 3 for i in range(n)]}
    features = {"img": hub.Image(), "fine": hub.ClassLabel(names=NAMES)}
    for name, (kind, values) in more.items():
        columns[name], features[name] = values, kind
    return hub.Dataset.from_dict(columns, features=hub.Features(features))


def as_saved(root):
    hub.DatasetDict(train=table(0), test=table(1)).save_to_disk(root / "saved")
    return root / "saved"


def as_parquet(root):
    (root / "parquet").mkdir()
    table(0).to_parquet(root / "parquet" / "train-00000-of-00001.parquet")
    table(1).to_parquet(root / "parquet" / "test-00000-of-00001.parquet")
    return root / "parquet"


def as_imagefolder(root):
    for seed, part in enumerate(("train", "test")):
        for i, picture in enumerate(pixels(seed)):
            place = root / "folder" / part / NAMES[i % 3]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / f"{i:03}.png")
    return root / "folder"


def as_webdataset(root):
    (root / "web").mkdir()
    for seed, part in enumerate(("train", "test")):
        with webdataset.TarWriter(str(root / "web" / f"{part}-000.tar")) as tar:
            for i, picture in enumerate(pixels(seed)):
                tar.write({"__key__": f"{i:03}", "png": Image.fromarray(picture), "cls": i % 3})
    return root / "web"


def as_csv(root):
    place = as_imagefolder(root) / "train.csv"
    rows = [f"train/{NAMES[i % 3]}/{i:03}.png,{NAMES[i % 3]}" for i in range(N)]
    place.write_text("path,label\n" + "\n".join(rows) + "\n")
    return place


def sorted_rows(split) -> list[tuple[bytes, str]]:
    images = split.batch(range(len(split)))
    return sorted((image.numpy().tobytes(), split.classes[k]) for image, k in zip(images, split.labels, strict=True))


def expected(*seeds: int, names=NAMES) -> list[tuple[bytes, str]]:
    return sorted(
        (picture.transpose(2, 0, 1).tobytes(), names[i % 3]) for seed in seeds for i, picture in enumerate(pixels(seed))
    )


@pytest.mark.parametrize("write", [as_saved, as_parquet, as_imagefolder, as_webdataset])
def test_every_form_gives_the_pixels_and_labels_that_went_in(write, tmp_path, caplog):
    data = dataset(f"hf:{write(tmp_path)}")
    names = ["0", "1", "2"] if write is as_webdataset else NAMES
    assert data.classes == names
    assert sorted_rows(data.train) == expected(0, names=names)
    assert sorted_rows(data.test) == expected(1, names=names)
    columns = {as_imagefolder: ("image", "label"), as_webdataset: ("png", "cls")}.get(write, ("img", "fine"))
    line = f"The images are column {columns[0]}, the labels column {columns[1]} (3 classes)."
    assert data.notes == (line,)
    assert line in caplog.text


def test_a_table_of_paths(tmp_path):
    file = as_csv(tmp_path)
    data = dataset(f"hf:{file}")
    assert sorted([*sorted_rows(data.train), *sorted_rows(data.test)]) == expected(0)
    assert data.notes == ("The images are column path, the labels column label (3 classes).",
                          "There is no test part, so a fixed fifth of train is held out.")  # fmt: skip
    (file.parent / "train/dog/004.png").unlink()
    with pytest.raises(UserError, match=r"1 of 15 images that column path of \S+ names are not there.*row 5 of train"):
        dataset(f"hf:{file}")


def test_one_file_or_part_is_split_by_a_fixed_fifth(tmp_path):
    table(0).save_to_disk(tmp_path / "one")
    place = as_parquet(tmp_path)
    one, other = dataset(f"hf:{tmp_path / 'one'}"), dataset(f"hf:{place / 'train-00000-of-00001.parquet'}")
    for data in (one, other):
        assert len(data.test) == 3 and len(data.train) == 12
        assert sorted([*sorted_rows(data.train), *sorted_rows(data.test)]) == expected(0)
        assert "There is no test part, so a fixed fifth of train is held out." in data.notes
    assert one.fingerprint == other.fingerprint


def test_images_on_disk_have_the_same_pixels_as_in_memory(tmp_path, monkeypatch):
    place = as_saved(tmp_path)
    held = dataset(f"hf:{place}")
    monkeypatch.setattr(module, "MEMORY_BUDGET", 1000)
    read = dataset(f"hf:{place}")
    assert held.train.in_memory and not read.train.in_memory
    assert sorted_rows(read.train) == sorted_rows(held.train)
    assert (read.mean, read.std) == (held.mean, held.std)
    assert read.fingerprint == dataset(f"hf:{place}").fingerprint != dataset(f"hf:{place}", limit=10).fingerprint
    assert repr(read.train) == "FileSplit(15 images 3x8x9, on disk)"


def test_labels_are_told_apart_by_name_or_by_choice(tmp_path):
    both = {"coarse": (hub.ClassLabel(names=["pet", "wild"]), [int(i % 3 == 2) for i in range(N)])}
    both["score"] = (hub.Value("float32"), [0.5] * N)
    hub.DatasetDict(train=table(0, **both), test=table(1, **both)).save_to_disk(tmp_path / "two")
    place = f"hf:{tmp_path / 'two'}"
    with pytest.raises(UserError, match=r"has several columns of labels, fine, coarse: say which with .*\?label=fine"):
        dataset(place)
    assert dataset(f"{place}?label=coarse").classes == ["pet", "wild"]
    assert dataset(f"{place}?image=img&label=fine").classes == NAMES
    bare = dataset(f"{place}?label=")
    assert bare.train.labels is None and bare.notes[0] == "The images are column img, there are no labels."
    for choice, words in (("label=nothing", "has no column 'nothing' to be its label"), ("labels=fine", "'labels'"),
                          ("label=score", "cannot be labels"), ("label=fine&label=coarse", "chooses label twice"),
                          ("image=coarse", "neither images nor paths")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            dataset(f"{place}?{choice}")


def test_words_and_numbers_are_labels_by_their_name(tmp_path):
    words = {"label": (hub.Value("string"), [NAMES[i % 3] for i in range(N)])}
    table(0, **words).remove_columns("fine").save_to_disk(tmp_path / "words")
    assert dataset(f"hf:{tmp_path / 'words'}").classes == NAMES
    numbers = {"target": (hub.Value("int64"), [(i % 3) * 5 for i in range(N)])}
    table(0, **numbers).remove_columns("fine").save_to_disk(tmp_path / "numbers")
    assert dataset(f"hf:{tmp_path / 'numbers'}").classes == ["0", "5", "10"]
    table(0).remove_columns("fine").save_to_disk(tmp_path / "none")
    assert dataset(f"hf:{tmp_path / 'none'}").train.labels is None


def test_several_columns_of_images_need_a_choice(tmp_path):
    mask = {"mask": (hub.Image(), [Image.fromarray(p) for p in pixels(7)])}
    hub.DatasetDict(train=table(0, **mask), test=table(1, **mask)).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match=r"several columns of images, img, mask: say which with .*\?image=img"):
        dataset(f"hf:{tmp_path / 'two'}")
    data = dataset(f"hf:{tmp_path / 'two'}?image=mask")
    assert sorted_rows(data.train) == expected(7)


def test_columns_of_numbers_and_of_lists_are_targets(tmp_path):
    tags = [["lung", "heart"][: i % 3] for i in range(N)]
    for seed, part in enumerate(("train", "test")):
        more = {
            "age": (hub.Value("int32"), [20 + i + 100 * seed for i in range(N)]),
            "found": (hub.List(hub.Value("string")), tags),
            "kinds": (hub.List(hub.ClassLabel(names=["a", "b", "c"])), [[i % 2, -1] for i in range(N)]),
            "deep": (hub.List(hub.List(hub.Value("string"))), [[["a"]] for i in range(N)]),
            "target:weight": (hub.Value("float64"), [i / 2 for i in range(N)]),
            "gap": (hub.Value("float32"), [None] + [1.0] * (N - 1)),
        }
        table(seed, **more).to_parquet(tmp_path / f"{part}-00000-of-00001.parquet")
    (plain,) = dataset(f"hf:{tmp_path}").test.targets  # named so in the file
    assert (plain.name, plain.values.tolist()) == ("weight", [i / 2 for i in range(N)])
    found = dataset(f"hf:{tmp_path}?target=age,found,kinds")
    age, words, kinds, _ = found.test.targets
    assert age.values.tolist() == [120 + i for i in range(N)] and found.train.targets[0].values[0] == 20
    assert words.words == ("heart", "lung") and words.values[:3].tolist() == [[False] * 2, [False, True], [True] * 2]
    assert kinds.words == ("a", "b", "c") and kinds.values[:2].tolist() == [[True, False, False], [False, True, False]]
    for column, told in (("agee", "no column 'agee' to be a target"), ("gap", "the first of them in row 1"),
                         ("img", "a target is a number, or a list"), ("deep", "a number, or a list")):  # fmt: skip
        with pytest.raises(UserError, match=told):
            dataset(f"hf:{tmp_path}?target={column}")


def test_a_target_of_two_kinds_is_refused(tmp_path):
    parts = {part: table(0, age=(hub.Value(kind), values)) for part, kind, values in (
        ("train", "int32", [1] * N), ("test", "string", ["x"] * N))}  # fmt: skip
    hub.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="a target is of one kind"):
        dataset(f"hf:{tmp_path / 'saved'}?target=age")


def test_a_test_part_without_labels_gives_way(tmp_path):
    blind = table(1).map(lambda row: {"fine": -1})
    parts = hub.DatasetDict(train=table(0), test=blind, validation=table(2))
    parts.save_to_disk(tmp_path / "all")
    data = dataset(f"hf:{tmp_path / 'all'}")
    assert sorted_rows(data.test) == expected(2)
    assert "validation is the test part, as test has no labels." in data.notes
    hub.DatasetDict(train=table(0), test=blind).save_to_disk(tmp_path / "two")
    data = dataset(f"hf:{tmp_path / 'two'}")
    assert len(data.test) == 3 and "The part test has no labels, so a fixed fifth of train" in " ".join(data.notes)
    hub.DatasetDict(train=blind.select(range(9)), test=table(0)).save_to_disk(tmp_path / "bare")
    with pytest.raises(
        UserError, match=r"9 of 24 images of .* have no label in column fine, the first of them train/0"
    ):
        dataset(f"hf:{tmp_path / 'bare'}")


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    place = as_parquet(tmp_path)
    whole = (place / "train-00000-of-00001.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    hub.Dataset.from_dict({"x": [1.0, 2.0]}).save_to_disk(tmp_path / "numbers")
    # datasets 4 divides by 0 where it is to find out how many rows go into a batch, and into a shard.
    table(0, 0).to_parquet(tmp_path / "none.parquet", batch_size=1)
    table(0, 0).save_to_disk(tmp_path / "none", num_shards=1)
    (tmp_path / "notes.txt").write_text("no table")
    hub.DatasetDict(dev=table(0), other=table(1)).save_to_disk(tmp_path / "parts")
    for text, words in (
        ("", "hf:NAME_OR_PATH names a data set"),
        (tmp_path / "nothing", "There is no file or folder"),
        ("nobody/nothing", "of this machine or the hub, cannot be read"),
        (tmp_path / "empty", "cannot be read as a data set"),
        (tmp_path / "cut.parquet", "cannot be read as a data set"),
        (tmp_path / "numbers", r"no column of images; its columns are x: name the one .*\?image=NAME"),
        (tmp_path / "none.parquet", "is empty"),
        (tmp_path / "none", "is empty"),
        (tmp_path / "notes.txt", "is no kind of file that hf: reads"),
        (tmp_path / "parts", "has dev, other but no part train"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            dataset(f"hf:{text}")
        assert "\n" not in str(caught.value)


def test_features_beside_images_are_left_alone(tmp_path):
    place = as_imagefolder(tmp_path)
    (place / "features.h5").write_bytes(b"beside images it is something else")
    assert len(dataset(f"hf:{place}").train) == N


def test_an_unreadable_image_is_named_by_its_row(tmp_path):
    rows = {"img": [{"bytes": b"\x89PNG\r\n\x1a\n" + b"x" * 20, "path": "a.png"}, {"bytes": b"", "path": "b.png"}]}
    for row, words in ((0, r"train/0/a.png cannot be read"), (1, r"train/0/b.png is empty")):
        part = {"img": rows["img"][row : row + 1] * 2}
        table = hub.Dataset.from_dict(part, features=hub.Features({"img": hub.Image()}))
        table.save_to_disk(tmp_path / str(row))
        with pytest.raises(UserError, match=words):
            dataset(f"hf:{tmp_path / str(row)}")


def test_without_the_package_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "infomax\[hf\]"'):
        dataset(f"hf:{tmp_path}")


@pytest.mark.slow
def test_a_run_keeps_what_was_chosen_and_refuses_in_one_sentence(tmp_path, run):
    hub.DatasetDict(train=table(0, 48), test=table(1, 12)).save_to_disk(tmp_path / "saved")
    short = ("--steps", 2, "--batch-size", 16, "--encoder", "resnet10_small_gn")
    ended = run("simclr_smile", "--dataset", f"hf:{tmp_path / 'saved'}", *short)
    assert ended.status == 0, ended.err
    line = "The images are column img, the labels column fine (3 classes)."
    kept = json.loads((tmp_path / "checkpoints" / "simclr_smile" / "run.json").read_text())
    assert kept["configuration"]["data_notes"] == [line]
    assert run("infomax", "probe", "checkpoints/simclr_smile").status == 0
    before = sorted(Path(tmp_path / "checkpoints").rglob("*"))
    ended = run("simclr_smile", "--dataset", "hf:nobody/nothing", *short)
    assert ended.status == 2 and len(ended.err.strip().splitlines()) == 1 and "nobody/nothing" in ended.err
    assert sorted(Path(tmp_path / "checkpoints").rglob("*")) == before


def test_order_is_a_permutation(tmp_path):
    split = dataset(f"hf:{as_saved(tmp_path)}").train
    assert torch.equal(split.order(0, 0).sort().values, torch.arange(N))
