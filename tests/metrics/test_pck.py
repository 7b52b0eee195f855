from dataclasses import replace

import numpy as np
import pytest

from diffusionpose.errors import DataError
from diffusionpose.metrics.pck import LIMB_JOINTS, Pck, VideoPck, torso_lengths
from diffusionpose.metrics.posetrack_ap import PoseTrackAP
from diffusionpose.skeleton import POSETRACK15
from tests.metrics.made import pair, whole_person
from tests.metrics.made import person as made_person


def person():
    """A person with a torso of 100 pixels, so that the threshold is 20."""
    points = np.zeros((15, 2))
    points[POSETRACK15.index("right_hip")] = [60, 80]
    return points


def test_by_hand():
    truth = np.stack([person(), person()])
    predicted = truth.copy()
    wrist, knee = POSETRACK15.index("left_wrist"), POSETRACK15.index("right_knee")
    predicted[0, wrist] += [20, 0]  # at the threshold: correct
    predicted[1, wrist] += [20.1, 0]
    predicted[0, knee] = np.nan  # missing: wrong
    truth[1, knee] = np.nan  # unlabelled: does not count
    metric = Pck(POSETRACK15)
    metric.update(predicted, truth)
    found = metric.compute()
    assert found["left_wrist"] == 0.5
    assert found["right_knee"] == 0.0
    assert found["mean"] == pytest.approx((10 + 0.5 + 0) / 12)


def test_torso_lengths_of_any_order_of_joints():
    joints = ("right_hip", "nose", "left_shoulder")
    frames = np.array([[[60.0, 80], [1, 1], [0, 0]], [[60, np.nan], [1, 1], [0, 0]]])
    np.testing.assert_array_equal(torso_lengths(frames, joints), [100, np.nan])
    assert torso_lengths(person(), POSETRACK15.joints) == 100
    with pytest.raises(ValueError, match="not in tuple"):
        torso_lengths(frames, ("right_hip", "nose", "left_hip"))


def test_people_without_a_torso_are_left_out_and_reset_forgets():
    truth = person()[None]
    truth[0, POSETRACK15.index("right_hip")] = np.nan
    metric = Pck(POSETRACK15)
    metric.update(truth, truth)
    assert np.isnan(metric.compute()["mean"])
    metric.update(person()[None], person()[None])
    assert metric.compute()["mean"] == 1
    metric.reset()
    assert np.isnan(metric.compute()["mean"])
    assert len(LIMB_JOINTS) == 12


def crowd(seed, num_frames=3):
    """Ground truth and predictions of three people per frame, in the same order."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(num_frames):
        places = [(120 + 220 * n, 150) for n in range(3)]
        truth.append([whole_person(place) for place in places])
        found.append(
            [whole_person(place, noise=10, seed=int(rng.integers(1e6))) for place in places]
        )
    return truth, found


def as_arrays(people):
    return np.stack([person.keypoints for frame in people for person in frame])


@pytest.mark.parametrize("same_people", [True, False])
def test_videos_agree_with_pck_of_their_people(same_people):
    pairs, plain = [], Pck(POSETRACK15)
    for seed in range(3):
        truth, found = crowd(seed)
        plain.update(as_arrays(found), as_arrays(truth))
        shown = found if same_people else [frame[::-1] for frame in found]
        pairs.append(pair(truth, shown, same_people=same_people))
    metric = VideoPck(pairs)
    expected = plain.compute()
    mean = expected.pop("mean")
    joints = metric.joints(np.ones(3))
    assert {joint: joints[joint] / 100 for joint in expected} == pytest.approx(expected)
    row = dict(zip(metric.columns, metric.row(np.ones(3)), strict=True))
    assert row["Mean"] == pytest.approx(100 * mean)
    assert 30 < row["Mean"] < 99
    assert np.isnan(row["Head"])  # only limb joints are evaluated
    assert not np.allclose(metric.row(np.array([3, 0, 0]))[1:], metric.row(np.ones(3))[1:])


def test_who_is_not_found_is_missed_and_who_is_not_there_does_not_count():
    truth, _ = crowd(0, num_frames=1)
    stranger = whole_person((900, 700))
    figures = [
        VideoPck([pair(truth, [people])]).row(np.ones(1))[-1]
        for people in (truth[0], [*truth[0], stranger], truth[0][:2], [])
    ]
    assert figures == pytest.approx([100, 100, 200 / 3, 0])


def test_pckh_is_half_of_the_head_length():
    truth = whole_person((100, 150))
    limit = 0.5 * 0.6 * np.hypot(30, 34)
    figures = []
    for off in (0.999 * limit, 1.001 * limit):
        found = whole_person((100, 150))
        found.keypoints[:, 0] += off
        figures.append(VideoPck([pair([[truth]], [[found]])], "head").row(np.ones(1))[-1])
    assert figures == [100, 0]
    headless = made_person({"nose": (5, 5)})
    with pytest.raises(DataError, match="without a head box"):
        VideoPck([pair([[headless]], [[headless]])], "head")


def test_people_whose_head_box_has_no_extent_are_counted():
    truth, found = crowd(0, num_frames=1)
    flat = replace(truth[0][0], head_box=np.array([5.0, 6.0, 5.0, 6.0]))
    one = pair([[flat, *truth[0][1:]]], found)
    expected = "1 of 3 people have a head box without extent; they are left out"
    assert VideoPck([one], "head").warnings == [expected]
    notes = PoseTrackAP([one]).warnings
    assert any(
        note.startswith("1 of 3 people have a head box without extent; none") for note in notes
    )
    assert VideoPck([pair(truth, found)], "head").warnings == []


def test_people_without_a_torso_are_counted():
    truth, found = crowd(0, num_frames=1)
    truth[0][0].keypoints[POSETRACK15.index("right_hip")] = np.nan
    assert "1 of 3 people are left out" in VideoPck([pair(truth, found)]).warnings[0]


def test_pckh_is_over_all_joints_without_people_whose_head_is_flat():
    truth = whole_person((100, 150))
    row = VideoPck([pair([[truth]], [[truth]])], "head").row(np.ones(1))
    np.testing.assert_allclose(row, 100)
    flat = replace(whole_person((400, 150)), head_box=np.array([5.0, 6.0, 5.0, 6.0]))
    far = replace(flat, keypoints=flat.keypoints + 500)
    both = pair([[truth, flat]], [[truth, far]], same_people=True)
    np.testing.assert_allclose(VideoPck([both], "head").row(np.ones(1)), 100)


def test_only_people_with_joints_are_counted_as_left_out():
    truth, found = crowd(0, num_frames=1)
    truth[0][0].keypoints[POSETRACK15.index("right_hip")] = np.nan
    truth[0].append(made_person({}, head_box=(5, 6, 5, 6)))
    one = pair(truth, found)
    assert "1 of 3 people are left out" in VideoPck([one]).warnings[0]
    assert VideoPck([one], "head").warnings == []
    assert PoseTrackAP([one]).warnings == PoseTrackAP([pair([truth[0][:3]], found)]).warnings


def test_people_who_are_the_same_are_not_matched_again():
    people = [whole_person((120, 150)), whole_person((420, 150))]
    row = VideoPck([pair([people], [people[::-1]], same_people=True)]).row(np.ones(1))
    assert row[-1] == 0


def test_small_heads_are_not_flat_and_the_jointless_need_none():
    truth = replace(whole_person((100, 100)), head_box=np.array([5.0, 6.0, 8.0, 10.0]))
    one = pair([[truth, made_person({})]], [[truth]])
    assert VideoPck([one], "head").warnings == []
    assert not any("head box" in note for note in PoseTrackAP([one]).warnings)


def test_people_whose_torso_has_no_extent_are_counted_as_left_out():
    truth, found = crowd(0, num_frames=1)
    shoulder, hip = (POSETRACK15.index(joint) for joint in ("left_shoulder", "right_hip"))
    truth[0][0].keypoints[hip] = truth[0][0].keypoints[shoulder]
    truth[0][1].keypoints[hip] = np.nan
    (note,) = VideoPck([pair(truth, found)]).warnings
    assert note.startswith("2 of 3 people are left out")
