"""Maps of columns one by one: standardised, or to normal scores, at no cost to mutual information."""

import math

import numpy as np
import torch
from torch import Tensor

COLUMNS = 64  # at a time in float64, so that wide arrays are never held twice
ROWS = 8192  # at a time in float64


class Standard:
    """Columns to mean 0 and deviation 1 by the statistics of the rows it is made from."""

    def __init__(self, fit: Tensor):
        # float64, or a large offset or scale would take the digits that matter with it.
        moments = [(c.mean(0), c.std(0)) for c in map(Tensor.double, fit.split(COLUMNS, 1))]
        self.mean = torch.cat([mean for mean, _ in moments])
        deviation = torch.cat([deviation for _, deviation in moments])
        self.scale = torch.where(deviation > 0, deviation, 1.0)  # constant within this split only

    def __call__(self, t: Tensor) -> Tensor:
        out = torch.empty(t.shape, dtype=torch.float32)
        for i in range(0, t.shape[1], COLUMNS):
            c = slice(i, i + COLUMNS)
            out[:, c] = (t[:, c].double() - self.mean[c]).div_(self.scale[c])
        return out


def hermite(z: Tensor) -> Tensor:
    """Normal scores z [n, d] -> Hermite polynomials of degree 1, 2 and 3, standardised [n, 3 d]."""
    z = z.clamp(-4, 4)
    parts = torch.cat([z, (z**2 - 1) / math.sqrt(2), (z**3 - 3 * z) / math.sqrt(6)], 1)
    return Standard(parts)(parts)


class NormalScores:
    """Columns to normal scores by the ranks of the rows it is made from; between two of them, linearly; ties share."""

    def __init__(self, fit: Tensor):
        from scipy.special import ndtri

        self.knots: list[tuple[np.ndarray, np.ndarray]] = []
        for column in fit.T.contiguous().numpy():
            values, counts = np.unique(column, return_counts=True)
            middle = np.cumsum(counts) - counts / 2  # mid-ranks, in (0, n)
            scores = ndtri(middle / len(column))
            scores -= np.sum(scores * counts) / len(column)
            spread = math.sqrt(float(np.sum(scores**2 * counts)) / len(column))
            self.knots.append((values, scores / spread if spread > 0 else scores))

    def __call__(self, t: Tensor) -> Tensor:
        columns = t.T.contiguous().numpy()
        scores = [np.interp(c, v, s) for c, (v, s) in zip(columns, self.knots, strict=True)]
        return torch.from_numpy(np.stack(scores, 1).astype(np.float32))
