"""Fine-tuning: all weights of an encoder and a linear head trained with labels, on all of them and on ten a class.

The head starts as the logistic regression on the frozen features, so that the encoder is not pulled about by a random
one (Kumar et al., 2022). BatchNorm starts with the statistics of the training images as they are, so that an untrained
encoder's, which has seen none, is not at a loss. The learning rate is chosen on training images; test images are used
once.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.evaluation.balance import balanced
from infomax.evaluation.common import (
    SHOTS,
    draw,
    labels,
    numbered,
    stratified,
    t_interval,
    too_few,
    versions,
    wilson,
)
from infomax.evaluation.features import Ints, Store, encoded, held
from infomax.evaluation.logistic import path, rows_of, standardiser
from infomax.evaluation.subject import Source, subject, untrained_like
from infomax.threads import one_blas_thread
from infomax.training import warmup_cosine

if TYPE_CHECKING:
    from infomax.data import Dataset, Split

EPOCHS = 5  # of all training images
TRIAL = 1  # epochs of a learning rate's trial on all but a fifth
STEPS = 40  # at least, whatever the epochs
BATCH = 128
RATES = (1e-3, 3e-3)  # AdamW's largest
DECAY = 1e-2
DRAWS = 5  # of ten images a class
HELD_OUT = 0.2
SETTLED = 4096  # training images at most that BatchNorm's statistics are taken from at the start
STRENGTH = 1e-2  # C of the logistic regression that the head starts from


@final
@dataclass(frozen=True, slots=True)
class Finetuned:
    """Accuracies in [0, 1] on test images of an encoder whose weights were all trained with labels.

    accuracy: with all labels; accuracy_interval: its 95 % interval (Wilson, 1927). balanced, balanced_interval: the
    mean of the classes' recalls. shots_10: with ten labels a class, the mean over draws; shots_10_interval: Student's t
    interval of that mean, which holds the luck of the draw and not that of the test set; both None where a class has
    too few images. protocol: what was done and chosen.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced: float
    balanced_interval: tuple[float, float]
    shots_10: float | None
    shots_10_interval: tuple[float, float] | None
    protocol: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return asdict(self)


@final
@dataclass(frozen=True)
class Finetunes:
    """The trained encoder fine-tuned, and an untrained one of its kind, if it has a name, by the same protocol."""

    trained: Finetuned
    untrained: Finetuned | None

    def to_dict(self) -> dict[str, Any]:
        """{"trained", "untrained"}, each as Finetuned has it."""
        return asdict(self)


def finetune(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    said: Callable[[str], None] = lambda text: None,
) -> Finetunes:
    """Fine-tunes a saved run's encoder with all labels and with ten a class, beside an untrained one; minutes on a CPU.

    checkpoint, dataset: as evaluate() takes them. seed: of the held-out part, the draws, the order of batches and the
    untrained encoder. device: where the copies are trained; by default the encoder's own. said: is called with the name
    of the next stage. The encoder itself is left as it is. Raises UserError: no labels, one class, a class of one
    training image, a test label that the training part lacks, outputs that are not finite.
    """
    from infomax.data import views_for

    about = subject(checkpoint, dataset)
    plain = (about.views or views_for(about.data)).plain
    untrained = untrained_like(about.encoder, seed)
    baseline = None
    if untrained is not None:
        baseline = finetuned(untrained, about.data, plain, seed, device, said, "an untrained encoder")
    return Finetunes(finetuned(about.encoder, about.data, plain, seed, device, said, "the encoder"), baseline)


def finetuned(
    encoder: nn.Module,
    data: "Dataset",
    plain: Callable[[Tensor], Tensor],
    seed: int = 0,
    device: str | torch.device | None = None,
    said: Callable[[str], None] = lambda text: None,
    name: str = "the encoder",
    store: Store | None = None,
) -> Finetuned:
    """One encoder fine-tuned on a data set. plain: brings images to what the encoder reads. name: for `said`; store: of
    the training images' features, by default Store(); seed, device, errors: as finetune() has them."""
    y, t = (labels(split, f"{data.name}'s {what} set").numpy() for split, what in
            ((data.train, "training"), (data.test, "test")))  # fmt: skip
    of = numbered(y, t, data.classes, "fine-tuning")
    y, t, counts = of.y, of.t, np.bincount(of.y)
    if of.train is not None and of.test is not None:
        parts = {"train": data.train.subset(of.train.tolist()), "test": data.test.subset(of.test.tolist())}
        data = replace(data, **parts)
    home = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    job = _Job(encoder, data, plain, y, seed, home if device is None else torch.device(device), store)

    fit, held_out = stratified(y, HELD_OUT, seed)
    scores = {}
    for rate in RATES:
        said(f"Fine-tuning {name}: a trial of learning rate {rate:g}")
        scores[rate] = _right(job.answers(fit, data.train, held_out, rate, TRIAL), y[held_out])
    rate = max(scores, key=lambda key: scores[key])  # the first of equals: the lowest
    said(f"Fine-tuning {name} with all labels")
    answers = job.answers(np.arange(len(y)), data.train, None, rate, EPOCHS)
    accuracy = _right(answers, t)
    mean, interval = balanced(t, answers)
    shots: list[float] | None = None
    few: dict[str, Any] = {"reason": too_few(int(counts.min()), of.names[int(counts.argmin())])}
    if counts.min() >= SHOTS + 5:
        said(f"Fine-tuning {name} with {SHOTS} labels a class")
        some, rest = draw(y, seed, DRAWS)  # another draw than the reported ones
        trials = {rate: _right(job.answers(some, data.train, rest, rate, TRIAL), y[rest]) for rate in RATES}
        best = max(trials, key=lambda key: trials[key])
        shots = [
            _right(job.answers(draw(y, seed, number)[0], data.train, None, best, TRIAL), t) for number in range(DRAWS)
        ]
        few = {"rate": best, "draws": DRAWS, "images_a_class": SHOTS, "chosen_on": "another draw", "accuracies": shots}
    return Finetuned(
        accuracy=accuracy,
        accuracy_interval=wilson(accuracy, len(t)),
        balanced=mean,
        balanced_interval=interval,
        shots_10=None if shots is None else float(np.mean(shots)),
        shots_10_interval=None if shots is None else t_interval(shots),
        protocol={
            "train_images": len(y), "test_images": len(t), "seed": seed, "rate": rate, "rates": list(RATES),
            "held_out": {
                "images": len(held_out), "of": "train", "stratified": True, "accuracies": list(scores.values()),
            },
            "epochs": EPOCHS, "trial_epochs": TRIAL, "least_steps": STEPS, "batch": BATCH, "decay": DECAY,
            "optimizer": "AdamW, a tenth of warm-up, cosine to 0", "images": "as they are, without augmentation",
            "batch_norm": "from the statistics of training images",
            "head": f"from logistic regression on frozen features, C = {STRENGTH:g}", "shots_10": few,
            "test_used": "once, after every choice", "versions": versions(), **of.noted,
        },
    )  # fmt: skip


def _right(answers: Ints, t: Ints) -> float:
    return float(np.mean(answers == t))


class _Job:
    """Copies of an encoder, each fine-tuned on some training images of labels y [n]."""

    def __init__(
        self,
        encoder: nn.Module,
        data: "Dataset",
        plain: Callable[[Tensor], Tensor],
        y: Ints,
        seed: int,
        device: torch.device,
        store: Store | None,
    ):
        self.encoder = copy.deepcopy(encoder).to(device)
        _settle(self.encoder, data.train, plain, device)
        self.data, self.plain, self.seed, self.device = data, plain, seed, device
        self.y = torch.from_numpy(y)
        self.z = held(self.encoder, data.train, plain, device, store=store)  # [n, d]

    def answers(self, at: Ints, split: "Split", tested: Ints | None, rate: float, epochs: int) -> Ints:
        """What a copy that was trained on the training images `at` answers to images of the training part, `tested`;
        to the test images where that is None."""
        model = nn.Sequential(copy.deepcopy(self.encoder), nn.Flatten(1), *self._head(at)).to(self.device)
        model.requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=DECAY)
        batch = min(BATCH, len(at))
        steps = max(STEPS, epochs * math.ceil(len(at) / batch))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, steps // 10))
        generator, places = torch.Generator().manual_seed(self.seed), torch.from_numpy(at)
        order = torch.empty(0, dtype=torch.int64)
        model.train()
        with torch.random.fork_rng([] if self.device.type == "cpu" else None):
            torch.manual_seed(self.seed)  # of dropout
            for _ in range(steps):
                if len(order) < batch:  # a part of a batch is left out, as BatchNorm may not do with one image
                    order = places[torch.randperm(len(places), generator=generator)]
                index, order = order[:batch], order[batch:]
                images = self.plain(split.batch(index).to(self.device))
                loss = nn.functional.cross_entropy(model(images), self.y[index].to(self.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
        asked = self.data.test if tested is None else split.subset(tested.tolist())
        answers = []
        for scores in encoded(model, asked, self.plain, self.device):
            if not bool(scores.isfinite().all()):
                raise UserError("The fine-tuned encoder's scores hold NaN or infinity.")
            answers.append(scores.argmax(1))
        return torch.cat(answers).numpy()

    def _head(self, at: Ints) -> list[nn.Module]:
        """Standardised features to the logistic regression's scores of the classes."""
        scale, classes = standardiser(self.z), int(self.y.max()) + 1
        rows = rows_of(self.z, at, scale, classes)
        with one_blas_thread():  # a start, which training goes on from
            [model] = path(rows, self.y[at].numpy(), self.z.shape[1], classes, [STRENGTH], iterations=100)
        weight, bias = torch.from_numpy(model.weight), torch.from_numpy(model.bias)
        if len(weight) == 1:  # of two classes, the score of the second
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        linear: Any = nn.utils.skip_init(nn.Linear, weight.shape[1], len(weight))  # which draws no random number
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        slope = torch.from_numpy(1 / scale.deviation)
        return [_Scale(slope, -torch.from_numpy(scale.mean) * slope), linear]


@torch.no_grad()
def _settle(encoder: nn.Module, split: "Split", plain: Callable[[Tensor], Tensor], device: torch.device) -> None:
    """Gives BatchNorm the statistics of the images, evenly spread over the split, as they are."""
    kind = nn.modules.batchnorm._BatchNorm
    norms: list[Any] = [m for m in encoder.modules() if isinstance(m, kind) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
        norm.train()
    for index in torch.arange(len(split))[:: max(1, -(-len(split) // SETTLED))].split(BATCH):
        if len(index) > 1:
            encoder(plain(split.batch(index).to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


class _Scale(nn.Module):
    """x -> slope x + origin, which no training changes."""

    def __init__(self, slope: Tensor, origin: Tensor):
        super().__init__()
        self.register_buffer("slope", slope)
        self.register_buffer("origin", origin)

    def forward(self, x: Tensor) -> Tensor:
        return x.float() * self.get_buffer("slope") + self.get_buffer("origin")
