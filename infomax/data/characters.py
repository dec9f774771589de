"""Texts as tokens, by two vocabularies that ship: characters, for Latin letters without accents, and bytes of UTF-8."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from infomax.data.modality import Modality
from infomax.errors import UserError, nearest

CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789-'"  # character k is token k + 1; 0 is what follows a text
VOCABULARY = len(CHARACTERS) + 2  # with 0 and one token for all others
BYTES = 257  # byte k of UTF-8 is token k + 1
SIZES = {"characters": VOCABULARY, "bytes": BYTES}  # the vocabularies by the names that ?tokens= takes
LONGEST = {"characters": 256, "bytes": 768}  # tokens of a text at most, unless ?length= says so
_FOREIGN = 0.5  # of the characters: where so many have one token, a text says nothing


class Texts(NamedTuple):
    """Texts as tokens: rows int64 [n, length], which vocabulary of SIZES they are of, and lines on what was read."""

    rows: Tensor
    vocabulary: str
    notes: tuple[str, ...]

    @property
    def modality(self) -> Modality:
        """As one side of pairs."""
        return Modality(self.rows, vocabulary=SIZES[self.vocabulary], tokens=self.vocabulary)


def tokens(text: str, length: int) -> Tensor:
    """A text's characters as numbers, int64 [length]: those of CHARACTERS from 1, in either case, others the last of
    the vocabulary, 0 after its end. What is longer is cut."""
    numbers = [CHARACTERS.find(character) + 1 or VOCABULARY - 1 for character in text.lower()[:length]]
    return torch.tensor(numbers + [0] * (length - len(numbers)), dtype=torch.int64)


def byte_tokens(text: str, length: int) -> Tensor:
    """A text's bytes as numbers, int64 [length]: byte k of its UTF-8 is k + 1, 0 after its end.

    Spellings that Unicode has for one text are one: without case (its case folding), composed where that can be (NFC).
    What is longer is cut after a whole character, so that fewer than `length` bytes may be left.
    """
    numbers = [byte + 1 for byte in _encoded(text)]
    return of_length(torch.tensor([numbers], dtype=torch.int64), length, "bytes")[0]


def of_length(rows: Tensor, length: int, vocabulary: str | None = None) -> Tensor:
    """Tokens [n, any] -> [n, length], with 0 after their end. What is longer is cut; of the vocabulary "bytes" after a
    whole character."""
    kept = torch.nn.functional.pad(rows, (0, length - rows.shape[1])).clone()
    if vocabulary != "bytes" or rows.shape[1] <= length:
        return kept
    inside = _goes_on(rows[:, length])  # rows whose cut is inside a character
    for place in range(length - 1, max(length - 4, -1), -1):
        before = _goes_on(kept[:, place])
        kept[inside, place] = 0
        inside = inside & before
    return kept


def _goes_on(numbers: Tensor) -> Tensor:
    # Bytes 0x80 to 0xBF, which begin no character.
    return (numbers > 0x80) & (numbers <= 0xC0)


def vocabulary_of(where: str, texts: Sequence[str], asked: str | None) -> tuple[str, list[str]]:
    """The vocabulary that texts are read by, and a line where that was not asked for and is not the usual one.

    where: what the texts are, in messages. texts: all there are, so that a part of them is read as the whole. asked:
    a name of SIZES; None takes characters, or bytes where more than half of all characters are none of CHARACTERS.
    Raises UserError for another name, and where characters are asked for and more than half would be one token.
    """
    if asked is not None and asked not in SIZES:
        raise UserError(f"?tokens={asked} names no tokens by which {where} could be read.{nearest(asked, SIZES)}")
    counts = Counter("".join(texts).lower())
    share = sum(_others(counts).values()) / max(counts.total(), 1)
    many = f"{share:.0%} of the characters of {where} are none of {CHARACTERS.strip()!r}"
    if asked == "characters" and share > _FOREIGN:
        raise UserError(
            f"{many}, and would be one token: read them by ?tokens=bytes, or make tokens of them by a tokenizer of your"
            " own, for pairs:X.npy,Y.npy?tokens=y."
        )
    if asked is None and share > _FOREIGN:
        return "bytes", [f"{many}, so they are read as bytes of UTF-8 (?tokens=bytes)."]
    return asked or "characters", []


def read_texts(what: str, train: Sequence[str], test: Sequence[str], vocabulary: str, length: int | None) -> Texts:
    """Training texts, then test texts, as tokens, and lines on what is read of them.

    what: they are, such as "captions". vocabulary: a name of SIZES. length: tokens of a text; None takes all of the
    longest training text, LONGEST at most.
    """
    size = len if vocabulary == "characters" else lambda text: len(_encoded(text))
    length = min(max(map(size, train)), LONGEST[vocabulary]) if length is None else length
    both, as_tokens = [*train, *test], tokens if vocabulary == "characters" else byte_tokens
    rows = torch.stack([as_tokens(text, length) for text in both])
    notes = [_on_sizes(what, sorted(map(size, both)), vocabulary, length)]
    spelt = str.lower if vocabulary == "characters" else _spelt
    learnt, met = (Counter(spelt("".join(texts))) for texts in (train, test))
    if vocabulary == "characters" and (others := _others(learnt + met)):
        notes.append(f"Characters without a token of their own share one: {_shown(others)}.")
    if unseen := {character: n for character, n in met.items() if character not in learnt}:
        notes.append(f"Characters of held-out {what} that training {what} lack: {_shown(unseen)}.")
    if copies := len(both) - len({row.tobytes() for row in rows.numpy()}):
        notes.append(
            f"{copies} of {len(both)} {what} read as another does: retrieval cannot tell them apart, and in training "
            "they are negatives of each other."
        )
    return Texts(rows, vocabulary, tuple(notes))


def _on_sizes(what: str, sizes: Sequence[int], vocabulary: str, length: int) -> str:
    cut = sum(size > length for size in sizes)
    units, after = ("characters", "") if vocabulary == "characters" else ("bytes of UTF-8", " after a whole character")
    longer = f", {cut} longer ones cut{after} (?length=N takes another number)" if cut else ""
    return (
        f"{what.capitalize()} of {sizes[0]} to {sizes[-1]} {units} are read as {length} tokens, shorter ones with 0"
        f" after their end{longer}."
    )


def _spelt(text: str) -> str:
    # Folded as it is decomposed, since what folding makes of composed characters need not be composed.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def _encoded(text: str) -> bytes:
    return _spelt(text).encode("utf-8", "surrogatepass")


def _others(counts: Mapping[str, int]) -> dict[str, int]:
    return {character: n for character, n in counts.items() if character not in CHARACTERS}


def _shown(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{character!r} {count}" for character, count in Counter(counts).most_common(8))
    return f"{sum(counts.values())} ({shown}{', ...' if len(counts) > 8 else ''})"
