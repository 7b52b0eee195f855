"""Round trip of predictions in PoseTrack's layouts."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffusionpose.data.posetrack_files import read_posetrack
from diffusionpose.errors import UsageError
from diffusionpose.formats.posetrack_files import LAYOUTS, write_predictions
from diffusionpose.metrics.pairs import VideoPair
from diffusionpose.metrics.posetrack_ap import PoseTrackAP
from diffusionpose.structures import NO_TRACK
from tests.metrics.made import person, video, whole_person


def predictions():
    rng = np.random.default_rng(0)
    one = replace(whole_person((100.123, 120), track_id=4, score=0.25), scores=rng.random(15))
    one.keypoints[[0, 7]] = np.nan
    one.scores[[0, 7]] = np.nan
    other = person({"right_ankle": (0.0, 12.5, 0.0), "nose": (7, -3, 1.0)}, track_id=0)
    return video("000342_mpii_test", [one, other], [], [other], [person({}, track_id=9)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(tmp_path, layout):
    written = predictions()
    (path,) = write_predictions([written], tmp_path / "new", layout)
    found = read_posetrack(path)
    assert (found.name, found.layout) == ("000342_mpii_test", layout)
    assert [f.file_name for f in found.frames] == [f.file_name for f in written.frames]
    assert [len(f.people) for f in found.frames] == [2, 0, 1, 1]
    for before, after in zip(written.frames, found.frames, strict=True):
        for one, back in zip(before.people, after.people, strict=True):
            np.testing.assert_allclose(back.keypoints, one.keypoints, atol=5e-4)
            np.testing.assert_allclose(back.scores, one.scores, atol=0)
            assert back.track_id == one.track_id
            assert back.score == pytest.approx(one.score, nan_ok=True)
            if one.head_box is not None:
                np.testing.assert_allclose(back.head_box, one.head_box, atol=1e-3)


def test_posetrack17_frames_are_numbered_from_one(tmp_path):
    (path,) = write_predictions([predictions()], tmp_path, "posetrack17")
    frames = json.loads(path.read_text())["annolist"]
    assert [frame["imgnum"] for frame in frames] == [[1], [2], [3], [4]]


def test_posetrack18_ids_are_the_frames_own_or_made_from_the_name(tmp_path):
    written = predictions()
    own = replace(written, name="x", frames=(replace(written.frames[0], frame_id=77),))
    paths = write_predictions([written, own], tmp_path, "posetrack18")
    ids = [[image["id"] for image in json.loads(p.read_text())["images"]] for p in paths]
    assert ids == [[10003420000, 10003420001, 10003420002, 10003420003], [77]]


def test_both_layouts_give_the_same_ap(tmp_path):
    truth = video("v", [whole_person((100, 120))], [whole_person((140, 120))])
    found = video("v", [whole_person((104, 120), noise=9)], [whole_person((140, 118), noise=6)])
    rows = []
    for layout in LAYOUTS:
        (path,) = write_predictions([found], tmp_path / layout, layout)
        rows.append(PoseTrackAP([VideoPair(truth, read_posetrack(path))]).row(np.ones(1)))
    np.testing.assert_array_equal(*rows)
    assert 0 < rows[0][-1] < 100


def test_a_joint_without_a_score_is_the_last_in_both(tmp_path):
    found = video("v", [person({"nose": (1, 2), "left_hip": (3, 4, 0.5)})])
    for layout, expected in (("posetrack17", np.nan), ("posetrack18", -9999)):
        (path,) = write_predictions([found], tmp_path / layout, layout)
        scores = read_posetrack(path).frames[0].people[0].scores
        np.testing.assert_array_equal(scores[np.isin(np.arange(15), (0, 9))], [expected, 0.5])


def test_nothing_is_replaced_unless_asked(tmp_path):
    (tmp_path / "000342_mpii_test.json").write_text("mine")
    with pytest.raises(UsageError, match=r"000342_mpii_test\.json already exists"):
        write_predictions([predictions()], tmp_path, "posetrack18")
    assert (tmp_path / "000342_mpii_test.json").read_text() == "mine"
    write_predictions([predictions()], tmp_path, "posetrack18", overwrite=True)
    assert read_posetrack(tmp_path / "000342_mpii_test.json").frames
    with pytest.raises(UsageError, match="choose from posetrack17, posetrack18"):
        write_predictions([predictions()], tmp_path, "coco")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_people_without_points_are_not_written(tmp_path, layout):
    nobody = person({}, track_id=3, has_points=False)
    one = whole_person((100, 100), track_id=1)
    (path,) = write_predictions([video("v", [nobody, one])], tmp_path, layout)
    (frame,) = read_posetrack(path).frames
    assert [found.track_id for found in frame.people] == [1]


def test_posetrack18_has_a_track_id_of_everybody_without_which_poseval_reads_nothing(tmp_path):
    people = [whole_person((100, 100), track_id=None), whole_person((160, 100), track_id=5)]
    (path,) = write_predictions([video("v", people)], tmp_path, "posetrack18")
    ids = [one["track_id"] for one in json.loads(path.read_text())["annotations"]]
    assert ids == [NO_TRACK, 5]


def test_posetrack18_has_both_boxes_and_the_persons_category(tmp_path):
    one = whole_person((100, 100), track_id=1)
    (path,) = write_predictions([video("v", [one])], tmp_path, "posetrack18")
    (found,) = read_posetrack(path).frames[0].people
    np.testing.assert_allclose(found.box, one.box, atol=1e-3)
    np.testing.assert_allclose(found.head_box, one.head_box, atol=1e-3)
    content = json.loads(path.read_text())
    (category,) = content["categories"]
    assert {each["category_id"] for each in content["annotations"]} == {category["id"]}
