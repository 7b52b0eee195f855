"""The `evaluate` command: its options and output."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(help="Model to run on --data, as in predict; or give --truth, --predictions."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Root of the data set, with images.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Annotation file, or a folder.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Prediction file, or a folder with the names of --truth.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option(help="posetrack-ap, pck, pckh; oks, mota (extra eval); hota (extra hota)."),
    ] = "posetrack-ap",
    split: Annotated[str, typer.Option(help="Split: a folder with annotations.")] = "val",
    layout: Annotated[
        str,
        typer.Option(
            help="Of --data: posetrack or coco; of written predictions: posetrack17, posetrack18."
        ),
    ] = "posetrack",
    annotations: Annotated[Path | None, typer.Option(help="For coco: file under --data.")] = None,
    images: Annotated[Path | None, typer.Option(help="For coco: folder under --data.")] = None,
    boxes: Annotated[str, typer.Option(help="truth, or a file or folder of detections.")] = "truth",
    box_score: Annotated[float, typer.Option(help="Minimum score of a detection.")] = 0.2,
    subset: Annotated[Path | None, typer.Option(help="List of videos or frames to use.")] = None,
    stride: Annotated[int, typer.Option(help="Use every n-th annotated frame of a video.")] = 1,
    steps: Annotated[int, typer.Option(help="DDIM steps.")] = 1,
    flip_test: Annotated[bool, typer.Option(help="Average with the mirrored crop.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise and of the resamples.")] = 0,
    batch_size: Annotated[int, typer.Option(help="People per pass; changes speed only.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    engine: Annotated[
        str | None, typer.Option(help="As in predict: torch, onnxruntime or openvino.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Resamples for the intervals; 0 for none.")] = 1000,
    table_format: Annotated[
        str, typer.Option("--format", help="Format of the table: text, markdown or latex.")
    ] = "text",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all results as JSON.")
    ] = None,
    published: Annotated[
        Path | None, typer.Option(help="YAML file of published results to add to the table.")
    ] = None,
    worst: Annotated[
        Path | None, typer.Option(help="Image file in which to show the 20 worst people.")
    ] = None,
    write_predictions: Annotated[
        Path | None, typer.Option(help="Folder for predictions in the format of poseval.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measure a model on an annotated data set, or files of predictions against files of ground truth."""
    from diffusionpose.evaluate import evaluate as evaluate_options
    from diffusionpose.evaluate_files import Deliveries
    from diffusionpose.evaluate_options import EvaluateOptions

    options = EvaluateOptions(
        metric=metric, model=model, data=data, truth=truth, predictions=predictions, split=split,
        layout=layout, annotations=annotations, images=images, subset=subset, stride=stride, boxes=boxes,
        box_score=box_score, seed=seed, num_inference_steps=steps, flip_test=flip_test,
        batch_size=batch_size, device=device, engine=engine, num_resamples=resamples,
        published=published,
    )  # fmt: skip
    deliveries = Deliveries(table_format, json_file, worst, write_predictions, overwrite)
    deliveries.check(options)
    with people_bar(quiet) as progress:
        found = evaluate_options(options, progress)
    # Printed before the files are written, so that the figures survive a failure there.
    print(deliveries.table(found), end="", flush=True)
    files = deliveries.deliver(found, options)
    tell([] if quiet else files, found.warnings)


def tell(files: Sequence[Path], warnings: Sequence[str]) -> None:
    """Print written files and warnings to stderr."""
    for file in files:
        print(f"  {file}", file=sys.stderr)
    for warning in warnings:
        print(f"diffusionpose: warning: {warning}", file=sys.stderr)


@contextmanager
def people_bar(quiet: bool) -> Iterator[Callable[[int], Callable[[], None]] | None]:
    """Show a progress bar on stderr, unless `quiet` or stderr is not a terminal.

    Yields a function that takes the number of people and returns one to call after each.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:

        def start(number: int) -> Callable[[], None]:
            """Start the bar."""
            task = progress.add_task("people", total=number)
            return lambda: progress.advance(task)

        yield start
