"""One thread for work on small matrices, where threads cost more than they do.

With two pools at once (torch's and NumPy's) waiting for each other, spectra of one adapter took 12
times the processor time of one thread, on two cores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_inside: list[int] = []  # threads that torch had before each block that is still running


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread for a while; blocks may overlap, the last one restores.

    NumPy's own threads are set by the environment only (``OPENBLAS_NUM_THREADS``).

    Examples:
        >>> before = torch.get_num_threads()
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
        >>> torch.get_num_threads() == before
        True
    """
    with _lock:
        _inside.append(torch.get_num_threads() if not _inside else _inside[0])
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                torch.set_num_threads(before)
