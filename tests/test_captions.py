"""captions:TABLE: image files with a text each, from the table to towers, retrieval and what is said on the way."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from conftest import saved_in
from PIL import Image
from test_model_recipes import tree

import infomax as im
from infomax import checkpoints, data
from infomax.checkpoints import open_run
from infomax.data.characters import BYTES, CHARACTERS, VOCABULARY, byte_tokens, tokens
from infomax.encoders import Tokens
from infomax.evaluation import pairs_of, retrieval

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
SHAPES = ("square", "bar", "pole")
SIDE = 12


def drawn(colour, shape, generator):
    pixels = generator.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    size = {"square": (6, 6), "bar": (3, 9), "pole": (9, 3)}[shape]
    top, left = (int(generator.integers(0, SIDE - side + 1)) for side in size)
    pixels[top : top + size[0], left : left + size[1]] = COLOURS[colour]
    return pixels


def table(path, rows, columns=("path", "text", "split")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def files(folder, count=100):
    """So many pictures and their captions: rows (path, text, split), a fifth of them test."""
    generator, rows = np.random.default_rng(0), []
    (folder / "pictures").mkdir(parents=True)
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for i in range(count):
        colour, shape = kinds[i % len(kinds)]
        name = f"pictures/{i:03}.png"
        Image.fromarray(drawn(colour, shape, generator)).save(folder / name)
        rows.append((name, f"a {colour} {shape}, number {i}", "test" if i % 5 == 3 else "train"))
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of 100 pictures with captions.csv. Not to be changed."""
    folder = tmp_path_factory.mktemp("captions")
    table(folder / "captions.csv", files(folder))
    return folder


def test_rows_are_pictures_with_their_own_texts(place):
    found = data.paired(f"captions:{place}/captions.csv")
    assert (len(found.train), len(found.test)) == (80, 20)
    assert found.train.x.shape == (3, SIDE, SIDE) and found.train.y.vocabulary == VOCABULARY
    rows = list(csv.DictReader((place / "captions.csv").read_text().splitlines()))
    longest = max(len(row["text"]) for row in rows if row["split"] == "train")
    for split, part in ((found.train, "train"), (found.test, "test")):
        mine = [row for row in rows if row["split"] == part]
        x, y = split.batch(torch.arange(len(split)))
        assert y.shape == (len(mine), longest) and y.dtype == torch.int64 and x.dtype == torch.float32
        whole = x * found.train.x.std.view(1, -1, 1, 1) + found.train.x.mean.view(1, -1, 1, 1)
        for row, picture, text in zip(mine, whole, y, strict=True):
            pixels = torch.from_numpy(np.array(Image.open(place / row["path"]))).movedim(2, 0)
            torch.testing.assert_close((255 * picture).round().to(torch.uint8), pixels)
            assert torch.equal(text, tokens(row["text"], longest))
    assert found.fingerprint == data.paired(f"captions:{place}/captions.csv").fingerprint
    assert data.paired(f"captions:{place}/captions.csv?length=9").fingerprint != found.fingerprint
    assert data.paired(f"captions:{place}/captions.csv?size=8").train.x.shape == (3, 8, 8)
    few = data.paired(f"captions:{place}/captions.csv", limit=10)
    assert (len(few.train), len(few.test)) == (10, 20)
    assert torch.equal(few.train.batch(torch.arange(10))[1][:, :9], found.train.batch(torch.arange(10))[1][:, :9])


def test_columns_by_other_names_and_a_fifth_held_out(place, caplog):
    rows = [row[:2] for row in csv.reader((place / "captions.csv").read_text().splitlines())][1:]
    table(place / "other.csv", rows, ("File", "Caption"))
    found = data.paired(f"captions:{place}/other.csv?path=file&text=caption")
    assert (len(found.train), len(found.test)) == (80, 20)
    assert "There is no column split, so a fixed fifth of the images is held out." in found.notes
    assert [record.getMessage() for record in caplog.records] == [
        f"captions:{place}/other.csv?path=file&text=caption: {note}" for note in found.notes
    ]
    again = data.paired(f"captions:{place}/other.csv?path=file&text=caption")
    assert torch.equal(found.train.y.rows, again.train.y.rows)


def test_files_that_are_not_held_in_memory_are_the_same_pictures(place, monkeypatch):
    from infomax.data import folder

    name = f"captions:{place}/captions.csv"
    held = data.paired(name).test.batch(torch.arange(20))
    monkeypatch.setattr(folder, "MEMORY_BUDGET", 0)
    read = data.paired(name)
    assert "on disk" in repr(read.train.x.rows)
    for one, other in zip(held, read.test.batch(torch.arange(20)), strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0)  # mean and deviation are of a sample of the images


def towers(pairs, encoder=None):
    """Two towers for pictures and texts, as they start; the default encoder reads any size."""
    encoders = encoder or im.encoder("resnet10_tiny", in_chans=3), Tokens(pairs.train.y.vocabulary)
    projectors = [im.encoders.Projector(im.encoders.features_of(each), hidden=16, out=8) for each in encoders]
    return im.TwoTower(*encoders, *projectors, im.Cosine(0.1), im.InfoNCE())


def kept(folder, model, pairs):
    """The folder of a run that saved the model, of these pairs, before its first step."""
    with open_run(folder, "clip", {"data": pairs.fingerprint}, preprocessing=data.describe_pairs(pairs)) as run:
        run.save(0, model, torch.optim.SGD(model.parameters(), lr=0.1))
    return folder


def test_a_text_has_the_same_features_from_any_table(place, tmp_path, caplog):
    known = data.paired(f"captions:{place}/captions.csv")
    kept(tmp_path / "run", towers(known), known)
    model, checkpoint = im.load(tmp_path / "run").eval(), checkpoints.read(tmp_path / "run")
    length = known.train.y.shape[0]
    assert checkpoint.preprocessing["y"]["shape"] == [length] and checkpoint.preprocessing["x"]["shape"] == [3, 12, 12]
    rows = list(csv.DictReader((place / "captions.csv").read_text().splitlines()))
    # Of one table the longest caption is short, of the other one is far longer than any of training.
    for name, extra in (("short", []), ("long", [(f"{place}/pictures/099.png", "a b " * 50, "train")])):
        few = [(f"{place}/{row['path']}", "a red bar" if i % 2 else "a blue bar", row["split"])
               for i, row in enumerate(rows[:20])]  # fmt: skip
        other = data.paired(f"captions:{table(tmp_path / f'{name}.csv', [*few, *extra])}")
        assert other.train.y.shape != (length,)
        caplog.clear()
        read = data.pairs_from(checkpoint.preprocessing, other)
        said = [record.getMessage() for record in caplog.records if "are cut to the" in record.getMessage()]
        want = f"1 of {20 + len(extra)} rows of y are cut to the {length} tokens that training had."
        assert [line.rpartition(": ")[2] for line in said] == ([want] if extra else [])
        texts = read.test.batch(torch.arange(len(read.test)))[1]
        assert texts.shape[1] == length and {tuple(t.tolist()) for t in texts} == {
            tuple(tokens(text, length).tolist()) for text in ("a red bar", "a blue bar")
        }
        with torch.no_grad():
            images = torch.zeros(len(texts), 3, SIDE, SIDE)
            here = model.features(images, texts)[1]
            alone = model.features(images, torch.stack([tokens("a red bar", length)] * len(texts)))[1]
        same = [i for i, t in enumerate(texts) if torch.equal(t, tokens("a red bar", length))]
        torch.testing.assert_close(here[same], alone[same])
    # By its name the other table is read as far, also where its own training captions are shorter than a test caption.
    uneven = [(path, text if part == "train" else f"{text} in the rain", part) for path, text, part in few]
    name = f"captions:{table(tmp_path / 'uneven.csv', uneven)}"
    found = pairs_of(tmp_path / "run", name)
    want = {tuple(tokens(f"a {colour} bar in the rain", length).tolist()) for colour in ("red", "blue")}
    assert {tuple(t.tolist()) for t in found.test.batch(torch.arange(len(found.test)))[1]} == want
    assert pairs_of(tmp_path / "run", f"{name}?length=5").train.y.shape == (5,)
    assert pairs_of(tmp_path / "run", f"{name}?size=8").train.y.shape == (length,)
    assert pairs_of(model, name).train.y.shape != (length,)
    older = {side: {k: v for k, v in of.items() if k != "shape"} for side, of in checkpoint.preprocessing.items()}
    assert data.pairs_from(older, other).train.y.shape == other.train.y.shape  # what it does not say stays


def test_pairs_of_a_size_that_a_tower_does_not_read_are_refused(place, tmp_path, caplog):
    known = data.paired(f"captions:{place}/captions.csv")
    vit = im.encoder("vit_tiny_patch16_224", in_chans=3, img_size=SIDE, patch_size=4)
    small = data.paired(f"captions:{place}/captions.csv?size=8")
    with pytest.raises(im.UserError, match=r"of x does not read x of .*, 8 x 8 pixels of 3 channels: give pairs"):
        im.evaluation.evaluate_towers(towers(known, vit), small)
    run = kept(tmp_path / "run", towers(known, vit), known)
    words = (
        r"The encoder of x was trained on x of 12 x 12 pixels of 3 channels and does not read x of captions:\S+, 8 x 8 "
        r"pixels of 3 channels: give pairs of 12 x 12 pixels of 3 channels; captions:TABLE\?size=12 reads .* side\.$"
    )
    with pytest.raises(im.UserError, match=words):
        im.evaluate(run, small)
    model = towers(known)
    retrieval._require_fit(model, data.paired(f"captions:{place}/captions.csv?size=16"), data.describe_pairs(known))
    assert "x was trained on 12 x 12 pixels of 3 channels and reads 16 x 16" in caplog.text
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["captions:t.csv", "pairs:x.npy,y.npy", "halves:digits", "names:emoji"])
def test_pairs_for_a_recipe_of_images_name_the_recipe_that_reads_them(name):
    with pytest.raises(im.UserError, match=r"pairs of two modalities, which recipes/clip\.py .*infomax recipe clip"):
        data.dataset(name)


def test_what_is_not_read_of_captions_is_said(tmp_path):
    rows = files(tmp_path, 12)
    rows[0] = (rows[0][0], "Two  Rosés & a very long story, indeed", "train")
    rows[1] = (rows[1][0], rows[2][1], "train")
    rows[3] = (rows[3][0], "a ß-q", "test")
    rows.append((rows[4][0], "the same picture again", "test"))
    table(tmp_path / "t.csv", rows)
    found = data.paired(f"captions:{tmp_path}/t.csv?length=20")
    notes = "\n".join(found.notes)
    assert "1 of 13 captions are left out: of each image the first is read." in notes
    assert re.search(r"Captions of 5 to 37 characters are read as 20 tokens, .* \d+ longer ones cut", notes)
    assert re.search(r"Characters without a token of their own share one: 14 \(',' 11, ", notes), notes
    assert "Characters of held-out captions that training captions lack: 3 ('ß' 1, '-' 1, '8' 1)." in notes
    assert "1 of 12 captions read as another does" in notes
    assert "10 of 12 captions read as another does" in "\n".join(
        data.paired(f"captions:{tmp_path}/t.csv?length=1").notes
    )
    y = found.train.batch(torch.arange(1))[1][0]
    assert y[:4].tolist() == [CHARACTERS.index(c) + 1 for c in "two "] and len(y) == 20


def test_captions_of_other_parts_leave_an_images_caption(tmp_path):
    rows = files(tmp_path, 12)
    parts = ["train"] * 9 + ["test"] * 3
    rows = [(path, text, part) for (path, text, _), part in zip(rows, parts, strict=True)]
    rows.insert(0, (rows[0][0], "of a part that is not read", "val"))
    table(tmp_path / "t.csv", rows)
    found = data.paired(f"captions:{tmp_path}/t.csv")
    assert (len(found.train), len(found.test)) == (9, 3)


def test_texts_of_other_characters_may_read_alike(tmp_path):
    rows = files(tmp_path, 12)
    for i, text in enumerate(("café", "cafè", "a, b", "a; b")):
        rows[i] = (rows[i][0], text, rows[i][2])
    table(tmp_path / "t.csv", rows)
    assert "2 of 12 captions read as another does" in "\n".join(data.paired(f"captions:{tmp_path}/t.csv").notes)


@pytest.mark.parametrize(
    ("rows", "columns", "options", "says"),
    [
        (None, ("path", "words", "split"), "", r"no column 'text'; its columns are path, words, split: .*\?text="),
        (None, ("path", "text", "split"), "?text=words", "no column 'words'.*Known: path, split, text"),
        (None, ("path", "text", "split"), "?label=text", "chooses 'label'"),
        (None, ("path", "text", "split"), "?length=0", "length is a whole number from 1"),
        (None, ("path", "text", "split"), "?size=many", "size is a whole number from 4"),
        ([("none.png", "a text", "train")], ("path", "text", "split"), "", "none.png in line 5"),
        ([("pictures/000.png", "", "train")], ("path", "text", "split"), "", "Line 5 of .* has no text"),
        ([("a.png", "a text", "mine")], ("path", "text", "split"), "", "'mine' in line 5"),
        ([], ("path", "text", "text"), "", "has the column text twice"),
        ([("pictures/spare.png", "一二三四五六七八九十" * 9, "test")], ("path", "text", "split"), "?tokens=characters",
         r"%.* and would be one token: read them by \?tokens=bytes, or make tokens of them by a tokenizer"),
        (None, ("path", "text", "split"), "?tokens=words", "tokens=words names no tokens.*Known: bytes, characters"),
    ],
)  # fmt: skip
def test_a_table_that_is_no_captions_is_a_sentence_and_no_folder(run, tmp_path, rows, columns, options, says):
    known = files(tmp_path, 4)
    (tmp_path / "pictures" / "spare.png").write_bytes((tmp_path / "pictures/003.png").read_bytes())
    table(tmp_path / "t.csv", (known[1:] if rows else known) + (rows or []), columns)
    before = tree(tmp_path)
    ended = run("clip", "--dataset", f"captions:t.csv{options}", "--batch-size", 2, "--steps", 1)
    assert ended.status == 2 and len(ended.err.strip().splitlines()) == 1, ended.err
    assert re.search(says, ended.err), ended.err
    assert tree(tmp_path) == before


def test_unreadable_pictures_are_named_or_left_out_with_their_captions(tmp_path):
    rows = files(tmp_path, 12)
    (tmp_path / "pictures/005.png").write_bytes(b"no picture")
    table(tmp_path / "t.csv", rows)
    with pytest.raises(im.UserError, match=r"005\.png cannot be read"):
        data.paired(f"captions:{tmp_path}/t.csv")
    found = data.paired(f"captions:{tmp_path}/t.csv", skip_unreadable=True)
    assert len(found.train) == 9 and found.left_out == ("005.png",)
    texts = found.train.batch(torch.arange(9))[1]
    length = texts.shape[1]
    left = [text for i, (_, text, part) in enumerate(rows) if part == "train" and i != 5]
    assert torch.equal(texts, torch.stack([tokens(text, length) for text in left]))


RUSSIAN = {"red": "красный", "green": "зелёный", "blue": "синий", "white": "белый", "square": "квадрат",
           "bar": "брусок", "pole": "столб"}  # fmt: skip


def in_russian(rows):
    """The same pictures, each caption in Russian."""
    return [(path, " ".join(RUSSIAN.get(word.strip(","), word) for word in text.split()[1:3]) + f" №{i}", part)
            for i, (path, text, part) in enumerate(rows)]  # fmt: skip


def test_captions_in_other_letters_are_read_as_bytes(tmp_path):
    rows = in_russian(files(tmp_path, 24))
    assert rows[0][1] == "красный квадрат №0"
    rows[8] = (rows[8][0], "ЗЕЛЁНЫЙ щит", "test")
    rows[3] = (*rows[2][:2], "test")
    rows[3] = (f"{tmp_path}/pictures/003.png", *rows[3][1:])
    name = f"captions:{table(tmp_path / 't.csv', rows)}"
    found = data.paired(name)
    longest = max(len(text.encode()) for _, text, part in rows if part == "train")
    assert found.train.y.vocabulary == BYTES and found.train.y.shape == (longest,)
    texts = [text for part in ("train", "test") for _, text, of in rows if of == part]
    assert torch.equal(found.train.y.rows, torch.stack([byte_tokens(text, longest) for text in texts]))
    notes = "\n".join(found.notes)
    rule = r"79% of the characters of \S+t.csv's texts are none of .*, so they are read as bytes of UTF-8 \(\?tokens="
    assert re.search(rule, notes), notes
    assert f"Captions of 21 to {longest} bytes of UTF-8 are read as {longest} tokens, shorter ones with 0" in notes
    assert "Characters of held-out captions that training captions lack: 4 ('3' 2, 'щ' 1, '8' 1)." in notes
    assert "1 of 24 captions read as another does" in notes
    cut = data.paired(f"{name}?length=15")
    assert "longer ones cut after a whole character (?length=N takes another number)" in "\n".join(cut.notes)
    assert cut.train.y.rows[0].tolist() == [byte + 1 for byte in "красный".encode()] + [32 + 1]
    # The first training pairs alone would be read as characters; what is kept of a table does not choose.
    mixed = [(path, "x" if i < 3 else text, part) for i, (path, text, part) in enumerate(rows)]
    few = data.paired(f"captions:{table(tmp_path / 'mixed.csv', mixed)}", limit=2)
    assert few.train.y.vocabulary == BYTES and few.train.y.shape == (1,)
    assert data.paired(f"{name}?tokens=bytes").fingerprint == found.fingerprint


def test_latin_captions_are_read_as_bytes_where_that_is_asked_for(place):
    name = f"captions:{place}/captions.csv"
    usual, asked, found = (data.paired(f"{name}{options}") for options in ("", "?tokens=characters", "?tokens=bytes"))
    assert usual.train.y.vocabulary == VOCABULARY and usual.fingerprint == asked.fingerprint
    assert usual.notes == asked.notes and not any("tokens=bytes" in note for note in found.notes)
    assert found.train.y.vocabulary == BYTES and not any("share one" in note for note in found.notes)


def test_a_run_of_bytes_reads_any_table_as_bytes(place, tmp_path):
    rows = [(f"{place}/{path}", text, part) for path, text, part in in_russian(files(tmp_path))]
    known = data.paired(f"captions:{table(tmp_path / 'r.csv', rows)}")
    kept(tmp_path / "run", towers(known), known)
    said, length = checkpoints.read(tmp_path / "run").preprocessing, known.train.y.shape[0]
    assert said["y"]["tokens"] == "bytes" and "tokens" not in said["x"]
    latin = f"captions:{place}/captions.csv"
    found = pairs_of(tmp_path / "run", latin)
    assert (found.train.y.vocabulary, found.train.y.shape) == (BYTES, (length,))
    assert pairs_of(tmp_path / "run", f"{latin}?tokens=characters").train.y.vocabulary == VOCABULARY
    # In hand, cut to the length of training without half a character.
    longer = data.paired(f"captions:{tmp_path}/r.csv?length={length + 9}")
    assert torch.equal(data.pairs_from(said, longer).train.y.rows, known.train.y.rows)
    short = {**said, "y": {**said["y"], "shape": [9]}}
    want = data.paired(f"captions:{tmp_path}/r.csv?length=9").train.y.rows
    assert torch.equal(data.pairs_from(short, longer).train.y.rows, want)
    with pytest.raises(
        im.UserError, match=r"trained on y of bytes of UTF-8, and .* characters there: \S+\?tokens=bytes"
    ):
        data.pairs_from(said, data.paired(latin))
    usual = data.describe_pairs(data.paired(latin))
    assert "tokens" not in usual["y"]
    with pytest.raises(im.UserError, match=r"y of other tokens than bytes, and .* bytes there: \S+\?tokens=characters"):
        data.pairs_from(usual, known)


@pytest.mark.slow
def test_captions_in_other_letters_are_trained_on_resumed_and_read(run, place, tmp_path):
    rows = [(f"{place}/{path}", text, part) for path, text, part in in_russian(files(tmp_path))]
    name = f"captions:{table(tmp_path / 'r.csv', rows)}"
    asked = ("clip", "--encoder", "resnet10_small_gn", "--batch-size", 16, "--dataset", name, "--limit", 70)
    first = run(*asked, "--steps", 4, "--run-dir", "here")
    assert first.status == 0, first.err
    assert "so they are read as bytes of UTF-8" in str(json.loads((tmp_path / "here/run.json").read_text()))
    assert run(*asked, "--steps", 6, "--run-dir", "here", "--resume").status == 0
    assert im.load(tmp_path / "here").encoder_y.vocabulary == BYTES
    for command in ("probe", "estimate", "report"):
        ended = run("infomax", command, "here")
        assert ended.status == 0, (command, ended.err)
    other = run("infomax", "probe", "here", "--dataset", f"captions:{place}/captions.csv", "--json")
    assert other.status == 0, other.err


@pytest.mark.slow
def test_captions_are_trained_on_and_read_by_every_command(run, place, tmp_path):
    tiny = ("--encoder", "resnet10_small_gn", "--batch-size", 16)
    ended = run("clip", *tiny, "--dataset", f"captions:{place}/captions.csv", "--epochs", 60)
    assert ended.status == 0, ended.err
    assert saved_in(ended.out) == "checkpoints/clip"
    model = im.load(tmp_path / "checkpoints/clip")
    assert isinstance(model.encoder_y, Tokens) and model.encoder_y.vocabulary == VOCABULARY
    saved = json.loads((tmp_path / "checkpoints/clip/run.json").read_text())
    assert any("are read as" in note for note in saved["configuration"]["data_notes"])
    probed = run("infomax", "probe", "checkpoints/clip", "--json")
    assert probed.status == 0, probed.err
    recall = json.loads(probed.out)["retrieval"]["x_to_y"]
    assert recall["recall@5"] > 0.5, recall  # chance is a quarter
    assert run("infomax", "estimate", "checkpoints/clip", "--json").status == 0
    assert run("infomax", "report", "checkpoints/clip").status == 0
    other = run("infomax", "probe", "checkpoints/clip", "--dataset", f"captions:{place}/captions.csv?size=16", "--json")
    assert other.status == 0, other.err
