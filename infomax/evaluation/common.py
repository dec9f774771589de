"""What probes (probing.py, targets.py) share: features of a split, labels, held-out parts, intervals, refusals."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.data.source import Split

SHOTS = 10  # images a class of a draw
CHOOSING_IMAGES = 1000  # at most, of train outside a draw, on which hyper-parameters are chosen

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def labels(split: "Split", name: str = "this data set") -> Tensor:
    """The labels [n] of a split, or a UserError that says what lacks them."""
    if split.labels is None:
        raise UserError(f"{name} has no labels, and probes need them: give a data set with labels.")
    return split.labels


@torch.no_grad()
def features(
    encoder: nn.Module,
    split: "Split",
    plain: Callable[[Tensor], Tensor],
    device: str | torch.device | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Features float32 [n, d] on the CPU of every image of a split, without augmentation, in evaluation mode.

    device: the encoder's own by default. `encoder` comes back where it was, every submodule in the mode it had. Pixels
    are `features(nn.Flatten(), ...)`.
    Raises UserError where features are not finite.
    """
    modes = [(module, module.training) for module in encoder.modules()]
    home = next((t.device for t in (*encoder.parameters(), *encoder.buffers())), torch.device("cpu"))
    device = home if device is None else torch.device(device)
    out: list[Tensor] = []
    try:
        if device != home:
            encoder.to(device)
        encoder.eval()
        for start in range(0, len(split), batch_size):
            indices = torch.arange(start, min(start + batch_size, len(split)))
            out.append(encoder(plain(split.batch(indices).to(device))).flatten(1).float().cpu())
    finally:
        if device != home:
            encoder.to(home)
        for module, training in modes:
            module.training = training  # not .train(): that would also set the children
    if not out:
        raise UserError("There are no images to compute features of: the split is empty.")
    result = torch.cat(out)
    require_finite(result.numpy(), "The encoder's features")
    return result


def wilson(accuracy: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a proportion of n trials. (Wilson, 1927)"""
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def standardiser(X: Floats) -> Callable[[Floats], Floats]:
    mean, deviation = X.mean(0), X.std(0)
    deviation = np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), deviation, 1.0).astype(np.float32)
    return lambda Z: (Z - mean) / deviation


def stratified(y: Ints, part: float, seed: int) -> tuple[Ints, Ints]:
    """Indices (rest, part): of each class the given part, at least one image and never all."""
    rng = np.random.default_rng(seed)
    held: list[Ints] = []
    for c in range(int(y.max()) + 1):
        members = rng.permutation(np.flatnonzero(y == c))
        held.append(members[: min(max(1, round(part * len(members))), len(members) - 1)])
    chosen = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(y)), chosen), chosen


def draw(y: Ints, seed: int, number: int) -> tuple[Ints, Ints]:
    """Indices (few, rest): the draw of that number of ten images a class, and at most 1,000 images outside it."""
    rng = np.random.default_rng([seed, number])
    few = np.concatenate([rng.choice(np.flatnonzero(y == c), SHOTS, replace=False) for c in range(int(y.max()) + 1)])
    rest = np.setdiff1d(np.arange(len(y)), few)
    return few, np.random.default_rng([seed, number]).permutation(rest)[:CHOOSING_IMAGES]


def too_few(count: int) -> str:
    """Why there is no draw of ten images a class. count: of training images of the rarest class."""
    return f"a class has {count} training images, {SHOTS + 5} are needed (10 to fit, the rest to choose)"


def require_finite(x: NDArray[Any], what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        rows = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise UserError(f"{what} hold NaN or infinity in {len(bad)} of {len(x)} rows ({rows}).")


def t_interval(values: list[float]) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def shown(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def versions() -> dict[str, str]:
    import sklearn

    return {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__}
