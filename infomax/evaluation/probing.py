"""Probes of frozen features: a linear classifier, one from ten images a class, and nearest neighbours.

Every hyper-parameter is chosen on images of the training set; the test set is used once, for the numbers reported. What
was chosen, and on which images, travels with the numbers (`Probe.protocol`).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from infomax import critics
from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.data.source import Dataset, Split
    from infomax.data.views import AnyViews

# Features are standardised, so a grid of absolute strengths covers good and bad encoders alike.
C_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
SHOTS_C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
K_GRID = (1, 3, 5, 10, 20, 50)
HELD_OUT = 0.2  # part of train on which C and k are chosen
SHOTS = 10
DRAWS = 20
CHOOSING_DRAWS = 4  # other draws than the reported ones
CHOOSING_IMAGES = 1000  # at most, of train outside the draw
KNN_TEMPERATURE = 0.1


@dataclass(frozen=True, slots=True)
class Probe:
    """Accuracies in [0, 1] of probes on frozen features, each with its 95 % interval, and the protocol behind them.

    `accuracy` and `knn` carry Wilson intervals over test images; `shots_10_interval` is Student's t interval of the
    mean over the draws, so it holds the luck of the draw and not that of the test set. `shots_10` is None where some
    class has too few training images (`protocol["shots_10"]` says so).
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    shots_10: float | None
    shots_10_interval: tuple[float, float] | None
    knn: float
    knn_interval: tuple[float, float]
    protocol: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return asdict(self)

    def __str__(self) -> str:
        p = self.protocol
        if self.shots_10 is None or self.shots_10_interval is None:
            shots = f"not measured: {p['shots_10']['reason']}"
        else:
            shots = f"{_shown(self.shots_10, self.shots_10_interval)}  mean of {p['shots_10']['draws']} draws"
        return "\n".join(
            [
                f"linear probe        {_shown(self.accuracy, self.accuracy_interval)}  C = {p['linear']['C']:g}",
                f"10 images a class   {shots}",
                f"nearest neighbours  {_shown(self.knn, self.knn_interval)}  k = {p['knn']['k']}",
                f"({p['train_images']} training and {p['test_images']} test images, {p['features']} features; "
                "C and k chosen on a held-out part of train; 95 % intervals)",
            ]
        )


def probe(
    checkpoint_or_encoder: str | Path | nn.Module,
    dataset: "str | Dataset",
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    batch_size: int = 256,
    views: "AnyViews | None" = None,
) -> Probe:
    """Probe the encoder of a saved run (its folder) or a module that maps images to features [b, d].

    checkpoint_or_encoder: the folder or the module. dataset: a name, or a Dataset with labels. seed: of held-out parts
    and draws. device: by default the encoder's. batch_size: images encoded at once. views: whose mean and deviation
    normalise images, by default the saved run's, and for a module those that suit the data set. Raises UserError where
    labels are missing, of one class, or too few.
    """
    from infomax.data.registry import dataset as named
    from infomax.data.views import views_from

    encoder, preprocessing = checkpoint_or_encoder, None
    if not isinstance(encoder, nn.Module):
        from infomax.checkpoints import read_encoder

        checkpoint, encoder = read_encoder(encoder)
        preprocessing = checkpoint.preprocessing
    data = named(dataset) if isinstance(dataset, str) else dataset
    train_y, test_y = labels(data.train, f"{data.name}'s training set"), labels(data.test, f"{data.name}'s test set")
    plain = (views or views_from(preprocessing, data)).plain
    train_x = features(encoder, data.train, plain, device, batch_size)
    test_x = features(encoder, data.test, plain, device, batch_size)
    return probe_features(train_x, train_y, test_x, test_y, seed=seed)


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
    _require_finite(result.numpy(), "The encoder's features")
    return result


def probe_features(
    train_x: ArrayLike | Tensor,
    train_y: ArrayLike | Tensor,
    test_x: ArrayLike | Tensor,
    test_y: ArrayLike | Tensor,
    *,
    seed: int = 0,
) -> Probe:
    """Probe features: train_x [n, d] with labels train_y [n], test_x [m, d] with labels test_y [m].

    Linear: multinomial logistic regression (L-BFGS, L2), features standardised with the training part's statistics,
    C chosen on a stratified fifth of train, refitted on all of train. Ten a class: the same on 20 fixed draws of ten
    images a class, C chosen with other draws, tested on training images outside them. kNN: cosine, votes weighted by
    exp(similarity / 0.1), k chosen on the same fifth. Same inputs and seed, same numbers.
    Raises UserError: lengths that differ, values that are not finite, one class, a class with fewer than two training
    images, a test label that train does not have.
    """
    from threadpoolctl import threadpool_limits

    X, y = _checked(train_x, train_y, "training")
    T, t = _checked(test_x, test_y, "test")
    if X.shape[1] != T.shape[1]:
        raise UserError(f"Training features have {X.shape[1]} columns and test features {T.shape[1]}: they must agree.")
    classes, y = np.unique(y, return_inverse=True)
    counts = np.bincount(y)
    if len(classes) < 2:
        raise UserError(f"Every training image has the label {classes[0]}: a probe needs at least two classes.")
    if counts.min() < 2:
        rare = classes[counts.argmin()]
        raise UserError(f"Class {rare} has one training image: a probe needs at least two of each class.")
    unknown = np.setdiff1d(t, classes)
    if len(unknown):
        raise UserError(f"The test set has images of class {unknown[0]}, of which the training set has none.")
    t = np.searchsorted(classes, t)

    fit, held = _stratified(y, HELD_OUT, seed)
    # One BLAS thread: products this small gain little from more, and beside other work on the same cores threads that
    # wait for each other were measured ten times slower. It also keeps the order of sums the same on every machine.
    with threadpool_limits(1, user_api="blas"):
        accuracy, linear = _linear(X, y, T, t, fit, held)
        shots, shots_protocol = _shots(X, y, T, t, seed)
    knn, neighbours = _knn(X, y, T, t, fit, held, len(classes))
    return Probe(
        accuracy=accuracy,
        accuracy_interval=wilson(accuracy, len(t)),
        shots_10=None if shots is None else float(np.mean(shots)),
        shots_10_interval=None if shots is None else _t_interval(shots),
        knn=knn,
        knn_interval=wilson(knn, len(t)),
        protocol={
            "train_images": len(y),
            "test_images": len(t),
            "features": X.shape[1],
            "classes": len(classes),
            "seed": seed,
            "held_out": {"images": len(held), "of": "train", "stratified": True},
            "linear": linear,
            "knn": neighbours,
            "shots_10": shots_protocol,
            "test_used": "once, after every choice",
            "versions": _versions(),
        },
    )


def wilson(accuracy: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a proportion of n trials. (Wilson, 1927)"""
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


# The three probes ---------------------------------------------------------------------------------------------------

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def _linear(X: Floats, y: Ints, T: Floats, t: Ints, fit: Ints, held: Ints) -> tuple[float, dict[str, Any]]:
    scale = _standardiser(X[fit])
    scores = _path(scale(X[fit]), y[fit], C_GRID, scale(X[held]), y[held], tolerance=1e-3)
    C = C_GRID[int(np.argmax(scores))]  # the first of equals: the strongest penalty
    scale = _standardiser(X)
    [accuracy] = _path(scale(X), y, [C], scale(T), t)
    return accuracy, {
        "C": C,
        "grid": list(C_GRID),
        "chosen_on": "held_out",
        "held_out_accuracy": max(scores),
        "solver": "lbfgs",
        "standardised_with": "train",
    }


def _path(X: Floats, y: Ints, grid: Sequence[float], T: Floats, t: Ints, tolerance: float = 1e-4) -> list[float]:
    """The accuracy on T of a fit to X for every C of a rising grid; each fit starts from the one before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=300, tol=tolerance, warm_start=True)
    scores: list[float] = []
    for C in grid:
        with warnings.catch_warnings():
            # An unpenalised fit of separable classes never converges; its accuracy settled long before.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=C).fit(X, y)
        scores.append(float(np.mean(model.predict(T) == t)))
    return scores


def _shots(X: Floats, y: Ints, T: Floats, t: Ints, seed: int) -> tuple[list[float] | None, dict[str, Any]]:
    counts = np.bincount(y)
    if counts.min() < SHOTS + 5:
        reason = f"a class has {counts.min()} training images, {SHOTS + 5} are needed (10 to fit, the rest to choose C)"
        return None, {"reason": reason}
    # Images carry no label's information into this: the scale of a feature is that of all training images.
    scale = _standardiser(X)
    X, T = scale(X), scale(T)

    def draw(number: int) -> Ints:
        rng = np.random.default_rng([seed, number])
        return np.concatenate([rng.choice(np.flatnonzero(y == c), SHOTS, replace=False) for c in range(len(counts))])

    chosen = np.zeros(len(SHOTS_C_GRID))
    for number in range(DRAWS, DRAWS + CHOOSING_DRAWS):
        few = draw(number)
        rest = np.setdiff1d(np.arange(len(y)), few)
        rest = np.random.default_rng([seed, number]).permutation(rest)[:CHOOSING_IMAGES]
        chosen += _few(X[few], y[few], SHOTS_C_GRID, X[rest], y[rest])
    C = SHOTS_C_GRID[int(np.argmax(chosen))]
    accuracies: list[float] = []
    for number in range(DRAWS):
        few = draw(number)
        accuracies += _few(X[few], y[few], [C], T, t)
    return accuracies, {
        "C": C,
        "grid": list(SHOTS_C_GRID),
        "draws": DRAWS,
        "images_a_class": SHOTS,
        "chosen_on": f"{CHOOSING_DRAWS} other draws, tested on at most {CHOOSING_IMAGES} other training images each",
        "standardised_with": "train",
        "accuracies": accuracies,
    }


def _few(X: Floats, y: Ints, grid: Sequence[float], T: Floats, t: Ints) -> list[float]:
    """`_path` in the span of the few rows: an L2 penalty never leaves it, so nothing changes but the time."""
    centre = X.mean(0)
    _, _, basis = np.linalg.svd(X - centre, full_matrices=False)
    return _path((X - centre) @ basis.T, y, grid, (T - centre) @ basis.T, t)


def _knn(X: Floats, y: Ints, T: Floats, t: Ints, fit: Ints, held: Ints, classes: int) -> tuple[float, dict[str, Any]]:
    grid = [k for k in K_GRID if k <= len(fit)]
    scores = _vote(X[fit], y[fit], X[held], y[held], grid, classes)
    k = grid[int(np.argmax(scores))]
    [accuracy] = _vote(X, y, T, t, [k], classes)
    return accuracy, {
        "k": k,
        "grid": grid,
        "chosen_on": "held_out",
        "held_out_accuracy": max(scores),
        "similarity": "cosine",
        "weights": f"exp(similarity / {KNN_TEMPERATURE})",
    }


def _vote(X: Floats, y: Ints, T: Floats, t: Ints, ks: list[int], classes: int, rows: int = 1024) -> list[float]:
    bank, queries = critics.Cosine(1.0).embed(torch.from_numpy(X), torch.from_numpy(T))  # [n, d] of length 1
    bank_y, right = torch.from_numpy(y), np.zeros(len(ks))
    for start in range(0, len(queries), rows):  # the whole similarity matrix need not exist
        similar, index = (queries[start : start + rows] @ bank.T).topk(max(ks), dim=1)  # [b, k]
        weight = ((similar - similar[:, :1]) / KNN_TEMPERATURE).exp()
        for at, k in enumerate(ks):
            votes = torch.zeros(len(similar), classes).scatter_add_(1, bank_y[index[:, :k]], weight[:, :k])
            right[at] += float((votes.argmax(1).numpy() == t[start : start + rows]).sum())
    return (right / len(T)).tolist()


# Small parts --------------------------------------------------------------------------------------------------------


def _standardiser(X: Floats) -> Callable[[Floats], Floats]:
    mean, deviation = X.mean(0), X.std(0)
    deviation = np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), deviation, 1.0).astype(np.float32)
    return lambda Z: (Z - mean) / deviation


def _stratified(y: Ints, part: float, seed: int) -> tuple[Ints, Ints]:
    """Indices (rest, part): of each class the given part, at least one image and never all."""
    rng = np.random.default_rng(seed)
    held: list[Ints] = []
    for c in range(int(y.max()) + 1):
        members = rng.permutation(np.flatnonzero(y == c))
        held.append(members[: min(max(1, round(part * len(members))), len(members) - 1)])
    chosen = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(y)), chosen), chosen


def _checked(x: ArrayLike | Tensor, y: ArrayLike | Tensor, name: str) -> tuple[Floats, Ints]:
    if y is None:
        raise UserError(f"The {name} images have no labels, and probes need them.")
    x = x.detach().cpu().float().numpy() if isinstance(x, Tensor) else np.asarray(x, dtype=np.float32)
    y = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if x.ndim != 2:
        raise UserError(f"The {name} features have shape {list(x.shape)}: one row per image, [n, d], is needed.")
    if len(x) != len(y):
        raise UserError(f"There are {len(x)} {name} features and {len(y)} labels: there must be as many.")
    if not len(x):
        raise UserError(f"There are no {name} images.")
    if y.dtype.kind not in "iub":
        raise UserError(f"The {name} labels are of type {y.dtype}: whole numbers, one per image, are needed.")
    _require_finite(x, f"The {name} features")
    return np.ascontiguousarray(x), y.astype(np.int64).reshape(len(x))


def _require_finite(x: NDArray[Any], what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        rows = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise UserError(f"{what} hold NaN or infinity in {len(bad)} of {len(x)} rows ({rows}).")


def _t_interval(values: list[float]) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def _shown(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _versions() -> dict[str, str]:
    import sklearn

    return {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__}
