"""Videos with barcodes: making, breaking and reading them.

The top row of every frame is a barcode (8 bits of its index, then their inverse, lowest bit first),
by which a test recognises frames.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.container import OutputContainer
from av.video.stream import VideoStream

from diffusionpose.errors import InputRefusedError
from diffusionpose.structures import VideoInfo, VideoVerdict
from diffusionpose.video import open_video

CLIPS = Path(__file__).parents[1] / "clips"
WIDTH, HEIGHT, NUM_BITS = 128, 96, 16
ODD_NAME = "кадр 漢字 🎥 'q'%03d.mp4"


def barcode_id(image: np.ndarray) -> int:
    """Read the index from the top row of an upright frame; -1 if its halves contradict."""
    centres = ((np.arange(NUM_BITS) + 0.5) * (image.shape[1] // NUM_BITS)).astype(int)
    bits = [int(image[2:6, x - 1 : x + 2].mean() > 128) for x in centres]
    index, inverse = (sum(bit << k for k, bit in enumerate(half)) for half in (bits[:8], bits[8:]))
    return index if index ^ inverse == 255 else -1


def barcode_frame(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Draw a moving texture with the barcode of `index`, (height, width, 3) uint8."""
    noise = np.random.default_rng(0).integers(60, 160, (height // 8, width // 8, 3), np.uint8)
    image = np.roll(noise.repeat(8, 0).repeat(8, 1), 3 * index, 1)
    bits = [index >> k & 1 for k in range(8)]
    for k, bit in enumerate(bits + [1 - b for b in bits]):
        image[:8, k * width // NUM_BITS : (k + 1) * width // NUM_BITS] = 235 if bit else 16
    return image


@dataclass
class Reading:
    """Everything from one pass over a video."""

    info: VideoInfo
    verdict: VideoVerdict
    ids: list[int]
    times: list[Fraction]

    @property
    def codes(self) -> set[str]:
        return {issue.code for issue in self.verdict.issues}


def read(path: Path | str, **options: Any) -> Reading:
    ids, times = [], []
    with open_video(path, **options) as reader:
        for index, frame in enumerate(reader):
            assert frame.index == index
            assert frame.image.shape == (reader.info.height, reader.info.width, 3)
            assert frame.image.dtype == np.uint8
            ids.append(barcode_id(frame.image))
            times.append(frame.time)
        return Reading(reader.info, reader.verdict, ids, times)


def add_stream(
    output: OutputContainer, codec: str, rate: int, size: tuple[int, int], options: dict[str, str]
) -> VideoStream:
    stream = cast("VideoStream", output.add_stream(codec, rate=rate, options=options))
    stream.width, stream.height = size
    stream.codec_context.gop_size = 12
    return stream


def make_video(
    path: Path,
    codec: str = "libx264",
    container: str | None = None,
    *,
    pts: list[int] | None = None,
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    container_options: dict[str, str] | None = None,
    prepare: Callable[[VideoStream], None] | None = None,
    **options: str,
) -> Path:
    """Write 60 frames with barcodes at 25 frames/s, or one for each value of `pts` (in 1/25 s)."""
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV was built without {codec}")
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        stream = add_stream(output, codec, 25, size, options)
        stream.pix_fmt = pixel_format
        if prepare:
            prepare(stream)
        for index, time_stamp in enumerate(range(60) if pts is None else pts):
            picture = av.VideoFrame.from_ndarray(barcode_frame(index, *size), format="rgb24")
            picture = picture.reformat(format=pixel_format)
            picture.pts, picture.time_base = time_stamp, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, keep: Callable[[int], bool]) -> Path:
    """Copy the video packets for whose number in decoding order `keep` is true."""
    with av.open(str(source)) as given, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        packets = (packet for packet in given.demux(video=0) if packet.size)
        for number, packet in enumerate(packets):
            if keep(number):
                packet.stream = stream
                output.mux(packet)
    return target


def cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    # An odd number of bytes, since a transport stream cut between packets looks complete.
    target.write_bytes(data[: int(len(data) * share) | 1])
    return target


def refused(path: Path | str, match: str, **options: Any) -> None:
    """Check that the source is refused within a second, in one line that names the cause."""
    start = time.monotonic()
    with pytest.raises(InputRefusedError, match=match) as caught:
        open_video(path, **options)
    assert time.monotonic() - start < 1
    assert "\n" not in str(caught.value)


def flip_packet(source: Path, target: Path, number: int) -> Path:
    """Flip bits in all but the first 40 bytes of packet `number` in decoding order."""
    with av.open(str(source)) as container:
        chosen = [packet for packet in container.demux(video=0) if packet.size][number]
        assert chosen.pos is not None
        start, end = chosen.pos + 40, chosen.pos + chosen.size
    data = bytearray(source.read_bytes())
    data[start:end] = bytes(byte ^ 0x5A for byte in data[start:end])
    target.write_bytes(data)
    return target
