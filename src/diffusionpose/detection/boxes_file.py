"""Person boxes from a user's file, validated and indexed by frame."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffusionpose.boxes import check_boxes
from diffusionpose.errors import UsageError, first_line
from diffusionpose.paths import check_regular
from diffusionpose.structures import NO_TRACK, Boxes


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _GivenBox(_Strict):
    box: Annotated[
        list[Annotated[float, Field(ge=-1e6, le=1e6)]], Field(min_length=4, max_length=4)
    ]
    score: Annotated[float, Field(ge=0, le=1)] = 1.0
    track_id: Annotated[int, Field(ge=0, le=2**53)] | None = None

    @model_validator(mode="after")
    def _has_area(self) -> "_GivenBox":
        # Checked in float32, as boxes are stored: different doubles may round to the same value.
        x1, y1, x2, y2 = np.asarray(self.box, np.float32)
        if not (x1 < x2 and y1 < y2):
            raise ValueError("a box is [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
        return self


class _GivenFrame(_Strict):
    index: Annotated[int, Field(ge=0)]
    boxes: list[_GivenBox]


class _GivenFile(_Strict):
    frames: list[_GivenFrame]

    @model_validator(mode="after")
    def _frames_are_distinct(self) -> "_GivenFile":
        seen: set[int] = set()
        for frame in self.frames:
            if frame.index in seen:
                raise ValueError(
                    f"frame {frame.index} is listed twice; merge its boxes into one entry"
                )
            seen.add(frame.index)
        return self


class BoxesFile:
    """Person boxes by frame, given by the user instead of a detector.

    File format: `{"frames": [{"index": 0, "boxes": [{"box": [x1, y1, x2, y2], "score": 1.0,
    "track_id": 3}]}]}`, in pixels of the displayed image. `score` is optional; `track_id` must be
    given for all boxes or for none. Frames that are not listed have no people.

    Args:
        frames: Boxes by frame index.
        name: Recorded in the settings of results.

    Raises:
        UsageError: If boxes, scores, frame indices or track ids are invalid.
    """

    def __init__(self, frames: Mapping[int, Boxes], name: str = "boxes") -> None:
        for index, boxes in frames.items():
            _check_frame(index, boxes, f"boxes file {name}: frame {index}")
        if len({is_named for boxes in frames.values() for is_named in _are_named(boxes)}) > 1:
            raise UsageError(
                f"boxes file {name}: some boxes have a track_id and some do not; give it for all or none"
            )
        self._frames = dict(frames)
        self.name = name

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "BoxesFile":
        """Read and validate a file.

        Raises:
            UsageError: If it cannot be read or is invalid; names the place of the first error.
        """
        given = _parse_boxes(Path(path))
        return cls({frame.index: _as_boxes(frame) for frame in given.frames}, Path(path).name)

    @property
    def last_index(self) -> int:
        """The highest frame index in the file; -1 if it has no frames."""
        return max(self._frames, default=-1)

    def boxes_at(self, index: int) -> Boxes:
        """Return the boxes of a frame; empty if it is not listed."""
        return self._frames.get(index, Boxes.empty())


def _are_named(boxes: Boxes) -> list[bool]:
    return (boxes.track_ids != NO_TRACK).tolist()


def _check_frame(index: int, boxes: Boxes, where: str) -> None:
    if not isinstance(index, (int, np.integer)) or index < 0:
        raise UsageError(f"{where}: the frame index must be an integer from 0")
    if not isinstance(boxes, Boxes):
        raise UsageError(f"{where}: expected Boxes(boxes, scores), found {type(boxes).__name__}")
    check_boxes(boxes, where)
    ids, counts = np.unique(boxes.track_ids[_are_named(boxes)], return_counts=True)
    if (counts > 1).any():
        raise UsageError(f"{where}: track_id {ids[counts > 1][0]} is given to two boxes")


def _as_boxes(frame: _GivenFrame) -> Boxes:
    ids = [NO_TRACK if given.track_id is None else given.track_id for given in frame.boxes]
    coordinates = np.array([given.box for given in frame.boxes])
    return Boxes(coordinates, np.array([given.score for given in frame.boxes]), np.array(ids))


def _parse_boxes(path: Path) -> _GivenFile:
    check_regular(path, UsageError)
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except OSError as error:
        raise UsageError(f"boxes file {path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"boxes file {path}: not valid JSON ({first_line(error)})") from error
    try:
        return _GivenFile.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"boxes file {path}: {_json_path(first['loc'])}: {message}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Reject duplicate keys in JSON objects, of which `json` would silently keep the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {key!r} in an object")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a valid number in JSON")


def _json_path(place: tuple[str | int, ...]) -> str:
    """Format a pydantic location ('frames', 0, 'boxes', 2, 'box') as `frames[0].boxes[2].box`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).lstrip(".") or "top level"
