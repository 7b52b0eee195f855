"""Data loaders for the sources of a recipe; samples do not depend on workers or ranks."""

import hashlib
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import Any

import numpy as np
from torch import distributed
from torch.utils.data import DataLoader, Dataset, Subset

from diffusionpose.data.clips import ClipDataset, ClipRecord, EpochSampler
from diffusionpose.data.coco import load_coco
from diffusionpose.data.posetrack import load_posetrack
from diffusionpose.errors import ConfigError, DataError
from diffusionpose.recipe import SourceConfig, TrainConfig
from diffusionpose.skeleton import Skeleton


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, and the number of processes in all and on this machine."""

    rank: int = 0
    world: int = 1
    local_world: int = 1

    @classmethod
    def of_process(cls) -> "Ranks":
        """Read the ranks from the environment set by torchrun; one process without it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        return cls(*(int(os.environ[name]) for name in names))


def is_distributed() -> bool:
    """Return whether the process group of several training processes is initialised."""
    return distributed.is_available() and distributed.is_initialized()


def load_source(source: SourceConfig, skeleton: Skeleton) -> list[ClipRecord]:
    """Load the records of one data set.

    Raises:
        ConfigError: If the source lacks a setting that its kind requires.
        DataError: If files are missing or malformed, or the data set has no annotated people.
    """
    if source.kind == "posetrack":
        if source.split is None:
            raise ConfigError(f"{source.root}: a posetrack source needs `split`")
        records = load_posetrack(source.root, source.split, skeleton, source.stride, source.subset)
    else:
        if source.annotations is None or source.images is None:
            raise ConfigError(f"{source.root}: a coco source needs `annotations` and `images`")
        records = load_coco(
            source.root, source.annotations, source.images, skeleton, source.subset, source.stride
        )
    if not records:
        raise DataError(f"{source.root}: no annotated people; check split and subset")
    return records


def fingerprint(records: Sequence[ClipRecord]) -> str:
    """Return the SHA-256 over frame names, keypoints and boxes, which identifies a run's data."""
    digest = hashlib.sha256()
    for record in records:
        names = "|".join(path.name for path in record.frames)
        digest.update(names.encode(errors="surrogatepass"))  # names need not be UTF-8
        digest.update(np.round(record.keypoints, 3).tobytes())
        digest.update(np.round(record.box, 3).tobytes())
    return digest.hexdigest()


class _IgnoreSignals:
    """Initialises workers to ignore SIGINT, and SIGTERM until the loader is closed.

    A signal to the process group is meant for the parent, which ends its workers after saving.
    """

    def __init__(self, is_closed: Any) -> None:
        self._is_closed = is_closed

    def __call__(self, worker: int) -> None:
        del worker
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._is_closed.value:
            os._exit(0)


class ClipLoader(DataLoader[Any]):
    """A data loader that can name a worker that died; call `close` before the process ends."""

    def __init__(self, dataset: Dataset[Any], batch_size: int, **options: Any) -> None:
        self.workers: dict[int, int] = {}
        self._is_closed = RawValue("b", 0)
        super().__init__(
            dataset, batch_size, worker_init_fn=_IgnoreSignals(self._is_closed), **options
        )

    def close(self) -> None:
        """Allow workers to be terminated; otherwise the process would wait for them at its end."""
        self._is_closed.value = 1

    def __iter__(self) -> Any:
        """Start the workers."""
        iterator = super().__iter__()
        started = getattr(iterator, "_workers", ())
        self.workers = {worker.pid: number for number, worker in enumerate(started)}
        return iterator

    def explain(self, error: RuntimeError) -> DataError | None:
        """Translate the error of a worker that died; None for any other error."""
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
        if found is None:
            return None
        pids = [int(pid) for pid in found[1].split(",")]
        names = ", ".join(
            f"loader worker {self.workers.get(pid, '?')} (process {pid})" for pid in pids
        )
        return DataError(
            f"{names} died: killed, possibly out of memory; resume with fewer workers: "
            "--set workers=N"
        )


@dataclass(frozen=True)
class RunData:
    """This rank's data loaders, the sampler of its training clips, and fingerprints of the data."""

    train: ClipLoader
    validation: list[ClipLoader]
    sampler: EpochSampler
    fingerprint: str
    validation_fingerprint: str


def make_loaders(
    config: TrainConfig,
    ranks: Ranks | None = None,
    wrap: Callable[[ClipDataset, bool], Dataset[Any]] = lambda clips, _: clips,
) -> RunData:
    """Create the data loaders of a recipe.

    Args:
        config: The recipe.
        ranks: Rank of this process; by default a single process.
        wrap: Replaces a data set of clips by another; the flag is true for training data.

    Raises:
        ConfigError: If there is less than one training batch, or one person to validate on, for
            each rank.
    """
    ranks = ranks or Ranks()
    skeleton = config.model.skeleton_graph
    train = [load_source(source, skeleton) for source in config.train]
    records = [record for source in train for record in source]
    shares = np.concatenate(
        [np.full(len(part), source.share) for part, source in zip(train, config.train, strict=True)]
    )
    sampler = EpochSampler(
        shares, config.seed, batch_size=config.batch_size, rank=ranks.rank, world=ranks.world
    )
    if not len(sampler):
        raise ConfigError(
            f"{round(shares.sum())} clips do not fill a batch of {config.batch_size} for each of "
            f"{ranks.world} processes; lower batch_size, or use more data or fewer processes"
        )
    options: dict[str, Any] = {"num_workers": config.workers}
    dataset = wrap(ClipDataset(records, config.model, config.augment, config.seed), True)
    loader = ClipLoader(dataset, config.batch_size, sampler=sampler, **options)
    validation, measured = [], []
    for source in config.validation:
        # Not with the run's seed: the validation data is the same for all runs.
        clips = ClipDataset(load_source(source, skeleton), config.model, source.corruption)
        if len(clips) < ranks.world:
            raise ConfigError(
                f"{source.name}: {len(clips)} people to validate on are fewer than the "
                f"{ranks.world} processes; use more data or fewer processes"
            )
        measured += clips.records
        part = Subset(wrap(clips, False), range(ranks.rank, len(clips), ranks.world))
        validation.append(ClipLoader(part, config.batch_size, **options))
    return RunData(loader, validation, sampler, fingerprint(records), fingerprint(measured))
