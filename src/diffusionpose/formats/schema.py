"""`NAME.poses.json` as pydantic records: what the writer and the reader of JSON agree on."""

import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from diffusionpose.formats.text import ratio_text
from diffusionpose.structures import NO_TRACK, FramePoses

SCHEMA = "diffusionpose/poses"
SCHEMA_VERSION = 1


def _parse_ratio(value: object) -> Fraction:
    if isinstance(value, Fraction):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,40}/0*[1-9]\d{0,39}", value):
        return Fraction(value)
    raise ValueError(f"expected an exact fraction such as '1001/30000', found {value!r}")


Ratio = Annotated[
    Fraction,
    PlainValidator(_parse_ratio),
    PlainSerializer(ratio_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^-?\d+/0*[1-9]\d*$"}),
]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Box = tuple[float, float, float, float]
Joint = tuple[float | None, float | None, float]


def _whole_joint(joint: Joint) -> Joint:
    if (joint[0] is None) != (joint[1] is None):
        raise ValueError("one of x and y is null: a joint has both or neither")
    return joint


class _Record(BaseModel):
    """Keys that a later version adds are ignored; a change of meaning raises `SCHEMA_VERSION`."""

    model_config = ConfigDict(
        strict=True, allow_inf_nan=False, from_attributes=True, populate_by_name=True
    )


class VideoRecord(_Record):
    """`VideoInfo`: what the header of the video says, in display orientation."""

    name: str
    width: Count
    height: Count
    container: str
    codec: str
    rotation: Whole
    average_rate: Ratio | None
    expected_frames: Whole | None
    has_audio: bool
    fingerprint: str = ""


class IssueRecord(_Record):
    """`VideoIssue`: something lost, suspect or worth knowing."""

    code: str
    message: str
    severity: Literal["info", "partial"]
    frame: Whole | None


class VerdictRecord(_Record):
    """`VideoVerdict`: what reading the video to its end found."""

    status: Literal["ok", "partial"]
    num_packets: Count
    num_frames: Count
    duration: Ratio
    issues: tuple[IssueRecord, ...]


class SkeletonRecord(_Record):
    """The joints in the order of all keypoints, and the limbs as pairs of 0-based joint indices."""

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[Count, Count], ...]


class PersonRecord(_Record):
    """`PersonPose`: box is x0, y0, x1, y1; a joint is x, y, score, or null, null, 0 where missing.

    `filled`, left out when empty, has the joints whose places come from other frames.
    """

    track_id: Whole | None
    box: Box
    box_score: float
    score: float
    keypoints: tuple[Annotated[Joint, AfterValidator(_whole_joint)], ...]
    filled: tuple[Count, ...] = ()


class FrameRecord(_Record):
    """`FramePoses`: `time_exact` is the time, `time` the same in seconds, rounded to a microsecond.

    `cut`, left out when false, says that the frame is the first of another scene.
    """

    index: Count
    time: float
    time_exact: Ratio
    cut: bool = False
    people: tuple[PersonRecord, ...]


class PosesRecord(_Record):
    """A whole `NAME.poses.json`."""

    schema_: Literal["diffusionpose/poses"] = Field(alias="schema")
    schema_version: Literal[1]
    version: str
    video: VideoRecord
    verdict: VerdictRecord
    skeleton: SkeletonRecord
    model: dict[str, JsonValue]
    settings: dict[str, JsonValue]
    frames: tuple[FrameRecord, ...]


def poses_json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `NAME.poses.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PosesRecord.model_json_schema(by_alias=True),
    }


def check_track_ids(frame: FramePoses) -> None:
    """What the records cannot say: in one frame, no two people have one track id. The writer checks it too."""
    ids = [person.track_id for person in frame.people if person.track_id != NO_TRACK]
    if len(set(ids)) != len(ids):
        raise ValueError(f"frame {frame.index}: two people have one track id: {sorted(ids)}")
