"""The base of the default: the closed form that validation pairs prefer, of columns or of components."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from infomax.estimation.bases.circular import CircularCopula, Turned, Unturned
from infomax.estimation.bases.gains import is_gain, js_shares
from infomax.estimation.bases.normal_scores import ROWS, NormalScores, Standard
from infomax.estimation.bases.pair_copula import closed_form
from infomax.estimation.critic import ClosedForm
from infomax.estimation.pairs import Pairs
from infomax.estimation.pairs.circle import is_smooth_circle
from infomax.threads import one_blas_thread

Map = Callable[[Tensor], Tensor]
UNMIXED = 64  # columns at most whose independent components are sought
UNMIXED_ROWS = 10_000
NEAR = 100.0  # of the largest variance of principal components to the least, where columns are nearly dependent
PRINCIPAL = 64  # principal components of an image at most


class Unmixed:
    """Normal scores of a side's independent components, by the rows that it is made from. (Hyvärinen, 1999)"""

    def __init__(self, fit: Tensor, seed: int):
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        self.standard = Standard(fit)
        z = self.standard(fit)
        with warnings.catch_warnings(), one_blas_thread():
            # What has no components to find is not found, and then loses on the select split.
            warnings.simplefilter("ignore", ConvergenceWarning)
            ica = FastICA(whiten="unit-variance", max_iter=100, tol=1e-3, random_state=seed)
            ica.fit(z[:UNMIXED_ROWS].double().numpy())
        self.unmixing = torch.from_numpy(ica.components_.T.copy())  # [d, d]
        self.scores = NormalScores(self._components(z))

    def _components(self, z: Tensor) -> Tensor:
        return (z.double() @ self.unmixing).float()

    def __call__(self, t: Tensor) -> Tensor:
        return self.scores(self._components(self.standard(t)))


class Whitened:
    """Normal scores of a side's principal components, by the rows that it is made from. What nearly equal columns
    differ by is less than the error of their ranks, so that scores of the columns themselves lose it."""

    def __init__(self, fit: Tensor):
        self.standard = Standard(fit)
        z = self.standard(fit)
        self.axes = torch.linalg.eigh(z.double().T @ z.double())[1]  # [d, d]
        self.scores = NormalScores(self._components(z))

    def _components(self, z: Tensor) -> Tensor:
        return (z.double() @ self.axes).float()

    def __call__(self, t: Tensor) -> Tensor:
        return self.scores(self._components(self.standard(t)))


class Principal:
    """Normal scores of an image's leading principal components, by the rows that it is made from: those that vary at
    all, and PRINCIPAL at most."""

    def __init__(self, fit: Tensor):
        self.mean = fit.double().mean(0)
        second = sum((rows.T @ rows for rows in map(self._centred, fit.split(ROWS))), torch.zeros(()))
        values, vectors = torch.linalg.eigh(second)
        number = min(PRINCIPAL, int((values > 1e-6 * values[-1]).sum()))
        self.axes = vectors[:, -number:].flip(1)  # [d, k], the largest first
        self.scores = NormalScores(self._components(fit))

    def _centred(self, rows: Tensor) -> Tensor:
        return rows.double() - self.mean

    def _components(self, t: Tensor) -> Tensor:
        return torch.cat([(self._centred(rows) @ self.axes).float() for rows in t.split(ROWS)])

    def __call__(self, t: Tensor) -> Tensor:
        return self.scores(self._components(t))


@dataclass(frozen=True)
class Base:
    """What a fold's residual is added to: mapped training and validation pairs, the maps, and a copula."""

    fit: Pairs
    select: Pairs
    maps: tuple[Map, Map]
    copula: ClosedForm


def base_of(fit: Pairs, select: Pairs, seed: int) -> Base:
    """Of normal scores of columns, of principal and of independent components, a side each, what tells select pairs
    from others; of two angles, their copula on the torus."""
    # Kernels leave out a row at a time, which of rows that belong together leaves the others in.
    apart = len(fit.ids.unique()) == len(fit.ids)
    if apart and is_smooth_circle(fit.x) and is_smooth_circle(fit.y):
        return max(_of_angles(fit, select), key=lambda base: base[0])[1]
    options = [
        [NormalScores(side), *_of_components(side, seed), *([] if None in fit.images else [Principal(side)])]
        for side in (fit.x, fit.y)
    ]
    sides = [
        [(m(f), m(s)) for m in maps] for maps, f, s in zip(options, (fit.x, fit.y), (select.x, select.y), strict=True)
    ]
    best, found = torch.zeros(2), None
    for i, x in enumerate(sides[0]):
        for j, y in enumerate(sides[1]):
            if isinstance(options[0][i], Principal) != isinstance(options[1][j], Principal):
                continue  # images' many columns are dear, and pixels against components promise nothing
            base = closed_form(x[0], y[0], x[1], y[1])
            each = js_shares(base, x[1], y[1]) if len(sides[0]) + len(sides[1]) > 2 else torch.zeros(2)
            if found is None or is_gain(each - best):  # ties go to the columns
                best = each
                found = Base(
                    Pairs(x[0], y[0], fit.ids), Pairs(x[1], y[1], select.ids), (options[0][i], options[1][j]), base
                )
    assert found is not None
    return found


def _of_angles(fit: Pairs, select: Pairs) -> list[tuple[float, Base]]:
    """Two angles as they are, and by their ranks around the circle, each with how likely its copula makes fit pairs."""
    found: list[tuple[float, Base]] = []
    for maps in ((Unturned(), Unturned()), (Turned(fit.x), Turned(fit.y))):
        own, other = (Pairs(maps[0](part.x), maps[1](part.y), part.ids) for part in (fit, select))
        copula = CircularCopula(own.x, own.y, other.x, other.y)
        found.append((copula.likelihood, Base(own, other, maps, copula)))
    return found


def _of_components(side: Tensor, seed: int) -> list[Whitened | Unmixed]:
    """Principal components, where columns are nearly dependent, and independent ones, where a side may have them: where
    its principal components are not normal."""
    n, d = side.shape
    if not 2 <= d <= UNMIXED or n < 20 * d:
        return []
    z = Standard(side)(side).double()
    values, vectors = torch.linalg.eigh(z.T @ z / n)
    if float(values[0]) < 1e-6 * float(values[-1]):
        return []
    found: list[Whitened | Unmixed] = [Whitened(side)] if float(values[-1] / values[0]) > NEAR else []
    z = z @ (vectors * values.rsqrt())
    kurtosis = (z**4).mean(0) - 3
    return [*found, Unmixed(side, seed)] if float(kurtosis.abs().max()) > 5 * math.sqrt(24 / n) else found
