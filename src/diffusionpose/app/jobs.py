"""Job queue: runs one job at a time, enforces its limits, and deletes old jobs.

Everything runs in the event loop's thread: `Jobs.tick` is called several times per second and never
blocks on a worker.
"""

import secrets
import shutil
import time
from collections.abc import Callable
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
from diffusionpose.process import resident_bytes

State = Literal["queued", "running", "done", "failed", "cancelled"]
MAX_JOBS = 32
"""Maximum number of jobs that hold files, including uploads in progress."""
MAX_LIMIT = 1e12
"""Maximum value of all limits; larger ones could overflow."""
MAX_SPENT = 256
"""Number of failed and cancelled jobs that are remembered, so that their status can be queried."""


@dataclass(frozen=True)
class AppSettings:
    """Limits of the server, and the model it runs.

    Args:
        max_upload_mb: Maximum size of a video in units of 10^6 bytes.
        keep_minutes: Results are deleted this long after the end of a job.
        time_limit: Maximum run time of a job in seconds.
        memory_limit: Maximum memory of a worker in GiB; enforced on Linux only.
        model: As in `PosePipeline.from_pretrained`.
        device: As in `PosePipeline.from_pretrained`.

    Raises:
        UsageError: If a limit is not positive, or above `MAX_LIMIT`.
    """

    max_upload_mb: float = 500
    keep_minutes: float = 60
    time_limit: float = 3600
    memory_limit: float = 8
    model: str = "tiny"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            # Also rejects NaN, for which comparisons are false.
            if isinstance(value, int | float) and not 0 < value <= MAX_LIMIT:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{option} must be above 0 and at most {MAX_LIMIT:g}, not {value:g}"
                )

    @property
    def max_upload_bytes(self) -> int:
        """Maximum size of a video in bytes."""
        return int(self.max_upload_mb * 1e6)


class JobView(BaseModel):
    """A job as reported to its owner."""

    id: str
    name: str
    state: State
    position: int = 0
    """Number of jobs ahead in the queue."""
    frames: int = 0
    expected_frames: int | None = None
    frames_per_second: float | None = None
    seconds_left: float | None = None
    message: str = ""
    result: Facts | None = None
    deleted_in: float | None = None
    """Seconds until the job is deleted; None until it has ended."""


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    deadline: float


@dataclass
class Job:
    """An upload and the state of its processing."""

    id: str
    name: str
    options: JobOptions
    folder: Path
    state: State = "queued"
    message: str = ""
    progress: Report = field(default_factory=lambda: Report(kind="frames"))
    facts: Facts | None = None
    first: tuple[float, int] | None = None
    """Time of the first report with frames, and their number."""
    rate: float | None = None
    ended: float | None = None

    @property
    def holds_files(self) -> bool:
        """Whether the job has files on disk."""
        return self.state in ("queued", "running", "done")

    @property
    def film(self) -> Path:
        """Path of the annotated video."""
        return self.folder / FILM

    @property
    def archive(self) -> Path:
        """Path of the zip archive of the results."""
        return self.folder / ZIP

    def record_progress(self, report: Report, now: float) -> None:
        """Update the progress and the frame rate from a worker's report."""
        if report.frames > 0 and self.first is None:
            self.first = now, report.frames
        elif self.first is not None and now > self.first[0]:
            self.rate = max(0, report.frames - self.first[1]) / (now - self.first[0]) or None
        self.progress = report

    def seconds_left(self) -> float | None:
        """Estimate the remaining time from the mean frame rate so far; None if unknown."""
        expected, done = self.progress.expected_frames, self.progress.frames
        if self.state != "running" or not self.rate or not expected:
            return None
        return max(0, expected - done) / self.rate


class Jobs:
    """All jobs of a server.

    Args:
        root: Private folder that contains the jobs' folders.
        settings: Limits of the server, and the model it runs.
        work: Function that a worker runs.
        clock: Returns the time in seconds.
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
        """Whether further uploads must be refused."""
        held = sum(job.holds_files for job in self._jobs.values())
        return held + len(self._uploads) >= MAX_JOBS

    def begin_upload(self) -> Path:
        """Make a private folder for an upload; call `add` or `discard_upload` afterwards."""
        folder = self._root / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        self._uploads.add(folder)
        return folder

    def discard_upload(self, folder: Path) -> None:
        """Remove an upload, unless it has become a job."""
        if folder in self._uploads:
            self._uploads.remove(folder)
            _remove(folder)

    def add(self, folder: Path, name: str, options: JobOptions) -> Job:
        """Queue a job for the complete upload in a folder."""
        spent = [job for job in self._jobs.values() if not job.holds_files]
        for old in spent[: len(spent) + 1 - MAX_SPENT]:
            del self._jobs[old.id]
        job = Job(secrets.token_urlsafe(24), name, options, folder)
        self._uploads.remove(folder)
        self._jobs[job.id] = job
        return job

    def find(self, job_id: str) -> Job | None:
        """Find a job by its id, which only its owner knows."""
        return self._jobs.get(job_id)

    def view(self, job: Job) -> JobView:
        """Describe a job for its owner."""
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
        """Cancel a job that is queued or running; others are unchanged."""
        if job.state in ("queued", "running"):
            self._end(job, "cancelled", "Cancelled.")

    def delete(self, job: Job) -> None:
        """Cancel a job if it has not ended, and delete it with its files."""
        self.cancel(job)
        self._jobs.pop(job.id, None)
        _remove(job.folder)

    def close(self) -> None:
        """Stop the worker and delete all jobs and uploads."""
        for job in list(self._jobs.values()):
            self.delete(job)
        for folder in list(self._uploads):
            self.discard_upload(folder)

    def tick(self) -> None:
        """Process reports, enforce limits, start the next job, delete old ones."""
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
            self._end(job, "failed", f"The job could not be started: {error.strerror or error}.")
            return
        finally:
            theirs.close()
        job.state = "running"
        self._working = job
        self._worker = _Worker(
            process, cast("Connection", pipe), self._clock() + settings.time_limit
        )

    def _watch(self, job: Job, worker: _Worker) -> None:
        # Checked before reading the pipe, so that a last report is not missed.
        is_gone = not worker.process.is_alive()
        for report in _reports(worker.pipe):
            if report is None or (report.kind == "done" and report.facts is None):
                self._end(job, "failed", "The job sent an invalid report.")
            elif report.kind == "failed":
                self._end(job, "failed", report.message)
            elif report.kind == "done":
                job.facts = report.facts
                self._end(job, "done", "")
            else:
                job.record_progress(report, self._clock())
            if job.state != "running":
                return
        limits = self.settings
        if is_gone:
            self._end(job, "failed", _why_gone(worker.process.exitcode))
        elif self._clock() > worker.deadline:
            text = f"Stopped: it took longer than the limit of {limits.time_limit:g} seconds."
            self._end(job, "failed", text)
        elif resident_bytes(worker.process.pid) > limits.memory_limit * 2**30:
            text = f"Stopped: it needed more memory than the limit of {limits.memory_limit:g} GiB."
            self._end(job, "failed", text)

    def _end(self, job: Job, state: State, message: str) -> None:
        """Stop the worker; remove the upload, and the results unless the job is done."""
        if job is self._working and self._worker is not None:
            _end_process(self._worker)
            self._worker = self._working = None
        job.state, job.message, job.ended = state, message, self._clock()
        if state == "done" and not (job.film.is_file() and job.archive.is_file()):
            job.state, job.message, job.facts = "failed", "The results are incomplete.", None
        if job.state == "done":
            _remove(job.folder / UPLOAD)
            _remove(job.folder / "results")  # they are in the zip
        else:
            _remove(job.folder)


def _reports(pipe: Connection) -> "list[Report | None]":
    """Read all pending reports; None stands for an invalid one."""
    found: list[Report | None] = []
    try:
        while pipe.poll():
            found.append(Report.model_validate_json(pipe.recv_bytes(MAX_REPORT)))
    except ValidationError:
        found.append(None)
    except (EOFError, OSError):  # the worker is gone, which `_watch` handles
        pass
    return found


def _end_process(worker: _Worker) -> None:
    # It only writes to the job's folder, so killing it leaves nothing to clean up.
    worker.process.kill()
    worker.process.join()
    worker.process.close()
    worker.pipe.close()


def _why_gone(exit_code: int | None) -> str:
    how = f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"code {exit_code}"
    return f"The job ended unexpectedly ({how}). The video may be damaged in an unforeseen way."


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
