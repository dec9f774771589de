"""scikit-learn's forms of MI between columns: a score function for its selectors, and a selector.

from infomax.sklearn import MutualInformation, SelectByInformation
make_pipeline(SelectByInformation(k=10, method="jmi"), LogisticRegression())
"""

from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from infomax.errors import UserError, nearest
from infomax.estimation.questions.columns import Columns
from infomax.estimation.questions.pairwise import information
from infomax.estimation.questions.select import METHODS, chosen
from infomax.estimation.questions.significance import p_values

__all__ = ["MutualInformation", "SelectByInformation"]


class MutualInformation:
    """A score function: SelectKBest(MutualInformation(), k=10). Called with X [n, p] and y [n], it gives the MI of each
    column with y [p], in nats, and the p-value of independence [p], as `infomax.pairwise` does.

    labels: whether y is classes (True) or quantities (False); None: texts, and numbers of few values, are classes.
    """

    def __init__(self, labels: bool | None = None):
        self.labels = labels

    def __call__(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.utils import check_X_y

        X, y = check_X_y(X, y, dtype="float64", ensure_min_samples=2)
        x, target = _sides(X, y, self.labels)
        mi = information(x, target, np.arange(x.p), np.zeros(x.p, int))[0]
        return mi, p_values(x, target)[:, 0]

    def __repr__(self) -> str:
        return f"MutualInformation({'' if self.labels is None else f'labels={self.labels}'})"


class SelectByInformation(SelectorMixin, BaseEstimator):
    """A transformer that keeps the k columns of X that say most of y, by `infomax.select`.

    k: how many; all where there are fewer. method: "mim", "mrmr", "jmi" or "cmim". labels: whether y is classes (True)
    or quantities (False); None: texts, and numbers of few values, are classes. After `fit`, indices_ [k] holds the
    columns in the order in which they were chosen, and scores_ [k] their scores in nats.
    """

    indices_: np.ndarray
    scores_: np.ndarray

    def __init__(self, k: int = 10, method: Literal["mim", "mrmr", "jmi", "cmim"] = "jmi", labels: bool | None = None):
        self.k = k
        self.method = method
        self.labels = labels

    def fit(self, X: Any, y: Any) -> "SelectByInformation":
        """Chooses columns of X [n, p] by y [n]. Raises UserError for k below 1 and an unknown method."""
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        if isinstance(self.k, bool) or not isinstance(self.k, (int, np.integer)) or self.k < 1:
            raise UserError(f"k is {self.k!r}: give how many columns to choose, 1 or more.")
        if self.method not in METHODS:
            raise UserError(f"There is no method {self.method!r}.{nearest(str(self.method), METHODS)}")
        x, target = _sides(X, y, self.labels)
        self.indices_, self.scores_ = chosen(x, target, min(int(self.k), x.p), self.method)
        return self

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        mask = np.zeros(self.n_features_in_, dtype=bool)  # pyright: ignore[reportAttributeAccessIssue]
        mask[self.indices_] = True
        return mask

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _sides(X: np.ndarray, y: np.ndarray, labels: bool | None) -> tuple[Columns, Columns]:
    """Columns of what scikit-learn has checked, of few rows too; y of texts by its classes."""
    type_of_target(y, input_name="y", raise_unknown=True)
    if y.dtype.kind not in "fiub":
        y, labels = np.unique(y, return_inverse=True)[1], True
    names = tuple(str(c) for c in range(X.shape[1]))
    return Columns(X, names), Columns(y.astype(np.float64)[:, None], ("y",), labels, side=1)
