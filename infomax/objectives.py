"""Objectives: every bound and estimate of mutual information, a class each. Scores in, nats out.

s[i, j] is a log-density-ratio log r(x_i, y_j); `positive` are the scores of the n jointly drawn pairs and `negative`
those of independent pairs. `estimate` is the value, in nats; `surrogate` is what is maximised (ascended), where the
two differ. An objective knows of no device, tile, process or file.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from infomax.errors import UserError, is_number, require_flags
from infomax.scores.face import a_number_a_row
from infomax.scores.functions import Clip, Softplus, softplus
from infomax.spelling import Renamed, Spelled, parse


class Objective(Spelled, nn.Module):
    """Base: a subclass gives estimate(s), and surrogate(s) where what is maximised is another formula.

    normalised: whether the optimum is s = log r itself; False where any s + constant has the same value.
    value_from: what the estimate is as good as: "rows" of a score's own negatives, the "partition" over all of them, or
    "plug-in", the scores of positives alone. select_by_surrogate: whether the surrogate's value, and not the estimate,
    says which of two critics is better: a plug-in or clipped value grows without limit. Their earlier names
    (fixes_constant, leans_on, ranked_by_surrogate) are read and set alike.
    """

    normalised = True
    value_from: Literal["rows", "partition", "plug-in"] = "partition"
    select_by_surrogate = False
    fixes_constant, leans_on = Renamed("normalised"), Renamed("value_from")
    ranked_by_surrogate = Renamed("select_by_surrogate")

    @property
    def trained_by(self) -> str:
        """What is maximised, as a text: objectives of one text train the same critic."""
        return repr(self)

    def estimate(self, s: Any) -> Float[Tensor, ""]:
        """s, `Scores` or what looks like them -> the estimate of MI: 0-d, in nats."""
        raise TypeError(f"{type(self).__name__} defines no estimate(scores).")

    def surrogate(self, s: Any) -> Float[Tensor, ""]:
        """s, `Scores` -> what is ascended: 0-d; its gradient trains critic and encoder."""
        return self.estimate(s)

    def forward(self, s: Any) -> Float[Tensor, ""]:
        """0-d tensor, in nats, whose value is the estimate's and whose gradient is the surrogate's."""
        return self.value_and_surrogate(s)[0]

    def value_and_surrogate(self, s: Any) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """What forward gives, and beside it the surrogate's own value, detached."""
        if not hasattr(s, "walk_for"):
            raise UserError(f"An objective reads Scores, and not a {type(s).__name__}; of a matrix Scores.from_matrix.")
        s = s.walk_for(self.estimate, self.surrogate)
        if type(self).surrogate is Objective.surrogate:  # one formula
            value = self._one("estimate", self.estimate(s)).to(s.dtype)
            return value, value.detach()
        with torch.no_grad():
            value = self._one("estimate", self.estimate(s))
        surrogate = self._one("surrogate", self.surrogate(s))
        joined: Tensor = _ValueAndGradient.apply(value, surrogate)  # type: ignore[assignment]
        return joined.to(s.dtype), surrogate.detach().to(s.dtype)

    def _one(self, formula: str, found: Any) -> Tensor:
        """found. Raises UserError where a formula gives anything but one number."""
        if isinstance(found, Tensor) and not found.ndim:
            return found
        shown = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UserError(f"{type(self).__name__}.{formula} gives {shown}, and not one number, such as a mean of pairs.")


class _ValueAndGradient(torch.autograd.Function):
    """The first's value with the second's gradient; s + (v - s).detach() would be NaN where v overflows."""

    @staticmethod
    def forward(ctx, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        return None, gradient


class InfoNCE(Objective):
    """Lower bound on MI, also known as CPC's. (van den Oord et al., 2018)

    Ceiling: log N. Variance: low. symmetric=True: the mean of both directions. (Radford et al., 2021)

    In words: How well each x picks its own y out of a batch; steady, and never more than log N.
    """

    normalised = False
    value_from = "rows"

    def __init__(self, symmetric: bool = False):
        super().__init__()
        require_flags(symmetric=symmetric)
        self.symmetric = symmetric

    def estimate(self, s):
        value = self._direction(s, dim=1)
        return (value + self._direction(s, dim=0)) / 2 if self.symmetric else value

    def _direction(self, s, dim):
        k = s.negative.per_row if dim == 1 else s.negative.per_column  # [n]
        everything = torch.logaddexp(s.positive, s.negative.logmeanexp(dim=dim) + k.log())
        return (s.positive - everything + (k + 1).log()).mean()


class NWJ(Objective):
    """Lower bound on MI, unbiased over batches. (Nguyen, Wainwright & Jordan, 2010)

    In log-ratio form: the optimum is s = log r, where the usual form's is 1 + log r. Ceiling: none. Variance: grows as
    e^MI / N; one large negative decides a batch. Its plain gradient explodes with bounded critics of low temperature:
    CalibratedNWJ is the form to train with.

    In words: A lower bound without that limit; with few pairs and much MI it jumps from batch to batch.
    """

    def estimate(self, s):
        return 1 + s.positive.mean() - s.negative.logmeanexp().exp()


class CalibratedNWJ(Objective):
    """NWJ at the critic s - c, where c is a running mean of the batches' log-partitions: trains where NWJ explodes.

    Lower bound on MI for any c that this batch did not decide (the first batch decides its own), so as NWJ's. Ceiling:
    none. Variance: as NWJ's. c stands for the critic's additive constant, which NWJ's plain gradient must learn
    through e^s; here it is set in closed form. The gradient's weight on negatives, e^(L - c), is clipped at e^limit.
    decay: of the running mean, in [0, 1). limit: in nats. The constant is TUBA's baseline. (after Poole et al., 2019)

    In words: NWJ with its scores kept in range, so that it can also be trained with.
    """

    normalised = False

    constant: Tensor
    batches: Tensor

    def __init__(self, decay: float = 0.9, limit: float = 1.0):
        super().__init__()
        _check_decay(decay)
        if not (is_number(limit) and limit > 0):
            raise UserError(f"limit must be a positive number of nats, and {limit!r} is not; 1 is usual.")
        self.decay, self.limit = decay, float(limit)
        self.register_buffer("constant", torch.zeros((), dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def estimate(self, s):
        c = self._constant(s)
        return 1 + s.positive.mean() - c - (s.negative.logmeanexp() - c).exp()

    def surrogate(self, s):
        partition = s.negative.logmeanexp()
        weight = (partition.detach() - self._constant(s)).clamp(max=self.limit).exp()
        if self.training and torch.is_grad_enabled():
            decay = self.decay if self.batches > 0 else 0.0
            self.constant.lerp_(partition.detach().to(self.constant), 1 - decay)
            self.batches += 1
        return s.positive.mean() - weight * partition

    def _constant(self, s) -> Tensor:
        own = s.negative.logmeanexp().detach()
        return torch.where(self.batches > 0, self.constant.to(own), own)


class DV(Objective):
    """Donsker and Varadhan's bound on MI, estimated with a biased plug-in partition. (Donsker & Varadhan, 1983)

    A lower bound over the population; over a batch the log of a mean overstates. Ceiling: none. Variance: e^MI / N.

    In words: The classical lower bound; on one batch it tends to say too much.
    """

    normalised = False

    def estimate(self, s):
        return s.positive.mean() - s.negative.logmeanexp()


class MINE(Objective):
    """DV's value, with a gradient whose partition is a running average over batches. (Belghazi et al., 2018)

    decay: of the running average, in [0, 1). The average corrects the gradient's bias, not the value's. Ceiling: none.
    Variance: DV's, e^MI / N.

    In words: DV, with steadier gradients by memory of earlier batches.
    """

    normalised = False

    log_average: Tensor
    batches: Tensor

    def __init__(self, decay: float = 0.99):
        super().__init__()
        _check_decay(decay)
        self.decay = decay
        # In the log domain, where e^s does not overflow; -inf is the log of an empty average.
        self.register_buffer("log_average", torch.full((), -math.inf, dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def estimate(self, s):
        return s.positive.mean() - s.negative.logmeanexp()

    def surrogate(self, s):
        partition = s.negative.logmeanexp()
        if self.training and torch.is_grad_enabled():
            own = partition.detach().to(self.log_average)
            self.log_average.copy_(torch.logaddexp(self.log_average + _log(self.decay), own + _log(1 - self.decay)))
            self.batches += 1
        # Divided by what the weights of the batches seen so far sum to, 1 - decay^batches.
        average = self.log_average - torch.log(-torch.expm1(self.batches.double() * _log(self.decay)))
        average = torch.where(self.batches > 0, average.to(partition), partition.detach())
        return s.positive.mean() - (partition - average).exp()


class _JensenShannon(Objective):
    """Those whose critic maximises the Jensen-Shannon bound, whatever value is read from its scores."""

    select_by_surrogate = True

    @property
    def trained_by(self) -> str:
        return "JensenShannon()"

    def surrogate(self, s):
        return jensen_shannon(s)


class SMILE(_JensenShannon):
    """DV with scores clipped to [-tau, tau] in the partition alone; the critic learns by Jensen-Shannon.

    No bound: clipping trades variance for a bias that can overstate, by up to 2 nats with a perfect critic at 10.
    tau=inf is DV's value. Ceiling: none. Variance: at most about e^tau / N. (Song & Ermon, 2020)

    In words: DV with large scores cut off: far steadier, and sometimes too high.
    """

    def __init__(self, tau: float = 5.0):
        super().__init__()
        self.tau = float(Clip(tau).tau)

    def estimate(self, s):
        return s.positive.mean() - s.negative.logmeanexp(Clip(self.tau))


class JS(_JensenShannon):
    """The Jensen-Shannon bound is maximised, the value is NWJ's. (Nowozin et al., 2016; Poole et al., 2019)

    The surrogate bounds a Jensen-Shannon divergence, whose optimum is s = log r; the value is a lower bound on MI.
    Ceiling: none. Variance: of the gradient low, of the value NWJ's, e^MI / N.

    In words: A stable way to train, whose value is a lower bound as jumpy as NWJ's.
    """

    def estimate(self, s):
        return 1 + s.positive.mean() - s.negative.logmeanexp().exp()


class JSPlugin(_JensenShannon):
    """The Jensen-Shannon bound is maximised, the value is the plug-in mean of log r. (Letizia & Tonello, 2022)

    Also known as GAN-DIME. No bound: the value is as good as the critic. Ceiling: none. Variance: that of log r over
    pairs.

    In words: A stable way to train, whose value is as right as what was learnt, too high or too low.
    """

    value_from = "plug-in"

    def estimate(self, s):
        return s.positive.mean()


class TUBA(Objective):
    """Lower bound on MI with a baseline a(x), per row; a = 0 is NWJ. (Barber & Agakov, 2003; Poole et al., 2019)

    baseline: None for a learned scalar, or a module that reads s.x [n, dx] and gives [n] or [n, 1]. Ceiling: none.
    Variance: NWJ's, e^MI / N.

    In words: NWJ with a learnt reference level for each x, which makes it steadier if that is learnt well.
    """

    normalised = False

    def __init__(self, baseline: nn.Module | None = None):
        super().__init__()
        if baseline is not None and not isinstance(baseline, nn.Module):
            raise UserError(f"baseline must be a module that reads x, or None for a learned scalar, not {baseline!r}.")
        self.baseline = baseline
        self.scalar = nn.Parameter(torch.zeros(())) if baseline is None else None

    def estimate(self, s):
        a = self.scalar if self.baseline is None else a_number_a_row(self.baseline, "baseline", s.x)
        return 1 + (s.positive - a).mean() - (s.negative.logmeanexp(dim=1) - a).exp().mean()


class SigLIP(Objective):
    """Sigmoid loss over all pairs is minimised; the value is the plug-in mean of log r. (Zhai et al., 2023)

    With k negatives to a positive its optimum is log r - log k, so log k is taken off inside. No bound: the value is
    as good as the critic. Ceiling: none. Variance: that of log r over pairs.

    In words: Each pair is judged by itself, real or not; the value is as right as what was learnt.
    """

    value_from = "plug-in"
    select_by_surrogate = True

    def surrogate(self, s):
        k = s.negative.per_positive
        positive = F.logsigmoid(s.positive - math.log(k)).mean()
        return positive - k * s.negative.mean(Softplus(math.log(k)))

    def estimate(self, s):
        return s.positive.mean()


class Anchor(Objective):
    """InfoNCE with an anchor class of weight nu, whose optimum is log r itself; plug-in value. (Ryu et al., 2025)

    Which of k candidates is the positive, or is none of them? The anchor, "none", fixes the constant that InfoNCE
    leaves free in each row. No bound: the value is as good as the critic. Ceiling: none in the value, but little
    is learnt above log N. Variance: that of log r over pairs.

    In words: InfoNCE with the further answer 'none of these', so that scores mean something by themselves.
    """

    value_from = "plug-in"
    select_by_surrogate = True

    def __init__(self, nu: float = 1.0):
        super().__init__()
        if not (is_number(nu) and nu > 0 and math.isfinite(nu)):
            raise UserError(f"nu must be a positive number, and {nu!r} is not; 1 is usual.")
        self.nu = nu

    def surrogate(self, s):
        # k candidates: the positive beside k - 1 negatives, or k negatives; a row's k negatives serve both.
        k = s.negative.per_row
        log_nu = torch.full_like(s.positive, math.log(self.nu))
        others = torch.logaddexp(s.negative.rest.logmeanexp(dim=1) + (k - 1).log(), log_nu)  # nu + k - 1 negatives
        one = s.positive - torch.logaddexp(s.positive, others)
        none = log_nu - torch.logaddexp(s.negative.first, others)
        return (one + self.nu / k * none).mean()

    def estimate(self, s):
        return s.positive.mean()


def jensen_shannon(s: Any) -> Float[Tensor, ""]:
    """The Jensen-Shannon bound of a classifier of positives from negatives; its optimum is s = log r."""
    return F.logsigmoid(s.positive).mean() - s.negative.mean(softplus)


def _log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf


def _check_decay(decay: float) -> None:
    if not (is_number(decay) and 0 <= decay < 1):
        raise UserError(f"decay must be in [0, 1), and {decay!r} is not; 0.9 and 0.99 are usual.")


registry: dict[str, type[Objective]] = {
    name.lower(): found
    for name, found in list(globals().items())
    if isinstance(found, type) and issubclass(found, Objective) and not name.startswith("_") and found is not Objective
}


def objective(text: str | Objective, allow_imports: bool = True) -> Objective:
    """The objective that a text spells: "SMILE(tau=3)", "nwj", "module:Class"; an objective is returned as it is.

    allow_imports: whether `module:Class` may be imported, which runs that module's code. Raises UserError: an unknown
    name, with the nearest ones; an argument that the objective refuses.
    """
    if isinstance(text, Objective):
        return text
    found = parse(text, registry, "objective", allow_imports)
    if not isinstance(found, Objective):
        raise UserError(f"objective {text!r} has no estimate(scores): derive it from infomax.Objective.")
    return found
