"""Validation of the shared data structures."""

import re
from fractions import Fraction

import numpy as np
import pytest

from diffusionpose.structures import Frame, FramePoses

PICTURE = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (PICTURE / 255, "float64 (4, 6, 3)"),
        (PICTURE[..., 0], "uint8 (4, 6)"),
        (PICTURE.transpose(2, 0, 1), "uint8 (3, 4, 6)"),
        (np.zeros((4, 6, 4), np.uint8), "uint8 (4, 6, 4)"),
        (PICTURE[:0], "uint8 (0, 6, 3)"),
        (PICTURE.tolist(), "list"),
    ],
)
def test_a_frame_has_an_rgb_picture(image, found):
    with pytest.raises(
        ValueError, match=rf"image of frame 7 must be a .* uint8 RGB array, not {re.escape(found)}"
    ):
        Frame(7, Fraction(7, 25), image)


def test_views_of_pictures_will_do():
    assert Frame(0, Fraction(0), PICTURE[:, ::-1, ::-1]).image.shape == PICTURE.shape


@pytest.mark.parametrize("time", [0.04, np.float64(1), None, "1/25"])
def test_times_are_exact(time):
    with pytest.raises(
        ValueError, match=r"time of frame 3 is .*, which is not exact: .*Fraction\(3, 25\)"
    ):
        Frame(3, time, PICTURE)
    with pytest.raises(ValueError, match=r"time of frame 3 is .*, which is not exact"):
        FramePoses(3, time)
    assert FramePoses(3, 1).time == 1
