"""MOTA as in poseval, and HOTA, per joint on synthetic tracks."""

import numpy as np
import pytest

from diffusionpose.errors import DataError
from diffusionpose.metrics.tracking import Hota, PoseTrackMota
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.structures import NO_TRACK
from tests.metrics.made import pair, whole_person

pytest.importorskip("motmetrics")
pytest.importorskip("trackeval")

LEFT, RIGHT = (120, 150), (420, 150)


def frames(ids, **fields):
    """Make a frame for each pair of track ids, of people on the left and right; None for nobody."""
    return [
        [
            whole_person(place, track_id=track, **fields)
            for place, track in zip((LEFT, RIGHT), two, strict=True)
            if track is not None
        ]
        for two in ids
    ]


TRUTH = frames([(1, 2)] * 5)


def mean(metric):
    return metric.row(np.ones(metric.num_videos))[-1]


def test_perfect_tracks_score_100():
    both = [pair(TRUTH, frames([(7, 9)] * 5))]
    assert mean(PoseTrackMota(both)) == 100
    assert mean(Hota(both)) == pytest.approx(100)


@pytest.mark.parametrize(
    ("ids", "errors"),
    [
        ([(7, 9), (7, 9), (9, 7), (9, 7), (9, 7)], 2),  # two switches
        ([(7, 9), (7, None), (7, 9), (7, 9), (7, 9)], 1),  # a miss
        ([(7, 9), (7, 9), (7, 9), (7, 9), (9, 7)], 0),  # in the last frame, which is not evaluated
    ],
)
def test_mota_by_hand(ids, errors):
    # Four frames with two people are evaluated.
    assert mean(PoseTrackMota([pair(TRUTH, frames(ids))])) == pytest.approx(100 * (1 - errors / 8))


def test_a_frame_without_predictions_is_one_miss_and_one_false_positive():
    ids = [(7, 9), (None, None), (7, 9), (7, 9), (7, 9)]
    # Three frames with two people, and poseval's substitute with one.
    assert mean(PoseTrackMota([pair(TRUTH, frames(ids))])) == pytest.approx(100 * (1 - 2 / 7))


def test_only_the_joint_that_is_off_loses():
    found = frames([(7, 9)] * 5)
    for people in found:
        people[0].keypoints[8] += 500
    values = PoseTrackMota([pair(TRUTH, found)]).joints(np.ones(1))
    assert sorted(values.values())[:2] == [0, 100]  # four misses and four false positives of eight


def test_hota_falls_with_switches_and_with_distance():
    switched = frames([(7, 9), (7, 9), (9, 7), (9, 7), (9, 7)])
    far = frames([(7, 9)] * 5, noise=4)
    wide = frames([(7, 9)] * 5, noise=8)
    scores = [mean(Hota([pair(TRUTH, found)])) for found in (switched, far, wide)]
    assert scores[0] == pytest.approx(100 * np.sqrt((2 * 2 / 8 + 3 * 3 / 7) / 5), abs=1e-6)
    assert 100 > scores[1] > scores[2] > 0


def test_hota_of_several_videos_is_what_trackeval_makes_of_them():
    from diffusionpose.metrics import tracking

    pairs = [
        pair(TRUTH, frames([(7, 9), (7, 9), (9, 7), (9, None), (9, 7)], noise=n)) for n in (1, 4, 9)
    ]
    library = tracking._trackeval_hota()
    weights = np.array([2, 0, 1])
    found = Hota(pairs).values(weights)
    for joint in range(15):
        sequences = [
            tracking._trackeval_sequence([f.joints[joint] for f in tracking.joint_tracks(one)])
            for one in (pairs[0], pairs[0], pairs[2])
        ]
        each = {str(n): library.eval_sequence(one) for n, one in enumerate(sequences)}
        expected = library.combine_sequences(each)["HOTA"].mean()
        assert found[joint] == pytest.approx(100 * expected, abs=1e-9)
    assert len(set(found.tolist())) > 1


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([(7, 7)] * 5, "one: predictions: two people of a frame have the same track id"),
    ],
)
def test_ids_that_cannot_be_are_named(ids, message):
    for metric in (PoseTrackMota, Hota):
        with pytest.raises(DataError, match=message):
            metric([pair(TRUTH, frames(ids))])


@pytest.mark.parametrize("nobody", [None, NO_TRACK])
def test_people_without_ids_are_named(nobody):
    found = [[whole_person(LEFT, track_id=nobody)]] * 5
    with pytest.raises(DataError, match="one: predictions: a person without a track id"):
        Hota([pair(TRUTH, found)])


def test_hota_by_hand_of_a_constant_distance():
    found = frames([(7, 9)] * 5)
    length = 0.6 * np.hypot(30, 34)
    for people in found:
        for one in people:
            one.keypoints[:, 0] += 0.13 * length  # a similarity of 0.74
    # 14 of the 19 thresholds, 0.05 to 0.95, are below.
    assert mean(Hota([pair(TRUTH, found)])) == pytest.approx(100 * 14 / 19)


def test_who_lies_in_an_ignore_region_is_on_no_side():
    pytest.importorskip("shapely")
    left = np.array([[0.0, 0], [260, 0], [260, 400], [0, 400]])
    truth = frames([(1, None)] + [(1, 2)] * 4)
    found = frames([(7, 9)] * 5)
    metric = PoseTrackMota([pair(truth, found, regions=[left])])
    # Only a prediction is left in the first frame, for which poseval has its substitute; three
    # frames with one person are evaluated as well.
    assert mean(metric) == pytest.approx(100 * (1 - 2 / 4))


@pytest.mark.parametrize("metric", [PoseTrackMota, Hota])
def test_a_joint_that_is_nowhere_annotated_has_no_figure(metric):
    nose = POSETRACK15.index("nose")
    truth = frames([(1, 2)] * 5)
    for people in truth:
        for one in people:
            one.keypoints[nose] = np.nan
    values = metric([pair(truth, frames([(7, 9)] * 5))]).joints(np.ones(1))
    assert np.isnan(values.pop("nose"))
    assert list(values.values()) == pytest.approx([100] * 14)


def test_whose_id_is_lacking_is_said():
    nobodys = [[whole_person(LEFT)]] * 5
    with pytest.raises(DataError, match="one: truth: a person without a track id"):
        PoseTrackMota([pair(nobodys, TRUTH)])
