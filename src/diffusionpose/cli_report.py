"""The `report` command: one HTML file about a video or a result."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusionpose.cli_options import FpsOption, LookOption, say_verdict
from diffusionpose.errors import UsageError

if TYPE_CHECKING:
    from diffusionpose.poses import VideoPoses
    from diffusionpose.predict import PosePipeline
    from diffusionpose.video import VideoReader


ONLY_OF_VIDEOS = ("model", "look_at", "fps", "device", "seed")


def report(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A video, a folder of images, or a NAME.poses.json.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The HTML file; NAME.report.html by default.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="With a NAME.poses.json: the video that it was made from.")
    ] = None,
    model: Annotated[str, typer.Option(help="With a video: the model, as in predict.")] = "tiny",
    look_at: LookOption = None,
    fps: FpsOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the noise that heatmaps start from.")] = 0,
    hide_faces: Annotated[bool, typer.Option("--blur-faces", help="Cover faces.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write a page that opens offline: a video with its poses, scores, plausibility and a look inside the model."""
    from diffusionpose.formats import check_target, write_text
    from diffusionpose.predict import PosePipeline
    from diffusionpose.results import PAGE
    from diffusionpose.video import open_video

    if source.endswith(".json"):
        _refuse_options_of_videos(context)
        name = Path(source).name.removesuffix(".json").removesuffix(".poses")
        target = out or Path(f"{name}{PAGE}")
        check_target(target, [source], overwrite=overwrite)
        _of_result(Path(source), video, target, hide_faces)
        print(target)
        return
    if video is not None:
        raise UsageError("--video applies to a NAME.poses.json only: leave it out")
    with open_video(source, fps=fps) as reader:
        target = out or Path(f"{reader.info.stem}{PAGE}")
        check_target(target, [source], overwrite=overwrite)
        pipeline = PosePipeline.from_pretrained(model, device=device, seed=seed)
        watching = Watching(pipeline, reader, look_at, hide_faces=hide_faces)
        poses = watching.pipeline.whole(reader)
        write_text(target, watching.page(poses))
    print(target)
    say_verdict(poses.verdict, watching.notes)


def _refuse_options_of_videos(context: typer.Context) -> None:
    """Reject options of pose estimation for a finished result, which is only displayed."""
    for name in ONLY_OF_VIDEOS:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise UsageError(f"--{option} applies to a video, not to a result: leave it out")


def _of_result(source: Path, video: Path | None, target: Path, hide_faces: bool) -> None:
    from diffusionpose.report import make_report
    from diffusionpose.results import read_result
    from diffusionpose.video import open_video

    poses = read_result(source)
    if video is None:
        make_report(poses, target, None)
        return
    with open_video(video) as reader:
        make_report(poses, target, reader, hide_faces=hide_faces)


class Watching:
    """Observes a pipeline while it runs, and renders the report from what it saw.

    Args:
        pipeline: The pipeline to observe.
        reader: Of the video.
        look_at: Index of the frame whose denoising is shown; None for the middle one.
        hide_faces: Cover faces in the embedded video.
    """

    def __init__(
        self,
        pipeline: "PosePipeline",
        reader: "VideoReader",
        look_at: int | None,
        *,
        hide_faces: bool,
    ) -> None:
        from diffusionpose.report import Insight

        self._reader, self._hide_faces = reader, hide_faces
        self._insight = Insight(
            pipeline.network,
            look_at,
            pipeline.options.seed,
            expected_frames=reader.info.expected_frames,
        )
        self._started = time.monotonic()
        self.pipeline = pipeline.watched_by(self._insight)
        self.notes: list[str] = []
        """Notes about the page, set by `page`."""

    def page(self, poses: "VideoPoses") -> str:
        """Render the HTML, including the time since this object was made."""
        from diffusionpose.report import compose_report

        seconds = time.monotonic() - self._started
        timings = [
            ("Estimation", f"{seconds:.1f} s"),
            ("A frame", f"{1e3 * seconds / max(len(poses), 1):.0f} ms"),
            ("Device", str(self.pipeline.network.device)),
        ]
        self.notes = self._insight.notes(len(poses))
        again = self._reader.again()
        return compose_report(
            poses, again, self._insight, hide_faces=self._hide_faces, timings=timings
        )
