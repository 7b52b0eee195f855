"""A whole batch: what is not done yet is done, and every end is in the ledger before the next one is heard of."""

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
"""Told of each video that ended, and whether it was done before."""


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch's videos.

    Args:
        entries: One a video, in the order of the videos.
        num_kept: How many of them were done before.
    """

    entries: tuple[LedgerEntry, ...]
    num_kept: int

    @property
    def counts(self) -> Counter[str]:
        """Videos of each status."""
        return Counter(entry.status for entry in self.entries)

    @property
    def not_ok(self) -> tuple[LedgerEntry, ...]:
        """What a person has to look at."""
        return tuple(entry for entry in self.entries if entry.status != "ok")


@dataclass(frozen=True)
class BatchPlan:
    """What is to be done.

    Args:
        given: Files and folders of videos.
        out: Folder of the results and of the ledger.
        options: What is made of every video.
        num_workers: Videos side by side; changes speed, not results. None for one for two cores.
        limits: Of every video.
        overwrite: Replace files that are not results of these videos.
        ray: Address of a Ray cluster whose machines do the work, as in `RayWorkers`; None for this machine.
    """

    given: Sequence[Path]
    out: Path
    options: BatchOptions
    num_workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    overwrite: bool = False
    ray: str | None = None

    def videos(self) -> tuple[Path, ...]:
        """The files.

        Raises:
            UsageError: As `find_videos`; or if the results would lie among the videos of a folder.
        """
        if self.options.video and any(
            path.is_dir() and self.out.exists() and path.samefile(self.out) for path in self.given
        ):
            raise UsageError(f"{self.out} holds the videos themselves: give another --out")
        return find_videos(self.given)


def run_batch(
    plan: BatchPlan,
    videos: Sequence[Path],
    on_done: OnDone | None = None,
    work: Work = process,
) -> BatchReport:
    """Does what the ledger does not have yet, or what is not as the ledger has it; the rest is kept.

    Args:
        plan: What.
        videos: From the plan.
        on_done: Told of each video.
        work: Does one job.

    Raises:
        UsageError: If another batch is at work there, or an option is impossible.
        DataError: If the ledger is none of ours.
        MissingExtraError: If Ray is asked for and not installed.
        DiffusionPoseError: If the model or the cluster cannot be had, or the ledger cannot be written.
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
    """Who does jobs, at most so many at a time."""
    if plan.ray is None:
        return Workers(min(plan.num_workers or default_number(), most), plan.limits, work)
    from diffusionpose.batch.ray_workers import RayWorkers

    device = plan.options.pipeline.device
    return RayWorkers(plan.ray, plan.num_workers, most, plan.limits, work, device)


def _jobs(plan: BatchPlan, videos: Sequence[Path], weights: str, ledger: Ledger) -> Iterator[Job]:
    """Says of each, before it begins, that what will stand under its names is the batch's own."""
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
