"""The actor that `ray_workers` runs on machines of a cluster, with one worker process.

The actor itself only supervises, so that limits and crashes are handled as in a local batch. This
module does not import ray.
"""

import os
import socket
import threading
from functools import lru_cache

from diffusionpose.batch.ledger import LEDGER, LedgerEntry
from diffusionpose.batch.work import Job, weights_of
from diffusionpose.batch.workers import POLL_SECONDS, Limits, Work, Workers
from diffusionpose.errors import DiffusionPoseError
from diffusionpose.version import __version__

_weights_here = lru_cache(maxsize=1)(weights_of)


class VideoActor:
    """Processes one video after another; its worker process keeps the model loaded.

    Args:
        version: Of diffusionpose in the driver.
        limits: Of each video.
        work: Function that processes a job; importable by name on every machine.
    """

    def __init__(self, version: str, limits: Limits, work: Work) -> None:
        self._version, self._given = version, list[Job]()
        self._workers = Workers(1, limits, work)
        self._ended = self._workers.run(iter(self._given.pop, None))
        self._free = threading.Lock()

    def do(self, job: Job) -> LedgerEntry | DiffusionPoseError:
        """Process a video; return its outcome, or an error if this machine cannot process any."""
        with self._free:
            try:
                self._check(job)
                if not os.path.lexists(job.source):
                    return LedgerEntry(job.source.name, "rejected", message=_not_here("this file"))
                self._given.append(job)
                return next(self._ended)[1]
            except DiffusionPoseError as error:
                return error

    def end(self) -> None:
        """Stop the worker process and clean up the current video; may be called while `do` runs.

        The actor cannot be used afterwards.
        """
        while not self._free.acquire(timeout=POLL_SECONDS):
            self._workers.kill()
        self._ended.close()

    def _check(self, job: Job) -> None:
        """Check that results will match the driver's key, and lie where it looks for them."""
        if self._version != __version__:
            raise DiffusionPoseError(
                f"{socket.gethostname()} has diffusionpose {__version__}, but the batch was started with "
                f"{self._version}: install the same release everywhere"
            )
        if not (job.out / LEDGER).is_file():
            raise DiffusionPoseError(_not_here(str(job.out)))
        if _weights_here(job.options.pipeline) != job.weights:
            raise DiffusionPoseError(
                f"{socket.gethostname()} has different weights of {job.options.pipeline.model} or of the detector: copy "
                "the same files to every machine"
            )


def _not_here(what: str) -> str:
    return (
        f"{socket.gethostname()} does not have {what}: videos and --out must be on a file system that is mounted at the "
        "same path on all machines of the cluster"
    )
