"""Boxes by which people are cropped."""

from dataclasses import replace

import numpy as np
import pytest

from diffusionpose.annotated_poses import detected_boxes, true_boxes
from diffusionpose.data.detections import Detections
from diffusionpose.structures import Boxes
from tests.metrics.made import video, whole_person


@pytest.mark.parametrize("size", [(120, 160), None])
def test_the_same_boxes_are_cut_alike_whether_true_or_detected(size):
    boxes = np.array([[-20.0, 10, 60, 140], [40, 20, 90, 100]])
    people = [replace(whole_person((50, 60), size=40), box=box) for box in boxes]
    one = video("v", people)
    (frame,) = one.frames
    one = replace(one, frames=(replace(frame, size=size, frame_id=7),))
    beyond = np.array([[170.0, 10, 200, 60]])
    # A person outside the image comes first, and leaves no gap in the numbering.
    listed = np.concatenate([beyond, boxes]) if size else boxes
    scores = np.linspace(0.9, 0.5, len(listed))
    detections = Detections({7: Boxes(listed, scores)}, 0, 0, 0)
    true, found = true_boxes([one]), detected_boxes([one], detections)
    assert [box.number for box in found] == [box.number for box in true] == [0, 1]
    for a, b in zip(true, found, strict=True):
        np.testing.assert_array_equal(a.box, b.box)
    assert [box.score for box in found] == pytest.approx(scores[-2:].tolist())
    assert found[0].box.tolist() == ([0, 10, 60, 120] if size else [-20, 10, 60, 140])
