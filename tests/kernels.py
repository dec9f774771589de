"""What the kernels' contracts share, in Triton's interpreter (fused_contracts.py) and on a GPU (gpu_contracts.py)."""

import torch

from infomax.scores import dense as small
from infomax.scores.gpu import kernels as fused_kernels

IDS = {
    "distinct": lambda n: None,
    "repeated": lambda n: torch.arange(n) // 2,
    "two": lambda n: torch.arange(n) // (n // 2 + 1),  # more equal pairs than are worth a list
}


def counted(monkeypatch):
    """A list that each launch adds its kernel's name to; small matrices go the way of large ones."""
    made = []

    class Counted:
        def __init__(self, name):
            self.name, self.kernel = name, getattr(fused_kernels, name)

        def __getitem__(self, grid):
            made.append(self.name)
            return self.kernel[grid]

    for name in ("reduce", "pull", "reduce_block", "slope_block"):
        monkeypatch.setattr(fused_kernels, name, Counted(name))
    monkeypatch.setattr(small, "KEPT", 0)
    return made
