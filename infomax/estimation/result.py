"""What an estimate says: a number in nats that is never alone."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from infomax.errors import UserError
from infomax.estimation.statement import NATS_A_BIT, certified, statement
from infomax.files import finite

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95  # of every interval, unless another is asked for
Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One reason for or against believing a value, by its name: a statistic, its threshold, a verdict, and a sentence.

    "fail" makes the estimate untrusted; "warn" says what to bear in mind.
    """

    name: str
    statistic: float
    threshold: float
    verdict: Verdict
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; a number that is not finite is None."""
        return finite(asdict(self))


def half_width(stderr: float, freedom: float, level: float = LEVEL) -> float:
    """Half of an interval at `level`, by Student's t with so many degrees of freedom; inf: a normal's."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2)) * stderr


@dataclass(frozen=True, slots=True)
class Bits:
    """An estimate's numbers in bits: mi, stderr, interval, floor, ceiling and cap as in Estimate, and its statement."""

    mi: float
    stderr: float
    interval: tuple[float, float]
    floor: float
    ceiling: float
    cap: float | None
    statement: str

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; a number that is not finite is None."""
        return finite(asdict(self))

    def __str__(self) -> str:
        return self.statement


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of mutual information, in nats, from pairs that neither fitted nor selected the critic.

    mi: the value. stderr: the sampling noise of the test pairs, and what the folds' critics differ by. interval (95 %;
    `interval_at` has other levels): that, with an upper end raised by what a critic may have missed, where it shows:
    the value's rise from half of the pairs to all, what pairs re-matched by the critic's own ratio lack, a share of
    what was learned. freedom: the degrees of freedom of its Student's t. n: pairs in all. splits: how many pairs
    trained and validated, of each fold where there are folds, and how many tested in all. ceiling: log of the number of
    test pairs, above which no distribution-free bound can reach (McAllester & Stratos, 2020). floor: the certified
    lower bound, one-sided at 95 %, on the true MI of independent pairs whatever the critic; it may be negative. cap:
    the known upper bound, where there is one (the entropy of a label, as its shares in the pairs give it; the capacity
    of a noisy channel). checks: reasons for and against. method, critic: what estimated, as texts. seed: of splits and
    critic. protocol: how it came about, as JSON-able values; its "read_by" is "neighbours" where their distances gave
    the value beside these critics (`evidence.competition`), else "critics". p_value: of independence, from test pairs
    that were matched anew (`evidence.independence` says of which null hypothesis), given z by surrogates
    (`evidence.surrogates`), which are joined with the critics' scores; None where there is none. entropy: of the side
    of fewest different rows, in nats, where a side has few. quantity: what was estimated, such as "I(X; Y)". pointwise
    [m]: log p(x, y) / p(x) p(y) of each test pair, in nats, by the critic that never saw it; rows [m]: which row of x
    and y each is, in rising order (of given splits, counted through fit, select and report). None where the estimator's
    scores are not log ratios; neither is in JSON.
    """

    mi: float
    stderr: float
    interval: tuple[float, float]
    n: int
    splits: tuple[int, int, int]
    ceiling: float
    floor: float
    cap: float | None
    checks: tuple[Check, ...]
    method: str
    critic: str
    seed: int
    protocol: dict[str, Any]
    p_value: float | None = None
    entropy: float | None = None
    quantity: str = "I(X; Y)"
    pointwise: "np.ndarray | None" = field(default=None, repr=False, compare=False)
    rows: "np.ndarray | None" = field(default=None, repr=False, compare=False)
    freedom: float = math.inf

    @property
    def statement(self) -> str:
        """The sentence to believe: "0.83 nats [0.79, 0.88]" where trusted, else what is certified, and why no more."""
        return statement(self)

    @property
    def certified(self) -> str:
        """What holds at 95 % whatever the critic: "at least 5.20 nats (95 %)"."""
        return certified(self)

    @property
    def bits(self) -> Bits:
        """The same numbers in bits, and the statement."""
        return Bits(
            self.mi / NATS_A_BIT,
            self.stderr / NATS_A_BIT,
            (self.interval[0] / NATS_A_BIT, self.interval[1] / NATS_A_BIT),
            self.floor / NATS_A_BIT,
            self.ceiling / NATS_A_BIT,
            None if self.cap is None else self.cap / NATS_A_BIT,
            statement(self, "bits"),
        )

    @property
    def normalised(self) -> float | None:
        """The value between 0 and 1: of labels the uncertainty coefficient, of numbers the informational coefficient.

        Where a side has few different rows, I / H of the side of least entropy: which share of what there is to know
        about it the other side tells (Theil, 1970). Else sqrt(1 - exp(-2 I)), a correlation's size where the pairs are
        normal (Linfoot, 1957); given Z, a partial correlation's. A value beyond an end is that end where the interval
        reaches it. None where it is undefined: a value that is not finite, an interval beyond the ends, labels given Z.
        """
        low, high = self.interval
        if not math.isfinite(self.mi) or high < 0:
            return None
        if self.entropy is None:
            return math.sqrt(-math.expm1(-2 * max(self.mi, 0.0)))
        if "|" in self.quantity or low > self.entropy or self.entropy <= 0:
            return None
        return min(max(self.mi / self.entropy, 0.0), 1.0)

    @property
    def trusted(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict != "fail" for check in self.checks)

    @property
    def names(self) -> dict[str, list[str]]:
        """The names of the columns of each side that was a data frame or series: {"x": ["age", "height"], ...}."""
        return self.protocol.get("names", {})

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences of the failed checks: why the value is not to be trusted."""
        return tuple(check.sentence for check in self.checks if check.verdict == "fail")

    def to_dict(self) -> dict[str, Any]:
        """The statement, and all else but `pointwise` and `rows`, as JSON-able values, with `normalised`, `bits`,
        `trusted` and `reasons`; a number that is not finite is None."""
        names = [each.name for each in fields(self) if each.name not in ("pointwise", "rows")]
        own = {name: getattr(self, name) for name in names} | {"checks": [asdict(check) for check in self.checks]}
        said = {"normalised": self.normalised, "bits": self.bits.to_dict()}
        return finite({"statement": self.statement, **own, **said, "trusted": self.trusted, "reasons": self.reasons})

    def interval_at(self, level: float) -> tuple[float, float]:
        """The interval at another level, in nats; at .95 it is `interval`, to the bit.

        level: a share between 0 and 1, such as 0.9. Student's t with `freedom` has another factor at each level; what a
        critic may have missed is no sampling error, and moves an end as far at every level. How often intervals at each
        level hold: docs/estimates.md.
        Raises UserError: a level that is not between 0 and 1.
        """
        if isinstance(level, str) or not 0 < level < 1:
            raise UserError(f"level is {level!r}: it is a share between 0 and 1, such as 0.9.")
        if not math.isfinite(self.stderr):
            return self.interval
        wider = half_width(self.stderr, self.freedom, level) - half_width(self.stderr, self.freedom)
        return self.interval[0] - wider, self.interval[1] + wider

    @property
    def reach(self) -> tuple[float, float]:
        """How far the interval goes below the value and above it, in nats: above it may go further."""
        return self.mi - self.interval[0], self.interval[1] - self.mi

    @property
    def shared_out(self) -> str:
        """How many pairs fit, select and report: "1000 pairs: 600 fit, 150 select, 250 report"."""
        fit, select, report = self.splits
        folds = " (cross-fitted: in turns)" if fit + select + report > self.n else ""
        return f"{self.n} pairs: {fit} fit, {select} select, {report} report{folds}"

    @property
    def blocks(self) -> int | None:
        """How many rows a block has that was chosen by blocks="auto"; None where blocks were given, or are none."""
        return self.protocol.get("blocks", {}).get("length")

    def __str__(self) -> str:
        return self.shown()

    def shown(self, unit: Literal["nats", "bits"] = "nats") -> str:
        """The statement, the numbers in `unit`, "nats" or "bits", and every check, whose sentences are in nats."""
        of: Any = self if unit == "nats" else self.bits
        low, high = of.interval
        name = "MI" if self.quantity == "I(X; Y)" else self.quantity
        p = "" if self.p_value is None else f", p = {self.p_value:.3g} for independence"
        normalised = "" if self.normalised is None else f", normalised {self.normalised:.3f}"
        lines = [
            of.statement,
            f"{name} {of.mi:.3f} {unit}, 95 % interval [{low:.3f}, {high:.3f}], "
            f"{'trusted' if self.trusted else 'NOT TRUSTED'}{p}{normalised}",
            f"floor {of.floor:.3f} (certified at 95 %), ceiling {of.ceiling:.3f} "
            f"(log of {self.splits[2]} report pairs)"
            + ("" if of.cap is None else f", cap {of.cap:.3f} (a known upper bound)"),
            f"{self.shared_out}; {self.method}, {self.critic}, seed {self.seed}"
            + ("" if self.blocks is None else f", blocks of {self.blocks} rows"),
        ]
        lines += ["checks, in nats:"] if unit == "bits" else []
        lines += [f"  {check.verdict:4}  {check.name}: {check.sentence}" for check in self.checks]
        return "\n".join(lines)
