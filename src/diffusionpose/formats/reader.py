"""Reader of `NAME.poses.json`; a `DataError` says what is wrong with a file."""

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from diffusionpose.errors import DataError
from diffusionpose.formats.schema import (
    SCHEMA,
    SCHEMA_VERSION,
    FrameRecord,
    PersonRecord,
    PosesRecord,
    VerdictRecord,
    VideoRecord,
    check_track_ids,
)
from diffusionpose.formats.text import SECOND_DECIMALS, counted, ratio_text
from diffusionpose.paths import check_regular
from diffusionpose.skeleton import Skeleton
from diffusionpose.structures import (
    NO_TRACK,
    FramePoses,
    PersonPose,
    PosesHeader,
    VideoInfo,
    VideoIssue,
    VideoVerdict,
)

_VIDEO, _HEAD_BYTES = b'"video": ', 1 << 16


def read_poses(
    path: str | os.PathLike[str],
) -> tuple[PosesHeader, list[FramePoses], VideoVerdict]:
    """Read a `NAME.poses.json` into memory.

    Raises:
        DataError: If the file cannot be read, has another format, or is inconsistent.
    """
    check_regular(Path(path), DataError)
    try:
        data = Path(path).read_bytes()
    except OSError as cause:
        raise DataError(f"cannot read {path}: {cause.strerror or cause}") from cause
    try:
        _check_schema(data)
        record = PosesRecord.model_validate_json(data)
        header = _header(record)
        return header, list(_frames(record.frames, len(header.joints))), _verdict(record.verdict)
    except ValidationError as cause:
        raise DataError(f"{path}: {_first_error(cause)}") from cause
    except ValueError as cause:
        raise DataError(f"{path}: {cause}") from cause


def is_result_of(path: str | os.PathLike[str], video: VideoInfo) -> bool:
    """Whether a file is a `NAME.poses.json` of a video, by the fingerprint in its first lines."""
    if not os.path.isfile(path):
        return False
    try:
        with Path(path).open("rb") as file:
            lines = file.read(_HEAD_BYTES).splitlines()
        found = [from_json(line[len(_VIDEO) : -1]) for line in lines if line.startswith(_VIDEO)]
    except (OSError, ValueError):
        return False
    if len(found) != 1 or not isinstance(found[0], dict):
        return False
    if found[0].get("fingerprint"):
        return found[0]["fingerprint"] == video.fingerprint
    # Old files have no fingerprint, so all other facts are compared.
    facts = VideoRecord.model_validate(video).model_dump(mode="json")
    return {**found[0], "fingerprint": video.fingerprint} == facts


def _check_schema(data: bytes) -> None:
    try:
        found = from_json(data, allow_inf_nan=False)
    except ValueError as cause:
        raise ValueError(f"expected JSON, found: {cause}") from cause
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {type(found).__name__}")
    schema, version = found.get("schema"), found.get("schema_version")
    if schema != SCHEMA:
        raise ValueError(f'expected "schema": "{SCHEMA}", found {schema!r}')
    if version != SCHEMA_VERSION or isinstance(version, bool):
        writer = found.get("version")
        raise ValueError(
            f'expected "schema_version": {SCHEMA_VERSION}, found {version!r} (by version {writer!r})'
        )


def _first_error(error: ValidationError) -> str:
    """Format pydantic's first error as a path in the file and a message."""
    first, more = error.errors()[0], error.error_count() - 1
    place = ".".join(str(step) for step in first["loc"])
    rest = f" (and {counted(more, 'more error')})" if more else ""
    return f"{place}: {first['msg']}{rest}"


def _header(record: PosesRecord) -> PosesHeader:
    skeleton = Skeleton(**dict(record.skeleton))  # checks joints and limbs
    return PosesHeader(
        video=VideoInfo(**dict(record.video)),
        skeleton=skeleton.name,
        joints=skeleton.joints,
        limbs=skeleton.limbs,
        model=dict(record.model),
        settings=dict(record.settings),
        version=record.version,
    )


def _verdict(record: VerdictRecord) -> VideoVerdict:
    issues = tuple(VideoIssue(**dict(issue)) for issue in record.issues)
    verdict = VideoVerdict(record.num_packets, record.num_frames, record.duration, issues)
    if verdict.status != record.status:
        raise ValueError(
            f"verdict: status is {record.status!r}, but its issues say {verdict.status!r}"
        )
    return verdict


def _frames(records: Iterable[FrameRecord], num_joints: int) -> Iterator[FramePoses]:
    last_index, last_time = -1, -math.inf
    for record in records:
        if record.index <= last_index:
            raise ValueError(
                f"frame {record.index} follows frame {last_index}: indices must increase"
            )
        if abs(record.time - record.time_exact) > 10**-SECOND_DECIMALS:
            raise ValueError(
                f"frame {record.index}: time is {record.time}, but time_exact {ratio_text(record.time_exact)}"
            )
        time = float(record.time_exact)
        if time <= last_time:
            raise ValueError(f"frame {record.index}: time {time} s is not after {last_time} s")
        last_index, last_time = record.index, time
        people = tuple(_person(person, record.index, num_joints) for person in record.people)
        frame = FramePoses(record.index, record.time_exact, people, record.cut)
        check_track_ids(frame)
        yield frame


def _person(record: PersonRecord, index: int, num_joints: int) -> PersonPose:
    if len(record.keypoints) != num_joints:
        raise ValueError(
            f"frame {index}: {len(record.keypoints)} keypoints for {num_joints} joints"
        )
    if any(joint >= num_joints for joint in record.filled):
        raise ValueError(
            f"frame {index}: filled has joint {max(record.filled)}, but there are {num_joints} joints"
        )
    return PersonPose(
        filled=record.filled,
        track_id=NO_TRACK if record.track_id is None else record.track_id,
        box=np.array(record.box, np.float64),
        box_score=record.box_score,
        score=record.score,
        keypoints=np.array(record.keypoints, np.float64).reshape(num_joints, 3),  # null: NaN
    )
