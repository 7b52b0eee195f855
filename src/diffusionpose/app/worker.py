"""The process of one job: it reads the upload, writes the results and a zip of them, and reports over a pipe.

Reports are JSON, never pickles: the worker reads strangers' videos, and what it says is checked like any input.
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
"""Files of a job, in its folder, never named by the client."""
MAX_REPORT = 1 << 16
"""Bytes of one report."""
_REPORT_EVERY = 0.1

MAX_TEXT = 500
"""Characters of a message."""
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0)]


class Facts(Frozen):
    """What a finished job found: `seconds` is the length of the video, `warnings` what was lost or noticed."""

    frames: Count
    people: Count
    seconds: Annotated[float, Field(ge=0)]
    is_partial: bool = False
    warnings: Annotated[tuple[Text, ...], Field(max_length=50)] = ()


class Report(Frozen):
    """What a worker says: how far it is, that it is done, or why it is not."""

    kind: Literal["frames", "done", "failed"]
    frames: Count = 0
    expected_frames: Count | None = None
    facts: Facts | None = None
    message: Text = ""


@dataclass(frozen=True)
class WorkOrder:
    """What a worker is told: the job's folder with the upload in it, a safe name for that, and how."""

    folder: Path
    name: str
    options: JobOptions
    model: str
    device: str


Send = Callable[[Report], None]
Work = Callable[[WorkOrder, Send], Facts]


def run_order(work: Work, order: WorkOrder, pipe: Connection) -> None:
    """Entry point of the process."""
    os.umask(0o077)
    # Ctrl-C reaches the whole group of processes; the server is the one to end its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare_process()

    def send(report: Report) -> None:
        """Over the pipe; ends the process when nobody listens any more."""
        try:
            pipe.send_bytes(report.model_dump_json().encode())
        except OSError:
            # The server was killed: nobody is left to hear of the results, or to remove them.
            shutil.rmtree(order.folder, ignore_errors=True)
            os._exit(1)

    try:
        send(Report(kind="done", facts=work(order, send)))
    except DiffusionPoseError as error:
        send(Report(kind="failed", message=_without_paths(error, order)))


def _without_paths(error: DiffusionPoseError, order: WorkOrder) -> str:
    """What a visitor is told: nothing of where files lie here, and no options of the command line."""
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
    """As much as a report holds, up to the end of a word."""
    return shorten(text, MAX_TEXT, placeholder=" …") if len(text) > MAX_TEXT else text


def predict_upload(order: WorkOrder, send: Send) -> Facts:
    """Poses of the upload; the folder then holds the annotated video and the zip of everything.

    Raises:
        DiffusionPoseError: If the upload is no video that can be read, or something of the results cannot be made.
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
            """Reports now and then, and at the end."""
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
    """Everything in a folder."""
    with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in results.rglob("*") if path.is_file()):
            # Of 1980: the same results are the same bytes.
            entry = zipfile.ZipInfo(path.relative_to(results).as_posix())
            entry.external_attr = 0o600 << 16
            is_film = path.suffix == FILM_SUFFIX
            entry.compress_type = zipfile.ZIP_STORED if is_film else zipfile.ZIP_DEFLATED
            with (
                path.open("rb") as source,
                archive.open(entry, "w", force_zip64=True) as written,
            ):
                shutil.copyfileobj(source, written, 1 << 20)
