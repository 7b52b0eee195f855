"""Parallel processing of videos in worker processes with limits on time and memory.

A process handles one video after another, so that the model is loaded once. If it crashes or is
killed, only its current video is lost, and a new process replaces it. See
docs/decisions/013-batch.md.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from diffusionpose.batch.ledger import LedgerEntry, Status
from diffusionpose.batch.work import (
    Job,
    Load,
    PipelineOptions,
    load_pipeline,
    process,
    remove_temporaries,
)
from diffusionpose.errors import DiffusionPoseError, UsageError, first_line
from diffusionpose.process import prepare_process, resident_bytes, usable_cores

Work = Callable[[Job, Load], LedgerEntry]
GIB = 1 << 30
POLL_SECONDS = 0.1
"""Interval between checks of time and memory."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Limits:
    """Limits for one video; None is no limit.

    Args:
        seconds: Processing time, from opening the video to the last file, without loading the
            model.
        gib: Resident memory of its process in GiB, including the model. Linux only.

    Raises:
        UsageError: If a limit is not positive, or memory cannot be monitored on this system.
    """

    seconds: float | None = None
    gib: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("--time-limit", self.seconds), ("--memory-limit", self.gib)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name} must be positive, not {value:g}")
        if self.gib is not None and not Path("/proc/self/statm").exists():
            raise UsageError("--memory-limit needs Linux with /proc: leave it out")


def default_number() -> int:
    """Default number of parallel videos: one per two usable cores."""
    return max(1, usable_cores() // 2)


class Workers:
    """Pool of worker processes.

    Args:
        number: Number of processes.
        limits: Of each job.
        work: Function that processes a job; importable by name.
    """

    def __init__(self, number: int, limits: Limits, work: Work = process) -> None:
        self._number, self._limits, self._work = number, limits, work
        self._workers: list[_Worker] = []

    def run(self, jobs: Iterable[Job]) -> Generator[tuple[Job, LedgerEntry], None, None]:
        """Yield jobs with their outcomes as they end; `jobs` is consumed as workers become idle.

        Closing the generator, or an error, stops all processes and removes incomplete files.

        Raises:
            DiffusionPoseError: If no job can succeed: the options are impossible, or the model is
                broken.
        """
        waiting = iter(jobs)
        try:
            while True:
                self._hand_out(waiting)
                if not any(worker.job for worker in self._workers):
                    return
                for worker in self._ready():
                    yield from self._receive(worker)
                for worker in [one for one in self._workers if one.job]:
                    yield from self._watch(worker)
        finally:
            for worker in list(self._workers):
                self._end(worker)

    def kill(self) -> None:
        """Kill all processes; `run`, in another thread, reports their jobs as crashed."""
        for worker in list(self._workers):
            worker.kill()

    def _hand_out(self, waiting: Iterator[Job]) -> None:
        for worker in [one for one in self._workers if not one.job]:
            if not worker.process.is_alive() or self._is_near_memory_limit(worker):
                self._end(worker)
        while True:
            idle = next((worker for worker in self._workers if not worker.job), None)
            if idle is None and len(self._workers) == self._number:
                return
            job = next(waiting, None)
            if job is None:
                return
            if idle is None:
                idle = _Worker(self._work, self._limits)
                self._workers.append(idle)
                idle.start()
            idle.give(job)

    def _ready(self) -> list["_Worker"]:
        """Wait for workers that have sent a message or died."""
        is_limited = self._limits != Limits()
        heard = wait(
            [worker.connection for worker in self._workers], POLL_SECONDS if is_limited else None
        )
        return [worker for worker in self._workers if worker.connection in heard]

    def _receive(self, worker: "_Worker") -> Iterator[tuple[Job, LedgerEntry]]:
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            yield from self._lost(worker, "crashed", _why_ended(worker.process.exitcode))
            return
        if kind == "impossible":
            message, code = content
            error = DiffusionPoseError(message)
            error.exit_code = code
            raise error
        if kind == "broken":
            yield from self._lost(worker, "crashed", content)
        elif kind == "done":
            assert worker.job is not None
            job, worker.job = worker.job, None
            yield job, content
        else:
            worker.set_clock(runs=kind == "working")

    def _watch(self, worker: "_Worker") -> Iterator[tuple[Job, LedgerEntry]]:
        limits = self._limits
        if worker.connection.poll():
            return  # it may be done
        if worker.is_late() and limits.seconds is not None:
            yield from self._lost(worker, "timeout", f"not done after {limits.seconds:g} seconds")
        elif limits.gib is not None and worker.memory() > limits.gib * GIB:
            yield from self._lost(worker, "crashed", f"took more than {limits.gib:g} GiB of memory")

    def _is_near_memory_limit(self, worker: "_Worker") -> bool:
        """Whether memory left over from earlier videos would count against the next one."""
        limit = self._limits.gib
        return limit is not None and worker.memory() > limit * GIB / 2

    def _lost(
        self, worker: "_Worker", status: Status, message: str
    ) -> Iterator[tuple[Job, LedgerEntry]]:
        job, seconds = worker.job, round(time.monotonic() - worker.since, 3)
        self._end(worker)
        if job is not None:
            yield job, LedgerEntry(job.source.name, status, message=message, seconds=seconds)

    def _end(self, worker: "_Worker") -> None:
        self._workers.remove(worker)
        worker.end()


class _Worker:
    """One worker process and its current job."""

    def __init__(self, work: Work, limits: Limits) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # threads of the parent do not survive a fork
        self.connection, self._other = context.Pipe()
        self.process = context.Process(target=_serve, args=(self._other, work), daemon=True)
        self.job: Job | None = None
        self.since = time.monotonic()
        self._limits = limits
        self._deadline: float | None = None
        self._is_working = False

    def start(self) -> None:
        """Start the process with signals blocked.

        The parent must not be interrupted before it knows its child, and only the parent handles
        Ctrl-C.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._other.close()

    def give(self, job: Job) -> None:
        """Assign a job; if the process has died, this is noticed when its connection is read."""
        self.job, self.since = job, time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(job)
        self.set_clock(runs=self._is_working)

    def set_clock(self, *, runs: bool) -> None:
        """Restart the clock of a job, or stop it while the process loads the model."""
        self._is_working, seconds = runs, self._limits.seconds
        self.since = time.monotonic()
        self._deadline = self.since + seconds if runs and seconds is not None else None

    def is_late(self) -> bool:
        """Whether the job has exceeded its time limit."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def memory(self) -> int:
        """Resident memory in bytes; 0 if the process is gone."""
        return resident_bytes(self.process.pid)

    def kill(self) -> None:
        """Kill the process if it has been started."""
        if self.process.pid is not None:
            self.process.kill()

    def end(self) -> None:
        """Kill the process and remove incomplete files of its job."""
        if self.process.pid is not None:
            self.kill()
            self.process.join()
        self.connection.close()
        self._other.close()
        if self.job is not None:
            remove_temporaries(self.job.out, [self.job.stem])
            self.job = None


def _why_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process exited with code {code}"


def _serve(connection: Connection, work: Work) -> None:
    """Main function of a worker process: processes jobs until the parent is gone."""
    # SIGINT stays blocked; SIGTERM may be used to kill a single video.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    _die_with_parent()
    prepare_process()
    loaded: dict[PipelineOptions, Any] = {}

    def load(options: PipelineOptions) -> Any:
        """Load the pipeline with the job's clock stopped."""
        if options not in loaded:
            connection.send(("loading", None))
            loaded[options] = load_pipeline(options)
            connection.send(("working", None))
        return loaded[options]

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        connection.send(("working", None))
        while True:
            connection.send(_answer(work, connection.recv(), load))


def _answer(work: Work, job: Job, load: Load) -> tuple[str, Any]:
    try:
        return "done", work(job, load)
    except DiffusionPoseError as error:
        return "impossible", (str(error), error.exit_code)
    except (BrokenPipeError, ConnectionResetError):
        raise  # the parent is gone
    # No error of one video may stop the others. The parent ends this process, as its state is
    # unknown.
    except Exception as error:  # noqa: BLE001
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "broken", f"{type(error).__name__} in {where}: {first_line(error)}"


def _die_with_parent() -> None:
    """On Linux, ask to be killed when the parent dies, which may be killed without cleaning up."""
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:
            os._exit(1)
