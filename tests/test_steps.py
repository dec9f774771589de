"""The training step: short ways that compute the same, and the benchmark that measures them."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import infomax as im
from infomax.data import Policy, Views
from infomax.data.views import CACHED
from infomax.encoders.small_maps import FEWEST, SmallMapConv2d


@pytest.mark.parametrize("size", [(2, 2), (1, 2), (2, 1), (1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_of_small_maps_are_torchs(size, bias):
    torch.manual_seed(0)
    conv = SmallMapConv2d(5, 7, 3, padding=1, bias=bias).double()
    maps = torch.randn(FEWEST, 5, *size, dtype=torch.float64, requires_grad=True)
    short, plain = conv.train()(maps), nn.functional.conv2d(maps, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(short, plain, rtol=1e-12, atol=1e-12)
    leaves = [maps, *conv.parameters()]
    assert "Convolution" not in short.grad_fn.name() and "Convolution" in plain.grad_fn.name()
    up = torch.randn_like(plain)
    for a, b in zip(torch.autograd.grad(short, leaves, up), torch.autograd.grad(plain, leaves, up), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.equal(conv.eval()(maps), plain)


def test_encoders_take_the_short_way_in_training_alone():
    encoder = im.encoder("resnet10_tiny", in_chans=1)
    plain = copy.deepcopy(encoder)
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d
    assert any(type(module) is SmallMapConv2d for module in encoder.modules())
    assert list(encoder.state_dict()) == list(plain.state_dict())
    images = torch.randn(FEWEST // 2, 1, 28, 28).repeat(2, 1, 1, 1)
    assert torch.equal(encoder.eval()(images), plain.eval()(images))
    both = encoder.train(), plain.train()
    gradients = [torch.autograd.grad(m(images).square().mean(), [*m.parameters()]) for m in both]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_views_of_a_batch_beyond_a_cache_are_those_of_its_parts():
    images = torch.randint(0, 256, (9, 3, 260, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert images.numel() > CACHED
    policy = Policy(scale=(0.3, 1.0), flip=0.5, contrast=0.4, hue=0.1, elastic=0.05, thickness=0.5, erase=0.5)
    views, ids = Views(policy, [0.5] * 3, [0.5] * 3, (200, 130)), torch.arange(9)
    whole = views(images, ids, 3, 1, 0)
    one_by_one = [views(images[i : i + 1], ids[i : i + 1], 3, 1, 0) for i in range(9)]
    assert whole.shape == (9, 3, 200, 130) and torch.equal(whole, torch.cat(one_by_one))


def benchmark(*words):
    done = subprocess.run(
        [sys.executable, "-m", "infomax", "benchmark", "steps", *words], capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_the_benchmark_runs_with_or_without_lightly():
    code, out, err = benchmark("--names", "digits", "--rounds", "1", "--every", "1", "--batch-size", "8", "--json")
    assert code == 0, err
    found = json.loads(out)["steps"]["digits"]
    assert min(found["seconds"]["infomax"]) > 0 and 0 < found["views"] < 1


@pytest.mark.slow
def test_the_benchmark_of_a_folder_makes_its_files_and_says_its_mistakes():
    words = ("--folder", "--files", "24", "--rounds", "1", "--every", "1", "--batch-size", "4")
    code, out, err = benchmark(*words)
    assert code == 0, err
    assert "first batch after" in out and "timm, 2 workers" in out
    code, out, err = benchmark("--names", "grey")
    assert code == 2 and "grey" in err and "Traceback" not in err
    code, out, err = benchmark("--folder", "--files", "6", "--batch-size", "4")
    assert code == 2 and "--files" in err and "Traceback" not in err
