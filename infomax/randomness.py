"""Saves and restores the state of the random generators: Python's, NumPy's, torch's on the CPU and on one GPU."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def torch_state(device: torch.device | None = None) -> dict[str, Any]:
    """torch's generators: the CPU's, and the one of `device` where that is a GPU; None: the GPU in use, if one is."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if device.type == "cuda" if device is not None else torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state(device or "cuda")
    return state


def set_torch_state(state: Mapping[str, Any], device: torch.device | None = None) -> None:
    """What torch_state() took. A GPU's is left out where there is none."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"], device or "cuda")


def random_state() -> dict[str, Any]:
    """torch's generators, numpy's and Python's, as tensors, numbers and text."""
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=True)
    return {
        **torch_state(),
        # int64, since older safetensors know no uint32
        "numpy": {"name": numpy[0], "words": torch.tensor(numpy[1].tolist()), "rest": list(numpy[2:])},
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """What random_state() took."""
    set_torch_state({"torch": state["torch"]})
    numpy = state["numpy"]
    np.random.set_state((numpy["name"], numpy["words"].numpy().astype(np.uint32), *numpy["rest"]))
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    set_torch_state(state)
