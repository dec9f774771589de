"""What pairwise() gives: the mutual information of every pair of columns, with intervals, p-values and a picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infomax.errors import not_imported
from infomax.files import finite

FALSE = 0.05  # the rate of false discoveries that a summary calls found
MOST_NAMES = 60  # on an axis


@dataclass(frozen=True)
class Matrix:
    """The MI, in nats, of p columns with q columns: arrays [p, q], with a diagonal of NaN where both are the same.

    mi: the values. interval (95 %): two arrays, the lower and upper ends. p_value: of independence. q_value: the rate
    of false discoveries (Benjamini & Hochberg, 1995) among all pairs that are at least as certain. n: rows. x_names,
    y_names: of the columns [p] and [q]. symmetric: whether both are the same columns, and each pair is there twice.
    rows: where values are missing, how many rows miss neither of a pair, int64 [p, q]; fewer than 20 give NaN. None
    where all rows are complete.
    """

    mi: np.ndarray
    interval: tuple[np.ndarray, np.ndarray]
    p_value: np.ndarray
    q_value: np.ndarray
    n: int
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    symmetric: bool
    rows: np.ndarray | None = None

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        if self.symmetric:
            return np.triu_indices(len(self.x_names), 1)
        first, second = np.indices(self.mi.shape).reshape(2, -1)
        return first, second

    def _order(self) -> np.ndarray:
        """Pairs, the largest MI first, each as its place in a flat array."""
        p, q = self.mi.shape
        each = np.flatnonzero(np.tri(p, dtype=bool).T & ~np.eye(p, dtype=bool)) if self.symmetric else np.arange(p * q)
        order = self.mi.ravel()[each]
        np.negative(order, out=order)
        return each[np.argsort(order, kind="stable")]

    def discoveries(self, rate: float = FALSE) -> int:
        """How many pairs are called dependent if a share `rate` of false ones among them is allowed."""
        called = int((self.q_value <= rate).sum())
        return called // 2 if self.symmetric else called

    def strongest(self, number: int = 10) -> list[dict[str, Any]]:
        """The `number` pairs of largest MI: x, y, mi, low, high, p_value, q_value, and rows if values are missing."""
        return list(self._each(self._order()[:number]))

    def _each(self, order: np.ndarray) -> Iterator[dict[str, Any]]:
        q = self.mi.shape[1]
        return (self._pair(*divmod(int(place), q)) for place in order)

    def _pair(self, i: int, j: int) -> dict[str, Any]:
        names = {"x": self.x_names[i], "y": self.y_names[j]}
        return names | {name: array[i, j].item() for name, array in self._arrays.items()}

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        """What there is of each pair, by its name in a table."""
        low, high = self.interval
        found = {"mi": self.mi, "low": low, "high": high, "p_value": self.p_value, "q_value": self.q_value}
        return found if self.rows is None else found | {"rows": self.rows}

    def _columns(self) -> dict[str, np.ndarray]:
        """The columns of a table of a row a pair, the largest MI first."""
        at = np.divmod(self._order(), self.mi.shape[1])
        names = {"x": np.array(self.x_names, dtype=object)[at[0]], "y": np.array(self.y_names, dtype=object)[at[1]]}
        return names | {name: array[at] for name, array in self._arrays.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values, arrays as lists of rows; a number that is not finite is None."""
        names = {"n": self.n, "x": list(self.x_names), "y": list(self.y_names)}
        return finite(names | {name: array.tolist() for name, array in self._arrays.items()})

    def to_frame(self) -> Any:
        """A pandas.DataFrame of a row a pair, the largest MI first: x, y, mi, low, high, p_value, q_value, and rows if
        values are missing.

        Raises UserError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise not_imported("pandas", error, 'to_frame() needs pandas: pip install "infomax[tables]".') from error
        return pandas.DataFrame(self._columns())

    def write_csv(self, path: Path) -> None:
        """Writes the rows of `to_frame` to a file, path, whole or not at all, without pandas."""
        import csv

        from infomax.files import write_whole

        def write(temporary: Path) -> None:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["x", "y", *self._arrays])
                writer.writeheader()
                writer.writerows(self._each(self._order()))  # one at a time

        write_whole(path, write)

    def write_parquet(self, path: Path) -> None:
        """Writes the rows of `to_frame` to a Parquet file, path, whole or not at all.

        Raises UserError where polars is not installed.
        """
        from infomax.estimation.pairs.tables import library
        from infomax.files import write_whole

        polars = library("polars")
        columns = self._columns()
        texts = {name: columns.pop(name).tolist() for name in ("x", "y")}
        write_whole(path, polars.DataFrame(texts | columns).write_parquet)

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """The order of rows and of columns in which those that are alike stand together (average linkage)."""
        shown = np.nan_to_num(self.mi)
        np.clip(shown, 0, None, out=shown)
        shown *= -2
        np.negative(np.expm1(shown, out=shown), out=shown)
        np.sqrt(shown, out=shown)  # as a correlation
        if not self.symmetric:
            return _clustered(shown), _clustered(shown.T)
        np.fill_diagonal(shown, 1.0)
        one = _clustered(shown, 1 - shown)
        return one, one

    def plot(self, path: Path | str | None = None) -> Any:
        """A heat map of the MI, rows and columns clustered, as a matplotlib Figure; also written to `path`, a PNG or
        whatever its ending says."""
        from matplotlib.figure import Figure

        rows, columns = self.order()
        height, width = (3.5 + 0.1 * min(len(side), MOST_NAMES) for side in (rows, columns))
        figure = Figure(figsize=(width + 0.8, height), layout="constrained")
        axis = figure.subplots()
        shown = np.clip(self.mi[np.ix_(rows, columns)], 0, None)
        image = axis.imshow(shown, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0)
        figure.colorbar(image, ax=axis, label="MI, nats")
        for names, at, place in ((self.x_names, rows, axis.set_yticks), (self.y_names, columns, axis.set_xticks)):
            if len(names) <= MOST_NAMES:
                place(range(len(names)), [names[k] for k in at], fontsize=6)
        axis.tick_params(axis="x", rotation=90)
        axis.set_title(f"{self._counted}, {self.discoveries():,} pairs with q ≤ {FALSE:g}", fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=110)
        return figure

    @property
    def _counted(self) -> str:
        """How many rows there are, or, where values are missing, how many pairs have."""
        if self.rows is None:
            return f"{self.n:,} rows"
        some = self.rows[self._pairs()]
        if not some.size:
            return f"{self.n:,} rows"
        return f"{some.min():,} to {some.max():,} of {self.n:,} rows"

    def __str__(self) -> str:
        return self.summary()

    def summary(self, number: int = 10) -> str:
        """How many pairs depend on each other, and the `number` strongest, a line each."""
        p, q = self.mi.shape
        pairs = p * (p - 1) // 2 if self.symmetric else p * q
        lines = [f"MI of {pairs:,} pairs of columns [{p} x {q}], {self._counted}: {self.discoveries():,} with a rate of"
                 f" false discoveries of {FALSE:g}"]  # fmt: skip
        for pair in self.strongest(number):
            lines.append(
                f"  {pair['x']} and {pair['y']}: {pair['mi']:.3f} nats, 95 % interval [{pair['low']:.3f},"
                f" {pair['high']:.3f}], q {pair['q_value']:.2g}"
            )
        return "\n".join(lines)


def _clustered(profiles: np.ndarray, distance: np.ndarray | None = None) -> np.ndarray:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(profiles) < 3:
        return np.arange(len(profiles))
    near = profiles if distance is None else squareform(np.clip(distance, 0, None), checks=False)
    return leaves_list(linkage(near, "average"))
