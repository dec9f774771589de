"""infomax plan: memory and time of a step before it is run, and what to change where it does not fit."""

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from infomax import errors
from infomax.errors import UserError
from infomax.ui.output import one_line

if TYPE_CHECKING:
    from infomax.models.cost import Encoding, Setting

UNITS = {"MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def plan(
    batch: int = 4096,
    gpus: int = 8,
    encoder: str = "resnet50",
    size: int = 224,
    channels: int = 3,
    dim: int = 128,
    hidden: int = 2048,
    mixed_precision: str = "no",
    microbatch: int | None = None,
    ring: bool = False,
    fsdp2: bool = False,
    memory: str = "80GiB",
    tflops: float = 150.0,
    link: float = 50.0,
    json: bool = False,
) -> None:
    """Memory a process and time a step of a training, before it is run, and what to change where it does not fit.

    Nothing is trained, and no GPU is needed: the encoder runs on shapes without numbers, which counts its activations
    and its arithmetic exactly. What scores take is the engine's, as measured; --tflops and --link are assumptions.

    Args:
        batch: Pairs over all processes: the N of the objective. Two views each.
        gpus: Processes, each with a GPU of its own.
        encoder: Any timm model, or a small-image variant of infomax's.
        size: Of the square images, in pixels.
        channels: Of the images.
        dim: Numbers of a projection, which the critic compares.
        hidden: Numbers in the projector's hidden layer.
        mixed_precision: Of the encoder: no or bf16.
        microbatch: Pairs that a process encodes at once, each twice. By default all of its own.
        ring: Pass features around rather than gather them.
        fsdp2: Parameters, gradients and the optimiser's state in shards.
        memory: Of a GPU: 80GiB, 24GB.
        tflops: What a GPU reaches in the encoder, 10^12 operations a second. Assumed, unless you measured it.
        link: What a GPU sends to another while it receives as much, 10^9 bytes a second. Assumed.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(
        batch=batch, gpus=gpus, size=size, channels=channels, dim=dim, hidden=hidden, microbatch=microbatch,
        tflops=tflops, link=link,
    )  # fmt: skip
    if batch < 2:
        raise UserError(
            f"--batch {batch} is one pair: a batch needs at least 2, for without another pair there is no negative."
        )
    if batch % gpus:
        raise UserError(f"--batch {batch} is no multiple of --gpus {gpus}: every process has as many pairs.")
    if mixed_precision not in ("no", "bf16"):
        raise UserError(f"--mixed-precision is no or bf16, not {mixed_precision!r}.")
    room = bytes_of(memory)
    from infomax.models import cost

    setting = cost.Setting(batch, gpus, dim, microbatch, ring, fsdp2)
    half = mixed_precision == "bf16"
    image = channels * size * size * (2 if half else 4)
    count = counted(encoder, channels, size, hidden, dim, half)
    rates = cost.Rates(encoder=tflops * 1e12, link=link * 1e9)
    found = _found(setting, count(setting.at_once), image, rates)
    better = None if found["bytes"] <= room else _fitting(setting, count, image, room)
    said = {"fits": better is None, "memory": room, **found, "change": better}
    if better:
        changed = cost.Setting(batch, gpus, dim, better["microbatch"], better["ring"], better["fsdp2"])
        said["changed"] = _found(changed, count(changed.at_once), image, rates)
    if json:
        print(one_line({"plan": said}))
        return
    print(
        f"{encoder} of {found['parameters'] / 1e6:.1f} million parameters, images {channels} x {size} x {size}, {batch}"
        f" pairs on {gpus} processes, {setting.own} each\n"
    )
    _show(found, memory, room)
    if better is None and found["bytes"] > room:
        print("\nNothing fits: take a smaller encoder or more processes.")
    elif better:
        words = [f"--microbatch {better['microbatch']}"] if better["microbatch"] else []
        words += ["--ring"] if better["ring"] else []
        wrap = ", fsdp_auto_wrap_policy: NO_WRAP" if better["microbatch"] else ""
        words += [f"FSDP2 (configs/fsdp2.yaml{wrap})"] if better["fsdp2"] else []
        print(f"\nIt fits with {', '.join(words)}:\n")
        _show(said["changed"], memory, room)
    print(
        f"\nAssumed: {tflops:g} TFLOP/s in the encoder (--tflops), {link:g} GB/s between processes (--link). Scores are"
        " at the\nengine's rate in float32 on an H100, a third slower in a ring; some objectives take up to half as"
        " much more. Images\nthat wait to be read, and fragments of memory, are not counted."
    )


def bytes_of(text: str) -> int:
    """80GiB -> bytes. Raises UserError for what is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", text, re.IGNORECASE)
    if match is None or match[2].upper() not in UNITS:
        raise UserError(f"--memory {text!r} is no size: write 80GiB, 24GB or 512MiB.")
    return int(float(match[1]) * UNITS[match[2].upper()])


def counted(name: str, channels: int, size: int, hidden: int, dim: int, half: bool) -> "Callable[[int], Encoding]":
    """Pairs encoded at once -> their cost. Raises UserError for an encoder that cannot take such images."""
    from infomax import encoders
    from infomax.models import cost

    def make() -> tuple[Any, Any]:
        try:
            body = encoders.encoder(name, in_chans=channels, img_size=size)  # as transformers want to know it
        except UserError:
            body = encoders.encoder(name, in_chans=channels)
        return body, encoders.Projector(encoders.features_of(body), hidden=hidden, out=dim)

    @functools.cache
    def count(pairs: int) -> "Encoding":
        try:
            return cost.encoding(make, (channels, size, size), 2 * pairs, half)
        except UserError:
            raise
        except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
            raise UserError(f"{name} cannot be counted on images of {channels} x {size} x {size}: {error}.") from error

    return count


def _found(setting: "Setting", encoder: "Encoding", image: int, rates: Any) -> dict[str, Any]:
    from infomax.models import cost

    memory, seconds = cost.memory(setting, encoder, image), cost.seconds(setting, encoder, rates)
    return {
        "parameters": encoder.parameters, "bytes": sum(memory.values()), "bytes_by": memory,
        "seconds": sum(seconds.values()), "seconds_by": seconds,
    }  # fmt: skip


def _fitting(setting: "Setting", count: "Callable[[int], Encoding]", image: int, room: int) -> dict[str, Any] | None:
    """The least change that fits: micro-batches first, which cost a second encoding; then shards; then the ring."""
    from infomax.models import cost

    for changes in ({}, {"sharded": True}, {"ring": True}, {"sharded": True, "ring": True}):
        changed = replace(setting, **changes)
        size = setting.at_once
        while size >= 1:
            tried = replace(changed, microbatch=None if size == setting.own else size)
            if sum(cost.memory(tried, count(size), image).values()) <= room:
                return {"microbatch": tried.microbatch, "ring": tried.ring, "fsdp2": tried.sharded}
            size = size // 2
    return None


LABELS = {
    "optimiser": "optimiser's state", "exchange": "gradients or weights on their way", "scores": "features and scores",
    "activations": "inputs, activations, gradients",
}  # fmt: skip
SPENT = {"features": "features on their way", "gradients": "gradients on their way"}


def _show(found: dict[str, Any], memory: str, room: int) -> None:
    print("| a process | GiB |\n|---|---|")
    for name, value in found["bytes_by"].items():
        print(f"| {LABELS.get(name, name)} | {value / 2**30:.2f} |")
    print(f"| all, of {memory} | {found['bytes'] / 2**30:.2f}{'' if found['bytes'] <= room else ', too much'} |\n")
    print("| a step | s |\n|---|---|")
    for name, value in found["seconds_by"].items():
        print(f"| {SPENT.get(name, name)} | {value:.3f} |")
    print(f"| all | {found['seconds']:.3f} |")
