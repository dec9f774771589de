"""One side of paired data: rows of numbers, images or tokens, checked and standardised by the training rows."""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from infomax.data.keyed import permutation
from infomax.data.source import Split
from infomax.errors import UserError

FEWEST_NUMBERS = 16  # in a row, from which on two that are equal are one sample twice


@final
class Modality:
    """One side of the pairs: rows by index, as an encoder takes them.

    rows: numbers [n, ...], or a Split of images. mean, std: what floating-point rows are standardised by, one number a
    column of [n, d] and one a channel of [n, c, ...], in float64, as numbers far from 0 (times, large counts) differ in
    digits that float32 does not have; None leaves them as they are, as tokens are. vocabulary: where rows are tokens,
    whole numbers that name words or characters, how many there are, from 0; None where they are quantities. tokens:
    which vocabulary that ships the tokens are of, "characters" or "bytes" of UTF-8; None where it is another.
    """

    def __init__(self, rows: "Tensor | Split", mean: Tensor | None = None, std: Tensor | None = None,
                 vocabulary: int | None = None, tokens: str | None = None):  # fmt: skip
        self.rows, self.mean, self.std, self.vocabulary, self.tokens = rows, mean, std, vocabulary, tokens

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """indices int64 [b] -> float32 [b, ...], standardised; whole numbers other than uint8 stay as they are."""
        found = self.given(indices)
        if not found.is_floating_point():
            return found
        if self.mean is None or self.std is None:
            return found.float()
        shape = (1, -1, *[1] * (found.ndim - 2))
        return ((found.double() - self.mean.view(shape)) / self.std.view(shape)).float()

    def given(self, indices: Tensor) -> Tensor:
        """indices int64 [b] -> the rows before they are standardised; bytes as numbers in [0, 1]."""
        found = self.rows.batch(indices) if isinstance(self.rows, Split) else self.rows[indices]
        return found.float() / 255 if found.dtype == torch.uint8 else found

    def checksum(self) -> str:
        """A checksum of all rows."""
        if isinstance(self.rows, Split):
            return self.rows.checksum()
        return hashlib.sha256(self.rows.contiguous().numpy().tobytes()).hexdigest()

    @property
    def numbers(self) -> int:
        """In one row."""
        return math.prod(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.rows.shape) if isinstance(self.rows, Split) else tuple(self.rows.shape[1:])


def rows_of(
    name: str, given: Any, vocabulary: Mapping[str, int | None], advice: str = "make quantities floating point"
) -> "Tensor | Split":
    """A user's rows: floating point, bytes (of pixels), tokens int64 [n, length], or a Split of images.

    name: of the side, in messages. vocabulary: by name, how many tokens there are of a side that is tokens, None of one
    that is quantities. advice: what to do about whole numbers [n, length] of a side that it does not name, as they may
    be either. Raises UserError: those, what is no rows of numbers, NaN or infinity, tokens that the vocabulary lacks.
    """
    known = vocabulary.get(name)
    if isinstance(given, Split):
        if known is not None:
            raise UserError(f"{name} is images, which are no tokens: leave it out of the vocabulary.")
        return given
    if isinstance(given, Tensor):
        rows = given.detach().cpu()
    else:
        try:
            array = np.asarray(given)
        except ValueError:
            raise UserError(f"{name} must be rows of one length each, and they differ.") from None
        if array.dtype.kind not in "uifb":
            raise UserError(f"{name} must hold numbers, and has {array.dtype}.")
        native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
        rows = torch.from_numpy(native).reshape(array.shape)  # contiguous, one number alone has become a row
    if rows.ndim < 1 or not len(rows):
        raise UserError(f"{name} must be rows of numbers [n, ...], and has shape {list(rows.shape)}.")
    rows = rows[:, None] if rows.ndim == 1 else rows
    if known is not None:
        return _tokens(name, rows, known)
    if rows.is_floating_point():
        bad = (~rows.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise UserError(f"{name} has NaN or infinity in {len(bad)} rows, the first of them row {bad[0]}.")
        return rows
    if rows.dtype == torch.uint8:
        return rows
    long = sum(side > 1 for side in rows.shape[1:])  # axes of a row; [n, 1, length] is a row of tokens as well
    maybe_words = rows.dtype != torch.bool and rows.ndim <= 3 and long <= 1 and name not in vocabulary
    rows = rows.double()  # not long(), which uint64 does not fit
    if maybe_words:
        reach = f" from {int(rows.min())} to {int(rows.max())}" if rows.numel() else ""
        raise UserError(
            f"{name} holds whole numbers {list(rows.shape)}{reach}, which may be tokens, that name words, or"
            f" quantities: {advice}."
        )
    return rows


def _tokens(name: str, rows: Tensor, vocabulary: int) -> Tensor:
    if rows.is_floating_point() or rows.dtype == torch.bool or rows.ndim != 2 or not rows.numel():
        raise UserError(f"Tokens are whole numbers [n, length], and {name} is {rows.dtype} {list(rows.shape)}.")
    rows = rows.long()
    bad = ((rows < 0) | (rows >= vocabulary)).any(1).nonzero().flatten().tolist()
    if bad:
        row = rows[bad[0]]
        odd = int(row[(row < 0) | (row >= vocabulary)][0])
        raise UserError(
            f"{name} has tokens that its vocabulary of {vocabulary}, 0 to {vocabulary - 1}, lacks, in {len(bad)} of"
            f" {len(rows)} rows, the first of them {odd} in row {bad[0]}: give how many there are."
        )
    return rows


def drawn(n: int, test: float | int, limit: int | None, seed: int, what: str = "pairs") -> tuple[Tensor, Tensor]:
    """The rows, int64, of the training and of the test part of n, in order. test: the part, or how many, of the test
    part. limit: training rows that are kept. what: the samples' name. Raises UserError: too few on either side."""
    if isinstance(test, bool) or not isinstance(test, float | int):
        raise UserError(f"test is a part of the {what}, such as 0.2, or how many of them, and not {test!r}.")
    require_limit(limit, what)
    held = round(test * n) if isinstance(test, float) else test
    if not 1 <= held <= n - 2:
        raise UserError(f"Of {n} {what} {held} cannot be held out for testing: 1 or more, with 2 left to train on.")
    order = permutation(n, seed, 0x7E57)
    train = order[held:] if limit is None else order[held:][:limit]
    return train.sort().values, order[:held].sort().values


def require_limit(limit: int | None, what: str = "pairs") -> None:
    """Raises UserError for a limit that leaves fewer than two training samples."""
    if limit is not None and limit < 2:
        raise UserError(f"limit keeps at least 2 training {what}, and not {limit!r}.")


def standardised(rows: "Tensor | Split", train: Tensor, vocabulary: int | None = None) -> Modality:
    """By the mean and deviation of all training rows, `train` int64; tokens stay as they are."""
    plain = Modality(rows, vocabulary=vocabulary)
    if not plain.given(train[:1]).is_floating_point():
        return plain
    parts = train.split(4096)

    def total(of: Callable[[Tensor], Tensor], how: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        found = (of(plain.given(part).double().movedim(1, -1).flatten(0, -2)) for part in parts)
        return functools.reduce(how, found)

    # Divided by the largest first, of which no square leaves a float's range.
    largest = total(lambda t: t.abs().amax(0), torch.maximum)
    scale = largest.where(largest > 0, 1.0)
    count = len(train) * math.prod(plain.given(train[:1]).shape[2:])
    mean = total(lambda t: (t / scale).sum(0), torch.add) / count
    std = (total(lambda t: (t / scale - mean).square().sum(0), torch.add) / count).sqrt()
    return Modality(rows, mean * scale, (std * scale).where(std > 1e-14, 1.0))  # below, rounding of one number


def notes_on(name: str, side: Modality, vocabulary: Mapping[str, int | None], train: Tensor, held: Tensor) -> list[str]:
    """Lines on a side of pairs: bytes [n, length], and whole numbers in floats, of which nothing was said; tokens that
    no training row has; held-out rows that are training rows too.

    name, vocabulary: as rows_of() takes them. train, held: the rows, int64, of the two parts.
    """
    rows = side.rows
    if isinstance(rows, Split):
        return []
    if side.vocabulary is None:
        return [*_read_as_quantities(name, rows, vocabulary), *_copied(name, rows, train, held)]
    missing = ~torch.isin(rows[held], rows[train])
    if not missing.any():
        return []
    kinds, where = len(rows[held][missing].unique()), int(missing.any(1).sum())
    return [f"{kinds} tokens of {name}, in {where} held-out rows, are in no training row: nothing is learnt of them."]


def _read_as_quantities(name: str, rows: Tensor, vocabulary: Mapping[str, int | None]) -> list[str]:
    if rows.ndim != 2 or name in vocabulary or rows.shape[1] < 2:
        return []
    if rows.dtype == torch.uint8:
        return [f"{name} holds bytes {list(rows.shape)}, read as quantities in [0, 1] and not as tokens."]
    if bool((rows >= 0).all()) and float(rows.max()) > 1 and bool((rows == rows.round()).all()):
        return [f"{name} holds whole numbers in floats {list(rows.shape)}, read as quantities and not as tokens."]
    return []


def _copied(name: str, rows: Tensor, train: Tensor, held: Tensor) -> list[str]:
    if math.prod(rows.shape[1:]) < FEWEST_NUMBERS:
        return []
    flat = rows.flatten(1).contiguous().numpy()
    known = {hash(flat[i].tobytes()) for i in train.tolist()}
    number = sum(hash(flat[i].tobytes()) in known for i in held.tolist())
    if not number:
        return []
    return [
        f"{number} of {len(held)} held-out rows of {name} are training rows as well, so what is measured on them looks"
        " better than it is, and pairs of one row are negatives of each other: keep one pair of each."
    ]
