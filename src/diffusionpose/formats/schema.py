"""The schema of `NAME.poses.json` as pydantic records, shared by writer and reader."""

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
        raise ValueError("x and y must both be numbers or both be null")
    return joint


class _Record(BaseModel):
    """Base of records: unknown keys are ignored; breaking changes raise `SCHEMA_VERSION`."""

    model_config = ConfigDict(
        strict=True, allow_inf_nan=False, from_attributes=True, populate_by_name=True
    )


class VideoRecord(_Record):
    """`VideoInfo`: facts from the video's header, in display orientation."""

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
    """`VideoIssue`: anything lost, suspicious or notable in the video."""

    code: str
    message: str
    severity: Literal["info", "partial"]
    frame: Whole | None


class VerdictRecord(_Record):
    """`VideoVerdict`: outcome of reading the video to its end."""

    status: Literal["ok", "partial"]
    num_packets: Count
    num_frames: Count
    duration: Ratio
    issues: tuple[IssueRecord, ...]


class SkeletonRecord(_Record):
    """Joints in the order of all keypoints, and limbs as pairs of 0-based joint indices."""

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[Count, Count], ...]


class PersonRecord(_Record):
    """`PersonPose`: box is x0, y0, x1, y1; a joint is x, y, score, or null, null, 0 where missing.

    `filled`, omitted when empty, lists the joints that were interpolated from other frames.
    """

    track_id: Whole | None
    box: Box
    box_score: float
    score: float
    keypoints: tuple[Annotated[Joint, AfterValidator(_whole_joint)], ...]
    filled: tuple[Count, ...] = ()


class FrameRecord(_Record):
    """`FramePoses`: `time_exact` is in seconds, `time` the same rounded to microseconds.

    `cut`, omitted when false, marks the first frame of a new scene.
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
    """Build the JSON Schema (draft 2020-12) of `NAME.poses.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PosesRecord.model_json_schema(by_alias=True),
    }


def check_track_ids(frame: FramePoses) -> None:
    """Check that track ids are unique within a frame; used by reader and writer.

    Raises:
        ValueError: If two people share one.
    """
    ids = [person.track_id for person in frame.people if person.track_id != NO_TRACK]
    if len(set(ids)) != len(ids):
        raise ValueError(f"frame {frame.index}: two people have the same track id: {sorted(ids)}")
