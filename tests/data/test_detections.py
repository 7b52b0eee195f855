import json

import numpy as np
import pytest

from diffusionpose.annotations import AnnotatedFrame
from diffusionpose.data.detections import load_detections
from diffusionpose.errors import DataError


def detection(score, box=(10, 20, 30, 40), **more):
    return {"bbox": list(box), "score": score, "category_id": 1} | more


@pytest.fixture
def write(tmp_path):
    def call(content):
        path = tmp_path / "detections.json"
        path.write_text(json.dumps(content))
        return path

    return call


NAME = "images/val/000001_bonn/000004.jpg"


def test_detections_by_name_or_id_best_first(write):
    content = [
        detection(0.3, image_name=NAME),
        detection(0.9, (1, 2, 3, 4), image_name=NAME),
        detection(0.19, image_name=NAME),
        detection(0.8, image_name=NAME, category_id=3),
        detection(0.8, (5, 5, 0, 9), image_name=NAME),
        detection(0.5, image_id=10000010005),
    ]
    found = load_detections(write(content))
    assert (len(found), found.num_weak, found.num_flat, found.num_others) == (3, 1, 1, 1)
    boxes = found.boxes_at(AnnotatedFrame(NAME, frame_id=10000010004))
    np.testing.assert_array_equal(boxes.boxes, [[1, 2, 4, 6], [10, 20, 40, 60]])
    np.testing.assert_allclose(boxes.scores, [0.9, 0.3])
    assert len(found.boxes_at(AnnotatedFrame("other.jpg", frame_id=10000010005))) == 1
    assert len(found.boxes_at(AnnotatedFrame("other.jpg"))) == 0
    # Files differ in the parent folders of images.
    assert len(found.boxes_at(AnnotatedFrame(NAME.removeprefix("images/")))) == 2
    assert len(load_detections(write(content), threshold=0.0)) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bbox": []}, "expected a list"),
        ([detection(0.5)], r"\[0\]: the key 'image_id' is missing"),
        ([detection(0.5, (1, 2, 3), image_id=1)], r"\[0\]\.bbox: expected 0 or 4 numbers"),
        ([detection(0.5, (), image_id=1)], r"\[0\]: expected an image, a box and a score"),
        ([detection(None, image_id=1)], r"\[0\]: the key 'score'"),
        ([detection(float("nan"), image_id=1)], r"\[0\]\.score: expected a number up to"),
        ([detection(0.5, image_id=[1])], r"\[0\]\.image_id: expected a number"),
        ([detection(0.5, image_name=3)], r"\[0\]\.image_name: expected a string"),
    ],
)
def test_malformed_detections_are_named(write, content, message):
    with pytest.raises(DataError, match=r"detections\.json: " + message):
        load_detections(write(content))


def test_a_folder_of_files_is_one_list(tmp_path):
    with pytest.raises(DataError, match="no detection files"):
        load_detections(tmp_path)
    for number, box in enumerate([(10, 20, 30, 40), (1, 2, 3, 4)]):
        content = [detection(0.5 + number / 10, box, image_name=NAME)]
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    boxes = load_detections(tmp_path).boxes_at(AnnotatedFrame(NAME))
    np.testing.assert_array_equal(boxes.boxes, [[1, 2, 4, 6], [10, 20, 40, 60]])
