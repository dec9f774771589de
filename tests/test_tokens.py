"""Whole numbers as one side of pairs: tokens or quantities is said, never guessed; tokens are names and no sizes."""

import json
import re
import runpy
import unicodedata

import numpy as np
import pytest
import torch
from conftest import RECIPES
from test_model_recipes import tree
from test_training import accelerator

import infomax as im
from infomax import data, encoders
from infomax.data.characters import BYTES, byte_tokens, of_length
from infomax.evaluation.retrieval import recalls

ATTRIBUTES, VALUES = 3, 8
VOCABULARY = ATTRIBUTES * VALUES + 1  # 0 is no word


def described(n=600, seed=0):
    """Noisy measurements of three attributes, float [n, 24], and three words on them, int64 [n, 5], in one order."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, VALUES, (n, ATTRIBUTES))
    measured = np.eye(VALUES)[values].reshape(n, -1) + 0.1 * generator.normal(size=(n, ATTRIBUTES * VALUES))
    words = 1 + np.arange(ATTRIBUTES) * VALUES + values
    return measured, np.concatenate([words, np.zeros((n, 2), np.int64)], 1)


def permuted(tokens, seed=1):
    """The same texts, each word by another number; 0 stays what follows a text."""
    names = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(VOCABULARY - 1)])
    return names[tokens]


def trained_recall(x, tokens):
    """recall@1 of y by x among 120 held-out pairs, of the recipe's towers after 80 steps."""
    pairs = data.pairs(x, tokens, vocabulary={"y": VOCABULARY})
    tower = runpy.run_path(str(RECIPES / "clip.py"), run_name="clip")["tower"]
    torch.manual_seed(0)
    (encoder_x, projector_x), (encoder_y, projector_y) = (
        tower("resnet10_tiny", side) for side in (pairs.train.x, pairs.train.y)
    )
    assert isinstance(encoder_y, encoders.Tokens) and encoder_y.vocabulary == VOCABULARY
    model = im.TwoTower(
        encoder_x, encoder_y, projector_x, projector_y, im.Cosine(0.07, learn=True), im.InfoNCE(symmetric=True)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = data.PairedLoader(pairs.train, 128)
    for _ in im.train(model, loader, optimizer, lambda step: 1.0, accelerator(), steps=80):
        pass
    with torch.no_grad():
        zx, zy = model.eval().features(*pairs.test.batch(torch.arange(len(pairs.test))))
        return recalls(model.critic, zx, zy)[0].values[1]


@pytest.mark.slow
def test_other_numbers_of_the_same_tokens_are_learnt_as_well():
    x, tokens = described()
    one, other = trained_recall(x, tokens), trained_recall(x, permuted(tokens))
    assert min(one, other) > 0.6 and abs(one - other) < 0.2, (one, other)  # chance is 1 in 120


def test_tokens_are_names_and_their_numbers_no_sizes():
    encoder = encoders.Tokens(VOCABULARY, 8, 16)
    _, tokens = described(20)
    texts, others = torch.from_numpy(tokens), torch.from_numpy(permuted(tokens))
    expected = encoder(texts)
    with torch.no_grad():
        table = encoder.table.weight.clone()
        encoder.table.weight[torch.from_numpy(permuted(np.arange(VOCABULARY)))] = table
    assert not torch.equal(texts, others) and torch.equal(encoder(others), expected)


def test_whole_numbers_are_neither_tokens_nor_quantities_unless_it_is_said(caplog):
    x, tokens = described(60)
    for kind in (np.int64, np.int16, np.uint32):
        with pytest.raises(im.UserError, match=r"y holds whole numbers \[60, 5\] from 0 to 24, .*tokens.*quantities"):
            data.pairs(x, tokens.astype(kind))
    with pytest.raises(im.UserError, match=r"x holds whole numbers \[60, 1\]"):  # labels, say
        data.pairs(tokens[:, 0], x)
    said = data.pairs(x, tokens.astype(np.int16), vocabulary={"y": VOCABULARY}).train
    assert said.y.vocabulary == VOCABULARY and said.batch(torch.arange(3))[1].dtype == torch.int64
    quantities = data.pairs(x, tokens, vocabulary={"y": None}).train
    assert quantities.y.vocabulary is None
    rows = quantities.batch(torch.arange(len(quantities)))[1]
    assert rows.dtype == torch.float32 and float(rows[:, :3].mean().abs()) < 1e-5
    large = np.array([[0], [2**64 - 1]] * 30, np.uint64)
    both = data.pairs(x, large, vocabulary={"y": None}).train.batch(torch.arange(48))[1].unique()
    assert len(both) == 2 and float(both[0]) < 0 < float(both[1])
    # Nothing is asked of images, of bytes or of truth values; of bytes [n, length] a line says what they are taken for.
    assert data.pairs(tokens.reshape(60, 1, 5, 1), x).train.x.vocabulary is None
    assert data.pairs(x > 0.5, x).train.batch(torch.arange(3))[0].is_floating_point()
    assert not caplog.records
    noted = data.pairs(x, tokens.astype(np.uint8))
    assert noted.notes == ("y holds bytes [60, 5], read as quantities in [0, 1] and not as tokens.",)
    assert [record.getMessage() for record in caplog.records] == [f"pairs: {noted.notes[0]}"]
    assert data.pairs(x, tokens.astype(np.uint8), vocabulary={"y": 25}).train.batch(torch.arange(3))[1].max() > 1


def test_tokens_that_the_vocabulary_lacks_are_refused_in_either_part():
    x, tokens = described(60)
    parts = data.pairs(x, tokens, vocabulary={"y": VOCABULARY})
    for split in (parts.train, parts.test):
        for wrong in (VOCABULARY, -1):
            changed = tokens.copy()
            changed[split.indices[1], 2] = wrong
            with pytest.raises(im.UserError, match=rf"in 1 of 60 rows, the first of them {wrong} in row"):
                data.pairs(x, changed, vocabulary={"y": VOCABULARY})
    held = tokens.copy()
    held[parts.test.indices[:2], 0] = VOCABULARY
    noted = data.pairs(x, held, vocabulary={"y": VOCABULARY + 1}).notes
    assert noted == ("1 tokens of y, in 2 held-out rows, are in no training row: nothing is learnt of them.",)


@pytest.mark.parametrize(
    ("vocabulary", "says"),
    [
        (97, "says of which side rows are tokens"), ({"z": 97}, "says of which side"),
        ({"y": 0}, "a number of tokens from 1 to"), ({"y": "97"}, "a number of tokens"),
        ({"x": 97}, r"Tokens are whole numbers \[n, length\], and x is torch.float64"),
    ],
)  # fmt: skip
def test_what_is_no_vocabulary_is_a_sentence(vocabulary, says):
    with pytest.raises(im.UserError, match=says):
        data.pairs(*described(60), vocabulary=vocabulary)


def test_images_are_no_tokens():
    split = data.from_tensors(torch.zeros(9, 1, 4, 4).byte(), None, torch.ones(9, 1, 4, 4).byte(), None).train
    with pytest.raises(im.UserError, match="x is images, which are no tokens"):
        data.pairs(split, np.zeros((9, 2)), vocabulary={"x": 4})


def test_other_pairs_are_read_as_tokens_where_those_of_training_were():
    x, tokens = described(60)
    quantities = data.pairs(x, tokens, vocabulary={"y": None})
    with pytest.raises(im.UserError, match="trained on y of quantities, and these pairs have tokens"):
        data.pairs_from(data.describe_pairs(quantities), data.pairs(x, tokens, vocabulary={"y": VOCABULARY}))


@pytest.fixture
def files(tmp_path):
    x, tokens = described(400)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", tokens)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pairs:x.npy,y.npy", r"y holds whole numbers \[400, 5\] from 0 to 24.*\?tokens=y or \?numbers=y"),
        ("pairs:x.npy,y.npy?tokens=y&vocabulary=20", "vocabulary of 20, 0 to 19, lacks"),
        ("pairs:x.npy,y.npy?tokens=x", "Tokens are whole numbers"),
        ("pairs:x.npy,y.npy?tokens=z", "name x, y or x,y"),
        ("pairs:x.npy,y.npy?tokens=y&numbers=y", "each side once"),
        ("pairs:x.npy,y.npy?vocabulary=20", "says how many tokens"),
        ("pairs:x.npy,y.npy?tokens=y&vocabulary=many", "says how many tokens"),
        ("pairs:x.npy,y.npy?token=y", "chooses 'token'. Did you mean 'tokens'"),
    ],
)
def test_the_recipe_asks_in_a_sentence_and_makes_no_folder(run, files, name, says):
    ended = run("clip", "--dataset", name, "--batch-size", 16, "--steps", 2)
    assert ended.status == 2 and len(ended.err.strip().splitlines()) == 1, ended.err
    assert re.search(says, ended.err), ended.err
    assert tree(files) == ["x.npy", "y.npy"]


@pytest.mark.slow
def test_a_run_of_tokens_is_read_by_the_command_line_as_it_was_trained(run, files, caplog):
    name = "pairs:x.npy,y.npy?tokens=y"
    ended = run("clip", "--dataset", name, "--batch-size", 32, "--steps", 20)
    assert ended.status == 0, ended.err
    assert any("y.npy: tokens 0 to 24, the largest there is" in record.getMessage() for record in caplog.records)
    model = im.load(files / "checkpoints/clip")
    assert repr(model.encoder_y) == f"Tokens(vocabulary={VOCABULARY}, width=64, out=128)"
    saved = json.loads((files / "checkpoints/clip/run.json").read_text())
    assert saved["configuration"]["dataset"] == name and "tokens 0 to 24" in saved["configuration"]["data_notes"][0]
    for command in ("estimate", "probe"):
        done = run("infomax", command, "checkpoints/clip", "--json")
        assert done.status == 0, (command, done.err)
    assert run("infomax", "report", "checkpoints/clip").status == 0
    more = np.load(files / "y.npy")
    more[0, 0] = VOCABULARY
    np.save(files / "y.npy", more)
    other = run("infomax", "probe", "checkpoints/clip", "--dataset", name)
    assert other.status == 2 and f"Tokens lie in 0 .. {VOCABULARY - 1}" in other.err and "Traceback" not in other.err


def test_tokens_in_disguise_are_asked_for_or_told():
    x, tokens = described(60)
    for rows in (tokens[:, None], tokens[:, :, None]):
        with pytest.raises(im.UserError, match="may be tokens, that name words, or quantities"):
            data.pairs(x, rows)
    [line] = data.pairs(x, tokens.astype(float)).notes
    assert line == "y holds whole numbers in floats [60, 5], read as quantities and not as tokens."
    assert data.pairs(x, tokens.astype(float), vocabulary={"y": None}).notes == ()


def test_a_vocabulary_is_a_whole_number_of_any_kind_and_no_absurd_one():
    x, tokens = described(60)
    assert data.pairs(x, tokens, vocabulary={"y": tokens.max() + 1}).train.y.vocabulary == tokens.max() + 1
    for size in (2**40, 0, True, 3.0):
        with pytest.raises(im.UserError, match=r"The vocabulary of y is a number of tokens from 1 to 16,777,216, or N"):
            data.pairs(x, tokens, vocabulary={"y": size})


def test_held_out_rows_that_are_training_rows_are_counted():
    x, tokens = described(60)
    [line] = data.pairs(np.repeat(x, 5, 0), np.repeat(tokens, 5, 0), vocabulary={"y": VOCABULARY}).notes
    assert re.match(r"\d+ of 60 held-out rows of x are training rows as well", line) and int(line.split()[0]) > 50


TEXTS = ("Ünïcode", "красная роза", "顔文字を見る", "ゆきだるま", "ورد أحمر", "🌹 rose 👩‍🚀", "한국어", "a", "\0", "")


def decoded(row):
    """The text whose bytes these tokens are."""
    numbers = row.tolist()
    end = numbers.index(0) if 0 in numbers else len(numbers)
    assert not any(numbers[end:])
    return bytes(number - 1 for number in numbers[:end]).decode("utf-8")


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_are_tokens_and_no_character_is_cut(text):
    whole = byte_tokens(text, 64)
    assert whole.dtype == torch.int64 and len(whole) == 64 and int(whole.max()) < BYTES == 257
    spelt = decoded(whole)
    assert spelt == unicodedata.normalize("NFC", text.casefold())
    for length in range(1, len(spelt.encode()) + 2):
        cut = decoded(byte_tokens(text, length))  # strict: half a character is an error
        assert spelt.startswith(cut) and len(cut.encode()) <= length
        assert cut == spelt or len(spelt[: len(cut) + 1].encode()) > length  # one more would not have fitted


def test_a_text_of_several_spellings_has_one_row_of_bytes():
    for one, *others in (("é", "e\u0301", "É", "E\u0301"), ("straße", "STRASSE"), ("όδυσσεύς", "ΌΔΥΣΣΕΎΣ"),
                         ("각", "\u1100\u1161\u11a8")):  # fmt: skip
        for other in others:
            assert torch.equal(byte_tokens(one, 40), byte_tokens(other, 40)), (one, other)
    assert not torch.equal(byte_tokens("e", 40), byte_tokens("é", 40))


def test_rows_of_bytes_are_cut_as_texts_are():
    rows = torch.stack([byte_tokens(text, 30) for text in TEXTS])
    for length in (1, 2, 3, 7, 20, 30, 35):
        want = torch.stack([byte_tokens(text, length) for text in TEXTS])
        assert torch.equal(of_length(rows, length, "bytes"), want)
    assert torch.equal(of_length(rows, 7), rows[:, :7])  # of other tokens nothing is known
