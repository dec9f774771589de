"""What an estimate says: a number in nats that is never alone."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from infomax.files import finite

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


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of mutual information, in nats, from pairs that neither fitted nor selected the critic.

    mi: the value. stderr: the sampling noise of the test pairs, and what the folds' critics differ by. interval (95 %):
    that, with an upper end raised by what a critic may have missed, where it shows: the value's rise from half of the
    pairs to all, what pairs re-matched by the critic's own ratio lack, a share of what was learned. n: pairs in all.
    splits: how many pairs trained and validated, of each fold where there are folds, and how many tested in all.
    ceiling: log of the number of test pairs, above which no distribution-free bound can reach (McAllester & Stratos,
    2020). floor: the certified lower bound, one-sided at 95 %, on the true MI of independent pairs whatever the critic;
    it may be negative. cap: the known upper bound, where there is one (the entropy of a label, as its shares in the
    pairs give it; the capacity of a noisy channel). checks: reasons for and against. method, critic: what estimated, as
    texts. seed: of splits and critic. protocol: how it came about, as JSON-able values.
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
        """Everything as JSON-able values, with `trusted` and `reasons`; a number that is not finite is None."""
        return finite(asdict(self) | {"trusted": self.trusted, "reasons": self.reasons})

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

    def __str__(self) -> str:
        low, high = self.interval
        lines = [
            f"MI {self.mi:.3f} nats, 95 % interval [{low:.3f}, {high:.3f}], "
            f"{'trusted' if self.trusted else 'NOT TRUSTED'}",
            f"floor {self.floor:.3f} (certified at 95 %), ceiling {self.ceiling:.3f} "
            f"(log of {self.splits[2]} report pairs)"
            + ("" if self.cap is None else f", cap {self.cap:.3f} (a known upper bound)"),
            f"{self.shared_out}; {self.method}, {self.critic}, seed {self.seed}",
        ]
        lines += [f"  {check.verdict:4}  {check.name}: {check.sentence}" for check in self.checks]
        return "\n".join(lines)
