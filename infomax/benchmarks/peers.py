"""Plain PyTorch forms of the objectives, as one would write them: what `infomax benchmark scores` compares with.

Each takes the features of both sides, unit vectors x [n, d] and y [n, d], and a temperature; it gives the loss to
descend, 0-d, whose gradient is the objective's. Where an objective's value is not its surrogate's, both are computed.
"""

import importlib.util
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Peer = Callable[[Tensor, Tensor, float], Tensor]


def infonce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    return F.cross_entropy(x @ y.T / temperature, torch.arange(len(x), device=x.device))


def infonce_symmetric(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    s, target = x @ y.T / temperature, torch.arange(len(x), device=x.device)
    return (F.cross_entropy(s, target) + F.cross_entropy(s.T, target)) / 2


def ntxent(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    z = torch.cat([x, y])
    s = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(s, torch.arange(len(z), device=z.device).roll(len(x)))


def nwj(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    s = x @ y.T / temperature
    positive = s.diagonal()
    return (s.exp().sum() - positive.exp().sum()) / (len(x) * (len(x) - 1)) - positive.mean() - 1


def dv(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    s = x @ y.T / temperature
    diagonal = torch.eye(len(x), dtype=torch.bool, device=x.device)
    partition = s.masked_fill(diagonal, -math.inf).flatten().logsumexp(0)
    return partition - math.log(len(x) * (len(x) - 1)) - s.diagonal().mean()


def _jensen_shannon(s: Tensor) -> Tensor:
    positive, n = s.diagonal(), len(s)
    negative = (F.softplus(s).sum() - F.softplus(positive).sum()) / (n * (n - 1))
    return negative + F.softplus(-positive).mean()


def js(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    s = x @ y.T / temperature
    with torch.no_grad():  # the value, NWJ's
        _ = (s.exp().sum() - s.diagonal().exp().sum()) / (len(x) * (len(x) - 1)) - s.diagonal().mean() - 1
    return _jensen_shannon(s)


def smile(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    s = x @ y.T / temperature
    with torch.no_grad():  # the value, DV's with a clipped partition
        clipped = s.clamp(-5, 5).fill_diagonal_(-math.inf)
        _ = clipped.flatten().logsumexp(0) - math.log(len(x) * (len(x) - 1)) - s.diagonal().mean()
    return _jensen_shannon(s)


def siglip(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    n = len(x)
    s = x @ y.T / temperature - math.log(n - 1)
    positive = s.diagonal()
    return (F.softplus(s).sum() - F.softplus(positive).sum() + F.softplus(-positive).sum()) / n


def anchor(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    s = x @ y.T / temperature
    n, place = len(x), torch.arange(len(x), device=x.device)
    positive, first = s.diagonal(), s[place, (place + 1) % n]
    mask = torch.zeros_like(s, dtype=torch.bool)
    mask[place, place] = mask[place, (place + 1) % n] = True
    others = torch.logaddexp(s.masked_fill(mask, -math.inf).logsumexp(1), torch.zeros_like(positive))
    one = positive - torch.logaddexp(positive, others)
    none = -torch.logaddexp(first, others)
    return -(one + none / (n - 1)).mean()


# ---- other libraries' forms: a function of the device that gives the form, or None where it cannot run


def _linear_cross_entropy(device: str) -> Peer | None:
    """torch's own chunked form, which never holds all logits; of newer torch."""
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return None
    from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

    def form(x: Tensor, y: Tensor, temperature: float) -> Tensor:
        target = torch.arange(len(x), device=x.device)
        return F.linear_cross_entropy(x / temperature, y, target, options=LinearCrossEntropyOptions())

    return form


def _inf_cl(device: str) -> Peer | None:
    """Triton, GPU only. (Cheng et al., 2024)"""
    if device != "cuda" or importlib.util.find_spec("inf_cl") is None:
        return None
    from inf_cl import cal_flash_loss  # type: ignore[import-not-found]

    return lambda x, y, temperature: cal_flash_loss(x, y, scale=1 / temperature, head_dim=min(x.shape[1], 256)).mean()


def _memeff(device: str) -> Peer | None:
    """Triton, GPU only; both directions."""
    if device != "cuda" or importlib.util.find_spec("memeff") is None:
        return None
    from memeff import MemoryEfficientCLIPLoss  # type: ignore[import-not-found]

    def form(x: Tensor, y: Tensor, temperature: float) -> Tensor:
        return MemoryEfficientCLIPLoss(temperature, normalized_inputs=True, stable=False)(x, y)

    return form


# library -> (the row it belongs to, how to get its form)
LIBRARIES: dict[str, tuple[str, Callable[[str], Peer | None]]] = {
    "torch linear CE": ("InfoNCE", _linear_cross_entropy),
    "inf-cl": ("InfoNCE", _inf_cl),
    "memeff": ("InfoNCE, symmetric", _memeff),
}

# name in the table -> (objective's text, all views against all, plain form)
PEERS: dict[str, tuple[str, bool, Peer]] = {
    "InfoNCE": ("InfoNCE()", False, infonce),
    "InfoNCE, symmetric": ("InfoNCE(symmetric=True)", False, infonce_symmetric),
    "NT-Xent": ("InfoNCE()", True, ntxent),
    "NWJ": ("NWJ()", False, nwj),
    "DV": ("DV()", False, dv),
    "JS": ("JS()", False, js),
    "SMILE": ("SMILE()", False, smile),
    "SigLIP": ("SigLIP()", False, siglip),
    "Anchor": ("Anchor()", False, anchor),
}
