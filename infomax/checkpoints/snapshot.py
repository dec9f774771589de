"""A snapshot of what a checkpoint will hold: copied while training waits, written in a thread while it goes on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from safetensors.torch import save_file as save_safetensors
from torch import Tensor, nn

from infomax.checkpoints.checkpoint import LOG_FILE, MANIFEST_FILE, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, saved_steps
from infomax.checkpoints.description import describe, encoder_name
from infomax.checkpoints.files import digest_of, sealed, size_of
from infomax.checkpoints.tensors import take_apart
from infomax.errors import NonFinite
from infomax.files import flush_folder, flush_to

if TYPE_CHECKING:
    pass


@final
@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint will hold, copied: training may go on while it is written."""

    step: int
    weights: dict[str, Tensor]
    others: dict[str, Tensor]
    state: dict[str, Any]
    model: nn.Module  # of which only what training does not change is read

    def write(self, folder: Path) -> None:
        save_safetensors(self.weights, folder / MODEL_FILE)
        save_safetensors(self.others, folder / OPTIMIZER_FILE)
        (folder / STATE_FILE).write_text(json.dumps(self.state, allow_nan=False), encoding="utf-8")
        _save_encoder(self.model, self.state["model"], self.weights, folder / "encoder", self.state["preprocessing"])


def take_snapshot(
    step: int,
    model: nn.Module,
    held: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None,
    ranks: list[dict[str, Any]],
    folder: Path,
    configuration: dict[str, Any],
    preprocessing: dict[str, Any] | None,
) -> Snapshot:
    """A copy. held, optimizer: the states of the model and of its optimiser, whole. The rest as Run has it."""
    weights: dict[str, Tensor] = {}
    for name, value in held.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} of the model is a {type(value).__name__}; only tensors are saved.")
        take_apart(value, weights, name)
    others: dict[str, Tensor] = {}
    state = {
        "step": step,
        "configuration": configuration,
        "preprocessing": preprocessing,
        "model": describe(model),
        "optimizer": None if optimizer is None else take_apart(optimizer, others, "optimizer"),
        "ranks": [take_apart(rank, others, f"rank{i}") for i, rank in enumerate(ranks)],
        "log_bytes": size_of(folder / LOG_FILE),
        "threads": torch.get_num_threads(),
    }
    _must_be_finite(step, {name for name, _ in model.named_parameters()}, weights, others, folder)
    return Snapshot(step, weights, others, state, model)


def _must_be_finite(
    step: int, parameters: set[str], weights: Mapping[str, Tensor], others: Mapping[str, Tensor], folder: Path
) -> None:
    """Raises NonFinite: a parameter, a running statistic or the optimiser is not finite, or another buffer is NaN."""
    for name, value in [*weights.items(), *others.items()]:
        if not (value.is_floating_point() or value.is_complex()):
            continue
        # An average in the log domain starts at -inf; elsewhere infinity is an overflow.
        strict = name in parameters or name.startswith("optimizer.") or "running_" in name
        if not bool((value.isfinite() if strict else ~value.isnan()).all()):
            kept = [path.name for _, path in saved_steps(folder)]
            raise NonFinite(
                f"After step {step} {name} is not finite, so it is not saved"
                f" ({kept[-1] + ' is the newest checkpoint' if kept else 'there is no earlier checkpoint'})."
                " Try a lower learning rate, a higher temperature, or an objective with a bounded gradient (InfoNCE,"
                " JS, CalibratedNWJ)."
            )


def seal_folder(folder: Path) -> None:
    """Flush every file and folder to the disk, and write the manifest last."""
    paths = sorted(path for path in folder.rglob("*"))
    files = {path.relative_to(folder).as_posix(): digest_of(path, flush=True) for path in paths if path.is_file()}
    for path in paths:
        if path.is_dir():
            flush_folder(path)
    flush_to(folder / MANIFEST_FILE, json.dumps(sealed({"files": files}), indent=2) + "\n")
    flush_folder(folder)


def _save_encoder(
    model: nn.Module,
    description: Mapping[str, Any] | None,
    weights: dict[str, Tensor],
    folder: Path,
    preprocessing: Mapping[str, Any] | None,
) -> None:
    """timm's own form of a model's encoder, where it is one that timm can rebuild."""
    name = encoder_name(description)
    config = None if description is None else description["parts"].get(name)
    if not isinstance(config, dict):  # nothing says how to build it, or it is none of timm's, such as an MLP
        return
    from infomax.encoders import MapEncoder, save_timm

    encoder: Any = getattr(model, name)
    if isinstance(encoder, MapEncoder):  # features of its own, which timm's form does not have
        return
    weights = {n.removeprefix(f"{name}."): w for n, w in weights.items() if n.startswith(f"{name}.")}
    given = preprocessing or getattr(encoder, "pretrained_cfg", None) or {}
    mean, std, size = given.get("mean"), given.get("std"), given.get("input_size")
    channels = config["in_chans"]
    if not (mean and std and size and len(mean) == len(std) == size[0] == channels):
        # Nothing is known of the images but their channels: [0, 1] as it is, and the size that timm gives its model.
        mean, std, size = (0.0,) * channels, (1.0,) * channels, (channels, *(size or (0, 224, 224))[1:])
    save_timm(encoder, folder, mean, std, size, weights)
