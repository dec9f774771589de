"""I(J; Z): how far a view's features tell which of N held-out images it shows. Finite, and bounded from both sides.

J is one of N images, each as likely, and Z the features of a random view of image J. I(J; Z) = log N - H(J | Z) is at
most log N. Any classifier q(j | z) bounds it from below: I(J; Z) >= log N + E log q(J | Z) (Barber & Agakov, 2003).
Views cost nothing, so a classifier is fitted on many views of these very images, and read on other views of them.

The classifier's log odds are a sum of two, each times a factor that an eighth of the fitting views choose: a Gaussian
for each image in the directions that part images best (quadratic discriminant analysis), with covariances drawn towards
that of all; and Gaussians of one covariance, seen through a network that is fitted with their means.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation import Check
from infomax.estimation.evidence import checks
from infomax.estimation.statement import UNITS, rounded_down
from infomax.evaluation.layers import features_of_views, principal_axes
from infomax.evaluation.subject import Source, Subject, subject
from infomax.files import finite

IMAGES, AMONG = 256, 64  # held-out images that are told apart, and among how many at once
VIEWS, READ = 64, 8  # of an image: to fit the classifier on, and to read it on
FEWEST = 16  # images
COMPONENTS = 256  # of the features, at most
DIRECTIONS = 32  # that part images best, in which each image has a covariance of its own
SHARED = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # how far these are drawn towards that of all; chosen on views
EPOCHS, BATCH, RATE, DECAY = 5, 512, 1e-3, 1e-2
SHARPNESS = 0.2  # of the first scores: a Gaussian of shared covariance is too sure of itself in many dimensions
UNIFORM = 1e-3  # of the classifier's mixture: no view counts for less than log of it, so that a mean has an error
RATIO = 1 / (2**0.25 - 1)  # what may still come, in rises from half the views, where their error falls as K^-1/4
FLAT = 0.1  # of log 2, what each doubling of the images can add
SPREAD = 1e-5  # of the largest variance within images; a direction with less is taken to have it


@dataclass(frozen=True)
class Identity:
    """I(J; Z) in nats: how far features of a view tell which of `among` held-out images, each as likely, it shows.

    mi: the value, what the classifier reads and its rise from half the views to all. floor: the certified lower bound,
    one-sided at 95 % over images, whatever the classifier. interval (95 %): down by the error over images, up by what
    more views may bring, where their error falls as slowly as the fourth root of their number: an extrapolation, which
    features of many modes an image break unseen, while floor and cap hold whatever the features. cap: log among.
    images, views: how many images there were in all, in groups of `among`, and of each how many views were fitted on.
    curve: the floor's middle among 2, 4, 8, ... images. checks: reasons for and against, as an Estimate has them. each:
    of each image, in the order drawn by the seed, what `mi` is the mean of, by which two encoders are compared; it is
    not in JSON.
    """

    mi: float
    floor: float
    interval: tuple[float, float]
    cap: float
    among: int
    images: int
    views: int
    curve: tuple[tuple[int, float], ...]
    checks: tuple[Check, ...]
    each: tuple[float, ...] = field(default=(), repr=False)

    @property
    def trusted(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict != "fail" for check in self.checks)

    @property
    def saturates_at(self) -> int | None:
        """The fewest images from which every doubling, of two or more, adds less than a tenth of log 2; None: the curve
        may still rise."""
        rises = [after - before for (_, before), (_, after) in itertools.pairwise(self.curve)]
        steep = [i for i, rise in enumerate(rises) if rise >= FLAT * math.log(2)]
        last = steep[-1] + 1 if steep else 0
        return self.curve[last][0] if last + 1 < len(rises) else None

    @property
    def told_apart(self) -> float:
        """So many images, each always told from the others, would give as many nats: exp of the value."""
        return math.exp(self.mi)

    @property
    def statement(self) -> str:
        """The sentence to believe, in nats: as `said` has it."""
        return self.said()

    def said(self, unit: Literal["nats", "bits"] = "nats") -> str:
        """What is certain first: "at least 3.80 of 4.16 nats (95 %), about 3.95"; or that the value is not trusted.

        unit: "nats" or "bits".
        """
        mi, cap, floor = (n / UNITS[unit] for n in (self.mi, self.cap, self.floor))
        floor = rounded_down(floor)
        certified = f"at least {floor:.2f} of {cap:.2f} {unit} (95 %)"
        if floor <= 0:
            certified = f"nothing above 0 of {cap:.2f} {unit} is certified (95 %)"
        if self.trusted:
            return f"{certified}, about {_two(mi)}"
        return f"{certified}; the point estimate {_two(mi)} is not trusted"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values, with trusted, statement, saturates_at; what is not finite is None."""
        said = {"trusted": self.trusted, "statement": self.statement, "saturates_at": self.saturates_at}
        known = asdict(replace(self, each=()))
        del known["each"]
        return finite({"quantity": "I(J; Z)", **known, **said})


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def identity_mi(
    checkpoint: Source,
    dataset: Any = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    images: int = IMAGES,
    among: int = AMONG,
    views: int = VIEWS,
) -> Identity:
    """Estimates I(J; Z), in nats, of an encoder on held-out images of which random views are drawn.

    checkpoint, dataset, seed, device: as evaluate() takes them. images: how many held-out images, drawn by the seed;
    all where there are fewer. among: N, how many are told apart at once. views: K, of each image to fit on; 8 more are
    read. Raises UserError: fewer than 16 held-out images, features that are no finite numbers.
    """
    if views < 8 or among < 2 or images < among:
        told = f"{views} views of {images} images, {among} told apart at once, are"
        raise UserError(f"{told} too few: I(J; Z) takes 8 views or more, and 2 images or more to tell apart.")
    rows = rows_of_views(subject(checkpoint, dataset), images, views + READ, seed, device)
    return of_rows(rows[:, :views], rows[:, views:], among=min(among, len(rows)), seed=seed)


def rows_of_views(
    about: Subject, images: int, draws: int, seed: int, device: str | torch.device | None = None
) -> Tensor:
    """Features [n, draws, d] of views of at most `images` held-out images, drawn by the seed. Raises UserError: few.

    The views are those that `about` was trained with, drawn anew.
    """
    from infomax.data import views_for

    split, views = about.data.test, about.views or views_for(about.data)
    if len(split) < FEWEST:
        raise UserError(f"There are {len(split)} held-out images, and I(J; Z) takes {FEWEST} or more.")
    some = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:images]
    rows = features_of_views(about.encoder, split, some, views, seed, draws, 0, device or "cpu")
    return rows.reshape(draws, len(some), -1).transpose(0, 1).float()


def of_rows(fit: Tensor, read: Tensor, *, among: int, seed: int = 0) -> Identity:
    """I(J; Z) from features of views. fit [n, k, d], read [n, r, d]: k and r views of each of n images.

    among: of N at once; the last n mod N images count in none. seed: of the classifier. Raises UserError: features that
    are not finite.
    """
    if not (torch.isfinite(fit).all() and torch.isfinite(read).all()):
        raise UserError("The features of a view are not finite numbers.")
    n, k, d = fit.shape
    n -= n % among
    axes = principal_axes(fit.reshape(-1, d), COMPONENTS, seed)
    fit, read = (axes(part[:n].reshape(-1, d)).reshape(n, part.shape[1], -1) for part in (fit, read))
    whole, half = _scores(fit, read, seed), _scores(fit[:, : k // 2], read, seed)
    each, before = _information(whole, among), _information(half, among)  # [n], of each image
    value, rise = float(each.mean()), max(float((each - before).mean()), 0.0)
    error, of_rise = (float(rows.std() / math.sqrt(n)) for rows in (each, each - before))
    cap = math.log(among)
    low = value - 1.96 * error
    mixing = -math.log1p(-UNIFORM)  # as much as the uniform part may cost
    high = min(cap, value + mixing + RATIO * rise + 1.96 * math.hypot(error, RATIO * of_rise))
    sizes = [2**i for i in range(1, 1 + int(math.log2(n)))]
    curve = tuple((size, float(_information(whole, size).mean())) for size in sizes)
    seen = (checks.width(low, high),)
    mi, of_images = min(value + rise, cap, high), each + (each - before if rise > 0 else 0)
    of_images = of_images + (mi - of_images.mean())  # where the cap or the upper end cut the value
    return Identity(
        mi, value - 1.645 * error, (low, high), cap, among, n, k, curve, seen, tuple(of_images.tolist()),
    )  # fmt: skip


def _information(scores: Tensor, among: int) -> Tensor:
    """log N + log q(j | z) of each image, the mean over its views, among the N images of its group: [n].

    scores [n, r, n]: of each image's views, for each image. Among fewer images the classifier is the same one, told
    that no others come into question.
    """
    n = len(scores) - len(scores) % among
    groups = [scores[i : i + among, :, i : i + among] for i in range(0, n, among)]
    right = [group.log_softmax(2).diagonal(dim1=0, dim2=2).T for group in groups]  # [among, r]
    mixed = torch.logaddexp(torch.cat(right) + math.log1p(-UNIFORM), torch.tensor(math.log(UNIFORM / among)))
    return (mixed + math.log(among)).double().mean(1)


class _Bent(nn.Module):
    """Scores [m, n] of whitened features [m, d] for n images: Gaussians of one covariance, seen through a network.

    It starts as a linear discriminant (Fisher, 1936) of whitened means [n, d]: at first the network adds 0.
    """

    def __init__(self, means: Tensor):
        super().__init__()
        n, d = means.shape
        hidden = min(max(2 * d, 64), 512)
        last = nn.Linear(hidden, d)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.bend = nn.Sequential(nn.Linear(d, hidden), nn.GELU(), last)
        self.means = nn.Parameter(means)
        self.sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows + self.bend(rows)
        return (rows @ self.means.T - self.means.square().sum(1) / 2) * self.sharpness.exp() + self.bias


def _scores(fit: Tensor, read: Tensor, seed: int) -> Tensor:
    """Scores [n, r, n] of the views that are read, by the classifier of the views that are fitted, fit [n, k, d]."""
    n, k, _ = fit.shape
    kept, fit = fit[:, : max(k // 8, 2)], fit[:, max(k // 8, 2) :]
    white = _whitened(fit)
    fit, kept, read = white(fit), white(kept), white(read)
    axes = torch.linalg.eigh(fit.mean(1).double().T @ fit.mean(1).double())[1][:, -DIRECTIONS:].float()
    quadratic = [(part @ axes).flatten(0, 1) for part in (kept, read)]
    best: tuple[float, Tensor, Tensor] | None = None
    for shared in SHARED:
        to_scores = _quadratic(fit @ axes, shared)
        scores = to_scores(quadratic[0]).reshape(n, -1, n)
        loss, _ = _factors([scores])
        if best is None or loss < best[0]:
            best = loss, scores, to_scores(quadratic[1]).reshape(n, -1, n)
    bent = _fitted(fit, seed)
    with torch.no_grad():
        chosen, other = (bent(part.flatten(0, 1)).reshape(n, -1, n) for part in (kept, read))
    assert best is not None
    _, (a, b) = _factors([best[1], chosen])
    return a * best[2] + b * other


def _whitened(fit: Tensor) -> Callable[[Tensor], Tensor]:
    """The map to features whose mean is 0, and whose covariance within images is the identity."""
    centre, means = fit.mean((0, 1)), fit.mean(1)
    within = (fit - means[:, None]).flatten(0, 1).double()
    variances, axes = torch.linalg.eigh(within.T @ within / max(len(within) - len(fit), 1))
    least = max(float(variances[-1]) * SPREAD, torch.finfo(torch.float32).tiny)
    white = (axes * variances.clamp(min=least).rsqrt()).float()
    return lambda rows: (rows - centre) @ white


def _quadratic(fit: Tensor, shared: float) -> Callable[[Tensor], Tensor]:
    """Log densities of rows [m, p], up to a term that all images share, under a Gaussian for each image: [m, n].

    fit [n, k, p]: whitened views. shared: how far each covariance is drawn towards the identity.
    """
    k, p = fit.shape[1:]
    means = fit.mean(1).double()
    apart = fit.double() - means[:, None]
    covariances = (1 - shared) * torch.einsum("nki,nkj->nij", apart, apart) / (k - 1) + shared * torch.eye(p).double()
    precisions = torch.linalg.inv(covariances)
    linear = torch.einsum("nij,nj->ni", precisions, means)
    constant = -((linear * means).sum(1) + torch.linalg.slogdet(covariances)[1]) / 2
    i, j = torch.triu_indices(p, p)
    square = (precisions[:, i, j] * torch.where(i == j, 0.5, 1.0)).float()
    return lambda rows: -(rows[:, i] * rows[:, j]) @ square.T + rows @ linear.T.float() + constant.float()


def _fitted(fit: Tensor, seed: int) -> _Bent:
    rows, names = fit.flatten(0, 1), torch.arange(len(fit)).repeat_interleave(fit.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        bent = _Bent(fit.mean(1))
        optimizer = torch.optim.AdamW(bent.parameters(), lr=RATE, weight_decay=DECAY)
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, EPOCHS * math.ceil(len(rows) / BATCH))
        for _ in range(EPOCHS):
            for at in torch.randperm(len(rows)).split(BATCH):
                loss = nn.functional.cross_entropy(bent(rows[at]), names[at])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(bent.parameters(), 5.0)
                optimizer.step()
                falling.step()
    return bent


def _factors(scores: list[Tensor]) -> tuple[float, Tensor]:
    """The factors of scores [n, r, n] whose sum has the least cross-entropy, and that, in nats: a convex problem."""
    factors = torch.full((len(scores),), 0.3, requires_grad=True)
    solver = torch.optim.LBFGS([factors], lr=0.5, max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        total = sum(factor * one for factor, one in zip(factors, scores, strict=True))
        return -total.log_softmax(2).diagonal(dim1=0, dim2=2).mean()  # type: ignore[union-attr]

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    solver.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        return float(loss()), factors.detach()
