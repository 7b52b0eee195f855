"""The bundled detector: input sizes, decoding of boxes, and a drawn person."""

import numpy as np
import pytest

from diffusionpose.boxes import pairwise_iou
from diffusionpose.detection import NanoDetDetector
from diffusionpose.detection.nanodet import PIXELS, _decode, input_size
from tests.detection.helpers import assert_inside, draw_person, picture


@pytest.fixture(scope="module")
def nanodet() -> NanoDetDetector:
    return NanoDetDetector()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (256, 320)),
        (1080, 1920, (224, 384)),
        (1920, 1080, (384, 224)),
        (7, 7, (288, 288)),
    ],
)
def test_pictures_keep_their_shape_in_whole_cells(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    assert input_size(height, width) == expected


@pytest.mark.parametrize(("height", "width"), [(1, 5000), (5000, 1), (3, 900), (1, 1)])
def test_the_strangest_picture_costs_no_more_than_others(height: int, width: int) -> None:
    rows, columns = input_size(height, width)
    assert rows % 32 == columns % 32 == 0
    assert 32 * 32 <= rows * columns <= 1.2 * PIXELS


def test_a_side_lies_at_the_mean_of_its_distribution() -> None:
    """At row 1, column 2 of stride 16, sides are 2 (left), 1 (top), 1.5 and 0 strides away."""
    level = np.full((1 + 4 * 11, 3, 4), -50.0, np.float32)
    level[0, 1, 2] = 0.0
    for start, bins in ((1, [2]), (12, [1]), (23, [1, 2]), (34, [0])):
        for number in bins:
            level[start + number, 1, 2] = 5.0
    boxes, scores = _decode(level, 16, floor=0.4)
    assert scores == pytest.approx([0.5])
    assert boxes == pytest.approx(np.array([[40 - 32, 24 - 16, 40 + 24, 24]]), abs=1e-3)


@pytest.mark.parametrize("x", [200, 440])
def test_finds_the_person_where_it_is(nanodet: NanoDetDetector, x: int) -> None:
    image = draw_person(480, 640, x=x, feet=440, size=360)
    (boxes,) = nanodet([image])
    truth = np.array([[x - 0.19 * 360, 80, x + 0.19 * 360, 445]])
    assert boxes.scores[0] > nanodet.start_score
    assert pairwise_iou(boxes.boxes[:1], truth)[0, 0] > 0.6
    assert_inside(boxes, image)


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (1200, 40), (480, 640)])
def test_takes_any_size(nanodet: NanoDetDetector, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    for boxes in nanodet([image, image]):
        assert_inside(boxes, image)
