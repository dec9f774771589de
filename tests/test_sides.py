"""Contracts of every layout of sides: rectangular, with extra columns, many rows to a column, both sides one tensor."""

import math

import dense
import pytest
import torch
from layouts import CRITICS, LAYOUTS, of_matrix
from test_scores import close, leaves

from infomax import UserError, critics, objectives
from infomax.scores import Scores, Sides
from infomax.scores import dense as small
from infomax.scores.face import GivenMatrix

QUICK = {("extra", "Cosine, learnt"), ("many to one, extra", "Concat"), ("rectangular", "Separable"),
         ("extra of named samples", "Cosine, learnt"), ("extra of other samples", "matrix"),
         ("repeated, extra of named samples", "Cosine"), ("two ids, extra of named samples", "Bilinear"),
         ("many to one, extra of named samples", "Concat"), ("one sample, extra of named samples", "Cosine"),
         ("views", "Cosine"), ("two ids, many to one", "matrix"), ("rectangular, repeated", "Bilinear")}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "critic_name"),
    [
        pytest.param(name, critic, marks=[] if (name, critic) in QUICK else pytest.mark.slow)
        for name in LAYOUTS
        for critic in (*CRITICS, "matrix")
    ],
)
@pytest.mark.parametrize("path", ["one tile", "tiles"])
def test_every_layout_has_the_dense_value_and_gradient(monkeypatch, path, name, critic_name):
    layout = LAYOUTS[name]
    if path == "tiles":
        monkeypatch.setattr(small, "KEPT", 0)
    torch.manual_seed(1)
    critic = None if critic_name == "matrix" else CRITICS[critic_name]().double()
    x, y, extra = layout.features()
    if critic is None:
        inputs = leaves(2 * torch.randn(layout.n, layout.m + layout.k, dtype=torch.float64))
        matrix = inputs[0]
    else:
        inputs = leaves(x) if layout.alike else leaves(x, y)
        x, y = inputs[0], inputs[-1]
        matrix = critic(x, y if extra is None else torch.cat([y, extra]))
        inputs += list(critic.parameters())
    where = layout.negative, layout.own, layout.names
    if layout.alike:  # columns are those of other views: Anchor leaves out the first of them
        order = torch.arange(layout.n).roll(layout.n // 2)
        if critic is not None:
            matrix = matrix[:, order]
            where = layout.negative[:, order], torch.arange(layout.n), layout.names[order]
    for text, (value_form, surrogate_form) in dense.FORMS.items():
        if text == "InfoNCE(symmetric=True)" and layout.k:
            continue
        expected = value_form(matrix, *where).detach()
        gradient = torch.autograd.grad(surrogate_form(matrix, *where), inputs, allow_unused=True, retain_graph=True)
        for rows, columns in ((None, None),) if path == "one tile" else ((None, None), (5, None), (7, 4)):
            options = {"rows": rows, "columns": columns}
            if critic is None:
                s = of_matrix(layout, matrix, **options)
            else:
                s = Scores.of(critic, layout.sides(x, y, extra), **options)
            value = objectives.objective(text).double()(s)
            assert close([value], [expected]), (text, rows, columns)
            found = torch.autograd.grad(value, inputs, allow_unused=True)
            assert close(found, gradient), (text, rows, columns)


def test_a_queue_and_many_rows_to_a_column_by_hand():
    """InfoNCE: log 3 less log(e^p + e^a + e^q), of each row; NWJ: 1 + mean positive - mean of e^s over negatives."""
    log = math.log
    # Two pairs and one column of a queue.
    matrix = torch.tensor([[log(2), log(3), log(5)], [log(7), log(11), log(13)]], dtype=torch.float64)
    s = Scores.of(GivenMatrix(), Sides(matrix, torch.arange(2), extra=torch.tensor([2])))
    assert s.negative.per_row.tolist() == [2, 2] and s.negative.per_positive == 2
    right = (log(3 * 2 / (2 + 3 + 5)) + log(3 * 11 / (7 + 11 + 13))) / 2
    assert float(objectives.InfoNCE()(s)) == pytest.approx(right, rel=1e-14)
    right = 1 + (log(2) + log(11)) / 2 - (3 + 5 + 7 + 13) / 4
    assert float(objectives.NWJ()(s)) == pytest.approx(right, rel=1e-14)
    # Three rows onto two columns: 0, 1, 1. Row 1 is no negative of row 2, nor is a column two times a candidate.
    matrix = torch.tensor([[log(2), log(3)], [log(5), log(7)], [log(11), log(13)]], dtype=torch.float64)
    s = Scores.from_matrix(matrix, positive=torch.tensor([0, 1, 1]))
    assert s.negative.per_row.tolist() == [1, 1, 1] and s.negative.per_column.tolist() == [2, 1, 1]
    right = (log(2 * 2 / 5) + log(2 * 7 / 12) + log(2 * 13 / 24)) / 3
    assert float(objectives.InfoNCE()(s)) == pytest.approx(right, rel=1e-14)
    columns = (log(3 * 2 / (2 + 5 + 11)) + log(2 * 7 / (3 + 7)) + log(2 * 13 / (3 + 13))) / 3
    assert float(objectives.InfoNCE(symmetric=True)(s)) == pytest.approx((right + columns) / 2, rel=1e-14)
    right = 1 + (log(2) + log(7) + log(13)) / 3 - (3 + 5 + 11) / 3
    assert float(objectives.NWJ()(s)) == pytest.approx(right, rel=1e-14)


class _LogRatio(critics.Critic):
    """The true log r of two normals of correlation rho, whose columns are independent."""

    def __init__(self, rho):
        super().__init__()
        self.rho = rho

    def score(self, ex, ey):
        return self.pair(ex[:, None], ey[None])

    def pair(self, ex, ey):
        x, y, rho = ex, ey, self.rho
        exponent = (rho**2 * (x**2 + y**2) - 2 * rho * x * y) / (2 * (1 - rho**2))
        return (-exponent - 0.5 * math.log(1 - rho**2)).sum(-1)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["extra", "many to one, extra"])
def test_with_the_true_log_ratio_a_queue_from_the_marginal_leaves_estimates_unbiased(layout):
    """NWJ is unbiased; DV and SMILE without a clip overstate by less than their plug-in partition's variance."""
    rho, d, n, k, draws = 0.5, 2, 64, 192, 400
    truth = -d / 2 * math.log(1 - rho**2)
    generator = torch.Generator().manual_seed(0)
    rows = 2 * n if "many" in layout else n
    own = torch.arange(rows) % n
    found = {text: [] for text in ("NWJ()", "DV()", "SMILE(tau=inf)")}
    for _ in range(draws):
        y, extra = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (n, k))
        x = rho * y[own] + math.sqrt(1 - rho**2) * torch.randn(rows, d, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            s = Scores.of(_LogRatio(rho), Sides(x, y, positive=own if rows > n else None, extra=extra))
            for text, values in found.items():
                values.append(float(objectives.objective(text)(s)))
    for text, values in found.items():
        values = torch.tensor(values)
        error = float(values.std()) / math.sqrt(draws)
        assert error < 0.02 * truth * 5
        assert abs(float(values.mean()) - truth) < 4 * error, (text, float(values.mean()), truth, error)


def test_a_frozen_queue_costs_a_product_less(monkeypatch):
    """No product is spent on the gradient of columns that have none; with parameters behind them one is."""
    monkeypatch.setattr(small, "KEPT", 0)
    shapes, real = [], torch.Tensor.addmm_
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda t, *factors: shapes.append(len(t)) or real(t, *factors))
    x, y = leaves(torch.randn(8, 6), torch.randn(8, 6))
    for critic, pulled in ((critics.Cosine(learn=True), 8), (critics.Bilinear(6, 6), 8), (critics.Separable(6, 6), 40)):
        shapes.clear()
        s = Scores.of(critic, Sides(x, y, extra=torch.randn(32, 6)))
        objectives.NWJ()(s).backward()
        assert shapes == [pulled], "of columns; of rows a product of its own"


def test_a_queue_of_a_tensor_with_gradient_gets_none():
    x, y, extra = leaves(torch.randn(8, 6), torch.randn(8, 6), torch.randn(5, 6))
    objectives.NWJ()(Scores.of(critics.Cosine(), Sides(x, y, extra=extra))).backward()
    assert extra.grad is None and x.grad is not None


def test_all_views_as_one_tensor_visit_half_the_matrix(monkeypatch):
    monkeypatch.setattr(small, "KEPT", 0)
    z = torch.randn(20, 6, dtype=torch.float64)
    sides = Sides(z, z, torch.arange(10).repeat(2), positive=torch.arange(20).roll(10))
    s = Scores.of(critics.Cosine().double(), sides)
    assert s._views == 10 and torch.equal(s.positive, Scores.of_views(critics.Cosine(), z[:10], z[10:]).positive)
    assert Scores.of(critics.Bilinear(6, 6).double(), sides)._views is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positive": torch.tensor([0, 1, 4])}, "positive of row 2 is column 4, and y has columns 0 to 3"),
        ({"positive": torch.tensor([0, 1, -1])}, "column -1"),
        ({"positive": torch.tensor([0.0, 1.0, 2.0])}, "whole numbers"),
        ({"positive": torch.arange(4)}, "one column a row"),
        ({}, "x has 3 rows and y has 4"),
        ({"positive": torch.arange(3), "ids": torch.arange(3)}, "column_ids"),
        ({"positive": torch.arange(3), "ids": torch.arange(2)}, r"ids must be one number a row, \[3\]"),
        (
            {"positive": torch.arange(3), "column_ids": torch.arange(3)},
            r"column_ids must be one number a column",
        ),
        (
            {"positive": torch.arange(3), "ids": torch.tensor([0, 5, 2]), "column_ids": torch.arange(4)},
            "Row 1 is of sample 5, and its positive, column 1, of sample 1",
        ),
        ({"positive": torch.arange(3), "extra": torch.zeros(5, 7)}, r"extra must be rows like y's, \[k, 6\]"),
        (
            {"positive": torch.arange(3), "extra": torch.zeros(5, 6).long()},
            "extra must be numbers like y's, and is int64",
        ),
        ({"positive": torch.arange(3), "extra": torch.full((5, 6), math.nan)}, r"extra has NaN .* in 5 of 5 rows"),
        (
            {"positive": torch.arange(3), "extra": torch.zeros(5, 6), "extra_ids": torch.zeros(4).long()},
            r"extra_ids must",
        ),
        ({"positive": torch.arange(3), "extra_ids": torch.zeros(5).long()}, r"extra_ids must be one number .*\[0\]"),
        ({"positive": torch.arange(3), "ids": torch.zeros(3)}, "ids name samples by whole numbers, and are float32"),
        (
            {"positive": torch.arange(3), "ids": torch.zeros(3).long(), "column_ids": torch.zeros(4).long()},
            "no negative",
        ),
    ],
)
def test_sides_that_do_not_fit_are_refused_in_a_sentence(change, words):
    with pytest.raises(UserError, match=words):
        Scores.of(critics.Cosine(), Sides(torch.randn(3, 6), torch.randn(4, 6), **change))


def test_a_queue_has_no_columns_to_read():
    s = Scores.of(critics.Cosine(), Sides(torch.randn(8, 6), torch.randn(8, 6), extra=torch.randn(5, 6)))
    with pytest.raises(UserError, match=r"a queue's columns have no positives: use symmetric=False\."):
        objectives.InfoNCE(symmetric=True)(s)


@pytest.mark.parametrize(
    ("critic", "x", "y", "words"),
    [
        (critics.Cosine(), torch.randn(8, 5), torch.randn(8, 6), "one width, not 5 and 6"),
        (critics.Bilinear(5, 6), torch.randn(8, 6), torch.randn(8, 6), "made for x of 5 features, and is given 6"),
        (critics.Separable(6, 5), torch.randn(8, 6), torch.randn(8, 6), "made for y of 5 features, and is given 6"),
        (critics.Concat(6, 5), torch.randn(8, 6), torch.randn(8, 6), "made for y of 5 features, and is given 6"),
        (critics.ConvSeparable((1, 4, 4)), torch.randn(8, 6), torch.randn(8, 16), "made for x of 16 features"),
        (critics.Cosine(), torch.randn(8), torch.randn(8), r"rows of features, \[n, d\], and not of shape \[8\]"),
        (critics.Cosine(), torch.randn(8, 6), torch.ones(8, 6).long(), "floating point, and not in int64"),
        (critics.Cosine(), torch.randn(8, 6).bool(), torch.randn(8, 6), "floating point, and not in bool"),
    ],
)
def test_features_that_a_critic_cannot_take_are_refused_in_a_sentence(critic, x, y, words):
    with pytest.raises(UserError, match=words):
        Scores(critic, x, y)


@pytest.mark.parametrize("kept", [0, small.KEPT])
def test_data_that_are_not_finite_are_refused_and_a_network_s_are_not(monkeypatch, kept):
    monkeypatch.setattr(small, "KEPT", kept)
    x, y = torch.randn(8, 6), torch.randn(8, 6)
    y[[2, 5]] = math.nan
    with pytest.raises(UserError, match=r"y has NaN or infinite numbers in 2 of 8 rows \(2, 5\); leave"):
        Scores(critics.Cosine(), x, y)
    assert objectives.DV()(Scores(critics.Cosine(), x, y.requires_grad_())).isnan(), "it flows to the training loop"
    with torch.no_grad():
        assert objectives.DV()(Scores(critics.Cosine(), x, y)).isnan()


@pytest.mark.parametrize("method", ["score", "pair"])
def test_scores_of_another_shape_than_their_pairs_are_refused(monkeypatch, method):
    class Wrong(critics.Critic):
        def score(self, ex, ey):
            return torch.zeros(len(ex), len(ey) + (method == "score"))

        def pair(self, ex, ey):
            return torch.zeros(len(ex), 1 + (method == "pair")).squeeze(1)

    with pytest.raises(UserError, match=rf"Wrong\.{method} gave \[8, (9|2)\] for 8"):
        objectives.DV()(Scores(Wrong(), torch.randn(8, 6), torch.randn(8, 6)))


# ---- the cosine


@pytest.mark.parametrize("scale", [1e-15, 1e-30, 1e20, 1e30])
def test_a_cosine_does_not_depend_on_the_lengths_of_rows(scale):
    x, y = torch.randn(16, 6), torch.randn(16, 6)
    found = []
    for size in (1.0, scale):
        lengths = torch.where(torch.arange(16)[:, None] % 3 == 0, size, 1.0)  # beside ordinary rows
        a, b = leaves(x * lengths, y * size)
        value = objectives.InfoNCE()(Scores(critics.Cosine(0.2), a, b))
        d_a, d_b = torch.autograd.grad(value, [a, b])
        found.append((value, d_a * lengths, d_b * size))
    assert close(found[1], found[0], 1e-5)


def test_ordinary_rows_beside_others_keep_every_bit():
    x = torch.randn(16, 6)
    gradient = torch.randn(16, 6)
    z = leaves(x)[0]
    plain = critics.Cosine(0.2).embed(z, z.detach())[0]
    alone = torch.autograd.grad(plain, z, gradient)[0]
    z = leaves(torch.cat([x, torch.zeros(1, 6), torch.full((1, 6), 1e25)]))[0]
    ours = critics.Cosine(0.2).embed(z, z.detach())[0]
    beside = torch.autograd.grad(ours, z, torch.cat([gradient, torch.ones(2, 6)]))[0]
    assert torch.equal(ours[:16], plain) and torch.equal(beside[:16], alone)
    assert not ours[16].any() and not beside[16].any(), "a row of zeros stays there"
    for t in (x.half(), x.bfloat16()):
        assert critics.Cosine()(t, t).isfinite().all()


def test_a_learnt_temperature_has_an_end_and_comes_back_from_it():
    critic = critics.Cosine(0.02, learn=True)
    x, y = torch.randn(16, 6), torch.randn(16, 6)
    with torch.no_grad():
        critic.log_temperature.fill_(-20.0)  # where a step may have left it
        looked_at = critic.eval()(x, y)
        assert float(critic.log_temperature) == -20, "an evaluation changes no parameter"
        critic.train()
    matrix = critic(x, y)
    assert float(critic.log_temperature.detach().exp()) == pytest.approx(0.01, rel=1e-6)
    assert float(matrix.detach().abs().max()) <= 100.001
    assert torch.allclose(looked_at, matrix)
    optimizer = torch.optim.SGD(critic.parameters(), lr=1e-3)
    for _ in range(3):  # pairs that are not alike: a cold critic is worse
        optimizer.zero_grad()
        (-objectives.InfoNCE()(Scores(critic, x, y))).backward()
        optimizer.step()
    assert float(critic.log_temperature.detach().exp()) > 0.0101
    text = repr(critics.Cosine(0.02, learn=True, minimum=0.001))
    parsed = eval(text, {"Cosine": critics.Cosine})
    assert (parsed.minimum, repr(parsed)) == (0.001, text)
    assert critics.Cosine(0.005).temperature == 0.005, "one that is not learnt is not limited"
    with pytest.raises(UserError, match=r"starts at its minimum, 0\.01, or above, and not at 0\.005"):
        critics.Cosine(0.005, learn=True)
    with pytest.raises(UserError, match="minimum must be a positive temperature"):
        critics.Cosine(minimum=0)


@pytest.mark.slow
def test_the_benchmark_of_a_queue_has_our_gradient_in_plain_form():
    from infomax.benchmarks import queues
    from infomax.benchmarks.scores import alternate

    rows = queues.queued(alternate, 700, 64, 16, 0.2, 0.0, "cpu")
    assert [row.objective for row in rows] == list(queues.PLAIN) and all(row.error < 1e-5 for row in rows)
    step = queues.trained(alternate, 130, 64, 16, 0.2, 0.0, "cpu")
    assert step.extra == 128 and step.ms > 0 and step.to_without > 0
    assert len(queues.lines([vars(row) for row in rows], vars(step))) == 3 + len(rows) + 4
