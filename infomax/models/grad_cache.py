"""Gradient caching: a contrastive batch beyond the encoder's memory, with its exact gradient. (Gao et al., 2021)

Negatives are needed from the whole batch, activations are not: features are made without a graph, a micro-batch at a
time, the objective gives the gradient of all features, and each micro-batch is encoded again to carry its part back.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from infomax.randomness import set_torch_state, torch_state

Encode = Callable[..., tuple[Tensor, ...]]


def encode_in_chunks(
    encode: Encode, inputs: Sequence[Tensor], sizes: Sequence[int], model: nn.Module
) -> tuple[Tensor, ...]:
    """encode(*inputs), all [n, ...], for so many samples at a time: features [n, ...] each. model: whose parameters and
    buffers encode may use, its own and those of its parts, each once however many parts share it.

    Exact where encode treats rows one by one: dropout draws the same numbers in both passes, under the same autocast.
    BatchNorm is of each micro-batch, as it would be of each process's part; running averages move once. The gradient
    of parameters leaves as one sum, so that DistributedDataParallel synchronises once a step.
    """
    parameters = [p for p in model.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
    found: tuple[Tensor, ...] = _Chunks.apply(encode, list(sizes), model, len(inputs), *inputs, *parameters)  # type: ignore
    return found


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, encode: Encode, sizes: list[int], model: nn.Module, count: int, *tensors: Tensor):
        inputs = tensors[:count]
        ctx.encode, ctx.sizes, ctx.model, ctx.count = encode, sizes, model, count
        ctx.states, ctx.cast = [], _autocast_of(inputs[0])
        features = []
        with _autocast(ctx.cast):
            for chunk in zip(*(t.split(sizes) for t in inputs), strict=True):
                ctx.states.append(torch_state(inputs[0].device))
                features.append(encode(*chunk))
        ctx.save_for_backward(*tensors)
        return tuple(torch.cat(pieces) for pieces in zip(*features, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        inputs, parameters = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        needs = ctx.needs_input_grad[4 : 4 + ctx.count]
        device = inputs[0].device
        totals: list[Tensor | None] = [None] * len(parameters)
        of_inputs: list[list[Tensor]] = [[] for _ in inputs]
        buffers = list(ctx.model.buffers())
        before = [b.clone() for b in buffers]
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), _autocast(ctx.cast), torch.enable_grad():
            chunks = zip(*(t.split(ctx.sizes) for t in inputs), strict=True)
            arrived = zip(*(g.split(ctx.sizes) for g in gradients), strict=True)
            for chunk, pieces, state in zip(chunks, arrived, ctx.states, strict=True):
                set_torch_state(state, device)
                again = [t.detach().requires_grad_(need) for t, need in zip(chunk, needs, strict=True)]
                leaves = [t for t in again if t.requires_grad]
                # A feature without a graph, of a frozen encoder, has nothing to carry back.
                made = [(f, g) for f, g in zip(ctx.encode(*again), pieces, strict=True) if f.requires_grad]
                found = torch.autograd.grad(
                    [f for f, _ in made], [*leaves, *parameters], [g for _, g in made], allow_unused=True
                )
                places = [i for i, need in enumerate(needs) if need]
                for i, leaf, piece in zip(places, leaves, found, strict=False):
                    of_inputs[i].append(torch.zeros_like(leaf) if piece is None else piece)
                for i, piece in enumerate(found[len(leaves) :]):
                    if piece is not None:
                        # Not in place: two parameters may be given one tensor as their gradient.
                        totals[i] = piece if totals[i] is None else totals[i] + piece  # type: ignore[operator]
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.data.copy_(value)  # the rest of the graph may hold one that did not move: to it nothing changed
        d_inputs = [torch.cat(pieces) if need else None for pieces, need in zip(of_inputs, needs, strict=True)]
        return None, None, None, None, *d_inputs, *totals


Cast = tuple[str, torch.dtype, bool]


def _autocast_of(t: Tensor) -> Cast:
    device = t.device.type
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


def _autocast(cast: Cast) -> torch.autocast:
    # Without its cache: a weight cast while no graph was made would be found again, graphless, by the second pass.
    device, dtype, enabled = cast
    return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
