"""A user's arrays as tensors [n, ...] of numbers that torch computes with; what is no array of numbers is refused."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError

WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}  # of which torch computes little


def tensor_of(name: str, given: Any) -> Tensor:
    """One side [n, ...] on the CPU. name: "x" or "y", for the sentences.

    Raises UserError: a sparse matrix, dates, texts, objects, an iterator, a single number, complex numbers, types of
    8 bits or of more than 64, no rows.
    """
    tensor = _of_torch(name, given) if isinstance(given, Tensor) else _of_array(name, given)
    if tensor.ndim == 0:
        raise UserError(f"x and y are arrays of rows, [n, ...], and {name} is a single number.")
    return tensor


def require_finite(name: str, rows: Tensor) -> None:
    """Raises UserError for rows [n, d] with NaN or infinity: how many, which, and what there is to do."""
    bad = (~rows.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        told = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        choice = ", or leave out rows with NaN (im.estimate's missing='drop')" if bool(rows.isnan().any()) else ""
        raise UserError(f"{name} has NaN or infinity in {len(bad)} of {len(rows)} rows ({told}): repair them{choice}.")


def never_changes(name: str, shown: str = "") -> UserError:
    """The error of a side, or of what is given, that is the same in every row. shown: its columns."""
    if name.startswith("given"):
        return UserError(f"{name}{shown} is the same in every row, so that I(X; Y | Z) is I(X; Y): leave it out.")
    return UserError(f"{name}{shown} is the same in every row, so its MI with anything is 0: nothing to estimate.")


def _codes(given: Any) -> Any:
    """The numbers of a categorical's classes, as tables hold them; None of all else."""
    of = getattr(given, "cat", given) if hasattr(given, "dtype") else None
    return getattr(of, "codes", None) if hasattr(of, "categories") else None


def _of_torch(name: str, given: Tensor) -> Tensor:
    kind = str(given.dtype).removeprefix("torch.")
    if given.is_nested or given.layout != torch.strided:
        raise UserError(f"{name} is a sparse or nested tensor: give {name}.to_dense(), or rows of one length.")
    if given.is_meta:
        raise UserError(f"{name} is on the meta device, which holds no numbers: give the numbers.")
    if given.is_complex():
        raise UserError(f"{name} is complex: give real and imaginary parts as columns.")
    if given.is_quantized or (given.is_floating_point() and given.dtype.itemsize < 2):
        raise UserError(f"{name} is of type {kind}, which is for storage: give {name}.float() (or its dequantize()).")
    tensor = given.detach().cpu()
    if tensor.dtype == torch.uint64:
        return _whole(name, tensor.numpy())
    return tensor.to(WIDER.get(tensor.dtype, tensor.dtype))


def _of_array(name: str, given: Any) -> Tensor:
    _require_rows(name, given)
    if (codes := _codes(given)) is not None:
        given = np.asarray(codes).astype(np.int64)
        if (given < 0).any():
            raise UserError(f"{name} has {int((given < 0).sum())} missing values: leave those rows out, or fill them.")
    if np.ma.is_masked(given):
        raise UserError(f"{name} is masked in places: fill them, or leave those rows out (missing='drop').")
    try:
        array = np.asarray(given)
    except Exception as error:  # whatever a container of the user's raises
        raise UserError(f"{name} is no array of rows of one length: {error}.") from None
    kind = array.dtype.kind
    if kind in "OUST":
        array = _of_objects(name, array)
    elif kind in "mM":
        raise UserError(
            f"{name} holds {'dates' if kind == 'M' else 'durations'} ({array.dtype}): numbers are needed; give, say, "
            f"({name} - {name}.min()) / numpy.timedelta64(1, 's')"
            + (", seconds since the first." if kind == "M" else ", seconds.")
        )
    elif kind == "c":
        raise UserError(f"{name} is complex: give real and imaginary parts as columns, as numbers are needed.")
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise UserError(f"{name} is of type {array.dtype}: numbers are needed, of 64 bits at most.")
    if array.dtype == np.uint64:
        return _whole(name, array)
    tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    return tensor.to(WIDER.get(tensor.dtype, tensor.dtype))


def _require_rows(name: str, given: Any) -> None:
    """Refuses what numpy would wrap into an object instead of reading its rows."""
    kind = type(given).__name__
    if hasattr(given, "toarray") and hasattr(given, "nnz"):
        raise UserError(
            f"{name} is a sparse matrix ({kind}): give {name}.toarray(), or the few columns that matter of it."
        )
    if given is None:
        raise UserError(f"{name} is None: arrays of rows, [n, ...], are needed.")
    if hasattr(given, "__next__"):
        raise UserError(f"{name} is an iterator ({kind}), which is read once and has no length: give list({name}).")
    if isinstance(given, (str, bytes)):
        raise UserError(f"{name} is a text: numbers are needed; to read a file use numpy.load or numpy.loadtxt.")
    if isinstance(given, (set, frozenset, dict)):
        raise UserError(f"{name} is a {kind}, whose entries are no rows in order: give an array [n, ...].")
    numbers = isinstance(given, (int, float, complex, np.generic))
    if not (numbers or hasattr(given, "__array__") or hasattr(given, "__len__")):
        raise UserError(f"{name} is of type {kind}, and arrays of rows of numbers, [n, ...], are needed.")


def _of_objects(name: str, array: np.ndarray) -> np.ndarray:
    """The numbers of an array of objects that are numbers, as tables make of mixed columns."""
    if array.dtype.kind == "O":
        odd = [
            each for each in array.flat if not isinstance(each, (bool, int, float, np.bool_, np.integer, np.floating))
        ]
        if not odd:
            return np.array(array.tolist())
        missing = sum(each is None for each in odd)
        if missing:
            raise UserError(
                f"{name} has {missing} missing values (None): fill them, or leave those rows out (missing='drop')."
            )
        first = f"a {type(odd[0]).__name__}"
    else:
        first = "texts"
    raise UserError(
        f"{name} holds {first} ({array.dtype}), and numbers are needed; names of classes become numbers by "
        f"numpy.unique({name}, return_inverse=True)[1]."
    )


def _whole(name: str, array: np.ndarray) -> Tensor:
    if array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise UserError(f"{name} has whole numbers beyond 2^63: give floating-point numbers if they are quantities.")
    return torch.from_numpy(array.astype(np.int64))
