"""Which column of a source holds the images and which the labels: `PREFIX:PLACE?image=NAME&label=NAME`."""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from infomax.errors import UserError, nearest

LABELS = ("label", "labels", "class", "cls", "target", "category")  # names of a column of labels; the first there is


def chosen(text: str, options: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The place, and what is chosen after its question mark: "x?image=a&label=b" -> "x", {"image": "a", "label": "b"}.

    options: the names that can be chosen. A question mark followed by anything else belongs to the place. Raises
    UserError for another option, or one that is chosen twice.
    """
    place, mark, rest = text.rpartition("?")
    pairs = [pair.partition("=") for pair in rest.split("&")]
    if not mark or not all(equals and name.isidentifier() for name, equals, _ in pairs):
        return text, {}
    names = [name for name, _, _ in pairs]
    for name in names:
        if name not in options:
            raise UserError(f"{text!r} chooses {name!r}.{nearest(name, options)}")
        if names.count(name) > 1:
            raise UserError(f"{text!r} chooses {name} twice: keep one.")
    return place, {name: unquote(value) for name, _, value in pairs}


def whole_number(source: str, asked: Mapping[str, str], option: str, low: int, high: int) -> int | None:
    """What is chosen of a whole number from low to high, or None. source: as the user spelt it. asked: as chosen() has
    it. Raises UserError for what is no such number."""
    text = asked.get(option)
    if text is not None and not (text.isdecimal() and low <= int(text) <= high):
        raise UserError(f"{source!r}: {option} is a whole number from {low} to {high}, as in ?{option}=64.")
    return None if text is None else int(text)


def image_column(source: str, where: str, images: Sequence[str], columns: Sequence[str], asked: str | None) -> str:
    """The column of images. source: as the user spelt it, without its choices. where: in messages. images: the columns
    that hold images. columns: all. asked: the one chosen. Raises UserError where that is not there, and for none or
    several without a choice."""
    if asked is not None:
        return _there(where, columns, asked, "image")
    if not images:
        raise UserError(
            f"{where} has no column of images; its columns are {', '.join(columns) or 'none'}: name the one that holds "
            f"images or their paths, {source}?image=NAME."
        )
    if len(images) > 1:
        raise UserError(
            f"{where} has several columns of images, {', '.join(images)}: say which with {source}?image={images[0]}."
        )
    return images[0]


def label_column(
    source: str, where: str, classes: Sequence[str], columns: Mapping[str, bool], asked: str | None
) -> str | None:
    """The column of labels, or None. classes: the columns that say of themselves that they are labels. columns: all
    others by name, and whether they can be labels. asked: the one chosen, "" for none. Raises UserError as
    image_column() does, and for a choice that cannot be labels."""
    if asked is not None:
        if asked and not columns.get(_there(where, columns, asked, "label"), True):
            raise UserError(f"The column {asked} of {where} has no words or whole numbers: it cannot be labels.")
        return asked or None
    named = [name for name in LABELS for column in columns if column.lower() == name and columns[column]]
    usual = [column for name in named for column in columns if column.lower() == name]
    if len(classes) > 1 and not set(usual[:1]) & set(classes):
        raise UserError(
            f"{where} has several columns of labels, {', '.join(classes)}: say which with {source}?label={classes[0]}, "
            f"or none with {source}?label=."
        )
    if len(classes) == 1:
        return classes[0]
    return usual[0] if usual else None


def said(image: str, label: str | None, count: int, what: str = "column") -> str:
    """The sentence on what was chosen. count: of classes. what: the source calls a column."""
    labels = "there are no labels" if label is None else f"the labels {what} {label} ({count} classes)"
    return f"The images are {what} {image}, {labels}."


def _there(where: str, columns: Sequence[str] | Mapping[str, bool], asked: str, what: str) -> str:
    if asked not in columns:
        raise UserError(f"{where} has no column {asked!r} to be its {what}.{nearest(asked, columns)}")
    return asked
