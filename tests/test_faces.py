"""Blurred faces are unrecognisable, and nothing else changes."""

import numpy as np
import pytest

from diffusionpose.faces import blur_faces
from diffusionpose.skeleton import COCO17, POSETRACK15
from diffusionpose.structures import PersonPose

NAN = float("nan")
BOX = np.array([60.0, 20, 140, 220])


def person(**places):
    points = np.tile([NAN, NAN, 0.0], (15, 1))
    for joint, place in places.items():
        points[POSETRACK15.index(joint)] = place
    return PersonPose(0, BOX, 0.9, 0.9, points)


def picture():
    return np.random.default_rng(0).integers(0, 256, (240, 200, 3), dtype=np.uint8)


def changed(after):
    return (after != picture()).any(-1)


HEAD = {"head_top": (100, 40, 0.9), "head_bottom": (100, 80, 0.9)}


@pytest.mark.parametrize(
    "places", [HEAD, HEAD | {"nose": (105, 60, 0.9)}, {"nose": (100, 60, 0.9), "head_bottom": (100, 80, 0.5)}]
)  # fmt: skip
def test_the_head_is_covered_and_the_rest_stays(places):
    before = picture()
    after = blur_faces(before, [person(**places)], POSETRACK15)
    np.testing.assert_array_equal(before, picture())
    where = changed(after)
    assert where[48:72, 88:112].mean() > 0.95, "the face"
    assert not where[120:].any()
    assert not where[:, :50].any()
    assert not where[:, 150:].any()


def test_what_is_covered_keeps_no_detail():
    after = blur_faces(picture(), [person(**HEAD)], POSETRACK15)[50:70, 90:110].astype(float)
    assert np.abs(np.diff(after, axis=1)).mean() < 12, "noise differs by 85 from pixel to pixel"


@pytest.mark.parametrize(
    "places", [{}, {"head_top": (100, 40, 0.1), "head_bottom": (100, 80, 0.1)}]
)
def test_without_a_sure_head_the_upper_part_of_the_box_goes(places):
    where = changed(blur_faces(picture(), [person(**places)], POSETRACK15))
    assert where[25:75, 85:115].mean() > 0.95
    assert not where[150:].any()


def test_skeletons_without_head_and_heads_outside_the_picture():
    points = np.tile([NAN, NAN, 0.0], (17, 1))
    other = PersonPose(0, BOX, 0.9, 0.9, points)
    assert changed(blur_faces(picture(), [other], COCO17))[25:75, 85:115].mean() > 0.95
    far = person(head_top=(-500, -500, 0.9), head_bottom=(-500, -450, 0.9))
    assert not changed(blur_faces(picture(), [far], POSETRACK15)).any()
    tiny = person(head_top=(0, 0, 0.9), head_bottom=(0, 0, 0.9))
    assert changed(blur_faces(picture(), [tiny], POSETRACK15)).sum() <= 9
