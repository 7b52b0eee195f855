"""Result files: JSON, CSV, PoseTrack18 and COCO, written frame by frame.

A format is an encoder: it spells one frame as lines of text, and at the end composes the file from those
lines. `PosesWriter` does the rest for all formats, so that

- memory does not grow with the video: lines wait in a spool on disk, since what is known only at the end
  (the verdict, the number of frames) stands in front of them in the file;
- a file appears under its name complete or not at all: it is composed in `.NAME.tmp-XXXXXXXX` beside it.

The bytes depend on the poses alone: no dates, no paths. `docs/formats.md` describes every format for users.
Pixels are those of the displayed image, x to the right, y down, integers at pixel centres.
"""

import csv
import io
import json
import math
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path, PurePath
from types import TracebackType
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self, TextIO

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import from_json

from diffusionpose.errors import DataError, DiffusionPoseError, UsageError
from diffusionpose.skeleton import COCO17, POSETRACK17, Skeleton, remap
from diffusionpose.structures import (
    NO_TRACK,
    FramePoses,
    PersonPose,
    PosesHeader,
    VideoInfo,
    VideoIssue,
    VideoVerdict,
)

SCHEMA = "diffusionpose/poses"
SCHEMA_VERSION = 1

PIXEL_DECIMALS = 3
SCORE_DECIMALS = 4
SECOND_DECIMALS = 6

# ------------------------------------------------------------------------------------------ numbers and text


def _rounded(values: object, decimals: int) -> np.ndarray:
    """Rounded float64; adding zero turns -0.0 into 0.0."""
    return np.round(np.asarray(values, np.float64), decimals) + 0.0


def _score(value: float) -> float:
    return round(float(value), SCORE_DECIMALS) + 0.0


def _seconds(time: Fraction) -> float:
    return round(float(time), SECOND_DECIMALS) + 0.0


def _ratio(value: Fraction) -> str:
    """`num/den`, with the denominator even where it is 1."""
    return f"{value.numerator}/{value.denominator}"


def _keypoints(person: PersonPose) -> np.ndarray:
    """(num_joints, 3) x, y, score as they are written; NaN, NaN, 0 where anything is missing."""
    raw = np.asarray(person.keypoints, np.float64)
    xy, scores = _rounded(raw[:, :2], PIXEL_DECIMALS), _rounded(raw[:, 2:], SCORE_DECIMALS)
    out = np.concatenate([xy, scores], axis=1)
    out[~np.isfinite(raw).all(axis=1)] = np.nan, np.nan, 0
    return out


def _xywh(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    return _rounded([x0, y0, x1 - x0, y1 - y0], PIXEL_DECIMALS).tolist()


def _line(record: object) -> str:
    """Strict JSON on one line: NaN is a ValueError, letters of any script stay readable.

    A file name that is not UTF-8 reaches us with lone surrogates, which no JSON file may hold.
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def _separated(lines: Iterable[str]) -> Iterator[str]:
    """The lines as the elements of a JSON array, one a line."""
    for index, line in enumerate(lines):
        yield f",\n{line}" if index else f"\n{line}"


# ---------------------------------------------------------------------- the JSON schema, for readers and writer


def _parse_ratio(value: object) -> Fraction:
    if isinstance(value, Fraction):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,40}/0*[1-9]\d{0,39}", value):
        return Fraction(value)
    raise ValueError(f"expected an exact fraction such as '1001/30000', found {value!r}")


Ratio = Annotated[
    Fraction,
    PlainValidator(_parse_ratio),
    PlainSerializer(_ratio, return_type=str),
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
    """`PersonPose`: box is x0, y0, x1, y1; a joint is x, y, score, or null, null, 0 where missing."""

    track_id: Whole | None
    box: Box
    box_score: float
    score: float
    keypoints: tuple[Annotated[Joint, AfterValidator(_whole_joint)], ...]


class FrameRecord(_Record):
    """`FramePoses`: `time_exact` is the time, `time` the same in seconds, rounded to a microsecond."""

    index: Count
    time: float
    time_exact: Ratio
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


# -------------------------------------------------------------------------------------------------- encoders


class Encoder(Protocol):
    """How one format spells a result. Built from the header, which must be writable at once.

    `num_spools` lists of lines are kept between the two calls.
    """

    num_spools: int

    def __init__(self, header: PosesHeader) -> None: ...

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        """For each spool, the lines that this frame adds to it."""
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
        _line(self._after)  # what JSON cannot hold fails before the first frame, not after the last

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        record = {
            "index": frame.index,
            "time": _seconds(frame.time),
            "time_exact": _ratio(frame.time),
            "people": [_person_record(person) for person in frame.people],
        }
        return ([_line(record)],)

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        judged = VerdictRecord.model_validate(verdict).model_dump(mode="json")
        yield "{\n"
        for key, value in {**self._before, "verdict": judged, **self._after}.items():
            yield f'"{key}": {_line(value)},\n'
        yield '"frames": ['
        yield from _separated(spools[0])
        yield "\n]\n}\n"


def _person_record(person: PersonPose) -> dict[str, object]:
    joints = _keypoints(person).tolist()
    return {
        "track_id": None if person.track_id == NO_TRACK else int(person.track_id),
        "box": _rounded(person.box, PIXEL_DECIMALS).tolist(),
        "box_score": _score(person.box_score),
        "score": _score(person.score),
        "keypoints": [[None, None, 0.0] if math.isnan(x) else [x, y, s] for x, y, s in joints],
    }


CSV_COLUMNS = ("frame", "time", "person", "track_id", "joint", "x", "y", "score")


class CsvEncoder:
    """Tidy table: a row for each frame, person and joint. Empty cells are missing values.

    `person` counts the people of one frame from 0, since `track_id` is empty without tracking.
    """

    num_spools = 1

    def __init__(self, header: PosesHeader) -> None:
        self._joints = header.joints

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(self._rows(frame))
        return (text.getvalue().splitlines(),)

    def _rows(self, frame: FramePoses) -> Iterator[tuple[object, ...]]:
        for number, person in enumerate(frame.people):
            track_id = "" if person.track_id == NO_TRACK else person.track_id
            row = (frame.index, _seconds(frame.time), number, track_id)
            for joint, (x, y, score) in zip(self._joints, _keypoints(person).tolist(), strict=True):
                yield (*row, joint, *(("", "") if math.isnan(x) else (x, y)), score)

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        del verdict
        yield ",".join(CSV_COLUMNS) + "\n"
        for line in spools[0]:
            yield f"{line}\n"


def _person_fields(
    person: PersonPose, joints: Sequence[str], target: Skeleton, visible: int
) -> tuple[list[float], list[float]]:
    """Keypoints and scores in the order of another skeleton, as COCO's family writes them.

    Returns:
        x, y, v of every joint in one list, v being `visible`, or 0, 0, 0 where missing; the scores.
    """
    rows = remap(_keypoints(person), joints, target.joints).tolist()
    written = [[0, 0, 0] if math.isnan(x) else [x, y, visible] for x, y, _ in rows]
    scores = [0.0 if math.isnan(x) else score for x, _, score in rows]
    return [value for row in written for value in row], scores


def _person_category(skeleton: Skeleton) -> str:
    """The category that both formats want; COCO's limbs count joints from 1."""
    limbs = [[a + 1, b + 1] for a, b in skeleton.limbs]
    names = {"supercategory": "person", "id": 1, "name": "person"}
    return _line({**names, "keypoints": skeleton.joints, "skeleton": limbs})


def _coco_family(
    info: str, images: Iterable[str], annotations: Iterable[str], skeleton: Skeleton
) -> Iterator[str]:
    """The frame that PoseTrack18 and COCO files share."""
    yield f'{{\n{info}"images": ['
    yield from _separated(images)
    yield '\n],\n"annotations": ['
    yield from _separated(annotations)
    yield f'\n],\n"categories": [\n{_person_category(skeleton)}\n]\n}}\n'


POSETRACK_SOURCES = {"mpii": 1, "bonn": 2, "mpiinew": 3}
_POSETRACK_NAME = re.compile(r"(\d{6})_(mpii|bonn|mpiinew)(?![a-z])")


def posetrack_sequence(name: str) -> tuple[str, int]:
    """PoseTrack's `vid_id` and the id of frame 0 of a sequence.

    Frame ids are T SSSSSS FFFF: source, sequence, frame. A video that is not named as PoseTrack's are is
    taken for sequence 000000 of source 1; the ids of its frames beyond 9999 simply go on counting.
    """
    found = _POSETRACK_NAME.match(name)
    sequence, source = found.groups() if found else ("000000", "mpii")
    return sequence, (POSETRACK_SOURCES[source] * 10**6 + int(sequence)) * 10**4


class PoseTrackEncoder:
    """PoseTrack18: 17 joints, of which the ears are always 0, 0, 0. Every frame is there."""

    num_spools = 2

    def __init__(self, header: PosesHeader) -> None:
        self._joints = header.joints
        self._folder = PurePath(header.video.name).stem
        self._vid_id, self._first_id = posetrack_sequence(header.video.name)
        self._num_frames = self._num_annotations = 0

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        image_id = self._first_id + frame.index
        self._num_frames += 1
        image = {
            "id": image_id,
            "frame_id": image_id,
            "vid_id": self._vid_id,
            "file_name": f"images/{self._folder}/{frame.index:06d}.jpg",
            "is_labeled": True,
        }
        return [_line(image)], [self._annotation(person, image_id) for person in frame.people]

    def _annotation(self, person: PersonPose, image_id: int) -> str:
        keypoints, scores = _person_fields(person, self._joints, POSETRACK17, visible=1)
        self._num_annotations += 1
        record = {
            "image_id": image_id,
            "id": self._num_annotations,
            "track_id": int(person.track_id),
            "category_id": 1,
            "bbox": _xywh(person.box),
            "keypoints": keypoints,
            "scores": scores,
        }
        return _line(record)

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        del verdict
        images, annotations = spools
        # The number of frames is known only now: each record is opened again at its last brace.
        counted = (line[:-1] + f', "nframes": {self._num_frames}}}' for line in images)
        yield from _coco_family("", counted, annotations, POSETRACK17)


class CocoEncoder:
    """COCO keypoints as a data set: 17 joints by name. Joints that COCO lacks are left out."""

    num_spools = 2

    def __init__(self, header: PosesHeader) -> None:
        self._header = header
        self._folder = PurePath(header.video.name).stem
        self._num_annotations = 0

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        image = {
            "id": frame.index,
            "file_name": f"{self._folder}/{frame.index:06d}.jpg",
            "width": self._header.video.width,
            "height": self._header.video.height,
            "time": _seconds(frame.time),
        }
        return [_line(image)], [self._annotation(person, frame.index) for person in frame.people]

    def _annotation(self, person: PersonPose, image_id: int) -> str:
        keypoints, scores = _person_fields(person, self._header.joints, COCO17, visible=2)
        bbox = _xywh(person.box)
        self._num_annotations += 1
        record = {
            "id": self._num_annotations,  # from 1: COCO's own evaluation takes id 0 for "no match"
            "image_id": image_id,
            "category_id": 1,
            "track_id": int(person.track_id),
            "keypoints": keypoints,
            "keypoint_scores": scores,
            "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
            "bbox": bbox,
            "area": round(bbox[2] * bbox[3], PIXEL_DECIMALS),
            "score": _score(person.score),
            "iscrowd": 0,
        }
        return _line(record)

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        del verdict
        version = f"diffusionpose {self._header.version}"
        info = _line({"description": self._header.video.name, "version": version})
        images, annotations = spools
        yield from _coco_family(f'"info": {info},\n', images, annotations, COCO17)


class Format(NamedTuple):
    """A result file: what its name ends in, and what spells it."""

    suffix: str
    encoder: Callable[[PosesHeader], Encoder]


FORMATS = {
    "json": Format(".poses.json", JsonEncoder),
    "csv": Format(".poses.csv", CsvEncoder),
    "posetrack": Format(".posetrack.json", PoseTrackEncoder),
    "coco": Format(".coco.json", CocoEncoder),
}

# --------------------------------------------------------------------------------------------------- writing


@contextmanager
def _explained(path: Path, error: type[DiffusionPoseError] = DiffusionPoseError) -> Iterator[None]:
    """A full disk or a folder without rights is not a bug: one line that names the file."""
    try:
        yield
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}") from cause


def _sync(path: Path) -> None:
    """To the disk, so that a loss of power after the rename cannot leave an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicFile:
    """A file that stands under its name complete or not at all.

    Write to `temporary` (it exists, empty, beside the target), then `publish`; or `discard`. The temporary of
    a killed process is named `.NAME.tmp-XXXXXXXX` and may be removed.

    Raises:
        UsageError: On making it, if the target cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.tmp-{secrets.token_hex(4)}")
        with _explained(self.path, UsageError):
            if self.path.is_dir():
                raise IsADirectoryError(f"{self.path} is a folder")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not mkstemp: its files are readable by their owner only, and stay so when renamed.
            os.close(os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

    def publish(self) -> None:
        """Moves what was written to its final name."""
        with _explained(self.path):
            _sync(self.temporary)
            os.replace(self.temporary, self.path)
            with suppress(OSError):  # Windows cannot open a folder
                _sync(self.path.parent)

    def discard(self) -> None:
        """Removes the temporary, if it is still there. Never raises."""
        with suppress(OSError):
            self.temporary.unlink()


class _Output:
    """One file in the making: an encoder, its spools, and the file that they become."""

    def __init__(self, path: Path, encoder: Encoder) -> None:
        self.file = AtomicFile(path)
        self._encoder = encoder
        self._spools: list[TextIO] = []
        try:
            with _explained(path, UsageError):
                for _ in range(encoder.num_spools):
                    self._spools.append(_spool(path.parent))
        except BaseException:
            self.discard()
            raise

    def write(self, frame: FramePoses) -> None:
        for spool, lines in zip(self._spools, self._encoder.encode(frame), strict=True):
            spool.writelines(f"{line}\n" for line in lines)

    def compose(self, verdict: VideoVerdict) -> None:
        with open(self.file.temporary, "w", encoding="utf-8", newline="\n") as target:
            target.writelines(self._encoder.compose(verdict, *map(_replayed, self._spools)))

    def discard(self) -> None:
        for spool in self._spools:
            with suppress(OSError):  # closing flushes, which fails again where the disk is full
                spool.close()
        self.file.discard()


def _spool(folder: Path) -> TextIO:
    """Lines on disk, beside the target since /tmp may be memory; without a name, so a kill leaves nothing."""
    return tempfile.TemporaryFile(
        "w+", encoding="utf-8", newline="\n", dir=folder, prefix=".diffusionpose.tmp-"
    )


def _replayed(spool: TextIO) -> Iterator[str]:
    spool.seek(0)
    for line in spool:
        yield line.removesuffix("\n")


def _check_track_ids(frame: FramePoses) -> None:
    ids = [person.track_id for person in frame.people if person.track_id != NO_TRACK]
    if len(set(ids)) != len(ids):
        raise ValueError(f"frame {frame.index}: two people have one track id: {sorted(ids)}")


class PosesWriter:
    """Writes one result in several formats, a frame at a time.

    Use as a context manager and end with `close(verdict)`; leaving the block in any other way removes
    everything. To publish other files at the same moment, call `stage`, then `publish`.

    Args:
        header: Of the result.
        targets: Files to write, each with the name of its format.

    Raises:
        UsageError: If a file cannot be written there.
    """

    def __init__(self, header: PosesHeader, targets: Iterable[tuple[Path, str]]) -> None:
        self._header = header
        self._last_index = -1
        self._state: Literal["open", "staged", "published", "discarded"] = "open"
        self._outputs: list[_Output] = []
        try:
            for path, name in targets:
                self._outputs.append(_Output(Path(path), FORMATS[name].encoder(header)))
        except BaseException:
            self.discard()
            raise

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files under their final names."""
        return tuple(output.file.path for output in self._outputs)

    def write(self, frame: FramePoses) -> None:
        """Appends a frame.

        Raises:
            ValueError: The frame is out of order or does not fit the header.
            DiffusionPoseError: It cannot be written, for example since the disk is full.
        """
        self._expect("open")
        self._check(frame)
        self._last_index = frame.index
        for output in self._outputs:
            with _explained(output.file.path):
                output.write(frame)

    def close(self, verdict: VideoVerdict) -> None:
        """Completes all files and gives them their names."""
        self.stage(verdict)
        self.publish()

    def stage(self, verdict: VideoVerdict) -> None:
        """Completes all files under their temporary names."""
        self._expect("open")
        for output in self._outputs:
            with _explained(output.file.path):
                output.compose(verdict)
        self._state = "staged"

    def publish(self) -> None:
        """Gives the completed files their names."""
        self._expect("staged")
        for output in self._outputs:
            output.file.publish()
        self._state = "published"
        self.discard()

    def discard(self) -> None:
        """Removes what is not published."""
        for output in self._outputs:
            output.discard()
        if self._state != "published":
            self._state = "discarded"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()
        if kind is None and self._state != "published":
            raise RuntimeError("poses were written but not closed with a verdict: removed")

    def _expect(self, state: str) -> None:
        if self._state != state:
            raise ValueError(f"the writer is {self._state}, not {state}")

    def _check(self, frame: FramePoses) -> None:
        """What no reader could make sense of is refused at the frame that brings it."""
        if frame.index <= self._last_index:
            raise ValueError(f"frame {frame.index} comes after frame {self._last_index}")
        shape = (len(self._header.joints), 3)
        for person in frame.people:
            if np.shape(person.keypoints) != shape:
                found = np.shape(person.keypoints)
                raise ValueError(f"frame {frame.index}: keypoints are {found}, not {shape}")
            if not np.isfinite([*person.box, person.box_score, person.score]).all():
                raise ValueError(f"frame {frame.index}: a box or score is not finite")
        _check_track_ids(frame)


def open_writers(
    formats: Sequence[str], out_dir: str | os.PathLike[str], name: str, header: PosesHeader
) -> PosesWriter:
    """A writer of `OUT_DIR/NAME` + suffix for each format; the folder is made if it is not there.

    Raises:
        UsageError: There is no such format, or the files cannot be written.
    """
    for wanted in formats:
        if wanted not in FORMATS:
            raise UsageError(f"format {wanted!r}: there are {', '.join(FORMATS)}")
    if not name or PurePath(name).name != name or "\0" in name:
        raise UsageError(f"{name!r} cannot name a file")
    folder = Path(out_dir)
    targets = [(folder / (name + FORMATS[each].suffix), each) for each in dict.fromkeys(formats)]
    return PosesWriter(header, targets)


def write_poses(
    path: str | os.PathLike[str],
    format_name: str,
    header: PosesHeader,
    frames: Iterable[FramePoses],
    verdict: VideoVerdict,
) -> None:
    """A whole result into one file of a format in `FORMATS`."""
    with PosesWriter(header, [(Path(path), format_name)]) as writer:
        for frame in frames:
            writer.write(frame)
        writer.close(verdict)


# --------------------------------------------------------------------------------------------------- reading


def read_poses(
    path: str | os.PathLike[str],
) -> tuple[PosesHeader, list[FramePoses], VideoVerdict]:
    """Reads a `NAME.poses.json`, all of it into memory.

    Raises:
        DataError: The file cannot be read, is no such file, or contradicts itself; says what was found.
    """
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
    """The first of pydantic's complaints, as a path into the file and a sentence."""
    first, more = error.errors()[0], error.error_count() - 1
    place = ".".join(str(step) for step in first["loc"])
    rest = f" (and {more} more errors)" if more else ""
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
        raise ValueError(f"verdict: status is {record.status!r}, its issues say {verdict.status!r}")
    return verdict


def _frames(records: Iterable[FrameRecord], num_joints: int) -> Iterator[FramePoses]:
    last_index = -1
    for record in records:
        if record.index <= last_index:
            raise ValueError(f"frame {record.index} comes after frame {last_index}")
        if abs(record.time - record.time_exact) > 10**-SECOND_DECIMALS:
            raise ValueError(
                f"frame {record.index}: time is {record.time}, time_exact {_ratio(record.time_exact)}"
            )
        last_index = record.index
        people = tuple(_person(person, record.index, num_joints) for person in record.people)
        frame = FramePoses(record.index, record.time_exact, people)
        _check_track_ids(frame)
        yield frame


def _person(record: PersonRecord, index: int, num_joints: int) -> PersonPose:
    if len(record.keypoints) != num_joints:
        raise ValueError(
            f"frame {index}: {len(record.keypoints)} keypoints for {num_joints} joints"
        )
    return PersonPose(
        track_id=NO_TRACK if record.track_id is None else record.track_id,
        box=np.array(record.box, np.float64),
        box_score=record.box_score,
        score=record.score,
        keypoints=np.array(record.keypoints, np.float64).reshape(num_joints, 3),  # null: NaN
    )
