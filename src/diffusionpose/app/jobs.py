"""Jobs: one works, the others wait their turn; all are watched, and removed when their time has come.

Everything here runs in one thread, the event loop's: `Jobs.tick` is called some times a second and never waits.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ValidationError

from diffusionpose.app.options import JobOptions, file_name
from diffusionpose.app.worker import (
    FILM,
    MAX_REPORT,
    UPLOAD,
    ZIP,
    Facts,
    Report,
    Work,
    WorkOrder,
    run_order,
)
from diffusionpose.errors import UsageError

State = Literal["queued", "running", "done", "failed", "cancelled"]
MAX_JOBS = 32
"""Jobs, uploads on their way included, that are there at a time."""
MAX_LIMIT = 1e12
"""Of all settings; what is beyond is meant as no limit, and could not be counted with."""
MAX_SPENT = 256
"""Failed and cancelled jobs that are remembered, to say what became of them."""


@dataclass(frozen=True)
class AppSettings:
    """Limits, and what is run.

    Args:
        max_upload_mb: Of one video, in units of 10^6 bytes.
        keep_minutes: Results are deleted so long after a job's end.
        time_limit: Seconds that a job may work.
        memory_limit: GiB of memory that a worker may hold; heeded on Linux.
        model: As `PosePipeline.from_pretrained` takes it.
        device: Likewise.

    Raises:
        UsageError: If a limit is none.
    """

    max_upload_mb: float = 500
    keep_minutes: float = 60
    time_limit: float = 3600
    memory_limit: float = 8
    model: str = "tiny"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            # Not a number is in no range.
            if isinstance(value, int | float) and not 0 < value <= MAX_LIMIT:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{option} must be above 0 and no more than {MAX_LIMIT:g}, not {value:g}"
                )

    @property
    def max_upload_bytes(self) -> int:
        """Of one video."""
        return int(self.max_upload_mb * 1e6)


class JobView(BaseModel):
    """A job as its owner sees it."""

    id: str
    name: str
    state: State
    position: int = 0
    """Jobs before it."""
    frames: int = 0
    expected_frames: int | None = None
    frames_per_second: float | None = None
    seconds_left: float | None = None
    message: str = ""
    result: Facts | None = None
    deleted_in: float | None = None
    """Seconds."""


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    deadline: float


@dataclass
class Job:
    """An upload and what becomes of it."""

    id: str
    name: str
    options: JobOptions
    folder: Path
    state: State = "queued"
    message: str = ""
    progress: Report = field(default_factory=lambda: Report(kind="frames"))
    facts: Facts | None = None
    first: tuple[float, int] | None = None
    """When frames were first reported, and how many."""
    rate: float | None = None
    ended: float | None = None

    @property
    def holds_files(self) -> bool:
        """Whether it takes room on the disk."""
        return self.state in ("queued", "running", "done")

    @property
    def film(self) -> Path:
        """The annotated video."""
        return self.folder / FILM

    @property
    def archive(self) -> Path:
        """The zip."""
        return self.folder / ZIP

    def heed(self, report: Report, now: float) -> None:
        """Takes in how far the worker is."""
        if report.frames > 0 and self.first is None:
            self.first = now, report.frames
        elif self.first is not None and now > self.first[0]:
            self.rate = max(0, report.frames - self.first[1]) / (now - self.first[0]) or None
        self.progress = report

    def seconds_left(self) -> float | None:
        """By the mean rate so far."""
        expected, done = self.progress.expected_frames, self.progress.frames
        if self.state != "running" or not self.rate or not expected:
            return None
        return max(0, expected - done) / self.rate


class Jobs:
    """All jobs of a server.

    Args:
        root: Private folder; a job's folder is in it.
        settings: Limits, and what is run.
        work: What a worker does.
        clock: Seconds.
    """

    def __init__(
        self,
        root: Path,
        settings: AppSettings,
        work: Work,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self.settings, self._work, self._clock = root, settings, work, clock
        self._jobs: dict[str, Job] = {}
        self._uploads: set[Path] = set()
        self._worker: _Worker | None = None
        self._working: Job | None = None

    def is_full(self) -> bool:
        """Whether no further upload is taken."""
        held = sum(job.holds_files for job in self._jobs.values())
        return held + len(self._uploads) >= MAX_JOBS

    def begin_upload(self) -> Path:
        """A private folder of its own; then `add` or `discard_upload`."""
        folder = self._root / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        self._uploads.add(folder)
        return folder

    def discard_upload(self, folder: Path) -> None:
        """Removes what came of an upload, unless it has become a job."""
        if folder in self._uploads:
            self._uploads.remove(folder)
            _remove(folder)

    def add(self, folder: Path, name: str, options: JobOptions) -> Job:
        """The complete upload in a folder becomes a job and waits its turn."""
        spent = [job for job in self._jobs.values() if not job.holds_files]
        for old in spent[: len(spent) + 1 - MAX_SPENT]:
            del self._jobs[old.id]
        job = Job(secrets.token_urlsafe(24), name, options, folder)
        self._uploads.remove(folder)
        self._jobs[job.id] = job
        return job

    def find(self, job_id: str) -> Job | None:
        """A job by its id, which only its owner knows."""
        return self._jobs.get(job_id)

    def view(self, job: Job) -> JobView:
        """What its owner may know."""
        keep = 60 * self.settings.keep_minutes
        return JobView(
            id=job.id,
            name=job.name,
            state=job.state,
            position=self._position(job),
            frames=job.progress.frames,
            expected_frames=job.progress.expected_frames,
            frames_per_second=job.rate,
            seconds_left=job.seconds_left(),
            message=job.message,
            result=job.facts,
            deleted_in=None if job.ended is None else max(0, job.ended + keep - self._clock()),
        )

    def _position(self, job: Job) -> int:
        waiting = [other for other in self._jobs.values() if other.state in ("queued", "running")]
        return next((n for n, other in enumerate(waiting) if other is job), 0)

    def cancel(self, job: Job) -> None:
        """Ends a job that waits or works; another stays as it is."""
        if job.state in ("queued", "running"):
            self._end(job, "cancelled", "Cancelled.")

    def delete(self, job: Job) -> None:
        """Ends a job if need be, and removes everything of it."""
        self.cancel(job)
        self._jobs.pop(job.id, None)
        _remove(job.folder)

    def close(self) -> None:
        """Ends the worker and removes everything."""
        for job in list(self._jobs.values()):
            self.delete(job)
        for folder in list(self._uploads):
            self.discard_upload(folder)

    def tick(self) -> None:
        """Hears the worker, heeds the limits, starts the next job, removes old ones."""
        if self._working is not None and self._worker is not None:
            self._watch(self._working, self._worker)
        if self._working is None:
            waiting = (job for job in self._jobs.values() if job.state == "queued")
            if (job := next(waiting, None)) is not None:
                self._start(job)
        oldest = self._clock() - 60 * self.settings.keep_minutes
        for job in [j for j in self._jobs.values() if j.ended is not None and j.ended <= oldest]:
            self.delete(job)

    def _start(self, job: Job) -> None:
        settings, name = self.settings, file_name(job.name)
        order = WorkOrder(job.folder, name, job.options, settings.model, settings.device)
        context = get_context("spawn")
        pipe, theirs = context.Pipe(duplex=False)
        process = context.Process(target=run_order, args=(self._work, order, theirs), daemon=True)
        try:
            process.start()
        except OSError as error:
            pipe.close()
            self._end(job, "failed", f"The work could not be started: {error.strerror or error}.")
            return
        finally:
            theirs.close()
        job.state = "running"
        self._working = job
        self._worker = _Worker(
            process, cast("Connection", pipe), self._clock() + settings.time_limit
        )

    def _watch(self, job: Job, worker: _Worker) -> None:
        # Asked before the pipe is emptied, so that a last report is not missed.
        is_gone = not worker.process.is_alive()
        for report in _reports(worker.pipe):
            if report is None or (report.kind == "done" and report.facts is None):
                self._end(job, "failed", "The work ended with an answer that makes no sense.")
            elif report.kind == "failed":
                self._end(job, "failed", report.message)
            elif report.kind == "done":
                job.facts = report.facts
                self._end(job, "done", "")
            else:
                job.heed(report, self._clock())
            if job.state != "running":
                return
        limits = self.settings
        if is_gone:
            self._end(job, "failed", _why_gone(worker.process.exitcode))
        elif self._clock() > worker.deadline:
            text = f"Stopped: it took longer than the {limits.time_limit:g} seconds allowed here."
            self._end(job, "failed", text)
        elif _memory_of(worker.process.pid) > limits.memory_limit * 2**30:
            text = f"Stopped: it needed more than the {limits.memory_limit:g} GiB of memory allowed here."
            self._end(job, "failed", text)

    def _end(self, job: Job, state: State, message: str) -> None:
        """The worker is ended; the upload, and the results of what is not done, are removed."""
        if job is self._working and self._worker is not None:
            _end_process(self._worker)
            self._worker = self._working = None
        job.state, job.message, job.ended = state, message, self._clock()
        if state == "done" and not (job.film.is_file() and job.archive.is_file()):
            job.state, job.message, job.facts = "failed", "The results are not complete.", None
        if job.state == "done":
            _remove(job.folder / UPLOAD)
            _remove(job.folder / "results")  # the zip has them
        else:
            _remove(job.folder)


def _reports(pipe: Connection) -> "list[Report | None]":
    """What has come; None stands for what is no report."""
    found: list[Report | None] = []
    try:
        while pipe.poll():
            found.append(Report.model_validate_json(pipe.recv_bytes(MAX_REPORT)))
    except ValidationError:
        found.append(None)
    except (EOFError, OSError):  # the other end is gone: `_watch` sees to it
        pass
    return found


def _end_process(worker: _Worker) -> None:
    # Everything that it writes lies in the job's folder, so there is nothing that it would have to clean up.
    worker.process.kill()
    worker.process.join()
    worker.process.close()
    worker.pipe.close()


def _why_gone(exit_code: int | None) -> str:
    how = f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"code {exit_code}"
    return f"The work broke off unexpectedly ({how}). The video may be damaged in a way that is not foreseen."


def _memory_of(pid: int | None) -> int:
    """Bytes that a process holds; 0 where there is no /proc, or the process is gone."""
    with suppress(OSError, IndexError, ValueError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
