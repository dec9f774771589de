"""One thread for BLAS, where products are many and small."""

import functools
from contextlib import AbstractContextManager
from typing import Any


def one_blas_thread() -> AbstractContextManager[Any]:
    """NumPy's and SciPy's BLAS take one thread while this is entered.

    Small products gain little from more, and beside other work on the same cores threads that wait for each other were
    measured ten times slower. It also keeps the order of sums the same on every machine.
    """
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache  # a look through all libraries of a process takes most of a millisecond, and an estimate asks 60 times
def _libraries() -> Any:
    import scipy.linalg  # noqa: F401 - its BLAS is another than NumPy's, and has to be there to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
