"""PoseTrack AP: golden cases of the official tool, and random cases against a simple oracle."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from diffusionpose.annotations import AnnotatedFrame, AnnotatedPerson, AnnotatedVideo
from diffusionpose.data.posetrack_files import read_posetrack
from diffusionpose.errors import DataError
from diffusionpose.metrics.base import bootstrap
from diffusionpose.metrics.pairs import VideoPair, frame_notes, pair_videos
from diffusionpose.metrics.posetrack_ap import PoseTrackAP
from diffusionpose.skeleton import POSETRACK17
from tests.metrics.made import pair, person, video, whole_person
from tests.oracles.posetrack_ap import posetrack_ap

HEAD = (0, 0, 30, 40)
TRUTH_A = {"right_ankle": (100, 100), "right_knee": (100, 200), "head_bottom": (10, 10)}


def figures(metric):
    ones = np.ones(metric.num_videos)
    return metric.joints(ones), dict(zip(metric.columns, metric.row(ones), strict=True))


@pytest.mark.parametrize("right_ankle", [(114, 100), (115, 100)], ids=["A", "B"])
def test_golden_ties_go_to_the_first_and_extra_joints_have_no_ap(right_ankle):
    predicted = [
        person(
            {
                "right_ankle": (*right_ankle, 0.9),
                "right_knee": (100, 216, 0.8),
                "nose": (5, 5, 0.7),
            }
        ),
        person({"right_ankle": (100, 100, 0.95)}),
    ]
    metric = PoseTrackAP([pair([[person(TRUTH_A, HEAD)]], [predicted])])
    joints, row = figures(metric)
    assert joints.pop("right_ankle") == pytest.approx(50, abs=1e-4)
    assert math.isnan(joints.pop("nose"))
    assert set(joints.values()) == {0.0}
    assert math.isnan(row["Head"])
    assert row["Ankle"] == pytest.approx(25, abs=1e-4)
    assert row["Mean"] == pytest.approx(3.5714, abs=1e-4)
    assert any("nose is predicted but never annotated" in note for note in metric.warnings)


def posetrack18(people_by_frame, **image_fields):
    """PoseTrack18 content; people are {joint: (x, y, score)} and a head box."""
    images, annotations = [], []
    for index, people in enumerate(people_by_frame):
        image = {"id": 10000 + index, "frame_id": 10000 + index, "file_name": f"{index:06d}.jpg"}
        images.append(image | (image_fields if index == 0 else {}))
        for joints, head in people:
            keypoints = np.zeros((17, 3))
            scores = np.zeros(17)
            for name, (x, y, score) in joints.items():
                keypoints[POSETRACK17.index(name)] = x, y, 1
                scores[POSETRACK17.index(name)] = score
            annotations.append(
                {"image_id": 10000 + index, "id": len(annotations), "track_id": 0}
                | {"keypoints": keypoints.ravel().tolist(), "scores": scores.tolist()}
                | ({"bbox_head": head} if head else {})
            )
    category = {"id": 1, "name": "person", "keypoints": list(POSETRACK17.joints)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def test_golden_posetrack18_files_with_ignore_region_and_empty_people(tmp_path):
    pytest.importorskip("shapely")
    head = [40, 40, 30, 40]
    square = {
        "ignore_regions_x": [[200, 300, 300, 200]],
        "ignore_regions_y": [[200, 200, 300, 300]],
    }
    body = {"nose": (50, 50, 0), "right_ankle": (60, 150, 0)}
    truth = posetrack18(
        [
            [(body | {"left_wrist": (250, 250, 0)}, head)],
            [(body, head)],
            [],
            [({}, head)],
        ],
        **square,
    )
    nose = ({"nose": (52, 50, 0.99)}, None)
    predicted = posetrack18(
        [
            [
                (
                    {
                        "nose": (52, 50, 0.9),
                        "left_wrist": (260, 260, 0.99),
                        "right_ankle": (60, 152, 0.8),
                    },
                    None,
                )
            ],
            [({"nose": (90, 50, 0.95), "right_ankle": (60, 152, 0.7)}, None)],
            [nose],
            [nose],
        ]
    )
    videos = []
    for folder, content in (("truth", truth), ("predicted", predicted)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "000001_bonn.json"
        path.write_text(json.dumps(content))
        videos.append(read_posetrack(path))
    joints, row = figures(PoseTrackAP(pair_videos(videos[:1], videos[1:])))
    assert joints.pop("right_ankle") == pytest.approx(100, abs=1e-4)
    assert joints.pop("nose") == pytest.approx(16.6667, abs=1e-4)
    assert set(joints.values()) == {0.0}
    assert row["Head"] == pytest.approx(5.5556, abs=1e-4)
    assert row["Ankle"] == pytest.approx(50, abs=1e-4)
    assert row["Mean"] == pytest.approx(7.7778, abs=1e-4)


def random_person(rng, centre, is_truth):
    points = centre + rng.normal(0, 40, (15, 2)) if is_truth else centre
    missing = rng.random(15) < rng.choice([0.0, 0.2, 0.6, 1.0], p=[0.4, 0.3, 0.25, 0.05])
    points = np.where(missing[:, None], np.nan, points)
    # Few distinct scores, so that ties are common; some joints have no score.
    scores = np.where(rng.random(15) < 0.1, np.nan, rng.integers(0, 6, 15) / 5)
    return AnnotatedPerson(
        track_id=None,
        keypoints=points,
        visible=np.ones(15),
        scores=scores,
        head_box=np.array([0.0, 0.0, *rng.uniform(5, 40, 2)]) if is_truth else None,
        has_points=bool(rng.random() > 0.05),
    )


def random_pair(rng):
    """A short video with joints on a grid, so that ties between equal shares are common."""
    true_frames, found_frames = [], []
    for index in range(int(rng.integers(1, 6))):
        truth = [
            random_person(rng, rng.uniform(50, 250, 2), True) for _ in range(rng.integers(0, 4))
        ]
        found = []
        for _ in range(rng.integers(0, 5)):
            if truth and rng.random() < 0.8:
                near = truth[rng.integers(len(truth))].keypoints
                near = np.where(np.isnan(near), 100.0, near) + rng.normal(0, 6, (15, 2))
            else:
                near = rng.uniform(0, 300, (15, 2))
            found.append(random_person(rng, near, False))
        regions = tuple(
            rng.uniform(0, 300, (1, 2)) + np.array([[0, 0], [90, 10], [70, 80], [5, 60.0]])
            for _ in range(rng.integers(0, 2))
        )
        true_frames.append(AnnotatedFrame(f"{index}.jpg", tuple(truth), True, regions))
        found_frames.append(AnnotatedFrame(f"{index}.jpg", tuple(found)))
    return VideoPair(
        AnnotatedVideo("v", tuple(true_frames), "posetrack18"),
        AnnotatedVideo("v", tuple(found_frames), "posetrack18"),
    )


def test_agrees_with_the_oracle_on_random_cases():
    pytest.importorskip("shapely")
    rng = np.random.default_rng(7)
    num_ties, num_nan, num_missing = 0, 0, 0
    for _ in range(500):
        pairs = [random_pair(rng) for _ in range(rng.integers(1, 4))]
        metric = PoseTrackAP(pairs)
        joints, row = figures(metric)
        expected, groups, total = posetrack_ap(pairs)
        np.testing.assert_allclose(list(joints.values()), expected, atol=1e-9, rtol=0)
        np.testing.assert_allclose(list(row.values()), [*groups, total], atol=1e-9, rtol=0)
        num_nan += np.isnan(expected).any()
        num_ties += any("have the same score" in note for note in metric.warnings)
        num_missing += any("have no score" in note for note in metric.warnings)
    assert min(num_ties, num_nan, num_missing) > 20


def test_ties_and_missing_scores_are_counted():
    truth = [[person(TRUTH_A, HEAD)]] * 3
    found = [[person({"right_ankle": (100, 100, score)})] for score in (0.5, 0.5, math.nan)]
    notes = PoseTrackAP([pair(truth, found)]).warnings
    assert any(note.startswith("1 predicted joints have no score") for note in notes)
    assert any(note.startswith("2 predicted joints have the same score") for note in notes)


def test_a_resample_is_what_the_videos_drawn_give():
    rng = np.random.default_rng(3)
    # Distinct scores, as the order of ties may differ between copies of a video.
    pairs = []
    for number in range(5):
        truth = [[whole_person((100, 100), seed=number)] for _ in range(4)]
        found = [
            [
                replace(
                    whole_person((100, 100), noise=9, seed=10 * number + frame),
                    scores=rng.random(15),
                )
            ]
            for frame in range(4)
        ]
        pairs.append(pair(truth, found, name=f"v{number}"))
    metric = PoseTrackAP(pairs)
    weights = np.array([2, 0, 1, 3, 0])
    drawn = [one for one, times in zip(pairs, weights, strict=True) for _ in range(times)]
    again = PoseTrackAP(drawn)
    np.testing.assert_allclose(metric.row(weights), again.row(np.ones(6)), atol=1e-9)
    assert not np.allclose(metric.row(weights), metric.row(np.ones(5)))
    low, high = bootstrap(metric, 200, seed=1)
    middle = metric.row(np.ones(5))
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert (low < high).all()
    np.testing.assert_array_equal(bootstrap(metric, 200, seed=1), [low, high])
    assert (bootstrap(metric, 200, seed=2) != [low, high]).any()


def test_a_missing_head_box_is_named():
    truth, found = [[person(TRUTH_A)]], [[person({"nose": (1, 1, 0.5)})]]
    with pytest.raises(DataError, match=r"one: frame 0 .*000000.jpg.*without a head box"):
        PoseTrackAP([pair(truth, found)])


def test_frames_and_files_must_pair_up():
    truth = pair([[], []], [[], []]).truth
    with pytest.raises(DataError, match="one: 1 predicted frames, 2 in the truth"):
        pair_videos([truth], [pair([[]], [[]]).truth])
    with pytest.raises(DataError, match="one: no predictions"):
        pair_videos([truth], [])


def test_frames_in_another_order_are_refused_and_other_names_are_told():
    truth = video("one", [], [], [])
    first, second, third = truth.frames
    with pytest.raises(DataError, match=r"one: frame 0 .* is .*000001.jpg, frame 1 of the truth"):
        pair_videos([truth], [replace(truth, frames=(second, first, third))])

    # If one file counts from 0 and the other from 1, names do not tell the order.
    shifted = replace(
        truth,
        frames=tuple(
            replace(frame, file_name=f"images/one/{n:06d}.jpg")
            for n, frame in enumerate(truth.frames, 1)
        ),
    )
    assert len(list(frame_notes(pair_videos([truth], [shifted])))) == 1

    def notes(**fields):
        numbered = [replace(frame, frame_id=n) for n, frame in enumerate(truth.frames)]
        found = [*numbered[:2], replace(numbered[2], **fields)]
        pairs = pair_videos(
            [replace(truth, frames=tuple(numbered))], [replace(truth, frames=tuple(found))]
        )
        return list(frame_notes(pairs))

    (note,) = notes(file_name="images/two/000002.jpg")
    assert note == (
        "one: frame 2 of the predictions is images/two/000002.jpg, in the truth "
        "images/one/000002.jpg: frames are paired by position"
    )
    (note,) = notes(frame_id=1)
    assert "frame 2 of the predictions is id 1, in the truth 2" in note
    # Parent folders, ids that the truth does not have, and missing names are not reported.
    for fields in ({"file_name": "val/one/000002.jpg"}, {"frame_id": 70}, {"file_name": ""}, {}):
        assert notes(**fields) == []


def test_perfect_predictions_score_100():
    people = [[whole_person((100, 120)), whole_person((300, 120))]]
    _, row = figures(PoseTrackAP([pair(people, people)]))
    assert set(row.values()) == {100.0}


def test_only_predicted_joints_are_reported_as_never_annotated():
    found = person({"right_ankle": (100, 100, 0.9), "nose": (5, 5, 0.7)})
    notes = PoseTrackAP([pair([[person(TRUTH_A, HEAD)]], [[found]])]).warnings
    assert [note.split(" ")[0] for note in notes if "never annotated" in note] == ["nose"]


def test_a_triangle_is_an_ignore_region_two_corners_are_not_and_regions_add_up():
    pytest.importorskip("shapely")
    triangle = np.array([[200.0, 200], [300, 200], [300, 300]])
    line = np.array([[0.0, 0], [500, 500]])
    elsewhere = np.array([[900.0, 900], [990, 900], [990, 990], [900, 990]])
    truth = person({"nose": (50, 50)}, HEAD)
    found = person({"nose": (50, 50, 0.5), "left_wrist": (290, 210, 0.5)})
    one = pair([[truth]], [[found]], regions=[triangle, line, elsewhere])
    assert PoseTrackAP([one]).warnings == []  # the wrist is not predicted
