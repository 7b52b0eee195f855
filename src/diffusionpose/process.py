"""What a process of our own may use, and sets up for itself before torch is imported."""

import ctypes
import math
import os
from contextlib import suppress
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container on Linux: microseconds of work in so many of time, or `max`."""


def usable_cores() -> int:
    """Cores that this process may keep busy; those of the machine may be more, for a container or a queue gives a part."""
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS and Windows do not
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such limit
        work, time = map(int, _QUOTA.read_text(encoding="ascii").split())
        cores = min(cores, max(1, math.ceil(work / time)))
    return cores


def prepare_process() -> None:
    """What makes torch's threads and buffers fast in a process of our own; docs/decisions/007-process.md has figures."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read when torch is imported. GNU OpenMP's threads spin for this long, some 30 us, before they sleep.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # No glibc: Windows does not even take None.
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
        mallopt(top_pad, 1 << 26)
