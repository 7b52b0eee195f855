"""Result files: JSON, CSV, PoseTrack18 and COCO, written frame by frame.

A format is an encoder: it spells one frame as lines of text, and at the end composes the file from those
lines. `PosesWriter` does the rest for all formats, so that

- memory does not grow with the video: lines wait in a spool on disk, since what is known only at the end
  (the verdict, the number of frames) stands in front of them in the file;
- a file appears under its name complete or not at all: it is composed in `.NAME.tmp-XXXXXXXX` beside it.

The bytes depend on the poses alone: no dates, no paths. `docs/formats.md` describes every format for users.
Pixels are those of the displayed image, x to the right, y down, integers at pixel centres.
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
