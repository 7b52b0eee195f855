"""Overlaps of boxes, and the suppression of duplicates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusionpose.boxes import MAX_CANDIDATES, clip_to_image, pairwise_iou, suppress_duplicates
from diffusionpose.structures import Boxes


@pytest.mark.parametrize(
    ("second", "iou"),
    [
        ([0, 0, 10, 10], 1.0),
        ([5, 0, 15, 10], 1 / 3),
        ([10, 0, 20, 10], 0.0),
        ([2, 2, 4, 4], 0.04),
        ([3, 3, 3, 3], 0.0),
    ],
)
def test_pairwise_iou(second: list[float], iou: float) -> None:
    found = pairwise_iou(np.array([[0.0, 0, 10, 10]]), np.array([second]))
    assert found == pytest.approx(np.array([[iou]]))


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.floats(0.05, 0.95))
def test_suppression_keeps_what_a_plain_loop_keeps(seed: int, count: int, max_iou: float) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (count, 2))
    boxes = Boxes(
        np.concatenate([corners, corners + rng.uniform(1, 60, corners.shape)], 1),
        rng.permutation(count) / max(count, 1),
    )
    kept: list[int] = []
    for index in np.argsort(-boxes.scores):
        if all(pairwise_iou(boxes.boxes[[index]], boxes.boxes[[k]])[0, 0] <= max_iou for k in kept):
            kept.append(int(index))
    assert suppress_duplicates(boxes, max_iou).scores.tolist() == boxes.scores[kept].tolist()


def test_boxes_apart_in_both_directions_share_nothing():
    assert pairwise_iou(np.array([[0.0, 0, 10, 10]]), np.array([[20.0, 20, 30, 30]])) == 0


def test_of_very_many_boxes_the_best_are_kept():
    count = MAX_CANDIDATES + 1
    assert count == 301
    corners = np.stack([10 * np.arange(count), np.zeros(count)], 1)
    boxes = Boxes(np.concatenate([corners, corners + 5], 1), np.linspace(0, 1, count))
    kept = suppress_duplicates(boxes, 0.5)
    assert len(kept) == MAX_CANDIDATES
    assert kept.scores.min() > 0


def test_boxes_are_clipped_to_the_image_and_dropped_without_an_area_there():
    boxes = np.array([[-5.0, -5, 200, 200], [100, 10, 120, 20], [10, 60, 20, 70], [5, 5, 5, 9]])
    found = clip_to_image(boxes, np.array([1.2, 0.5, 0.5, 0.5]), np.zeros((50, 100, 3), np.uint8))
    assert found.boxes.tolist() == [[0, 0, 100, 50]]
    assert found.scores.tolist() == [1]
