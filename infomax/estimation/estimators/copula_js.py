"""The default estimator: a base in closed form, kernels or a network for what it missed, and all pairs report."""

from collections.abc import Sequence

import torch
from torch import nn

from infomax.estimation import fitting
from infomax.estimation.bases import spatial
from infomax.estimation.bases.base import base_of
from infomax.estimation.bases.gains import is_gain
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.bases.pair_copula import closed_form
from infomax.estimation.critic import gated
from infomax.estimation.estimator import Budget, Fitted, PlugIn
from infomax.estimation.estimators.residuals import fitted_classifiers, fitted_residuals
from infomax.estimation.pairs import Pairs, is_label
from infomax.objectives import JSPlugin


class CopulaJS(PlugIn):
    """A copula in closed form plus a residual, cross-fitted: log r = log r_copula + f. The default.

    The copula is Gaussian or Student's, of the columns or of each side's independent components, or Gaussian with
    kernels for pairs of columns that are not (`pair_copula.py`). Validation pairs choose. Two angles, each as (cos,
    sin), have kernels around the circle instead (`circular.py`). A score test says whether anything is left over; f is
    then kernels of random features, or a network where these leave something over too (`kernels.py`). Both start at 0
    and learn by the Jensen-Shannon bound, so that only what the copula missed costs samples. Where both sides are
    images, [n, h, w]
    or [n, c, h, w] and not narrower than 8, two more compete: a copula of principal components, and a convolutional
    critic that compares two images location by location (`spatial.py`). A side of labels has a classifier instead,
    log p(label | other) / p(label): discriminants in closed form, or counts beside other labels, plus a learned
    residual (`discriminant.py`). Each fifth of the pairs is tested by a critic that never saw it. The value is the
    plug-in mean of log r, which is not a bound. Ceiling: 4.3 nats a canonical pair of the copula, none of what is
    learned. Variance: that of log r over pairs.
    (This project; Gaussian copula: Joe, 1989; Student copula: Demarta & McNeil, 2005; kernels: Geenens et
    al., 2017; independent components: Hyvärinen, 1999; plug-in: Letizia & Tonello, 2022; cross-fitting: Chernozhukov
    et al., 2018)

    In words: The default: a formula for the simple part of the dependence, a network for the rest.
    """

    takes_critic = True
    cross_fits = True

    def fit(
        self, fit: Pairs, select: Pairs, critic: str | nn.Module | None, budget: Budget, seed: int, device: str
    ) -> Fitted:
        if critic is None:
            return self.fit_folds([(fit, select)], budget, seed, device)[0]
        maps = NormalScores(fit.x), NormalScores(fit.y)
        fit, select = (Pairs(maps[0](p.x), maps[1](p.y), p.ids) for p in (fit, select))
        base = closed_form(fit.x, fit.y, select.x, select.y)
        residual = fitting.fresh(critic, fit)
        if not isinstance(critic, nn.Module):  # a module that was handed in keeps what it knows
            fitting.silence(residual)
        model = gated(base, residual).to(device)
        fit, select = fit.to(device), select.to(device)
        fitting.require_scores(model, fit)
        protocol = fitting.train(JSPlugin(), model, fit, select, budget, seed)
        return Fitted(self, model, maps, protocol | {"copula": base.protocol()})

    def fit_folds(self, folds: Sequence[tuple[Pairs, Pairs]], budget: Budget, seed: int, device: str) -> list[Fitted]:
        """Fits on each (training, validation) of `folds`, all residuals in one run: their weights are stacked, and so
        is the arithmetic. budget, seed, device: as `fit` takes them."""
        label = [is_label(side) for side in (folds[0][0].x, folds[0][0].y)]
        if any(label):
            return fitted_classifiers(self, folds, 1 if label[1] else 0, budget, seed, device)
        bases = [base_of(fit, select, seed) for fit, select in folds]
        of_columns = fitted_residuals(self, bases, budget, seed, device)
        if None in folds[0][0].images:
            return of_columns
        of_places = [spatial.fitted(self, fit, select, budget, seed, device) for fit, select in folds]
        tried = zip(of_places, of_columns, folds, strict=True)
        gain = torch.cat([spatial.gain(new, old, select, device) for new, old, (_, select) in tried])
        # All folds alike, as their critics are to be compared; by one standard error, as everywhere.
        return of_places if is_gain(gain) else of_columns
