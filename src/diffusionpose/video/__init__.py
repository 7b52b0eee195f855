"""Video files and folders of images in, upright RGB frames with true times out; and the other way.

What a stranger's file may do to us is decided before FFmpeg sees it:

- we open ONE regular file ourselves and hand FFmpeg the open file, never a name, so no address,
  device, playlist or image pattern can be followed;
- the container is chosen from the first bytes and forced; FFmpeg's own guessing never runs;
- probing may not decode (no decoder is on its list), so sizes are checked before any pixel is
  allocated.

What was lost is counted while reading and summed up in a `VideoVerdict`. Codes of issues (stable; `docs/formats.md` has the same table):

| code | severity | meaning |
|---|---|---|
| TRUNCATED | partial | the file ends before its header says it should |
| DAMAGED | partial | pictures decoded from damaged data, or predicted from such pictures |
| PACKETS_LOST | partial | packets that no picture could be decoded from |
| PTS_GAP | partial; info in MP4, GIF | a hole in otherwise even times: pictures are missing |
| COUNT_MISMATCH | partial; info if more | another number of pictures than the header promises |
| TIMES_REBUILT | partial | pictures whose times do not increase; set one step on |
| SIZE_CHANGED | partial | pictures of another size, scaled to the first one's |
| UNREADABLE_IMAGE | partial | files of a folder that are not complete images |
| TIMES_FILLED | info | pictures without a time; set one step on |
| VFR | info | steps between pictures vary; the times are the file's own |
| ROTATION_IGNORED | info | a rotation that is no multiple of 90 degrees |
| PIXELS_NOT_SQUARE | info | pixels are not square (old camcorders, DVDs), and taken as stored: people look stretched |
| STREAM_CHOICE | info | several video streams; which one was read |

Pictures keep their stored pixels: a sample aspect ratio other than 1 is not applied. Display
matrices (rotations by 90 degrees and mirrors) and EXIF orientations are. Times are the file's own
and need not start at 0.
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
