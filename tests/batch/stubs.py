"""Simulated work, controlled by the text in a "video". Importable by name, for other processes."""

import os
import signal
import time
from pathlib import Path

from diffusionpose.batch.ledger import LedgerEntry
from diffusionpose.batch.work import Job, Load
from diffusionpose.errors import CheckpointError
from diffusionpose.formats import AtomicFile
from diffusionpose.model.pretrained import sha256_of

MIB = 1 << 20


def work(job: Job, load: Load) -> LedgerEntry:
    """Do what the video says; its result is a copy of it."""
    del load
    digest = sha256_of(job.source)
    key = job.key(digest)
    if job.before is not None and job.before.stands(key, job.out):
        return job.before
    result = AtomicFile(job.out / f"{job.stem}.poses.json")
    what = job.source.read_text()
    if what == "sleep":
        time.sleep(600)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "orphan":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if what == "exit":
        os._exit(3)
    if what == "raise":
        raise KeyError("joint")
    if what == "impossible":
        raise CheckpointError("no such model")
    if what == "eat":
        eaten = []
        while True:
            eaten.append(bytearray(os.urandom(MIB)) * 64)
            time.sleep(0.05)
    if what == "slow":
        time.sleep(0.2)
    result.temporary.write_text(f"{what} {os.getpid() if what == 'pid' else ''}")
    result.publish()
    files = {result.path.name: sha256_of(result.path)}
    seconds = time.monotonic()  # differs between calls
    return LedgerEntry(job.source.name, "ok", key, digest, files=files, seconds=seconds)


def made(folder: Path, **videos: str) -> list[Path]:
    """Write files for `work`."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.mp4" for name in videos]
    for path, what in zip(paths, videos.values(), strict=True):
        path.write_text(what)
    return paths
