"""Parallel processing of videos on a Ray cluster; `RayWorkers` has the interface of `Workers`.

The driver assigns jobs, collects outcomes, and is the only one to write the ledger. A video whose
machine is lost is given to another. docs/decisions/013-batch.md explains why this uses actors, not
Ray Data.
"""

import importlib
import logging
import os
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusionpose.batch.ledger import LedgerEntry
from diffusionpose.batch.ray_actor import VideoActor
from diffusionpose.batch.work import Job, process, remove_temporaries
from diffusionpose.batch.workers import Limits, Work, default_number
from diffusionpose.errors import DiffusionPoseError, MissingExtraError, UsageError, first_line
from diffusionpose.model.pretrained import bundled
from diffusionpose.version import __version__

ATTEMPTS = 3
"""Number of lost actors after which a video counts as crashed."""
STARTS = 10
"""Number of consecutive actors lost on start-up after which the batch fails."""
CONNECT_SECONDS = 5
END_SECONDS = 20
"""Time for machines to stop processes and clean up; later ones are left to Ray."""
_STORE_BYTES = 100 << 20
"""Object store of a local cluster: jobs and ledger entries are small."""


@dataclass(eq=False)
class _Task:
    job: Job
    num_lost: int = 0


@dataclass(eq=False)
class _Seat:
    """An actor and its current task, which is None while it starts."""

    actor: Any
    task: _Task | None = None


class RayWorkers:
    """Actors on a cluster, each with a worker process.

    Args:
        address: `auto` for the cluster that this machine is part of, HOST:PORT of a cluster, or
            `local` to start one on this machine.
        number: Number of actors; None for one per two cores of the cluster, or one per GPU.
        most: Maximum number of actors: the number of jobs.
        limits: Of each job, enforced on the machine that runs it.
        work: Function that processes a job; importable by name on every machine.
        device: As in `predict`. Unless it is `cpu`, each actor has its own GPU if the cluster has
            any.

    Raises:
        UsageError: If the address is invalid.
        MissingExtraError: If ray is not installed.
    """

    def __init__(
        self,
        address: str,
        number: int | None,
        most: int,
        limits: Limits,
        work: Work = process,
        device: str = "auto",
    ) -> None:
        if address not in ("auto", "local") and _host_and_port(address) is None:
            raise UsageError(f"--ray must be auto, local or HOST:PORT, not {address!r}")
        self._ray = _import_ray(address)
        self._address, self._device = address, device
        self._number, self._most = number, most
        self._given = __version__, limits, work
        self._busy: dict[Future[Any], _Seat] = {}
        self._idle: list[Any] = []
        self._retries: deque[_Task] = deque()
        self._touched: dict[str, Path] = {}
        self._failed_starts = 0

    def run(self, jobs: Iterable[Job]) -> Generator[tuple[Job, LedgerEntry], None, None]:
        """Yield jobs with their outcomes as they end; `jobs` is consumed as actors become idle.

        Closing the generator, or an error, stops all actors and their processes, and removes
        incomplete files.

        Raises:
            DiffusionPoseError: If there is no cluster, or no job can succeed: the options are
                impossible, the model is broken, or a machine lacks what is needed.
        """
        try:
            self._connect()
            self._start_actors(min(self._room(), self._most))
            waiting = iter(jobs)
            while self._hand_out(waiting):
                done, _ = wait(self._busy, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from self._receive(future)
        finally:
            self._end()

    def _connect(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if self._address == "local":
            self._number = self._number or default_number()
            options |= {
                "num_cpus": self._number,
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
            }
        else:
            _check_listens(self._address)
        try:
            with _own_sigterm():
                self._ray.init(address=self._address, **options)
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise DiffusionPoseError(
                f"--ray {self._address}: cannot connect to a cluster: {first_line(error)}"
            ) from error

    def _room(self) -> int:
        """Number of actors to start; those that exceed the cluster's size wait for room."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if self._on_gpus():
            room = int(sum(node.get("GPU", 0) for node in nodes))
        else:
            room = sum(max(1, int(node["CPU"]) // 2) for node in nodes if node.get("CPU", 0) >= 1)
        if room == 0:
            raise DiffusionPoseError(
                f"--ray {self._address}: no machine of the cluster has free cores"
            )
        return self._number or room

    def _on_gpus(self) -> bool:
        return self._device != "cpu" and self._ray.cluster_resources().get("GPU", 0) >= 1

    def _start_actors(self, number: int) -> None:
        actor_class = self._ray.remote(VideoActor).options(
            num_cpus=1,
            num_gpus=int(self._on_gpus()),
            scheduling_strategy="SPREAD",
            max_concurrency=2,  # for `end` while `do` runs
        )
        for _ in range(number):
            actor = actor_class.remote(*self._given)
            self._busy[actor.__ray_ready__.remote().future()] = _Seat(actor)

    def _hand_out(self, waiting: Iterator[Job]) -> bool:
        """Assign tasks to idle actors; return whether any task is left to wait for."""
        while self._idle:
            task = self._retries.popleft() if self._retries else _next_task(waiting)
            if task is None:
                return any(seat.task for seat in self._busy.values())
            actor = self._idle.pop()
            self._busy[actor.do.remote(_with_absolute_paths(task.job)).future()] = _Seat(
                actor, task
            )
        return True

    def _receive(self, future: "Future[Any]") -> Iterator[tuple[Job, LedgerEntry]]:
        seat = self._busy.pop(future)
        try:
            answer = future.result()
        except self._ray.exceptions.RayError as error:
            yield from self._lost(seat, error)
            return
        if isinstance(answer, DiffusionPoseError):
            raise answer
        self._failed_starts = 0
        self._idle.append(seat.actor)
        if seat.task is not None:
            yield seat.task.job, answer

    def _lost(self, seat: _Seat, error: Exception) -> Iterator[tuple[Job, LedgerEntry]]:
        """Replace a lost actor, and retry its task or report it as crashed."""
        # It may only be unreachable, and must not work on a video that is given to another.
        self._ray.kill(seat.actor)
        task = seat.task
        if task is None:
            self._check_start(error)
        else:
            task.num_lost += 1
            self._touched[task.job.stem] = task.job.out
        self._start_actors(1)
        if task is not None and task.num_lost < ATTEMPTS:
            self._retries.append(task)
        elif task is not None:
            message = f"its machine or actor was lost {ATTEMPTS} times: {first_line(error)}"
            yield task.job, LedgerEntry(task.job.source.name, "crashed", message=message)

    def _check_start(self, error: Exception) -> None:
        self._failed_starts += 1
        if getattr(error, "actor_init_failed", False) or self._failed_starts == STARTS:
            why = str(error).strip().splitlines()[-1]
            raise DiffusionPoseError(
                f"--ray {self._address}: a machine cannot process videos ({why[:200]}): install this release of "
                "diffusionpose on all of them"
            ) from error

    def _end(self) -> None:
        """Stop all actors, disconnect from the cluster, remove incomplete files of lost actors."""
        seats = [seat for seat in self._busy.values() if seat.task]
        asked = [actor.end.remote() for actor in (*self._idle, *(seat.actor for seat in seats))]
        if asked:
            self._ray.wait(asked, num_returns=len(asked), timeout=END_SECONDS)
        self._ray.shutdown()
        jobs = (seat.task.job for seat in seats if seat.task)
        for stem, out in (self._touched | {job.stem: job.out for job in jobs}).items():
            remove_temporaries(out, [stem])


def _next_task(waiting: Iterator[Job]) -> _Task | None:
    job = next(waiting, None)
    return None if job is None else _Task(job)


def _with_absolute_paths(job: Job) -> Job:
    """Make the paths of a job independent of the working folder."""
    pipeline = job.options.pipeline
    model = pipeline.model if pipeline.model in bundled() else _absolute(pipeline.model)
    detector = None if pipeline.detector is None else _absolute(pipeline.detector)
    options = replace(job.options, pipeline=replace(pipeline, model=model, detector=detector))
    return replace(job, source=job.source.absolute(), out=job.out.absolute(), options=options)


def _absolute(name: str) -> str:
    """Absolute path if it exists; other names are repositories on the hub."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def _host_and_port(address: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})", address)
    return (found["host"].strip("[]"), int(found["port"])) if found else None


def _check_listens(address: str) -> None:
    """Fail fast if nothing listens at the address, which Ray would retry for minutes."""
    given = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    place = _host_and_port(given)
    if place is None:
        return
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise DiffusionPoseError(
            f"--ray {given}: cannot connect ({error}): give the address that `ray start --head` printed"
        ) from None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep our SIGTERM handler, which cleans up, when Ray installs its own."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers
        return
    ours = signal.getsignal(signal.SIGTERM)

    def give_back() -> bool:
        """Restore our handler, unless the signal is ignored; return whether it was restored."""
        # It is ignored while Ctrl-C is being handled.
        is_taken = signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
        if is_taken:
            signal.signal(signal.SIGTERM, ours)
        return is_taken

    try:
        yield
    except SystemExit:
        if give_back():
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        give_back()


def _import_ray(address: str) -> Any:
    """Import Ray with telemetry disabled, and without long retries if there is no cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address != "local":
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise MissingExtraError("ray", "ray") from None
