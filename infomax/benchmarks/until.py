"""Seconds of training until features reach a kNN accuracy: SimCLR of one encoder, on the device that there is."""

import contextlib
import json as _json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, final

import torch

import infomax as im
from infomax import data, encoders, errors, launch, objectives, training
from infomax.encoders.coverage import require_whole_image
from infomax.errors import UserError
from infomax.evaluation.features import held
from infomax.evaluation.nearest import votes
from infomax.files import finite

NEIGHBOURS = 10
SECONDS = 0.5  # between two readings of the GPU's utilisation
HEAD = "| epoch | kNN, % | training, s | with measurements, s |\n|---|---|---|---|"


def command(
    dataset: str = "cifar10",
    encoder: str = "resnet18_small",
    target: float = 0.9,
    epochs: int = 500,
    batch_size: int = 512,
    objective: str = "InfoNCE()",
    every: int = 5,
    lr: float = 3e-3,
    temperature: float = 0.2,
    limit: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Seconds of training until held-out images have a kNN accuracy: SimCLR on the GPU there is, or else on the CPU.

    Trained as recipes/simclr.py trains, in bfloat16 where a GPU has it. After every so many epochs the clock stops, and
    held-out images are classified by the 10 nearest training images (cosine of the encoder's features, in float32,
    without augmentation). It ends at the target, or after all epochs. The clock has the first step's start in it, and
    neither the reading of the data set nor the measurements; both times are printed.

    Args:
        dataset: Images with labels, as the recipes take them.
        encoder: Any timm model, or a small-image variant of infomax's.
        target: The accuracy at which it ends, above 0 and at most 1.
        epochs: At most; the learning rate's cosine ends with them.
        batch_size: Pairs in a batch.
        objective: Any objective, as a constructor call.
        every: Epochs from one measurement to the next.
        lr: AdamW's largest learning rate, after 10 % of warm-up.
        temperature: Of the cosine critic.
        limit: Keep this many training images.
        seed: Of the weights, the order and the views.
        json: Print one JSON object on standard output, and the lines on standard error.
    """
    errors.require_positive(epochs=epochs, batch_size=batch_size, every=every, lr=lr, temperature=temperature)
    errors.require_seed(seed)
    if not 0 < target <= 1:
        raise UserError(f"--target is an accuracy above 0 and at most 1, such as 0.9, and not {target!r}.")
    maximised = objectives.objective(objective)
    launch.set_threads()
    images = data.dataset(dataset, limit=limit)
    lines = sys.stderr if json else sys.stdout

    def shown(row: dict[str, float]) -> None:
        print(_row(row), file=lines, flush=True)

    print(HEAD, file=lines, flush=True)
    found = until(images, encoder, target, epochs, batch_size, maximised, every, lr, temperature, seed, shown)
    print(f"\n{sentence(found)}", file=lines)
    if json:
        print(_json.dumps(finite(found), allow_nan=False))


def until(
    images: data.Dataset, encoder: str, target: float, epochs: int, batch_size: int, objective: objectives.Objective,
    every: int, lr: float, temperature: float, seed: int, shown: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict[str, Any]:  # fmt: skip
    """What the command measures. images: with labels. shown: is called with each row of the curve.

    Returns {"reached": whether the target was, "epochs", "steps", "seconds": of training, "seconds_with_measurements",
    "images_per_second", "curve": [{"epoch", "knn", "seconds", "seconds_with_measurements"}, ...] from epoch 0, of an
    untrained encoder, "peak_mib", "utilisation": of the GPU, in [0, 1], or None, "machine", ...}. An image of
    images_per_second is one sample, of which two views are trained on. Raises UserError: no images, no labels, an
    encoder that cannot see all of an image.
    """
    if len(images.shape) != 3 or images.train.labels is None or images.test.labels is None:
        raise UserError(f"kNN accuracy needs images with labels in both parts, and {images.name!r} has none.")
    torch.manual_seed(seed)
    on_gpu = torch.cuda.is_available()
    accelerator = launch.make_accelerator("bf16" if on_gpu and torch.cuda.is_bf16_supported() else None)
    device = accelerator.device
    views = data.views_for(images)
    loader = data.PairLoader(images.train, views, batch_size, seed)
    network = im.encoder(encoder, in_chans=images.shape[0])
    require_whole_image(network, images.shape)
    projector = encoders.Projector(encoders.features_of(network), hidden=256, out=64)
    model = im.InfoMax(network, projector, im.Cosine(temperature, learn="bias"), objective)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.to(device)
    fused = accelerator.scaler is None
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3, fused=fused or None)
    steps = epochs * len(loader)
    schedule = training.warmup_cosine(steps, warmup=steps // 10)
    trained = im.train(model, loader, optimizer, schedule, accelerator, steps=steps)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    use = Utilisation(_reader(device))
    curve: list[dict[str, float]] = []
    seconds, began = 0.0, time.perf_counter()

    def measure(epoch: int) -> float:
        knn = accuracy(network, images, views.plain)
        spent = time.perf_counter() - began
        curve.append({"epoch": epoch, "knn": knn, "seconds": seconds, "seconds_with_measurements": spent})
        shown(curve[-1])
        return knn

    measure(0)  # what an untrained encoder has
    for epoch in range(1, epochs + 1):
        with use.watched():
            start = time.perf_counter()
            for _ in range(len(loader)):
                next(trained)
            _wait(device)
            seconds += time.perf_counter() - start
        if (epoch % every == 0 or epoch == epochs) and measure(epoch) >= target:
            break
    trained.close()  # pyright: ignore[reportAttributeAccessIssue]
    done = int(curve[-1]["epoch"]) * len(loader)
    return {
        "dataset": images.name, "images": len(images.train), "shape": list(images.shape), "encoder": encoder,
        "objective": repr(objective), "batch_size": batch_size, "lr": lr, "temperature": temperature, "seed": seed,
        "target": target, "reached": curve[-1]["knn"] >= target, "best": max(row["knn"] for row in curve[1:]),
        "epochs": int(curve[-1]["epoch"]), "epochs_at_most": epochs, "steps": done, "seconds": seconds,
        "seconds_with_measurements": curve[-1]["seconds_with_measurements"],
        "images_per_second": done * batch_size / seconds, "curve": curve, "peak_mib": _peak(device),
        "utilisation": use.mean, "precision": accelerator.mixed_precision, "machine": _machine(device),
    }  # fmt: skip


def accuracy(network: torch.nn.Module, images: data.Dataset, plain: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """The kNN accuracy, in [0, 1], of the test images' features among the training images': the votes of `infomax
    probe`, of 10 neighbours at most. plain: images as the encoder takes them."""
    assert images.train.labels is not None and images.test.labels is not None
    bank, queries = (held(network, split, plain, batch_size=512) for split in (images.train, images.test))
    y, t = images.train.labels.numpy(), images.test.labels.numpy()
    [answers] = votes(bank, y, queries, [min(NEIGHBOURS, len(y))], len(images.classes))
    return float((answers == t).mean())


@final
class Utilisation:
    """The mean of what a thread of its own reads while it watches: `with use.watched()`.

    read: gives a number in [0, 1]; None where there is nothing to read. every: seconds between two readings.
    """

    def __init__(self, read: Callable[[], float] | None, every: float = SECONDS) -> None:
        self._read, self._every, self._readings = read, every, list[float]()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Reads until the block ends."""
        if self._read is None:
            yield
            return
        ended, read = threading.Event(), self._read

        def watch() -> None:
            while not ended.wait(self._every):
                self._readings.append(read())

        thread = threading.Thread(target=watch, name="infomax-utilisation", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @property
    def mean(self) -> float | None:
        """Of all readings so far; None without any."""
        return statistics.fmean(self._readings) if self._readings else None


def sentence(found: dict[str, Any]) -> str:
    """The result, then what it was measured on, in lines."""
    epochs, machine = found["epochs"], found["machine"]
    took = f"{found['seconds']:.1f} s ({found['seconds'] / 60:.1f} min) of training"
    if found["reached"]:
        ended = f"after {epochs} epochs, {found['steps']} steps: {took}"
    else:
        ended = f"was not reached in {epochs} epochs, at best {100 * found['best']:.1f} %: {took}"
    used = "no GPU" if found["utilisation"] is None else f"GPU utilisation {100 * found['utilisation']:.0f} %"
    speed = (
        f"{found['images_per_second']:.0f} images/s of two views each, peak memory {found['peak_mib']:.0f} MiB, {used}"
    )
    return (
        f"kNN accuracy {100 * found['target']:g} % on {found['dataset']} {ended},"
        f" {found['seconds_with_measurements']:.1f} s with the measurements.\n{speed}.\n"
        f"{found['encoder']}, {found['objective']}, {found['images']} images of {' x '.join(map(str, found['shape']))},"
        f" batches of {found['batch_size']}; {machine['device']}, {machine['threads']} CPU threads, load"
        f" {machine['load']:.1f}, precision {found['precision']}, torch {machine['torch']}, infomax"
        f" {machine['infomax']}."
    )


def _row(row: dict[str, float]) -> str:
    times = f"{row['seconds']:.1f} | {row['seconds_with_measurements']:.1f}"
    return f"| {row['epoch']} | {100 * row['knn']:.1f} | {times} |"


def _reader(device: torch.device) -> Callable[[], float] | None:
    if device.type != "cuda":
        return None
    try:
        torch.cuda.utilization(device)
    except (ModuleNotFoundError, RuntimeError) as error:  # no nvidia-ml-py, or a driver that says nothing
        print(f"The GPU's utilisation is not read: {error}", file=sys.stderr)
        return None
    return lambda: torch.cuda.utilization(device) / 100


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> float:
    """The most memory, MiB: of tensors on the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    return {
        "device": name, "threads": torch.get_num_threads(), "load": os.getloadavg()[0], "torch": torch.__version__,
        "infomax": im.__version__, "python": platform.python_version(),
    }  # fmt: skip
