"""Which channels the images of a data set have: grey, colour or others, and whether a fourth is alpha."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from infomax.data.packed import File
from infomax.data.pixels import Header, fourth, own_depth
from infomax.data.readable import in_threads
from infomax.errors import UserError

ALPHA = ("white", "channel")  # composed onto white, or read as a channel
_LOOKED = 64  # images whose alpha, or whose largest values, are looked at; of more, an even sample
_APART = 64  # times that the largest of floats or of whole numbers is the other's at most, for one scale to suit both
_ENDS, _OPAQUE = 0.5, 0.05  # of alpha's values so many are none or full at least, and so many full


def channels_of(
    files: Sequence[File], headers: Sequence[Header], alpha: str | None, notes: list[str]
) -> tuple[int, bool]:
    """The number of channels that all images are read with, and whether they are a colour: red, green and blue.

    The number is the most common one; grey images among others are repeated to it. alpha: what becomes of that of
    colour pictures, one of ALPHA, for all of them alike; by default it is composed onto white, but where at least half
    of the images that are not grey are TIFFs that may have marked a fourth channel as alpha, and its values are not
    those of alpha, it is a channel. notes: get a line on each choice. Raises UserError: numbers that do not go
    together.
    """
    marked = [header.alpha != "" for header in headers]
    four = [header.alpha != "" and header.channels == 3 for header in headers]
    if _kept(files, headers, alpha, notes):
        headers = [header._replace(channels=4) if has else header for header, has in zip(headers, four, strict=True)]
        marked = [has and not with_colour for has, with_colour in zip(marked, four, strict=True)]
    if any(marked):
        note = f"{sum(marked)} of {len(files)} images have alpha, and are composed onto white"
        other = any(four) and any(header.channels == 3 for header in headers)
        notes.append(f"{note}{'; ?alpha=channel after the name reads it as a channel' if other else ''}.")
    channels = _most_common(files, headers, notes)
    others = sum(header.channels == 3 and not header.colour for header in headers)
    if channels == 3 and others:
        notes.append(
            f"The 3 channels of {others} of {len(files)} images are not red, green and blue: views leave hue and "
            "saturation as they are."
        )
    return channels, channels == 3 and not others


def require_one_kind(files: Sequence[File], headers: Sequence[Header]) -> None:
    """Raises UserError for floating point beside whole numbers of more than 8 bits whose ranges are far apart, such as
    0 to 1 beside 0 to 65535, which no one scale suits. Looks at the largest value in an even sample of each kind;
    counts that were converted to floating point go together with others."""
    deep = [(file, header) for file, header in zip(files, headers, strict=True) if header.depth]
    floats = [(file, header) for file, header in deep if header.depth.startswith("float")]
    whole = [(file, header) for file, header in deep if not header.depth.startswith("float")]
    if not floats or not whole:
        return
    most_float, most_whole = _largest(floats), _largest(whole)
    unit = most_float <= 1 < most_whole
    if unit or min(most_float, most_whole) * _APART < max(most_float, most_whole):
        (few, most_few), (many, most_many) = sorted(
            ((floats, most_float), (whole, most_whole)), key=lambda k: len(k[0])
        )
        shown = [", ".join(sorted({header.depth for _, header in part})) for part in (few, many)]
        raise UserError(
            f"{len(few)} of {len(files)} images are {shown[0]} where {len(many)} are {shown[1]}, for instance "
            f"{few[0][0]}. Their values reach {most_few:.6g} and {most_many:.6g}, which need scales of their own: save "
            "all as one of them in one range, or move one kind elsewhere."
        )


def _largest(kind: Sequence[tuple[File, Header]]) -> float:
    # The largest magnitude in an even sample of files, alpha left out.
    def of(one: tuple[File, Header]) -> float:
        values = own_depth(one[0], 4)
        if values is None:
            return 255.0
        values = values[..., : one[1].channels]
        return max(abs(float(values.min())), abs(float(values.max())))

    return max(in_threads(of, kind[:: max(1, -(-len(kind) // _LOOKED))]))


def require_alpha(name: str, alpha: str | None) -> None:
    """Raises UserError for an alpha that is asked for and none of ALPHA. name: the data set's, as it was spelt."""
    if alpha not in (None, *ALPHA):
        raise UserError(f"{name!r}: alpha is {' or '.join(ALPHA)}, as in ?alpha={ALPHA[1]}, not {alpha!r}.")


def _kept(files: Sequence[File], headers: Sequence[Header], alpha: str | None, notes: list[str]) -> bool:
    # Whether the alpha of colour pictures is a channel.
    four = sum(header.alpha != "" and header.channels == 3 for header in headers)
    if alpha is not None:
        if alpha == "channel" and four:
            notes.append(f"{four} of {len(files)} images have alpha, which is read as a fourth channel, as asked.")
        return alpha == "channel"
    perhaps = [f for f, head in zip(files, headers, strict=True) if head.alpha == "maybe" and head.channels == 3]
    if not perhaps or 2 * len(perhaps) < sum(header.channels != 1 for header in headers) or _like_alpha(perhaps):
        return False
    notes.append(
        f"{len(perhaps)} of {len(files)} images mark their fourth channel as alpha, as tifffile does by default, but "
        "few of its values are none or full, as those of alpha are: it is read as a channel; ?alpha=white after the "
        "name composes the images onto white."
    )
    return True


def _like_alpha(files: Sequence[File]) -> bool:
    # Alpha is opaque somewhere, and mostly opaque or transparent. Of a channel that was measured few values, or zeros
    # alone, lie at the ends.
    def counted(file: File) -> np.ndarray:
        values = fourth(file)
        most = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
        return np.array([(values == most).sum(), (values == 0).sum(), values.size])

    looked = files[:: max(1, -(-len(files) // _LOOKED))]
    full, none, total = np.sum(in_threads(counted, looked), axis=0).tolist()
    return full >= _OPAQUE * total and full + none >= _ENDS * total


def _most_common(files: Sequence[File], headers: Sequence[Header], notes: list[str]) -> int:
    # The most common number; grey images among others are repeated to it, two other numbers do not go together.
    counts = defaultdict(list)
    for file, head in zip(files, headers, strict=True):
        counts[head.channels].append(file)
    grey = counts.pop(1, [])
    if not counts:
        return 1
    most = max(counts, key=lambda channels: (len(counts[channels]), channels))
    others = {channels: held for channels, held in counts.items() if channels != most}
    if others:
        channels, odd = next(iter(others.items()))
        raise UserError(
            f"{len(odd)} of {len(files)} images have {channels} channels where {len(counts[most])} have {most}, for "
            f"instance {odd[0]}: images of one data set need the same channels: move the others elsewhere, or "
            f"save all with {most}."
        )
    if grey:
        notes.append(f"Of {len(files)} images {len(grey)} are grey, and are read with {most} equal channels.")
    return most
