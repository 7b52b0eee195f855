"""Comparison of two movements: choice of people, figures computed by hand, tables."""

import csv
import io
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from diffusionpose.angles import ANGLES
from diffusionpose.compare import as_csv, as_text, compare, mirror, motion_range, movement_of
from diffusionpose.errors import DataError, UsageError
from diffusionpose.poses import VideoPoses
from diffusionpose.structures import FramePoses, PersonPose
from tests.formats.helpers import VERDICT
from tests.test_angles import figure
from tests.test_plausibility import HEADER

ELBOW = ANGLES.index("left_elbow")


def arm(degrees):
    """Return a standing figure whose left elbow is bent by that many degrees."""
    turn = np.deg2rad(degrees)
    return figure(left_wrist=(10 + 20 * np.sin(turn), 30 + 20 * np.cos(turn)))


def poses_of(bends, times=None, *, track_id=1, name="clip.mp4", missing=()):
    """Return poses of a left elbow bent by `bends` degrees; scores are 0.1 in `missing` frames."""
    frames = []
    for index, degrees in enumerate(bends):
        score = np.full((15, 1), 0.1 if index in missing else 0.9)
        points = arm(degrees)
        keypoints = np.hstack([points, np.where(np.isnan(points[:, :1]), 0, score)])
        person = PersonPose(track_id, np.array([0.0, 0, 50, 100]), 0.9, 0.8, keypoints)
        time = Fraction(index, 25) if times is None else Fraction(times[index]).limit_denominator(10**4)  # fmt: skip
        frames.append(FramePoses(index, time, (person,)))
    header = replace(HEADER, video=replace(HEADER.video, name=name))
    return VideoPoses.from_frames(header, frames, VERDICT)


def swing(progress):
    """Return angles in degrees of an elbow that bends twice."""
    return 60 - 50 * np.cos(4 * np.pi * np.asarray(progress))


def compared(a, b, **options):
    return compare(movement_of(a), movement_of(b), **options)


def test_a_movement_does_not_differ_from_itself():
    poses = poses_of(swing(np.linspace(0, 1, 60)), missing=(7, 8, 30))
    found = compared(poses, poses)
    assert found.mean == 0
    assert np.nanmax(np.abs(found.differences)) == 0
    assert len(found.times_a) == 57, "frames in which nothing is known are left out"


@pytest.mark.parametrize("rate", [100, 37, 8])
def test_a_movement_does_not_differ_from_its_slow_motion_at_another_rate(rate):
    poses = poses_of(swing(np.linspace(0, 1, 100)))
    moments = np.linspace(0, 1, 2 * rate)
    slow = poses_of(swing(moments**1.2), times=moments * 9.7)
    found = compared(poses, slow)
    elbow = found.figures[ELBOW]
    assert elbow.mean < (2 if rate > 8 else 6)
    assert elbow.range_a == pytest.approx(100, abs=1)
    assert found.times_b[-1] == pytest.approx(9.7)


def test_figures_by_hand():
    bends = [0, 10, 20, 90, 20, 0]
    found = compared(poses_of(bends), poses_of([b if b < 90 else 70 for b in bends]))
    elbow = found.figures[ELBOW]
    assert elbow.name == "left_elbow"
    assert elbow.mean == pytest.approx(20 / 6)
    assert elbow.largest == pytest.approx(-20)
    assert (elbow.time_a, elbow.time_b) == (0.12, 0.12)
    assert (elbow.range_a, elbow.range_b) == pytest.approx((90, 70))
    assert found.mean == pytest.approx(20 / 6 / len(ANGLES))


def test_an_angle_that_is_never_known_is_a_dash():
    poses = poses_of([0, 10, 20])
    without = poses.keypoints.copy()
    without[:, HEADER.joints.index("left_wrist")] = np.nan
    found = compared(poses, replace(poses, keypoints=without))
    elbow = found.figures[ELBOW]
    assert np.isnan([elbow.mean, elbow.largest, elbow.time_a, elbow.range_b]).all()
    (line,) = [line for line in as_text(found).splitlines() if line.startswith("left elbow")]
    assert line.split() == ["left", "elbow", "-", "-", "-", "-", "20.0", "-"]
    row = next(csv.DictReader(io.StringIO(as_csv(found))))
    assert (row["left_elbow_a"], row["left_elbow_b"], row["left_elbow_difference"]) == ("0.0", "", "")  # fmt: skip


def test_who_is_seen_most_is_compared_unless_another_is_named():
    one, other = poses_of([0] * 4, track_id=1), poses_of([50] * 9, track_id=7)
    frames = [
        FramePoses(frame.index, frame.time, (*frame.people, *(one[n].people if n < 4 else ())))
        for n, frame in enumerate(other.frames())
    ]
    poses = VideoPoses.from_frames(HEADER, frames, VERDICT)
    assert movement_of(poses).track_id == 7
    assert movement_of(poses, 1).num_frames == 4
    with pytest.raises(UsageError, match=r"clip\.mp4 has no person 2: choose from 1, 7"):
        movement_of(poses, 2)


def test_what_cannot_be_compared_is_named():
    poses = poses_of([0, 10])
    nobody = replace(poses, track_id=np.full(2, -1))
    with pytest.raises(DataError, match="nobody has a track"):
        movement_of(nobody)
    with pytest.raises(DataError, match="person 1 has no known angle"):
        movement_of(poses_of([0, 10], missing=(0, 1)))


def test_a_mirror_exchanges_sides_and_turns_the_trunk():
    angles = np.arange(1.0, len(ANGLES) + 1)
    seen = dict(zip(ANGLES, mirror(angles), strict=True))
    true = dict(zip(ANGLES, angles, strict=True))
    assert seen["left_knee"] == true["right_knee"]
    assert seen["right_shoulder"] == true["left_shoulder"]
    assert seen["trunk"] == -true["trunk"]
    np.testing.assert_array_equal(mirror(mirror(angles)), angles)


def test_a_mirrored_video_differs_by_nothing_when_mirrored():
    poses = poses_of(swing(np.linspace(0, 1, 40)))
    joints = tuple({"l": "right", "r": "left"}[j[0]] + j[j.index("_") :] if j[0] in "lr" else j for j in HEADER.joints)  # fmt: skip
    turned = replace(
        poses,
        header=replace(poses.header, joints=joints),
        keypoints=poses.keypoints * [-1, 1],
    )
    plain = compared(poses, turned)
    assert plain.mean > 5
    found = compare(movement_of(poses), movement_of(turned, mirrored=True), is_mirrored=True)
    assert found.mean == pytest.approx(0, abs=1e-6)
    assert "left and right exchanged" in as_text(found)


@pytest.mark.parametrize(
    ("angles", "degrees"),
    [([10, 40, 20], 30), ([170, -170], 20), ([5], 0), ([np.nan, 3, 9], 6), ([np.nan], np.nan)],
)
def test_ranges_of_motion(angles, degrees):
    assert motion_range(np.array(angles, float)) == pytest.approx(degrees, nan_ok=True)


def test_a_slow_videos_frames_get_moments_between_them_but_gaps_do_not():
    movement = movement_of(poses_of([0, 40, 80, 40, 0], missing=(2,)))
    fine = movement.refined(0.01)
    assert fine.num_frames == 4
    np.testing.assert_allclose(fine.times, [0, 0.01, 0.02, 0.03, 0.04, 0.12, 0.13, 0.14, 0.15, 0.16])  # fmt: skip
    expected = [0, 10, 20, 30, 40, 40, 30, 20, 10, 0]
    np.testing.assert_allclose(fine.sequence.angles[:, ELBOW], expected, atol=1e-9)
    assert movement.refined(0.04) is movement


def test_the_csv_has_times_and_differences_of_each_pair():
    found = compared(poses_of([0, 50, 0]), poses_of([0, 0, 50, 0]))
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [(row["time_a"], row["time_b"]) for row in rows][:2] == [("0.0", "0.0"), ("0.0", "0.04")]
    assert len(rows[0]) == 2 + 3 * len(ANGLES)
    assert [row["left_elbow_difference"] for row in rows] == ["0.0"] * 4
    assert not any(cell.startswith("-0.0") for row in rows for cell in row.values())


def test_what_the_other_does_during_a_gap_is_no_difference():
    bends = swing(np.linspace(0, 1, 70))
    whole, part = poses_of(bends), poses_of(bends, missing=range(20, 40))
    for one, other in ((whole, part), (part, whole)):
        found = compared(one, other)
        assert found.mean == 0
        assert found.figures[ELBOW].largest == 0
    rows = list(csv.DictReader(io.StringIO(as_csv(compared(whole, part)))))
    inside = [row for row in rows if 0.8 <= float(row["time_a"]) < 1.6]
    assert len(inside) == 20
    assert {row["left_elbow_b"] for row in inside} == {""}
    assert "" not in {row["left_elbow_a"] for row in rows}


def test_a_difference_beside_a_gap_counts():
    bends = swing(np.linspace(0, 1, 70))
    found = compared(poses_of(bends), poses_of(bends + 15, missing=range(20, 40)), band=0.05)
    assert found.figures[ELBOW].mean > 5


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ((0, 1, 9), ""),
        ((3, 4), ", unknown from 0.12 s to 0.20 s"),
        ((2, 4, 5), ", unknown in 2 gaps, 0.12 s in all, the longest from 0.16 s to 0.24 s"),
    ],
)
def test_gaps_are_named(missing, told):
    poses = poses_of([0] * 10, missing=missing)
    first, last = (0.08, 0.32) if 0 in missing else (0, 0.36)
    line = f"person 1, {10 - len(missing)} frames, {first:.2f} s to {last:.2f} s{told}"
    found = compared(poses, poses_of([0] * 30, times=np.arange(30) / 75))
    assert found.a.facts == line
    assert as_text(found).splitlines()[0] == f"A: clip.mp4, {line}"


def test_names_cannot_write_to_the_terminal():
    poses = poses_of([0, 10], name="a\x1b[31m\nb.mp4")
    assert as_text(compared(poses, poses)).startswith("A: a\\x1b[31m\\nb.mp4, person 1, 2 frames")
