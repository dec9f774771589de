"""What a step of training costs, before it is run: memory and arithmetic, counted by torch's fake tensors.

Encoder and projector run forward and backward on tensors that have shapes and no numbers, so that counts are exact for
any batch. Of the scores the engine's own rates are taken (docs/engine.md), of links between processes what is given.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# The engine at its peak, in times of the columns' float32 numbers, and bytes of its tiles: 36 MiB of 8,192 x 128 and
# 238 of 65,536 x 128 on a CPU, 0.9 GiB of 262,144 x 128 on an H100.
SCORE_COPIES, TILES = 7.2, 8 * 2**20
SCORE_PRODUCTS = 4  # of n x N x d, forward and backward
RING_SLOWER = 4 / 3  # of the scores' time, where columns come around: up to a third
ADAMW = 2  # numbers of optimiser state a parameter
STEPPING = 3  # numbers a parameter while the optimiser steps, its gradient among them


@final
@dataclass(frozen=True)
class Encoding:
    """One process's encoder and projector over its images, forward and backward, counted on fake tensors.

    parameters: how many numbers. peak: bytes alive at the worst moment, beyond weights: inputs, activations, gradients.
    forward, both: floating-point operations of the forward, and of forward and backward.
    """

    parameters: int
    peak: int
    forward: int
    both: int


def _attention(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward(out: Any, q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_backward_flop_count(out, q, k, v)


# torch counts a GPU's fused attention, and not the CPU's.
_ATEN = torch.ops.aten
FUSED = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _Live(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for t in tree_leaves(made):
            if isinstance(t, Tensor):
                self.add(t)
        return made

    def add(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def encoding(
    make: Callable[[], tuple[nn.Module, nn.Module]], shape: tuple[int, ...], images: int, half: bool = False
) -> Encoding:
    """Counts `images` images of `shape` (channels, height, width) in one forward and backward.

    make: encoder and projector, made within the meta device. half: activations of 2 bytes (bfloat16), weights and their
    gradients of 4 all the same.
    """
    with torch.device("meta"):
        encoder, projector = make()
        if half:
            encoder, projector = encoder.bfloat16(), projector.bfloat16()
    # As tensors of a CPU, whose attention is a fused one, as a GPU's is; meta's own is not.
    with FakeTensorMode(allow_non_fake_inputs=True):
        encoder, projector = (part.to_empty(device="cpu") for part in (encoder, projector))
        count = sum(p.numel() for part in (encoder, projector) for p in part.parameters())
        for part in (encoder, projector):
            part.train()
            for p in part.parameters():
                p.requires_grad_(True)
        live = _Live()
        inputs = torch.empty(images, *shape, dtype=torch.bfloat16 if half else torch.float32)
        live.add(inputs)
        with FlopCounterMode(display=False, custom_mapping=FUSED) as flops, live:
            features = projector(encoder(inputs))
            forward = flops.get_total_flops()
            features.backward(torch.empty_like(features))
    # Under autocast a weight has a bfloat16 copy, and its gradient is float32 in the end.
    return Encoding(count, live.peak + (4 * count if half else 0), forward, flops.get_total_flops())


@final
@dataclass(frozen=True)
class Rates:
    """What a device and the links between processes do a second. That of scores is measured, the others are assumed.

    encoder, scores: floating-point operations of the encoder's products and of the engine's, whose products are float32
    in a run: 24.0 ms at N = 32,768 and d = 128 on one H100 (docs/engine.md). link: bytes that a process
    sends while it receives as many. latency: seconds from one process to the next.
    """

    encoder: float = 150e12
    scores: float = 46e12
    link: float = 50e9
    latency: float = 20e-6


@final
@dataclass(frozen=True)
class Setting:
    """A step of `pairs` pairs on `processes` processes, features of `dim` numbers, 2 views a pair.

    microbatch: pairs encoded at once in a process, None for all of its own. ring, sharded (FSDP2): as the recipes'
    options have them.
    """

    pairs: int
    processes: int = 1
    dim: int = 128
    microbatch: int | None = None
    ring: bool = False
    sharded: bool = False

    @property
    def own(self) -> int:
        return self.pairs // self.processes

    @property
    def at_once(self) -> int:
        return min(self.own, self.microbatch or self.own)


def memory(setting: Setting, encoder: Encoding, image: int) -> dict[str, int]:
    """Bytes a process at the worst moment, by what they are for. encoder: of 2 at_once images; image: bytes of one.

    weights, optimiser; copies of gradients that processes exchange; activations (with inputs and gradients); scores.
    """
    size, world = 4 * encoder.parameters, setting.processes
    share = world if setting.sharded else 1
    chunks = setting.at_once < setting.own
    columns = setting.own if setting.ring else setting.pairs
    waiting = 2 * setting.own * image if chunks else 0  # all inputs, of which `encoder` counts one part
    features = 2 * 2 * setting.own * setting.dim * 4 if chunks else 0
    return {
        "weights": size // share,
        "optimiser": ADAMW * size // share,
        # DistributedDataParallel's buckets; FSDP2's gathered parameters; micro-batches' running sum, old and new.
        "exchange": (size if world > 1 else 0) + (2 * size if chunks else 0),
        "activations": max(encoder.peak + waiting + features, STEPPING * size // share),
        "scores": score_bytes(setting.own, columns, setting.dim),
    }


def score_bytes(rows: int, columns: int, dim: int) -> int:
    """Bytes of the engine beyond its inputs: copies of the columns, and tiles, or all of a matrix that is small."""
    return int(min(TILES, 4 * 4 * rows * columns) + SCORE_COPIES * 4 * columns * dim)


def seconds(setting: Setting, encoder: Encoding, rates: Rates) -> dict[str, float]:
    """Seconds of a step, by what takes them. encoder: of 2 at_once images, as memory() has it.

    encoder; scores; features: what of their exchange nothing hides; gradients: what of theirs the backward, two thirds
    of the encoder's time, does not hide.
    """
    world, n, d = setting.processes, setting.own, setting.dim
    parts = n / setting.at_once
    again = encoder.forward if parts > 1 else 0
    encoding = parts * (encoder.both + again) / rates.encoder
    scoring = SCORE_PRODUCTS * 2 * n * setting.pairs * d / rates.scores
    scoring *= RING_SLOWER if setting.ring and world > 1 else 1
    once = (world - 1) * (n * d * 4 / rates.link + rates.latency)  # one side of all processes, past every process
    # Gathered, and the gradient of all columns summed back. In a ring they come around twice while tiles are worked on,
    # and their gradient once, which is waited for.
    exchange = once + max(0.0, 2 * once - scoring) if setting.ring else 2 * once
    weights = 2 * (world - 1) / world * 4 * encoder.parameters / rates.link
    if setting.sharded:  # gathered in the forward and in the backward, and the gradient scattered
        weights *= 1.5
    hidden = 2 / 3 * encoding
    return {
        "encoder": encoding,
        "scores": scoring,
        "features": exchange if world > 1 else 0.0,
        "gradients": max(0.0, weights - hidden) if world > 1 else 0.0,
    }
