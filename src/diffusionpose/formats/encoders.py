"""The `Encoder` protocol, and the encoders of this project's own formats, JSON and CSV."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from typing import Protocol

from diffusionpose.formats.schema import SCHEMA, SCHEMA_VERSION, VerdictRecord, VideoRecord
from diffusionpose.formats.text import (
    array_items,
    json_line,
    ratio_text,
    rounded_seconds,
)
from diffusionpose.structures import NO_TRACK, FramePoses, PersonPose, PosesHeader, VideoVerdict


class Encoder(Protocol):
    """Encodes a result in one format. The constructor fails if the header cannot be encoded.

    `num_spools` lists of lines are kept between `encode` and `compose`.
    """

    num_spools: int

    def __init__(self, header: PosesHeader) -> None: ...

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        """Return the lines that a frame (from `rounded_frame`) adds to each spool."""
        ...

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        """Yield the file in pieces. Each spool can be read once."""
        ...


class JsonEncoder:
    """JSON with the complete result, one frame per line; see `PosesRecord`."""

    num_spools = 1

    def __init__(self, header: PosesHeader) -> None:
        video = VideoRecord.model_validate(header.video).model_dump(mode="json")
        skeleton = {"name": header.skeleton, "joints": header.joints, "limbs": header.limbs}
        self._before = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "version": header.version,
            "video": video,
        }
        self._after = {"skeleton": skeleton, "model": header.model, "settings": header.settings}
        json_line(
            self._after
        )  # raises now, not after the last frame, if the header is not serialisable

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        """Encode a frame as one line; see `Encoder.encode`."""
        record = {
            "index": frame.index,
            "time": rounded_seconds(frame.time),
            "time_exact": ratio_text(frame.time),
            **({"cut": True} if frame.cut else {}),
            "people": [_person_record(person) for person in frame.people],
        }
        return ([json_line(record)],)

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        """Compose header, verdict and frames; see `Encoder.compose`."""
        judged = VerdictRecord.model_validate(verdict).model_dump(mode="json")
        yield "{\n"
        for key, value in {**self._before, "verdict": judged, **self._after}.items():
            yield f'"{key}": {json_line(value)},\n'
        yield '"frames": ['
        yield from array_items(spools[0])
        yield "\n]\n}\n"


def _person_record(person: PersonPose) -> dict[str, object]:
    joints = person.keypoints.tolist()
    return {
        "track_id": None if person.track_id == NO_TRACK else int(person.track_id),
        "box": person.box.tolist(),
        "box_score": person.box_score,
        "score": person.score,
        "keypoints": [[None, None, 0.0] if math.isnan(x) else [x, y, s] for x, y, s in joints],
        **({"filled": list(person.filled)} if person.filled else {}),
    }


CSV_COLUMNS = ("frame", "time", "person", "track_id", "joint", "x", "y", "score", "filled")


class CsvEncoder:
    """Tidy CSV table with a row for each frame, person and joint.

    Empty cells are missing values; `filled` is 0 or 1. `person` numbers the people of a frame from
    0, since `track_id` is empty without tracking.
    """

    num_spools = 1

    def __init__(self, header: PosesHeader) -> None:
        self._joints = header.joints

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        """Encode a frame as one row per person and joint; see `Encoder.encode`."""
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(self._rows(frame))
        return (text.getvalue().splitlines(),)

    def _rows(self, frame: FramePoses) -> Iterator[tuple[object, ...]]:
        for number, person in enumerate(frame.people):
            track_id = "" if person.track_id == NO_TRACK else person.track_id
            row = (frame.index, rounded_seconds(frame.time), number, track_id)
            rows = zip(self._joints, person.keypoints.tolist(), strict=True)
            for index, (joint, (x, y, score)) in enumerate(rows):
                place = ("", "") if math.isnan(x) else (x, y)
                yield (*row, joint, *place, score, int(index in person.filled))

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        """Compose column names and rows; see `Encoder.compose`."""
        del verdict
        yield ",".join(CSV_COLUMNS) + "\n"
        for line in spools[0]:
            yield f"{line}\n"
