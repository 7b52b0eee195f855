"""The bundled detector: its anchors and codes, and a drawn person."""

import numpy as np
import pytest

from diffusionpose.boxes import pairwise_iou
from diffusionpose.detection import SSDLiteDetector
from diffusionpose.detection import ssdlite as ssdlite_module
from tests.detection.helpers import assert_inside, draw_person, picture


@pytest.fixture(scope="module")
def ssdlite() -> SSDLiteDetector:
    return SSDLiteDetector()


def test_ssdlite_has_one_anchor_a_row_of_its_outputs(ssdlite: SSDLiteDetector) -> None:
    anchors, mirror = ssdlite_module._anchors()
    codes, logits = ssdlite._outputs(picture())
    assert anchors.shape == (1917, 4) == codes.shape
    assert logits.shape == (1917, 2)
    flipped = anchors[mirror] * [1, -1, 1, 1] + [0, 1, 0, 0]
    assert np.allclose(flipped, anchors), "mirrored twice is where it was"


def test_ssdlite_has_the_shapes_of_the_object_detection_api() -> None:
    """Heights and widths; a ratio is width over height, and the odd square comes last."""
    assert ssdlite_module._anchor_shapes(0) == pytest.approx(
        np.array([[0.1, 0.1], [0.1414, 0.2828], [0.2828, 0.1414]]), abs=1e-4
    )
    assert ssdlite_module._anchor_shapes(5) == pytest.approx(
        np.array(
            [
                [0.95, 0.95],
                [0.6718, 1.3435],
                [1.3435, 0.6718],
                [0.5485, 1.6454],
                [1.6454, 0.5485],
                [0.9747, 0.9747],
            ]
        ),
        abs=1e-4,
    )


def test_ssdlite_decodes_a_code_of_zero_to_its_anchor_and_others_by_their_scales() -> None:
    anchor = np.array([[0.5, 0.4, 0.2, 0.1]])
    assert ssdlite_module._decode(np.zeros((1, 4)), anchor) == pytest.approx(
        np.array([[0.35, 0.4, 0.45, 0.6]])
    )
    moved = ssdlite_module._decode(np.array([[10.0, -10.0, 5 * np.log(2), 0.0]]), anchor)
    assert moved == pytest.approx(np.array([[0.25, 0.5, 0.35, 0.9]]))


@pytest.mark.parametrize("x", [200, 440])
def test_ssdlite_finds_the_person_where_it_is(ssdlite: SSDLiteDetector, x: int) -> None:
    image = draw_person(480, 640, x=x, feet=440, size=360)
    (boxes,) = ssdlite([image])
    truth = np.array([[x - 0.19 * 360, 80, x + 0.19 * 360, 445]])
    assert boxes.scores[0] > ssdlite.start_score
    assert pairwise_iou(boxes.boxes[:1], truth)[0, 0] > 0.6
    assert_inside(boxes, image)


def test_ssdlite_sees_the_mirror_image_mirrored(ssdlite: SSDLiteDetector) -> None:
    image = draw_person(480, 640, x=220, feet=440, size=340)
    (boxes,), (mirrored,) = ssdlite([image]), ssdlite([np.ascontiguousarray(image[:, ::-1])])
    box = mirrored.boxes[0, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [640, 0, 640, 0]
    assert np.abs(boxes.boxes[0] - box).max() < 2


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (1200, 40), (480, 640)])
def test_ssdlite_takes_any_size(ssdlite: SSDLiteDetector, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    for boxes in ssdlite([image, image]):
        assert_inside(boxes, image)
