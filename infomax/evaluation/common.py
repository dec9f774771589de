"""What probes (probing.py, targets.py) share: labels, held-out parts, intervals, refusals."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation.pairs import FEWEST_A_SPLIT
from infomax.evaluation.features import Ints, encoded

if TYPE_CHECKING:
    from infomax.data.source import Dataset, Split

SHOTS = 10  # images a class of a draw
T = TypeVar("T")
CHOOSING_IMAGES = 1000  # at most, of train outside a draw, on which hyper-parameters are chosen


def labels(split: "Split", name: str = "this data set") -> Tensor:
    """The labels [n] of a split, or a UserError that says what lacks them."""
    if split.labels is None:
        raise UserError(f"{name} has no labels, and probes need them: give a data set with labels.")
    return split.labels


def require_dataset(dataset: "Dataset") -> "Dataset":
    """The data set as it is. Raises UserError for a loader, arrays and the like, and says how they become one."""
    from infomax.data import Dataset

    if isinstance(dataset, Dataset):
        return dataset
    raise UserError(
        "An evaluation reads the name of a data set, or a data set of im.data, which has a training and a test part;"
        f" a {type(dataset).__name__} is neither. Of images in hand [n, c, h, w] and labels [n] or None:"
        " im.data.from_tensors(train_images, train_labels, test_images, test_labels)."
    )


def or_why(measured: Callable[[], T]) -> T | str:
    """What is measured, or why it cannot be, the UserError's sentence, so that other measures are kept."""
    try:
        return measured()
    except UserError as error:
        return str(error)


def require_enough(name: str, what: str, train: int, test: int, select: float, draws: int = 1) -> None:
    """Raises UserError where an estimate has too few pairs in a part: of each, ten or more are needed.

    name: of the estimate. what: images, signals or pairs. train, test: how many there are. select: the share of the
    training part on which the critic stops. draws: pairs that each of the training part gives; of the others one.
    """
    least = next(n for n in itertools.count(1) if draws * round(select * n) >= FEWEST_A_SPLIT)
    if train < least or test < FEWEST_A_SPLIT:
        raise UserError(
            f"There are {train} training and {test} held-out {what}, and {name} takes {least} and {FEWEST_A_SPLIT} or"
            f" more: add {what}."
        )


def refusal(encoder: nn.Module, images: "Dataset", plain: Callable[[Tensor], Tensor]) -> Exception | None:
    """What an encoder raises when it reads the first image, or signal, as `features` reads all; None where it reads it.

    plain: what standardises images. The random state is left as it was. Raises UserError: what says enough itself.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            for _ in encoded(encoder, images.train.subset([0]), plain):
                pass
    except UserError:
        raise
    except Exception as error:  # whatever the encoder says of what it does not take
        return error
    return None


def require_reads(encoder: nn.Module, images: "Dataset", plain: Callable[[Tensor], Tensor]) -> None:
    """Raises UserError where an encoder that was not trained here cannot read the images, or signals, of a data set.

    encoder: in any mode. images: the data set. plain: what standardises them.
    """
    shape = tuple(images.shape)
    error = refusal(encoder, images, plain)
    if error is not None:
        unit = "pixels" if len(shape) == 3 else "times"
        why = str(error).strip().partition("\n")[0]
        raise UserError(
            f"The encoder, a {type(encoder).__name__}, does not read {images.train.what} of {channels(shape[0])} and "
            f"{sized(shape)} {unit}, as {images.name} has them ({type(error).__name__}: {why}): give it "
            f"{images.train.what} of the channels and the size that it takes."
        ) from error


def channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def sized(shape: Sequence[int]) -> str:
    """The size of an image of shape (c, h, w), "w x h", or of a signal's, "time"."""
    return " x ".join(map(str, reversed(shape[1:])))


def wilson(accuracy: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a proportion of n trials. (Wilson, 1927)"""
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def stratified(y: Ints, part: float, seed: int) -> tuple[Ints, Ints]:
    """Indices (rest, part): of each class the given part, at least one image and never all."""
    rng = np.random.default_rng(seed)
    held: list[Ints] = []
    for c in range(int(y.max()) + 1):
        members = rng.permutation(np.flatnonzero(y == c))
        held.append(members[: min(max(1, round(part * len(members))), len(members) - 1)])
    chosen = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(y)), chosen), chosen


def sample(n: int, most: int, seed: int) -> Tensor:
    """Places of n: all of them in order, or, of more than `most`, so many that the seed draws, in order."""
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def draw(y: Ints, seed: int, number: int) -> tuple[Ints, Ints]:
    """Indices (few, rest): the draw of that number of ten images a class, and at most 1,000 images outside it."""
    rng = np.random.default_rng([seed, number])
    few = np.concatenate([rng.choice(np.flatnonzero(y == c), SHOTS, replace=False) for c in range(int(y.max()) + 1)])
    rest = np.setdiff1d(np.arange(len(y)), few)
    return few, np.random.default_rng([seed, number]).permutation(rest)[:CHOOSING_IMAGES]


def too_few(count: int, name: str) -> str:
    """Why there is no draw of ten images a class. count: of training images of the rarest class, called `name`."""
    return f"class {name} has {count} training images, {SHOTS + 5} are needed (10 to fit, the rest to choose)"


class Numbered(NamedTuple):
    """Labels of the classes that can be probed, as numbers from 0.

    y, t: of the training images `train` and of the test images `test`, which are numbers of images in order; None where
    those are all. names: of the classes. left_out: {"classes", "train_images", "test_images"}, what was left out, a
    class of one training image each; None where none was.
    """

    y: Ints
    t: Ints
    train: Ints | None
    test: Ints | None
    names: list[str]
    left_out: dict[str, Any] | None

    @property
    def noted(self) -> dict[str, Any]:
        """The protocol's entry on what was left out, if anything was."""
        return {} if self.left_out is None else {"left_out": self.left_out}


def numbered(y: Ints, t: Ints, names: Sequence[str] | None, what: str = "a probe") -> Numbered:
    """Labels, without the classes of one training image, on which nothing can be chosen.

    y [n], t [m]: labels of training and test images. names: of the classes, by label; by default their labels. what:
    needs two classes, in messages. Raises UserError: fewer than two classes of two training images or more, a test
    label that no training image has.
    """

    def name(label: int) -> str:
        return str(label) if names is None or not 0 <= label < len(names) else str(names[label])

    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise UserError(f"Every training image has the label {name(classes[0])}: {what} needs at least two classes.")
    unknown = np.setdiff1d(t, classes)
    if len(unknown):
        raise UserError(f"The test set has images of class {name(unknown[0])}, of which the training set has none.")
    usable, rare = classes[counts > 1], classes[counts == 1]
    train, test = (None, None) if not len(rare) else (np.flatnonzero(np.isin(of, usable)) for of in (y, t))
    if len(usable) < 2 or (test is not None and not len(test)):
        some = f"{name(usable[0])} alone has" if len(usable) == 1 else "No class has" if not len(usable) else None
        raise UserError(
            f"{some} two training images or more: {what} needs at least two such classes."
            if some
            else f"No test image is of a class with two training images or more, which {what} needs."
        )
    left = None
    if train is not None and test is not None:
        left = {"classes": [*map(name, rare.tolist())], "train_images": len(rare), "test_images": len(t) - len(test)}
        y, t = y[train], t[test]
    called = [*map(name, usable.tolist())]
    return Numbered(np.searchsorted(usable, y), np.searchsorted(usable, t), train, test, called, left)


def left_out(protocol: Mapping[str, Any]) -> str | None:
    """The line on the classes that a protocol says were left out; None where none was."""
    found = protocol.get("left_out")
    if not found:
        return None
    names, more = found["classes"][:10], len(found["classes"]) - 10
    listed = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    test = found["test_images"]
    also = f", and {test} test image{'' if test == 1 else 's'} with them" if test else ""
    return f"Classes of one training image are left out{also}: {listed}."


def t_interval(values: list[float]) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def shown(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def versions() -> dict[str, str]:
    import sklearn

    return {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__}
