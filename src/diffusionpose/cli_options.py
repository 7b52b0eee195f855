"""Options, messages and exit codes that several commands share."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from diffusionpose.results import ResultOptions
    from diffusionpose.structures import VideoVerdict

EXIT_FAILED, EXIT_PARTIAL = 1, 4

ModelOption = Annotated[
    str,
    typer.Option(
        help="Bundled name, folder, owner/name on the Hugging Face hub, or exported .onnx."
    ),
]
EngineOption = Annotated[
    str | None,
    typer.Option(help="torch, or for an exported .onnx: onnxruntime (default) or openvino."),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="Comma-separated: json, csv, posetrack, coco, parquet, npz, openpose, trc, c3d, angles. json is always written.",
    ),
]
SmoothOption = Annotated[
    str | None, typer.Option(help="Smooth the paths of joints: one-euro, or butterworth[:HZ].")
]
MinScoreOption = Annotated[
    float, typer.Option(help="Joints with a lower score become missing, before gaps are filled.")
]
FillGapsOption = Annotated[
    int, typer.Option(min=0, help="Fill gaps of up to this many frames; filled joints are marked.")
]
AnglesOption = Annotated[
    bool,
    typer.Option(
        "--angles", help="Also write NAME.angles.csv: elbows, knees, shoulders, hips, trunk."
    ),
]
BlurFacesOption = Annotated[
    bool, typer.Option("--blur-faces", help="Cover faces in the annotated video.")
]
HeightOption = Annotated[
    float | None, typer.Option(help="The person's height in metres, for trc and c3d.")
]
BoxesOption = Annotated[
    Path | None, typer.Option(help="JSON file of person boxes, used instead of the detector.")
]
DetectorOption = Annotated[
    str | None,
    typer.Option(help="YOLOX .onnx file, or a transformers detector (folder or owner/name)."),
]
DetectEveryOption = Annotated[
    int, typer.Option(help="Detect people in every n-th frame, track them in between.")
]
HoldCropsOption = Annotated[
    bool,
    typer.Option(help="Keep a crop while the person stays inside: faster, unlike the paper."),
]
FindCutsOption = Annotated[
    bool,
    typer.Option(help="Find cuts between scenes: ids do not pass from one scene to the next."),
]
FpsOption = Annotated[
    float | None, typer.Option(help="Images per second of a folder of images; 25 by default.")
]
FlipTestOption = Annotated[
    bool, typer.Option(help="Average with the mirrored crop: slower, but steadier.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that are not from this video.")
]
VideoOption = Annotated[bool, typer.Option(help="Write the annotated video.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[str, typer.Option(help="float32 or bfloat16.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the noise that heatmaps start from.")]
StepsOption = Annotated[int, typer.Option(help="DDIM steps.")]
HypothesesOption = Annotated[
    int, typer.Option(help="Noise samples per person and frame, averaged.")
]
BatchSizeOption = Annotated[int, typer.Option(help="People per pass; changes speed, not results.")]


LookOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Frame for which the report looks inside the model; by default the middle one."
    ),
]


def note(text: str) -> None:
    """Print a note to stderr."""
    print(f"note: {text}", file=sys.stderr)


def say_verdict(verdict: "VideoVerdict", notes: Iterable[str] = (), *, quiet: bool = False) -> None:
    """Print the issues of a video and notes; exit with code 4 if the video is partial."""
    if not quiet:
        for issue in verdict.issues:
            if issue.severity == "info":
                note(f"{issue.code}: {issue.message}")
        for text in notes:
            note(text)
    if verdict.status == "partial":
        for issue in verdict.issues:
            if issue.severity == "partial":
                print(f"diffusionpose: partial: {issue.code}: {issue.message}", file=sys.stderr)
        raise typer.Exit(EXIT_PARTIAL)


def names_of(text: str) -> tuple[str, ...]:
    """Split a comma-separated list and drop repetitions."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def result_options(
    formats: tuple[str, ...],
    min_score: float,
    smooth: str | None,
    fill_gaps: int,
    angles: bool,
    height: float | None,
) -> "ResultOptions":
    """Build and validate the options of result files, before anything is opened."""
    from diffusionpose.exports import ExportOptions
    from diffusionpose.postprocess import parse_smoother
    from diffusionpose.results import ResultOptions

    return ResultOptions(
        formats=(*formats, "angles") if angles else formats,
        min_score=min_score,
        fill_gaps=fill_gaps,
        smoother=None if smooth is None else parse_smoother(smooth),
        export=ExportOptions(height),
    )
