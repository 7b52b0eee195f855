"""Simulated work for workers in tests; loaded in their processes, so without torch."""

import os
import time
from pathlib import Path

from diffusionpose.app.worker import FILM, UPLOAD, ZIP, Facts, Report, Send, WorkOrder, write_zip
from diffusionpose.errors import InputRefusedError

FRAMES = 12


def quick(order: WorkOrder, send: Send) -> Facts:
    """Report twelve frames, and deliver the upload itself as the annotated video."""
    for frame in range(1, FRAMES + 1):
        send(Report(kind="frames", frames=frame, expected_frames=FRAMES))
    _deliver(order)
    return Facts(frames=FRAMES, people=1, seconds=0.48, warnings=("VFR: steps vary",))


def slow(order: WorkOrder, send: Send) -> Facts:
    """Process two frames/s, so that there is time to look."""
    for frame in range(41):
        send(Report(kind="frames", frames=frame, expected_frames=40))
        time.sleep(0.5)
    _deliver(order)
    return Facts(frames=40, people=2, seconds=1.6)


def endless(order: WorkOrder, send: Send) -> Facts:
    """Stop making progress after one frame."""
    send(Report(kind="frames", frames=1, expected_frames=FRAMES))
    time.sleep(600)
    raise AssertionError


def crash(order: WorkOrder, send: Send) -> Facts:
    """Crash as if the decoder had corrupted memory."""
    os.abort()


def refuse(order: WorkOrder, send: Send) -> Facts:
    """Refuse the upload as the reader does if it is not a video."""
    plain = f"{order.folder / UPLOAD}: no video"
    raise InputRefusedError(f"{plain}, see --help", plain=plain)


def greedy(order: WorkOrder, send: Send) -> Facts:
    """Allocate 400 MB."""
    held = b"x" * 400_000_000
    time.sleep(600)
    raise AssertionError(len(held))


def nonsense(order: WorkOrder, send: Send) -> Facts:
    """Report success without delivering anything."""
    return Facts(frames=1, people=0, seconds=0)


def _deliver(order: WorkOrder) -> None:
    results = order.folder / "results"
    results.mkdir()
    stem, film = Path(order.name).stem, (order.folder / UPLOAD).read_bytes()
    (order.folder / FILM).write_bytes(film)
    (results / f"{stem}.mp4").write_bytes(film)
    (results / f"{stem}.poses.json").write_text("{}")
    write_zip(results, order.folder / ZIP)
