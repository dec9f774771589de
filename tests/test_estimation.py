"""Estimates: right where the truth is known, untrusted where they cannot be right, and refused with a sentence."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import infomax as im
from infomax import estimation
from infomax.benchmarks import tasks
from infomax.estimation import Budget, Estimate, estimate, estimate_splits, estimator
from infomax.estimation import pairs as inputs
from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.bases.student import StudentCopula, elliptical
from infomax.estimation.critic import gated
from infomax.estimation.evidence import checks, floor, uncertainty

QUICK = Budget(steps=150, every=25, patience=2, batch_size=128, learning_rate=1e-3)
SMALL = "Separable(hidden=32, out=8)"


def gauss(n: int, d: int, mi: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x, y [n, d] of correlated normals with the given MI in nats."""
    rng = np.random.default_rng(seed)
    rho = math.sqrt(1 - math.exp(-2 * mi / d))
    x = rng.normal(size=(n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(n, d))


def quick(x, y, objective="CopulaJS", critic=SMALL, **options) -> Estimate:
    return estimate(x, y, objective, critic, budget=QUICK, **options)


@pytest.fixture(scope="module")
def two() -> Estimate:
    return quick(*gauss(2000, 5, 2.0))


def check(found: Estimate, name: str) -> estimation.Check:
    return next(check for check in found.checks if check.name == name)


# Values -------------------------------------------------------------------------------------------------------------


def test_two_nats_are_found_with_their_interval(two):
    assert two.mi == pytest.approx(2.0, abs=0.2)
    assert two.interval[0] < 2.0 < two.interval[1]
    assert 0 < two.stderr < 0.15
    assert two.trusted
    assert not two.reasons
    assert two.floor < 2.0
    assert two.floor > 0.5
    assert two.splits == (1200, 300, 500)
    assert two.n == 2000
    assert two.ceiling == pytest.approx(math.log(500))


@pytest.mark.parametrize("seed", [0, 1])
def test_independent_pairs_give_about_zero(seed):
    found = quick(*gauss(1000, 5, 0.0, seed), seed=seed)
    assert found.mi == pytest.approx(0, abs=0.05)
    assert found.interval[0] < 0 < found.interval[1]  # of a width, even where the zero critic was kept
    assert found.floor < 0
    assert found.trusted


def test_a_value_near_the_ceiling_is_not_trusted():
    found = quick(*gauss(600, 20, 8.0))
    assert not found.trusted
    assert check(found, "ceiling").verdict == "fail"
    assert any("above the ceiling" in reason for reason in found.reasons)
    assert "0.20 nats below the ceiling" in checks.ceiling(6.8, 7.0, "plug-in").sentence


def test_infonce_saturates_and_says_so():
    found = quick(*gauss(600, 20, 8.0), "InfoNCE")
    assert found.mi < found.ceiling < 8
    assert not found.trusted


def test_a_critic_that_missed_dependence_is_found_out():
    found = estimate(*gauss(800, 5, 2.0), "JS", SMALL, budget=Budget(steps=10, every=10))
    assert found.interval[1] < 1.5
    assert not found.trusted
    assert check(found, "rival").verdict == "fail"


@pytest.mark.slow
def test_dependence_outside_the_base_is_learned():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1))
    y = np.abs(x) + 0.5 * rng.normal(size=(2000, 1))  # uncorrelated: a Gaussian copula sees nothing
    found = quick(x, y)
    assert found.mi > 0.2
    assert found.protocol["training"]["kept"] == "trained"


@pytest.mark.slow
def test_invertible_maps_of_a_side_do_not_change_the_default():
    x, y = gauss(600, 3, 1.0)
    assert quick(np.exp(x), 1e5 + y**3).mi == pytest.approx(quick(x, y).mi, abs=1e-3)


@pytest.mark.parametrize("critic", ["Cosine(temperature=0.5)", "Bilinear", "Concat(hidden=16)"])
@pytest.mark.slow
def test_every_critic_estimates(critic):
    assert quick(*gauss(600, 2, 1.0), critic=critic).mi == pytest.approx(1.0, abs=0.35)


@pytest.mark.slow
def test_a_label_is_capped_by_its_entropy():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 1200)
    found = quick(label, rng.normal(size=(1200, 2)) + 4 * label[:, None])
    assert found.cap == pytest.approx(math.log(3), abs=0.01)
    assert found.mi == pytest.approx(found.cap, abs=0.15)
    assert "read as a label with 3 values" in check(found, "labels in x").sentence


@pytest.mark.slow
@pytest.mark.parametrize(("d", "mi"), [(1, 1.0), (5, 2.0), (20, 4.0), (20, 0.0)])
def test_gaussians_of_several_sizes(d, mi):
    found = estimate(*gauss(5000, d, mi))
    assert found.mi == pytest.approx(mi, abs=0.15)
    assert found.trusted


# How ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_seed_same_numbers_whatever_the_container_and_the_global_state(two):
    torch.manual_seed(3)
    torch.rand(5)
    before = torch.random.get_rng_state()
    x, y = gauss(2000, 5, 2.0)
    again = quick(torch.from_numpy(x), torch.from_numpy(y)[:, None])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again == two
    assert quick(x, y, seed=1).mi != two.mi


def test_the_global_state_is_restored_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(im.UserError, match="Unknown critic"):
        quick(*gauss(100, 2, 1.0), critic="Separably")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_views_of_a_sample_stay_in_one_split():
    ids = torch.arange(300).repeat(3)
    pairs = inputs.Pairs(torch.randn(900, 2), torch.randn(900, 2), ids)
    parts = inputs.split(pairs, (0.6, 0.15, 0.25), seed=0)
    held = [set(part.ids.tolist()) for part in parts]
    assert [len(part) for part in parts] == [540, 135, 225]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    assert set.union(*held) == set(range(300))


@pytest.mark.slow
def test_report_pairs_touch_neither_fit_nor_selection():
    parts = [gauss(n, 3, 1.0, seed) for seed, n in enumerate((400, 100, 200))]
    one = estimate_splits(*parts, critic=SMALL, budget=QUICK)
    other = estimate_splits(*parts[:2], gauss(200, 3, 0.0, 7), critic=SMALL, budget=QUICK)
    assert one.protocol["training"] == other.protocol["training"]
    assert one.protocol["value_on"]["select"] == other.protocol["value_on"]["select"]
    assert other.mi < 0.2 < 0.6 < one.mi
    assert not other.trusted  # the report split is not like the others
    assert check(other, "splits").verdict == "fail"


def test_explicit_splits_take_ids():
    parts = [(*gauss(n, 3, 1.0, seed), np.arange(n) // 2 + 1000 * seed) for seed, n in enumerate((400, 100, 200))]
    assert estimate_splits(*parts, critic=SMALL, budget=Budget(steps=4)).splits == (400, 100, 200)
    clash = (*parts[0][:2], parts[0][2] + 1000)
    with pytest.raises(im.UserError, match="is in two splits"):
        estimate_splits(clash, *parts[1:], critic=SMALL, budget=QUICK)


@pytest.mark.slow
def test_a_given_module_is_copied_and_an_objective_too():
    critic, objective = im.Separable(2, 2, hidden=16, out=4), im.MINE()
    before = {name: t.clone() for name, t in critic.state_dict().items()}
    quick(*gauss(400, 2, 1.0), objective, critic)
    assert all(torch.equal(before[name], t) for name, t in critic.state_dict().items())
    assert int(objective.batches) == 0


def test_printed_and_saved_never_alone(two):
    shown = str(two)
    assert f"MI {two.mi:.3f} nats, 95 % interval [{two.interval[0]:.3f}, {two.interval[1]:.3f}], trusted" in shown
    assert "floor" in shown
    assert "ceiling" in shown
    assert all(found.sentence in shown for found in two.checks)
    saved = json.loads(json.dumps(two.to_dict(), allow_nan=False))
    assert {"mi", "stderr", "interval", "ceiling", "n", "trusted", "checks", "floor", "protocol"} <= set(saved)
    assert saved["trusted"] is True
    assert saved["checks"][0]["verdict"] == "pass"


# Parts -------------------------------------------------------------------------------------------------------------


def oracle(n: int, d: int, mi: float, seed: int = 0) -> tuple[estimator.Fitted, inputs.Pairs]:
    """A fitted estimator whose critic is the true log-ratio, and pairs."""
    x, y = (torch.from_numpy(side).float() for side in gauss(n, d, mi, seed))
    base = GaussianCopula(x, y, x, y)
    base.a, base.b = torch.eye(d), torch.eye(d)
    base.rho = torch.full((d,), math.sqrt(1 - math.exp(-2 * mi / d)))
    model = gated(base, im.Separable(d, d, hidden=4, out=2))
    model.open = False
    fitted = estimator.Fitted(estimation.CopulaJS(), model, (lambda t: t, lambda t: t), {})
    return fitted, inputs.Pairs(x, y, torch.arange(n))


def test_the_copula_is_the_true_log_ratio():
    fitted, pairs = oracle(400, 3, 1.5)
    ex, ey = fitted.critic.embed(pairs.x, pairs.y)
    x, y = pairs.x[:5].double().numpy(), pairs.y[:5].double().numpy()
    rho = math.sqrt(1 - math.exp(-1.0))
    # log N(y; rho x, 1 - rho^2) - log N(y; 0, 1), written out
    residual = (y[None] - rho * x[:, None]) ** 2 / (1 - rho**2)
    expected = (-0.5 * residual - 0.5 * math.log(1 - rho**2) + 0.5 * y[None] ** 2).sum(-1)
    assert np.allclose(fitted.critic.score(ex[:5], ey[:5]).detach().numpy(), expected, atol=1e-4)
    assert np.allclose(fitted.critic.pair(ex[:5], ey[:5]).detach().numpy(), expected.diagonal(), atol=1e-4)


def test_the_copula_does_not_find_what_is_not_there():
    x, y = (torch.from_numpy(side).float() for side in gauss(600, 20, 0.0))
    assert GaussianCopula(x[:400], y[:400], x[400:], y[400:]).value_on_select < 0.05


def test_normal_scores_are_normal_monotone_and_share_ties():
    fit = torch.tensor([[0.0], [0.0], [1.0], [5.0], [1e6]])
    scores = NormalScores(fit)(fit).flatten()
    assert scores[0] == scores[1]
    assert bool((scores[1:].diff() > 0).all())
    assert float(scores.mean()) == pytest.approx(0, abs=1e-6)
    assert float(NormalScores(fit)(torch.tensor([[1e9]]))) == pytest.approx(float(scores[-1]))


def test_the_jackknife_gives_the_error_of_a_mean():
    fitted, pairs = oracle(2000, 2, 1.0)
    stderr, freedom = uncertainty.jackknife(fitted, pairs, seed=0)
    each = fitted.critic.pair(*fitted.critic.embed(pairs.x, pairs.y))
    assert stderr == pytest.approx(each.std().item() / math.sqrt(2000), rel=0.35)  # 24 degrees of freedom
    assert freedom == 24 and uncertainty.half_width(stderr, freedom) == pytest.approx(2.064 * stderr, rel=1e-3)


def test_the_floor_holds_and_is_not_idle():
    found = [oracle(400, 2, 1.0, seed) for seed in range(8)]
    floors = [floor.lower_bound(floor.of_critic(fitted.critic, pairs, pairs).values) for fitted, pairs in found]
    assert max(floors) < 1.0
    assert min(floors) > 0.2


def test_the_partition_of_a_true_ratio_is_one():
    def partition(fitted, pairs):
        return uncertainty.partition(fitted.scores(pairs))

    log, stderr, effective = partition(*oracle(1500, 2, 1.0))
    assert abs(log) < 3 * stderr + 0.02
    assert effective > 100
    assert partition(*oracle(500, 20, 10.0))[2] < 30


def test_each_check_fires_and_does_not():
    cases = [
        (checks.ceiling(2.0, 6.0, "plug-in"), checks.ceiling(5.8, 6.0, "plug-in"), checks.ceiling(5.2, 6.0, "plug-in")),
        (checks.ceiling(2.0, 6.0, "rows"), checks.ceiling(4.6, 6.0, "rows"), checks.ceiling(4.0, 6.0, "rows")),
        (checks.normalisation(0.05, 0.02, 500), checks.normalisation(0.5, 0.02, 500), checks.normalisation(3, 0.5, 5)),
        (checks.effective(500), checks.effective(5), checks.effective(40)),
        (checks.splits(2.1, 2.0, 2.0, 0.05), checks.splits(4.0, 2.0, 2.0, 0.05), checks.splits(2.5, 2, 2, 0.05)),
        (checks.bracket(0.9, 1.1, 0.5, 1.4), checks.bracket(0.1, 0.2, 0.5, None), None),
        (checks.bracket(1.3, 1.5, 0.5, 1.4), checks.bracket(1.5, 1.6, 0.5, 1.4), None),
        (checks.bracket(3.1, 3.7, 3.5, None, 3.46), checks.bracket(3.1, 3.7, 3.5, None, 3.43), None),
        (checks.bracket(0.693, 0.8, 0.3, 0.691), checks.bracket(0.693, 0.8, 0.81, 0.691), None),
        (checks.rival(2.0, 2.1, 0.04), checks.rival(2.0, 2.5, 0.04), None),
        (checks.negative(0.1), checks.negative(-0.3), None),
        (checks.width(1.9, 2.1), checks.width(0.5, 3.0), checks.width(1.6, 2.5)),
        (checks.width(0.0, 0.1), checks.width(-1.0, math.inf), checks.width(-0.2, 0.2)),
        (checks.columns(40, 600), checks.columns(1500, 1200), checks.columns(400, 600)),
        (checks.components(0.95), checks.components(0.2), checks.components(0.8)),
        (checks.folds(0.05, 2.0), checks.folds(0.6, 2.0), checks.folds(0.3, 2.0)),
        (checks.learning_curve(-0.01, 1.0), checks.learning_curve(0.3, 1.0), checks.learning_curve(0.15, 1.0)),
        (checks.learning_curve(0.3, 10.0), checks.learning_curve(math.nan, 1.0), None),
        (checks.drawn_pairs(0.0, 0.9, 1.0), checks.drawn_pairs(0.05, 0.9, 1.0), checks.drawn_pairs(0.01, 0.9, 1.0)),
        (checks.drawn_pairs(0.0, 0.9, 1.0), checks.drawn_pairs(math.nan, 0.9, 1.0), checks.drawn_pairs(0, 0.1, 1.0)),
        (checks.permutation(0.005, 0.4), checks.permutation(0.3, 0.4), None),
        (checks.permutation(1.0, 6e-8), checks.permutation(1.0, 0.001), None),
        (checks.permutation(0.3, -0.1), checks.permutation(0.06, 0.01), None),
        (checks.finite(1.0, 0.1), checks.finite(math.inf, 0.1), None),
    ]
    for passes, fails, warns in cases:
        assert passes.verdict == "pass", passes
        assert fails.verdict == "fail", fails
        assert warns is None or warns.verdict == "warn", warns


def test_values_that_overflow_are_reported_and_not_trusted():
    class Endless(im.NWJ):
        def estimate(self, s):
            return super().estimate(s) - math.inf

    found = quick(*gauss(200, 2, 1.0), Endless())
    assert not found.trusted
    assert check(found, "finite").verdict == "fail"
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["mi"] is None


# The default: base, folds, verdict -----------------------------------------------------------------------------------


def test_all_pairs_report_in_folds_that_never_saw_them():
    x, y = gauss(600, 2, 1.0)
    ids = np.arange(600) // 2
    found = inputs.folds(inputs.prepared([(x, y, ids)])[0][0], 5, seed=0)
    reported = torch.cat([report.ids for _, _, report in found])
    assert sorted(reported.tolist()) == ids.tolist()
    for parts in found:
        seen = [set(part.ids.tolist()) for part in parts]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
        assert set.union(*seen) == set(range(300))


@pytest.mark.slow
def test_the_default_cross_fits():
    found = estimate(*gauss(500, 2, 1.0), budget=Budget(steps=20))
    assert found.splits == (300, 100, 500)
    assert found.ceiling == pytest.approx(math.log(500))
    assert len(found.protocol["folds"]) == 5
    assert found.interval[0] < 1.0 < found.interval[1]
    assert {"width", "folds", "permutation"} <= {check.name for check in found.checks}
    assert found == estimate(*gauss(500, 2, 1.0), budget=Budget(steps=20))
    one = estimate(*gauss(500, 2, 1.0), budget=Budget(steps=20, folds=1))
    assert one.splits == (300, 75, 125)
    with pytest.raises(im.UserError, match="folds is 2"):
        Budget(folds=2)


@pytest.mark.slow
def test_too_few_pairs_for_what_there_is_to_learn_are_not_trusted():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 12))
    found = estimate(x, x + 0.2 * rng.normal(size=(60, 12)), budget=Budget(steps=20))
    assert not found.trusted


def test_students_tails_are_seen_where_nothing_correlates():
    task = tasks.elliptical("", np.eye(4), 2, 2.0)
    x, y = (torch.from_numpy(side).float() for side in task.sample(6000, 0))
    maps = NormalScores(x[:3000]), NormalScores(y[:3000])
    x, y = maps[0](x), maps[1](y)
    found = elliptical(x[:3000], y[:3000], x[3000:4500], y[3000:4500])
    assert isinstance(found, StudentCopula) and 1.5 <= found.dof <= 3
    ex, ey = found.embed(x[4500:], y[4500:])
    assert float(found.pair(ex, ey).mean()) == pytest.approx(task.mi, abs=0.06)
    assert torch.allclose(found.score(ex[:9], ey[:9]).diagonal(), found.pair(ex[:9], ey[:9]), atol=1e-4)
    x, y = (torch.from_numpy(side).float() for side in gauss(2000, 3, 1.0))
    assert isinstance(elliptical(x[:1500], y[:1500], x[1500:], y[1500:]), GaussianCopula)


def test_sparse_dependence_among_many_columns_is_not_drowned():
    task = tasks.elliptical("", tasks.canonical([0.8, 0.8], 60, 60), 60)
    x, y = (torch.from_numpy(side).float() for side in task.sample(3000, 0))
    found = GaussianCopula(x[:1500], y[:1500], x[1500:2000], y[1500:2000])
    value = float(found.pair(*found.embed(x[2000:], y[2000:])).mean())
    assert value == pytest.approx(task.mi, abs=0.1)


@pytest.mark.slow
def test_independent_components_undo_a_rotation():
    task = tasks.rotated_cubic(4, 2.0)
    found = estimate(*task.sample(4000, 0), budget=Budget(steps=50))
    assert found.mi == pytest.approx(2.0, abs=0.15)
    assert found.protocol["training"][0]["components"] == [False, True]


def test_what_deranged_pairs_score_tells_dependence_from_none():
    fitted, pairs = oracle(400, 2, 1.0)
    assert uncertainty.permutation(fitted, pairs) == pytest.approx(1 / 200)
    shifted = inputs.Pairs(pairs.x, pairs.y.roll(1, 0), pairs.ids)
    assert uncertainty.permutation(fitted, shifted) > 0.05
    assert uncertainty.permutation(fitted, inputs.Pairs(pairs.x, pairs.y, pairs.ids // 2)) is None
    # Few rows have few shifts, but not few orders: five folds of 20 can still tell, by Bonferroni.
    assert 5 * uncertainty.permutation(fitted, pairs.first(20)) < 0.05


def test_folds_that_disagree_widen_the_interval():
    def reading(mi: float) -> uncertainty.Reading:
        on = {"fit": mi, "select": mi, "report": mi}
        return uncertainty.Reading((60, 20, 20), mi, 0.05, (mi - 0.1, mi + 0.1), on, 0.0, (0.0, 0.1), None, None, 0.0)

    alike = uncertainty.combined([reading(1.0)] * 5)
    apart = uncertainty.combined([reading(mi) for mi in (0.5, 1.5, 1.0, 0.6, 1.4)])
    assert alike.stderr == pytest.approx(0.05 / math.sqrt(5))
    assert alike.spread == 0 and apart.spread > 0.3
    assert apart.interval[0] < alike.interval[0] - 0.2


def test_what_a_critic_learned_raises_the_upper_end_alone():
    on = {"fit": 1.2, "select": 1.0, "report": 1.0}
    reading = uncertainty.Reading((60, 20, 20), 1.0, 0.05, (0.9, 1.1), on, 0.0, (0.0, 0.1), None, None, 0.4)
    found = uncertainty.combined([reading])
    assert found.interval[0] == pytest.approx(0.9)
    assert found.interval[1] == pytest.approx(1.1 + 0.2 + uncertainty.MISSED * 0.4)


def test_what_pairs_were_too_few_for_raises_the_upper_end_alone():
    on = {"fit": 1.1, "select": 1.0, "report": 1.0}
    reading = uncertainty.Reading((60, 20, 20), 1.0, 0.05, (0.9, 1.1), on, 0.0, (0.0, 0.1), None, None, 0.0)
    assert uncertainty.combined([reading]).missed == 0  # of a row that does not cross-fit
    for rise, lack, missed in ((0.3, 0.0, 0.3), (0.05, 0.0, 0.1), (-0.2, 0.25, 0.35)):
        found = uncertainty.combined([reading], rise, lack)
        assert found.interval == pytest.approx((0.9, 1.1 + missed))
        assert found.missed == pytest.approx(missed)


def test_half_of_a_fold_is_half_of_its_ids():
    x, y = (torch.from_numpy(side) for side in gauss(80, 2, 1.0))
    pairs = inputs.Pairs(x, y, torch.arange(80) // 2)
    fit, select = uncertainty.halved(pairs, pairs[torch.arange(40)], 0)
    assert (len(fit), len(select)) == (40, 20)
    assert all(int(count) == 2 for count in fit.ids.unique(return_counts=True)[1])
    assert uncertainty.halved(pairs, pairs[torch.arange(18)], 0) is None


@pytest.mark.slow
def test_wide_arrays_take_one_split_and_bounded_memory():
    program = """
import resource, numpy as np
from infomax.estimation import Budget, estimate
rng = np.random.default_rng(0)
x = rng.standard_normal((20_000, 1300), dtype=np.float32)
y = rng.standard_normal((20_000, 1300), dtype=np.float32)
y[:, :3] += x[:, :3]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = estimate(x, y, budget=Budget(steps=20))
print(len(found.protocol["folds"]), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / x.nbytes)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    folds, times = ran.stdout.split()
    assert folds == "1"
    assert float(times) < 14  # of one side's bytes


# Bad input -----------------------------------------------------------------------------------------------------------


def at(array: np.ndarray, row: int, value: float) -> np.ndarray:
    array = array.copy()
    array[row, 0] = value
    return array


X, Y = gauss(200, 2, 1.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((X, Y[:-1]), "x has 200 rows and y has 199"),
        ((at(X, 7, math.nan), Y), r"x has NaN or infinity in 1 of 200 rows \(7\)"),
        ((X, at(Y, 3, math.inf)), r"y has NaN or infinity in 1 of 200 rows \(3\)"),
        ((X[:0], Y[:0]), "empty"),
        ((X[:49], Y[:49]), "49 pairs, and fewer than 50"),
        ((X * 0 + 3, Y), "x is the same in every row"),
        ((X[:, :0], Y), "x has rows without any numbers"),
        ((X, np.arange(200)), "200 different values in 200 rows: too many for labels"),
        ((X, np.array(["a"] * 200)), "numbers are needed"),
        ((X, Y + 1j), "numbers are needed|complex"),
        ((X, Y, "SMYLE"), "Unknown estimator 'SMYLE'. Did you mean 'SMILE'"),
        ((X, Y, "SMILE(tau=-1)"), "tau must be positive"),
        ((X, Y[:, :1], "JS", "Cosine"), "cannot score x with 2 and y with 1 columns"),
        ((X, Y, 3), "must be a name or have estimate"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(arguments, sentence):
    with pytest.raises(im.UserError, match=sentence):
        estimate(*arguments, budget=Budget(steps=0))


@pytest.mark.parametrize(
    "options", [{"steps": -1}, {"batch_size": 1}, {"learning_rate": 0}, {"parts": (0.5, 0.5, 0.5)}]
)
def test_a_bad_budget_is_refused(options):
    with pytest.raises(im.UserError, match="Budget's"):
        Budget(**options)


def test_ids_of_another_length_are_refused():
    with pytest.raises(im.UserError, match="ids must be 200 whole numbers"):
        quick(X, Y, ids=np.arange(199))


RNG = np.random.default_rng(5)
NUMBERS, LABELS = RNG.normal(size=(300, 10)), RNG.integers(0, 2, 300)
GRID = RNG.integers(0, 5, (2000, 2)).astype(float)


def told(name, x, y, ids=None):
    _, found, _ = inputs.prepared([(x, y, ids)])
    return next((c.verdict for c in found if c.name == name), None)


@pytest.mark.parametrize("times", [2, 4, 6, 10])
def test_copies_are_told_however_many(times):
    def copied(t):
        return np.tile(t, (times, *[1] * (t.ndim - 1)))

    one, two = NUMBERS[:60, :1], NUMBERS[:60, 1:2]
    assert told("duplicated pairs", copied(one), copied(two)) == "fail"
    assert told("duplicated pairs", copied(NUMBERS), copied(LABELS)) == "fail", "beside a label"
    ids = np.tile([f"sample {i}" for i in range(300)], times)
    assert told("duplicated pairs", copied(NUMBERS), copied(LABELS), ids) is None, "views of one sample"


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (GRID[:, :1], GRID[:, 1:]),
        (GRID[:, :1], 2 * GRID[:, :1] + 1),
        (GRID, GRID[:, 0].astype(int)),
        (NUMBERS, LABELS),
        (NUMBERS[:, :1].round(1), NUMBERS[:, 1:2].round(1)),
        (NUMBERS[:, :1].round(1), LABELS),
    ],
)
def test_labels_and_grids_repeat_by_nature(x, y):
    assert told("duplicated pairs", x, y) is None


def test_rows_in_order_are_told():
    walks = RNG.normal(size=(2, 1200, 1)).cumsum(1)
    assert told("row order", *walks) == "fail"
    assert told("row order", *walks, np.arange(1200) // 100) is None, "blocks have ids"
    assert told("row order", walks[0], RNG.normal(size=(1200, 1))) is None
    assert told("row order", NUMBERS, LABELS) is None


def test_a_label_with_itself_has_its_entropy():
    assert told("identical", LABELS, LABELS) is None and told("identical", NUMBERS, NUMBERS) == "fail"


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.ma.masked_less(NUMBERS[:, :1], 0), "x is masked in places"),
        ([[1.0], [2.0, 3.0]] * 150, "no array of rows"),
    ],
)
def test_what_is_no_whole_array_is_refused(x, says):
    with pytest.raises(im.UserError, match=says):
        inputs.prepared([(x, LABELS, None)])


@pytest.mark.slow
def test_what_is_hidden_among_very_many_columns_is_found_and_not_trusted():
    """Ten of 800 columns depend on each other, 3.47 nats; of 256 principal components next to nothing would show."""
    x, y = np.random.default_rng(0).normal(size=(2, 3000, 800))
    y[:, :10] += x[:, :10]
    found = estimate(x, y, budget=Budget(steps=20, folds=3))
    assert found.mi == pytest.approx(5 * math.log(2), abs=0.3)
    assert check(found, "components").verdict == "fail" and not found.trusted  # dense dependence might hide still
    narrow = estimate(x[:, :20], y[:, :20], budget=Budget(steps=0, folds=3))
    assert not any(c.name == "components" for c in narrow.checks)


@pytest.mark.slow
def test_odd_input_is_told_in_the_checks():
    none = Budget(steps=0)
    same = estimate(X, X, budget=none)
    assert not same.trusted
    assert check(same, "identical").verdict == "fail"
    copied = estimate(np.tile(X, (2, 1)), np.tile(Y, (2, 1)), budget=none)
    assert not copied.trusted
    assert "200 of 400 pairs repeat another" in check(copied, "duplicated pairs").sentence
    constant = estimate(np.column_stack([X, np.ones(200)]), Y, budget=none)
    assert check(constant, "constant columns of x").verdict == "warn"
    assert "1 of 3 columns of x (2) never change" in check(constant, "constant columns of x").sentence
    clean = estimate(X, Y, budget=none)
    assert clean.mi == constant.mi
    assert not {"identical", "duplicated pairs", "constant columns of x"} & {found.name for found in clean.checks}


@pytest.mark.slow
def test_large_offsets_and_scales_in_float64_lose_nothing():
    far = estimate(1e9 + 1e-3 * X, Y, "InfoNCE", SMALL, budget=QUICK)
    assert far.mi == pytest.approx(estimate(X, Y, "InfoNCE", SMALL, budget=QUICK).mi, abs=0.02)


@pytest.fixture(scope="module")
def learnt():
    """x and y whose relation is learnt, a short budget, and what an estimate says of them."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(600, 2))
    y = np.sin(3 * x[:, :1]) * x[:, 1:] + 0.1 * generator.normal(size=(600, 1))
    few = Budget(steps=5)
    return x, y, few, estimate(x, y, "SMILE", budget=few)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_that_are_switched_off_around_an_estimate_are_on_inside(off, learnt):
    x, y, few, expected = learnt
    with off():
        found = estimate(torch.tensor(x), y, "SMILE", budget=few)
        conditional = estimate(x[:, :1], y, "SMILE", given=x[:, 1:], budget=few)
    assert (found.mi, found.interval) == (expected.mi, expected.interval)
    assert math.isfinite(conditional.mi)
