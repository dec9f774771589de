"""Gradient caching: a contrastive batch beyond the encoder's memory, with its exact gradient. (Gao et al., 2021)

Negatives are needed from the whole batch, activations are not: features are made without a graph, a micro-batch at a
time, the objective gives the gradient of all features, and each micro-batch is encoded again to carry its part back.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from infomax.randomness import set_torch_state, torch_state

Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def encode_in_chunks(
    encode: Encode, view1: Tensor, view2: Tensor, size: int, modules: Sequence[nn.Module]
) -> tuple[Tensor, Tensor]:
    """encode(view1, view2), both [n, ...], for `size` pairs at a time: features [n, d] of both views.

    Exact where encode treats rows one by one: dropout draws the same numbers in both passes, under the same autocast.
    BatchNorm is of each micro-batch, as it would be of each process's part; running averages move once. The gradient
    of parameters leaves as one sum, so that DistributedDataParallel synchronises once a step.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if not torch.is_grad_enabled():
        parameters = []
    both: tuple[Tensor, Tensor] = _Chunks.apply(encode, size, modules, view1, view2, *parameters)  # type: ignore
    return both


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, encode: Encode, size: int, modules: Sequence[nn.Module], view1: Tensor, view2: Tensor, *parameters
    ):
        ctx.encode, ctx.size, ctx.modules = encode, size, modules
        ctx.states, ctx.cast = [], _autocast_of(view1)
        features = []
        with _autocast(ctx.cast):
            for a, b in zip(view1.split(size), view2.split(size), strict=True):
                ctx.states.append(torch_state(view1.device))
                features.append(encode(a, b))
        ctx.save_for_backward(view1, view2, *parameters)
        first, second = zip(*features, strict=True)
        return torch.cat(first), torch.cat(second)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        view1, view2, *parameters = ctx.saved_tensors
        totals: list[Tensor | None] = [None] * len(parameters)
        views: list[list[Tensor]] = [[], []]
        buffers = [b for module in ctx.modules for b in module.buffers()]
        before = [b.clone() for b in buffers]
        devices = [view1.device] if view1.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), _autocast(ctx.cast), torch.enable_grad():
            chunks = zip(*(t.split(ctx.size) for t in (view1, view2, *gradients)), ctx.states, strict=True)
            for a, b, d_first, d_second, state in chunks:
                set_torch_state(state, view1.device)
                a, b = (
                    t.detach().requires_grad_(need) for t, need in zip((a, b), ctx.needs_input_grad[3:5], strict=True)
                )
                first, second = ctx.encode(a, b)
                leaves = [t for t in (a, b) if t.requires_grad]
                found = torch.autograd.grad(
                    [first, second], [*leaves, *parameters], [d_first, d_second], allow_unused=True
                )
                for i, piece in enumerate(found[: len(leaves)]):
                    views[i].append(torch.zeros_like(leaves[i]) if piece is None else piece)
                for i, piece in enumerate(found[len(leaves) :]):
                    if piece is not None:
                        # Not in place: two parameters may be given one tensor as their gradient.
                        totals[i] = piece if totals[i] is None else totals[i] + piece  # type: ignore[operator]
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        pieces = iter([torch.cat(v) for v in views if v])
        d_views = [next(pieces) if need else None for need in ctx.needs_input_grad[3:5]]
        return None, None, None, *d_views, *totals


Cast = tuple[str, torch.dtype, bool]


def _autocast_of(t: Tensor) -> Cast:
    device = t.device.type
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


def _autocast(cast: Cast) -> torch.autocast:
    # Without its cache: a weight cast while no graph was made would be found again, graphless, by the second pass.
    device, dtype, enabled = cast
    return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
