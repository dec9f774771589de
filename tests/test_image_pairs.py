"""pairs:TABLE?x=LEFT&y=RIGHT: two image files a line, from the table to towers, retrieval and what is said of them."""

import json
import re

import numpy as np
import pytest
import tifffile
import torch
from conftest import saved_in
from PIL import Image
from test_captions import kept, table
from test_model_recipes import tree

import infomax as im
from infomax import data

COLUMNS = ("left", "right", "split")
SIDE, SMALL = 12, 8  # of the left and of the right images


def files(folder, count=40, noise=40):
    """So many pairs of a colour PNG and a TIFF of 16 bits, whose upper parts are bright and of one height: rows (left,
    right, split), a fifth of them test."""
    generator, rows = np.random.default_rng(0), []
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        level = int(generator.integers(1, SMALL))
        left = generator.integers(0, noise, (SIDE, SIDE, 3)).astype(np.uint8)
        left[: SIDE * level // SMALL] = 240
        right = generator.integers(0, 100 * noise, (SMALL, SMALL)).astype(np.uint16)
        right[:level] = 30_000
        Image.fromarray(left).save(folder / f"left/{i:03}.png")
        tifffile.imwrite(folder / f"right/{i:03}.tif", right)
        rows.append((f"left/{i:03}.png", f"right/{i:03}.tif", "test" if i % 5 == 3 else "train"))
    return rows


def name_of(path, more=""):
    return f"pairs:{path}?x=left&y=right{more}"


def pixels_of(split):
    """Both sides of a part as bytes, [n, c, h, w]."""
    return [
        (255 * side.given(split.indices)).round().to(torch.uint8) for side in (split.x, split.y)
    ]  # fmt: skip


def lefts(split):
    """Which left images are in a part, by their bytes."""
    return {image.numpy().tobytes() for image in pixels_of(split)[0]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of 40 pairs with pairs.csv. Not to be changed."""
    folder = tmp_path_factory.mktemp("pairs")
    table(folder / "pairs.csv", files(folder), COLUMNS)
    return folder


def test_a_line_is_a_pair_and_each_side_has_its_own_shape_and_scale(place, caplog):
    found = data.paired(name_of(f"{place}/pairs.csv"))
    assert (len(found.train), len(found.test)) == (32, 8)
    assert (found.train.x.shape, found.train.y.shape) == ((3, SIDE, SIDE), (1, SMALL, SMALL))
    for split, ours in ((found.train, [i for i in range(40) if i % 5 != 3]), (found.test, range(3, 40, 5))):
        left, right = pixels_of(split)
        for i, one, other in zip(ours, left, right, strict=True):
            want = np.array(Image.open(place / f"left/{i:03}.png"))
            assert np.array_equal(one.movedim(0, 2).numpy(), want)
            deep = tifffile.imread(place / f"right/{i:03}.tif").astype(float)
            assert np.corrcoef(other[0].numpy().ravel(), deep.ravel())[0, 1] > 0.99
        x, y = split.batch(torch.arange(2))
        assert x.shape == (2, 3, SIDE, SIDE) and y.shape == (2, 1, SMALL, SMALL) and x.dtype == torch.float32
    notes = [note for note in found.notes if "brought to 8 bits" in note]
    assert len(notes) == 1 and notes[0].startswith("right: Pixels of uint16"), found.notes
    assert [record.getMessage() for record in caplog.records] == [f"{found.name}: {note}" for note in found.notes]
    assert found.opened == (found.name, None, False)
    assert data.paired(name_of(f"{place}/pairs.csv", "&size=6")).train.y.shape == (1, 6, 6)
    few = data.paired(found.name, limit=10)
    assert (len(few.train), len(few.test)) == (10, 8)
    assert torch.equal(pixels_of(few.train)[0], pixels_of(found.train)[0][:10])


def test_the_fingerprint_is_of_both_sides(tmp_path):
    rows = files(tmp_path, 10)
    name = name_of(table(tmp_path / "t.csv", rows, COLUMNS))
    seen = [data.paired(name).fingerprint]
    assert data.paired(name).fingerprint == seen[0] and seen[0].startswith("8 + 2 pairs, sha256 ")
    Image.fromarray(np.full((SIDE, SIDE, 3), 9, np.uint8)).save(tmp_path / "left/001.png")
    seen.append(data.paired(name).fingerprint)
    tifffile.imwrite(tmp_path / "right/001.tif", np.full((SMALL, SMALL), 9, np.uint16))
    seen.append(data.paired(name).fingerprint)
    swapped = [*rows[:4], (rows[4][0], rows[5][1], "train"), (rows[5][0], rows[4][1], "train"), *rows[6:]]
    table(tmp_path / "t.csv", swapped, COLUMNS)
    seen.append(data.paired(name).fingerprint)
    assert len(set(seen)) == 4


def test_a_fifth_of_each_label_is_held_out_and_columns_have_any_name(tmp_path):
    rows = [row[:2] for row in files(tmp_path, 20)]
    none = data.paired(f"pairs:{table(tmp_path / 'none.csv', rows, ('x', 'Y'))}")
    assert (len(none.train), len(none.test)) == (16, 4)
    assert "There is no column split, so a fixed fifth of the pairs is held out." in none.notes
    # What is held out without labels is of one label now, with one more.
    where = parts_of(none, tmp_path, [left for left, _ in rows])
    few = [left for left, _ in rows if where[left] == ["test"]] + [left for left, _ in rows if where[left] != ["test"]][
        :1
    ]
    rows = [(left, right, "few" if left in few else "many") for left, right in rows]
    path = table(tmp_path / "t.csv", rows, ("x", "Y", "Label"))
    found = data.paired(f"pairs:{path}")
    assert (len(found.train), len(found.test)) == (16, 4)
    assert sorted(parts_of(found, tmp_path, few).values()) == [["test"], *[["train"]] * 4]
    limited = parts_of(data.paired(f"pairs:{path}", limit=4), tmp_path, few)  # as even over the labels as can be
    assert [part for part in limited.values() if part == ["train"]] == [["train"]] * 2
    assert data.paired(f"pairs:{path}?label=").fingerprint == none.fingerprint != found.fingerprint
    several = table(tmp_path / "s.csv", [(*row[:2], "a|b") for row in rows], ("x", "y", "label"))
    assert any("several words are not read" in note for note in data.paired(f"pairs:{several}").notes)


def parts_of(found, folder, names):
    """Of each left image the parts that it is in."""
    both = {part: lefts(split) for part, split in (("train", found.train), ("test", found.test))}
    marks = {name: np.array(Image.open(folder / name)).transpose(2, 0, 1).tobytes() for name in names}
    return {name: [part for part, images in both.items() if mark in images] for name, mark in marks.items()}


def test_pairs_that_share_an_image_on_either_side_are_in_one_part(tmp_path):
    rows = [row[:2] for row in files(tmp_path, 30)]
    # Each left image with three right ones; the same right image of two left ones; the one as the other's copy.
    shared = [(rows[i // 3][0], rows[i][1]) for i in range(30)]
    found = data.paired(name_of(table(tmp_path / "x.csv", shared, ("left", "right"))))
    parts = parts_of(found, tmp_path, [row[0] for row in rows[:10]])
    assert all(len(part) == 1 for part in parts.values()), parts
    assert (len(found.train), len(found.test)) == (24, 6)
    words = (
        r"20 of 30 pairs share an image with another pair, .* as line \d+ and line \d+ do; such pairs are in one part"
    )
    assert re.search(words, "\n".join(found.notes)), found.notes
    shared = [(rows[i][0], rows[i // 3][1]) for i in range(30)]
    found = data.paired(name_of(table(tmp_path / "y.csv", shared, ("left", "right"))))
    parts = parts_of(found, tmp_path, [row[0] for row in rows])
    for i in range(0, 30, 3):
        assert len({tuple(parts[rows[j][0]]) for j in range(i, i + 3)}) == 1
    # Copies under names of their own, on the right, and one file that is left in a line and right in another.
    for i in range(10):
        (tmp_path / f"right/{i + 10:03}.tif").write_bytes((tmp_path / f"right/{i:03}.tif").read_bytes())
    found = data.paired(name_of(table(tmp_path / "c.csv", rows, ("left", "right"))))
    parts = parts_of(found, tmp_path, [row[0] for row in rows])
    assert all(parts[rows[i][0]] == parts[rows[i + 10][0]] for i in range(10)), parts
    assert len(found.test) in range(4, 7)
    # One file that is right in a line and left in another.
    chain = [
        pair
        for i in range(10)
        for pair in ((rows[3 * i][0], rows[3 * i + 1][0]), (rows[3 * i + 1][0], rows[3 * i + 2][0]))
    ]
    found = data.paired(name_of(table(tmp_path / "t.csv", chain, ("left", "right"))))
    parts = parts_of(found, tmp_path, [left for left, _ in chain])
    assert all(parts[rows[3 * i][0]] == parts[rows[3 * i + 1][0]] for i in range(10)), parts
    assert (len(found.train), len(found.test)) == (16, 4)
    # One image in all lines, and few that share much: what is held out is whole, or that it is not is said.
    everywhere = [(rows[0][0], right) for _, right in rows]
    found = data.paired(name_of(table(tmp_path / "e.csv", everywhere, ("left", "right"))))
    assert (len(found.train), len(found.test)) == (24, 6)
    assert "kept in one part, they would leave the other empty, so they are in both." in "\n".join(found.notes)
    two = [(rows[i % 2][0], right) for i, (_, right) in enumerate(rows)]
    found = data.paired(name_of(table(tmp_path / "two.csv", two, ("left", "right"))))
    assert (len(found.train), len(found.test)) == (15, 15) and not lefts(found.train) & lefts(found.test)


def test_a_split_of_the_users_stays_and_what_it_shares_is_said(tmp_path):
    rows = files(tmp_path, 20)
    rows[3] = (rows[2][0], *rows[3][1:])
    found = data.paired(name_of(table(tmp_path / "t.csv", rows, COLUMNS)))
    assert (len(found.train), len(found.test)) == (16, 4)
    words = "as line 5 and line 4 do; 1 test pairs share images with training pairs, for the split is kept as it is."
    assert words in "\n".join(found.notes)


def test_files_that_are_not_held_in_memory_are_the_same_pairs(place, monkeypatch):
    from infomax.data import folder

    name = name_of(f"{place}/pairs.csv")
    held = pixels_of(data.paired(name).test)
    monkeypatch.setattr(folder, "MEMORY_BUDGET", 0)
    read = data.paired(name)
    assert "on disk" in repr(read.train.x.rows) and "on disk" in repr(read.train.y.rows)
    assert all(torch.equal(one, other) for one, other in zip(held, pixels_of(read.test), strict=True))


def test_unreadable_images_are_named_or_left_out_with_their_pairs(tmp_path, monkeypatch):
    rows = files(tmp_path, 20)
    (tmp_path / "right/005.tif").write_bytes(b"no picture")
    (tmp_path / "left/006.png").write_bytes(b"")
    name = name_of(table(tmp_path / "t.csv", rows, COLUMNS))
    with pytest.raises(im.UserError, match=r"left/006\.png is empty"):
        data.paired(name)
    found = data.paired(name, skip_unreadable=True)
    assert (len(found.train), len(found.test)) == (14, 4) and found.left_out == ("left/006.png", "right/005.tif")
    assert "With them 2 of 20 pairs are left out." in found.notes and found.opened == (name, None, True)
    left = [i for i in range(20) if i % 5 != 3 and i not in (5, 6)]
    want = torch.stack([torch.from_numpy(np.array(Image.open(tmp_path / rows[i][0]))).movedim(2, 0) for i in left])
    assert torch.equal(pixels_of(found.train)[0], want)
    for i in range(3, 20, 5):
        (tmp_path / f"{('left', 'right')[i % 2]}/{i:03}.{('png', 'tif')[i % 2]}").write_bytes(b"")
    with pytest.raises(im.UserError, match=r"Too few pairs of .* are left, no test pair: 6 of 40 images are left out"):
        data.paired(name, skip_unreadable=True)


def test_paths_of_one_table_may_be_absolute_and_relative(tmp_path, monkeypatch):
    rows = [(left, str(tmp_path / right), part) for left, right, part in files(tmp_path, 10)]
    table(tmp_path / "t.csv", rows, COLUMNS)
    table(tmp_path / "one.csv", [(rows[0][0], "train"), *((right, part) for _, right, part in rows[3:9])],
          ("path", "split"))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "right/000.tif").write_bytes(b"")
    found = data.paired("pairs:t.csv?x=left&y=right", skip_unreadable=True)
    assert len(found.train) == 7 and found.left_out == ("right/000.tif",)
    Image.fromarray(np.zeros((SMALL, SMALL), np.uint8)).save(tmp_path / rows[0][0])
    (tmp_path / "right/004.tif").write_bytes(b"")
    assert data.dataset("csv:one.csv", skip_unreadable=True).left_out == ("right/004.tif",)


@pytest.mark.parametrize(
    ("rows", "columns", "options", "says"),
    [
        (None, COLUMNS, "", r"no column 'x'; its columns are left, right, split: pairs:t\.csv\?x=NAME&y=NAME names the "
         "ones that hold the x and the y"),
        (None, COLUMNS, "?x=lft&y=right", "no column 'lft'.*Did you mean 'left'"),
        (None, COLUMNS, "?x=left", r"no column 'y'.*\?y=NAME names the one that holds the y"),
        (None, COLUMNS, "?x=left&y=right&label=kind", "no column 'kind'"),
        (None, COLUMNS, "?x=left&y=Left", "x and y are both the column 'left' of t.csv"),
        (None, COLUMNS, "?x=left&y=right&tokens=y", "chooses 'tokens'"),
        (None, COLUMNS, "?x=left&y=right&size=2", "size is a whole number from 4"),
        (None, ("left", "left", "split"), "?x=left&y=split", "has the column left twice"),
        ([("left/000.png", "none.tif", "train")], COLUMNS, "?x=left&y=right", "none.tif in line 5"),
        ([("left/000.png", "", "train")], COLUMNS, "?x=left&y=right", "Line 5 of t.csv has no right"),
        ([("left/000.png", "left/000.png", "train")], COLUMNS, "?x=left&y=right", "Line 5 of .* as left and as right"),
        ([("left/001.png", "right/001.tif", "test")], COLUMNS, "?x=left&y=right", "Lines 2 and 5 .* the same pair"),
        ([("left/000.png", "right/000.tif", "mine")], COLUMNS, "?x=left&y=right", "'mine' in line 5"),
        ([], COLUMNS, "?x=left&y=right", "t.csv is empty: it names no image"),
    ],
)  # fmt: skip
def test_a_table_that_is_no_pairs_is_a_sentence_and_no_folder(run, tmp_path, rows, columns, options, says):
    known = files(tmp_path, 4)
    table(tmp_path / "t.csv", known if rows is None else known[1:] + rows if rows else [], columns)
    before = tree(tmp_path)
    ended = run("clip", "--dataset", f"pairs:t.csv{options}", "--batch-size", 2, "--steps", 1)
    assert ended.status == 2 and len(ended.err.strip().splitlines()) == 1, ended.err
    assert re.search(says, ended.err), ended.err
    assert tree(tmp_path) == before


def test_one_encoder_needs_sides_of_one_shape(place, tmp_path):
    with pytest.raises(im.UserError, match=r"x is \[3, 12, 12\] and y \[1, 8, 8\]; one encoder .* pairs:TABLE\?size=N"):
        data.named_views(name_of(f"{place}/pairs.csv"))
    rows = [
        (rows[0], later[0])
        for rows, later in zip(files(tmp_path, 20)[::2], files(tmp_path / "b", 20)[1::2], strict=True)
    ]
    views = data.named_views(name_of(table(tmp_path / "t.csv", rows, ("left", "right"))))
    assert views.shape == (3, SIDE, SIDE) and (len(views.train), len(views.test)) == (8, 2)
    assert views.opened is not None


def test_a_tables_name_may_have_a_comma_and_two_arrays_stay_arrays(tmp_path):
    path = table(tmp_path / "a,b.csv", files(tmp_path, 10), COLUMNS)
    assert len(data.paired(name_of(path)).train) == 8
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(10, 3)))
    assert len(data.paired(f"pairs:{tmp_path}/x.npy,{tmp_path}/x.npy").train) == 8
    with pytest.raises(im.UserError, match=r"two files of arrays, pairs:TABLE\?x=NAME&y=NAME a table .* neither\.$"):
        data.paired(f"pairs:{tmp_path}/x.npy")
    with pytest.raises(im.UserError, match=r"goes with halves:NAME, captions:TABLE or pairs:TABLE, of image files"):
        data.paired(f"pairs:{tmp_path}/x.npy,{tmp_path}/x.npy", skip_unreadable=True)


def test_another_size_than_a_tower_reads_is_refused_with_the_size_to_ask_for(place, tmp_path):
    def encoder(pairs, side):
        channels, height, _ = getattr(pairs.train, side).shape
        return im.encoder("vit_tiny_patch16_224", in_chans=channels, img_size=height, patch_size=4)

    known = data.paired(name_of(f"{place}/pairs.csv", "&size=12"))
    x, y = (encoder(known, side) for side in "xy")
    one, other = (im.encoders.Projector(im.encoders.features_of(each), hidden=16, out=8) for each in (x, y))
    model = im.TwoTower(x, y, one, other, im.Cosine(0.1), im.InfoNCE())
    kept(tmp_path / "run", model, known)
    with pytest.raises(im.UserError, match=r"give pairs of 12 x 12 pixels .*; pairs:TABLE\?size=12 reads a table's"):
        im.evaluate(tmp_path / "run", data.paired(name_of(f"{place}/pairs.csv", "&size=8")))


@pytest.mark.slow
def test_a_table_of_two_images_is_trained_on_resumed_and_read(run, tmp_path):
    rows = files(tmp_path, 120)
    name = name_of(table(tmp_path / "t.csv", rows, COLUMNS))
    asked = ("clip", "--encoder", "resnet10_small_gn", "--batch-size", 32, "--dataset", name)
    ended = run(*asked, "--steps", 60)
    assert ended.status == 0, ended.err
    assert saved_in(ended.out) == "checkpoints/clip"
    resumed = run(*asked, "--steps", 150, "--resume", "--run-dir", "checkpoints/clip")
    assert resumed.status == 0, resumed.err
    saved = json.loads((tmp_path / "checkpoints/clip/run.json").read_text())["configuration"]
    assert saved["dataset"] == name and any("right: Pixels of uint16" in note for note in saved["data_notes"])
    probed = run("infomax", "probe", "checkpoints/clip", "--json")
    assert probed.status == 0, probed.err
    found = json.loads(probed.out)["retrieval"]
    assert min(found[way]["recall@5"] for way in ("x_to_y", "y_to_x")) > 0.5, found  # chance is 5 of 24
    assert run("infomax", "estimate", "checkpoints/clip", "--json").status == 0
    assert run("infomax", "report", "checkpoints/clip").status == 0
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / rows[0][0])
    changed = run(*asked, "--steps", 160, "--resume", "--run-dir", "checkpoints/clip")
    assert changed.status == 2 and "data" in changed.err
