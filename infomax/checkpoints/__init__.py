"""Checkpoints: run folders, written atomically, read without trusting their content, resumed exactly.

    <run>/run.json              configuration, versions, results (null until finished)
    <run>/log.jsonl             one JSON object a line
    <run>/step-00000150/        a checkpoint: model.safetensors, optimizer.safetensors, state.json, encoder/ (in timm's
                                form) and MANIFEST.json, the sha256 of every file

A step-* folder is whole or damaged from outside, never half-written: it is made under a temporary name, flushed to the
disk and renamed. Nothing is pickled or unpickled: tensors lie in safetensors, the rest in JSON. Every file that is read
is first checked against the manifest. A checkpoint folder can be moved, copied or read alone. Format 2 added sizes to
the manifest and the number of threads to state.json, format 3 says which model it is and with which options; the
older ones are read and their runs go on.

Across processes `open_run`, `Run.save` and `Run.finish` are called by all of them; the main one writes, the others wait
and see its errors. `Run.log` may be called by any: only the main process's lines are written.

opening (a run folder), folder (Run), snapshot (what is written), checkpoint (what is read), loading (models),
description (a model in words), tensors (state without pickle), files (checksums and formats).
"""

from infomax.checkpoints.checkpoint import Checkpoint, latest, read
from infomax.checkpoints.description import build, describe
from infomax.checkpoints.files import DamagedError, UnusableError
from infomax.checkpoints.folder import Run
from infomax.checkpoints.loading import load, load_encoder, read_encoder, read_part, read_parts
from infomax.checkpoints.opening import MAY_DIFFER, default_folder, open_run, save
from infomax.files import write_json

__all__ = [
    "MAY_DIFFER", "Checkpoint", "DamagedError", "Run", "UnusableError", "build", "default_folder", "describe", "latest",
    "load", "load_encoder", "open_run", "read", "read_encoder", "read_part", "read_parts", "save", "write_json",
]  # fmt: skip
