"""Labels of the rows of pandas' tables: those that differ are never paired by position."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from infomax.errors import UserError


def require_one_index(tables: Mapping[str, Any]) -> None:
    """Raises UserError for pandas' tables, by their names, whose rows go by different labels.

    By position they would be paired in silence. What has no index is by position; lengths are compared elsewhere.
    """
    indexed = {name: values for name, values in tables.items() if hasattr(values, "iloc") and hasattr(values, "index")}
    named = list(indexed.items())
    for k, (first, one) in enumerate(named):
        for second, other in named[k + 1 :]:
            if len(one.index) != len(other.index) or one.index.equals(other.index):
                continue
            rows = enumerate(zip(one.index, other.index, strict=True))
            row = next((i for i, (a, b) in rows if not _is_one_label(a, b)), None)
            if row is None:  # the same labels in another type
                continue
            raise UserError(
                f"{first} and {second} have different indexes: row {row} is {one.index[row]!r} of {first} and "
                f"{other.index[row]!r} of {second}; give {second}.loc[{first}.index], or, if rows pair by position, "
                "reset_index(drop=True) of both."
            )


def _is_one_label(one: Any, other: Any) -> bool:
    """Whether two labels of rows are equal, missing ones being so."""
    import pandas

    missing = [bool(np.all(pandas.isna(label))) for label in (one, other)]
    return all(missing) if any(missing) else bool(np.all(one == other))
