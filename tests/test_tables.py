"""csv:PATH, a table of images; and labels that are words."""

import numpy as np
import pytest
import torch
from PIL import Image

from infomax.data import dataset, from_tensors
from infomax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{i:02}.png")
    return tmp_path


def table(place, lines, head="path,label,split", encoding="utf-8"):
    (place / "table.csv").write_text("\n".join([head, *lines]) + "\n", encoding=encoding)
    return f"csv:{place / 'table.csv'}"


def rows_of(split):
    return [IMAGES.tolist().index(image[0].tolist()) for image in split.batch(range(len(split)))]


@pytest.mark.parametrize(("comma", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_paths_labels_and_splits_are_those_of_the_table(place, comma, encoding):
    lines = [f"pictures/{i:02}.png,{'cat' if i % 3 else 'ant'},{'Test' if i >= 15 else 'training'}" for i in range(20)]
    lines = [line.replace(",", comma) for line in lines]
    data = dataset(table(place, lines, f"Path{comma}label{comma} split", encoding))
    assert data.classes == ["ant", "cat"]
    for split, numbers in ((data.train, range(15)), (data.test, range(15, 20))):
        assert sorted(rows_of(split)) == list(numbers)
        assert split.labels.tolist() == [int(i % 3 > 0) for i in rows_of(split)]
    assert len(dataset(data.name, limit=4).train) == 4
    assert dataset(data.name, size=5).shape == (1, 5, 5)


def test_label_numbers_are_in_the_order_of_numbers(place):
    data = dataset(table(place, [f"{place}/pictures/{i:02}.png,{10 - i % 10},extra" for i in range(20)],
                         "path,label,remark"))  # fmt: skip
    assert data.classes == [str(i) for i in range(1, 11)]
    assert data.train.labels.bincount().tolist() == [1] * 10
    for split in (data.train, data.test):
        assert split.labels.tolist() == [9 - i % 10 for i in rows_of(split)]


def test_a_table_of_paths_alone_is_unlabelled(place):
    data = dataset(table(place, [f"pictures/{i:02}.png" for i in range(20)], "path"))
    assert (len(data.train), len(data.test), data.train.labels, data.classes) == (16, 4, None, [])
    assert any("no labels" in note for note in data.notes)
    empty = dataset(table(place, [f"pictures/{i:02}.png," for i in range(20)], "path,label"))
    assert empty.test.labels is None and any("label is empty" in note for note in empty.notes)


def test_of_test_and_val_rows_those_of_test_are_read(place):
    lines = [f"pictures/{i:02}.png,a,{('train', 'train', 'val', 'test')[i % 4]}" for i in range(20)]
    data = dataset(table(place, lines))
    assert (len(data.train), len(data.test)) == (10, 5)
    assert any("5 rows of val" in note for note in data.notes)


@pytest.mark.parametrize(("lines", "head", "words"), [
    (["a,b"], "file,label", "has no column path; its columns are file, label"),
    (["pictures/00.png,b"], "path,lable", "no column label"),
    (["pictures/00.png,a,b"], "path,label,label", "a column twice"),
    (["pictures/00.png,a,train", "pictures/01.png,a"], None, "Line 3 of .* has 2 cells"),
    (["pictures/00.png,a,train", "pictures/99.png,a,test"], None, r"1 of 2 images .*99\.png in line 3"),
    (["pictures/00.png,a,train", "pictures/00.png,b,test"], None, "Lines 2 and 3 .* same image"),
    (["pictures/00.png,a,train", "pictures/01.png,b,tset"], None, "split 'tset' in line 3"),
    (["pictures/00.png,a,train", "pictures/01.png,b,train"], None, "rows of train alone"),
    (["pictures/00.png,a,train", "pictures/01.png,,test"], None, "1 of 2 images .* no label, the first in line 3"),
    (["pictures/00.png,a,train", "pictures/01.png,b,test"], None, "training rows lack: b"),
    (["pictures/00.png,a", "pictures/01.png,b"], "path,label", "one image in each class"),
    ([], None, "names no image"),
])  # fmt: skip
def test_mistakes_in_a_table_are_named(place, lines, head, words):
    with pytest.raises(UserError, match=words) as error:
        dataset(table(place, lines, head or "path,label,split"))
    assert "\n" not in str(error.value)


def test_what_is_no_table(place):
    with pytest.raises(UserError, match="no file"):
        dataset(f"csv:{place}/none.csv")
    (place / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a table"):
        dataset(f"csv:{place}/x.csv")
    (place / "x.csv").write_text("")
    with pytest.raises(UserError, match="is empty: a table names its columns"):
        dataset(f"csv:{place}/x.csv")


# Labels of tensors.


WORDS = ["dog", "cat"] * 10


@pytest.mark.parametrize("words", [np.array(WORDS), WORDS, np.array(WORDS, object), np.array(WORDS, "S"), tuple(WORDS)])
def test_words_are_labels(words):
    data = from_tensors(IMAGES, words, IMAGES[:2], words[:2])
    assert data.classes == ["cat", "dog"]
    assert data.train.labels.tolist() == [1, 0] * 10
    assert data.test.labels.tolist() == [1, 0]
    named = from_tensors(IMAGES, words, IMAGES[:2], words[:2], classes=["dog", "cat", "emu"])
    assert named.train.labels.tolist() == [0, 1] * 10 and named.classes == ["dog", "cat", "emu"]
    assert from_tensors(IMAGES, words, IMAGES[:2], None).test.labels is None


@pytest.mark.parametrize("labels", [
    *(np.array([0, 1] * 10, dtype) for dtype in (object, ">i4", np.uint16, np.uint64)),
    [np.int64(0), np.int64(1)] * 10, [torch.tensor(0), torch.tensor(1)] * 10,
    torch.tensor([0, 1] * 10, dtype=torch.uint8),
])  # fmt: skip
def test_whole_numbers_of_any_kind_are_labels(labels):
    assert from_tensors(IMAGES, labels, IMAGES, labels).train.labels.tolist() == [0, 1] * 10


@pytest.mark.parametrize(("train", "test", "words"), [
    ([*WORDS[:19], 3], WORDS, "words and other things, as 3"),
    (WORDS, [0, 1] * 10, "test labels are numbers and the training labels words"),
    ([0, 1] * 10, WORDS, "training labels are numbers and the test labels words"),
    (WORDS, [*WORDS[:19], "emu"], "words that the training labels lack: emu"),
    (WORDS[:7], WORDS, "20 training images but 7 labels"),
    ([WORDS], WORDS, r"shape \[1, 20\]"),
    ("catdog", WORDS, "one text"),
    ([None] * 20, [0] * 20, "neither whole numbers nor words"),
    ([[0], [1, 2]] * 10, [0] * 20, "neither whole numbers nor words"),
    ([], [0] * 20, "20 training images but 0 labels"),
])  # fmt: skip
def test_labels_that_are_neither_are_told_in_a_sentence(train, test, words):
    with pytest.raises(UserError, match=words) as error:
        from_tensors(IMAGES, train, IMAGES, test)
    assert "\n" not in str(error.value)


def test_arrays_of_the_other_byte_order():
    deep = from_tensors((IMAGES / 255).astype(">f4"), None, (IMAGES / 255).astype(">f8"), None)
    assert torch.equal(deep.train.images[:, 0], torch.from_numpy(IMAGES))
    assert torch.equal(deep.test.images, deep.train.images)
