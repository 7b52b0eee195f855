"""Several videos side by side, each in a process that is ended when it takes too long, too much memory, or dies.

A process serves one video after another, so that the model is loaded once; when it is ended, only its video is lost and
another takes its place. Why so: docs/decisions/013-batch.md.
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
from diffusionpose.process import prepare_process, usable_cores

Work = Callable[[Job, Load], LedgerEntry]
GIB = 1 << 30
POLL_SECONDS = 0.1
"""Between looks at clocks and memory."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Limits:
    """Of one video; None is no limit.

    Args:
        seconds: From its opening to its last file; loading the model does not count.
        gib: Resident memory of its process, model included. Needs Linux.

    Raises:
        UsageError: If one is not positive, or memory cannot be watched here.
    """

    seconds: float | None = None
    gib: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("--time-limit", self.seconds), ("--memory-limit", self.gib)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name} must be positive, not {value:g}")
        if self.gib is not None and not Path("/proc/self/statm").exists():
            raise UsageError("--memory-limit needs Linux: it reads /proc")


def default_number() -> int:
    """Of videos side by side here: one for two cores that may be used."""
    return max(1, usable_cores() // 2)


class Workers:
    """Processes that do jobs.

    Args:
        number: How many at a time.
        limits: Of each job.
        work: What a job is; importable by name.
    """

    def __init__(self, number: int, limits: Limits, work: Work = process) -> None:
        self._number, self._limits, self._work = number, limits, work
        self._there: list[_Worker] = []

    def run(self, jobs: Iterable[Job]) -> Generator[tuple[Job, LedgerEntry], None, None]:
        """Jobs with what became of them, as they end; the next is taken from `jobs` when there is a process for it.

        Closing the generator, or an error, ends all processes; nothing half-written stays.

        Raises:
            DiffusionPoseError: If no job can be done: the options are impossible, or the model is broken.
        """
        waiting = iter(jobs)
        try:
            while True:
                self._hand_out(waiting)
                if not any(worker.job for worker in self._there):
                    return
                for worker in self._ready():
                    yield from self._hear(worker)
                for worker in [one for one in self._there if one.job]:
                    yield from self._watch(worker)
        finally:
            for worker in list(self._there):
                self._end(worker)

    def kill(self) -> None:
        """Kills all processes, while `run` is at work in another thread: it says that their jobs crashed."""
        for worker in list(self._there):
            worker.kill()

    def _hand_out(self, waiting: Iterator[Job]) -> None:
        for worker in [one for one in self._there if not one.job]:
            if not worker.process.is_alive() or self._is_swollen(worker):
                self._end(worker)
        while True:
            idle = next((worker for worker in self._there if not worker.job), None)
            if idle is None and len(self._there) == self._number:
                return
            job = next(waiting, None)
            if job is None:
                return
            if idle is None:
                idle = _Worker(self._work, self._limits)
                self._there.append(idle)
                idle.start()
            idle.give(job)

    def _ready(self) -> list["_Worker"]:
        """Those that have said something, or died."""
        is_limited = self._limits != Limits()
        heard = wait(
            [worker.connection for worker in self._there], POLL_SECONDS if is_limited else None
        )
        return [worker for worker in self._there if worker.connection in heard]

    def _hear(self, worker: "_Worker") -> Iterator[tuple[Job, LedgerEntry]]:
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

    def _is_swollen(self, worker: "_Worker") -> bool:
        """Memory that earlier videos left must not count against the next one."""
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
        self._there.remove(worker)
        worker.end()


class _Worker:
    """One process, and what it is at."""

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
        """With signals held back: the parent must know of what it starts, and a terminal's Ctrl-C is for the parent."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._other.close()

    def give(self, job: Job) -> None:
        """Hands over a job; a process that died meanwhile is found out when it is listened to."""
        self.job, self.since = job, time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(job)
        self.set_clock(runs=self._is_working)

    def set_clock(self, *, runs: bool) -> None:
        """Starts a job's clock anew, or stops it while the process prepares itself."""
        self._is_working, seconds = runs, self._limits.seconds
        self.since = time.monotonic()
        self._deadline = self.since + seconds if runs and seconds is not None else None

    def is_late(self) -> bool:
        """Whether its job has had its time."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def memory(self) -> int:
        """Resident bytes, 0 when it is gone."""
        try:
            fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        except OSError:
            return 0
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0

    def kill(self) -> None:
        """Kills the process, if it has been started."""
        if self.process.pid is not None:
            self.process.kill()

    def end(self) -> None:
        """Kills the process and removes what its job left half-written."""
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
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def _serve(connection: Connection, work: Work) -> None:
    """The process: does jobs until its parent is gone."""
    # Ctrl-C stays held back; SIGTERM is for whoever wants to end this one video.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    _die_with_parent()
    prepare_process()
    loaded: dict[PipelineOptions, Any] = {}

    def load(options: PipelineOptions) -> Any:
        """Stops the clock meanwhile."""
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
    # Whatever it is: one video must not sink the others. The parent ends this process, whose state nobody knows.
    except Exception as error:  # noqa: BLE001
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "broken", f"{type(error).__name__} in {where}: {first_line(error)}"


def _die_with_parent() -> None:
    """Where the system has it: a parent that was killed cannot end its processes."""
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:
            os._exit(1)
