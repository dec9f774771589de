"""Paired data by name: `halves:`, `pairs:X.npy,Y.npy` or `pairs:TABLE`, `captions:`, `names:`; `views:A.npy,B.npy`."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from infomax.data.captions import read_captions
from infomax.data.choice import chosen
from infomax.data.emoji_names import read_names
from infomax.data.given import GivenViews, given_views, views_of
from infomax.data.image_pairs import COLUMNS, read_image_pairs
from infomax.data.paired import Paired, halves, pairs
from infomax.data.registry import dataset
from infomax.data.source import opened_as, tell
from infomax.errors import UserError


def read_pairs(text: str, limit: int | None = None) -> Paired:
    """`X.npy,Y.npy`: two arrays of equal length, as pairs() takes them.

    `X.npy,Y.npy?tokens=y`: the whole numbers of y are tokens, as many as the largest of all rows and 1, or as
    `&vocabulary=N` says; `?numbers=y`: quantities. Either of both sides, too: `?tokens=x,y`. limit: as pairs() takes
    it. Raises UserError: files that cannot be read, and as pairs() does.
    """
    place, asked = chosen(text, ("tokens", "numbers", "vocabulary"))
    paths = place.split(",")
    if len(paths) != 2 or not all(paths):
        raise UserError(
            "pairs:X.npy,Y.npy names two files of arrays, pairs:TABLE?x=NAME&y=NAME a table of two image files a line,"
            f" and {text!r} neither."
        )
    arrays: dict[str, np.ndarray] = {}
    for side, path in zip("xy", paths, strict=True):
        arrays[side] = _array(path)
    sizes = _asked(text, asked, arrays)
    counted = [
        f"{paths['xy'.index(side)]}: tokens 0 to {size - 1}, the largest there is; ?vocabulary=N says how many."
        for side, size in sizes.items()
        if size is not None and "vocabulary" not in asked
    ]
    made = pairs(*arrays.values(), limit=limit, name=f"pairs:{text}", vocabulary=sizes)
    tell(made.name, counted)
    return replace(made, notes=(*counted, *made.notes))


def _array(path: str) -> np.ndarray:
    try:
        found = np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a NumPy array ({error}).") from None
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path} is an archive of arrays; save the one that is meant as .npy.")
    return found


def _asked(text: str, asked: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> dict[str, int | None]:
    # Which sides are tokens, and how many there are, or None of quantities.
    sides = {kind: asked[kind].split(",") if kind in asked else [] for kind in ("tokens", "numbers")}
    both = sides["tokens"] + sides["numbers"]
    if not set(both) <= {"x", "y"} or len(set(both)) < len(both):
        raise UserError(f"{text!r}: ?tokens= and ?numbers= name x, y or x,y, and each side once.")
    count = asked.get("vocabulary")
    if count is not None and (not sides["tokens"] or not count.isdecimal() or int(count) < 1):
        raise UserError(f"{text!r}: ?tokens=y&vocabulary=97 says how many tokens there are, at least 1.")

    def size(array: np.ndarray) -> int:
        if count is not None or array.dtype.kind not in "ui" or not array.size:
            return int(count or 1)  # no whole numbers: refused by pairs()
        return max(int(array.max()), 0) + 1

    return {side: size(arrays[side]) for side in sides["tokens"]} | dict.fromkeys(sides["numbers"])


def paired(
    name: str, root: str | os.PathLike[str] = "data", limit: int | None = None, *, skip_unreadable: bool = False
) -> Paired:
    """Paired data by name: `halves:NAME` of a data set of images, `pairs:X.npy,Y.npy`, `pairs:TABLE?x=LEFT&y=RIGHT`
    of two image files a line, `captions:TABLE` of image files and texts, or `names:emoji`.

    root, limit and skip_unreadable (of image files): as `dataset` takes them. Raises UserError: another name,
    and as `dataset`, pairs() and the reader of captions do.
    """
    return opened_as(_opened(name, root, limit, skip_unreadable), name, limit, skip_unreadable)


def _opened(name: str, root: str | os.PathLike[str], limit: int | None, skip_unreadable: bool) -> Paired:
    kind, colon, rest = name.partition(":")
    if colon and kind == "halves":
        return halves(dataset(rest, root, limit, skip_unreadable=skip_unreadable))
    if colon and kind == "captions":
        made = read_captions(name, rest, limit, skip_unreadable)
        tell(name, made.notes)
        return made
    if colon and kind == "pairs" and _is_table(rest):
        made = read_image_pairs(name, rest, limit, skip_unreadable)
        tell(name, made.notes)
        return made
    if skip_unreadable:
        raise UserError(
            f"--skip-unreadable goes with halves:NAME, captions:TABLE or pairs:TABLE, of image files; {name!r} is not"
            " read from such files."
        )
    if colon and kind == "pairs":
        return read_pairs(rest, limit)
    if colon and kind == "views":
        raise UserError(f"{name!r} names views of one kind, which recipes/given_views.py trains on (infomax recipe "
                        "given_views) and im.data.named_views opens; two arrays are pairs:X.npy,Y.npy.")  # fmt: skip
    if colon and kind == "names" and rest.partition("?")[0] == "emoji":
        made = read_names(name, Path(root).expanduser(), limit)
        tell(name, made.notes)
        return made
    raise UserError(f"{name!r} names no pairs: take halves:NAME, of a data set of images, pairs:X.npy,Y.npy, "
                    "pairs:TABLE?x=NAME&y=NAME, captions:TABLE, or names:emoji.")  # fmt: skip


def _is_table(rest: str) -> bool:
    # Of pairs: two arrays have a comma between; a table's name may have one too, where columns are chosen.
    place, _, choices = rest.rpartition("?")
    columns = {choice.partition("=")[0] for choice in choices.split("&")} & {*COLUMNS} if place else set[str]()
    place = place or rest
    return bool(columns) or ("," not in place and place != "" and not place.lower().endswith((".npy", ".npz")))


def named_views(
    name: str, root: str | os.PathLike[str] = "data", limit: int | None = None, *, skip_unreadable: bool = False
) -> GivenViews:
    """Given views by name: `views:A.npy,B.npy,...`, two or more arrays of one shape, as given_views() takes them; or
    what `paired` opens, of which both sides have one shape, such as `halves:NAME`.

    root, limit and skip_unreadable: as `paired` takes them. Raises UserError: sides of two shapes, files that cannot be
    read, and as `paired` and given_views() do.
    """
    kind, colon, rest = name.partition(":")
    if not (colon and kind == "views"):
        found = views_of(paired(name, root, limit, skip_unreadable=skip_unreadable))
    elif skip_unreadable:
        raise UserError(f"--skip-unreadable goes with files of images, from which {name!r} is not read.")
    else:
        paths = rest.split(",")
        if not all(paths):
            raise UserError(f"views:A.npy,B.npy names two files or more, and {name!r} has one without a name.")
        found = given_views(*map(_array, paths), limit=limit, name=name)
    return opened_as(found, name, limit, skip_unreadable)
