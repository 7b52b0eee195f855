"""Person boxes from a file of the user's: its checks, and the boxes by frame."""

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
        # As float32, in which they are kept: two doubles may round to the same number.
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
                raise ValueError(f"frame {frame.index} is given twice; put its boxes together")
            seen.add(frame.index)
        return self


class BoxesFile:
    """Person boxes by frame that the user gives instead of a detector.

    The file: `{"frames": [{"index": 0, "boxes": [{"box": [x1, y1, x2, y2], "score": 1.0,
    "track_id": 3}]}]}` in pixels of the displayed image; `score` and `track_id` may be left out,
    `track_id` of all boxes or of none. A frame that is not in the file has no people.

    Args:
        frames: Boxes by index of frame, as the file has them.
        name: Goes into the settings that a result records.

    Raises:
        UsageError: If they contradict what is said here.
    """

    def __init__(self, frames: Mapping[int, Boxes], name: str = "boxes") -> None:
        for index, boxes in frames.items():
            _check_frame(index, boxes, f"boxes file {name}: frame {index}")
        if len({is_named for boxes in frames.values() for is_named in _are_named(boxes)}) > 1:
            raise UsageError(
                f"boxes file {name}: some boxes have a track_id and some have none; give all or none"
            )
        self._frames = dict(frames)
        self.name = name

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "BoxesFile":
        """Read and check a file.

        Raises:
            UsageError: With the place of the first fault and what to do.
        """
        given = _parse_boxes(Path(path))
        return cls({frame.index: _as_boxes(frame) for frame in given.frames}, Path(path).name)

    @property
    def last_index(self) -> int:
        """The highest frame index in the file, -1 when it has none."""
        return max(self._frames, default=-1)

    def boxes_at(self, index: int) -> Boxes:
        """The boxes of the frame with that index, empty where the file says nothing."""
        return self._frames.get(index, Boxes.empty())


def _are_named(boxes: Boxes) -> list[bool]:
    return (boxes.track_ids != NO_TRACK).tolist()


def _check_frame(index: int, boxes: Boxes, where: str) -> None:
    if not isinstance(index, (int, np.integer)) or index < 0:
        raise UsageError(f"{where}: frames are counted from 0, in whole numbers")
    if not isinstance(boxes, Boxes):
        raise UsageError(f"{where}: has {type(boxes).__name__}, not Boxes(boxes, scores)")
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
    """What `json` makes of an object, which silently keeps the last of two equal keys."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _json_path(place: tuple[str | int, ...]) -> str:
    """`frames[0].boxes[2].box` of pydantic's ('frames', 0, 'boxes', 2, 'box')."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).lstrip(".") or "top level"
