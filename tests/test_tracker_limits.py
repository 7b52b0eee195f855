"""Thresholds of the tracker, tested on either side."""

import numpy as np
import pytest

from diffusionpose.candidates import Candidate, Sighting
from diffusionpose.structures import Boxes
from diffusionpose.tracking import Tracker
from tests.test_tracking import boxes_of, ids_of, judged, path_of, person, track


@pytest.mark.parametrize(
    ("gap", "distance", "number"), [(0, 60, 1), (0, 100, 2), (27, 190, 1), (27, 230, 2)]
)
def test_a_person_turns_up_within_reach_or_is_another(gap, distance, number):
    frames = [boxes_of(person(300.0))] * 20 + [Boxes.empty()] * gap
    frames += [boxes_of(person(300.0 + distance))] * 30
    assert len(ids_of(track(frames, Tracker()))) == number


@pytest.mark.parametrize(("height", "number"), [(100.0, 1), (80.0, 2)])
def test_a_person_who_shrinks_too_much_is_another(height, number):
    frames = [boxes_of(person(300.0))] * 20 + [boxes_of(person(300.0, height=height))] * 30
    assert len(ids_of(track(frames, Tracker()))) == number


@pytest.mark.parametrize(("shift", "last"), [(20.0, 39), (50.0, 19)])
def test_weak_boxes_prolong_a_person_only_where_they_fit(shift, last):
    frames = [boxes_of(person(300.0))] * 20 + [boxes_of(person(300.0 + shift), score=0.2)] * 20
    assert max(path_of(track(frames, Tracker(start_score=0.3)), 1)) == last


def test_bridged_frames_are_on_the_way_and_their_scores_decay_by_run():
    frames = [boxes_of(person(300.0 + 4 * index)) for index in range(20)]
    frames += [Boxes.empty()] * 3
    frames += [boxes_of(person(300.0 + 4 * index), score=0.5) for index in range(23, 45)]
    out = track(frames, Tracker())
    path = path_of(out, 1)
    for index in (20, 21, 22):
        assert np.allclose(path[index], person(300.0 + 4 * index), atol=0.5)
    scores = {frame.index: float(frame.boxes.scores[0]) for frame in out}
    expected = [(0.9 - 0.1 * step) * 0.95**3 for step in (1, 2, 3)]
    assert [scores[index] for index in (20, 21, 22)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("gap", "is_filled"), [(5, True), (6, False)])
def test_a_gap_is_filled_up_to_max_gap(gap, is_filled):
    frames = [boxes_of(person(300.0))] * 20 + [Boxes.empty()] * gap + [boxes_of(person(300.0))] * 20
    path = path_of(track(frames, Tracker(max_gap=5)), 1)
    assert (len(path) == len(frames)) == is_filled


@pytest.mark.parametrize(("gap", "number"), [(50, 1), (70, 2)])
def test_an_id_is_kept_for_a_second(gap, number):
    frames = [boxes_of(person(300.0))] * 40 + [Boxes.empty()] * gap + [boxes_of(person(300.0))] * 40
    assert len(ids_of(track(frames, Tracker(), fps=60))) == number


@pytest.mark.parametrize(
    ("score", "height", "is_asked"),
    [(0.19, 200.0, True), (0.18, 200.0, False), (0.2, 41.0, True), (0.2, 39.0, False)],
)
def test_who_is_doubtful_enough_and_large_enough_is_asked_about(score, height, is_asked):
    frames = [boxes_of(person(300.0, height=height), score=score)] * 40
    _, asked = judged(frames, Tracker(start_score=0.3), lambda *_: 0.6)
    assert bool(asked) == is_asked


@pytest.mark.parametrize(("said", "ids"), [(0.55, {1}), (0.45, set())])
def test_a_pose_convinces_from_a_half_on(said, ids):
    frames = [boxes_of(person(300.0), score=0.2)] * 60
    assert ids_of(judged(frames, Tracker(start_score=0.3), lambda *_: said)[0]) == ids


def test_people_of_a_frame_are_in_the_order_of_their_ids():
    both = np.stack([person(300.0), person(900.0)])
    frames = [Boxes(both, np.array([score, 0.9])) for score in [0.2] * 60 + [0.8] * 60]
    out = track(frames, Tracker(start_score=0.3))
    assert out[-1].boxes.track_ids.tolist() == [1, 2]
    assert out[-1].boxes.boxes[0, 0] > 500, "who was weak at first came second"


def moving(centres, fps=30):
    return Candidate([Sighting(n, n / fps, person(x), 0.9) for n, x in enumerate(centres)])


def test_an_unseen_person_slows_down():
    steady = moving([300 + 100 * n / 30 for n in range(16)])
    for seconds in (0.2, 1.0, 5.0):
        moved = steady.predict(15 / 30 + seconds)[0] - steady.last.box[0]
        assert moved == pytest.approx(100 * 0.5 * (1 - np.exp(-seconds / 0.5)), rel=0.03)


def test_the_newest_movement_counts_most():
    # Ten frames up and six down: the last six weigh as much.
    turned = moving([300 + 10 * min(n, 18 - n) for n in range(16)])
    assert abs(turned.predict(0.7)[0] - turned.last.box[0]) < 4


def test_runs_of_the_detector_may_be_further_apart_than_gaps_that_are_filled():
    truth = [person(100 + 3 * index) for index in range(182)]
    frames = [None if index % 30 else boxes_of(box) for index, box in enumerate(truth)]
    path = path_of(track(frames, Tracker(detect_every=30)), 1)
    assert all(np.allclose(path[index], truth[index], atol=3) for index in range(180))


def test_a_track_with_many_sightings_is_preferred():
    frames = [boxes_of(person(300.0))] * 20
    frames += [boxes_of(person(300.0), person(420.0))]
    frames += [boxes_of(person(365.0))] * 20
    out = track(frames, Tracker())
    assert ids_of(out) == {1}
    assert len(path_of(out, 1)) == len(frames)
