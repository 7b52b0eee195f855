"""`diffusionpose report`: one HTML file about a video or a result."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusionpose.errors import UsageError

if TYPE_CHECKING:
    from diffusionpose.poses import VideoPoses
    from diffusionpose.predict import PosePipeline
    from diffusionpose.video import VideoReader


def report(
    source: Annotated[
        str, typer.Argument(help="A video, a folder of images, or a NAME.poses.json.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The HTML file; NAME.report.html by default.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="With a NAME.poses.json: the video that it was made from.")
    ] = None,
    model: Annotated[str, typer.Option(help="With a video: as for predict.")] = "tiny",
    look_at: Annotated[
        int | None, typer.Option(help="With a video: frame to look into; the middle one.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the noise that heatmaps start from.")] = 0,
    hide_faces: Annotated[bool, typer.Option("--blur-faces", help="Cover faces.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """A video with its poses, scores, plausibility and a look inside the model: one page that opens offline."""
    from diffusionpose.formats import check_target
    from diffusionpose.results import PAGE

    name = Path(source).name.removesuffix(".json").removesuffix(".poses")
    is_result = source.endswith(".json")
    target = out or Path((name if is_result else Path(source).stem or "video") + PAGE)
    check_target(target, [source], overwrite=overwrite)
    if video is not None and not is_result:
        raise UsageError("--video goes with a NAME.poses.json: leave it out")
    if is_result:
        _of_result(Path(source), video, target, hide_faces)
    else:
        _of_video(source, target, model, look_at, device, seed, hide_faces)
    print(target)


def _of_result(source: Path, video: Path | None, target: Path, hide_faces: bool) -> None:
    from diffusionpose.poses import VideoPoses
    from diffusionpose.report import make_report
    from diffusionpose.video import open_video

    poses = VideoPoses.load(source)
    if video is None:
        make_report(poses, target, None)
        return
    with open_video(video) as reader:
        make_report(poses, target, reader, hide_faces=hide_faces)


def _of_video(
    source: str,
    target: Path,
    model: str,
    look_at: int | None,
    device: str,
    seed: int,
    hide_faces: bool,
) -> None:
    from diffusionpose.formats import write_text
    from diffusionpose.poses import VideoPoses
    from diffusionpose.predict import PosePipeline
    from diffusionpose.video import open_video

    with open_video(source) as reader:
        pipeline = PosePipeline.from_pretrained(model, device=device, seed=seed)
        pipeline, page = watched(pipeline, reader, look_at, hide_faces=hide_faces)
        frames = [poses for _, poses in pipeline.stream(reader)]
        poses = VideoPoses.from_frames(pipeline.header(reader.info), frames, reader.verdict)
        write_text(target, page(poses))


def watched(
    pipeline: "PosePipeline",
    reader: "VideoReader",
    look_at: int | None,
    *,
    hide_faces: bool,
) -> tuple["PosePipeline", Callable[["VideoPoses"], str]]:
    """The pipeline with somebody looking on, and what makes the page when its result is known."""
    from diffusionpose.report import Insight, compose_report

    expected = reader.info.expected_frames
    chosen = (expected // 2 if expected else 0) if look_at is None else look_at
    insight = Insight(pipeline.network, chosen, pipeline.options.seed)
    started = time.monotonic()

    def page(poses: "VideoPoses") -> str:
        """The page, with the time that has passed."""
        seconds = time.monotonic() - started
        timings = [
            ("Estimation", f"{seconds:.1f} s"),
            ("A frame", f"{1e3 * seconds / max(len(poses), 1):.0f} ms"),
            ("Device", str(pipeline.network.device)),
        ]
        again = reader.again()
        return compose_report(poses, again, insight, hide_faces=hide_faces, timings=timings)

    return pipeline.watched_by(insight), page
