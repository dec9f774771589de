"""The folder of an encoder in timm's own form, with its model card: config.json, model.safetensors, README.md."""

import os
from pathlib import Path

import torch
from torch import nn

from infomax.errors import UserError
from infomax.files import write_text, write_whole_folder
from infomax.ship.card import card
from infomax.ship.record import Record

FILES = ("README.md", "config.json", "model.safetensors")
IMAGES = 2  # random ones, on which what was written is compared with the run's encoder


def require(folder: Path, record: Record) -> None:
    """Raises UserError where an encoder cannot be shipped in timm's form, or not into this folder.

    folder: to be made, or empty. record: of the run.
    """
    if record.config is None:
        raise UserError(
            f"The encoder of {record.run} is {record.described or 'of a class of your own'}, which timm cannot build,"
            " so --into has no form for it: leave --into out and give --onnx FILE or --torch-export FILE."
        )
    require_empty(folder)
    inside = folder.resolve()
    if inside == record.run.resolve() or record.run.resolve() in inside.parents:
        raise UserError(f"{folder} lies in the run's own folder, which holds nothing but the run: name another.")


def require_empty(folder: Path) -> None:
    """Raises UserError for a file, a folder that holds something, or a place where no folder can be made.

    folder: to be made, or empty.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is {'a link' if folder.is_symlink() else 'a file'}; --into names a new folder.")
    try:
        held = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}).") from error
    if held:
        raise UserError(f"{folder} is not empty, it holds {held[0]}: name a new folder, or empty it.")


def write(folder: Path, record: Record, place: str | None = None, license: str | None = None) -> None:
    """Writes the folder whole or not at all, once timm has read the same features back from it, to 0 difference.

    folder: to be made, or empty. record: of the run. place: as card() takes it; None for the folder itself. license: as
    metadata() takes it. Raises UserError as require() does, and where it cannot be written.
    """
    from safetensors import SafetensorError

    from infomax.encoders import save_timm

    require(folder, record)
    config = record.config
    assert config is not None  # require() has looked
    channels = config["in_chans"]
    mean, std, size = record.mean, record.std, record.input_size
    if not (mean and std and len(mean) == len(std) == channels):
        mean, std = (0.0,) * channels, (1.0,) * channels
    if not (size and size[0] == channels):
        size = (channels, *(getattr(record.encoder, "pretrained_cfg", None) or {}).get("input_size", (0, 224, 224))[1:])
    text = card(record, place or f"local-dir:{folder.name}", license)

    def fill(temporary: Path) -> None:
        save_timm(record.encoder, temporary, mean, std, size)
        (temporary / "model.safetensors").chmod((temporary / "config.json").stat().st_mode & 0o777)
        write_text(temporary / "README.md", text)
        _compare(record.encoder, temporary, size)

    try:
        write_whole_folder(folder, fill)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"{folder} could not be written ({reason}).") from error
    except SafetensorError as error:  # safetensors tells of a full disk so
        raise UserError(f"{folder} could not be written ({error}).") from error


@torch.no_grad()
def _compare(encoder: nn.Module, folder: Path, size: tuple[int, ...]) -> None:
    import timm

    images = torch.rand(IMAGES, *size, generator=torch.Generator().manual_seed(0))
    again: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if not torch.equal(again(images), encoder.eval()(images)):
        raise UserError(
            f"timm {timm.__version__} reads other features from what was written than the run's encoder gives, so"
            " nothing is left of it: install the version of timm that the run was trained with (run.json says which)."
        )
