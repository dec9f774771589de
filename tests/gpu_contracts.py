"""Contracts on a GPU, where there is one: `python -m pytest --noconftest tests/gpu_contracts.py`; run by test_gpu.py.

What the interpreter and the compiler cannot show (tests/test_fused.py): that the kernels' numbers are right on
hardware, in its precisions, and that training, gradient caching and estimation run there.
"""

import math
import subprocess
import sys
from pathlib import Path

import dense
import pytest
import torch
from kernels import IDS, counted
from test_scores import exact, leaves, relative, sides
from torch import nn
from torch.nn import functional as F

import infomax as im
from infomax import critics, objectives
from infomax.scores import Scores, set_precision

HERE = Path(__file__).parent
PRECISE = ("InfoNCE()", "InfoNCE(symmetric=True)", "DV()", "NWJ()", "JS()", "SigLIP()", "SMILE()")


@pytest.fixture(autouse=True)
def launches(monkeypatch):
    """Which kernels were launched: numbers from another walk would say nothing of them."""
    yield counted(monkeypatch)
    set_precision("fp32")


def on_gpu(*tensors):
    return [t.detach().float().cuda().requires_grad_() for t in tensors]


@pytest.mark.parametrize("ids", [*IDS, "views"])
@pytest.mark.parametrize("text", dense.FORMS)
def test_every_objective_has_the_dense_gradient(text, ids, launches):
    views, n, d = ids == "views", 200, 70
    if text.startswith("Anchor") and views:
        pytest.skip("the dense form reads negatives in another order")
    names = torch.arange(n).repeat(2) if views else IDS[ids](n)
    names = torch.arange(n) if names is None else names
    negative = names[:, None] != names[None]
    torch.manual_seed(1)
    critic = critics.Cosine(temperature=0.5, bias=0.3, learn=True).double()
    x, y = leaves(*(t.float().double() for t in sides(n, d)))  # numbers that float32 has
    inner = list(critic.parameters())
    matrix = critic(torch.cat([x, y]), torch.cat([y, x])) if views else critic(x, y)
    value_form, surrogate_form = dense.FORMS[text]
    expected = float(value_form(matrix, negative))
    gradient = torch.autograd.grad(surrogate_form(matrix, negative), [x, y, *inner], allow_unused=True)
    x, y = on_gpu(x, y)
    critic = critic.float().cuda()
    own = None if IDS.get(ids, IDS["distinct"])(n) is None else IDS[ids](n).cuda()
    s = Scores.of_views(critic, x, y) if views else Scores(critic, x, y, own)
    value = objectives.objective(text).cuda()(s)
    found = torch.autograd.grad(value, [x, y, *critic.parameters()], allow_unused=True)
    assert launches
    assert float(value) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for ours, theirs in zip(found, gradient, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and float(theirs.norm()) > 1e-12:
            assert relative(ours.cpu(), theirs) <= (1e-5 if ours.ndim else 1e-4), text


@pytest.mark.parametrize("d", [3, 16, 64, 100, 128, 200, 384, 512])
@pytest.mark.parametrize("text", ["InfoNCE()", "InfoNCE(symmetric=True)", "JS()", "SMILE()"])
def test_every_width_in_both_precisions(text, d, launches):
    x, y = sides(1000, d, torch.float32, noise=0.5)
    _, theirs = exact(x, y, 0.1, text)
    # What rounding the features alone costs, all else being exact: products in bfloat16 cannot do better.
    rounded = leaves(x, y)
    u, v = (F.normalize(t, dim=1) for t in rounded)
    s = (u.bfloat16().double() @ v.bfloat16().double().T) / 0.1
    least = torch.autograd.grad(dense.FORMS[text][1](s, ~torch.eye(len(x), dtype=torch.bool)), rounded)
    least = max(relative(a, b) for a, b in zip(least, theirs, strict=True))
    for precision, allowed in (("fp32", 5e-6), ("bf16", 1.5 * least)):
        set_precision(precision)
        ours = on_gpu(x, y)
        found = torch.autograd.grad(objectives.objective(text)(Scores(critics.Cosine(0.1), *ours)), ours)
        errors = [relative(a.cpu(), b) for a, b in zip(found, theirs, strict=True)]
        assert max(errors) <= allowed, (precision, errors, least)
        assert precision == "fp32" or max(errors) > 1e-5, "no better than products in bfloat16 are"
    assert ("slope_block" in launches) == (d > 128) and ("pull" in launches) == (d <= 384)


@pytest.mark.parametrize("text", PRECISE)
@pytest.mark.parametrize(("temperature", "noise"), [(0.1, 0.5), (0.07, 0.2), (0.05, 0.7)])
def test_float32_gradients_err_by_5e_6_at_most(text, temperature, noise):
    x, y = sides(512, 64, torch.float32, noise)
    loss, theirs = exact(x, y, temperature, text)
    assert text != "InfoNCE()" or loss > 1e-4
    x, y = on_gpu(x, y)
    ours = torch.autograd.grad(objectives.objective(text)(Scores(critics.Cosine(temperature), x, y)), [x, y])
    assert max(relative(a.cpu(), b) for a, b in zip(ours, theirs, strict=True)) <= 5e-6


@pytest.mark.parametrize("d", [128, 256, 512])
@pytest.mark.parametrize("temperature", [0.1, 0.07])
def test_bfloat16_products_err_by_2e_3_at_most(temperature, d):
    set_precision("bf16")
    x, y = sides(512, d, torch.float32, noise=0.2)
    loss, theirs = exact(x, y, temperature, "InfoNCE()")
    assert 1e-4 < loss < 0.5
    x, y = on_gpu(x, y)
    ours = torch.autograd.grad(objectives.InfoNCE()(Scores(critics.Cosine(temperature), x, y)), [x, y])
    assert 1e-5 < max(relative(a.cpu(), b) for a, b in zip(ours, theirs, strict=True)) <= 2e-3


def test_numbers_repeat_and_autocast_changes_none():
    x, y = on_gpu(*sides(300, 64))
    found = []
    for autocast in (False, False, True):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            value = objectives.SMILE()(Scores(critics.Cosine(), x, y))
        found.append((value.detach(), *torch.autograd.grad(value, [x, y])))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("text", ["InfoNCE()", "SMILE()", "NWJ()"])
def test_memory_is_linear_in_pairs(text):
    n, d = 65_536, 128
    x, y = (torch.randn(n, d, device="cuda").requires_grad_() for _ in range(2))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    objectives.objective(text)(Scores(critics.Cosine(), x, y)).backward()
    assert (torch.cuda.max_memory_allocated() - before) / 2**20 < 600  # the matrix alone would be 16 GiB


def test_gradient_caching_replays_the_dropout_of_each_part():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.3))
    model = im.InfoMax(encoder, nn.Linear(64, 16), critics.Cosine(), im.SMILE(), microbatch=16).cuda()
    views = [torch.randn(64, 20, generator=torch.Generator().manual_seed(i)).cuda() for i in (1, 2)]

    def gradient(loss):
        return torch.autograd.grad(loss, list(encoder.parameters()))

    torch.manual_seed(3)
    cached = gradient(model(*views))
    torch.manual_seed(3)
    parts = [model._encode(*part) for part in zip(*(view.split(16) for view in views), strict=True)]
    whole = gradient(model.objective(Scores(model.critic, *(torch.cat(side) for side in zip(*parts, strict=True)))))
    assert all(relative(a, b) < 1e-5 for a, b in zip(cached, whole, strict=True))


def test_an_estimate_runs_there_and_is_right():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 4, generator=generator)
    y = 0.8 * x + 0.6 * torch.randn(3000, 4, generator=generator)
    truth = -2 * math.log(1 - 0.64)
    for objective in ("CopulaJS", "SMILE", "InfoNCE"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = im.estimate(x, y, objective=objective, device="cuda")
        assert torch.cuda.max_memory_allocated() > before, "it ran there"
        assert found.mi == pytest.approx(truth, abs=0.1 if objective == "CopulaJS" else 0.3), objective


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_the_main_job_runs_there(precision, tmp_path):
    run = subprocess.run(
        [sys.executable, HERE.parent / "recipes/simclr_smile.py", "--epochs", "1", "--mixed-precision", precision,
         "--run-dir", tmp_path / "run"],
        capture_output=True, text=True, timeout=300, cwd=HERE.parent,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
