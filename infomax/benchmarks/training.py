"""What safety costs a training: saving, in a thread, and deterministic algorithms, alternating in one process."""

import json as _json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import infomax as im
from infomax import checkpoints, data, encoders, errors, launch


def training_costs(
    encoder: str = "resnet10_tiny", batch_size: int = 256, every: int = 15, rounds: int = 10, dataset: str = "mnist5k"
) -> dict[str, Any]:
    """Seconds a step, in rounds of `every` steps: plain, with a checkpoint saved in each round, deterministic.

    saving_stops: the time within Run.save, for which training stands still, over that of a round; saving_slows: what a
    round with its checkpoint written beside it takes longer than the plain one before it; deterministic_slows likewise.
    Medians over rounds; the first is left out.
    """
    images = data.dataset(dataset)
    loader = data.PairLoader(images.train, data.views_for(images), batch_size, seed=0)
    torch.manual_seed(0)
    made = im.encoder(encoder, in_chans=images.shape[0])
    projector = encoders.Projector(encoders.features_of(made), hidden=256, out=64)
    model = im.InfoMax(made, projector, im.Cosine(0.2, learn=True), im.SMILE())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    accelerator = launch.make_accelerator()
    stops: list[float] = []
    took: dict[str, list[float]] = {"plain": [], "saving": [], "deterministic": []}
    with tempfile.TemporaryDirectory() as folder, checkpoints.open_run(Path(folder) / "run", "run", {}) as run:
        steps = 3 * every * (rounds + 1)
        trained = im.train(model, loader, optimizer, lambda step: 1.0, accelerator, steps=steps)

        def plain() -> None:
            for _ in range(every):
                next(trained)
            _synchronise()

        def saving() -> None:
            number = next(trained).number
            _synchronise()
            began = time.perf_counter()
            run.save(number, model, optimizer, wait=False)
            stops.append(time.perf_counter() - began)
            for _ in range(every - 1):
                next(trained)
            run.wait()
            _synchronise()

        def deterministic() -> None:
            launch.make_deterministic()
            try:
                plain()
            finally:
                torch.use_deterministic_algorithms(False)

        forms: dict[str, Callable[[], None]] = {"plain": plain, "saving": saving, "deterministic": deterministic}
        for _ in range(rounds + 1):
            for name, form in forms.items():
                began = time.perf_counter()
                form()
                took[name].append(time.perf_counter() - began)

    def share(times: list[float]) -> float:
        return statistics.median(time / plain for time, plain in zip(times[1:], took["plain"][1:], strict=True))

    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "machine": machine,
        "torch": torch.__version__, "encoder": encoder, "pairs": batch_size, "every": every, "rounds": rounds,
        "step_ms": 1000 * statistics.median(took["plain"][1:]) / every,
        "saving_stops": share(stops),
        "saving_slows": share(took["saving"]) - 1,
        "deterministic_slows": share(took["deterministic"]) - 1,
    }  # fmt: skip


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def command(
    encoder: str = "resnet10_tiny",
    batch_size: int = 256,
    every: int = 15,
    rounds: int = 10,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """What saving and deterministic algorithms cost a training on mnist5k, in shares of its time.

    Args:
        encoder: Any timm model, or a small-image variant of infomax's.
        batch_size: Pairs in a batch.
        every: Steps from one checkpoint to the next.
        rounds: Of so many steps, of each kind in turn.
        threads: CPU threads. By default all cores.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(batch_size=batch_size, every=every, rounds=rounds, threads=threads)
    if threads is not None:
        torch.set_num_threads(threads)
    found = training_costs(encoder, batch_size, every, rounds)
    if json:
        print(_json.dumps(found))
        return
    print(
        f"{found['machine']}, torch {found['torch']}: {encoder}, {batch_size} pairs, {found['step_ms']:.0f} ms a step"
    )
    print(f"a checkpoint every {every} steps stops training for {100 * found['saving_stops']:.2f} % of their time,")
    print(f"and with the writing beside it takes {100 * found['saving_slows']:+.1f} %")
    print(f"deterministic algorithms take {100 * found['deterministic_slows']:+.1f} %")
