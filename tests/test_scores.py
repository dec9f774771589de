"""Contracts of the engine: every way through the matrix gives the dense gradient, in the precision that is promised."""

import copy
import itertools
import json
import math
import os
import subprocess
import sys

import dense
import pytest
import torch
from torch.nn import functional as F

from infomax import UserError, critics, objectives, scores
from infomax.scores import Scores, layout, rectangular, symmetric, tiles
from infomax.scores import dense as small
from infomax.scores.face import symmetric_embedding

CRITICS = {
    "Cosine": lambda: critics.Cosine(temperature=0.5, bias=0.3, learn=True),
    "cold": lambda: critics.Cosine(temperature=0.012),
    "Bilinear": lambda: critics.Bilinear(6, 6),
    "Concat": lambda: critics.Concat(6, 6, hidden=5),
}
# Two ids: more equal pairs than are worth a list. All have ids in order of their first row, as the dense forms assume.
IDS = {"distinct": None, "repeated": torch.arange(21) // 2, "two": torch.arange(21) // 11}


@pytest.fixture
def by_tiles(monkeypatch):
    """Small matrices go the way of large ones."""
    monkeypatch.setattr(small, "KEPT", 0)


@pytest.fixture
def second_walks(monkeypatch):
    """Counts walks that follow the first to make a gradient."""
    made, real = [], rectangular.Rectangular.gradient
    monkeypatch.setattr(rectangular.Rectangular, "gradient", lambda self, terms: made.append(1) or real(self, terms))
    return made


def sides(n, d=6, dtype=torch.float64, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    return x, x + noise * torch.randn(n, d, generator=generator, dtype=dtype)


def leaves(*tensors):
    return [t.detach().clone().requires_grad_() for t in tensors]


def relative(a, b):
    return float((a - b).detach().double().norm() / b.detach().double().norm().clamp(min=1e-300))


def close(ours, theirs, tolerance=1e-12):
    """No gradient is a gradient of zeros."""
    zero = torch.zeros((), dtype=torch.float64)
    pairs = [(zero if a is None else a, zero if b is None else b) for a, b in zip(ours, theirs, strict=True)]
    return all(float((a - b).detach().norm()) <= tolerance * max(float(b.detach().norm()), 1e-2) for a, b in pairs)


# An inner product, a cold one and a network are a way each; the rest is more of the same.
QUICK = {("distinct", "Cosine"), ("repeated", "Concat"), ("two", "cold"), ("views", "Cosine")}


@pytest.mark.parametrize(
    ("ids", "critic_name"),
    [
        pytest.param(ids, name, marks=[] if (ids, name) in QUICK else pytest.mark.slow)
        for ids in (*IDS, "views")
        for name in CRITICS
    ],
)
def test_every_way_through_the_matrix_gives_the_dense_gradient(by_tiles, critic_name, ids):
    torch.manual_seed(1)
    critic, views = CRITICS[critic_name]().double(), ids == "views"
    names = torch.arange(21).repeat(2) if views else torch.arange(21) if IDS[ids] is None else IDS[ids]
    negative = names[:, None] != names[None]
    for text, (value_form, surrogate_form) in dense.FORMS.items():
        if (text.startswith("Anchor") and views) or (critic_name == "cold" and "SMILE" in text):
            continue  # dense: slow; F.softplus is inexact above 20
        if critic_name == "cold" and text in ("JS()", "JSPlugin()", "SigLIP()"):
            continue
        x, y = leaves(*sides(21))
        inner = list(critic.parameters())
        matrix = critic(torch.cat([x, y]), torch.cat([y, x])) if views else critic(x, y)
        expected = value_form(matrix, negative).detach()
        gradient = torch.autograd.grad(surrogate_form(matrix, negative), [x, y, *inner], allow_unused=True)
        for rows, columns in ((None, None), (4, None), (8, 5)):
            objective = objectives.objective(text).double()
            if views:
                s = Scores.of_views(critic, x, y, rows=rows, columns=columns)
            else:
                s = Scores(critic, x, y, IDS[ids], rows=rows, columns=columns)
            value = objective(s)
            assert close([value], [expected]), (text, rows, columns)
            found = torch.autograd.grad(value, [x, y, *inner], allow_unused=True)
            assert close(found, gradient), (text, rows, columns)


@pytest.mark.parametrize("name", objectives.registry)
def test_one_walk_makes_value_and_gradient(by_tiles, second_walks, name):
    x, y = leaves(*sides(40))
    objective = objectives.registry[name]().double()
    torch.autograd.grad(objective(Scores(critics.Cosine(), x, y)), [x, y])
    assert not second_walks
    if name == "infonce":  # columns complete only at the end
        torch.autograd.grad(objectives.InfoNCE(symmetric=True)(Scores(critics.Cosine(), x, y)), [x, y])
        assert len(second_walks) == 1


@pytest.mark.parametrize("name", ["nwj", "dv", "js", "smile", "siglip"])
def test_a_critic_that_is_no_inner_product_is_scored_once(by_tiles, second_walks, name):
    x, y = leaves(*sides(40))
    critic = critics.Concat(6, 6, hidden=5).double()
    scored, real = [], critic.score
    critic.score = lambda ex, ey: scored.append(len(ex) * len(ey)) or real(ex, ey)
    value = objectives.registry[name]().double()(Scores(critic, x, y))
    torch.autograd.grad(value, [x, y, *critic.parameters()])
    assert sum(scored) == 40 * 40 and not second_walks


def test_all_views_against_all_visit_half_the_matrix(by_tiles, monkeypatch):
    visited, real = [], symmetric.Symmetric.tile
    monkeypatch.setattr(
        symmetric.Symmetric, "tile", lambda self, r, c, w: visited.append((r, c)) or real(self, r, c, w)
    )
    x, y = leaves(*sides(20))
    for critic, count in ((critics.Cosine().double(), 10), (critics.Bilinear(6, 6).double(), 0)):
        visited.clear()
        objectives.InfoNCE()(Scores.of_views(critic, x, y, rows=10, columns=10)).backward()
        assert len(visited) == 2 * count, "values, then gradients, of the 10 tiles on and above the diagonal"


@pytest.mark.parametrize("path", ["one tile", "tiles"])
def test_a_critic_that_changes_what_it_inherits_is_not_taken_for_symmetric(monkeypatch, path):
    class Skewed(critics.Cosine):
        def embed(self, x, y):
            ex, ey = super().embed(x, y)
            return ex, ey.roll(1, 1)

    if path == "tiles":
        monkeypatch.setattr(small, "KEPT", 0)
    x, y = leaves(*sides(20))
    critic = Skewed(0.5).double()
    value = objectives.InfoNCE()(Scores.of_views(critic, x, y))
    with torch.no_grad():
        matrix = critic(torch.cat([x, y]), torch.cat([y, x]))
    names = torch.arange(20).repeat(2)
    assert close([value], [dense.infonce(matrix, names[:, None] != names[None])])


@pytest.mark.parametrize("name", critics.registry)
def test_embedded_alike_means_what_embedded_apart_does(name):
    critic = CRITICS.get(name.capitalize(), lambda: critics.Separable(6, 6, hidden=5))().double()
    x, y = sides(9)
    if together := symmetric_embedding(critic):
        matrix = together(x) @ together(y).T + critic.offset
        assert close([matrix], [critic(x, y)]) and close([matrix.T], [critic(y, x)])
    assert bool(together) == (name == "cosine")


class PowerMean(objectives.Objective):
    """No mean over rows: its weights on rows cannot be foreseen from some of them."""

    def estimate(self, s):
        return s.positive.mean() - s.negative.logmeanexp(dim=1).exp().square().mean().sqrt()


class RowsTimesPartition(objectives.Objective):
    """Rows whose weights depend on a scalar that is complete only at the end."""

    def estimate(self, s):
        return (s.positive - s.negative.logmeanexp(dim=1)).mean() * s.negative.logmeanexp().exp()


@pytest.mark.parametrize("make", [PowerMean, RowsTimesPartition])
@pytest.mark.parametrize("rows", [7, None])
def test_what_was_foreseen_wrongly_is_found_out_and_made_again(by_tiles, second_walks, make, rows):
    x, y = leaves(*sides(21))
    critic = critics.Cosine(0.5)
    value = make()(Scores(critic, x, y, rows=rows or 5))
    found = torch.autograd.grad(value, [x, y])
    negative = ~torch.eye(21, dtype=torch.bool)
    matrix = critic(x, y)
    means = dense.masked_lse(matrix, negative, 1) - math.log(20)
    if make is PowerMean:
        expected = matrix.diagonal().mean() - means.exp().square().mean().sqrt()
        assert len(second_walks) == 1
    else:
        expected = (matrix.diagonal() - means).mean() * dense.log_partition(matrix, negative).exp()
    assert close([value], [expected])
    assert close(found, torch.autograd.grad(expected, [x, y]))


@pytest.mark.parametrize("n", [12, 60])
def test_a_loss_may_be_used_twice_and_says_that_it_has_no_second_derivative(by_tiles, n):
    x, y = leaves(*sides(n))
    value = objectives.InfoNCE()(Scores(critics.Cosine(), x, y, rows=8))
    once = torch.autograd.grad(value, [x, y], retain_graph=True)
    twice = torch.autograd.grad(3 * value, [x, y])
    assert close([g / 3 for g in twice], once)
    value = objectives.InfoNCE()(Scores(critics.Cosine(), x, y))
    first = torch.autograd.grad(value, [x], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_small_batch_has_its_second_derivative():
    x, y = leaves(*sides(12))
    found = []
    for value in (
        objectives.InfoNCE()(Scores(critics.Cosine(0.5), x, y)),
        dense.infonce(F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.5, ~torch.eye(12, dtype=torch.bool)),
    ):
        first = torch.autograd.grad(value, [x, y], create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), [x, y]))
    assert close(found[0], found[1])


def test_a_result_seen_without_gradient_is_made_again_with_it():
    x, y = leaves(*sides(12))
    s = Scores(critics.Cosine(), x, y)
    with torch.no_grad():
        objectives.DV()(s)
    ours = torch.autograd.grad(objectives.DV()(s), [x, y])
    theirs = torch.autograd.grad(objectives.DV()(Scores(critics.Cosine(), x, y)), [x, y])
    assert close(ours, theirs)


def test_looking_ahead_changes_nothing_of_the_objective(by_tiles):
    baseline = torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.BatchNorm1d(1)).double()
    x, y = leaves(*sides(20))
    value = objectives.TUBA(baseline)(Scores(critics.Cosine(), x, y, rows=5))
    assert baseline[1].num_batches_tracked == 1
    value.backward()


def test_a_subclass_with_another_score_is_not_taken_for_an_inner_product(by_tiles):
    class Cubed(critics.Cosine):
        def score(self, ex, ey):
            return super().score(ex, ey) ** 3

        def pair(self, ex, ey):
            return super().pair(ex, ey) ** 3

    x, y = leaves(*sides(12))
    critic = Cubed(1.0)
    value = objectives.DV()(Scores(critic, x, y))
    assert close([value], [dense.dv(critic(x, y), ~torch.eye(12, dtype=torch.bool))])


# ---- what a review found


@pytest.mark.parametrize("bias", [-100.0, -1000.0])
def test_a_tile_without_negatives_changes_no_gradient_of_scores_far_below_zero(by_tiles, bias):
    x, y = leaves(*sides(24))
    ids, critic = torch.arange(24) // 8, critics.Cosine(0.5, bias=bias)
    found = torch.autograd.grad(objectives.DV()(Scores(critic, x, y, ids, rows=4, columns=4)), [x, y])
    expected = dense.dv(critic(x, y), ids[:, None] != ids[None])
    assert close(found, torch.autograd.grad(expected, [x, y]))


class Averaging(objectives.Objective):
    """A running average that is assigned anew, and a counter: what a formula is only tried for must not stay."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros((), dtype=torch.float64))
        self.calls = 0

    def estimate(self, s):
        partition = s.negative.logmeanexp(dim=1)
        self.average = 0.9 * self.average + 0.1 * partition.detach().mean()
        self.calls += 1
        return s.positive.mean() - (partition - self.average).exp().mean()


def test_trying_a_formula_leaves_its_state_alone(by_tiles):
    found = []
    for rows in (None, 5, 20):
        x, y = leaves(*sides(20))
        objective = Averaging()
        gradient = torch.autograd.grad(objective(Scores(critics.Cosine(), x, y, rows=rows)), [x, y])
        found.append((objective.calls, float(objective.average), gradient))
    for calls, average, _ in found:
        assert calls == 1 and average == pytest.approx(found[0][1], rel=1e-12)


def test_two_losses_of_a_baseline_with_buffers_before_one_backward(by_tiles):
    baseline = torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.BatchNorm1d(1)).double().eval()
    x, y = leaves(*sides(20))
    objective = objectives.TUBA(baseline)
    sum(objective(Scores(critics.Cosine(), x, y, rows=5)) for _ in range(2)).backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_of_a_bias_in_half_precision_is_summed_in_more(by_tiles, dtype):
    critic = critics.Cosine(0.2, learn="bias")
    exact = critics.Cosine(0.2, learn="bias")
    critic.shift.data = critic.shift.data.to(dtype)
    x, y = sides(128, dtype=torch.float32)  # 512 tiles: twice what half a precision's 8 bits can count to
    for objective in (objectives.NWJ(), objectives.JS()):
        found, expected = (
            torch.autograd.grad(objective(Scores(c, x, y, rows=4, columns=8)), [c.shift])[0] for c in (critic, exact)
        )
        assert found.dtype == dtype and float(found) == pytest.approx(float(expected), rel=1e-2)


def test_a_critic_with_weights_that_nothing_tells_of_is_refused():
    class Plain:
        def __init__(self):
            self.w = torch.ones(6, dtype=torch.float64, requires_grad=True)

        def embed(self, x, y):
            return x, y

        def score(self, ex, ey):
            return (ex * self.w) @ ey.T

        def pair(self, ex, ey):
            return (ex * self.w * ey).sum(1)

    with pytest.raises(UserError, match=r"torch\.nn\.Module"):
        Scores(Plain(), *sides(8))


def test_ids_of_views_are_one_a_sample():
    for critic in (critics.Cosine(), critics.Bilinear(6, 6).double()):
        with pytest.raises(UserError, match=r"one number a sample, \[8\]"):
            Scores.of_views(critic, *sides(8), torch.arange(5))


def test_without_gradient_none_is_made(by_tiles, monkeypatch):
    monkeypatch.setattr("infomax.scores.critic_tiles.AnyCritic.pull", None)
    monkeypatch.setattr("infomax.scores.critic_tiles.InnerProduct.pull", None)
    for critic in (critics.Concat(6, 6, hidden=5).double(), critics.Cosine(learn=True).double()):
        with torch.no_grad():
            assert objectives.DV()(Scores(critic, *sides(20))).isfinite()


def test_scores_made_without_gradient_have_it_where_it_is_wanted_later():
    critic = critics.Cosine(0.5, learn="bias").double()
    with torch.no_grad():
        s = Scores(critic, *sides(12))
    assert abs(float(torch.autograd.grad(objectives.DV()(s), [critic.shift])[0])) < 1e-12


def test_what_is_learnt_of_a_formula_keeps_no_features(by_tiles):
    import gc
    import weakref

    gc.disable()
    try:
        x, y = leaves(*sides(30))
        kept = weakref.ref(x)
        objective = objectives.InfoNCE()
        objective(Scores(critics.Cosine(), x, y, rows=7)).backward()
        del x, y
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["Bilinear", "Separable", "Concat"])
def test_a_critic_in_half_precision_scores_in_float32(by_tiles, name):
    torch.manual_seed(0)
    critic = critics.registry[name.lower()](6, 6).bfloat16()
    x, y = sides(20, dtype=torch.bfloat16)
    value = objectives.DV()(Scores(critic, x, y, rows=7))
    gradient = torch.autograd.grad(value, list(critic.parameters()))
    single = copy.deepcopy(critic).float()
    expected = objectives.DV()(Scores(single, x.float(), y.float()))
    assert value.dtype == torch.float32 and value.item() == pytest.approx(expected.item(), abs=2e-2)
    theirs = torch.cat([g.flatten() for g in torch.autograd.grad(expected, list(single.parameters()))])
    assert relative(torch.cat([g.flatten() for g in gradient]), theirs) < 5e-2


def test_a_matrix_of_whole_numbers_and_a_row_whose_negatives_are_all_impossible():
    matrix = torch.arange(9).reshape(3, 3)
    assert close([objectives.DV()(Scores.from_matrix(matrix))], [objectives.DV()(Scores.from_matrix(matrix.float()))])
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    matrix[0, 1:] = -math.inf
    matrix.requires_grad_()
    (gradient,) = torch.autograd.grad(objectives.InfoNCE()(Scores.from_matrix(matrix)), [matrix])
    assert gradient.isfinite().all()


def test_an_objective_may_be_made_of_others(by_tiles):
    class Mean(objectives.Objective):
        def __init__(self):
            super().__init__()
            self.one, self.other = objectives.InfoNCE(), objectives.DV()

        def estimate(self, s):
            return (self.one(s) + self.other(s)) / 2

    x, y = leaves(*sides(20))
    found = torch.autograd.grad(Mean()(Scores(critics.Cosine(), x, y, rows=7)), [x, y])
    parts = [
        torch.autograd.grad(o(Scores(critics.Cosine(), x, y)), [x, y]) for o in (objectives.InfoNCE(), objectives.DV())
    ]
    assert close(found, [(a + b) / 2 for a, b in zip(*parts, strict=True)])


@pytest.mark.parametrize("text", ["InfoNCE(symmetric=True)", "Anchor()"])
def test_small_views_that_tell_rows_from_columns_take_one_walk(monkeypatch, text):
    from infomax.scores import scores as matrix

    calls, real = [], matrix.walk
    monkeypatch.setattr(matrix, "walk", lambda plan, *rest: calls.append(1) or real(plan, *rest))
    x, y = leaves(*sides(20))
    objectives.objective(text)(Scores.of_views(critics.Cosine(), x, y)).backward()
    assert len(calls) == 1


# ---- precision


def losses(temperature, n=160, d=512, dtype=torch.float32):
    """Features whose InfoNCE loss falls with temperature, from about 1 to below 1e-4."""
    return sides(n, d, dtype, noise=0.2)


def exact(x, y, temperature, text):
    x, y = leaves(x.double(), y.double())
    s = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / temperature
    negative = ~torch.eye(len(x), dtype=torch.bool)
    if text == "InfoNCE()":
        # The loss itself, -log of the positive's share, in a form that does not cancel.
        loss = F.softplus(dense.masked_lse(s, negative, 1) - s.diagonal(), threshold=1e9).mean()
        return loss.item(), torch.autograd.grad(-loss, [x, y])
    value = dense.FORMS[text][1](s, negative)
    return value.item(), torch.autograd.grad(value, [x, y])


@pytest.mark.parametrize("path", ["one tile", "tiles"])
@pytest.mark.parametrize(
    "text", ["InfoNCE()", "InfoNCE(symmetric=True)", "DV()", "NWJ()", "JS()", "SigLIP()", "SMILE()"]
)
@pytest.mark.parametrize("temperature", [0.2, 0.1, 0.07, 0.05])
def test_float32_gradients_err_by_5e_6_at_most(monkeypatch, path, text, temperature):
    if path == "tiles":
        monkeypatch.setattr(small, "KEPT", 0)
    for d in (32, 512):
        x, y = sides(160, d, torch.float32, noise=0.2)
        loss, theirs = exact(x, y, temperature, text)
        x, y = leaves(x, y)
        ours = torch.autograd.grad(objectives.objective(text)(Scores(critics.Cosine(temperature), x, y)), [x, y])
        if text != "InfoNCE()" or loss >= 1e-4:
            assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) <= 5e-6, (d, loss)
        assert all(bool(g.isfinite().all()) for g in ours)


@pytest.mark.parametrize("path", ["one tile", "tiles"])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_float32_gradients_at_temperature_one_hundredth_err_by_1e_5_at_most(monkeypatch, path, noise):
    if path == "tiles":
        monkeypatch.setattr(small, "KEPT", 0)
    x, y = sides(160, 16, torch.float32, noise=noise)
    loss, theirs = exact(x, y, 0.01, "InfoNCE()")
    assert loss > 1e-4
    x, y = leaves(x, y)
    ours = torch.autograd.grad(objectives.InfoNCE()(Scores(critics.Cosine(0.01), x, y)), [x, y])
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) <= 1e-5


@pytest.mark.parametrize("temperature", [0.1, 0.06])
def test_bfloat16_inputs_and_products_err_by_2e_3_at_most(by_tiles, temperature):
    x, y = (t.bfloat16() for t in sides(160, 512, torch.float32, noise=0.2))
    loss, theirs = exact(x, y, temperature, "InfoNCE()")
    assert 1e-6 < loss < 0.1
    half = leaves(x, y)
    ours = torch.autograd.grad(objectives.InfoNCE()(Scores(critics.Cosine(temperature), *half)), half)
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) <= 2e-3
    before = torch.backends.mkldnn.matmul.fp32_precision
    scores.set_precision("bf16")
    try:
        single = leaves(x.float(), y.float())
        ours = torch.autograd.grad(objectives.InfoNCE()(Scores(critics.Cosine(temperature), *single)), single)
    finally:
        scores.set_precision("fp32")
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) <= 2e-3
    with pytest.raises(UserError, match="precision of products"):
        scores.set_precision("fp8")


def test_scores_are_float32_under_autocast():
    x, y = leaves(*sides(32, dtype=torch.float32))
    plain = objectives.InfoNCE()(Scores(critics.Cosine(), x, y))
    with torch.autocast("cpu", torch.bfloat16):
        under = objectives.InfoNCE()(Scores(critics.Cosine(), x, y))
    assert under.dtype == torch.float32 and under.item() == plain.item()


# ---- what is held


@pytest.mark.parametrize("ids", [None, torch.arange(30), torch.arange(30) // 3, torch.arange(30) % 2])
def test_tiles_know_what_is_no_negative(ids):
    names = torch.arange(30) if ids is None else ids
    listed = None if ids is None else layout.pairs_of_equal(ids, ids)
    cut = tiles.Tiles(30, 30, 0, 7, 11, 1, listed, None if ids is None or listed is not None else (ids, ids))
    found = torch.zeros(30, 30)
    for i, (r, c) in enumerate((r, c) for r, cuts in cut.blocks(slice(0, 30), held=False) for c in cuts):
        tile = found[r, c].clone()
        found[r, c] = cut.fill(tile if i % 2 else tile.T.contiguous().T, r, c, 1.0)
    assert torch.equal(found.bool(), names[:, None] == names[None])


@pytest.mark.slow
def test_memory_grows_with_pairs_and_not_with_their_square(exhaustive):
    """Beyond the inputs: peak memory of value and gradient, in a fresh process whose allocator gives back what is freed
    (else what it keeps of 8 MiB comes and goes). A matrix of 16,384 x 16,384 scores is 1 GiB, one of 65,536 x 65,536
    16 GiB; one more copy of one input, 8 and 32 MiB, is seen as well."""
    program = """
import sys, torch
from infomax.benchmarks.scores import ours, peak_mib
x, y = torch.randn(2, int(sys.argv[1]), 128).unbind()
x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
ours("DV()", False, x[:600], y[:600], 0.1)  # what is loaded once
for text in ("InfoNCE()", "SMILE()"):
    print(peak_mib(lambda: ours(text, False, x, y, 0.1), "cpu"))
"""
    pairs, mib = (65536, 250) if exhaustive else (16384, 65)
    words, env = [sys.executable, "-c", program, str(pairs)], os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert all(float(line) < mib for line in run.stdout.split()), run.stdout


@pytest.mark.slow
def test_the_benchmark_runs_every_form(tmp_path):
    from infomax.benchmarks import scores as benchmark

    found = benchmark.scores(sizes=(24, 600), dim=8, seconds=0)
    assert json.loads(json.dumps(found)) == found
    assert len(found["rows"]) == 2 * len(benchmark.PEERS)
    assert len(benchmark.table(found).splitlines()) == 4 + len(found["rows"])
    assert all(row["error"] < 1e-5 and row["naive_error"] < 1e-4 for row in found["rows"])
    benchmark.draw(found, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_batch_16_times_as_large_takes_the_memory_of_a_micro_batch():
    from infomax.benchmarks.caching import caching, seconds, step_of

    found = caching("resnet10_tiny", microbatch=64, repeats=0, device="cpu")["rows"]
    small, whole, cached = (row["mib"] for row in found)
    assert whole > 4 * small and cached < 1.5 * small, found
    assert all(seconds(step_of("resnet10_tiny", 4, at_once, 28, "cpu"), 1, "cpu") > 0 for at_once in (None, 2))


@pytest.mark.parametrize(
    "name", ["InfoNCE", "InfoNCE, symmetric", "NT-Xent", "NWJ", "DV", "JS", "SMILE", "SigLIP", "Anchor"]
)
def test_the_plain_forms_of_the_benchmark_have_our_gradient(name):
    from infomax.benchmarks import scores as benchmark

    text, views, peer = benchmark.PEERS[name]
    x, y = leaves(*sides(24, 8))
    ours, theirs = benchmark.ours(text, views, x, y, 0.5), benchmark.plain(peer, x, y, 0.5)
    assert close([-g for g in ours], theirs, 1e-8)
    for of, make in benchmark.LIBRARIES.values():
        if of == name and (form := make("cpu")) is not None:
            assert close([-g for g in ours], benchmark.plain(form, x, y, 0.5), 1e-8)


def test_every_combination_of_reductions_agrees_with_the_dense_one(by_tiles):
    """Whatever a user's formula asks for: function x kind x direction x with and without each row's first negative."""
    functions = [scores.identity, scores.Clip(0.7), scores.softplus, scores.Softplus(1.5), scores.square]
    x, y = leaves(*sides(13))
    critic = critics.Cosine(0.5, bias=0.2)
    matrix = critic(x, y)
    negative = ~torch.eye(13, dtype=torch.bool)
    rest = negative.clone()
    rest[torch.arange(13), (torch.arange(13) + 1) % 13] = False
    for fn, dim, kind, few, rows in itertools.product(
        functions, (None, 0, 1), ("mean", "logmeanexp"), (False, True), (None, 5)
    ):
        if few and dim == 0:
            continue
        kept = rest if few else negative

        class Mine(objectives.Objective):
            def estimate(self, s, fn=fn, dim=dim, kind=kind, few=few):
                part = s.negative.rest if few else s.negative
                return s.positive.mean() - getattr(part, kind)(fn, dim=dim).mean()

        value = Mine()(Scores(critic, x, y, rows=rows))
        of = fn(matrix)
        if kind == "mean":
            sums = (of * kept).sum() if dim is None else (of * kept).sum(dim)
            number = (kept.sum() if dim is None else kept.sum(dim)).double()
            expected = matrix.diagonal().mean() - (sums / number).mean()
        else:
            number = (kept.sum() if dim is None else kept.sum(dim)).double()
            expected = matrix.diagonal().mean() - (dense.masked_lse(of, kept, dim) - number.log()).mean()
        assert close([value], [expected]), (fn, dim, kind, few, rows)
        found = torch.autograd.grad(value, [x, y])
        assert close(found, torch.autograd.grad(expected, [x, y], retain_graph=True)), (fn, dim, kind, few, rows)
