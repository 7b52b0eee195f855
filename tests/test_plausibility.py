"""Flags on frames whose pose is implausible, and on no others."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from diffusionpose.plausibility import judge, limb_names
from diffusionpose.poses import VideoPoses
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.structures import FramePoses, PersonPose
from tests.formats.helpers import VERDICT, make_header
from tests.test_angles import figure

HEADER = replace(make_header(), joints=POSETRACK15.joints, limbs=POSETRACK15.limbs)


def poses_of(figures, scores=None):
    frames = []
    for index, points in enumerate(figures):
        score = np.full((15, 1), 0.9) if scores is None else scores[index]
        keypoints = np.hstack([points, np.where(np.isnan(points[:, :1]), 0, score)])
        person = PersonPose(1, np.array([0.0, 0, 50, 100]), 0.9, 0.8, keypoints)
        frames.append(FramePoses(index, Fraction(index, 25), (person,)))
    return VideoPoses.from_frames(HEADER, frames, VERDICT)


def usual(num_frames=9):
    return [figure(head_top=(0, -20), nose=(0, -10)) for _ in range(num_frames)]


def test_a_person_who_stands_has_no_flags():
    found = judge(poses_of(usual()), 1)
    assert found.flags == ()
    np.testing.assert_allclose(found.lengths, 1)
    np.testing.assert_allclose(found.angles, 0, atol=1e-9)


def test_a_wrist_that_flies_off_is_named():
    figures = usual()
    figures[4] = figure(head_top=(0, -20), nose=(0, -10), left_wrist=(10, 100))
    flags = judge(poses_of(figures), 1).flags
    assert {flag.frame for flag in flags} == {4, 5}
    assert {flag.what for flag in flags} == {"left_elbow to left_wrist"}
    assert flags[0].why == "3.50 of its usual length"
    assert any("from 1.00 to 3.50" in flag.why for flag in flags)


def test_a_knee_bent_beyond_what_knees_do():
    figures = usual()
    figures[2] = figure(head_top=(0, -20), nose=(0, -10), right_ankle=(-10, 61))
    (flag,) = judge(poses_of(figures), 1).flags
    assert (flag.frame, flag.what) == (2, "right_knee")
    assert flag.why == "180 degrees, beyond 165"


def test_what_is_unsure_or_missing_is_not_judged():
    figures = usual()
    figures[4] = figure(head_top=(0, -20), nose=(0, -10), left_wrist=(10, 100))
    scores = [np.full((15, 1), 0.9) for _ in figures]
    scores[4][POSETRACK15.index("left_wrist")] = 0.1
    found = judge(poses_of(figures, scores), 1)
    assert found.flags == ()
    limb = limb_names(poses_of(figures)).index("left_elbow to left_wrist")
    assert np.isnan(found.lengths[4, limb])
    figures[4][POSETRACK15.index("left_wrist")] = np.nan
    assert judge(poses_of(figures), 1).flags == ()


def test_a_limb_that_turns_to_the_camera_is_fine_and_frames_apart_do_not_jump():
    figures = [figure(left_wrist=(10, 30 + length)) for length in (20, 15, 9, 6, 9, 15, 20, 20, 20)]
    assert judge(poses_of(figures), 1).flags == ()
    apart = VideoPoses.from_frames(
        HEADER,
        [poses_of([figures[0], figures[3], figures[0]])[n] for n in (0, 1)]
        + [replace(poses_of(figures)[8], index=20)],
        VERDICT,
    )
    assert all(flag.frame == 1 for flag in judge(apart, 1).flags)


def test_who_looks_larger_after_a_cut_did_not_jump():
    # The user's ids pass from one scene to the next, and the camera stands elsewhere there.
    poses = poses_of([0.7 * points for points in usual(5)] + usual(6))
    assert judge(poses, 1).flags == ()
    poses = poses_of([0.4 * points for points in usual(5)] + usual(6))
    assert {flag.frame for flag in judge(poses, 1).flags} == {5}
    cut = replace(poses, cuts=np.arange(11) == 5)
    assert judge(cut, 1).flags == ()


def test_short_limbs_are_shown_and_not_judged():
    figures = usual()
    figures[4] = figure(
        head_top=(0, -20), nose=(0, -4)
    )  # the nose lies 10 above the neck, the hips 60 below
    found = judge(poses_of(figures), 1)
    assert found.flags == ()
    assert found.lengths.max() == pytest.approx(1.6)


def test_no_such_track():
    with pytest.raises(KeyError, match="no track 5"):
        judge(poses_of(usual()), 5)


def stretched(length, at=4, **places):
    """Return a standing person whose left forearm has another length than 20 in one frame."""
    figures = usual()
    figures[at] = figure(head_top=(0, -20), nose=(0, -10), left_wrist=(10, 30 + length), **places)
    return figures


@pytest.mark.parametrize(
    ("length", "whys"), [(27.8, 0), (28.4, 1), (29.8, 1), (30.4, 3), (10.2, 0), (9.8, 2)]
)
def test_limbs_are_long_from_1_4_on_and_jump_from_a_half_on(length, whys):
    assert len(judge(poses_of(stretched(length)), 1).flags) == whys


@pytest.mark.parametrize(("score", "num_flags"), [(0.3, 3), (0.29, 0)])
def test_joints_are_judged_from_that_score_on(score, num_flags):
    scores = [np.full((15, 1), 0.9) for _ in range(9)]
    scores[4][POSETRACK15.index("left_wrist")] = score
    assert len(judge(poses_of(stretched(70), scores), 1).flags) == num_flags


@pytest.mark.parametrize(
    ("places", "what", "why"),
    [
        ({"left_wrist": (10, 11)}, "left_elbow", "180 degrees, beyond 165"),
        ({"left_knee": (10, 31), "left_ankle": (10, 1)}, "left_hip", "180 degrees, beyond 160"),
    ],
)
def test_elbows_and_hips_have_their_bands(places, what, why):
    figures = usual()
    figures[2] = figure(head_top=(0, -20), nose=(0, -10), **places)
    (flag,) = judge(poses_of(figures), 1).flags
    assert (flag.frame, flag.what, flag.why) == (2, what, why)


def test_flags_are_in_order_of_frames_which_have_the_videos_numbers():
    figures = stretched(70, at=6)
    figures[2] = figure(head_top=(0, -20), nose=(0, -10), right_ankle=(-10, 61))
    frames = [replace(frame, index=frame.index + 100) for frame in poses_of(figures).frames()]
    flags = judge(VideoPoses.from_frames(HEADER, frames, VERDICT), 1).flags
    assert [flag.frame for flag in flags] == [102, 106, 106, 107]
