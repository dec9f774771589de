"""Images a second of a SimCLR training beside lightly's, and of a folder of JPEGs beside timm's loader."""

import json as _json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

import infomax as im
from infomax import data, encoders, errors, launch
from infomax.errors import UserError

DATASETS = ("digits", "colour")
PHOTOGRAPHS = 500  # of the folder, whose other files repeat them
WIDTH = 256  # of a photograph, pixels


def command(
    names: tuple[str, ...] = DATASETS,
    folder: bool = False,
    rounds: int = 5,
    every: int = 4,
    batch_size: int = 256,
    encoder: str = "resnet10_tiny",
    files: int = 20_000,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Images a second of SimCLR beside lightly's loop, transforms and loader; --folder: of JPEGs beside timm's loader.

    An image is one sample, of which both train two views, by the same encoder. lightly, where it is installed, has its
    SimCLRTransform (no blur, as its authors have it for small images), and 0 or 2 workers. All forms alternate in
    rounds; a ratio is a median over rounds, with its quartiles.

    Args:
        names: digits (mnist5k, 28 pixels), colour (drawn scenes, 32 pixels), or both.
        folder: Time a folder of JPEGs instead: to its first batch, and its views a second.
        rounds: Of so many steps, of each form in turn; one more before them is not counted.
        every: Steps, or batches, in a round.
        batch_size: Images in a batch.
        encoder: Any timm model, or a small-image variant of infomax's.
        files: JPEGs of 256 x 256 pixels in the folder.
        threads: CPU threads. By default all cores.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(rounds=rounds, every=every, batch_size=batch_size, files=files, threads=threads)
    if unknown := [name for name in names if name not in DATASETS]:
        raise UserError(f"{unknown[0]!r} is none of {', '.join(DATASETS)}.")
    if threads is None:
        launch.set_threads()
    else:
        torch.set_num_threads(threads)
    if folder and files < (every + 5) * batch_size:
        raise UserError(
            f"A folder of {files} files has fewer than {every + 5} batches of {batch_size}: ask for more --files, or"
            " smaller batches."
        )
    if folder:
        found = of_folder(files, rounds, every, batch_size)
    else:
        found = {name: of_steps(name, rounds, every, batch_size, encoder) for name in names}
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "batch_size": batch_size}
    if json:
        print(_json.dumps({"folder" if folder else "steps": found, **machine}))
        return
    print(f"{machine['threads']} CPU threads, torch {machine['torch']}, batches of {batch_size}, {rounds} rounds\n")
    if folder:
        _print_folder(found)
    else:
        _print_steps(found, encoder)


# ------------------------------------------------------------------------------------------------------ training steps


def of_steps(name: str, rounds: int, every: int, batch_size: int, encoder: str) -> dict[str, Any]:
    """Seconds a step of each form, round by round, and the share that views take of ours."""
    dataset = data.dataset("mnist5k") if name == "digits" else data.dataset("scenes:5000")
    torch.manual_seed(0)
    loader = data.PairLoader(dataset.train, data.views_for(dataset), batch_size, seed=0)
    forms: dict[str, Callable[[], float]] = {"infomax": _ours(dataset, loader, every, encoder)}
    lightly = _lightly()
    if lightly is not None:
        for workers in (0, 2):
            forms[f"lightly, {workers} workers"] = _theirs(lightly, dataset, every, batch_size, encoder, workers)
    calls = iter(range(10**9))

    def views() -> float:
        began = time.perf_counter()
        for _ in range(every):
            loader.at(next(calls))
        return (time.perf_counter() - began) / every

    seconds = _alternating(forms | {"views": views}, rounds)
    share = statistics.median(v / s for v, s in zip(seconds.pop("views"), seconds["infomax"], strict=True))
    return {"seconds": seconds, "views": share, "batch": batch_size}


def _ours(dataset: Any, loader: Any, every: int, encoder: str) -> Callable[[], float]:
    """What recipes/simclr.py trains, as Run.train does."""
    made = im.encoder(encoder, in_chans=dataset.shape[0])
    projector = encoders.Projector(encoders.features_of(made), hidden=256, out=64)
    model = im.InfoMax(made, projector, im.Cosine(0.2, learn="bias"), im.InfoNCE())
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3, fused=True)
    trained = im.train(model, loader, optimizer, lambda step: 1.0, launch.make_accelerator(), steps=10**9)

    def steps() -> float:
        began = time.perf_counter()
        for _ in range(every):
            next(trained)
        return (time.perf_counter() - began) / every

    return steps


def _lightly() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lightly.loss  # pyright: ignore[reportMissingImports]
            import lightly.models.modules  # pyright: ignore[reportMissingImports]
            import lightly.transforms  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return lightly


@final
class _Pictures(torch.utils.data.Dataset):
    """A split's images, as Pillow's, each as lightly's transform makes its views, with a label."""

    def __init__(self, images: Tensor, transform: Callable[[Any], Any]) -> None:
        from PIL import Image

        arrays = (np.ascontiguousarray(image.permute(1, 2, 0).squeeze(2).numpy()) for image in images)
        self.pictures, self.transform = [Image.fromarray(array) for array in arrays], transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.pictures[index]), 0


def _theirs(lightly: Any, dataset: Any, every: int, size: int, encoder: str, workers: int) -> Callable[[], float]:
    """SimCLR as lightly's documentation writes it: two passes of the encoder, NTXentLoss, SGD."""
    backbone = im.encoder(encoder, in_chans=dataset.shape[0])
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d  # as timm makes it
    width = encoders.features_of(backbone)
    model = nn.Sequential(backbone, lightly.models.modules.SimCLRProjectionHead(width, 256, 64)).train()
    transform = lightly.transforms.SimCLRTransform(
        input_size=dataset.shape[1],
        gaussian_blur=0.0,
        normalize={"mean": list(dataset.mean), "std": list(dataset.std)},
    )
    pictures = _Pictures(dataset.train.batch(range(len(dataset.train))), transform)
    loader = torch.utils.data.DataLoader(pictures, batch_size=size, shuffle=True, drop_last=True, num_workers=workers)
    criterion = lightly.loss.NTXentLoss(temperature=0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    def steps() -> float:
        endless = batches()  # whose workers end with the round, and do not work while others are timed
        began = 0.0
        for step in range(every + 1):
            if step == 1:  # the first waits for workers to start
                began = time.perf_counter()
            (first, second), *_ = next(endless)
            loss = criterion(model(first), model(second))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        took = (time.perf_counter() - began) / every
        endless.close()  # pyright: ignore[reportAttributeAccessIssue]
        return took

    return steps


# ---------------------------------------------------------------------------------------------------- a folder of files


def of_folder(files: int, rounds: int, every: int, batch_size: int) -> dict[str, Any]:
    """Seconds to a folder's first batch of views, and seconds a view of each form, round by round."""
    with tempfile.TemporaryDirectory() as place:
        _photographs(Path(place), files)
        began = time.perf_counter()
        dataset = data.dataset(f"folder:{place}")
        loader = data.PairLoader(dataset.train, data.views_for(dataset), batch_size, seed=0)
        loader.at(0)
        first = time.perf_counter() - began
        steps = iter(range(1, 10**9))

        def ours() -> float:
            loader.at(next(steps))  # what was decoded while others were timed is not counted
            began = time.perf_counter()
            for _ in range(every):
                loader.at(next(steps))
            return (time.perf_counter() - began) / (2 * every * batch_size)

        forms: dict[str, Callable[[], float]] = {"infomax": ours}
        for workers in (0, 2):
            forms[f"timm, {workers} workers"] = _timm(place, dataset, every, batch_size, workers)
        began_with = _resident()
        seconds = _alternating(forms, rounds)
        grown = _resident() - began_with
        return {"first": first, "files": files, "seconds": seconds, "grown_mib": grown / 2**20}


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _photographs(place: Path, files: int) -> None:
    """JPEGs as a camera's: smooth, with some grain. No two files are alike, though pictures repeat."""
    import io

    from PIL import Image

    draws, made = np.random.default_rng(0), []
    for _ in range(min(PHOTOGRAPHS, files)):
        coarse = Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((WIDTH, WIDTH))
        grain = draws.normal(0, 6, (WIDTH, WIDTH, 1))
        pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    for number in range(files):
        folder = place / f"{number % 10}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:06}.jpg").write_bytes(made[number % len(made)] + number.to_bytes(8, "big"))


def _timm(place: str, dataset: Any, every: int, batch_size: int, workers: int) -> Callable[[], float]:
    """timm's loader with the transforms that infomax's views of photographs have, one view a file that is read."""
    from timm.data import create_dataset, create_loader  # pyright: ignore[reportPrivateImportUsage]

    create: Any = create_loader  # whose annotations are narrower than what it takes

    def steps() -> float:
        loader = create(
            create_dataset("", place), input_size=dataset.shape, batch_size=batch_size, is_training=True,
            use_prefetcher=False, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5, interpolation="bilinear",
            color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.8, grayscale_prob=0.2, re_prob=0.0,
            mean=dataset.mean, std=dataset.std, num_workers=workers, persistent_workers=False,
        )  # fmt: skip
        batches = iter(loader)
        for _ in range(1 + 2 * workers):  # those that workers have made ahead by now are not counted
            next(batches)
        began = time.perf_counter()
        for _ in range(every):
            next(batches)
        return (time.perf_counter() - began) / (every * batch_size)

    return steps


# ------------------------------------------------------------------------------------------------------------- in words


def _alternating(forms: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(rounds + 1):
        for name, form in forms.items():
            seconds = form()
            if number > 0:  # the first round warms up
                took[name].append(seconds)
    return took


def _ratio(slow: list[float], fast: list[float]) -> str:
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _print_steps(found: dict[str, Any], encoder: str) -> None:
    forms = [name for name in next(iter(found.values()))["seconds"] if name != "infomax"]
    size = "images/s"
    columns = [encoder, f"infomax, {size}", "views, % of a step"]
    for form in forms:
        columns += [f"{form}, {size}", "times as fast"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for name, row in found.items():
        rate = {form: row["batch"] / statistics.median(times) for form, times in row["seconds"].items()}
        cells = [f"{rate['infomax']:.0f}", f"{100 * row['views']:.1f}"]
        for form in forms:
            cells += [f"{rate[form]:.0f}", _ratio(row["seconds"][form], row["seconds"]["infomax"])]
        print(f"| {name} | {' | '.join(cells)} |")
    if not forms:
        print("\nlightly is not installed; beside it: pip install lightly")


def _print_folder(found: dict[str, Any]) -> None:
    print(f"{found['files']} JPEGs of {WIDTH} x {WIDTH} pixels: first batch after {found['first']:.1f} s;", end=" ")
    print(f"memory grew by {found['grown_mib']:.0f} MiB over the rounds\n")
    print("| form | views a second | infomax is so many times as fast |\n|---|---|---|")
    for name, times in found["seconds"].items():
        ratio = "" if name == "infomax" else _ratio(times, found["seconds"]["infomax"])
        print(f"| {name} | {1 / statistics.median(times):.0f} | {ratio} |")
