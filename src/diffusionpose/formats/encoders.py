"""What an encoder is, and the two that spell our own formats: JSON and CSV."""

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
    """How one format spells a result. Built from the header, which must be writable at once.

    `num_spools` lists of lines are kept between the two calls.
    """

    num_spools: int

    def __init__(self, header: PosesHeader) -> None: ...

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        """For each spool, the lines that this frame, as `rounded_frame` gives it, adds to it."""
        ...

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        """The file in pieces. Each spool may be read once."""
        ...


class JsonEncoder:
    """Everything that is known, one frame a line: `PosesRecord`."""

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
        )  # what JSON cannot hold fails before the first frame, not after the last

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        """One line a frame, as `Encoder.encode`."""
        record = {
            "index": frame.index,
            "time": rounded_seconds(frame.time),
            "time_exact": ratio_text(frame.time),
            **({"cut": True} if frame.cut else {}),
            "people": [_person_record(person) for person in frame.people],
        }
        return ([json_line(record)],)

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        """Header and verdict, then the frames, as `Encoder.compose`."""
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
    """Tidy table: a row for each frame, person and joint. Empty cells are missing values; `filled` is 0 or 1.

    `person` counts the people of one frame from 0, since `track_id` is empty without tracking.
    """

    num_spools = 1

    def __init__(self, header: PosesHeader) -> None:
        self._joints = header.joints

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        """One row a joint, as `Encoder.encode`."""
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
        """The column names, then the rows, as `Encoder.compose`."""
        del verdict
        yield ",".join(CSV_COLUMNS) + "\n"
        for line in spools[0]:
            yield f"{line}\n"
