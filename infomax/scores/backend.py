"""Which walk runs a plan: Triton's kernels on a GPU where they can, else the one of this package."""

import os
from collections.abc import Sequence

from torch import Tensor

from infomax.scores.plan import Head, Plan, Results
from infomax.scores.walk import Walk


def walk(
    plan: Plan, head: Head | None, ex: Tensor, ey: Tensor, extra: Tensor | None, parameters: Sequence[Tensor]
) -> tuple[Tensor | None, Results]:
    """Runs a plan: the positives [n] of an inner product, and all requests with their results."""
    if ex.is_cuda or "TRITON_INTERPRET" in os.environ:
        from infomax.scores.gpu import fused  # asks for Triton, which is slow to import and not everywhere

        if fused.applies(plan, ex, ey):
            positive, *results = fused.FusedWalk.apply(plan, ex, ey, extra, *parameters)  # type: ignore[misc]
            return positive, dict(zip(plan.requests, results, strict=True))
    positive, *results = Walk.apply(plan, head, ex, ey, extra, *parameters)  # type: ignore[misc]
    return positive, dict(zip(plan.requests, results, strict=True))
