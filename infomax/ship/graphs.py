"""An encoder as a graph: ONNX, checked by onnxruntime, and torch.export's; each of any number of images at once."""

import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.files import write_whole
from infomax.ship.record import Record

TOLERANCE = 1e-4  # of onnxruntime's features, beside the largest of the encoder's own in absolute value
BATCHES = (1, 2, 5)  # images at once, with which a graph is tried
LARGEST = 2**31 - 2**24  # bytes of weights: an ONNX file holds no 2 GiB


def require(path: Path, option: str, ending: str, record: Record) -> None:
    """Raises UserError where no graph can be made or written, before anything is worked out for it.

    path: the file. option: that named it, --onnx or --torch-export. ending: that the file must have. record: of the
    run.
    """
    if path.suffix != ending:
        raise UserError(f"{option} {path}: name the file with the ending {ending}, as {path.with_suffix(ending)}.")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder, so {path.name} cannot be written there; make it first.")
    if record.input_size is None:
        raise UserError(
            f"{record.run} does not say how large its inputs are, so {option} has nothing to trace its encoder with: it"
            " goes with runs on images and signals; --into ships the encoder in timm's form."
        )


def require_onnx() -> None:
    """Raises UserError where a package that ONNX needs is missing."""
    from importlib.util import find_spec

    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise UserError(f'--onnx needs the package {package}: pip install "infomax[onnx]".')


def onnx(record: Record, path: Path) -> float:
    """Writes an ONNX file, whole or not at all, from images [n, ...] to features [n, d]; n is free.

    record: of the run. path: NAME.onnx. Returns by how much onnxruntime's features differ from the encoder's own at
    most, as a share of the largest. Raises UserError: packages that are missing, an encoder that cannot be traced, more
    than 1e-4.
    """
    require(path, "--onnx", ".onnx", record)
    require_onnx()
    if (size := sum(t.nbytes for t in record.encoder.state_dict().values())) > LARGEST:
        raise UserError(f"The encoder has {size / 2**30:.1f} GiB of weights, and an ONNX file holds 2: --torch-export.")
    encoder, images = record.encoder.eval(), _images(record, 2)
    free = ({0: torch.export.Dim("batch")},)
    program = _traced(
        lambda: torch.onnx.export(
            encoder, (images,), dynamo=True, verbose=False, dynamic_shapes=free,
            input_names=["images"], output_names=["features"],
        ),
        "--onnx", record,
    )  # fmt: skip
    program.model.metadata_props.update(_about(record))
    worst = 0.0

    def write(temporary: Path) -> None:
        nonlocal worst
        import onnxruntime

        program.save(temporary, external_data=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(os.fspath(temporary), options, providers=["CPUExecutionProvider"])

        def features(given: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {"images": given.numpy()})[0])

        worst = _compared(encoder, features, record)
        _require_alike(worst, "onnxruntime", path, ": --torch-export FILE ships the same encoder")

    _written(path, write)
    return worst


def torch_export(record: Record, path: Path) -> float:
    """Writes a torch.export file, whole or not at all, from images [n, ...] to features [n, d]; n is free.

    record: of the run. path: NAME.pt2. Returns by how much its features differ from the encoder's own at most, as a
    share of the largest. Raises UserError: an encoder that cannot be traced, more than 1e-4.
    """
    require(path, "--torch-export", ".pt2", record)
    encoder, images = record.encoder.eval(), _images(record, 2)
    free = ({0: torch.export.Dim("batch")},)
    program = _traced(lambda: torch.export.export(encoder, (images,), dynamic_shapes=free), "--torch-export", record)
    worst = 0.0

    def write(temporary: Path) -> None:
        nonlocal worst
        held = io.BytesIO()  # torch's own writer tells of a full disk by a RuntimeError with a C++ stack
        torch.export.save(program, held, extra_files={"infomax.json": json.dumps(_about(record))})
        # Not write_bytes, whose own view outlives an error: from Python 3.13 on, `held` complains of it on stderr.
        with held.getbuffer() as view, temporary.open("wb") as file:
            file.write(view)
        with temporary.open("rb") as file:
            worst = _compared(encoder, torch.export.load(file).module(), record)
        _require_alike(worst, "torch.export", path)

    _written(path, write)
    return worst


def _require_alike(worst: float, who: str, path: Path, instead: str = "") -> None:
    if not worst <= TOLERANCE:  # nor NaN
        raise UserError(
            f"{who}'s features differ from the encoder's by {worst:.1e} of the largest, more than {TOLERANCE:.0e}, so"
            f" {path} is not written{instead}."
        )


def _images(record: Record, count: int) -> Tensor:
    assert record.input_size is not None  # require() has looked
    return torch.rand(count, *record.input_size, generator=torch.Generator().manual_seed(count))


def _about(record: Record) -> dict[str, str]:
    """What a reader of the graph needs to prepare images, as texts."""
    return {
        "images": "values in [0, 1], less mean, divided by std, a number a channel",
        "mean": json.dumps(record.mean),
        "std": json.dumps(record.std),
        "input_size": json.dumps(record.input_size),
        "checkpoint": record.checkpoint.checksum,
    }


@torch.no_grad()
def _compared(encoder: nn.Module, features: Callable[[Tensor], Tensor], record: Record) -> float:
    worst = 0.0
    for count in BATCHES:
        images = _images(record, count)
        own = encoder(images)
        worst = max(worst, float((features(images) - own).abs().max() / own.abs().max().clamp(min=1e-30)))
    return worst


def _traced(trace: Callable[[], Any], option: str, record: Record) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # exporters warn of their own insides
            return trace()
    except ImportError as error:  # of an onnxscript that is older than torch wants
        raise UserError(
            f"{option}: torch {torch.__version__} cannot use the packages that are here ({error}): pip install"
            ' --upgrade "infomax[onnx]".'
        ) from error
    except Exception as error:  # torch raises many kinds, each about what this encoder does
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"{option}: torch cannot trace the encoder of {record.run}"
            f" ({(lines or [type(error).__name__])[0][:200].rstrip('.:')}); --into ships it in timm's form."
        ) from error


def _written(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write_whole(path, write)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({os.strerror(error.errno) if error.errno else error})."
        ) from error
