"""infomax export and infomax push: the encoder of a saved run, given away with a card that says what it is worth."""

import json as _json
import tempfile
from pathlib import Path

from infomax.errors import UserError


def export(
    run: Path,
    /,
    into: Path | None = None,
    onnx: Path | None = None,
    torch_export: Path | None = None,
    part: str | None = None,
    license: str | None = None,
    json: bool = False,
) -> None:
    """Write the encoder of a saved run in timm's own form with a model card, as an ONNX file, or by torch.export.

    timm.create_model("local-dir:FOLDER", pretrained=True) then gives the same features. The card, README.md, has the
    run's command, data, probes, mutual information, health and limits. Nothing is measured anew.

    Args:
        run: The folder of a run, checkpoints/NAME, or of one checkpoint.
        into: The folder to make: config.json, model.safetensors, README.md. One that holds something is refused.
        onnx: A file to write, NAME.onnx, checked by onnxruntime to 1e-4. Needs pip install "infomax[onnx]".
        torch_export: A file to write, NAME.pt2, which torch.export.load reads.
        part: Of a model of two encoders: encoder_x or encoder_y. By default the first.
        license: A license's identifier for the card, such as apache-2.0 or mit. By default the card names none.
        json: Print one JSON object, and nothing else.
    """
    if into is None and onnx is None and torch_export is None:
        raise UserError("Say what to write: --into FOLDER (timm's form), --onnx NAME.onnx or --torch-export NAME.pt2.")
    if into is not None:
        from infomax.ship.folder import require_empty

        require_empty(into)  # before a second is spent on torch
    from infomax.ship import folder, graphs
    from infomax.ship.card import features_in_words, needs_import
    from infomax.ship.record import read

    record = read(run, part)
    # All that can be refused is refused before anything is written.
    if into is not None:
        folder.require(into, record)
    if onnx is not None:
        graphs.require(onnx, "--onnx", ".onnx", record)
        graphs.require_onnx()
    if torch_export is not None:
        graphs.require(torch_export, "--torch-export", ".pt2", record)
    written: dict[str, object] = {
        "checkpoint": {"step": record.checkpoint.step, "checksum": record.checkpoint.checksum}
    }
    lines = [f"The encoder of {run} after step {record.checkpoint.step}, {features_in_words(record)}"]
    if into is not None:
        folder.write(into, record, license=license)
        written["into"] = str(into)
        lines.append(f'{into}/: timm.create_model("local-dir:{into}", pretrained=True) gives the same features, to 0')
        if record.config is not None and needs_import(record.config["name"]):
            lines.append(f"  after import infomax.encoders, which registers {record.config['name']} with timm")
        lines.append(f"{into / 'README.md'}: the model card; read it before you give it away")
    if onnx is not None:
        worst = graphs.onnx(record, onnx)
        written["onnx"] = {"file": str(onnx), "difference": worst}
        lines.append(f"{onnx}: onnxruntime's features differ by {worst:.0e} of the largest at most")
    if torch_export is not None:
        worst = graphs.torch_export(record, torch_export)
        written["torch_export"] = {"file": str(torch_export), "difference": worst}
        lines.append(f"{torch_export}: torch.export.load's features differ by {worst:.0e} of the largest at most")
    print(_json.dumps(written) if json else "\n".join(lines))


def push(
    run: Path,
    /,
    to: str,
    dry_run: bool = False,
    into: Path | None = None,
    private: bool = False,
    part: str | None = None,
    license: str | None = None,
) -> None:
    """Send the encoder of a saved run, in timm's own form with a model card, to the Hugging Face Hub.

    timm.create_model("hf-hub:USER/NAME", pretrained=True) then gives the same features, to anyone who may read it. The
    token is that of `hf auth login`, or HF_TOKEN; HF_ENDPOINT names another hub.

    Args:
        run: The folder of a run, checkpoints/NAME, or of one checkpoint.
        to: The repository, USER/NAME; it is made if it is not there. Its files of these names are replaced.
        dry_run: Write the folder and say what would be sent; nothing is sent and no network is needed.
        into: The folder to keep what is sent in. By default, with --dry-run NAME in this folder, else none is kept.
        private: Make the repository private. To one that is there and public nothing is sent.
        part: Of a model of two encoders: encoder_x or encoder_y. By default the first.
        license: A license's identifier for the card, such as apache-2.0 or mit. By default the card names none.
    """
    from infomax.ship import hub

    hub.require_name(to)
    if not dry_run:
        hub.require_token()
    from infomax.ship import folder
    from infomax.ship.record import read

    kept = Path(to.partition("/")[2]) if into is None and dry_run else into
    if kept is not None:
        folder.require_empty(kept)
    record = read(run, part)
    with tempfile.TemporaryDirectory(prefix="infomax-") as temporary:
        place = Path(temporary) / to.partition("/")[2] if kept is None else kept
        folder.write(place, record, place=f"hf-hub:{to}", license=license)
        sizes = [f"{name} ({(place / name).stat().st_size:,} bytes)" for name in folder.FILES]
        if dry_run:
            print(f"Written to {place}: {', '.join(sizes)}.")
            print(f"Nothing was sent. Without --dry-run these files go to {hub.endpoint()}/{to} in one commit"
                  f"{', and a repository that is made is private' if private else ''}.")  # fmt: skip
            return
        step = record.checkpoint.step
        address = hub.upload(place, to, private, f"infomax: {record.run.resolve().name} after step {step}")
    print(f"Sent to {address}: {', '.join(sizes)}.")
    print(f'timm.create_model("hf-hub:{to}", pretrained=True) reads it.')
