"""The `batch` command: its options and output."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from diffusionpose.cli_options import (
    EXIT_PARTIAL,
    AnglesOption,
    BatchSizeOption,
    BlurFacesOption,
    DetectEveryOption,
    DetectorOption,
    DeviceOption,
    EngineOption,
    FillGapsOption,
    FindCutsOption,
    FlipTestOption,
    FormatOption,
    HeightOption,
    HoldCropsOption,
    HypothesesOption,
    MinScoreOption,
    ModelOption,
    OverwriteOption,
    PrecisionOption,
    SeedOption,
    SmoothOption,
    StepsOption,
    VideoOption,
    names_of,
    result_options,
)

if TYPE_CHECKING:
    from diffusionpose.batch.ledger import LedgerEntry
    from diffusionpose.batch.run import BatchReport


def batch(
    videos: Annotated[
        list[Path],
        typer.Argument(help="Video files, and folders: the videos directly in them, by name."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results and ledger.jsonl.")] = Path("poses"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Videos at a time; by default one per two cores.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds for each video; no limit by default.")
    ] = None,
    memory_limit: Annotated[
        float | None, typer.Option(help="GiB for each video; no limit by default. Linux only.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster (extra: ray): auto, HOST:PORT, or local for one on this machine.",
        ),
    ] = None,
    model: ModelOption = "tiny",
    formats: FormatOption = "json",
    video: VideoOption = True,
    detector: DetectorOption = None,
    detect_every: DetectEveryOption = 1,
    hold_crops: HoldCropsOption = True,
    find_cuts: FindCutsOption = True,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    precision: PrecisionOption = "float32",
    seed: SeedOption = 0,
    steps: StepsOption = 1,
    num_hypotheses: HypothesesOption = 1,
    flip_test: FlipTestOption = False,
    batch_size: BatchSizeOption = 8,
    min_score: MinScoreOption = 0.0,
    smooth: SmoothOption = None,
    fill_gaps: FillGapsOption = 0,
    angles: AnglesOption = False,
    height_m: HeightOption = None,
    hide_faces: BlurFacesOption = False,
    overwrite: OverwriteOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only list videos not ok.")] = False,
) -> None:
    """Run predict on many videos; when run again, finished ones are skipped.

    Exit code 0 if all are ok, 4 if some are not.
    """
    from diffusionpose.batch.run import BatchPlan, run_batch
    from diffusionpose.batch.work import BatchOptions, PipelineOptions
    from diffusionpose.batch.workers import Limits

    pipeline = PipelineOptions(
        model=model, detector=detector, device=device, engine=engine, precision=precision, seed=seed,
        num_inference_steps=steps, num_hypotheses=num_hypotheses, flip_test=flip_test, batch_size=batch_size,
        detect_every=detect_every, hold_crops=hold_crops, find_cuts=find_cuts,
    )  # fmt: skip
    wanted = result_options(
        names_of(f"json,{formats}"), min_score, smooth, fill_gaps, angles, height_m
    )
    plan = BatchPlan(
        videos,
        out,
        BatchOptions(pipeline, wanted, video, hide_faces),
        workers,
        Limits(time_limit, memory_limit),
        overwrite,
        ray,
    )
    files = plan.videos()
    with videos_bar(len(files), quiet) as on_done:
        report = run_batch(plan, files, on_done)
    summarize(report, quiet)


@contextmanager
def videos_bar(number: int, quiet: bool) -> Iterator[Callable[["LedgerEntry", bool], None] | None]:
    """Show a progress bar of videos on stderr, unless `quiet` or stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("videos"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[bad]} not ok"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("videos", total=number, bad=0)

        def done(entry: "LedgerEntry", _: bool) -> None:
            bad = progress.tasks[task].fields["bad"] + (entry.status != "ok")
            progress.update(task, advance=1, bad=bad)

        yield done


def summarize(report: "BatchReport", quiet: bool) -> None:
    """Print the number of videos by status, and a line for each that is not ok or has a note.

    Exits with code 4 if any is not ok.
    """
    from diffusionpose.batch.ledger import Status

    if not quiet:
        counts = report.counts
        for status in get_args(Status):
            if counts[status]:
                print(f"{status:<10}{counts[status]:>7}")
        kept = f" ({report.num_kept} done before)" if report.num_kept else ""
        print(f"{'videos':<10}{len(report.entries):>7}{kept}", flush=True)
        for entry in report.entries:
            if entry.status == "ok" and entry.message:
                print(f"note: {entry.name}: {entry.message}", file=sys.stderr)
    for entry in report.not_ok:
        print(_line(entry), file=sys.stderr)
    if report.not_ok:
        raise typer.Exit(EXIT_PARTIAL)


def _line(entry: "LedgerEntry") -> str:
    return f"diffusionpose: {entry.status}: {entry.name}: {entry.message}"
