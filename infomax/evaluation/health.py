"""The health of features, measured without labels: effective rank, spectrum, alignment, uniformity and spread."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from infomax.errors import UserError

RIDGE = 1e-4  # LiDAR's delta: the paper's, added to the covariance within samples of features at their own scale
PRECISION = 1e-9  # eigenvalues below this part of the largest are rounding
ROUNDING = 1e-12  # of the mean square of a row: variance below it is that of float32's last digits


@final
@dataclass(frozen=True)
class Health:
    """Numbers that say whether features have collapsed, in n rows of features, all views counted, and d columns.

    rankme: effective rank, 1 (all rows on one line) to min(n, d). alpha_req: exponent of the eigenvalues' decay,
    i^-alpha: near 1 is said to be best, large is collapsed; infinite where one eigenvalue is left, or none. lidar:
    effective rank of what tells samples apart, beside what differs between views of one, 1 to min(d, samples - 1); 0
    where no direction does. alignment: mean squared distance of two views of a sample, on the unit sphere, 0 to 4;
    small is aligned. uniformity: log of the mean of exp(-2 distance^2) over rows of different samples, on the unit
    sphere; 0 is collapsed, more negative is more even. feature_std: root-mean-square deviation of unit rows from their
    mean, 0 (collapsed) to 1 (centred). lidar and alignment are None where no sample has two views.
    """

    rankme: float
    alpha_req: float
    lidar: float | None
    alignment: float | None
    uniformity: float
    feature_std: float
    n: int
    d: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return asdict(self)

    def __str__(self) -> str:
        of_views = "" if self.lidar is None else f", LiDAR {self.lidar:.1f}, alignment {self.alignment:.2f}"
        return (
            f"RankMe {self.rankme:.1f} of {min(self.n, self.d)}, alpha-ReQ {self.alpha_req:.2f}{of_views},"
            f" uniformity {self.uniformity:.2f}, feature deviation {self.feature_std:.3f}"
        )


@torch.no_grad()
def health(
    features: ArrayLike | Tensor,
    ids: ArrayLike | Tensor | None = None,
    views: ArrayLike | Tensor | Sequence[Any] | None = None,
) -> Health:
    """Effective rank, spectrum, alignment, uniformity and spread of features; no labels are needed.

    features [n, d]: a row an image. ids [n]: whole numbers, the sample that each row shows; rows of one number are
    views of one sample. By default every row is a sample of its own. views: features [n, d] of another view of the same
    rows, or a sequence of these, one for each further view. All is computed in float64 on the device of the features.
    RankMe reads the singular values of the rows as they are (Garrido et al., 2023), alpha-ReQ the eigenvalues of their
    covariance, by a line through log eigenvalue against log number, weighted by 1 / number (Agrawal et al., 2022;
    Stringer et al., 2019), LiDAR the covariance of samples' means, whitened by that within samples (Thilak et al.,
    2023), and is the surer the more views there are. Alignment and uniformity: exponents 2, t = 2 (Wang & Isola, 2020).
    Raises UserError: features that are no matrix of two rows or more, NaN or infinity, ids or views of another shape.
    """
    x = _rows(features, "features")
    n = len(x)
    try:
        names = torch.arange(n, device=x.device) if ids is None else _tensor(ids).to(x.device)
    except (TypeError, ValueError, RuntimeError) as error:  # texts, say, or rows of several lengths
        raise UserError(f"ids name the sample of each of {n} rows, a whole number each ({error}).") from None
    if names.shape != (n,) or names.is_floating_point() or names.dtype == torch.bool:
        raise UserError(f"ids name the sample of each of {n} rows, a whole number each; they are {_shown(names)}.")
    single = views is not None and not isinstance(views, list | tuple)
    others = [] if views is None else [_rows(v, "views") for v in ([views] if single else views)]  # type: ignore[union-attr]
    for other in others:
        if other.shape != x.shape:
            raise UserError(f"A view has the features' shape, {list(x.shape)}, row by row; one is {list(other.shape)}.")
    rows = torch.cat([x, *(other.to(x.device) for other in others)])
    _, names = names.repeat(1 + len(others)).unique(return_inverse=True)
    counts = names.bincount()
    unit = nn.functional.normalize(rows, dim=1)
    paired = bool((counts > 1).any())
    return Health(
        rankme=effective_rank(torch.linalg.svdvals(rows)),
        alpha_req=decay(_variances(rows)),
        lidar=_lidar(rows, names, counts) if paired else None,
        alignment=_alignment(unit, names, counts) if paired else None,
        uniformity=_uniformity(unit, names),
        feature_std=spread(unit),
        n=len(rows),
        d=x.shape[1],
    )


def effective_rank(spectrum: Tensor) -> float:
    """exp of the entropy of a spectrum [k] of no negatives, 1 to k; 0 where all are 0. (Roy & Vetterli, 2007)"""
    total = spectrum.sum()
    if not float(total) > 0:
        return 0.0
    return float(torch.special.entr(spectrum / total).sum().exp())


def decay(variances: Tensor) -> float:
    """alpha of eigenvalues [k] that fall as i^-alpha, by weighted least squares; infinite of fewer than two."""
    falling = variances.sort(descending=True).values
    falling = falling[falling > PRECISION * falling[0]] if len(falling) and float(falling[0]) > 0 else falling[:0]
    if len(falling) < 2:
        return math.inf
    at = torch.arange(1, len(falling) + 1, dtype=falling.dtype, device=falling.device)
    weight, t, y = 1 / at / (1 / at).sum(), at.log(), falling.log()
    t, y = t - (weight * t).sum(), y - (weight * y).sum()
    return float(-(weight * t * y).sum() / (weight * t * t).sum())


def spread(unit: Tensor) -> float:
    """Root-mean-square distance of unit rows [n, d] from their mean, 0 (all alike) to 1 (centred)."""
    return float((unit - unit.mean(0)).square().sum(1).mean().sqrt())


def _variances(rows: Tensor) -> Tensor:
    """The eigenvalues [min(n, d)] of the rows' covariance."""
    values = torch.linalg.svdvals(rows - rows.mean(0)).square() / len(rows)
    return values * (values > ROUNDING * rows.square().sum(1).mean())


def _lidar(rows: Tensor, names: Tensor, counts: Tensor) -> float:
    size = len(counts)
    means = rows.new_zeros(size, rows.shape[1]).index_add_(0, names, rows) / counts[:, None]
    several = counts > 1
    between = means[several] - means[several].mean(0)
    within = (rows - means[names])[several[names]]
    if len(within) < rows.shape[1]:  # outside the span of both no direction tells samples apart: the same, and smaller
        basis = torch.linalg.qr(torch.cat([between, within]).T).Q
        between, within = between @ basis, within @ basis
    d = within.shape[1]
    covariance = within.T @ within / len(within) + RIDGE * torch.eye(d, dtype=rows.dtype, device=rows.device)
    # The eigenvalues of W^-1/2 B W^-1/2 are the squares of the singular values of means whitened by W.
    factor = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(factor, between.T, upper=False)
    values = torch.linalg.svdvals(whitened).square()
    return effective_rank(values * (values > PRECISION * values.max()))


def _alignment(unit: Tensor, names: Tensor, counts: Tensor) -> float:
    """Mean over pairs of rows of one sample. Of k unit rows with sum s, sum |a - b|^2 over pairs is k^2 - |s|^2."""
    sums = unit.new_zeros(len(counts), unit.shape[1]).index_add_(0, names, unit)
    squares = unit.new_zeros(len(counts)).index_add_(0, names, unit.square().sum(1))
    apart = counts * squares - sums.square().sum(1)
    pairs = counts * (counts - 1) / 2
    return float(apart.sum().clamp(min=0) / pairs.sum())


def _uniformity(unit: Tensor, names: Tensor) -> float:
    """Over pairs of different samples; 0 where there is one sample alone, as if it had collapsed."""
    distances = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").square()
    apart = distances[names[:, None] != names[None, :]]
    return float(torch.logsumexp(-2 * apart, 0) - math.log(len(apart))) if len(apart) else 0.0


def _tensor(given: Any) -> Tensor:
    if isinstance(given, np.ndarray):  # torch knows no other order of bytes, and no negative strides
        given = np.ascontiguousarray(given.astype(given.dtype.newbyteorder("="), copy=False))
    return torch.as_tensor(given)


def _rows(given: Any, what: str) -> Tensor:
    try:
        x = _tensor(given).detach().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"The {what} are no array of numbers ({error}).") from None
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 1:
        raise UserError(f"The {what} have shape {list(x.shape)}: [n, d] is needed, one row an image and two or more.")
    if bad := int((~x.isfinite().all(1)).sum()):
        raise UserError(f"The {what} hold NaN or infinity in {bad} of {len(x)} rows: leave those out.")
    return x


def _shown(t: Tensor) -> str:
    return f"{t.dtype} of shape {list(t.shape)}".removeprefix("torch.")
