"""Probes of frozen features, and Probe, a row of their table: linear, from ten images a class, nearest neighbours.

A new probe is a field of Probe and a line of COLUMNS, from which tables, page, card and comparison are made.
Every hyper-parameter is chosen on images of the training set; the test set is used once, for the numbers reported. What
was chosen, and on which images, travels with the numbers (`Probe.protocol`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.evaluation.balance import Balance, balance
from infomax.evaluation.by_label import LabelRetrieval, retrieval_by_label
from infomax.evaluation.common import (
    CHOOSING_IMAGES,
    SHOTS,
    draw,
    labels,
    left_out,
    numbered,
    require_dataset,
    require_reads,
    shown,
    stratified,
    t_interval,
    too_few,
    versions,
    wilson,
)
from infomax.evaluation.features import Features, Floats, Ints, Store, held, of_array
from infomax.evaluation.features import features as features  # infomax.probing.features, a public name
from infomax.evaluation.finetune import Finetuned, finetuned
from infomax.evaluation.logistic import Linear, path, rows_of, standardiser
from infomax.evaluation.nearest import KNN_TEMPERATURE, votes
from infomax.threads import one_blas_thread

if TYPE_CHECKING:
    from infomax.data.source import Dataset
    from infomax.data.views import AnyViews

# Features are standardised, so a grid of absolute strengths covers good and bad encoders alike.
C_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
SHOTS_C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Numbers of Probe and Balance that tables show, and what their columns are called.
COLUMNS = {"accuracy": "linear", "shots_10": "10 images a class", "knn": "kNN"}
K_GRID = (1, 3, 5, 10, 20, 50)
HELD_OUT = 0.2  # part of train on which C and k are chosen
DRAWS = 20
CHOOSING_DRAWS = 4  # other draws than the reported ones
KNN_HELD_OUT = 10_000  # of the held-out images at most: k is chosen on them, each of which is compared with the others


@dataclass(frozen=True, slots=True)
class Probe:
    """Accuracies in [0, 1] of probes on frozen features, each with its 95 % interval, and the protocol behind them.

    `accuracy` and `knn` carry Wilson intervals over test images; `shots_10_interval` is Student's t interval of the
    mean over the draws, so it holds the luck of the draw and not that of the test set. `shots_10` is None where some
    class has too few training images (`protocol["shots_10"]` says so). `balance`: the same probes where each class
    counts alike, the share of the commonest class, recall by class and who is taken for whom. `finetuned`: the encoder
    with all its weights trained with the labels, where that was asked for. `right`: which test images the linear probe
    ("accuracy") and the nearest neighbours ("knn") get right, by which two encoders are compared; it is not in JSON.
    `retrieval`: how well test images find those of their label among all other test images, recall@1, 5 and 10 and mAP;
    None where no two have one label.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    shots_10: float | None
    shots_10_interval: tuple[float, float] | None
    knn: float
    knn_interval: tuple[float, float]
    protocol: dict[str, Any]
    balance: Balance | None = None
    finetuned: Finetuned | None = None
    right: dict[str, tuple[bool, ...]] | None = field(default=None, repr=False)
    retrieval: LabelRetrieval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values, but which images were right."""
        return asdict(replace(self, right=None), dict_factory=_without_right)

    def __str__(self) -> str:
        p = self.protocol
        if self.shots_10 is None or self.shots_10_interval is None:
            shots = f"not measured: {p['shots_10']['reason']}"
        else:
            shots = f"{shown(self.shots_10, self.shots_10_interval)}  mean of {p['shots_10']['draws']} draws"
        unbalanced = []
        if self.balance is not None and self.balance.unbalanced:
            b = self.balance
            unbalanced = [
                f"balanced, linear    {shown(b.accuracy, b.accuracy_interval)}  mean of the classes' recalls",
                f"always {b.majority!r} would be right {b.share:.3f} of the time",
            ]
        return "\n".join(
            [
                f"linear probe        {shown(self.accuracy, self.accuracy_interval)}  C = {p['linear']['C']:g}",
                f"10 images a class   {shots}",
                f"nearest neighbours  {shown(self.knn, self.knn_interval)}  k = {p['knn']['k']}",
                *unbalanced,
                *_retrieved(self.retrieval),
                *([] if self.finetuned is None else [_tuned(self.finetuned)]),
                *([line] if (line := left_out(p)) else []),
                f"({p['train_images']} training and {p['test_images']} test images, {p['features']} features; "
                "C and k chosen on a held-out part of train; 95 % intervals)",
            ]
        )


def _without_right(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if name != "right"}


def _retrieved(found: LabelRetrieval | None) -> list[str]:
    if found is None:
        return []
    return [f"retrieval by label  {found}", *([found.said] if found.said else [])]


def _tuned(found: Finetuned) -> str:
    line = f"fine-tuned          {shown(found.accuracy, found.accuracy_interval)}"
    if found.shots_10 is None or found.shots_10_interval is None:
        return line
    return f"{line}  {shown(found.shots_10, found.shots_10_interval)} with 10 images a class"


def probe(
    checkpoint_or_encoder: str | Path | nn.Module,
    dataset: "str | Dataset",
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    batch_size: int = 256,
    views: "AnyViews | None" = None,
    finetune: bool = False,
    store: Store | None = None,
) -> Probe:
    """Probe the encoder of a saved run (its folder) or a module that maps images to features [b, d].

    checkpoint_or_encoder: the folder or the module. dataset: a name, or a Dataset with labels. seed: of held-out parts
    and draws. device: by default the encoder's. batch_size: images encoded at once. views: whose mean and deviation
    normalise images, by default the saved run's, and for a module those that suit the data set. finetune: train copies
    of the encoder with the labels too, all of them and ten a class (`Probe.finetuned`). store: where features are kept,
    by default in memory up to a quarter of what is free, else on disk. Raises UserError where labels are missing, of
    one class, or too few, where the encoder does not read such images, and where a disk has no room for the features.
    """
    from infomax.data.registry import dataset as named
    from infomax.data.views import views_from

    encoder, preprocessing = checkpoint_or_encoder, None
    if not isinstance(encoder, nn.Module):
        from infomax.checkpoints import read_encoder

        checkpoint, encoder = read_encoder(encoder)
        preprocessing = checkpoint.preprocessing
    data = named(dataset) if isinstance(dataset, str) else require_dataset(dataset)
    train_y, test_y = labels(data.train, f"{data.name}'s training set"), labels(data.test, f"{data.name}'s test set")
    plain = (views or views_from(preprocessing, data)).plain
    require_reads(encoder, data, plain)
    train_x = held(encoder, data.train, plain, device, batch_size, store)
    test_x = held(encoder, data.test, plain, device, batch_size, store)
    found = probe_features(train_x, train_y, test_x, test_y, seed=seed, names=data.classes)
    del train_x, test_x  # before fine-tuning makes its own
    return replace(found, finetuned=finetuned(encoder, data, plain, seed, device, store=store)) if finetune else found


def probe_features(
    train_x: ArrayLike | Tensor | Features,
    train_y: ArrayLike | Tensor,
    test_x: ArrayLike | Tensor | Features,
    test_y: ArrayLike | Tensor,
    *,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> Probe:
    """Probe features: train_x [n, d] with labels train_y [n], test_x [m, d] with labels test_y [m]. They are read block
    by block, so that features on disk need not fit in memory, and give the same numbers as in memory.

    seed: of held-out parts and draws. names: of the classes, by label; by default their labels.

    Linear: multinomial logistic regression (L-BFGS, L2), features standardised with the training part's statistics,
    C chosen on a stratified fifth of train, refitted on all of train. Ten a class: the same on 20 fixed draws of ten
    images a class, C chosen with other draws, tested on training images outside them. kNN: cosine, votes weighted by
    exp(similarity / 0.1), k chosen on the same fifth (10,000 images of it at most). Same inputs and seed, same numbers.
    Retrieval: each test image finds those of its label among all others by cosine (`Probe.retrieval`).
    A class of one training image is left out, with its test images, and protocol["left_out"] names it. Raises
    UserError: lengths or indexes that differ, values that are not finite, fewer than two classes of two training images
    or more, a test label that train does not have.
    """
    from infomax.estimation.pairs.indexes import require_one_index

    require_one_index({"train_x": train_x, "train_y": train_y})
    require_one_index({"test_x": test_x, "test_y": test_y})
    X, y = _checked(train_x, train_y, "training")
    T, t = _checked(test_x, test_y, "test")
    if X.shape[1] != T.shape[1]:
        raise UserError(f"Training features have {X.shape[1]} columns and test features {T.shape[1]}: they must agree.")
    of = numbered(y, t, names)
    y, t, called = of.y, of.t, of.names
    X, T = (x if at is None else x.store.hold(x.blocks(at), len(at)) for x, at in ((X, of.train), (T, of.test)))

    fit, held_out = stratified(y, HELD_OUT, seed)
    with one_blas_thread():
        linear_answers, linear = _linear(X, y, T, fit, held_out)
        draws, shots_protocol = _shots(X, y, T, seed, called)
    knn_answers, neighbours = _knn(X, y, T, fit, held_out, len(called), seed)
    accuracy, knn = _right(linear_answers, t), _right(knn_answers, t)
    shots = None if draws is None else [_right(answers, t) for answers in draws]
    if shots is not None:
        shots_protocol["accuracies"] = shots
    return Probe(
        accuracy=accuracy,
        accuracy_interval=wilson(accuracy, len(t)),
        shots_10=None if shots is None else float(np.mean(shots)),
        shots_10_interval=None if shots is None else t_interval(shots),
        knn=knn,
        knn_interval=wilson(knn, len(t)),
        protocol={
            "train_images": len(y),
            "test_images": len(t),
            "features": X.shape[1],
            "classes": len(called),
            "seed": seed,
            "dtype": X.store.dtype,
            "held_out": {"images": len(held_out), "of": "train", "stratified": True},
            "linear": linear,
            "knn": neighbours,
            "shots_10": shots_protocol,
            "test_used": "once, after every choice",
            "versions": versions(),
            **of.noted,
        },
        balance=balance(y, t, linear_answers, draws, knn_answers, called),
        right={"accuracy": tuple((linear_answers == t).tolist()), "knn": tuple((knn_answers == t).tolist())},
        retrieval=retrieval_by_label(T, t),
    )


# The three probes ---------------------------------------------------------------------------------------------------


def _right(answers: Ints, t: Ints) -> float:
    return float(np.mean(answers == t))


def _linear(X: Features, y: Ints, T: Features, fit: Ints, held_out: Ints) -> tuple[Ints, dict[str, Any]]:
    classes, d = int(y.max()) + 1, X.shape[1]
    scale = standardiser(X, fit)
    models = path(rows_of(X, fit, scale, classes), y[fit], d, classes, C_GRID, tolerance=1e-3)
    trials = _answers(models, rows_of(X, held_out, scale, classes)())
    scores = [_right(answers, y[held_out]) for answers in trials]
    C = C_GRID[int(np.argmax(scores))]  # the first of equals: the strongest penalty
    del models
    scale = standardiser(X)
    models = path(rows_of(X, None, scale, classes), y, d, classes, [C])
    [answers] = _answers(models, rows_of(T, None, scale, classes)())
    return answers, {
        "C": C,
        "grid": list(C_GRID),
        "chosen_on": "held_out",
        "held_out_accuracy": max(scores),
        "solver": "lbfgs",
        "standardised_with": "train",
    }


def _answers(models: Sequence[Linear], blocks: Iterator[Floats]) -> list[Ints]:
    """Of each model to all rows, which are walked over once."""
    parts = [[model.answers(block) for model in models] for block in blocks]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _shots(
    X: Features, y: Ints, T: Features, seed: int, names: Sequence[str]
) -> tuple[list[Ints] | None, dict[str, Any]]:
    """The answers to T of each draw."""
    counts = np.bincount(y)
    if counts.min() < SHOTS + 5:
        return None, {"reason": too_few(int(counts.min()), names[int(counts.argmin())])}
    # Images carry no label's information into this: the scale of a feature is that of all training images.
    scale = standardiser(X)
    chosen = np.zeros(len(SHOTS_C_GRID))
    for number in range(DRAWS, DRAWS + CHOOSING_DRAWS):
        few, rest = draw(y, seed, number)
        models = _few(scale(X.rows(few)), y[few], SHOTS_C_GRID)
        chosen += [_right(answers, y[rest]) for answers in _answers(models, map(scale, X.blocks(rest)))]
    C = SHOTS_C_GRID[int(np.argmax(chosen))]
    models = []
    for number in range(DRAWS):
        few, _ = draw(y, seed, number)
        models += _few(scale(X.rows(few)), y[few], [C])
    return _answers(models, rows_of(T, None, scale, len(counts))()), {
        "C": C,
        "grid": list(SHOTS_C_GRID),
        "draws": DRAWS,
        "images_a_class": SHOTS,
        "chosen_on": f"{CHOOSING_DRAWS} other draws, tested on at most {CHOOSING_IMAGES} other training images each",
        "standardised_with": "train",
    }


def _few(X: Floats, y: Ints, grid: Sequence[float]) -> list[Linear]:
    """`path` in the span of the few rows: an L2 penalty never leaves it, so nothing changes but the time."""
    centre = X.mean(0)
    X = X - centre
    _, _, basis = np.linalg.svd(X, full_matrices=False)
    inside = X @ basis.T
    models = path(lambda: [inside], y, inside.shape[1], int(y.max()) + 1, grid)
    weights = [model.weight @ basis for model in models]
    return [Linear(w, model.bias - w @ centre) for w, model in zip(weights, models, strict=True)]


def _knn(
    X: Features, y: Ints, T: Features, fit: Ints, held_out: Ints, classes: int, seed: int
) -> tuple[Ints, dict[str, Any]]:
    grid = [k for k in K_GRID if k <= len(fit)]
    if len(held_out) > KNN_HELD_OUT:
        held_out = np.sort(np.random.default_rng([seed, 1]).choice(held_out, KNN_HELD_OUT, replace=False))
    trials = votes(X, y[fit], X, grid, classes, of=fit, at=held_out)
    scores = [_right(answers, y[held_out]) for answers in trials]
    k = grid[int(np.argmax(scores))]
    [answers] = votes(X, y, T, [k], classes)
    return answers, {
        "k": k,
        "grid": grid,
        "chosen_on": "held_out",
        "chosen_on_images": len(held_out),
        "held_out_accuracy": max(scores),
        "similarity": "cosine",
        "weights": f"exp(similarity / {KNN_TEMPERATURE})",
    }


# Small parts --------------------------------------------------------------------------------------------------------


def _checked(x: ArrayLike | Tensor | Features, y: ArrayLike | Tensor, name: str) -> tuple[Features, Ints]:
    if y is None:
        raise UserError(f"The {name} images have no labels, and probes need them.")
    x = of_array(x, f"The {name} features")
    y = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if len(x) != len(y):
        raise UserError(f"There are {len(x)} {name} features and {len(y)} labels: there must be as many.")
    if not len(x):
        raise UserError(f"There are no {name} images.")
    if y.dtype.kind not in "iub":
        raise UserError(f"The {name} labels are of type {y.dtype}: whole numbers, one per image, are needed.")
    return x, y.astype(np.int64).reshape(len(x))
