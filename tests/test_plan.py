"""infomax plan: what it counts beside what is there, its command line, and its benchmark's paper half."""

import json
from typing import Any

import pytest
import torch
from torch import nn

import infomax as im
from infomax import encoders
from infomax.benchmarks import plan as plan_benchmark
from infomax.models import cost
from infomax.ui import plan as planning


def small():
    body = encoders.encoder("resnet10_tiny", in_chans=1)
    return body, encoders.Projector(encoders.features_of(body), hidden=32, out=16)


def test_parameters_and_arithmetic_are_those_of_the_encoder():
    from torch.utils.flop_counter import FlopCounterMode

    found = cost.encoding(small, (1, 28, 28), 6)
    body, projector = small()
    assert found.parameters == sum(p.numel() for part in (body, projector) for p in part.parameters())
    with FlopCounterMode(display=False) as flops:
        out = projector(body(torch.randn(6, 1, 28, 28)))
        assert flops.get_total_flops() == found.forward > 0
        out.sum().backward()
    assert flops.get_total_flops() == found.both


def test_bytes_are_those_that_are_alive():
    """Two linear layers by hand, with ReLU: input 4, hidden 4, output 2 numbers an image."""

    def make():
        return nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()), nn.Linear(4, 2, bias=False)

    images = 1000
    found = cost.encoding(make, (4,), images)
    assert found.parameters == 24
    # At the worst moment, the ReLU's backward: inputs, its result, the output, the gradients of the output, of the
    # ReLU's result and of what it was made of. The first layer's result is freed, as nothing needs it.
    assert found.peak == pytest.approx(4 * images * (4 + 4 + 2 + 2 + 4 + 4), rel=0.01)


def test_activations_are_what_autograd_saves():
    """For a real forward, tensors saved for the backward are at most the peak, and most of it."""
    images = 32
    found = cost.encoding(small, (1, 28, 28), images)
    body, projector = small()
    seen: dict[int, int] = {}

    def pack(t):
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    weights = {p.untyped_storage().data_ptr() for part in (body, projector) for p in part.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = projector(body(torch.randn(images, 1, 28, 28)))
    saved = sum(size for at, size in seen.items() if at not in weights)
    assert out.shape == (images, 16) and 0.7 * found.peak < saved <= found.peak


def test_activations_grow_with_the_batch_and_half_precision_halves_them():
    one, two, four = (cost.encoding(small, (1, 28, 28), images) for images in (64, 128, 256))
    assert (two.both, four.both) == (2 * one.both, 4 * one.both)
    assert four.peak - two.peak == pytest.approx(2 * (two.peak - one.peak), rel=0.02)
    half = [cost.encoding(small, (1, 28, 28), images, half=True).peak for images in (128, 256)]
    assert half[1] - half[0] == pytest.approx((four.peak - two.peak) / 2, rel=0.02)


def test_what_processes_share_and_what_they_do_not():
    encoder = cost.encoding(small, (1, 28, 28), 64)
    size = 4 * encoder.parameters

    def by(**options):
        return cost.memory(cost.Setting(1024, 8, 128, **options), encoder, 28 * 28 * 4)

    assert by()["weights"] == size and by(sharded=True)["weights"] == size // 8
    assert by()["optimiser"] == 2 * size
    assert by(ring=True)["scores"] < by()["scores"] / 3
    assert by(microbatch=32)["exchange"] == 3 * size
    rates = cost.Rates()
    gathered, ring = (cost.seconds(cost.Setting(1 << 20, 64, 128, ring=r), encoder, rates) for r in (False, True))
    assert ring["scores"] == pytest.approx(4 / 3 * gathered["scores"]) and gathered["encoder"] == ring["encoder"]
    assert cost.seconds(cost.Setting(64), encoder, rates)["features"] == 0


@pytest.mark.parametrize(("text", "size"), [("80GiB", 80 * 2**30), ("24 GB", 24 * 10**9), ("1.5tib", 1.5 * 2**40)])
def test_sizes(text, size):
    assert planning.bytes_of(text) == size


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": "much"}, "--memory 'much' is no size"),
        ({"batch": 100, "gpus": 8}, "no multiple of --gpus 8"),
        ({"batch": 1, "gpus": 1}, "--batch 1 is one pair: a batch needs at least 2"),
        ({"encoder": "resnet10_tny"}, "resnet10_tny"),
        ({"mixed_precision": "fp8"}, "no or bf16"),
        ({"microbatch": 0}, "microbatch"),
        ({"encoder": "vgg11", "size": 3, "batch": 8}, "vgg11 cannot be counted on images of 3 x 3 x 3"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(options, said):
    with pytest.raises(im.UserError, match=said):
        planning.plan(**options)


TINY: dict[str, Any] = {"encoder": "resnet10_tiny", "size": 28, "channels": 1, "gpus": 2}


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_what_does(capsys):
    planning.plan(batch=4096, memory="512MiB", json=True, **TINY)
    found = json.loads(capsys.readouterr().out)["plan"]
    assert not found["fits"] and found["bytes"] > found["memory"] >= found["changed"]["bytes"]
    assert found["change"]["microbatch"] in (64, 128, 256, 512) and not found["change"]["fsdp2"]
    planning.plan(batch=4096, memory="512MiB", **TINY)
    told = capsys.readouterr().out
    assert "too much" in told and f"It fits with --microbatch {found['change']['microbatch']}:" in told
    planning.plan(batch=4096, memory="1MiB", **TINY)
    assert "Nothing fits" in capsys.readouterr().out


@pytest.mark.slow
def test_the_ring_comes_where_features_alone_are_too_many(capsys):
    many: dict[str, Any] = TINY | {"gpus": 1024}
    planning.plan(batch=1 << 20, dim=1024, memory="5GiB", json=True, **many)
    found = json.loads(capsys.readouterr().out)["plan"]
    assert found["change"]["ring"] and found["changed"]["bytes"] <= found["memory"]


def test_on_paper_the_ring_saves_memory_and_never_time():
    found = plan_benchmark.on_paper(own=8, microbatch=4)
    assert [row["gpus"] for row in found["rows"]] == [2**k for k in range(3, 11)]
    for row in found["rows"]:
        assert row["ring"]["scores_gib"] < row["gather"]["scores_gib"]
        assert sum(row["ring"]["seconds"].values()) >= sum(row["gather"]["seconds"].values())


def test_a_line_has_what_was_measured_and_says_what_was_missed():
    case = {"encoder": "resnet18", "side": 64, "channels": 3, "pairs": 64}
    row = {
        "case": case,
        "planned": {"bytes": 3 * 2**20, "seconds": 1.2},
        "measured": {"bytes": 3 * 2**20, "seconds": 1.0},
    }
    start = "| resnet18 | 3 x 64 x 64 | 64 | 64 | 3 |"
    assert plan_benchmark.line_of(row) == f"{start} 3 | +0 % | 1.20 | 1.00 | +20 % (missed) |"
    row["measured"]["bytes"] = float("nan")
    assert plan_benchmark.line_of(row) == f"{start} - | - | 1.20 | 1.00 | +20 % (missed) |"


@pytest.mark.slow
def test_a_step_that_cannot_be_made_is_a_sentence():
    said = r"^A step of resnet10_tny with 8 pairs could not be measured: Unknown encoder 'resnet10_tny'"
    with pytest.raises(im.UserError, match=said):
        plan_benchmark.in_a_child(plan_benchmark.Case("resnet10_tny", 28, 1, 8))
