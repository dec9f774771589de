"""Contracts over the registry: the formulas, against dense forms, known ratios, golden numbers and their own texts."""

import itertools
import math

import dense
import pytest
import torch

from infomax import UserError, critics, objectives
from infomax.scores import Scores

N = 9
IDS = {"distinct": None, "repeated": torch.tensor([0, 1, 2, 0, 4, 4, 4, 7, 8])}
CRITICS = {
    "Cosine": lambda: critics.Cosine(temperature=0.5, bias=0.3, learn=True),
    "Bilinear": lambda: critics.Bilinear(5, 4),
    "Separable": lambda: critics.Separable(5, 4, hidden=8, out=3),
    "Concat": lambda: critics.Concat(5, 4, hidden=8),
}


IMAGES = {  # of 5 x 1 pixels, which is what the rows of `pairs(dy=5)` are
    "ConvSeparable": lambda: critics.ConvSeparable((1, 5, 1), channels=2, hidden=4, out=3),
    "ConvConcat": lambda: critics.ConvConcat((1, 5, 1), channels=2, hidden=4),
}


def pairs(n=N, dtype=torch.float64, seed=0, dx=5, dy=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dx, generator=generator, dtype=dtype)
    y = x[:, :dy] + torch.randn(n, dy, generator=generator, dtype=dtype)
    return x.requires_grad_(), y.requires_grad_()


def critic_of(name, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {**CRITICS, **IMAGES}[name]().to(dtype)


def dimensions(name):
    return {"dy": 5} if name in ("Cosine", *IMAGES) else {}


def gradients(value, x, y, *modules):
    leaves = [x, y, *(p for m in modules for p in m.parameters() if p.requires_grad)]
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-2))


def test_every_registered_objective_has_a_dense_form():
    assert {text.partition("(")[0].lower() for text in dense.FORMS} == set(objectives.registry)


@pytest.mark.parametrize("text", dense.FORMS)
@pytest.mark.parametrize("critic_name", CRITICS)
@pytest.mark.parametrize("ids", IDS)
def test_value_and_gradient_are_the_dense_ones_for_every_tile(text, critic_name, ids):
    x, y = pairs(**dimensions(critic_name))
    critic = critic_of(critic_name)
    names = torch.arange(N) if IDS[ids] is None else IDS[ids]
    negative = names[:, None] != names[None, :]
    value_form, surrogate_form = dense.FORMS[text]
    matrix = critic(x, y)
    expected = value_form(matrix, negative)
    expected_gradients = gradients(surrogate_form(matrix, negative), x, y, critic)
    single = [(1, 1)] if ids == "repeated" else []  # 81 tiles, half of this test's time
    for rows, columns in [(None, None), (4, None), (2, 3), (N, 5), *single]:
        objective = objectives.objective(text).double()
        value = objective(Scores(critic, x, y, IDS[ids], rows=rows, columns=columns))
        assert value.shape == ()
        assert relative(value, expected) < 1e-12
        for ours, theirs in zip(gradients(value, x, y, critic), expected_gradients, strict=True):
            assert relative(ours, theirs) < 1e-12, (rows, columns)


def test_own_parameters_of_an_objective_get_the_dense_gradient():
    x, y = pairs()
    critic, module = critic_of("Bilinear"), torch.nn.Linear(5, 1).double()
    negative = ~torch.eye(N, dtype=torch.bool)
    matrix, a = critic(x, y), module(x).squeeze(1)
    expected = 1 + (matrix.diagonal() - a).mean() - ((matrix - a[:, None]).exp() * negative).sum() / (N * (N - 1))
    objective = objectives.TUBA(module)
    value = objective(Scores(critic, x, y, rows=2))
    assert relative(value, expected) < 1e-12
    for ours, theirs in zip(gradients(value, x, y, module), gradients(expected, x, y, module), strict=True):
        assert relative(ours, theirs) < 1e-12


# A 4 x 4 matrix of scores and each value, worked out in rational arithmetic of e^s = 1 except where s = log of an
# integer: rows of e^s are (8, 1, 1, 2), (1, 4, 1, 1), (2, 1, 2, 1), (1, 1, 1, 16).
GOLDEN = [[8, 1, 1, 2], [1, 4, 1, 1], [2, 1, 2, 1], [1, 1, 1, 16]]
MEAN_POSITIVE = math.log(8 * 4 * 2 * 16) / 4
MEAN_NEGATIVE = 14 / 12
GOLDEN_VALUES = {
    "InfoNCE()": (math.log(8 / 12) + math.log(4 / 7) + math.log(2 / 6) + math.log(16 / 19)) / 4 + math.log(4),
    "NWJ()": 1 + MEAN_POSITIVE - MEAN_NEGATIVE,
    "CalibratedNWJ()": MEAN_POSITIVE - math.log(MEAN_NEGATIVE),
    "DV()": MEAN_POSITIVE - math.log(MEAN_NEGATIVE),
    "MINE()": MEAN_POSITIVE - math.log(MEAN_NEGATIVE),
    "SMILE()": MEAN_POSITIVE - math.log(MEAN_NEGATIVE),
    f"SMILE(tau={math.log(1.5)})": MEAN_POSITIVE - math.log((10 + 2 * 1.5) / 12),
    "JS()": 1 + MEAN_POSITIVE - MEAN_NEGATIVE,
    "TUBA()": 1 + MEAN_POSITIVE - MEAN_NEGATIVE,
    "JSPlugin()": MEAN_POSITIVE,
    "SigLIP()": MEAN_POSITIVE,
    "Anchor()": MEAN_POSITIVE,
}


def test_the_golden_values_name_every_objective():
    assert {text.partition("(")[0].lower() for text in GOLDEN_VALUES} == set(objectives.registry)


@pytest.mark.parametrize("text", GOLDEN_VALUES)
def test_golden_matrix(text):
    matrix = torch.tensor(GOLDEN, dtype=torch.float64).log()
    counts = [sum(row) - row[i] for i, row in enumerate(GOLDEN)]
    assert sum(counts) == 14, "the table above"
    value = objectives.objective(text).double()(Scores.from_matrix(matrix))
    assert value.item() == pytest.approx(GOLDEN_VALUES[text], abs=1e-12)


# Mean and variance of each value at batch 64 with the true log-ratio of the 20-d Gaussian pair, I = 2 4 6 8 10 nats.
ORACLE = {
    "InfoNCE()": ((1.82, 3.07, 3.74, 4.03, 4.12), (0.03, 0.03, 0.02, 0.01, 0.001)),
    "DV()": ((2.01, 4.06, 6.20, 8.62, 11.31), (0.06, 0.20, 0.52, 0.98, 1.8)),
    "MINE()": ((2.01, 4.06, 6.20, 8.62, 11.31), (0.06, 0.20, 0.52, 0.98, 1.8)),
    "SMILE(tau=1.0)": ((2.38, 4.66, 6.82, 8.93, 10.97), (0.06, 0.11, 0.14, 0.17, 0.20)),
    "SMILE(tau=5.0)": ((2.03, 4.27, 6.71, 9.34, 12.06), (0.06, 0.15, 0.25, 0.40, 0.50)),
    "SMILE(tau=inf)": ((2.01, 4.06, 6.20, 8.62, 11.31), (0.06, 0.20, 0.52, 0.98, 1.8)),
    "NWJ()": ((2.01, 4.00), (0.06, 0.30)),
    "JS()": ((2.01, 4.00), (0.06, 0.30)),
    "TUBA()": ((2.01, 4.00), (0.06, 0.30)),
    "JSPlugin()": ((2.00, 4.00, 5.99, 8.01, 10.00), (0.05, 0.11, 0.14, 0.17, 0.20)),
    "SigLIP()": ((2.00, 4.00, 5.99, 8.01, 10.00), (0.05, 0.11, 0.14, 0.17, 0.20)),
    "Anchor()": ((2.00, 4.00, 5.99, 8.01, 10.00), (0.05, 0.11, 0.14, 0.17, 0.20)),
    "CalibratedNWJ()": ((2.01, 4.00), (0.06, 0.30)),
}
BATCHES = 300


class GaussianRatio(critics.Critic):
    """The true log-ratio of d-dimensional pairs of correlation rho, as inner products."""

    def __init__(self, rho):
        super().__init__()
        self.rho = rho

    def embed(self, x, y):
        variance, one = 1 - self.rho**2, torch.ones(len(x), 1, dtype=x.dtype)
        own_x = -0.5 * self.rho**2 / variance * (x**2).sum(1, keepdim=True) - x.shape[1] / 2 * math.log(variance)
        own_y = -0.5 * self.rho**2 / variance * (y**2).sum(1, keepdim=True)
        return torch.cat([self.rho / variance * x, own_x, one], 1), torch.cat([y, one, own_y], 1)

    def score(self, ex, ey):
        return ex @ ey.T

    def pair(self, ex, ey):
        return (ex * ey).sum(1)


@pytest.fixture(scope="module")
def oracle_batches():
    generator = torch.Generator().manual_seed(7)
    levels = {}
    for mi in (2, 4, 6, 8, 10):
        rho = math.sqrt(1 - math.exp(-2 * mi / 20))
        batches = []
        for _ in range(BATCHES):
            x, e = torch.randn(2, 64, 20, generator=generator, dtype=torch.float64)
            batches.append(Scores(GaussianRatio(rho), x, rho * x + math.sqrt(1 - rho**2) * e))
        levels[mi] = batches
    return levels


@pytest.mark.slow
@pytest.mark.parametrize("text", ORACLE)
def test_oracle_scores_give_the_oracle_table(text, oracle_batches):
    """Source: closed-form ratio, batch 64. Tolerance: 4 standard errors, of ours and of the table's rounding."""
    means, variances = ORACLE[text]
    for mi, mean, variance in zip(oracle_batches, means, variances, strict=False):
        objective = objectives.objective(text).double()
        if text == "CalibratedNWJ()":  # after a batch whose log-partition was 0, as the true ratio's is
            objective.batches += 1
        with torch.no_grad():
            found = torch.stack([objective.estimate(s) for s in oracle_batches[mi]]).mean().item()
        error = 4 * math.sqrt(variance / BATCHES) + 0.01 + 0.02 * (mi >= 8)
        assert found == pytest.approx(mean, abs=error), mi


def test_the_oracle_table_names_every_objective():
    assert {text.partition("(")[0].lower() for text in ORACLE} == set(objectives.registry)


@pytest.mark.parametrize("name", objectives.registry)
def test_independent_pairs_with_their_true_ratio_give_zero(name):
    objective = objectives.registry[name]().double()
    value = objective(Scores.from_matrix(torch.zeros(6, 6, dtype=torch.float64)))
    assert value.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", objectives.registry)
def test_a_critic_that_learnt_nothing_does_not_claim_information(name):
    """Independent pairs and small random scores: no value rises above sampling noise."""
    matrix = 0.1 * torch.randn(400, 400, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value = objectives.registry[name]().double()(Scores.from_matrix(matrix))
    assert abs(value.item()) < 0.03


@pytest.mark.parametrize("text", ["NWJ()", "JS()", "JSPlugin()", "SMILE()", "SigLIP()", "Anchor()", "Anchor(nu=3.0)"])
def test_the_optimum_of_the_surrogate_is_the_log_ratio(text):
    """The expected gradient over all samples of 3 pairs from a 2 x 2 distribution vanishes at s = log r."""
    joint = torch.tensor([[0.4, 0.1], [0.15, 0.35]], dtype=torch.float64)
    table = (joint / joint.sum(1, keepdim=True) / joint.sum(0, keepdim=True)).log().requires_grad_()
    other = (table.detach() + torch.tensor([[0.2, -0.1], [0.0, 0.1]])).requires_grad_()
    objective = objectives.objective(text).double()

    def expected_gradient(scores):
        total = torch.zeros(2, 2, dtype=torch.float64)
        for sample in itertools.product(itertools.product(range(2), range(2)), repeat=3):
            xs, ys = (torch.tensor(side) for side in zip(*sample, strict=True))
            weight = joint[xs, ys].prod()
            total += weight * torch.autograd.grad(
                objective.surrogate(Scores.from_matrix(scores[xs][:, ys])), scores
            )[0]  # fmt: skip
        return total

    assert expected_gradient(table).abs().max() < 1e-12
    assert expected_gradient(other).abs().max() > 1e-4, "a check that cannot fail"


@pytest.mark.parametrize("text", dense.FORMS)
def test_text_and_state_round_trip(text):
    x, y = pairs()
    objective = objectives.objective(text).double()
    for _ in range(2):  # moves the running averages
        objective(Scores(critic_of("Bilinear"), x, y)).backward()
    again = objectives.objective(repr(objective)).double()
    assert repr(again) == repr(objective)
    again.load_state_dict(objective.state_dict())
    scores = Scores(critic_of("Bilinear"), *pairs(seed=5))
    objective.eval(), again.eval()
    assert objective(scores).item() == again(scores).item()


def test_mine_divides_by_the_average_over_batches():
    x, y = pairs()
    objective = objectives.MINE(decay=0.5).double()
    first, second = Scores(critic_of("Bilinear"), x, y), Scores(critic_of("Separable"), x, y)
    L1, L2 = (s.negative.logmeanexp().detach() for s in (first, second))
    objective(first)
    value = objective(second)
    average = (0.25 * L1.exp() + 0.5 * L2.exp()) / 0.75
    matrix = critic_of("Separable")(x, y)
    negative = ~torch.eye(N, dtype=torch.bool)
    reference = matrix.diagonal().mean() - matrix[negative].exp().mean() / average
    for ours, theirs in zip(gradients(value, x, y), gradients(reference, x, y), strict=True):
        assert relative(ours, theirs) < 1e-12


def test_calibrated_nwj_is_nwj_of_the_shifted_scores():
    x, y = pairs()
    objective = objectives.CalibratedNWJ(decay=0.5).double()
    objective(Scores(critic_of("Separable"), x, y))
    c = objective.constant.clone()
    scores = Scores(critic_of("Bilinear"), x, y)
    shifted = Scores.from_matrix(critic_of("Bilinear")(x, y) - c)
    value = objective.eval()(scores)
    assert value.item() == pytest.approx(objectives.NWJ()(shifted).item(), abs=1e-12)
    for ours, theirs in zip(gradients(value, x, y), gradients(objectives.NWJ()(shifted), x, y), strict=True):
        assert relative(ours, theirs) < 1e-12


def test_a_value_that_overflows_leaves_the_gradient_alone():
    matrix = torch.tensor([[1.0, 200.0], [0.0, 1.0]], requires_grad=True)
    value = objectives.JS()(Scores.from_matrix(matrix))
    assert value.item() == -math.inf
    assert bool(torch.autograd.grad(value, matrix)[0].isfinite().all())


@pytest.mark.parametrize("text", dense.FORMS)
def test_bfloat16_inputs_err_no_more_than_the_naive_formula(text):
    """Against float64 on the same rounded inputs, relative error of the gradient; naive: the formula in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 16, generator=generator)
    inputs = [t.bfloat16() for t in (x, x + 0.3 * torch.randn(64, 16, generator=generator))]
    negative = ~torch.eye(64, dtype=torch.bool)
    value_form, surrogate_form = dense.FORMS[text]

    def dense_gradient(dtype):
        x, y = (t.to(dtype).detach().requires_grad_() for t in inputs)
        matrix = critics.Cosine(temperature=0.2).to(dtype)(x, y)
        return value_form(matrix, negative).item(), gradients(surrogate_form(matrix, negative), x, y)[0].double()

    exact_value, exact = dense_gradient(torch.float64)
    naive_value, naive = dense_gradient(torch.bfloat16)
    x, y = (t.detach().requires_grad_() for t in inputs)
    value = objectives.objective(text)(Scores(critics.Cosine(temperature=0.2), x, y))
    ours = gradients(value, x, y)[0]
    assert ours.dtype == torch.bfloat16
    assert value.dtype == torch.float32
    assert relative(ours.double(), exact) <= relative(naive, exact)
    assert abs(value.item() - exact_value) <= max(abs(naive_value - exact_value), 1e-4 * abs(exact_value))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SMYLE()", "Did you mean 'SMILE'"),
        ("SMILE(tau=0)", "tau must be positive"),
        ("SMILE(tau=-1)", "tau must be positive"),
        ("SMILE(tau='a')", "refused"),
        ("SMILE(sigma=1)", "It takes SMILE(tau"),
        ("Anchor(nu=0)", "nu must be a positive"),
        ("MINE(decay=1)", "decay must be in [0, 1)"),
        ("SMILE(tau=", "write it like a call"),
        ("SMILE(tau=__import__('os'))", "cannot be read"),
        ("no_such_module:Class", "could not be imported"),
        ("math:sqrt(2)", "has no estimate"),
    ],
)
def test_bad_texts_are_refused_in_a_sentence(text, says):
    with pytest.raises(UserError) as error:
        objectives.objective(text)
    assert says in str(error.value)


def test_a_class_of_the_users_own():
    assert repr(objectives.objective("infomax.objectives:SMILE(tau=3)")) == "SMILE(tau=3.0)"
    with pytest.raises(UserError, match="would run its code"):
        objectives.objective("infomax.objectives:SMILE", allow_imports=False)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Scores(critics.Critic(), torch.zeros(3, 2), torch.zeros(4, 2)), "x has 3 rows and y has 4"),
        (lambda: Scores(critics.Cosine(), torch.zeros(1, 2), torch.zeros(1, 2)), "at least 2 pairs"),
        (lambda: Scores(critics.Cosine(), *torch.zeros(2, 3, 2), torch.tensor([5, 5, 5])), "same id"),
        (lambda: Scores(critics.Cosine(), *torch.zeros(2, 3, 2), torch.arange(2)), "one number a row"),
        (lambda: Scores.from_matrix(torch.zeros(3, 2)), "square"),
        (lambda: objectives.Anchor()(Scores.from_matrix(torch.zeros(2, 2))), "two negatives"),
        (lambda: critics.Cosine(temperature=0), "temperature must be a positive"),
        (lambda: critics.Cosine(temperature=math.nan), "temperature must be a positive"),
        (lambda: critics.Cosine(temperature=1e-300), "temperature must be a positive"),
        (lambda: critics.Cosine(bias=math.nan), "bias is a finite number"),
        (lambda: critics.Bilinear(True, 2), "dx is how many features it has, 1 or more, not True"),
        (lambda: critics.Separable(2, 2, layers=-1), "layers is a number of hidden ones, 0 or more, and not -1"),
        (lambda: Scores(critics.Cosine(), *torch.ones(2, 3, 2), rows=-1), "rows is how many rows a tile has"),
        (lambda: Scores.of_views(critics.Cosine(), *torch.full((2, 3, 2), math.nan)), "NaN or infinite numbers in 3"),
        (lambda: critics.Concat(2, 2, layers=0), "at least one hidden layer"),
    ],
)
def test_bad_scores_and_critics_are_refused_in_a_sentence(make, says):
    with pytest.raises(UserError) as error:
        make()
    assert says in str(error.value)


@pytest.mark.parametrize("name", [*CRITICS, *IMAGES])
def test_critics_round_trip_and_agree_with_their_pair(name):
    critic = critic_of(name)
    from infomax.spelling import parse

    assert repr(parse(repr(critic), critics.registry, "critic")) == repr(critic)
    x, y = pairs(**dimensions(name))
    ex, ey = critic.embed(x, y)
    assert torch.allclose(critic.pair(ex, ey), critic.score(ex, ey).diagonal(), rtol=1e-12)
    assert torch.allclose(critics.Critic.pair(critic, ex, ey), critic.pair(ex, ey), rtol=1e-12)


def test_concat_is_the_mlp_of_the_joined_pair():
    critic = critic_of("Concat")
    x, y = pairs()
    weight = torch.cat([critic.weight_x, critic.weight_y], 1)
    joined = torch.cat([x[:, None].expand(-1, N, -1), y[None].expand(N, -1, -1)], 2)
    plain = critic.rest(torch.relu(joined @ weight.T + critic.first_bias)).squeeze(-1)
    assert torch.allclose(critic(x, y), plain, rtol=1e-12)


def test_every_registered_critic_is_held_to_the_contracts():
    assert {name.lower() for name in (*CRITICS, *IMAGES)} == set(critics.registry)


@pytest.mark.parametrize("name", IMAGES)
def test_critics_of_images_give_the_dense_gradient_for_every_tile(name):
    x, y = pairs(dy=5)
    critic = critic_of(name)
    expected = gradients(objectives.SMILE()(Scores.from_matrix(critic(x, y))), x, y, critic)
    for ours, theirs in zip(
        gradients(objectives.SMILE()(Scores(critic, x, y, rows=2, columns=3)), x, y, critic), expected, strict=True
    ):
        assert relative(ours, theirs) < 1e-12


def test_the_joint_critic_of_images_is_the_network_of_images_laid_on_each_other():
    critic = critics.ConvConcat((2, 4, 3), (1, 4, 3), channels=2, hidden=4).double()
    x, y = torch.randn(5, 24, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)
    weight = torch.cat([critic.weight_x, critic.weight_y], 1)
    laid = torch.cat(
        [x.view(5, 1, 2, 4, 3).expand(-1, 5, -1, -1, -1), y.view(1, 5, 1, 4, 3).expand(5, -1, -1, -1, -1)], 2
    )
    first = torch.nn.functional.conv2d(laid.flatten(0, 1), weight, critic.first_bias, stride=2, padding=1)
    assert torch.allclose(critic(x, y), critic.rest(torch.relu(first)).view(5, 5), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: critics.ConvSeparable((0, 28, 28)), "channels, height and width"),
        (lambda: critics.ConvConcat((1, 4, 4), (1, 5, 4)), "need one height and width"),
        (lambda: critics.Separable(3, 3, out=0), "out is a number of units, 1 or more, and not 0"),
    ],
)
def test_a_shape_that_is_none_is_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_the_matrix_is_walked_once_for_value_and_surrogate(monkeypatch):
    from infomax.scores import dense as small
    from infomax.scores import scores as matrix

    monkeypatch.setattr(small, "KEPT", 0)
    calls, real = [], matrix.walk
    monkeypatch.setattr(matrix, "walk", lambda plan, *rest: calls.append(plan.requests) or real(plan, *rest))
    x, y = pairs()
    for name in objectives.registry:
        calls.clear()
        objectives.registry[name]().double()(Scores(critic_of("Bilinear"), x, y))
        assert len(calls) == 1, (name, calls)


def test_memory_is_a_tile_not_the_matrix():
    """The largest tensor that a forward and backward over 3,000 rows allocates is far below 3,000 x 3,000."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else [out]:
                if isinstance(t, torch.Tensor):
                    self.size = max(self.size, t.numel())
            return out

    x, y = torch.randn(2, 3000, 4).requires_grad_()
    with Largest() as largest:
        value = objectives.SMILE()(Scores(critics.Cosine(), x, y, rows=16, columns=3000))
        torch.autograd.grad(value, [x])
    assert 3000 * 16 <= largest.size <= 3000 * 16 + 1


def test_ntxent_is_infonce_on_all_views():
    """Source: Chen et al., 2020, equation 1, with its value shifted by log of the number of candidates."""
    torch.manual_seed(0)
    z1, z2 = torch.randn(2, 6, 5, dtype=torch.float64)
    z = torch.nn.functional.normalize(torch.cat([z1, z2]), dim=1)
    similarity = (z @ z.T / 0.5).fill_diagonal_(-math.inf)
    target = torch.arange(12).roll(6)
    loss = torch.nn.functional.cross_entropy(similarity, target)
    ids = torch.arange(6).repeat(2)
    scores = Scores(critics.Cosine(temperature=0.5).double(), torch.cat([z1, z2]), torch.cat([z2, z1]), ids)
    assert objectives.InfoNCE()(scores).item() == pytest.approx(math.log(11) - float(loss), abs=1e-12)
