"""Several videos side by side on the machines of a Ray cluster: `RayWorkers` stands where `Workers` does.

The driver hands out jobs, hears what became of them and alone writes the ledger. A video whose machine is lost is given
to another. Why actors, and not Ray Data: docs/decisions/013-batch.md.
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
"""Machines or actors that a video may lose before it is to blame."""
STARTS = 10
"""Actors in a row that may be lost before they serve."""
CONNECT_SECONDS = 5
END_SECONDS = 20
"""For machines to kill processes and remove what is half-written; whoever is silent longer is left to Ray."""
_STORE_BYTES = 100 << 20
"""Of a cluster of our own: jobs and ledger entries are small."""


@dataclass(eq=False)
class _Task:
    job: Job
    num_lost: int = 0


@dataclass(eq=False)
class _Seat:
    """An actor, and what it is at; `task` is None while it comes up."""

    actor: Any
    task: _Task | None = None


class RayWorkers:
    """Actors on a cluster, with a process each that does jobs.

    Args:
        address: `auto` for the cluster that this machine is part of, its HOST:PORT, or `local` for one of our own.
        number: How many at a time; None for one for two cores of the cluster, or one a GPU.
        most: Actors that can be of use: jobs that there will be.
        limits: Of each job, kept on the machine that does it.
        work: What a job is; importable by name on every machine.
        device: As in `predict`. Unless it is `cpu`, each actor has a GPU to itself where the cluster has any.

    Raises:
        UsageError: If the address is none.
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
            raise UsageError(f"--ray takes auto, local or HOST:PORT, not {address!r}")
        self._ray = _import_ray(address)
        self._address, self._device = address, device
        self._number, self._most = number, most
        self._given = __version__, limits, work
        self._busy: dict[Future[Any], _Seat] = {}
        self._idle: list[Any] = []
        self._again: deque[_Task] = deque()
        self._touched: dict[str, Path] = {}
        self._failed_starts = 0

    def run(self, jobs: Iterable[Job]) -> Generator[tuple[Job, LedgerEntry], None, None]:
        """Jobs with what became of them, as they end; the next is taken from `jobs` when there is an actor for it.

        Closing the generator, or an error, ends all actors and their processes; nothing half-written stays.

        Raises:
            DiffusionPoseError: If there is no cluster, or no job can be done: the options are impossible, the model is
                broken, or a machine lacks what is needed.
        """
        try:
            self._connect()
            self._hire(min(self._room(), self._most))
            waiting = iter(jobs)
            while self._hand_out(waiting):
                done, _ = wait(self._busy, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from self._hear(future)
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
                f"--ray {self._address}: no cluster to work with: {first_line(error)}"
            ) from error

    def _room(self) -> int:
        """Actors to begin with; of a number that was asked for, those that find no room wait for it."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if self._on_gpus():
            room = int(sum(node.get("GPU", 0) for node in nodes))
        else:
            room = sum(max(1, int(node["CPU"]) // 2) for node in nodes if node.get("CPU", 0) >= 1)
        if room == 0:
            raise DiffusionPoseError(f"--ray {self._address}: no machine there has cores to give")
        return self._number or room

    def _on_gpus(self) -> bool:
        return self._device != "cpu" and self._ray.cluster_resources().get("GPU", 0) >= 1

    def _hire(self, number: int) -> None:
        actor_class = self._ray.remote(VideoActor).options(
            num_cpus=1,
            num_gpus=int(self._on_gpus()),
            scheduling_strategy="SPREAD",
            max_concurrency=2,  # `end` while `do` is at work
        )
        for _ in range(number):
            actor = actor_class.remote(*self._given)
            self._busy[actor.__ray_ready__.remote().future()] = _Seat(actor)

    def _hand_out(self, waiting: Iterator[Job]) -> bool:
        """Gives idle actors something to do; whether there is anything to wait for."""
        while self._idle:
            task = self._again.popleft() if self._again else _next_task(waiting)
            if task is None:
                return any(seat.task for seat in self._busy.values())
            actor = self._idle.pop()
            self._busy[actor.do.remote(_anywhere(task.job)).future()] = _Seat(actor, task)
        return True

    def _hear(self, future: "Future[Any]") -> Iterator[tuple[Job, LedgerEntry]]:
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
        """Another actor takes its place, another attempt that of its task."""
        # It may only be out of reach: no two shall be at one video for longer than need be.
        self._ray.kill(seat.actor)
        task = seat.task
        if task is None:
            self._check_start(error)
        else:
            task.num_lost += 1
            self._touched[task.job.stem] = task.job.out
        self._hire(1)
        if task is not None and task.num_lost < ATTEMPTS:
            self._again.append(task)
        elif task is not None:
            message = f"lost {ATTEMPTS} times with its machine or actor: {first_line(error)}"
            yield task.job, LedgerEntry(task.job.source.name, "crashed", message=message)

    def _check_start(self, error: Exception) -> None:
        self._failed_starts += 1
        if getattr(error, "actor_init_failed", False) or self._failed_starts == STARTS:
            why = str(error).strip().splitlines()[-1]
            raise DiffusionPoseError(
                f"--ray {self._address}: a machine there cannot do videos ({why[:200]}): every one needs this release of "
                "diffusionpose"
            ) from error

    def _end(self) -> None:
        """Asks those that are up to end their processes, takes leave of the cluster, removes what lost ones left."""
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


def _anywhere(job: Job) -> Job:
    """With paths that mean the same in another working folder."""
    pipeline = job.options.pipeline
    model = pipeline.model if pipeline.model in bundled() else _absolute(pipeline.model)
    detector = None if pipeline.detector is None else _absolute(pipeline.detector)
    options = replace(job.options, pipeline=replace(pipeline, model=model, detector=detector))
    return replace(job, source=job.source.absolute(), out=job.out.absolute(), options=options)


def _absolute(name: str) -> str:
    """Of what is there; another name is one of the hub."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def _host_and_port(address: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})", address)
    return (found["host"].strip("[]"), int(found["port"])) if found else None


def _check_listens(address: str) -> None:
    """At once, where Ray would try for minutes."""
    given = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    place = _host_and_port(given)
    if place is None:
        return
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise DiffusionPoseError(
            f"--ray {given}: nothing answers there ({error}): give the address that `ray start --head` printed"
        ) from None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself; ours removes what is half-written and has its exit code."""
    if threading.current_thread() is not threading.main_thread():
        yield  # nobody can take it there
        return
    ours = signal.getsignal(signal.SIGTERM)

    def give_back() -> bool:
        """Puts our handler back; whether it was ours to put back."""
        # Ignored: Ctrl-C came, and is being answered.
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
    """Ray, told before its import not to phone home, and not to try for minutes where there is no cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address != "local":
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise MissingExtraError("ray", "ray") from None
