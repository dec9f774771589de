"""scikit-learn's forms: of MI between columns a score function and a selector; and an encoder trained by an objective.

from infomax.sklearn import InfoMaxEncoder, MutualInformation, SelectByInformation
make_pipeline(SelectByInformation(k=10, method="jmi"), LogisticRegression())
make_pipeline(StandardScaler(), InfoMaxEncoder("NWJ"), LogisticRegression())
"""

import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from infomax import objectives
from infomax.errors import UserError, nearest, require_seed
from infomax.estimation.questions.columns import Columns
from infomax.estimation.questions.pairwise import information
from infomax.estimation.questions.select import METHODS, chosen
from infomax.estimation.questions.significance import p_values
from infomax.objectives import Objective

if TYPE_CHECKING:
    from infomax.encoders import MLP
    from infomax.models import InfoMax

__all__ = ["InfoMaxEncoder", "MutualInformation", "SelectByInformation"]

CORRUPTED = 0.5  # of a view's numbers, which are those of other rows


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
        mi = information(x, target, np.arange(x.p), np.zeros(x.p, int))
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


class InfoMaxEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A transformer that trains an encoder of rows without labels, by maximising the MI of two views of a row.

    A view is a row in which half of the numbers are those of other rows (Bahri et al., 2022). The encoder is an MLP,
    whose features a projector and a cosine critic of temperature .5 compare. Columns are standardised first.
    objective: an Objective or its text, such as "InfoNCE" or "SMILE(tau=5)". width: of the two hidden layers. dims: of
    the features. epochs: passes over the rows. batch_size: rows in a step, at most all; the N of the objective. seed:
    of weights, order and views: the same arguments give the same features, and the global random state stays.
    After `fit`, encoder_ is the network, and information_ [epochs] the mean value of the objective in each, in nats.
    """

    encoder_: "MLP"
    information_: np.ndarray

    def __init__(
        self,
        objective: str | Objective = "InfoNCE",
        width: int = 256,
        dims: int = 32,
        epochs: int = 50,
        batch_size: int = 256,
        seed: int = 0,
    ):
        self.objective = objective
        self.width = width
        self.dims = dims
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> "InfoMaxEncoder":
        """Trains the encoder on X [n, p]; y is not read. Raises UserError for an objective that there is not, and for
        sizes that are no whole numbers from 1 (batch_size: from 2), and a seed out of range."""
        from infomax.critics import Cosine  # with timm, which a selector of columns needs not wait for
        from infomax.encoders import MLP, Projector
        from infomax.models import InfoMax

        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        for name, least in (("width", 1), ("dims", 1), ("epochs", 1), ("batch_size", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise UserError(f"{name} is {value!r}: give a whole number, {least} or more.")
        require_seed(self.seed)
        self._mean, deviation = X.mean(0), X.std(0)
        self._scale = np.where(deviation > 0, deviation, 1.0)
        rows = torch.from_numpy((X - self._mean) / self._scale).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder = MLP(rows.shape[1], int(self.width), int(self.dims))
            projector = Projector(int(self.dims), int(self.width), int(self.dims), norm="layer")
            # A copy: a moving average belongs to one training.
            objective = copy.deepcopy(objectives.objective(self.objective))
            model = InfoMax(encoder, projector, Cosine(temperature=0.5), objective)
            self.information_ = np.array(_trained(model, rows, int(self.epochs), min(int(self.batch_size), len(rows))))
        # In float64, so that a row's features are the same by itself and among others.
        self.encoder_ = encoder.eval().double()
        self._n_features_out = int(self.dims)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The features [n, dims] of X [n, p]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            return self.encoder_.body(torch.from_numpy((X - self._mean) / self._scale)).numpy()


def _trained(model: "InfoMax", rows: torch.Tensor, epochs: int, size: int) -> list[float]:
    """The mean value of each epoch, of steps of `size` rows by Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    means = []
    for _ in range(epochs):
        values = []
        for batch in torch.randperm(len(rows)).split(size):
            if len(batch) < max(2, size // 2) and values:
                continue  # of the rows that are left over, whose ceiling is another
            value = model([_corrupted(rows, batch), _corrupted(rows, batch)])
            optimizer.zero_grad()
            (-value).backward()
            optimizer.step()
            values.append(float(value.detach()))
        means.append(float(np.mean(values)))
    return means


def _corrupted(rows: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Rows of a batch, in which a share of numbers are another row's of the same column."""
    others = rows.gather(0, torch.randint(len(rows), (len(batch), rows.shape[1])))
    return torch.where(torch.rand(others.shape) < CORRUPTED, others, rows[batch])
