"""Several views of a sample that are there already, as of several sensors or cameras: given_views()."""

from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from infomax.data.modality import Modality, drawn, rows_of, standardised
from infomax.data.paired import Paired, PairedSplit, fingerprint_of
from infomax.data.source import Opened
from infomax.errors import UserError


@final
@dataclass(frozen=True)
class GivenSplit:
    """Views of samples: row i of each of the views, all of one shape, is one sample."""

    views: tuple[Modality, ...]
    indices: Tensor  # int64 [n]: which rows of the views these are; they are the samples' numbers

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, places: Tensor) -> tuple[Tensor, ...]:
        """places int64 [b], within this split -> each view, [b, ...]."""
        rows = self.indices[places]
        return tuple(view.batch(rows) for view in self.views)

    @property
    def sides(self) -> dict[str, Modality]:
        """The views by their names, "view1", "view2", ..."""
        return {f"view{number}": view for number, view in enumerate(self.views, 1)}


@final
@dataclass(frozen=True)
class GivenViews:
    """Views of the same samples by their name: `train`, to train on, and `test`, held out. Made by given_views().

    notes, left_out, opened: as Paired has them; what opens views by name is infomax.data.named_views.
    """

    name: str
    train: GivenSplit
    test: GivenSplit
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    opened: Opened | None = field(default=None, init=False, repr=False, compare=False)  # replace() drops it

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row of each view."""
        return self.train.views[0].shape

    @property
    def fingerprint(self) -> str:
        """How many samples there are and a checksum of their views: resuming compares it with the run's start."""
        return fingerprint_of(self.train, self.test, "samples", self.left_out)

    def first_two(self) -> Paired:
        """The first two views as pairs, x and y, which are evaluated."""
        train, test = (PairedSplit(each.views[0], each.views[1], each.indices) for each in (self.train, self.test))
        return Paired(self.name, train, test, notes=self.notes, left_out=self.left_out)


def views_of(pairs: Paired) -> GivenViews:
    """Both sides of pairs as two views of one shape. Raises UserError: sides of two shapes, or of tokens."""
    x, y = pairs.train.x, pairs.train.y
    if x.shape != y.shape or x.vocabulary is not None or y.vocabulary is not None:
        shown = [f"{list(side.shape)}{'' if side.vocabulary is None else ' of tokens'}" for side in (x, y)]
        raise UserError(
            f"{pairs.name}: x is {shown[0]} and y {shown[1]}; one encoder reads all views, so they need one shape, of"
            " quantities: modalities are recipes/clip.py's (infomax recipe clip); of image files pairs:TABLE?size=N"
            " brings both sides to N x N pixels."
        )
    train, test = (GivenSplit((each.x, each.y), each.indices) for each in (pairs.train, pairs.test))
    return GivenViews(pairs.name, train, test, notes=pairs.notes, left_out=pairs.left_out)


def given_views(
    *arrays: Any, test: float | int = 0.2, limit: int | None = None, seed: int = 0, name: str = "views"
) -> GivenViews:
    """Two or more views of the same samples, of several sensors, say: row i of each array is sample i.

    arrays: NumPy's or torch's, of one shape [n, ...], numbers or images. PairedLoader(views.train, batch_size) gives
    batches of all of them, and im.InfoMax compares every ordered pair of views by one encoder; modalities that
    need an encoder each are pairs() and im.TwoTower. Each view is standardised by its own training rows. test, limit,
    seed, name: as pairs() takes them. Raises UserError: fewer than two views, shapes or lengths that differ, whole
    numbers [n, length], which may be tokens, and as pairs() does.
    """
    if len(arrays) < 2:
        raise UserError(f"Views are compared with each other, and {len(arrays)} is given: give two or more arrays.")
    rows = [
        rows_of(f"view{number}", given, {}, "give quantities as floating point, and tokens to im.data.pairs")
        for number, given in enumerate(arrays, 1)
    ]
    shapes = [[len(each), *Modality(each).shape] for each in rows]
    for number, shape in enumerate(shapes, 1):
        if shape != shapes[0]:
            raise UserError(
                f"view1 has shape {shapes[0]} and view{number} {shape}: one encoder reads all views, so they need one"
                " shape, and a row of each is a sample; modalities of different shapes are im.data.pairs."
            )
    train, held = drawn(len(rows[0]), test, limit, seed, "samples")
    views = tuple(standardised(each, train) for each in rows)
    return GivenViews(name, GivenSplit(views, train), GivenSplit(views, held))
