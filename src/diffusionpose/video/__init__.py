"""Reading and writing of video: files and folders of images to upright RGB frames, and back.

Files are untrusted, so FFmpeg gets little to decide:

- One regular file is opened here and passed to FFmpeg as an open file, never by name, so that no
  address, device, playlist or image pattern can be followed.
- The container format is detected from the first bytes and forced; FFmpeg's probing of formats
  never runs.
- No decoder is allowed while streams are probed, so sizes are checked before any pixel is
  allocated.

Losses are counted while reading and summarised in a `VideoVerdict`. Issue codes are stable
(`docs/formats.md` has the same table):

| code | severity | meaning |
|---|---|---|
| TRUNCATED | partial | the file ends before its header says it should |
| DAMAGED | partial | frames decoded from damaged data, or predicted from such frames |
| PACKETS_LOST | partial | packets that could not be decoded |
| PTS_GAP | partial; info in MP4, GIF | a gap in otherwise regular times: frames are missing |
| COUNT_MISMATCH | partial; info if more | the number of frames differs from that in the header |
| TIMES_REBUILT | partial | frames with non-increasing times; set one step after the previous one |
| SIZE_CHANGED | partial | frames of another size, scaled to the size of the first |
| UNREADABLE_IMAGE | partial | files in a folder that are not complete images |
| TIMES_FILLED | info | frames without a time; set one step after the previous frame |
| VFR | info | variable frame rate; the times are the file's own |
| ROTATION_IGNORED | info | a rotation that is not a multiple of 90 degrees |
| PIXELS_NOT_SQUARE | info | non-square pixels (DV, DVD), used as stored: people look stretched |
| STREAM_CHOICE | info | several video streams; the message names the one that was read |

Display matrices (rotations by 90 degrees and mirrors) and EXIF orientations are applied; a sample
aspect ratio other than 1 is not. Times are the file's own and need not start at 0.
"""

from diffusionpose.video.containers import ALLOWED_CODECS
from diffusionpose.video.files import DEFAULT_IMAGE_RATE, MAX_PIXELS
from diffusionpose.video.images import MAX_IMAGE_BYTES
from diffusionpose.video.reader import VideoReader, open_video
from diffusionpose.video.writer import WRITER_TIME_BASE, VideoWriter

__all__ = [
    "ALLOWED_CODECS",
    "DEFAULT_IMAGE_RATE",
    "MAX_IMAGE_BYTES",
    "MAX_PIXELS",
    "WRITER_TIME_BASE",
    "VideoReader",
    "VideoWriter",
    "open_video",
]
