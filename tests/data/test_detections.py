import json

import numpy as np
import pytest

from diffusionpose.annotations import AnnotatedFrame
from diffusionpose.data.detections import Detections
from diffusionpose.errors import DataError

FRAME = AnnotatedFrame("images/val/000342_mpii_test/000003.jpg", frame_id=10003420003)
ROWS = [
    {"image_name": "posetrack/000342_mpii_test/000003.jpg", "bbox": [10, 20, 30, 40], "score": 0.9},
    {"image_name": "000342_mpii_test/000003.jpg", "bbox": [1, 2, 3, 4], "score": 0.1},
    {"image_id": 0, "bbox": [5, 5, 5, 5], "score": 0.5, "category_id": 1},
    {"image_id": 0, "bbox": [6, 5, 5, 5], "score": 0.5, "category_id": 3},
]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_by_name_and_by_id(tmp_path):
    path = write(tmp_path / "boxes.json", ROWS)
    found = Detections.load(path)
    assert found.name == "boxes.json"
    np.testing.assert_allclose(found.boxes_at(FRAME).boxes, [[10, 20, 40, 60], [1, 2, 4, 6]])
    # Other categories are no people; id 0 is an id.
    zero = found.boxes_at(AnnotatedFrame("x.jpg", frame_id=0))
    np.testing.assert_allclose(zero.boxes, [[5, 5, 10, 10]])
    assert len(found.boxes_at(AnnotatedFrame("other/000003.jpg", frame_id=5))) == 0
    surer = Detections.load(path, min_score=0.2).boxes_at(FRAME)
    np.testing.assert_allclose(surer.scores, [0.9])


def test_a_folder_of_files(tmp_path):
    for number, row in enumerate(ROWS[:2]):
        write(tmp_path / f"{number}.json", [row])
    assert len(Detections.load(tmp_path).boxes_at(FRAME)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "a list of detections expected"),
        ("[1]", "image_name or image_id"),
        ([{"image_id": 1, "score": 1}], "'bbox' is missing"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}], "'score' is missing"),
        ([{"image_id": 1, "bbox": [1, 2, 0, 4], "score": 1}], "with an area"),
        ([{"image_id": 1, "bbox": [1, 2, 3], "score": 1}], "4 numbers"),
        ("[", "no valid JSON"),
    ],
)
def test_malformed_files_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"boxes\.json.*{message}"):
        Detections.load(write(tmp_path / "boxes.json", content))


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match="no detection files"):
        Detections.load(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        Detections.load(tmp_path / "x.json")
