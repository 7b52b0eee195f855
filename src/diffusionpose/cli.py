"""Command line: commands, options and exit codes. The work is done elsewhere.

Exit codes: 0 ok, 1 failed, 2 usage error, 3 input refused, 4 partial (results were written, but the
video is damaged or incomplete), 130 interrupted, 143 terminated.
"""

import errno
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from diffusionpose.cli_app import serve_app
from diffusionpose.cli_batch import batch
from diffusionpose.cli_compare import compare
from diffusionpose.cli_data import data_app
from diffusionpose.cli_evaluate import evaluate, tell
from diffusionpose.cli_options import (
    EXIT_FAILED,
    AnglesOption,
    BatchSizeOption,
    BlurFacesOption,
    BoxesOption,
    DetectEveryOption,
    DetectorOption,
    DeviceOption,
    EngineOption,
    FillGapsOption,
    FindCutsOption,
    FlipTestOption,
    FormatOption,
    FpsOption,
    HeightOption,
    HoldCropsOption,
    HypothesesOption,
    LookOption,
    MinScoreOption,
    ModelOption,
    OverwriteOption,
    PrecisionOption,
    SeedOption,
    SmoothOption,
    StepsOption,
    VideoOption,
    names_of,
    note,
    result_options,
    say_verdict,
)
from diffusionpose.cli_report import Watching, report
from diffusionpose.errors import DiffusionPoseError, MissingExtraError, UsageError
from diffusionpose.process import prepare_process
from diffusionpose.version import __version__

if TYPE_CHECKING:
    from diffusionpose.predict_files import Outcome
    from diffusionpose.structures import FramePoses, VideoInfo

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
"""128 + signal number, as in shells."""

app = typer.Typer(
    name="diffusionpose",
    help="Human poses from video: keypoints, ids, pictures and tables, offline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; report user errors as one line with an exit code.

    Signals unwind the stack, so that nothing half-written stays behind.
    """
    _open_streams()
    prepare_process()
    # Raises SystemExit, so that temporary files are removed.
    signal.signal(signal.SIGINT, lambda *_: _stop("interrupted", EXIT_INTERRUPTED))
    signal.signal(signal.SIGTERM, lambda *_: _stop("terminated", EXIT_TERMINATED))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # File names that the terminal cannot encode must not raise.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            # Flush here: an error during interpreter shutdown could not be reported.
            sys.stdout.flush()
    except DiffusionPoseError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        # Any pathlib query may raise it.
        if error.errno == errno.ENAMETOOLONG:
            _fail(f"{str(error.filename)[:40]}...: file name too long", UsageError.exit_code)
        # Errors on output files are handled where they are written; what is left is stdout.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno == errno.EPIPE:
            sys.exit(DiffusionPoseError.exit_code)
        _fail(f"cannot write to standard output: {error.strerror}", DiffusionPoseError.exit_code)


def _open_streams() -> None:
    """Reopen closed standard streams on the null device.

    Otherwise the next file to be opened would get their descriptor, and a library's output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _stop(message: str, code: int) -> NoReturn:
    # A second signal must not interrupt the clean-up after the first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _fail(message, code)


def _fail(message: str, code: int) -> NoReturn:
    print(f"diffusionpose: error: {message}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"diffusionpose {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


ReportOption = Annotated[
    bool,
    typer.Option(
        "--report", help="Also write NAME.report.html: everything on one page that opens offline."
    ),
]
DataOption = Annotated[Path | None, typer.Option(help="Folder that replaces DATA in the recipe.")]


@app.command()
def predict(
    source: Annotated[str, typer.Argument(help="A video file, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("poses"),
    model: ModelOption = "tiny",
    formats: FormatOption = "json",
    video: VideoOption = True,
    boxes: BoxesOption = None,
    detector: DetectorOption = None,
    detect_every: DetectEveryOption = 1,
    hold_crops: HoldCropsOption = True,
    find_cuts: FindCutsOption = True,
    fps: FpsOption = None,
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
    with_report: ReportOption = False,
    look_at: LookOption = None,
    overwrite: OverwriteOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Estimate poses of people in a video: OUT/NAME.poses.json and the annotated OUT/NAME.mp4."""
    from diffusionpose.detection import BoxesFile
    from diffusionpose.predict import PosePipeline
    from diffusionpose.predict_files import predict_files
    from diffusionpose.results import PAGE
    from diffusionpose.video import open_video

    wanted = result_options(
        names_of(f"json,{formats}"), min_score, smooth, fill_gaps, angles, height_m
    )
    given = BoxesFile.load(boxes) if boxes else None
    if given is not None and detector is not None:
        raise UsageError("--boxes replaces the detector: leave --detector out")
    if look_at is not None and not with_report:
        raise UsageError("--look-at needs --report: add it, or leave --look-at out")
    with open_video(source, fps=fps) as reader:
        pipeline = PosePipeline.from_pretrained(
            model,
            detector=detector,
            device=device,
            engine=engine,
            precision=precision,
            seed=seed,
            num_inference_steps=steps,
            num_hypotheses=num_hypotheses,
            flip_test=flip_test,
            batch_size=batch_size,
            detect_every=detect_every,
            hold_crops=hold_crops,
            find_cuts=find_cuts,
        )
        pipeline = pipeline if given is None else pipeline.with_boxes(given)
        watching = (
            Watching(pipeline, reader, look_at, hide_faces=hide_faces) if with_report else None
        )
        with progress_bar(reader.info, quiet) as on_frame:
            outcome = predict_files(
                watching.pipeline if watching else pipeline,
                reader,
                out,
                wanted,
                video=video,
                hide_faces=hide_faces,
                overwrite=overwrite,
                on_frame=on_frame,
                also={PAGE: watching.page} if watching else None,
            )
    notes = watching.notes if watching else ()
    say(replace(outcome, notes=(*outcome.notes, *notes)), quiet)


@contextmanager
def progress_bar(info: "VideoInfo", quiet: bool) -> Iterator[Callable[["FramePoses"], None] | None]:
    """Show a progress bar on stderr, unless `quiet` or stderr is not a terminal."""
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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} frames/s"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(info.name, total=info.expected_frames, rate="-")

        def advance(_: "FramePoses") -> None:
            speed = progress.tasks[task].speed
            progress.update(task, advance=1, rate=f"{speed:.1f}" if speed else "-")

        yield advance


def say(outcome: "Outcome", quiet: bool) -> None:
    """Print the files written; exit with code 4 if the video is partial."""
    from diffusionpose.formats import counted

    if not quiet:
        people = counted(outcome.num_people, "person", "people")
        print(f"{counted(outcome.verdict.num_frames, 'frame')}, {people}:")
        for file in outcome.files:
            print(f"  {file}")
    say_verdict(outcome.verdict, outcome.notes, quiet=quiet)


@app.command()
def convert(
    result: Annotated[Path, typer.Argument(help="A NAME.poses.json file.")],
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Comma-separated: json, csv, posetrack, coco, parquet, npz, openpose, trc, c3d, angles.",
        ),
    ] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; that of the result by default.")
    ] = None,
    min_score: MinScoreOption = 0.0,
    smooth: SmoothOption = None,
    fill_gaps: FillGapsOption = 0,
    angles: AnglesOption = False,
    height_m: HeightOption = None,
    person: Annotated[
        list[int] | None, typer.Option(help="Only the person with this track id; may be repeated.")
    ] = None,
    start: Annotated[
        float | None, typer.Option(help="Leave out frames before this time, in seconds.")
    ] = None,
    end: Annotated[
        float | None, typer.Option(help="Leave out frames after this time, in seconds.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a result in other formats; optionally fill gaps, smooth paths, or select a part."""
    from diffusionpose.results import convert as convert_result

    wanted = result_options(names_of(formats), min_score, smooth, fill_gaps, angles, height_m)
    folder = result.parent if out is None else out
    files = convert_result(
        result,
        folder,
        wanted,
        people=person or (),
        start=start,
        end=end,
        overwrite=overwrite,
        on_note=note,
    )
    for file in files:
        print(file)


@app.command()
def models() -> None:
    """List model sizes with parameters and FLOPs per window, and which of them come with weights."""
    from rich.console import Console
    from rich.table import Table

    from diffusionpose.config import MODEL_SIZES, model_config
    from diffusionpose.model.cost import window_cost
    from diffusionpose.model.pretrained import bundled

    table = Table(
        "model", "weights", "image", "backbone", "blocks", "parameters", "GFLOP a window", box=None
    )
    there = bundled()
    for size in MODEL_SIZES:
        config = model_config(size)
        cost = window_cost(config)
        table.add_row(
            size,
            "bundled" if size in there else "-",
            f"{config.image_size[0]}x{config.image_size[1]}",
            f"{config.backbone.kind} {config.backbone.depth} x {config.backbone.hidden_size}",
            f"{config.encoder.depth} + {config.decoder.depth}",
            f"{cost.parameters / 1e6:.1f} M",
            f"{cost.flops / 1e9:.1f}",
        )
    Console().print(table)


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="Bundled name, folder, or owner/name on the Hugging Face hub.")
    ] = "tiny",
    out: Annotated[Path, typer.Option(help="The ONNX file.")] = Path("diffusionpose.onnx"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Write the one-step model as ONNX (opset 20), checked against torch (extra: export)."""
    _need_extra("onnxscript", "export")
    from diffusionpose.export import export_onnx

    difference = export_onnx(model, out, overwrite=overwrite)
    print(f"{out}: onnxruntime's heatmaps differ from torch's by {difference:.1e} at most")


app.command()(evaluate)
app.command()(report)
app.command()(compare)
app.command()(batch)
app.command("app")(serve_app)


@app.command()
def doctor() -> None:
    """Check the parts of this installation; exit code 1 if one does not work."""
    from diffusionpose.doctor import examine

    is_whole = True
    for finding in examine():
        print(finding, flush=True)
        is_whole = is_whole and finding.status != "broken"
    if not is_whole:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="Recipe: a YAML file.")],
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: a.b=value. May be repeated."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the run's last checkpoint.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train a model from a recipe (extra: train)."""
    from diffusionpose.recipe import read_recipe

    recipe = read_recipe(config, settings or (), data)
    _need_extra("lightning", "train")
    from diffusionpose.train import train as train_recipe

    target = out or Path("runs") / recipe.name
    folder = train_recipe(
        recipe, target, resume=resume, progress=not quiet, on_warning=lambda text: tell((), [text])
    )
    if os.environ.get("RANK", "0") == "0":
        print(f"model: {folder}")


@app.command()
def ablate(
    suite: Annotated[Path, typer.Argument(help="YAML file of rows, seeds and tables.")],
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/ablations"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of every row: a.b=value. May be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 2,
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures of the results.")] = None,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Only show the results so far; do not train.")
    ] = False,
) -> None:
    """Train and evaluate every row of a suite and print its tables; resumes if run again (extra: train)."""
    _need_extra("lightning", "train")
    from diffusionpose.ablate import Job, check_inputs, jobs_of, read_suite, run_all
    from diffusionpose.ablation_report import report

    jobs = jobs_of(suite, out, tuple(settings or ()), data)
    # Counted once: it reads the recipes of all runs, and raises if one does not fit.
    num_done = 0 if only_report else sum(job.is_done for job in jobs)

    def on_done(job: Job, is_good: bool) -> None:
        """Print one line per finished run."""
        nonlocal num_done
        num_done += is_good
        what = "done" if is_good else "FAILED"
        print(f"{num_done}/{len(jobs)} {job.run} {what}", file=sys.stderr, flush=True)

    failed = [] if only_report else run_all(jobs, workers, on_done)
    tell((), check_inputs(jobs))
    rows = read_suite(suite)
    print("\n".join(report(rows, jobs)))
    if plots is not None:
        _need_extra("matplotlib", "train")
        from diffusionpose.ablation_plots import plot_suite

        for file in plot_suite(rows, jobs, plots):
            print(f"plot: {file}", file=sys.stderr)
    if failed:
        raise DiffusionPoseError(
            f"{len(failed)} of {len(jobs)} runs failed; the first is {failed[0].run}"
        )


app.add_typer(data_app, name="data")


def _need_extra(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra)
