"""Contracts over the registry of estimators: their texts, what they share, and their values."""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma

import infomax as im
from infomax import estimation
from infomax.estimation import Budget, Estimate, estimate
from infomax.estimation import pairs as inputs
from infomax.estimation.estimator import Estimator
from infomax.estimation.estimators import classical


def gauss(n: int, d: int, mi: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x, y [n, d] of correlated normals with the given MI in nats."""
    rng = np.random.default_rng(seed)
    rho = math.sqrt(1 - math.exp(-2 * mi / d))
    x = rng.normal(size=(n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(n, d))


def small(x, y, text: str) -> Estimate:
    critic = "Separable(hidden=32, out=8)" if estimation.row(text).takes_critic else None
    budget = Budget(steps=150, every=25, patience=2, batch_size=128, learning_rate=1e-3)
    return estimate(x, y, text, critic, budget=budget)


@pytest.mark.parametrize("name", estimation.registry)
def test_the_text_of_a_row_parses_back(name):
    row = estimation.row(name)
    assert isinstance(row, Estimator)
    assert repr(estimation.row(repr(row))) == repr(row)
    assert estimation.row(row) is row


def test_rows_that_read_one_critic_say_so():
    texts = ("JS", "JSPlugin", "SMILE(tau=1)", "SMILE(tau=inf)")
    assert len({estimation.row(text).trained_by for text in texts}) == 1
    apart = ("JS", "NWJ", "DV", "MINE", "MINE(decay=0.5)", "InfoNCE", "CopulaJS")
    assert len({estimation.row(text).trained_by for text in apart}) == len(apart)


def test_an_objective_is_a_row_by_itself():
    row = estimation.row(im.SMILE(tau=3.0))
    assert (repr(row), row.leans_on, row.fixes_constant) == ("SMILE(tau=3.0)", "partition", True)
    assert estimation.row("InfoNCE").leans_on == "rows"


# Values -------------------------------------------------------------------------------------------------------------

# Rows that learn more than a small critic are made small; what is not named here is tried as it is.
SMALL_ROWS = {
    "barberagakov": "BarberAgakov('MAF', transforms=1, hidden=16)",
    "differenceofentropies": "DifferenceOfEntropies('MAF', transforms=1, hidden=16)",
    "club": "CLUB(hidden=16)",
    "leaveoneout": "LeaveOneOut(hidden=16)",
}
RATIO = 1 - math.exp(-1)  # squared correlation of each of 2 columns with 1 nat between the sides


@pytest.mark.slow
@pytest.mark.parametrize("name", estimation.registry)
def test_every_row_is_right_on_normals_and_finds_nothing_where_there_is_nothing(name):
    """Source: closed forms at 2 columns of 1 nat. CLUB's optimum is its own, rho^2 / (1 - rho^2) a column."""
    truth, allowed = (2 * RATIO / (1 - RATIO), 0.9) if name == "club" else (1.0, 0.45)
    text = SMALL_ROWS.get(name, name)
    found = small(*gauss(600, 2, 1.0), text)
    assert found.mi == pytest.approx(truth, abs=allowed)
    assert 0 < found.stderr < 0.4
    assert name in found.method.lower()
    assert any(check.name == "upper bound" for check in found.checks) == (name in ("club", "leaveoneout"))
    if name not in im.objectives.registry or name == "smile":  # one adapter makes rows of all objectives
        nothing = small(*gauss(600, 2, 0.0), text)
        assert abs(nothing.mi) < min(0.1, 3 * nothing.stderr)


FLOW = pytest.param("BarberAgakov('MAF', 1, 8)", marks=pytest.mark.slow)  # zuko is imported


@pytest.mark.parametrize("text", [FLOW, "CLUB(hidden=8)", "KSG", "GCMI"])
def test_same_seed_same_value(text):
    x, y = gauss(200, 2, 1.0)
    budget = Budget(steps=10, every=5)
    assert estimate(x, y, text, budget=budget) == estimate(x, y, text, budget=budget)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["BarberAgakov('MAF', 1, 8)", "LeaveOneOut(hidden=8)", "SMILE"])
def test_what_is_reported_was_never_fitted(text):
    parts = [gauss(n, 2, 2.0, seed) for seed, n in enumerate((300, 80))]
    budget = Budget(steps=60, every=20, learning_rate=2e-3)
    critic = "Separable(hidden=16, out=4)" if text == "SMILE" else None
    held, other = (
        estimation.estimate_splits(*parts, gauss(100, 2, mi, 7), text, critic, budget=budget) for mi in (2.0, 0.0)
    )
    assert held.protocol["value_on"]["select"] == pytest.approx(other.protocol["value_on"]["select"])
    assert other.mi < 0.1 < held.mi


def test_rows_that_fit_nothing_report_on_all_pairs():
    found = small(*gauss(300, 2, 1.0), "KSG")
    assert found.splits == (0, 0, 300)
    assert found.ceiling == pytest.approx(math.log(300))
    assert found.floor < 1.0
    assert found.critic == "none"


def test_values_of_a_matrix_worked_out_by_hand():
    """Rows of e^s are (8, 1, 1, 2), (1, 4, 1, 1), (2, 1, 2, 1), (1, 1, 1, 16), as in test_objectives."""
    s = im.Scores.from_matrix(torch.tensor([[8, 1, 1, 2], [1, 4, 1, 1], [2, 1, 2, 1], [1, 1, 1, 16]]).double().log())
    positive = math.log(8 * 4 * 2 * 16) / 4
    assert float(estimation.row("CLUB").estimate(s)) == pytest.approx(positive - 2 * math.log(2) / 12, abs=1e-12)
    columns = (2 * math.log(4 / 3) + 2 * math.log(1)) / 4
    assert float(estimation.row("LeaveOneOut").estimate(s)) == pytest.approx(positive - columns, abs=1e-12)
    for text in ("BarberAgakov", "DifferenceOfEntropies", "CopulaJS"):
        assert float(estimation.row(text).estimate(s)) == pytest.approx(positive, abs=1e-12)


def test_upper_bounds_with_the_true_ratio():
    """Source: closed form, 20 columns at 2 nats in batches of 64; four standard errors of 100 batches."""
    rho, columns = math.sqrt(1 - math.exp(-2 * 2.0 / 20)), 20
    generator = torch.Generator().manual_seed(3)
    values = {"CLUB": [], "LeaveOneOut": []}
    for _ in range(100):
        x, e = torch.randn(2, 64, columns, generator=generator, dtype=torch.float64)
        y = rho * x + math.sqrt(1 - rho**2) * e
        square = (x**2).sum(1)[:, None] + (y**2).sum(1)[None]
        s = -10 * math.log(1 - rho**2) - (rho**2 * square - 2 * rho * x @ y.T) / (2 * (1 - rho**2))
        for text, found in values.items():
            found.append(float(estimation.row(text).estimate(im.Scores.from_matrix(s))))
    mean = {text: np.mean(found) for text, found in values.items()}
    error = {text: 4 * np.std(found) / math.sqrt(100) for text, found in values.items()}
    assert mean["CLUB"] == pytest.approx(columns * rho**2 / (1 - rho**2), abs=error["CLUB"])
    assert 2.0 - error["LeaveOneOut"] < mean["LeaveOneOut"] < 2.2


# Densities, neighbours, closed forms ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("text", ["BarberAgakov('MAF')", "BarberAgakov('NSF', 1, 32)", "DifferenceOfEntropies('MAF')"])
def test_flows_learn_normals(text):
    """Source: closed form, 1.5 nats; the interval is sampling noise alone, so some of the model's error is allowed."""
    found = estimate(*gauss(2000, 2, 1.5), text, budget=Budget(steps=300, every=50, patience=2))
    assert found.mi == pytest.approx(1.5, abs=0.2)
    assert found.trusted, found


@pytest.mark.slow
def test_the_ratio_of_densities_is_a_critic():
    x, y = (torch.from_numpy(side).float() for side in gauss(40, 2, 1.0))
    pairs = inputs.Pairs(x, y, torch.arange(40))
    for text in ("BarberAgakov('NSF', 1, 8)", "DifferenceOfEntropies('MAF', 1, 8)", "CLUB(hidden=8)"):
        fitted = estimation.row(text).fit(pairs, pairs, None, Budget(steps=3, every=1), 0, "cpu")
        fitted.critic.open = True
        mapped = fitted.mapped(pairs)
        ex, ey = fitted.critic.embed(mapped.x, mapped.y)
        score, pair = fitted.critic.score(ex, ey), fitted.critic.pair(ex, ey)
        assert torch.allclose(score.diagonal(), pair, atol=1e-4)
        plain = fitted.critic.pairs(mapped.x, mapped.y) - fitted.critic.of_y(mapped.x, mapped.y)
        if fitted.critic.of_x is not None:
            plain = plain - fitted.critic.of_x(mapped.x, mapped.y)
        assert torch.allclose(pair, plain, atol=1e-4)
        fitted.critic.open = False
        assert fitted.value(mapped) == 0


def test_rows_of_one_density_train_it_once():
    texts = ("BarberAgakov('Gaussian')", "CLUB", "LeaveOneOut")
    assert len({estimation.row(text).trained_by for text in texts}) == 1
    assert estimation.row("CLUB('NSF')").trained_by == estimation.row("BarberAgakov").trained_by


def test_neighbours_are_counted_as_the_paper_counts_them():
    """Source: Kraskov et al., 2004, equation 8, by every distance written out; and 0.5 nats of normals."""
    x, y = gauss(150, 2, 1.0)
    apart = [np.abs(side[:, None] - side[None]).max(2) for side in (x, y)]
    joint = np.maximum(*apart)
    reach = np.sort(joint, 1)[:, 3]  # the 0th is the point itself
    counts = [((distance < reach[:, None]).sum(1) - 1) for distance in apart]
    expected = digamma(3) + digamma(150) - np.mean(digamma(counts[0] + 1) + digamma(counts[1] + 1))
    assert estimation.row("KSG(k=3)").of_normal_scores(x, y) == pytest.approx(expected, abs=1e-12)
    assert estimation.row("KSG").of_normal_scores(*gauss(4000, 1, 0.5)) == pytest.approx(0.5, abs=0.06)


def test_the_closed_form_is_unbiased_on_normals():
    """Source: closed form, 0.6 nats from 100 pairs of 3 columns, where the plain form overstates by .047."""
    row = estimation.row("GCMI")
    values = [row.of_normal_scores(*gauss(100, 3, 0.6, seed)) for seed in range(200)]
    assert np.mean(values) == pytest.approx(0.6, abs=4 * np.std(values) / math.sqrt(200))
    shrunk = estimation.row("GCMI(shrinkage=1.0)").of_normal_scores(*gauss(100, 3, 0.6))
    assert shrunk == pytest.approx(0, abs=1e-12)
    wide = [row.of_normal_scores(*gauss(200, 20, 0.0, seed)) for seed in range(5)]
    assert np.mean(wide) < 0.1  # 1.4 unshrunk


# Bad input -----------------------------------------------------------------------------------------------------------

X, Y = gauss(200, 2, 1.0)
LABEL = np.arange(200) % 3


MODELLED = ("barberagakov", "club", "leaveoneout")  # y, which needs a density, given x, which needs none
DISCRETE = {"smile", "copulajs"}  # any row that trains a critic is at home with labels


@pytest.mark.parametrize("name", sorted({*estimation.registry} - {*im.objectives.registry} | DISCRETE))
@pytest.mark.slow
def test_labels_are_handled_or_refused_in_a_sentence(name):
    x = np.random.default_rng(0).normal(size=(200, 2)) + 3 * LABEL[:, None]
    text, budget = SMALL_ROWS.get(name, name), Budget(steps=10, every=5)
    for given, sides in (("y", (x, LABEL)), ("x", (LABEL, x))):
        if name in DISCRETE or (name in MODELLED and given == "x"):
            found = estimate(*sides, text, budget=budget)
            assert found.cap == pytest.approx(math.log(3), abs=0.01)
            assert found.mi < found.cap + 0.15 or name in ("club", "leaveoneout")
        else:
            with pytest.raises(im.UserError, match=f"needs a continuous {given}"):
                estimate(*sides, text, budget=budget)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((X, Y.round(0), "KSG"), "needs a continuous y, and in its column 0 most rows repeat"),
        ((X, Y.round(0), "BarberAgakov"), "give the sides in the other order"),
        ((np.tile(X, 6)[:, :12], Y, "KSG"), "at most 10 columns a side, and x has 12"),
        ((np.repeat(X[:30], 7, 0), np.repeat(Y[:30], 7, 0), "KSG"), "needs a continuous x"),
        ((X, Y, "KSG(k=0)"), "at least 1"),
        ((X, Y, "KSG(k=200)"), "need more than 200"),
        ((X, Y, "GCMI(shrinkage=2)"), r"in \[0, 1\]"),
        ((X, Y, "CLUB(density='Gauss')"), "density is 'NSF' or 'MAF' or 'Gaussian', not 'Gauss'"),
        ((X, Y, "DifferenceOfEntropies(density='Gaussian')"), "density is 'NSF' or 'MAF', not"),
        ((X, Y, "BarberAgakov(transforms=0)"), "at least 1"),
        ((X, Y, "KSG", "Concat"), "trains no critic of yours"),
        ((X, Y, "SMILE", "ConvSeparable"), "cannot score x with 2"),
    ],
)
def test_what_a_row_cannot_do_is_refused_in_a_sentence(arguments, sentence):
    with pytest.raises(im.UserError, match=sentence):
        estimate(*arguments, budget=Budget(steps=0))


@pytest.mark.parametrize("kind", classical.ESTIMATORS)
@pytest.mark.parametrize("number", [2, 14, 200])  # one-hot, of more columns than either takes
@pytest.mark.parametrize("name", ["x", "y"])
def test_a_label_is_one_column_and_no_density(kind, number, name):
    rng = np.random.default_rng(0)
    label, other = np.arange(2000) % number, rng.normal(size=(2000, 1))
    sides = (label, other) if name == "x" else (other, label)
    with pytest.raises(im.UserError, match=f"needs a continuous {name}, and it is a label of {number} values") as told:
        estimate(*sides, kind())
    assert "other order" not in str(told.value) and "columns" not in str(told.value)


def test_copies_among_neighbours_are_refused():
    x, y = X.copy(), Y.copy()
    x[:8], y[:8] = x[0], y[0]
    with pytest.raises(im.UserError, match="8 pairs have k=5 copies or more"):
        estimate(x, y, "KSG")


def test_critics_of_images_are_given_whole_images():
    x, y = gauss(200, 16, 2.0)
    x[:, 3] = 0.5  # a pixel that never changes
    for critic in ("ConvSeparable(shape=(1, 4, 4), channels=2, hidden=8)", im.ConvConcat((1, 4, 4), None, 2, 8)):
        found = estimate(x, y, "JS", critic, budget=Budget(steps=2, every=1))
        assert found.critic.startswith("Conv")
        assert found.n == 200
