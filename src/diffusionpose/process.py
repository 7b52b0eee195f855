"""What a process of our own does before torch is imported."""

import ctypes
import os
from contextlib import suppress


def prepare_process() -> None:
    """What makes torch's threads and buffers fast in a process of our own; docs/decisions/007-process.md has figures."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read when torch is imported. GNU OpenMP's threads spin for this long, some 30 us, before they sleep.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    with suppress(AttributeError, OSError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
        mallopt(top_pad, 1 << 26)
