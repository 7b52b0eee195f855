"""Tracking of synthetic trajectories with known ground truth."""

from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusionpose.boxes import pairwise_iou
from diffusionpose.structures import Boxes
from diffusionpose.tracking import TrackedFrame, Tracker

FPS = 30


def person(x: float, y: float = 200.0, height: float = 200.0) -> np.ndarray:
    """Return a box with the proportions of a standing person, given its centre."""
    return np.array([x - height / 5, y - height / 2, x + height / 5, y + height / 2])


def boxes_of(*people: np.ndarray, score: float = 0.9) -> Boxes:
    return Boxes(np.array(people).reshape(-1, 4), np.full(len(people), score))


def track(frames: Iterable[Boxes | None], tracker: Tracker, fps: int = FPS) -> list[TrackedFrame]:
    out: list[TrackedFrame] = []
    for index, boxes in enumerate(frames):
        out += tracker.update(index, Fraction(index, fps), boxes)
    return out + tracker.flush()


def ids_of(frames: Iterable[TrackedFrame]) -> set[int]:
    return {int(number) for frame in frames for number in frame.boxes.track_ids}


def path_of(frames: Iterable[TrackedFrame], number: int) -> dict[int, np.ndarray]:
    return {
        frame.index: box
        for frame in frames
        for box, owner in zip(frame.boxes.boxes, frame.boxes.track_ids, strict=True)
        if owner == number
    }


def jitter(box: np.ndarray, rng: np.random.Generator, share: float = 0.02) -> np.ndarray:
    return box + rng.normal(0, share * (box[3] - box[1]), 4)


@st.composite
def videos(draw: st.DrawFn) -> list[tuple[int, Fraction, Boxes | None]]:
    """Draw frames with gaps in their indices, irregular (even repeated) times and any boxes."""
    index, time, frames = -1, Fraction(0), []
    for _ in range(draw(st.integers(0, 40))):
        index += draw(st.integers(1, 3))
        time += draw(st.fractions(0, 1, max_denominator=60))
        count = draw(st.integers(-1, 4))
        rng = np.random.default_rng(draw(st.integers(0, 5)))
        corners = rng.uniform(0, 300, (max(count, 0), 2))
        found = np.concatenate([corners, corners + rng.uniform(1, 200, corners.shape)], 1)
        frames.append((index, time, None if count < 0 else Boxes(found, rng.random(len(found)))))
    return frames


@settings(max_examples=60, deadline=None)
@given(videos(), st.integers(1, 6), st.booleans(), st.integers(0, 12), st.integers(0, 5))
def test_every_frame_comes_out_once_in_order_and_in_time(
    frames: list[tuple[int, Fraction, Boxes | None]],
    detect_every: int,
    trust_boxes: bool,
    max_gap: int,
    smoothing_frames: int,
) -> None:
    tracker = Tracker(
        max_gap=max_gap,
        detect_every=detect_every,
        smoothing_frames=smoothing_frames,
        trust_boxes=trust_boxes,
    )
    out: list[TrackedFrame] = []
    for count, (index, time, boxes) in enumerate(frames, start=1):
        out += tracker.update(index, time, boxes)
        due = frames[: max(0, count - tracker.lag)]
        assert [frame.index for frame in out] == [index for index, _, _ in due]
    out += tracker.flush()
    assert [frame.index for frame in out] == [index for index, _, _ in frames]
    assert tracker.flush() == []
    for frame in out:
        numbers = frame.boxes.track_ids
        assert len(set(numbers)) == len(numbers)
        assert (numbers >= 1).all()
        assert np.isfinite(frame.boxes.boxes).all()
        assert (frame.boxes.boxes[:, 2:] > frame.boxes.boxes[:, :2]).all()
        assert ((frame.boxes.scores >= 0) & (frame.boxes.scores <= 1)).all()
    assert ids_of(out) == set(range(1, len(ids_of(out)) + 1))


def test_memory_stays_bounded_in_a_long_video() -> None:
    rng = np.random.default_rng(0)
    tracker = Tracker()
    for index in range(600):
        noise = [person(*rng.uniform(0, 2000, 2), height=rng.uniform(50, 300)) for _ in range(3)]
        frame = boxes_of(person(300.0), *noise)
        tracker.update(index, Fraction(index, FPS), frame)
    num_sightings = sum(len(one.sightings) for one in tracker._tracks)
    assert len(tracker._pending) <= tracker.lag
    assert len(tracker._runs) <= 2 * tracker.lag + 2
    assert num_sightings < 4 * (FPS + 2 * tracker.lag)


@pytest.mark.parametrize("who_is_hidden", ["the one behind", "both"])
def test_people_who_cross_keep_their_ids(who_is_hidden: str) -> None:
    def frame(index: int) -> Boxes:
        left, right = person(100 + 8 * index), person(900 - 8 * index)
        if who_is_hidden == "both":
            # Only their motion tells on which side each of them reappears.
            return Boxes.empty() if abs(left[0] - right[0]) < 90 else boxes_of(left, right)
        return boxes_of(right) if abs(left[0] - right[0]) < 30 else boxes_of(left, right)

    out = track([frame(index) for index in range(100)], Tracker())
    assert ids_of(out) == {1, 2}
    for number, (start, step) in {1: (100, 8), 2: (900, -8)}.items():
        path = path_of(out, number)
        assert len(path) == 100
        for index, box in path.items():
            assert abs((box[0] + box[2]) / 2 - (start + step * index)) < 40


def test_who_falls_and_lands_unseen_keeps_the_id() -> None:
    falling = [boxes_of(person(300.0, 200 + 32 * index)) for index in range(20)]
    landed = [boxes_of(person(300.0, 815.0))] * 30
    assert ids_of(track([*falling, *[Boxes.empty()] * 4, *landed], Tracker())) == {1}


def test_a_pause_in_jitter_is_no_motion() -> None:
    """Jitter between two sightings is not a velocity: another person nearby gets another id."""
    shaken = [person(300.0), person(315.0)]
    frames = [boxes_of(box) for box in shaken] + [Boxes.empty()] * 10
    frames += [boxes_of(person(310.0), person(420.0))] * 30
    out = track(frames, Tracker())
    assert np.allclose(path_of(out, 1)[30], person(310.0), atol=1)


def test_a_gap_is_filled_on_the_way_and_a_long_one_stays_empty() -> None:
    frames = [boxes_of(person(100 + 5 * index)) for index in range(80)]
    frames[20:30] = [Boxes.empty()] * 10
    frames[50:65] = [Boxes.empty()] * 15
    out = track(frames, Tracker(max_gap=12))
    path = path_of(out, 1)
    assert ids_of(out) == {1}, "a person keeps the id over a gap that is not filled"
    assert set(range(80)) - set(path) == set(range(50, 65))
    assert np.allclose(path[25], person(100 + 5 * 25), atol=2)
    scores = {frame.index: frame.boxes.scores for frame in out}
    assert 0 < scores[25][0] < scores[10][0]


def test_a_track_ends_with_its_last_sighting() -> None:
    frames = [boxes_of(person(300.0)) if index < 30 else Boxes.empty() for index in range(90)]
    assert set(path_of(track(frames, Tracker()), 1)) == set(range(30))


@pytest.mark.parametrize("num_frames", [10, 100])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_a_false_alarm_of_one_frame_is_dropped(num_frames: int, place: int) -> None:
    frames = [boxes_of(person(300.0)) for _ in range(num_frames)]
    frames[place] = boxes_of(person(300.0), person(900.0, 600.0))
    out = track(frames, Tracker())
    assert ids_of(out) == {1}
    assert len(path_of(out, 1)) == num_frames


def test_a_long_track_of_weak_boxes_is_nobody_without_a_judge() -> None:
    frames = [boxes_of(person(300.0), score=0.2) for _ in range(60)]
    assert ids_of(track(frames, Tracker(start_score=0.3))) == set()


def judged(
    frames: Iterable[Boxes | None], tracker: Tracker, judge: Callable[[int, np.ndarray], float]
) -> tuple[list[TrackedFrame], list[int]]:
    """Return the tracked frames, and the indices of frames in which the judge was called."""
    out: list[TrackedFrame] = []
    asked: list[int] = []
    for index, boxes in enumerate(frames):

        def of_frame(box: np.ndarray, index: int = index) -> float:
            asked.append(index)
            return judge(index, box)

        out += tracker.update(index, Fraction(index, FPS), boxes, of_frame)
    return out + tracker.flush(), asked


@pytest.mark.parametrize("detect_every", [1, 3])
@pytest.mark.parametrize("num_frames", [1, 60])
def test_a_doubtful_person_is_one_from_the_first_frame_if_the_pose_convinces(
    num_frames: int, detect_every: int
) -> None:
    frames = [
        None if index % detect_every else boxes_of(person(300.0), score=0.2)
        for index in range(num_frames)
    ]
    tracker = Tracker(start_score=0.3, detect_every=detect_every)
    out, _ = judged(frames, tracker, lambda *_: 0.7)
    assert set(path_of(out, 1)) == set(range(num_frames))
    refused, _ = judged(frames, Tracker(start_score=0.3, detect_every=detect_every), lambda *_: 0.4)
    assert ids_of(refused) == set()


def test_the_judge_is_asked_ever_more_rarely() -> None:
    frames = [boxes_of(person(300.0), score=0.2)] * 1000
    for said in (0.4, 0.7):
        _, asked = judged(frames, Tracker(start_score=0.3), lambda *_, said=said: said)
        assert 5 <= len(asked) <= 10, "about log2(1000 / 4)"


def test_who_is_asked_often_does_not_come_through_by_luck() -> None:
    frames = [boxes_of(person(300.0), score=0.2)] * 300
    out, asked = judged(frames, Tracker(start_score=0.3), lambda index, _: 0.3 + 0.3 * (index > 90))
    assert len(asked) > 5
    assert ids_of(out) == set()


def test_a_doubtful_person_ends_when_the_pose_stops_convincing() -> None:
    frames = [boxes_of(person(300.0), score=0.2)] * 300
    out, asked = judged(frames, Tracker(start_score=0.3), lambda index, _: 0.7 * (index < 20))
    path = path_of(out, 1)
    assert 0 in path
    assert max(path) < 299
    assert any(index > max(path) for index in asked)


@pytest.mark.parametrize(
    "box", [person(340.0), person(300.0, 240.0, 120.0), person(700.0, height=30.0)]
)
def test_parts_of_others_and_the_very_small_are_not_asked_about(box: np.ndarray) -> None:
    both = Boxes(np.stack([person(300.0), box]), np.array([0.9, 0.25]))
    out, asked = judged([both] * 40, Tracker(start_score=0.3), lambda *_: 1.0)
    assert ids_of(out) == {1}
    assert asked == []


def test_a_person_on_the_detectors_word_stays_one_whatever_the_pose() -> None:
    scores = [0.3] * 6 + [0.5] * 2 + [0.3] * 20
    frames: list[Boxes | None] = []
    for score in scores:
        frames += [boxes_of(person(300.0), score=score), *[None] * 6]
    without = set(path_of(track(frames, Tracker(start_score=0.4, detect_every=7)), 1))
    out, asked = judged(frames, Tracker(start_score=0.4, detect_every=7), lambda *_: 0.2)
    assert asked
    assert set(path_of(out, 1)) == without
    assert max(without) == len(frames) - 1


@pytest.mark.parametrize("first", [0, 1, 2, 30])
def test_a_doubtful_flash_is_nobody_at_the_start_of_a_video_either(first: int) -> None:
    frames = [Boxes.empty()] * 60
    for index in range(first, first + 3):
        frames[index] = boxes_of(person(300.0), score=0.25)
    out, _ = judged(frames, Tracker(start_score=0.3), lambda *_: 0.9)
    assert ids_of(out) == set()


def test_a_part_of_a_person_who_is_not_seen_in_that_frame_is_nobody() -> None:
    whole, part = person(300.0, height=300.0), person(300.0, 220.0, 110.0)
    frames = [boxes_of(part, score=0.25) if n % 2 else boxes_of(whole) for n in range(80)]
    out, _ = judged(frames, Tracker(start_score=0.3), lambda *_: 0.6)
    assert ids_of(out) == {1}


def test_who_was_doubtful_and_is_seen_well_stays_a_person_without_being_asked() -> None:
    weak, strong = (boxes_of(person(300.0), score=score) for score in (0.2, 0.8))
    frames = [weak] * 30 + [strong] * 20 + [weak] * 300
    out, asked = judged(frames, Tracker(start_score=0.3), lambda index, _: 0.7 * (index < 40))
    assert set(path_of(out, 1)) == set(range(350))
    assert max(asked) < 40


def test_weak_boxes_prolong_a_person_at_both_ends() -> None:
    weak, strong = boxes_of(person(300.0), score=0.2), boxes_of(person(300.0), score=0.8)
    out = track([weak] * 10 + [strong] * 10 + [weak] * 40, Tracker(start_score=0.3))
    assert set(path_of(out, 1)) == set(range(60))


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_a_very_short_video_keeps_its_people(num_frames: int) -> None:
    frames = [boxes_of(person(300.0), person(700.0))] * num_frames
    out = track(frames, Tracker())
    assert [sorted(frame.boxes.track_ids) for frame in out] == [[1, 2]] * num_frames


@pytest.mark.parametrize("detect_every", [2, 5, 15])
def test_between_runs_of_the_detector_boxes_are_interpolated(detect_every: int) -> None:
    num_frames = 6 * detect_every + 2
    truth = [person(100 + 3 * index) for index in range(num_frames)]
    frames = [
        boxes_of(box) if index % detect_every == 0 else None for index, box in enumerate(truth)
    ]
    out = track(frames, Tracker(detect_every=detect_every))
    path = path_of(out, 1)
    assert ids_of(out) == {1}
    assert set(path) == set(range(num_frames)), "after the last run, too"
    last_run = 6 * detect_every
    worst = min(pairwise_iou(path[i][None], truth[i][None])[0, 0] for i in range(last_run))
    assert worst > 0.9


def test_who_leaves_between_two_runs_stays_until_the_second() -> None:
    frames = [
        None if index % 5 else boxes_of(person(300.0)) if index <= 40 else Boxes.empty()
        for index in range(90)
    ]
    assert set(path_of(track(frames, Tracker(detect_every=5)), 1)) == set(range(45))


def test_one_frame_in_sixty_is_enough_to_know_a_person_who_stays() -> None:
    tracker = Tracker()
    out: list[TrackedFrame] = []
    for index in range(0, 1200, 60):
        out += tracker.update(index, Fraction(index, FPS), boxes_of(person(300.0), person(700.0)))
    out += tracker.flush()
    assert ids_of(out) == {1, 2}
    assert list(path_of(out, 1)) == list(range(0, 1200, 60))


def roughness(path: dict[int, np.ndarray]) -> float:
    """Root mean square of second differences in pixels: the jitter of a crop."""
    boxes = np.stack([path[index] for index in sorted(path)])
    return float(np.sqrt((np.diff(boxes, 2, axis=0) ** 2).mean()))


@pytest.mark.parametrize("speed", [0.0, 4.0])
def test_trembling_boxes_become_steady(speed: float) -> None:
    rng = np.random.default_rng(1)
    seen = [jitter(person(200 + speed * index), rng) for index in range(90)]
    path = path_of(track([boxes_of(box) for box in seen], Tracker()), 1)
    assert roughness(path) < roughness(dict(enumerate(seen))) / 6
    inner = range(10, 80)
    wrong = [np.abs(path[i] - person(200 + speed * i)).mean() for i in inner]
    seen_wrong = [np.abs(seen[i] - person(200 + speed * i)).mean() for i in inner]
    assert np.mean(wrong) < np.mean(seen_wrong) / 1.7


def test_a_box_that_jumps_for_a_frame_does_not_move_the_crop() -> None:
    seen = [person(300.0) for _ in range(60)]
    seen[30] = seen[30] * [1, 1, 1, 1] + [0, 0, 0, -80]
    path = path_of(track([boxes_of(box) for box in seen], Tracker()), 1)
    assert np.abs(path[30] - person(300.0)).max() < 4


def run_away(seconds: float) -> np.ndarray:
    """Accelerate from rest to 3 heights/s within a second."""
    return person(100 + 600 * (seconds**2 / 2 if seconds < 1 else seconds - 0.5))


def jump(seconds: float) -> np.ndarray:
    """Jump by half a height in 0.6 s, repeatedly: more than 1 g."""
    return person(300.0, 300 - 100 * abs(np.sin(np.pi * seconds / 0.6)))


@pytest.mark.parametrize("fps", [15, 30, 60])
@pytest.mark.parametrize(("motion", "least"), [(run_away, 0.95), (jump, 0.8)])
def test_a_fast_mover_is_not_trailed(
    motion: Callable[[float], np.ndarray], least: float, fps: int
) -> None:
    truth = [motion(index / fps) for index in range(3 * fps)]
    out = track([boxes_of(box) for box in truth], Tracker(), fps=fps)
    path = path_of(out, 1)
    assert ids_of(out) == {1}
    overlaps = [pairwise_iou(path[i][None], box[None])[0, 0] for i, box in enumerate(truth)]
    assert min(overlaps) > least
    assert np.mean(overlaps) > 0.95


def test_no_smoothing_leaves_boxes_as_detected() -> None:
    rng = np.random.default_rng(2)
    seen = [jitter(person(300.0), rng) for _ in range(30)]
    path = path_of(track([boxes_of(box) for box in seen], Tracker(smoothing_frames=0)), 1)
    assert all(np.allclose(path[i], box, atol=1e-3) for i, box in enumerate(seen))


@pytest.mark.parametrize(
    "double",
    [person(303.0, 204.0), person(300.0, 160.0, 110.0), person(300.0, 200.0, 260.0)],
    ids=["shifted", "upper body", "around"],
)
def test_a_double_of_a_person_gets_no_id(double: np.ndarray) -> None:
    frame = Boxes(np.stack([person(300.0), double]), np.array([0.9, 0.7]))
    assert ids_of(track([frame] * 40, Tracker())) == {1}


def test_a_part_that_parts_from_the_person_does_not_take_the_id() -> None:
    """A weak box beside a person slides into theirs; then only that part is detected."""
    full = person(300.0)
    frames = []
    for index in range(60):
        part = person(300 + max(0.0, 60 - 3 * index), 165.0, 130.0)
        both = Boxes(np.stack([full, part]), np.array([0.9, 0.2]))
        frames.append(both if index < 40 else boxes_of(part, score=0.6))
    assert ids_of(track([boxes_of(full)] * 10 + frames, Tracker())) == {1}


def test_a_box_around_two_people_takes_nobody_along() -> None:
    """For two frames, it is strong and a person's own box weak; then the reverse."""
    left, right = person(300.0), person(375.0, height=220.0)
    both = np.array([left[0], 165.0, right[2], right[3]])

    def frame(index: int) -> Boxes:
        scores = np.array((0.25, 0.9, 0.5) if index in (30, 31) else (0.4, 0.9, 0.25))
        there = slice(None, 2 if index < 30 else 3)
        return Boxes(np.array([left, right, both])[there], scores[there])

    out = track([frame(index) for index in range(60)], Tracker())
    assert ids_of(out) == {1, 2}
    for number, box in zip(out[0].boxes.track_ids, out[0].boxes.boxes, strict=True):
        path = np.stack(list(path_of(out, number).values()))
        assert len(path) == 60
        assert pairwise_iou(path, box[None]).min() > 0.9


def test_ids_count_up_in_order_of_appearance() -> None:
    people = [person(100.0 + 250 * number) for number in range(4)]
    frames = [boxes_of(*people[: 1 + index // 20]) for index in range(80)]
    out = track(frames, Tracker())
    for number, box in enumerate(people, start=1):
        path = path_of(out, number)
        assert min(path) == 20 * (number - 1)
        assert np.allclose(path[79], box, atol=1)


def test_given_ids_and_boxes_pass_untouched_and_at_once() -> None:
    rng = np.random.default_rng(3)
    tracker = Tracker(trust_boxes=True)
    for index in range(20):
        count = int(rng.integers(0, 3))
        boxes = Boxes(
            np.array([jitter(person(200.0 + 300 * place), rng, 0.2) for place in range(count)]),
            rng.random(count),
            np.arange(count) * 7 + index,
        )
        (frame,) = tracker.update(index, Fraction(index, FPS), boxes)
        assert frame.index == index
        assert frame.boxes.boxes.tolist() == boxes.boxes.tolist()
        assert frame.boxes.scores.tolist() == boxes.scores.tolist()
        assert frame.boxes.track_ids.tolist() == boxes.track_ids.tolist()
    assert tracker.lag == 0
    assert tracker.flush() == []


def test_given_boxes_without_ids_get_some_and_stay_as_they_are() -> None:
    tracker = Tracker(trust_boxes=True)
    out: list[TrackedFrame] = []
    for index in range(40):
        people = [person(200.0 + 4 * index), person(800.0 - 4 * index, 600.0)]
        given_boxes = boxes_of(*people[:: 1 if index % 2 else -1], score=0.01)
        frame = tracker.update(index, Fraction(index, FPS), given_boxes)[0]
        assert frame.boxes.boxes.tolist() == given_boxes.boxes.tolist()
        out.append(frame)
    assert ids_of(out) == {1, 2}
    for number in (1, 2):
        path = path_of(out, number)
        assert len(path) == 40
        assert len({box[1] for box in path.values()}) == 1, "each stays on its own height"


@pytest.mark.parametrize("first", [1, 5, 60])
def test_nobody_is_known_after_a_cut(first: int) -> None:
    tracker, out = Tracker(), []
    for index in range(first + 40):
        if index == first:
            out += tracker.cut()
            # All frames of the scene are final at its end.
            assert [frame.index for frame in out] == list(range(first))
        out += tracker.update(index, Fraction(index, FPS), boxes_of(person(300)))
    out += tracker.flush()
    assert [frame.index for frame in out] == list(range(first + 40))
    assert sorted(path_of(out, 1)) == list(range(first))
    assert sorted(path_of(out, 2)) == list(range(first, first + 40))


def test_scenes_are_tracked_as_videos_of_their_own_are() -> None:
    rng = np.random.default_rng(0)
    scene = [boxes_of(jitter(person(100 + 4 * i), rng), person(400)) for i in range(50)]
    alone = track(scene, Tracker())
    tracker = Tracker()
    before = track([boxes_of(person(50))] * 30, tracker)
    tracker.cut()
    after = [
        frame
        for index, boxes in enumerate(scene, 30)
        for frame in tracker.update(index, Fraction(index, FPS), boxes)
    ] + tracker.flush()
    assert ids_of(before) == {1}
    for one, other in zip(alone, after, strict=True):
        assert other.index == one.index + 30
        np.testing.assert_allclose(other.boxes.boxes, one.boxes.boxes, atol=1e-3)
        assert other.boxes.track_ids.tolist() == [number + 1 for number in one.boxes.track_ids]


def test_wrong_use_is_refused() -> None:
    tracker = Tracker()
    tracker.update(3, Fraction(0), None)
    with pytest.raises(ValueError, match="comes after"):
        tracker.update(3, Fraction(1), None)
    with pytest.raises(ValueError, match="trust_boxes"):
        tracker.update(4, Fraction(1), Boxes(person(300.0), np.ones(1), np.array([5])))
    with pytest.raises(ValueError, match="detect_every"):
        Tracker(detect_every=0)
