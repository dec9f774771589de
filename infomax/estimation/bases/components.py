"""Independent components of a side, without scikit-learn: its import takes longer than most estimates."""

import math

import numpy as np

STEPS, TOLERANCE = 100, 1e-3


def unmixing(rows: np.ndarray, seed: int) -> np.ndarray:
    """What independent components of rows [n, d] are made by [d, d], each of variance 1, in no order.

    FastICA: all components at once, by the contrast log cosh, from a random start; what has not settled after STEPS
    steps is returned as it is. rows: float64, whose covariance has full rank. seed: of the start. (Hyvärinen, 1999)
    """
    from scipy import linalg

    def orthogonal(w: np.ndarray) -> np.ndarray:
        values, vectors = linalg.eigh(w @ w.T)
        scaled = vectors * (1 / np.sqrt(np.clip(values, np.finfo(float).tiny, None)))
        return np.linalg.multi_dot([scaled, vectors.T, w])

    n, d = rows.shape
    centred = np.array(rows).T
    centred -= centred.mean(1)[:, None]
    axes, lengths = linalg.svd(centred, full_matrices=False, check_finite=False)[:2]
    whitening = (axes * np.sign(axes[0]) / lengths).T
    white = whitening @ centred
    white *= math.sqrt(n)
    w = orthogonal(np.random.RandomState(seed).normal(size=(d, d)))
    for _ in range(STEPS):
        slopes = np.tanh(w @ white)
        curvature = np.array([(1 - row**2).mean() for row in slopes])
        moved = orthogonal(slopes @ white.T / float(n) - curvature[:, None] * w)
        turned = np.abs(np.abs(np.einsum("ij,ij->i", moved, w)) - 1).max()
        w = moved
        if turned < TOLERANCE:
            break
    sources = np.linalg.multi_dot([w, whitening, centred]).T
    return ((w / np.std(sources, axis=0, keepdims=True).T) @ whitening).T.copy()
