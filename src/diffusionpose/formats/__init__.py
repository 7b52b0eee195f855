"""Result files: JSON, CSV, PoseTrack18 and COCO, written frame by frame.

A format is an encoder: it turns each frame into lines of text, and in the end composes the file
from these lines. `PosesWriter` does the rest for all formats, so that

- memory use does not grow with the video: lines are spooled to disk, since facts that are only
  known at the end (the verdict, the number of frames) come before them in the file;
- files are atomic: they are composed in `.NAME.tmp-XXXXXXXX` beside the target and then renamed.

The bytes depend on the poses alone: no dates, no paths. `docs/formats.md` describes every format
for users. Pixels are those of the displayed image, x to the right, y down, integers at pixel
centres.
"""

from diffusionpose.formats.atomic_file import (
    AtomicFile,
    check_target,
    staged_text,
    write_text,
    write_texts,
)
from diffusionpose.formats.datasets import posetrack_sequence
from diffusionpose.formats.encoders import CSV_COLUMNS
from diffusionpose.formats.reader import is_result_of, read_poses
from diffusionpose.formats.schema import SCHEMA, SCHEMA_VERSION, poses_json_schema
from diffusionpose.formats.text import counted
from diffusionpose.formats.writer import FORMATS, PosesWriter, open_writers, write_poses

__all__ = [
    "CSV_COLUMNS",
    "FORMATS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "AtomicFile",
    "PosesWriter",
    "check_target",
    "counted",
    "is_result_of",
    "open_writers",
    "poses_json_schema",
    "posetrack_sequence",
    "read_poses",
    "staged_text",
    "write_poses",
    "write_text",
    "write_texts",
]
