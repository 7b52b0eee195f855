"""Filling of gaps and smoothing of paths, by true times."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from diffusionpose import postprocess
from diffusionpose.errors import UsageError
from diffusionpose.poses import VideoPoses
from diffusionpose.postprocess import (
    Butterworth,
    OneEuro,
    drop_weak,
    fill_gaps,
    parse_smoother,
    smooth,
)
from diffusionpose.structures import NO_TRACK, FramePoses, PersonPose
from tests.formats.helpers import VERDICT, make_header

JOINTS = ("head_top", "left_wrist", "right_wrist")
NAN = float("nan")


def make_poses(paths, times=None, absent=()):
    """Make a track from paths (frames, joints, 2), NaN where missing, and an untracked person."""
    rate = Fraction(1, 30)
    frames = []
    for index, path in enumerate(paths):
        score = np.where(np.isnan(path[:, :1]), 0, 0.5 + 0.01 * index)
        person = PersonPose(
            3, np.array([0.0, 0, 50, 100 + index]), 0.9, 0.8, np.hstack([path, score])
        )
        other = replace(person, track_id=NO_TRACK)
        time = rate * index if times is None else times[index]
        frames.append(FramePoses(index, time, (other, person) if index not in absent else (other,)))
    return VideoPoses.from_frames(make_header(JOINTS), frames, VERDICT)


def straight(num_frames=12):
    """Return joints that move uniformly."""
    at = np.arange(float(num_frames))[:, None]
    return np.stack([np.hstack([a * at + 5, b * at]) for a, b in ((1, 2), (3, -1), (0, 4))], 1)


def test_a_short_gap_of_a_joint_is_filled_and_marked():
    paths = straight()
    paths[4:6, 1] = NAN
    found = fill_gaps(make_poses(paths), 2)
    track = found.track(3)
    np.testing.assert_allclose(track.keypoints, straight(), atol=1e-9)
    assert track.keypoint_scores[4:6, 1] == pytest.approx([0.53, 0.53]), "the lower of both ends"
    marked = found.filled[found.track_id == 3]
    assert np.argwhere(marked).tolist() == [[4, 1], [5, 1]]
    assert not found.filled[found.track_id == NO_TRACK].any()


def test_longer_gaps_and_ends_stay():
    paths = straight()
    paths[:2, 0] = paths[4:7, 1] = paths[9:, 2] = NAN
    poses = make_poses(paths)
    found = fill_gaps(poses, 2)
    assert not found.filled.any()
    np.testing.assert_array_equal(found.keypoints, poses.keypoints)


def test_who_is_gone_for_a_few_frames_comes_back():
    poses = make_poses(straight(), absent=(5, 6))
    assert fill_gaps(poses, 1).frame_index.tolist() == poses.frame_index.tolist()
    found = fill_gaps(poses, 2)
    track = found.track(3)
    assert track.present.all()
    np.testing.assert_allclose(track.keypoints, straight(), atol=1e-9)
    np.testing.assert_allclose(track.box[5:7, 3], [105, 106])
    assert found[5].people[1].filled == (0, 1, 2)
    assert [person.track_id for person in found[5].people] == [NO_TRACK, 3]


def test_a_path_is_filled_by_time_and_not_by_number():
    times = [Fraction(n, 30) for n in (0, 1, 2, 3, 9, 10, 11)]
    paths = np.stack([[[float(30 * t), 0.0]] * 3 for t in times])
    holed = paths.copy()
    holed[3, 0] = NAN
    found = fill_gaps(make_poses(holed, times), 3).track(3)
    np.testing.assert_allclose(found.keypoints, paths, atol=1e-9)


def test_frames_stay_as_they_are_without_gaps():
    poses = make_poses(straight())
    found = fill_gaps(poses, 10)
    assert next(frame.people for frame in found.frames())[0].track_id == NO_TRACK
    for name in ("frame_index", "track_id", "box", "keypoints", "keypoint_scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(poses, name))


def noisy(num_frames=120, hertz=1.0, noise=2.0, seed=0):
    """Return a swinging joint, with and without noise, at 30 frames/s."""
    time = np.arange(num_frames) / 30
    swing = np.stack([100 + 30 * np.sin(2 * np.pi * hertz * time), 50 + 20 * time], -1)
    clean = np.repeat(swing[:, None], 3, 1)
    return clean, clean + np.random.default_rng(seed).normal(0, noise, clean.shape)


@pytest.mark.parametrize("name", ["butterworth", "butterworth:4", "one-euro"])
def test_smoothing_comes_closer_to_the_truth_and_is_steadier(name):
    clean, found = noisy()
    smoothed = smooth(make_poses(found), parse_smoother(name)).track(3).keypoints
    inner = slice(10, -10)
    error = lambda paths: np.sqrt(np.square(paths - clean)[inner].mean())  # noqa: E731
    shake = lambda paths: np.abs(np.diff(paths, 2, axis=0)).mean()  # noqa: E731
    assert shake(smoothed) < 0.5 * shake(found)
    # The 1 euro filter is causal, and therefore lags.
    assert error(smoothed) < (1.6 if name == "one-euro" else 0.75) * error(found)


def test_butterworth_has_its_cutoff_and_no_lag():
    """In power, the gain is a half at the cutoff and 1 well below it; the phase is zero."""
    time = np.arange(600) / 60
    for hertz, gain in ((1.0, 1.0), (6.0, np.sqrt(0.5)), (20.0, 0.0)):
        wave = np.sin(2 * np.pi * hertz * time)
        found = Butterworth(6.0)(time, np.stack([wave, wave], 1), 100.0)[120:-120, 0]
        inner = wave[120:-120]
        assert found @ inner / (inner @ inner) == pytest.approx(gain, abs=0.03)


def test_uneven_frames_are_filtered_by_their_times():
    rng = np.random.default_rng(1)
    time = np.sort(rng.choice(np.arange(400), 300, replace=False)) / 60
    path = np.stack([np.sin(2 * np.pi * time), time], 1)
    found = Butterworth(6.0)(time, path, 100.0)
    np.testing.assert_allclose(found[10:-10], path[10:-10], atol=0.02)


@pytest.mark.parametrize("name", ["one-euro", "butterworth"])
def test_a_joint_at_rest_stays_and_gaps_are_not_bridged(name):
    paths = np.tile([[[10.0, 20.0]]], (40, 3, 1))
    paths[20:, 1] = 500.0
    paths[18:20, 1] = NAN
    poses = make_poses(paths)
    found = smooth(poses, parse_smoother(name))
    np.testing.assert_allclose(found.keypoints, poses.keypoints, atol=1e-9)


def test_short_paths_stay_as_they_are():
    _clean, found = noisy(num_frames=6)
    poses = make_poses(found)
    np.testing.assert_array_equal(smooth(poses, Butterworth()).keypoints, poses.keypoints)


def test_one_euro_by_hand():
    """Two steps at 10 frames/s, from the equations of Casiez et al."""
    points = np.array([[0.0, 0.0], [1.0, 0.0]])
    found = OneEuro(min_cutoff=1.0, beta=0.0)(np.array([0.0, 0.1]), points, 1.0)
    share = 1 / (1 + 1 / (2 * np.pi * 1.0 * 0.1))
    np.testing.assert_allclose(found, [[0, 0], [share, 0]])


@pytest.mark.parametrize("text", ["", "median", "butterworth:", "butterworth:0", "butterworth:-6", "one-euro:2"])  # fmt: skip
def test_other_names_are_refused(text):
    with pytest.raises(UsageError, match=r"--smooth .*; choose from one-euro"):
        parse_smoother(text)


@pytest.mark.parametrize(
    ("made", "setting"),
    [
        (postprocess.Butterworth, "cutoff"),
        (postprocess.OneEuro, "min_cutoff"),
        (postprocess.OneEuro, "speed_cutoff"),
    ],
)
@pytest.mark.parametrize("value", [0, -1, NAN, np.inf])
def test_a_cutoff_that_is_none_is_refused(made, setting, value):
    with pytest.raises(UsageError, match=f"^{setting} must be more than 0 Hz, not {value}"):
        made(**{setting: value})


def test_a_beta_that_is_none_is_refused():
    with pytest.raises(UsageError, match="beta must be 0 or more, not -1"):
        postprocess.OneEuro(beta=-1)


def test_a_cutoff_beyond_the_frame_rate_is_refused():
    _, found = noisy()
    with pytest.raises(
        UsageError, match=r"needs more than 30 frames per second: use a cut-off below 12 Hz"
    ):
        smooth(make_poses(found), parse_smoother("butterworth:14"))


def test_frames_that_are_a_little_uneven_are_filtered_by_their_times_too():
    time = (np.arange(60) + 0.2 * (np.arange(60) % 2)) / 30
    path = np.stack([1000 * time, time], 1)
    found = Butterworth(6.0)(time, path, 100.0)
    np.testing.assert_allclose(found, path, atol=0.01)


def test_a_path_that_is_too_short_once_it_is_even_stays():
    time = np.concatenate([[0.0], np.cumsum([1 / 30] * 8 + [1 / 35] * 7)])
    path = np.random.default_rng(0).normal(0, 1, (16, 2))
    np.testing.assert_array_equal(Butterworth(6.0)(time, path, 100.0), path)


def test_weak_joints_become_missing_ones():
    poses = make_poses(straight())  # scores from 0.5 in frame 0 to 0.61 in frame 11
    found = drop_weak(replace(poses, filled=np.ones_like(poses.filled)), 0.53)
    weak = np.isin(found.frame_index, (0, 1, 2))
    assert np.isnan(found.keypoints[weak]).all()
    assert (found.keypoint_scores[weak] == 0).all()
    assert not found.filled[weak].any()
    np.testing.assert_array_equal(found.keypoints[~weak], poses.keypoints[~weak])
    assert (found.keypoint_scores[~weak] >= 0.53).all()
    assert found.filled[~weak].all()


def test_who_comes_back_has_the_lower_scores_and_only_joints_that_can_be_told():
    paths = straight()
    paths[4:8, 1] = NAN
    poses = make_poses(paths, absent=(5, 6))
    mine = poses.track_id == 3
    box_score, score, filled = poses.box_score.copy(), poses.score.copy(), poses.filled.copy()
    box_score[mine & (poses.frame_index == 4)] = 0.35
    score[mine & (poses.frame_index == 7)] = 0.25
    filled[mine & (poses.frame_index == 9), 0] = True
    found = fill_gaps(replace(poses, box_score=box_score, score=score, filled=filled), 2)
    for index in (5, 6):
        back = found[index].people[1]
        assert (back.box_score, back.score, back.filled) == (0.35, 0.25, (0, 2))
        np.testing.assert_array_equal(back.keypoints[1], [np.nan, np.nan, 0])
    assert found[9].people[1].filled == (0,), "what was filled before stays marked"


def test_a_filled_path_bends_with_its_neighbours():
    paths = np.repeat(np.stack([np.arange(12.0) ** 2, np.arange(12.0)], -1)[:, None], 3, 1)
    holed = paths.copy()
    holed[6, 0] = NAN
    found = fill_gaps(make_poses(holed), 1).track(3).keypoints
    assert abs(found[6, 0, 0] - 36) < 0.3, "straight it would be 37"


def test_a_path_is_told_once_a_joint_however_many_gaps_it_has(monkeypatch):
    paths = straight(60)
    paths[1:-1:2] = NAN
    calls = []

    def told(times, points):
        calls.append(len(times))
        return PchipInterpolator(times, points)

    monkeypatch.setattr(postprocess, "PchipInterpolator", told)
    found = fill_gaps(make_poses(paths), 1)
    assert calls == [31] * 3
    np.testing.assert_allclose(found.track(3).keypoints, straight(60), atol=1e-9)


def test_a_joint_that_is_missing_beside_a_persons_gap_too_may_be_missing_in_it():
    paths = straight()
    paths[4:6, 1] = NAN
    found = fill_gaps(make_poses(paths, absent=(6, 7)), 2)
    back = found[6].people[1]
    assert np.isnan(back.keypoints[:, 0]).tolist() == [False, True, False]


def cut_at(poses, *frames):
    return replace(poses, cuts=np.isin(poses.frame_indices, frames))


def test_no_gap_is_filled_across_a_cut():
    paths = np.arange(60, dtype=float).reshape(10, 3, 2)
    paths[3:6, 0] = NAN
    poses = make_poses(paths, absent=(7, 8))
    filled = fill_gaps(poses, 3)
    assert filled.track(3).present.all()
    assert not np.isnan(filled.track(3).keypoints[:7]).any()
    # Cuts at the first frame of a gap, inside it, and at the frame after it.
    for cut in (3, 4, 6):
        assert np.isnan(fill_gaps(cut_at(poses, cut), 3).track(3).keypoints[3:6, 0]).all()
    for cut in (7, 8, 9):
        assert not fill_gaps(cut_at(poses, cut), 3).track(3).present[7:9].any()
    # A cut at the last frame before a gap does not affect the gap.
    assert fill_gaps(cut_at(poses, 2), 3).filled.sum() == filled.filled.sum()


@pytest.mark.parametrize("smoother", ["one-euro", "butterworth"])
def test_scenes_are_smoothed_apart(smoother):
    rng = np.random.default_rng(0)
    paths = rng.uniform(0, 100, (80, 3, 2))
    paths[40:] += 500
    whole = cut_at(make_poses(paths), 40)
    apart = [
        smooth(make_poses(part, [Fraction(i, 30) for i in at]), parse_smoother(smoother))
        for part, at in ((paths[:40], range(40)), (paths[40:], range(40, 80)))
    ]
    # Use the same box in both, since the filter scales by the size of the person.
    whole = replace(whole, box=np.tile(apart[0].box, (2, 1)))
    apart[1] = replace(apart[1], box=apart[0].box)
    found = smooth(whole, parse_smoother(smoother)).track(3).keypoints
    np.testing.assert_allclose(
        found, np.concatenate([one.track(3).keypoints for one in apart]), atol=1e-9
    )
    assert np.abs(found - paths).max() > 10
