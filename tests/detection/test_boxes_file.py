"""Boxes files, valid and invalid."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusionpose.detection import BoxesFile
from diffusionpose.errors import UsageError
from diffusionpose.structures import NO_TRACK, Boxes


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def frame(index: Any = 0, *boxes: Any) -> dict[str, Any]:
    return {"index": index, "boxes": list(boxes)}


def test_a_boxes_file_gives_its_boxes(tmp_path: Path) -> None:
    content = {
        "frames": [
            frame(
                7,
                {"box": [1, 2, 3.5, 4], "score": 0.5, "track_id": 3},
                {"box": [-5, 0, 9, 9], "track_id": 0},
            ),
            frame(2),
        ]
    }
    given_boxes = BoxesFile.load(write(tmp_path / "boxes.json", content))
    boxes = given_boxes.boxes_at(7)
    assert boxes.boxes.tolist() == [[1, 2, 3.5, 4], [-5, 0, 9, 9]]
    assert boxes.scores.tolist() == [0.5, 1.0]
    assert boxes.track_ids.tolist() == [3, 0]
    assert len(given_boxes.boxes_at(2)) == len(given_boxes.boxes_at(3)) == 0
    assert given_boxes.last_index == 7
    assert given_boxes.name == "boxes.json"


def test_a_boxes_file_may_leave_ids_out(tmp_path: Path) -> None:
    content = {"frames": [frame(0, {"box": [1, 2, 3, 4]})]}
    given_boxes = BoxesFile.load(write(tmp_path / "boxes.json", content))
    assert given_boxes.boxes_at(0).track_ids.tolist() == [NO_TRACK]
    empty = BoxesFile.load(write(tmp_path / "empty.json", {"frames": []}))
    assert empty.last_index == -1


BOX = {"box": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"frames": [], "frames": []}', "duplicate key 'frames'"),
        (
            '{"frames": [{"index": 0, "boxes": [{"box": [0, 0, NaN, 1]}]}]}',
            "NaN is not a valid number",
        ),
        (
            '{"frames": [{"index": 0, "boxes": [{"box": [0, 0, 1e999, 1]}]}]}',
            r"boxes\[0\].box\[2\]",
        ),
        ('{"frames": [{"index": 0, "boxes": [{"box": [0, 0, 1e300, 1]}]}]}', "less than or equal"),
        ([], "top level"),
        ({}, "frames"),
        ({"frames": {}}, "frames: .*list"),
        ({"frames": [], "fps": 3}, "fps: .*not permitted"),
        ({"frames": [frame(-1)]}, r"frames\[0\]\.index"),
        ({"frames": [frame(1.5)]}, r"frames\[0\]\.index"),
        ({"frames": [frame(True)]}, r"frames\[0\]\.index"),
        ({"frames": [frame("1")]}, r"frames\[0\]\.index"),
        ({"frames": [frame(1), frame(2), frame(1)]}, "frame 1 is listed twice"),
        ({"frames": [frame(0, {"box": [1, 2, 3]})]}, r"frames\[0\]\.boxes\[0\]\.box"),
        ({"frames": [frame(0, {"box": [1, 2, 3, "4"]})]}, r"boxes\[0\]\.box\[3\]"),
        ({"frames": [frame(0, BOX, {"box": [3, 2, 3, 4]})]}, r"boxes\[1\]: .*x1 < x2"),
        ({"frames": [frame(0, {"box": [1, 4, 3, 2]})]}, "y1 < y2"),
        ({"frames": [frame(0, BOX | {"score": 1.5})]}, r"boxes\[0\]\.score"),
        ({"frames": [frame(0, BOX | {"track_id": -1})]}, r"boxes\[0\]\.track_id"),
        ({"frames": [frame(0, BOX | {"track_id": 2**63})]}, r"boxes\[0\]\.track_id"),
        ({"frames": [frame(0, BOX | {"id": 1})]}, r"boxes\[0\]\.id: .*not permitted"),
        ({"frames": [frame(0, BOX | {"track_id": 4}, BOX | {"track_id": 4})]}, "track_id 4"),
        ({"frames": [frame(0, BOX | {"track_id": 4}), frame(1, BOX)]}, "all or none"),
    ],
)
def test_a_wrong_boxes_file_is_one_line_with_the_place(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = write(tmp_path / "boxes.json", content)
    with pytest.raises(UsageError, match=rf"^boxes file .*boxes\.json: .*{message}") as error:
        BoxesFile.load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_an_unreadable_boxes_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        BoxesFile.load(tmp_path / "none.json")
    with pytest.raises(UsageError, match="not a regular file"):
        BoxesFile.load(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"frames": "\xe9"}')
    with pytest.raises(UsageError, match="not valid JSON"):
        BoxesFile.load(tmp_path / "latin.json")


BOX = [[1, 1, 5, 7]]


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ({"0": Boxes(BOX, [1])}, "frame 0: the frame index must be an integer from 0"),
        ({-1: Boxes(BOX, [1])}, "frame -1: the frame index must be an integer from 0"),
        ({0: np.array(BOX)}, r"expected Boxes\(boxes, scores\), found ndarray"),
        ({2: Boxes([[5, 7, 1, 1]], [1])}, "frame 2: box .* is not"),
        ({2: Boxes(BOX, [7])}, "frame 2: score 7 is not in"),
        ({2: Boxes(BOX * 2, [1, 1], [3, 3])}, "frame 2: track_id 3 is given to two boxes"),
        ({2: Boxes(BOX, [1], [3]), 3: Boxes(BOX, [1])}, "give it for all or none"),
    ],
)
def test_boxes_given_in_python_are_held_to_the_same(frames: dict, match: str) -> None:
    with pytest.raises(UsageError, match=f"boxes file boxes: .*{match}"):
        BoxesFile(frames)


def test_boxes_are_given_in_python() -> None:
    given = BoxesFile({np.int64(4): Boxes(BOX, [1]), 6: Boxes.empty()}, "mine")
    assert (given.name, given.last_index, len(given.boxes_at(4)), len(given.boxes_at(5))) == (
        "mine",
        6,
        1,
        0,
    )
