"""Angles in the image plane, for figures with known angles."""

import numpy as np
import pytest

from diffusionpose.angles import ANGLES, joint_angles
from diffusionpose.skeleton import POSETRACK15


def figure(**places):
    """Return (15, 2) joints of an upright person with hanging arms, except for `places`; y down."""
    points = np.full((15, 2), np.nan)
    standing = {"head_bottom": (0, 0)}
    for side, x in (("left", 10), ("right", -10)):
        for joint, y in (("shoulder", 10), ("elbow", 30), ("wrist", 50), ("hip", 60), ("knee", 90), ("ankle", 120)):  # fmt: skip
            standing[f"{side}_{joint}"] = (x, y)
    for joint, place in {**standing, **places}.items():
        points[POSETRACK15.index(joint)] = place
    return points


def angle(name, **places):
    found = joint_angles(figure(**places)[None], POSETRACK15.joints)
    assert found.shape == (1, len(ANGLES))
    return found[0, ANGLES.index(name)]


def test_upright_everything_is_0():
    np.testing.assert_allclose(joint_angles(figure(), POSETRACK15.joints), 0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "places", "degrees"),
    [
        ("left_elbow", {"left_wrist": (30, 30)}, 90),
        ("left_elbow", {"left_wrist": (10, 10)}, 180),
        ("right_elbow", {"right_wrist": (-30, 30)}, 90),
        ("left_knee", {"left_ankle": (10 + 30, 90 + 30)}, 45),
        ("left_shoulder", {"left_elbow": (30, 10)}, 90),
        ("right_hip", {"right_knee": (-10 - 30 * np.sqrt(3), 60 + 30)}, 60),
    ],
)
def test_bends(name, places, degrees):
    assert angle(name, **places) == pytest.approx(degrees)


@pytest.mark.parametrize(("x", "degrees"), [(50, 45), (-50, -45)])
def test_trunk_leans_to_the_pictures_right(x, degrees):
    shoulders = {"left_shoulder": (10 + x, 10), "right_shoulder": (-10 + x, 10)}
    assert angle("trunk", **shoulders) == pytest.approx(degrees)


def test_what_cannot_be_told_is_nan():
    nowhere = (np.nan, np.nan)
    assert np.isnan(angle("left_elbow", left_wrist=nowhere))
    assert np.isnan(angle("left_elbow", left_wrist=(10, 30))), "a forearm without length"
    assert np.isnan(angle("trunk", left_hip=nowhere))
    assert angle("right_elbow", left_wrist=nowhere) == pytest.approx(0)
    assert np.isnan(joint_angles(np.zeros((2, 3, 2)), ("a", "b", "c"))).all()


def test_turning_the_picture_changes_the_trunk_only():
    turn = np.array([[0, 1], [-1, 0]])  # a quarter
    places = figure(left_wrist=(30, 35), right_ankle=(-30, 100))
    before, after = (joint_angles(p, POSETRACK15.joints) for p in (places, places @ turn))
    np.testing.assert_allclose(before[:-1], after[:-1], atol=1e-9)
    assert abs(after[-1] - before[-1]) == pytest.approx(90)


def test_limbs_without_length_have_no_angle():
    assert np.isnan(angle("left_elbow", left_elbow=(10, 10))), "an upper arm without length"
    level = {f"{side}_shoulder": (x, 60) for side, x in (("left", 10), ("right", -10))}
    assert np.isnan(angle("trunk", **level))
