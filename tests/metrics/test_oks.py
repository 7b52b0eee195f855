"""OKS and OKS-based AP, against pycocotools."""

from dataclasses import replace

import numpy as np
import pytest

from diffusionpose.metrics.oks import OksAP, _annotations
from diffusionpose.metrics.similarity import (
    OKS_SIGMAS,
    object_keypoint_similarity,
    person_area,
)
from diffusionpose.skeleton import COCO17, POSETRACK15
from tests.metrics.made import pair, person, whole_person

pytest.importorskip("faster_coco_eval")


def made_pairs(num_videos=4):
    rng = np.random.default_rng(5)
    pairs = []
    for number in range(num_videos):
        truth = [[whole_person((90 + 200 * n, 120)) for n in range(3)] for _ in range(3)]
        found = [
            [
                whole_person(
                    (90 + 200 * n, 120), noise=5, seed=int(rng.integers(1e6)), score=rng.random()
                )
                for n in range(4)
            ]
            for _ in range(3)
        ]
        truth[0][1].keypoints[3:9] = np.nan
        found[1][1].keypoints[2:5] = np.nan
        pairs.append(pair(truth, found, name=f"v{number}"))
    return pairs


def reference(pairs):
    """Compute the metric with pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    images = [
        (list(true.people), list(found.people)) for one in pairs for true, found in one.frames
    ]
    sets = []
    for side in (0, 1):
        data = coco.COCO()
        data.dataset = {
            "images": [{"id": index} for index in range(len(images))],
            "categories": [{"id": 1}],
            "annotations": _annotations([image[side] for image in images]),
        }
        data.createIndex()
        sets.append(data)
    run = COCOeval(*sets, "keypoints")
    run.params.kpt_oks_sigmas = OKS_SIGMAS
    run.evaluate()
    run.accumulate()
    run.summarize()
    return 100 * run.stats[[0, 1, 2, 5]]


def test_agrees_with_pycocotools():
    pairs = made_pairs()
    found = OksAP(pairs).row(np.ones(4))
    np.testing.assert_allclose(found, reference(pairs), atol=1e-9)
    assert 10 < found[0] < 90


def test_a_resample_is_what_the_videos_drawn_give():
    pairs = made_pairs()
    drawn = [pairs[0], pairs[0], pairs[2], pairs[3]]
    metric = OksAP(pairs)
    np.testing.assert_allclose(metric.row(np.array([2, 0, 1, 1])), reference(drawn), atol=1e-9)
    assert (metric.row(np.array([0, 4, 0, 0])) != metric.row(np.ones(4))).any()


def test_predictions_on_crowds_and_people_without_joints_are_not_wrong():
    nothing = np.full((15, 2), np.nan)
    known = whole_person((100, 100), score=0.5)
    crowd = replace(whole_person((400, 100)), keypoints=nothing, is_crowd=True)
    jointless = replace(whole_person((700, 100)), keypoints=nothing)
    # Scores higher than that of the correct prediction; two of them are on the crowd.
    others = [whole_person((x, 100), score=0.9) for x in (395, 405, 700)]
    pairs = [pair([[known, crowd, jointless]], [[known, *others]])]
    np.testing.assert_allclose(OksAP(pairs).row(np.ones(1)), 100)
    np.testing.assert_allclose(reference(pairs), 100)
    wrong = [pair([[known]], [[known, *others]])]
    assert OksAP(wrong).row(np.ones(1))[0] < 50


def test_similarity_by_hand():
    truth = whole_person((100, 100))
    area = person_area(truth)
    assert object_keypoint_similarity(truth.keypoints, truth.keypoints, area) == 1
    moved, nose = truth.keypoints.copy(), 0
    moved[nose, 0] += 2 * 0.026 * np.sqrt(2 * area)  # exp(-1)
    expected = (14 + np.exp(-1)) / 15
    assert object_keypoint_similarity(moved, truth.keypoints, area) == pytest.approx(expected)
    moved[nose] = np.nan
    assert object_keypoint_similarity(moved, truth.keypoints, area) == pytest.approx(14 / 15)
    assert np.isnan(object_keypoint_similarity(moved, np.full((15, 2), np.nan), area))


def test_area_is_of_the_box_or_of_the_joints():
    truth = person({"nose": (10, 10), "left_hip": (30, 50)})
    assert person_area(truth) == 800
    assert person_area(replace(truth, box=np.array([0.0, 0, 10, 20]))) == 200
    assert person_area(person({})) == 0


def test_people_without_a_score_are_counted():
    found = [[replace(whole_person((100, 100)), score=float("nan"))]]
    metric = OksAP([pair([[whole_person((100, 100))]], found)])
    assert metric.row(np.ones(1))[0] == pytest.approx(100)
    assert metric.warnings[0].startswith("1 predicted people have no score")


def test_frames_without_truth_and_people_without_points_do_not_count_in_oks():
    pytest.importorskip("faster_coco_eval")
    one = whole_person((100, 100), score=0.5)
    stranger = whole_person((400, 100), score=0.9)
    nowhere = replace(stranger, keypoints=np.full((15, 2), np.nan), has_points=False)
    for truth, found in (([[one], []], [[one], [stranger]]), ([[one]], [[one, nowhere]])):
        np.testing.assert_allclose(OksAP([pair(truth, found)]).row(np.ones(1)), 100)


def test_a_missing_joint_is_nowhere_not_at_the_origin():
    pytest.importorskip("faster_coco_eval")
    truth = whole_person((0, 0))
    found = replace(truth, keypoints=truth.keypoints.copy())
    near = np.argsort(np.linalg.norm(truth.keypoints, axis=1))[:4]
    found.keypoints[near] = np.nan
    # 11 of 15 are correct: 0.73, above five of the ten thresholds.
    assert OksAP([pair([[truth]], [[found]])]).row(np.ones(1))[0] == pytest.approx(50)


@pytest.mark.parametrize("high", [0.1, 0.9])
def test_without_a_score_of_its_own_a_person_has_the_mean_of_the_joints(high):
    pytest.importorskip("faster_coco_eval")
    right = replace(whole_person((100, 100)), score=np.nan, scores=np.full(15, 0.5))
    wrong = replace(whole_person((400, 100)), score=np.nan, scores=np.full(15, 0.1))
    wrong.scores[0] = high
    metric = OksAP([pair([[right]], [[wrong, right]])])
    assert metric.row(np.ones(1))[0] == pytest.approx(100)


def test_sigmas_are_cocos():
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    ours = dict(zip(POSETRACK15.joints, OKS_SIGMAS, strict=True))
    theirs = dict(
        zip(COCO17.joints, evaluation.Params(iouType="keypoints").kpt_oks_sigmas, strict=True)
    )
    for joint in POSETRACK15.joints:
        assert ours[joint] == pytest.approx(theirs.get(joint, theirs["left_shoulder"])), joint


def test_a_box_turned_inside_out_has_no_area():
    assert person_area(person({}, box=np.array([10.0, 20, 0, 0]))) == 0
    assert person_area(person({}, box=np.array([10.0, 0, 0, 20]))) == 0
