"""Worker process of one job: reads the upload, writes the results, reports over a pipe.

Reports are JSON, never pickles: the worker decodes untrusted videos, so its reports are validated
like any other input.
"""

import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from diffusionpose.app.options import JobOptions
from diffusionpose.config import Frozen
from diffusionpose.errors import DiffusionPoseError
from diffusionpose.process import prepare_process
from diffusionpose.results import FILM as FILM_SUFFIX

if TYPE_CHECKING:
    from diffusionpose.predict_files import Outcome

UPLOAD, FILM, ZIP = "upload", "film.mp4", "results.zip"
"""Names of a job's files in its folder; independent of the client."""
MAX_REPORT = 1 << 16
"""Maximum size of a report in bytes."""
_REPORT_EVERY = 0.1
"""Minimum time between progress reports in seconds."""

MAX_TEXT = 500
"""Maximum length of a message in characters."""
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0)]


class Facts(Frozen):
    """Summary of a finished job; `seconds` is the duration of the video."""

    frames: Count
    people: Count
    seconds: Annotated[float, Field(ge=0)]
    is_partial: bool = False
    warnings: Annotated[tuple[Text, ...], Field(max_length=50)] = ()


class Report(Frozen):
    """Message of a worker: progress, completion or failure."""

    kind: Literal["frames", "done", "failed"]
    frames: Count = 0
    expected_frames: Count | None = None
    facts: Facts | None = None
    message: Text = ""


@dataclass(frozen=True)
class WorkOrder:
    """A job for a worker.

    Args:
        folder: Of the job; holds the upload.
        name: Safe file name for the video.
        options: Chosen by the client.
        model: As in `PosePipeline.from_pretrained`.
        device: As in `PosePipeline.from_pretrained`.
    """

    folder: Path
    name: str
    options: JobOptions
    model: str
    device: str


Send = Callable[[Report], None]
Work = Callable[[WorkOrder, Send], Facts]


def run_order(work: Work, order: WorkOrder, pipe: Connection) -> None:
    """Entry point of the worker process."""
    os.umask(0o077)
    # Ctrl-C reaches the whole process group, but only the server stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare_process()

    def send(report: Report) -> None:
        """Send a report to the server; exit if the server is gone."""
        try:
            pipe.send_bytes(report.model_dump_json().encode())
        except OSError:
            # The server was killed, so nobody else would remove the files.
            shutil.rmtree(order.folder, ignore_errors=True)
            os._exit(1)

    try:
        send(Report(kind="done", facts=work(order, send)))
    except DiffusionPoseError as error:
        send(Report(kind="failed", message=_without_paths(error, order)))


def _without_paths(error: DiffusionPoseError, order: WorkOrder) -> str:
    """Error message for the client, without local paths or command-line options."""
    text = next(iter(error.plain.strip().splitlines()), type(error).__name__)
    results = order.folder / "results"
    named = {
        order.folder / UPLOAD: order.name,
        f"{results}{os.sep}": "",
        results: "the results",
        f"{order.folder}{os.sep}": "",
        order.folder: "the results",
    }
    for path, name in named.items():
        text = text.replace(str(path), name)
    return _cut(text)


def _cut(text: str) -> str:
    """Shorten a text to `MAX_TEXT` characters at a word boundary."""
    return shorten(text, MAX_TEXT, placeholder=" …") if len(text) > MAX_TEXT else text


def predict_upload(order: WorkOrder, send: Send) -> Facts:
    """Estimate the poses of an upload; write the annotated video and a zip of all results.

    Raises:
        DiffusionPoseError: If the video cannot be read, or results cannot be written.
    """
    from diffusionpose.predict import PosePipeline
    from diffusionpose.predict_files import predict_files
    from diffusionpose.structures import FramePoses
    from diffusionpose.video import open_video

    results, last = order.folder / "results", 0.0
    with open_video(order.folder / UPLOAD) as reader:
        reader.info = replace(reader.info, name=order.name)
        expected = reader.info.expected_frames
        send(Report(kind="frames", expected_frames=expected))
        pipeline = PosePipeline.from_pretrained(
            order.model, device=order.device, detect_every=order.options.detect_every
        )

        def on_frame(poses: FramePoses) -> None:
            """Report progress at intervals, and at the last frame."""
            nonlocal last
            done, now = poses.index + 1, time.monotonic()
            if now - last >= _REPORT_EVERY or done == expected:
                last = now
                send(Report(kind="frames", frames=done, expected_frames=expected))

        outcome = predict_files(
            pipeline,
            reader,
            results,
            order.options.wanted(),
            hide_faces=order.options.blur_faces,
            on_frame=on_frame,
        )
    write_zip(results, order.folder / ZIP)
    os.replace(results / f"{Path(order.name).stem}{FILM_SUFFIX}", order.folder / FILM)
    return _facts(outcome)


def _facts(outcome: "Outcome") -> Facts:
    verdict = outcome.verdict
    warnings = [f"{issue.code}: {issue.message}" for issue in verdict.issues]
    warnings += outcome.notes
    return Facts(
        frames=verdict.num_frames,
        people=outcome.num_people,
        seconds=float(verdict.duration),
        is_partial=verdict.status == "partial",
        warnings=tuple(_cut(warning) for warning in warnings[:50]),
    )


def write_zip(results: Path, target: Path) -> None:
    """Zip all files of a folder."""
    with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in results.rglob("*") if path.is_file()):
            # Default timestamp (1980), so that equal results give equal bytes.
            entry = zipfile.ZipInfo(path.relative_to(results).as_posix())
            entry.external_attr = 0o600 << 16
            is_film = path.suffix == FILM_SUFFIX
            entry.compress_type = zipfile.ZIP_STORED if is_film else zipfile.ZIP_DEFLATED
            with (
                path.open("rb") as source,
                archive.open(entry, "w", force_zip64=True) as written,
            ):
                shutil.copyfileobj(source, written, 1 << 20)
