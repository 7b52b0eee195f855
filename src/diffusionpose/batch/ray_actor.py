"""What `ray_workers` puts on the machines of a cluster: an actor that has a process for videos, as a local batch has several.

The actor itself only watches: limits hold, and a process dies alone, on whatever machine it is. Nothing here imports ray.
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
    """Does one video after another; its process keeps the model loaded.

    Args:
        version: Release that the batch was started with.
        limits: Of each video.
        work: What is done with it; importable by name on every machine.
    """

    def __init__(self, version: str, limits: Limits, work: Work) -> None:
        self._version, self._given = version, list[Job]()
        self._workers = Workers(1, limits, work)
        self._ended = self._workers.run(iter(self._given.pop, None))
        self._free = threading.Lock()

    def do(self, job: Job) -> LedgerEntry | DiffusionPoseError:
        """What became of a video; an error, if this machine can do none."""
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
        """Ends the process and the video that it is at; on return nothing of it is half-written. The last call.

        Is called while `do` runs in another thread.
        """
        while not self._free.acquire(timeout=POLL_SECONDS):
            self._workers.kill()
        self._ended.close()

    def _check(self, job: Job) -> None:
        """Results must be what the driver's key says, and lie where the driver looks for them."""
        if self._version != __version__:
            raise DiffusionPoseError(
                f"{socket.gethostname()} has release {__version__} of diffusionpose, the batch {self._version}: "
                "install the same everywhere"
            )
        if not (job.out / LEDGER).is_file():
            raise DiffusionPoseError(_not_here(str(job.out)))
        if _weights_here(job.options.pipeline) != job.weights:
            raise DiffusionPoseError(
                f"{socket.gethostname()} has other weights of {job.options.pipeline.model} or of the detector: copy the "
                "same to every machine"
            )


def _not_here(what: str) -> str:
    return (
        f"{socket.gethostname()} does not have {what}: videos and --out must be on a file system that all machines of the "
        "cluster have under the same path"
    )
