"""What a side of labels has for a base, in closed form: log q(label | other) / p(label), by Bayes' rule from classes
that are Gaussian, or, beside other labels, by counting.

What the classes' means and covariances say then needs no learning. (Linear discriminants: Fisher, 1936; covariances
between pooled and own: Friedman, 1989; means that are themselves drawn from a Gaussian: Ioffe, 2006)
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infomax.critics import Embedded, InnerProduct
from infomax.estimation.bases.gains import is_gain
from infomax.estimation.bases.normal_scores import ROWS, NormalScores, Standard
from infomax.estimation.bases.ordered import ordered
from infomax.estimation.critic import FittedCritic
from infomax.estimation.pairs import Pairs, is_label

Map = Callable[[Tensor], Tensor]

AXES = 1024  # columns that are read as they are; of more, as many directions
OWN_AXES = 64  # principal components, at most, in which classes have covariances of their own
OWN_NUMBERS = 2**18  # in all of these covariances, at most
RIDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
OWN_RIDGES = (0.0, 0.1, 0.4)
POOLED = (16.0, 4.0, 1.0, 0.25)  # rows a column, as which the pooled covariance counts beside a class's own
UNCOUNTED = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # rows, shared out as all labels are, beside those of each other label
STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
LOOKED_AT = 2**23  # select rows times labels, at most, that choose
FLOOR = 1e-4  # of the mean variance, the least within classes: what labels determine has none
REACH = 4.0  # of features that discriminants read: squares of what lies farther out would decide all


def mixed(log_ratio: Tensor, doubt: float) -> Tensor:
    """log((1 - doubt) r + doubt): the prior's share of a doubt is a bound on what one row can cost."""
    return torch.logaddexp(log_ratio + math.log1p(-doubt), log_ratio.new_tensor(math.log(doubt)))


class Classifier(InnerProduct, FittedCritic):
    """log q(label | other) / p(label), a label side being one-hot: E_neg[r] = 1 by construction.

    q is the softmax of the base's logits, or the prior's without one, plus `strength` times those of `network`, which a
    gate can close.
    """

    log_prior: Tensor  # [labels]

    def __init__(
        self, label: int, log_prior: Tensor, doubt: float, network: nn.Module, strength: float = 1.0,
        base: "Classifier | None" = None,
    ):  # fmt: skip
        super().__init__()
        self.label, self.doubt, self.network, self.strength, self.base = label, doubt, network, strength, base
        self.open = True
        self.register_buffer("log_prior", log_prior)

    @property
    def is_zero(self) -> bool:
        return not self.open and self.base is None

    @property
    def closed_form(self) -> "Classifier | None":
        return self.base

    def logits(self, other: Tensor) -> Tensor:
        known = self.log_prior.expand(len(other), -1) if self.base is None else self.base.logits(other)
        return known + self.strength * self.network(other) if self.open else known

    def log_ratio(self, other: Tensor) -> Tensor:
        """Of every label [n, labels]."""
        return mixed(self.logits(other).log_softmax(1) - self.log_prior, self.doubt)

    def embed(self, x: Tensor, y: Tensor) -> Embedded:
        return (x, self.log_ratio(y)) if self.label == 0 else (self.log_ratio(x), y)

    def __repr__(self) -> str:
        parts = ([] if self.base is None else [self.base.network]) + ([self.network] if self.open else [])
        return f"Classifier({' + '.join(map(repr, parts))})"


class Discriminant(nn.Module):
    """log p(z | label) of z [n, d], but for what all labels share: linear and quadratic in z's projections [n, k]."""

    mean: Tensor  # [d]
    projection: Tensor  # [d, k]
    products: Tensor  # int64 [2, products], of which two projections each is
    linear: Tensor  # [k, labels]
    quadratic: Tensor  # [products, labels]
    constant: Tensor  # [labels]

    def __init__(
        self, mean: Tensor, projection: Tensor, products: Tensor, linear: Tensor, quadratic: Tensor, constant: Tensor
    ):
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("projection", projection.float())
        self.register_buffer("products", products)
        for name, of in (("linear", linear), ("quadratic", quadratic), ("constant", constant)):
            self.register_buffer(name, (of - of.mean(-1, keepdim=True)).float())

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([self._logits(rows) for rows in z.split(ROWS)])

    def _logits(self, z: Tensor) -> Tensor:
        z = (z.clamp(-REACH, REACH) - self.mean) @ self.projection
        i, j = self.products
        return self.constant + z @ self.linear + (z[:, i] * z[:, j]) @ self.quadratic


class Counted(nn.Module):
    """log p(label | other label) / p(label), by counting."""

    table: Tensor  # [other labels, labels]

    def __init__(self, table: Tensor):
        super().__init__()
        self.register_buffer("table", table.float())

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.table


@dataclass(frozen=True)
class Base:
    """What a fold's network is added to.

    map: of the other side, to features. classifier: None where the prior is no worse. plain: discriminants, or counts,
    with nothing shrunk, whose noise says how little such pairs can show. protocol: how the classifier came about.
    """

    map: Map
    log_prior: Tensor
    classifier: Classifier | None
    plain: nn.Module
    protocol: dict[str, Any] | None


def base_of(fit: Pairs, select: Pairs, label: int, doubt: float) -> Base:
    """The closed form, of normal scores of columns or of the columns, under which the select labels are the likeliest:
    by more than a standard error, else normal scores, else the prior alone."""
    (other, own), (others, owns) = ((p.x, p.y) if label == 1 else (p.y, p.x) for p in (fit, select))
    counts = own.sum(0) + 0.5  # a label that only the other parts have seen has some chance
    log_prior = (counts / counts.sum()).log()
    number = max(1000, LOOKED_AT // len(log_prior))
    y, target = own.argmax(1), owns[:number].argmax(1)
    maps: list[Map] = [as_they_are] if is_label(other) else [NormalScores(other), Standard(other)]
    found: Base | None = None
    best = torch.zeros(len(target))  # log-ratio of each select row
    for of_other in maps:
        z, seen = of_other(other), of_other(others[:number])
        tried = _counted(z, y, log_prior) if is_label(other) else _discriminants(z, y, len(log_prior))
        plain = next(tried)[1]
        each, base, protocol = _likeliest(tried, seen, target, log_prior, label, doubt)
        named = is_label(other) or "xy"[label] in fit.unordered
        if not named and (in_order := ordered(z, y, log_prior)) is not None:
            tried = iter([({"kind": "ordered"}, in_order)])
            by_order = _likeliest(tried, seen, target, log_prior, label, doubt)
            if is_gain(by_order[0] - each):
                each, base, protocol = by_order
        gain = each - best
        if is_gain(gain):
            best, found = each, Base(of_other, log_prior, base, plain, protocol)
        elif found is None:
            found = Base(of_other, log_prior, None, plain, None)
    assert found is not None
    return found


Tried = Iterator[tuple[dict[str, Any], nn.Module]]


def _likeliest(
    tried: Tried, z: Tensor, y: Tensor, log_prior: Tensor, label: int, doubt: float
) -> tuple[Tensor, Classifier, dict[str, Any]]:
    """Of what is tried at any strength, what rows' labels are the likeliest under, and their log-likelihoods [n]."""
    best, found = -math.inf, None
    for protocol, module in tried:
        logits = module(z)
        for strength in STRENGTHS:
            log_q = (log_prior + strength * logits).log_softmax(1)
            each = mixed((log_q - log_prior).gather(1, y[:, None])[:, 0], doubt)
            if float(each.mean()) > best:
                best = float(each.mean())
                found = each, Classifier(label, log_prior, doubt, module, strength), protocol | {"strength": strength}
    assert found is not None
    return found


def _counted(z: Tensor, y: Tensor, log_prior: Tensor) -> Tried:
    counts = z.double().T @ F.one_hot(y, len(log_prior)).double()
    for rows in UNCOUNTED[:1] + UNCOUNTED:
        shares = (counts + rows * log_prior.double().exp()) / (counts.sum(1, keepdim=True) + rows)
        yield {"kind": "counted", "uncounted": rows}, Counted(shares.log() - log_prior)


def _discriminants(z: Tensor, y: Tensor, labels: int) -> Tried:
    """The plain linear one first, then those with shrunk means and covariances."""
    z = z.clamp(-REACH, REACH)
    mean = z.double().mean(0)
    basis = _basis(z, y, labels)
    u = torch.cat([(rows.double() - mean) @ basis for rows in z.split(ROWS)])
    classes = _Classes(u, y, labels)
    yield {"kind": "plain"}, classes.linear(mean, basis, RIDGES[3], shrink=False)
    for ridge in RIDGES:
        yield {"kind": "linear", "ridge": ridge}, classes.linear(mean, basis, ridge)
    most = min(OWN_AXES, math.isqrt(OWN_NUMBERS // labels))
    if u.shape[1] > most:
        axes = torch.linalg.eigh(u.T @ u).eigenvectors[:, -most:]
        classes, basis = _Classes(u @ axes, y, labels), basis @ axes
    for ridge in OWN_RIDGES:
        for pooled in POOLED:
            protocol = {"kind": "quadratic", "ridge": ridge, "pooled": pooled}
            yield protocol, classes.quadratic(mean, basis, ridge, pooled)


def _basis(z: Tensor, y: Tensor, labels: int) -> Tensor:
    """Directions to read [d, k]: all columns, or what the labels' means and some of the rows span."""
    if z.shape[1] <= AXES:
        return torch.eye(z.shape[1], dtype=torch.float64)
    some = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:AXES]
    means = F.one_hot(y, labels).to(z).T @ z
    return torch.linalg.qr(torch.cat([means, z[some]])[:AXES].double().T).Q


class _Classes:
    """The moments of the labels' rows of u [n, k], whose mean over all is 0."""

    def __init__(self, u: Tensor, y: Tensor, labels: int):
        n, k = u.shape
        self.counts = torch.bincount(y, minlength=labels).double()[:, None]  # [labels, 1]
        self.means = u.new_zeros(labels, k).index_add_(0, y, u) / self.counts.clamp(min=1)
        self.parts = [u[rows] for rows in y.argsort(stable=True).split(self.counts[:, 0].long().tolist())]
        self.seen = int((self.counts > 0).sum())
        total = u.T @ u
        within = (total - (self.counts * self.means).T @ self.means) / max(1, n - self.seen)
        values, self.vectors = torch.linalg.eigh(within)
        self.values = values.clamp(min=max(FLOOR * float(total.trace()) / (n * k), 1e-12))  # 1e-12: nothing varies

    def _whitened(self, ridge: float, shrink: bool = True) -> "_Whitened":
        """Means are drawn from a Gaussian themselves: along each of its axes its variance is that of the labels' means,
        less what noise makes of it. A label's mean is known as well as its rows allow."""
        n, k = float(self.counts.sum()), len(self.values)
        whiten = self.vectors * ((1 - ridge) * self.values + ridge * self.values.mean()).rsqrt()
        means = self.means @ whiten
        _, strongest, axes = torch.linalg.svd(self.counts.sqrt() * means, full_matrices=False)
        if not shrink:
            return _Whitened(whiten, axes.T, means @ axes.T, torch.zeros_like(means @ axes.T))
        noise = k + self.seen - 1  # exact for two labels and for one column
        between = (strongest**2 - noise).clamp(min=0) / (n - float((self.counts**2).sum()) / n)
        used = between > 0
        axes, between = axes[used].T, between[used]
        known = self.counts * between
        return _Whitened(whiten, axes, known / (known + 1) * (means @ axes), between / (known + 1))

    def linear(self, mean: Tensor, basis: Tensor, ridge: float, shrink: bool = True) -> Discriminant:
        """One covariance for all labels."""
        w = self._whitened(ridge, shrink)
        variances = 1 + w.doubts
        return Discriminant(
            mean, basis @ (w.whiten @ w.axes), torch.arange(w.axes.shape[1]).expand(2, -1).clone(),
            (w.means / variances).T, (-0.5 / variances).T,
            -0.5 * (w.means**2 / variances + variances.log()).sum(1),
        )  # fmt: skip

    def quadratic(self, mean: Tensor, basis: Tensor, ridge: float, pooled: float) -> Discriminant:
        """A covariance for each label, between the pooled one and that of its rows."""
        w = self._whitened(ridge)
        k = len(self.values)
        i, j = torch.triu_indices(k, k)
        one, rows = torch.eye(k).to(w.whiten), pooled * (k + 1)
        linear, quadratic, constant = [], [], []
        for part, along, doubt in zip(self.parts, w.means, w.doubts, strict=True):
            m = w.axes @ along
            rest = part @ w.whiten - m
            expected = one + (w.axes * doubt) @ w.axes.T
            covariance = (rest.T @ rest + rows * expected) / (len(part) + rows)
            factor = torch.linalg.cholesky(covariance)
            precision = torch.cholesky_inverse(factor)
            linear.append(precision @ m)
            quadratic.append(precision[i, j] * torch.where(i == j, -0.5, -1.0))
            constant.append(-0.5 * m @ precision @ m - factor.diagonal().log().sum())
        of_labels = torch.stack(linear, 1), torch.stack(quadratic, 1), torch.stack(constant)
        return Discriminant(mean, basis @ w.whiten, torch.stack([i, j]), *of_labels)


@dataclass(frozen=True)
class _Whitened:
    """Where covariances within labels are 1: the map [k, k], the axes of the labels' means [k, j], and along these each
    label's mean, and its variance as far as it is not known [labels, j]."""

    whiten: Tensor
    axes: Tensor
    means: Tensor
    doubts: Tensor


def as_they_are(t: Tensor) -> Tensor:
    """The map of a side of labels: its one-hot rows."""
    return t.float()
