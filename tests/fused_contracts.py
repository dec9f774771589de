"""Contracts of the Triton kernels, in Triton's interpreter: run by test_fused.py, in a process that has it on."""

import itertools
import math
import os
import sys

import dense
import numpy as np
import pytest
import ranks_worker
import torch
import torch.distributed as dist
from kernels import IDS, counted
from layouts import CRITICS, LAYOUTS
from test_scores import PowerMean, RowsTimesPartition, close, exact, leaves, relative, sides
from triton.runtime import interpreter

from infomax import critics, objectives, scores
from infomax.scores import Scores, backend
from infomax.scores import dense as small
from infomax.scores.gpu import fused

torch.set_num_threads(1)
assert fused.interpreted()
EXHAUSTIVE = bool(os.environ.get("EXHAUSTIVE"))  # every combination, rather than a cover with each pair of them


@pytest.fixture(params=["registers", "blocks"])
def path(request, monkeypatch):
    """Small features go the way of many as well."""
    if request.param == "blocks":
        monkeypatch.setattr(fused, "LARGEST_DIM", dict.fromkeys(fused.LARGEST_DIM, 0))
        monkeypatch.setattr(fused, "BLOCK", (32, 48))
    return request.param


@pytest.fixture(autouse=True)
def launches(monkeypatch):
    """Which kernels were launched; every contract here is one of the kernels', so no other walk may run."""
    made = counted(monkeypatch)
    monkeypatch.setattr(backend, "Walk", None)
    return made


def compare(text, n, ids, critic, d=6):
    views = ids == "views"
    names = torch.arange(n).repeat(2) if views else IDS[ids](n)
    names = torch.arange(n) if names is None else names
    negative = names[:, None] != names[None]
    x, y = leaves(*sides(n, d))
    inner = list(critic.parameters())
    matrix = critic(torch.cat([x, y]), torch.cat([y, x])) if views else critic(x, y)
    value_form, surrogate_form = dense.FORMS[text]
    expected = value_form(matrix, negative).detach()
    gradient = torch.autograd.grad(surrogate_form(matrix, negative), [x, y, *inner], allow_unused=True)
    s = Scores.of_views(critic, x, y) if views else Scores(critic, x, y, IDS[ids](n))
    value = objectives.objective(text).double()(s)
    found = torch.autograd.grad(value, [x, y, *inner], allow_unused=True)
    assert all((a is None) == (b is None) for a, b in zip(found, gradient, strict=True))
    assert close([value], [expected]) and close(found, gradient)


@pytest.mark.parametrize(
    ("path", "text", "ids"),
    [
        (path, text, ids)
        for (i, path), (j, text), (k, ids) in itertools.product(
            enumerate(("registers", "blocks")), enumerate(dense.FORMS), enumerate((*IDS, "views"))
        )
        if (EXHAUSTIVE or (i + j + k) % 2 == 0) and not (text.startswith("Anchor") and ids == "views")
    ],  # Anchor's dense form of views is slow, and reads negatives in another order
    indirect=["path"],
)
def test_every_objective_has_the_dense_gradient(path, text, ids):
    """With each ids; by each path every objective with every other."""
    torch.manual_seed(1)
    compare(text, 21, ids, critics.Cosine(temperature=0.5, bias=0.3, learn=True).double())


@pytest.mark.parametrize("critic_name", ["Cosine, learnt", "Separable"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_sides_has_the_dense_gradient(path, name, critic_name):
    """Of each layout a quarter of the objectives by each path and critic, another one for the next layout; together
    all, or with EXHAUSTIVE set all by each."""
    turn = 2 * (path == "blocks") + (critic_name == "Separable")
    layout = LAYOUTS[name]
    torch.manual_seed(1)
    critic = CRITICS[critic_name]().double()
    x, y, extra = layout.features()
    inputs = leaves(x) if layout.alike else leaves(x, y)
    x, y = inputs[0], inputs[-1]
    matrix = critic(x, y if extra is None else torch.cat([y, extra]))
    inputs += list(critic.parameters())
    where = layout.negative, layout.own, layout.names
    for i, (text, (value_form, surrogate_form)) in enumerate(dense.FORMS.items()):
        if not EXHAUSTIVE and (i + list(LAYOUTS).index(name)) % 4 != turn:
            continue
        if (text == "InfoNCE(symmetric=True)" and layout.k) or (text.startswith("Anchor") and layout.alike):
            continue  # refused; and in another order
        expected = value_form(matrix, *where).detach()
        gradient = torch.autograd.grad(surrogate_form(matrix, *where), inputs, allow_unused=True, retain_graph=True)
        value = objectives.objective(text).double()(Scores.of(critic, layout.sides(x, y, extra)))
        found = torch.autograd.grad(value, inputs, allow_unused=True)
        assert close([value], [expected]) and close(found, gradient), text


@pytest.mark.parametrize(("n", "d"), [(2, 3), (16, 16), (48, 70), (53, 5)])
@pytest.mark.parametrize("text", ["InfoNCE()", "InfoNCE(symmetric=True)", "DV()", "JS()"])
def test_every_shape_has_the_dense_gradient(path, text, n, d):
    """Ragged and whole tiles and chunks, tiles with and without own columns, programs that share a row."""
    torch.manual_seed(1)
    compare(text, n, "distinct", critics.Bilinear(d, d).double(), d)
    if n == 16:
        compare(text, n + 1, "views", critics.Cosine(0.7).double(), d)


def test_every_combination_of_reductions_has_the_dense_gradient(path):
    """Whatever a user's formula asks for: function x kind x direction x with and without each row's first negative."""
    functions = [scores.identity, scores.Clip(0.7), scores.softplus, scores.Softplus(1.5), scores.square]
    x, y = leaves(*sides(21))
    critic = critics.Cosine(0.5, bias=0.2)
    matrix = critic(x, y)
    rest = negative = ~torch.eye(21, dtype=torch.bool)
    rest = negative.clone()
    rest[torch.arange(21), (torch.arange(21) + 1) % 21] = False
    combined = enumerate(itertools.product(functions, (None, 0, 1), ("mean", "logmeanexp"), (False, True)))
    for i, (fn, dim, kind, few) in combined:
        # One path takes one half, the other the other: which changes with function, direction, kind and few.
        half = (i // 4 + i // 2 + i) % 2 != (path == "blocks")
        if (few and dim == 0) or (half and not EXHAUSTIVE):
            continue
        kept = rest if few else negative

        class Mine(objectives.Objective):
            def estimate(self, s, fn=fn, dim=dim, kind=kind, few=few):
                part = s.negative.rest if few else s.negative
                return s.positive.mean() - getattr(part, kind)(fn, dim=dim).mean()

        of, number = fn(matrix), (kept.sum() if dim is None else kept.sum(dim)).double()
        sums = (of * kept).sum() if dim is None else (of * kept).sum(dim)
        part = sums / number if kind == "mean" else dense.masked_lse(of, kept, dim) - number.log()
        expected = matrix.diagonal().mean() - part.mean()
        value = Mine()(Scores(critic, x, y))
        assert close([value], [expected]), (fn, dim, kind, few)
        found = torch.autograd.grad(value, [x, y])
        assert close(found, torch.autograd.grad(expected, [x, y], retain_graph=True)), (fn, dim, kind, few)


class Everything(objectives.Objective):
    """Rows, columns and scalars of several functions in one formula."""

    def estimate(self, s):
        rows = s.negative.logmeanexp(dim=1) + s.negative.rest.logmeanexp(scores.Clip(0.7), dim=1)
        columns = s.negative.mean(scores.softplus, dim=0)
        return (s.positive - rows * columns).mean() - s.negative.logmeanexp() * s.negative.rest.mean(scores.square)


def test_reductions_of_all_kinds_in_one_formula(path):
    x, y = leaves(*sides(21))
    critic = critics.Cosine(0.5, bias=0.2, learn=True).double()
    matrix = critic(x, y)
    rest = negative = ~torch.eye(21, dtype=torch.bool)
    rest = negative.clone()
    rest[torch.arange(21), (torch.arange(21) + 1) % 21] = False
    rows = dense.masked_lse(matrix, negative, 1) - math.log(20)
    rows = rows + dense.masked_lse(matrix.clamp(-0.7, 0.7), rest, 1) - math.log(19)
    columns = (torch.nn.functional.softplus(matrix) * negative).sum(0) / 20
    expected = (matrix.diagonal() - rows * columns).mean()
    expected = expected - dense.log_partition(matrix, negative) * matrix[rest].square().mean()
    value = Everything()(Scores(critic, x, y))
    assert close([value], [expected])
    inputs = [x, y, *critic.parameters()]
    assert close(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs))


@pytest.mark.parametrize("make", [PowerMean, RowsTimesPartition])
def test_weights_need_not_be_foreseen(path, make):
    x, y = leaves(*sides(21))
    critic = critics.Cosine(0.5)
    negative, matrix = ~torch.eye(21, dtype=torch.bool), critic(x, y)
    means = dense.masked_lse(matrix, negative, 1) - math.log(20)
    if make is PowerMean:
        expected = matrix.diagonal().mean() - means.exp().square().mean().sqrt()
    else:
        expected = (matrix.diagonal() - means).mean() * dense.log_partition(matrix, negative).exp()
    value = make()(Scores(critic, x, y))
    once = torch.autograd.grad(value, [x, y], retain_graph=True)
    assert close([value], [expected]) and close(once, torch.autograd.grad(expected, [x, y]))
    assert close([g / 3 for g in torch.autograd.grad(3 * value, [x, y])], once), "a loss may be used twice"


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("text", ["InfoNCE()", "JS()", "InfoNCE(symmetric=True)"])
def test_a_side_may_be_frozen(path, text, wanted):
    critic = critics.Cosine(0.5, bias=0.3, learn="bias").double()
    x, y = sides(21)
    found = []
    for ours in (True, False):
        inputs = [*leaves(x, y), critic.shift]
        for i, t in enumerate(inputs):
            t.requires_grad_(i in wanted)
        if ours:
            value = objectives.objective(text)(Scores(critic, *inputs[:2]))
        else:
            value = dense.FORMS[text][1](critic(*inputs[:2]), ~torch.eye(21, dtype=torch.bool))
        found.append(torch.autograd.grad(value, [inputs[i] for i in wanted]))
    assert close(*found)


@pytest.mark.parametrize(
    ("text", "views", "kernels"),
    [
        ("InfoNCE()", False, ["reduce", "pull"]),
        ("NWJ()", False, ["reduce", "pull"]),
        ("SMILE()", False, ["reduce", "pull"]),
        ("InfoNCE()", True, ["reduce", "pull"]),  # 3 products, of which the pull's are both sides' gradient
        ("InfoNCE(symmetric=True)", False, ["reduce", "reduce", "pull", "pull"]),
    ],
)
def test_scores_are_made_as_often_as_is_promised(launches, text, views, kernels):
    x, y = leaves(*sides(21))
    s = Scores.of_views(critics.Cosine(), x, y) if views else Scores(critics.Cosine(), x, y)
    objectives.objective(text)(s).backward()
    assert launches == kernels


# ---- precision


@pytest.fixture(params=["float32", "tf32x3"])
def multiply(request, monkeypatch):
    """The interpreter multiplies float32 in float32; a GPU by three products of halves of 11 bits, done here."""
    if request.param == "tf32x3":

        def half(t):  # cut, where the GPU may round: the worse
            return (t.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)

        def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
            assert str(input_precision).endswith("TF32x3") and a.data.dtype == np.float32
            a_high, b_high = (half(np.ascontiguousarray(t.data)) for t in (a, b))
            a_low, b_low = half(a.data - a_high), half(b.data - b_high)
            found = a_low @ b_high + a_high @ b_low + a_high @ b_high
            return interpreter.TensorHandle(found + d.data, d.dtype.scalar)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    return request.param


PRECISE = ["InfoNCE()", "InfoNCE(symmetric=True)", "DV()", "NWJ()", "JS()", "SigLIP()", "SMILE()"]


@pytest.mark.parametrize(
    ("multiply", "text", "temperature", "noise"),
    [
        (multiply, text, *hard)
        for (i, multiply), (j, text), (k, hard) in itertools.product(
            enumerate(("float32", "tf32x3")), enumerate(PRECISE), enumerate(((0.1, 0.5), (0.07, 0.2), (0.05, 0.7)))
        )
        if EXHAUSTIVE or (i + j + k) % 2 == 0
    ],
    indirect=["multiply"],
)
def test_float32_gradients_err_by_5e_6_at_most(multiply, text, temperature, noise):
    """Every objective at every temperature, by one way to multiply or the other."""
    x, y = sides(64, 64, torch.float32, noise)
    loss, theirs = exact(x, y, temperature, text)
    assert text != "InfoNCE()" or loss > 1e-4
    x, y = leaves(x, y)
    ours = torch.autograd.grad(objectives.objective(text)(Scores(critics.Cosine(temperature), x, y)), [x, y])
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) <= 5e-6


@pytest.mark.parametrize("text", PRECISE)
def test_float32_gradients_by_blocks_err_by_5e_6_at_most(text, launches):
    x, y = sides(64, 512, torch.float32, noise=0.2)
    loss, theirs = exact(x, y, 0.1, text)
    assert text != "InfoNCE()" or loss > 1e-4
    x, y = leaves(x, y)
    ours = torch.autograd.grad(objectives.objective(text)(Scores(critics.Cosine(0.1), x, y)), [x, y])
    assert "slope_block" in launches
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) <= 5e-6


@pytest.mark.parametrize("noise", [0.8, 2.0])
def test_float32_gradients_at_temperature_one_hundredth_err_by_1e_5_at_most(multiply, path, noise):
    x, y = sides(64, 16, torch.float32, noise=noise)
    loss, theirs = exact(x, y, 0.01, "InfoNCE()")
    assert loss > 1e-4
    x, y = leaves(x, y)
    ours = torch.autograd.grad(objectives.InfoNCE()(Scores(critics.Cosine(0.01), x, y)), [x, y])
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) <= 1e-5


@pytest.fixture
def bfloat16(monkeypatch):
    """bfloat16 as GPUs have it: the interpreter multiplies its bits as integers, and cuts where it should round."""
    convert = interpreter._convert_float

    def rounded(data, source, target, mode):
        if (source.name, target.name) != ("fp32", "bf16"):
            return convert(data, source, target, mode)
        bits = np.ascontiguousarray(data).view(np.uint32)
        return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)

    def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        assert a.dtype.scalar.name == b.dtype.scalar.name == "bf16" and d.data.dtype == np.float32
        a, b = ((t.data.astype(np.uint32) << 16).view(np.float32) for t in (a, b))
        return interpreter.TensorHandle(a @ b + d.data, d.dtype.scalar)

    monkeypatch.setattr(interpreter, "_convert_float", rounded)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    scores.set_precision("bf16")
    yield
    scores.set_precision("fp32")


@pytest.mark.parametrize("d", [256, 512])
@pytest.mark.parametrize("temperature", [0.1, 0.07])
def test_bfloat16_products_err_by_2e_3_at_most(bfloat16, launches, temperature, d):
    x, y = sides(128, d, torch.float32, noise=0.2)
    loss, theirs = exact(x, y, temperature, "InfoNCE()")
    assert 1e-4 < loss < 0.1
    x, y = leaves(x, y)
    ours = torch.autograd.grad(objectives.InfoNCE()(Scores(critics.Cosine(temperature), x, y)), [x, y])
    assert ("pull" if d == 256 else "slope_block") in launches
    errors = [relative(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert 1e-5 < max(errors) <= 2e-3, "as good as promised, and no better than products in bfloat16 are"


def test_numbers_repeat_and_autocast_changes_none(path):
    x, y = leaves(*sides(40, dtype=torch.float32))
    found = []
    for autocast in (False, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = objectives.SMILE()(Scores(critics.Cosine(), x, y))
        found.append((value.detach(), *torch.autograd.grad(value, [x, y])))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


# ---- what is out of range


class Inner(critics._InnerProduct):
    """<x, y>"""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of what IEEE arithmetic does
@pytest.mark.parametrize("scale", [-1e4, 1e4])
def test_scores_far_below_and_above_the_range_of_exp(path, scale):
    x, y = leaves(*(t.abs() + 1 for t in sides(21)))
    found = Scores(Inner(), x, scale * y).negative.logmeanexp(dim=1)
    expected = dense.masked_lse(x @ (scale * y).T, ~torch.eye(21, dtype=torch.bool), 1) - math.log(20)
    assert close([found], [expected])
    assert close(*(torch.autograd.grad(t.sum(), [x, y]) for t in (found, expected)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_without_a_finite_score_are_no_nan(path):
    """-inf and inf are kept as such, and rows beside them are not touched."""
    x, y = sides(21)
    x[3, 0], x[17, 0] = -math.inf, math.inf
    x, y = leaves(x, y.abs() + 0.1)
    found = Scores(Inner(), x, y).negative.logmeanexp(dim=1)
    assert found[3] == -math.inf and found[17] == math.inf
    others = [i for i in range(21) if i not in (3, 17)]
    expected = dense.masked_lse(x @ y.T, ~torch.eye(21, dtype=torch.bool), 1) - math.log(20)
    assert close([found[others]], [expected[others]])
    (ours,) = torch.autograd.grad(found[others].sum(), [x], retain_graph=True)
    (theirs,) = torch.autograd.grad(expected[others].sum(), [x])
    assert close([ours[others]], [theirs[others]])


def test_a_function_without_a_kernel_takes_the_other_walk(monkeypatch, launches):
    monkeypatch.undo()
    monkeypatch.delitem(fused.CODES, scores.Square)
    x, y = sides(21)
    matrix = critics.Cosine()(x, y)
    found = Scores(critics.Cosine(), x, y).negative.mean(scores.square)
    assert close([found], [matrix[~torch.eye(21, dtype=torch.bool)].square().mean()]) and not launches


# ---- processes


def process(rank, world, folder, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    ranks_worker.EXHAUSTIVE = True
    ranks_worker.N = n = 10 * world  # 10 rows a process: own columns begin inside a tile
    ranks_worker.CRITICS = {"Cosine": ranks_worker.CRITICS["Cosine"]}
    ranks_worker.IDS = {"distinct": None, "repeated": torch.arange(n) // 2 % 9}
    ranks_worker.LAYOUTS = {name: ranks_worker.LAYOUTS[name] for name in ranks_worker.SHARED}
    forms = {text: dense.FORMS[text] for text in ("InfoNCE(symmetric=True)", "DV()", "JS()", "Anchor()")}
    small.KEPT, applies = 0, fused.applies

    def all_but_rings(plan, ex, ey):
        assert applies(plan, ex, ey) != plan.ring
        return not plan.ring

    fused.applies = all_but_rings
    blocks = dict.fromkeys(fused.LARGEST_DIM, 0)
    for i, (dims, rings) in enumerate(((fused.LARGEST_DIM, (False, True)), (blocks, (False,)))):
        # A ring takes no kernel: once. Two objectives go one way and two the other, on three processes the reverse of
        # two; or all four both.
        dense.FORMS = forms if EXHAUSTIVE else dict(list(forms.items())[(i + world) % 2 :: 2])
        fused.LARGEST_DIM, ranks_worker.RINGS = dims, rings
        ranks_worker.compare(rank, world)
        ranks_worker.compare_shares(rank, world)
    queue.put((ranks_worker.made, ranks_worker.failed))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # not by the interpreter's tear-down, in which gloo's threads abort a process at times


@pytest.mark.parametrize("world", [2, 3])
def test_processes_give_the_same_value_and_gradient(world, tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    children = [context.Process(target=process, args=(rank, world, tmp_path, queue)) for rank in range(world)]
    for child in children:
        child.start()
    for child in children:
        child.join(1000)
        child.kill()  # one whose partner died waits for ever
    assert [child.exitcode for child in children] == [0] * world
    answers = [queue.get() for _ in children]
    for made, failed in answers:
        assert made >= 2 * 2 * 4 * 3 and not failed, failed


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "--noconftest", "-q", *sys.argv[1:]]))
