"""CPU cores and memory of processes, and setup before torch is imported."""

import ctypes
import math
import os
from contextlib import suppress
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""CPU quota of a Linux container: microseconds of CPU time per period (or `max`), and the
period."""


def usable_cores() -> int:
    """Number of cores that this process may use, given its CPU affinity and container quota."""
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS and Windows do not
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such limit
        work, time = map(int, _QUOTA.read_text(encoding="ascii").split())
        cores = min(cores, max(1, math.ceil(work / time)))
    return cores


def resident_bytes(pid: int | None) -> int:
    """Resident memory of a process in bytes; 0 if there is no /proc or the process is gone."""
    with suppress(OSError, IndexError, ValueError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def prepare_process() -> None:
    """Tune OpenMP threads and malloc for torch; docs/decisions/007-process.md has measurements."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read when torch is imported: GNU OpenMP threads spin this long, some 30 us, before
        # sleeping.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Without glibc there is no mallopt; on Windows, CDLL(None) itself fails.
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
        mallopt(top_pad, 1 << 26)
