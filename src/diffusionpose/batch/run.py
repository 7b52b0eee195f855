"""Running a batch: processes what is not done yet, and records each outcome in the ledger."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffusionpose.batch.ledger import Ledger, LedgerEntry, open_ledger
from diffusionpose.batch.videos import find_videos
from diffusionpose.batch.work import BatchOptions, Job, process, remove_temporaries, weights_of
from diffusionpose.batch.workers import Limits, Work, Workers, default_number
from diffusionpose.errors import UsageError

if TYPE_CHECKING:
    from diffusionpose.batch.ray_workers import RayWorkers

OnDone = Callable[[LedgerEntry, bool], None]
"""Called with the outcome of each video, and whether it was kept from an earlier run."""


@dataclass(frozen=True)
class BatchReport:
    """Outcomes of a batch.

    Args:
        entries: One per video, in the order of the videos.
        num_kept: Number of videos whose results were kept from an earlier run.
    """

    entries: tuple[LedgerEntry, ...]
    num_kept: int

    @property
    def counts(self) -> Counter[str]:
        """Number of videos by status."""
        return Counter(entry.status for entry in self.entries)

    @property
    def not_ok(self) -> tuple[LedgerEntry, ...]:
        """Entries whose status is not `ok`."""
        return tuple(entry for entry in self.entries if entry.status != "ok")


@dataclass(frozen=True)
class BatchPlan:
    """Inputs and settings of a batch.

    Args:
        given: Video files, and folders of videos.
        out: Folder of the results and of the ledger.
        options: Settings for every video.
        num_workers: Videos in parallel; changes speed, not results. None for one per two cores.
        limits: Of every video.
        overwrite: Replace files that are not results of these videos.
        ray: Address of a Ray cluster to run on, as in `RayWorkers`; None for this machine.
    """

    given: Sequence[Path]
    out: Path
    options: BatchOptions
    num_workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    overwrite: bool = False
    ray: str | None = None

    def videos(self) -> tuple[Path, ...]:
        """Find the video files.

        Raises:
            UsageError: As in `find_videos`, or if annotated videos would be written into a folder
                of input videos.
        """
        if self.options.video and any(
            path.is_dir() and self.out.exists() and path.samefile(self.out) for path in self.given
        ):
            raise UsageError(f"{self.out} is a folder of input videos: choose another --out")
        return find_videos(self.given)


def run_batch(
    plan: BatchPlan,
    videos: Sequence[Path],
    on_done: OnDone | None = None,
    work: Work = process,
) -> BatchReport:
    """Process all videos whose results are missing, outdated or changed; keep the others.

    Args:
        plan: Inputs and settings.
        videos: From `plan.videos()`.
        on_done: Called for each video.
        work: Function that processes a job.

    Raises:
        UsageError: If another batch uses the folder, or an option is impossible.
        DataError: If the ledger has an invalid line.
        MissingExtraError: If Ray is requested but not installed.
        DiffusionPoseError: If the model or the cluster is not available, or the ledger cannot be
            written.
    """
    workers = _workers(plan, len(videos), work)
    weights = weights_of(plan.options.pipeline)
    found: dict[str, LedgerEntry] = {}
    num_kept = 0
    with open_ledger(plan.out) as ledger:
        remove_temporaries(plan.out, [video.stem for video in videos])
        with closing(workers.run(_jobs(plan, videos, weights, ledger))) as ended:
            for job, entry in ended:
                is_kept = entry == job.before
                if entry != ledger.last.get(job.stem):
                    ledger.append(entry)
                num_kept += is_kept
                found[job.stem] = entry
                if on_done is not None:
                    on_done(entry, is_kept)
    return BatchReport(tuple(found[video.stem] for video in videos), num_kept)


def _workers(plan: BatchPlan, most: int, work: Work) -> "Workers | RayWorkers":
    """Create the workers of a plan, at most `most`."""
    if plan.ray is None:
        return Workers(min(plan.num_workers or default_number(), most), plan.limits, work)
    from diffusionpose.batch.ray_workers import RayWorkers

    device = plan.options.pipeline.device
    return RayWorkers(plan.ray, plan.num_workers, most, plan.limits, work, device)


def _jobs(plan: BatchPlan, videos: Sequence[Path], weights: str, ledger: Ledger) -> Iterator[Job]:
    """Yield a job per video, after recording that its result files belong to the batch."""
    for video in videos:
        job = Job(
            video,
            plan.out,
            plan.options,
            weights,
            before=ledger.delivered.get(video.stem),
            is_owned=video.stem in ledger.owned,
            overwrite=plan.overwrite,
        )
        if not job.is_owned and (job.overwrite or not job.is_anything_there()):
            ledger.append(LedgerEntry(video.name, "started"))
            job = replace(job, is_owned=True)
        yield job
