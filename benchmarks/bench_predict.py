"""Speed of `predict` end to end, by stage and by option, and its memory over a long video.

    python benchmarks/bench_predict.py [LONG_FRAMES]

Stages are timed on the bundled clip, each alone with all cores and then together, as medians of
interleaved runs in one process. Options that trade time for accuracy are timed likewise, on
cropping and network only. The long video plays the clip forwards and backwards; its rows show time
per frame and process memory over the course of the video.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).parent))
from common import prepare, race, row, start_table

prepare()

import numpy as np
import typer

from diffusionpose.predict import PosePipeline
from diffusionpose.predict_files import predict_files
from diffusionpose.process import resident_bytes
from diffusionpose.render import draw_poses
from diffusionpose.stages import detect, make_tracker, scenes, track, windows
from diffusionpose.structures import Frame
from diffusionpose.video import VideoWriter, open_video

CLIP = Path(__file__).parent.parent / "examples" / "demo.mp4"
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "--flip-test": {"flip_test": True},
    "--num-hypotheses 4": {"num_hypotheses": 4},
    "--steps 4": {"num_inference_steps": 4},
    "--no-hold-crops": {"hold_crops": False},
}


def exhaust(items: Iterable[object]) -> Callable[[], None]:
    def run() -> None:
        for _ in items:
            pass

    return run


def stages(folder: Path, every: int) -> dict[str, float]:
    """Return milliseconds per frame by stage."""
    pipeline = PosePipeline.from_pretrained("tiny", device="cpu", detect_every=every)
    with open_video(CLIP) as reader:
        frames = list(reader)

    def decode() -> None:
        with open_video(CLIP) as reader:
            exhaust(reader)()

    def boxes() -> list:
        return list(
            track(detect(frames, pipeline.detector, every), make_tracker(pipeline.detector, every))
        )

    cut = list(windows(boxes()))
    done = list(pipeline.estimate(cut))
    skeleton = pipeline.network.config.skeleton_graph

    def draw_and_encode() -> None:
        height, width = frames[0].image.shape[:2]
        with VideoWriter(folder / "x.mp4", width, height, rate=Fraction(30)) as writer:
            for frame, poses in done:
                image = draw_poses(frame.image, poses.people, skeleton)
                writer.write(Frame(frame.index, frame.time, image))

    def together() -> None:
        with open_video(CLIP) as reader:
            predict_files(pipeline, reader, folder / "out", overwrite=True)

    took = race(
        {
            "decode": decode,
            "find cuts": lambda: exhaust(scenes(frames))(),
            "detect and track": boxes,
            "crop and network": lambda: exhaust(pipeline.estimate(cut))(),
            "draw and encode": draw_and_encode,
            "all, end to end": together,
        },
        seconds_each=25.0,
    )
    return {name: 1e3 * seconds / len(frames) for name, seconds in took.items()}


def option_times() -> dict[str, float]:
    """Return milliseconds per frame of cropping and network, by option."""
    pipelines = {
        name: PosePipeline.from_pretrained("tiny", device="cpu", **options)
        for name, options in OPTIONS.items()
    }
    detector = pipelines["as it is"].detector
    with open_video(CLIP) as reader:
        frames = list(reader)
    cut = list(windows(track(detect(frames, detector, 1), make_tracker(detector, 1))))
    took = race(
        {name: lambda p=p: exhaust(p.estimate(cut))() for name, p in pipelines.items()},
        seconds_each=25.0,
    )
    return {name: 1e3 * seconds / len(frames) for name, seconds in took.items()}


def long_video(num_frames: int) -> Iterator[Frame]:
    with open_video(CLIP) as reader:
        images = [frame.image for frame in reader]
    there_and_back = [*range(len(images)), *range(len(images) - 2, 0, -1)]
    for index in islice(count(), num_frames):
        image = np.ascontiguousarray(images[there_and_back[index % len(there_and_back)]])
        yield Frame(index, Fraction(index, 30), image)


def over_time(num_frames: int) -> None:
    pipeline = PosePipeline.from_pretrained("tiny", device="cpu", detect_every=3)
    start_table(["frames", "ms a frame since the last row", "MB now", "MB at most"])
    marks = [n for n in (100, 300, 1_000, 3_000, 10_000, 30_000) if n <= num_frames]
    last, since = time.perf_counter(), 0
    for done, _ in enumerate(pipeline.stream(long_video(num_frames)), start=1):
        if done in marks:
            now = time.perf_counter()
            resident = resident_bytes(os.getpid()) / 2**20
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            row(
                [
                    str(done),
                    f"{1e3 * (now - last) / (done - since):.1f}",
                    f"{resident:.0f}",
                    f"{most:.0f}",
                ]
            )
            last, since = now, done


def main(long_frames: Annotated[int, typer.Argument(min=1)] = 1000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start_table(["detector runs every", "stage", "ms a frame", "/ slowest stage"])
        for every in (1, 3):
            took = stages(Path(folder), every)
            slowest = max(ms for name, ms in took.items() if name != "all, end to end")
            for name, ms in took.items():
                row([str(every), name, f"{ms:.1f}", f"{ms / slowest:.2f}"])
    print()
    start_table(["option", "ms a frame", "/ as it is"])
    took = option_times()
    for name, ms in took.items():
        row([name, f"{ms:.1f}", f"{ms / took['as it is']:.2f}"])
    print()
    over_time(long_frames)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
