import json
import os

import numpy as np
import pytest

from diffusionpose.data.posetrack_files import (
    find_annotations,
    find_splits,
    label_version,
    read_posetrack,
)
from diffusionpose.errors import DataError
from diffusionpose.skeleton import POSETRACK15, POSETRACK17
from tests.data.made import figure, posetrack17_root, posetrack_root
from tests.formats.helpers import make_header, written

NOSE, HEAD_TOP, LEFT_WRIST, RIGHT_ANKLE = (
    POSETRACK15.index(joint) for joint in ("nose", "head_top", "left_wrist", "right_ankle")
)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a string as it is, or any other value as JSON."""

    def call(content, name="000001_bonn.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return call


def point(joint, x, y, **more):
    return {"id": [joint], "x": [x], "y": [y]} | {key: [value] for key, value in more.items()}


def frame17(*people, name="a/00000001.jpg", **more):
    return {"image": [{"name": name}], "annorect": list(people)} | more


def test_posetrack17_scalars_come_out_of_their_lists(write):
    person = {
        "x1": [10], "y1": [20], "x2": [40.5], "y2": [60],
        "track_id": [7], "score": [0.25],
        "annopoints": [{"point": [point(13, 5, 6.5, is_visible=0, score=0.9), point(0, 1, 2)]}],
    }  # fmt: skip
    region = {"point": [{"x": [0], "y": [0]}, {"x": [9], "y": [0]}, {"x": [9], "y": [9]}]}
    content = {
        "annolist": [
            frame17(person, imgnum=[1], is_labeled=[1], ignore_regions=[region]),
            frame17(name="a/00000002.jpg", is_labeled=[0]),
        ]
    }
    video = read_posetrack(write(content))
    assert (video.name, video.layout) == ("000001_bonn", "posetrack17")
    assert [frame.file_name for frame in video.frames] == ["a/00000001.jpg", "a/00000002.jpg"]
    assert [frame.is_labelled for frame in video.frames] == [True, False]
    assert [frame.frame_id for frame in video.frames] == [None, None]
    assert video.frames[1].people == ()
    np.testing.assert_array_equal(video.frames[0].ignore_regions[0], [[0, 0], [9, 0], [9, 9]])
    (person,) = video.frames[0].people
    assert (person.track_id, person.score, person.has_points, person.box) == (7, 0.25, True, None)
    np.testing.assert_array_equal(person.head_box, [10, 20, 40.5, 60])
    np.testing.assert_array_equal(person.keypoints[[NOSE, RIGHT_ANKLE]], [[5, 6.5], [1, 2]])
    assert np.isfinite(person.keypoints).all(axis=1).sum() == 2
    np.testing.assert_array_equal(person.visible[[NOSE, RIGHT_ANKLE]], [0, np.nan])
    np.testing.assert_array_equal(person.scores[[NOSE, RIGHT_ANKLE]], [0.9, np.nan])


def test_posetrack17_bare_scalars_are_read_too(write):
    person = {"track_id": 3, "annopoints": {"point": [{"id": 14, "x": 8, "y": 9}]}}
    frame = {"image": {"name": "x.jpg"}, "is_labeled": True, "annorect": [person]}
    (frame,) = read_posetrack(write({"annolist": [frame]})).frames
    assert (frame.file_name, frame.is_labelled) == ("x.jpg", True)
    assert frame.people[0].track_id == 3
    assert frame.people[0].head_box is None
    np.testing.assert_array_equal(frame.people[0].keypoints[HEAD_TOP], [8, 9])


@pytest.mark.parametrize(
    ("annopoints", "has_points"),
    [([{"point": []}], True), ([], False), ([{}], False), (None, False)],
)
def test_a_person_without_joints_is_told_from_one_without_a_list_of_them(
    write, annopoints, has_points
):
    person = {"track_id": [1]} | ({} if annopoints is None else {"annopoints": annopoints})
    (frame,) = read_posetrack(write({"annolist": [frame17(person)]})).frames
    assert [person.has_points for person in frame.people] == [has_points]
    assert np.isnan(frame.people[0].keypoints).all()


def content18(**keypoints):
    """Return three frames, not ordered by id, with a person in the second; joints are (x, y, v)."""
    images = [{"id": 10000010000 + n, "file_name": f"images/val/v/{n:06d}.jpg"} for n in (2, 0, 1)]
    triples = [keypoints.get(joint, (0, 0, 0)) for joint in POSETRACK17.joints]
    person = {
        "id": 1, "image_id": 10000010000, "track_id": 4, "bbox": [1, 2, 30, 40], "bbox_head": [5, 6, 7, 8],
        "keypoints": [value for triple in triples for value in triple], "scores": [],
    }  # fmt: skip
    category = {"name": "person", "id": 1, "keypoints": list(POSETRACK17.joints)}
    return {"images": images, "annotations": [person], "categories": [category]}


def test_posetrack18_keeps_the_order_of_the_file_and_frames_without_people(write):
    content = content18(nose=(50, 60, 1), left_ear=(1, 1, 1), left_wrist=(0, 0, 1))
    content["images"][1] |= {"width": 640, "height": 480, "is_labeled": True}
    content["images"][1] |= {"ignore_regions_x": [[0, 9, 9]], "ignore_regions_y": [[0, 0, 9]]}
    video = read_posetrack(write(content))
    assert (video.layout, len(video.frames)) == ("posetrack18", 3)
    assert [frame.frame_id - 10000010000 for frame in video.frames] == [2, 0, 1]
    assert [len(frame.people) for frame in video.frames] == [0, 1, 0]
    assert [frame.size for frame in video.frames] == [None, (480, 640), None]
    assert [frame.is_labelled for frame in video.frames] == [None, True, None]
    np.testing.assert_array_equal(video.frames[1].ignore_regions[0], [[0, 0], [9, 0], [9, 9]])
    (person,) = video.frames[1].people
    np.testing.assert_array_equal(person.box, [1, 2, 31, 42])
    np.testing.assert_array_equal(person.head_box, [5, 6, 12, 14])
    # x = y = 0 is a valid location if v > 0; the ear is dropped.
    present = np.isfinite(person.keypoints[:, 0])
    assert [POSETRACK15.joints[j] for j in np.flatnonzero(present)] == ["nose", "left_wrist"]
    np.testing.assert_array_equal(person.keypoints[NOSE], [50, 60])
    assert np.isnan(person.scores).all()


def test_posetrack18_scores_go_with_their_joints(write):
    content = content18(nose=(50, 60, 1), right_ankle=(70, 80, 1))
    content["annotations"][0]["scores"] = [n / 100 for n in range(17)]
    (person,) = read_posetrack(write(content)).frames[1].people
    assert person.scores[NOSE] == 0
    assert person.scores[RIGHT_ANKLE] == 0.16
    assert np.isfinite(person.scores).sum() == 2


def test_posetrack18_joints_follow_the_files_own_category(write):
    content = content18(nose=(50, 60, 1))
    content["categories"][0]["keypoints"].reverse()
    (person,) = read_posetrack(write(content)).frames[1].people
    np.testing.assert_array_equal(person.keypoints[RIGHT_ANKLE], [50, 60])
    assert np.isnan(person.keypoints[NOSE]).all()


def test_the_same_people_in_both_layouts_read_the_same(tmp_path):
    new = find_annotations(posetrack_root(tmp_path / "18"), "val")
    old = find_annotations(posetrack17_root(tmp_path / "17"), "val")
    for first, second in zip(map(read_posetrack, new), map(read_posetrack, old), strict=True):
        for a, b in zip(first.frames, second.frames, strict=True):
            assert a.is_labelled == b.is_labelled
            assert len(a.people) == len(b.people)
            for one, other in zip(a.people, b.people, strict=True):
                np.testing.assert_allclose(one.keypoints, other.keypoints)
    np.testing.assert_allclose(
        read_posetrack(old[0]).frames[1].people[0].keypoints, figure((73, 66), 50, 0.5)
    )


def changed(path, value):
    """Return PoseTrack18 content with one value changed, or removed for KeyError."""
    content = content18(nose=(50, 60, 1))
    node = content
    for part in path[:-1]:
        node = node[part]
    if value is KeyError:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return content


NAN_SCORES = [0.5] * 3 + [float("nan")] + [0.5] * 13


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("null", "expected an object, got null"),
        ("[]", "expected an object"),
        ({}, "neither 'annolist'"),
        (changed(["annotations"], KeyError), "'annotations' is missing"),
        (changed(["images", 2, "id"], KeyError), "images[2]: the key 'id' is missing"),
        (changed(["images", 2, "id"], 10000010000), "images[2].id: image id 10000010000 is used twice"),
        (changed(["images", 1, "width"], -3), "images[1].width: expected at least 1 pixel, got -3"),
        (changed(["images", 1], 5), "images[1]: expected an object, got 5"),
        (changed(["annotations", 0, "image_id"], 5), "annotations[0].image_id: there is no image 5"),
        (changed(["annotations", 0, "keypoints", 4], "x"), 'annotations[0].keypoints[4]: expected a number, got "x"'),
        (changed(["annotations", 0, "keypoints"], [1] * 50), "annotations[0].keypoints: expected 0 or 51 numbers, got 50"),
        (changed(["annotations", 0, "scores"], NAN_SCORES), "annotations[0].scores[3]: expected a number up to"),
        (changed(["annotations", 0, "bbox"], [0, 0, 10**400, 1]), "annotations[0].bbox[2]: expected a number up to"),
        (changed(["annotations", 0, "track_id"], 1.5), "annotations[0].track_id: expected an integer"),
        (changed(["categories", 0, "keypoints"], ["nose"] * 17), "categories[0].keypoints: a joint is named twice"),
        (changed(["annotations"], [{"id": 7, "image_id": 10000010000}] * 2), "annotations[1].id: annotation id 7 is used twice"),
        ({"annolist": [frame17({"annopoints": [{"point": [point(15, 1, 1)]}]})]},
         "annolist[0].annorect[0].annopoints[0].point[0].id: joint ids are 0 to 14, not 15"),
        ({"annolist": [frame17({"annopoints": [{"point": [point(3, 1, 1)] * 2}]})]},
         "point[1]: joint id 3 is used twice"),
        ({"annolist": [frame17({"x1": [1, 2], "annopoints": []})]},
         "annolist[0].annorect[0].x1: expected one value, got 2"),
        ({"annolist": [frame17({"x1": [1]})]}, "annolist[0].annorect[0]: the key 'y1' is missing"),
        ({"annolist": [frame17({"annopoints": [{"point": [{"id": [0], "x": [], "y": [1]}]}]})]},
         "point[0].x: expected a value, got an empty list"),
        ({"annolist": [{"annorect": []}]}, "annolist[0]: the key 'image' is missing"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused_with_their_json_path(write, content, message):
    path = write(content)
    with pytest.raises(DataError) as caught:
        read_posetrack(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert message in text


def test_predictions_need_no_ids_of_their_own(write):
    path = write(changed(["annotations"], [{"id": 7, "image_id": 10000010000}] * 2))
    assert read_posetrack(path, is_truth=False).frames


def test_what_predict_writes_reads_back(tmp_path):
    written(tmp_path / "clip.json", "posetrack", header=make_header(name="000342_mpii_test"))
    video = read_posetrack(tmp_path / "clip.json")
    assert [frame.frame_id for frame in video.frames] == [10003420000 + n for n in range(3)]
    assert [[p.track_id for p in frame.people] for frame in video.frames] == [[3, -1], [], [4]]
    person = video.frames[2].people[0]
    np.testing.assert_array_equal(person.box, [1, 2, 41, 62])
    joints = [NOSE, HEAD_TOP, LEFT_WRIST]
    expected = [[10, 20], [np.nan, np.nan], [30.123, 40.5]]
    np.testing.assert_array_equal(person.keypoints[joints], expected)
    np.testing.assert_array_equal(person.scores[joints], [0.9, np.nan, 0.1234])


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"a\.json: cannot be read \(not a regular file\)"):
        read_posetrack(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.json: no such file"):
        read_posetrack(tmp_path / "nothing.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_posetrack(tmp_path)


@pytest.mark.parametrize("folder", ["posetrack_data", "annotations", "posetrack_data/annotations"])
def test_annotation_files_are_found_where_users_have_them(tmp_path, folder):
    (tmp_path / folder / "val").mkdir(parents=True)
    for name in ("b.json", "a.json", "._a.json", "notes.txt"):
        (tmp_path / folder / "val" / name).touch()
    assert [path.name for path in find_annotations(tmp_path, "val")] == ["a.json", "b.json"]
    assert find_splits(tmp_path) == ["val"]
    with pytest.raises(DataError, match=rf"looked for .*{folder}/train/\*\.json.*splits: val"):
        find_annotations(tmp_path, "train")


def test_roots_without_annotations_say_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"posetrack_data/val/\*\.json.*is this a PoseTrack root"):
        find_annotations(tmp_path, "val")
    with pytest.raises(DataError, match="no such folder"):
        find_annotations(tmp_path / "nothing", "val")


def test_polygons_of_unequal_length_are_named(tmp_path):
    content = content18(nose=(50, 60, 1))
    content["images"][1] |= {"ignore_regions_x": [[0, 9, 9]], "ignore_regions_y": [[0, 0]]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"images\[1\]\.ignore_regions_x.*a polygon with 3 x but 2 y"
    ):
        read_posetrack(path)


def test_without_names_joints_are_posetrack18s(tmp_path):
    content = content18(nose=(50, 60, 1))
    del content["categories"]
    content["annotations"][0]["score"] = 0.25
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    (one,) = read_posetrack(path).frames[1].people
    np.testing.assert_array_equal(one.keypoints[0], [50, 60])
    assert one.score == 0.25


def test_scores_of_joints_that_are_not_there_do_not_count(tmp_path):
    content = content18(nose=(50, 60, 1))
    content["annotations"][0]["scores"] = [0.5] * 17
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    (one,) = read_posetrack(path).frames[1].people
    assert np.isfinite(one.scores).tolist() == [True] + [False] * 14


@pytest.mark.parametrize(
    ("folder", "content", "version"),
    [
        ("posetrack18_v0.2", {}, "0.2"),
        ("posetrack18_v045", {}, "0.45"),
        ("v0.45", {"version": 0.2}, "0.2"),
        ("v0.45", {"version": "0.1", "info": {"version": "0.2"}}, "0.2"),
        ("posetrack", {}, None),
    ],
)
def test_the_version_of_labels_is_the_files_or_the_folders(tmp_path, folder, content, version):
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / "a.json"
    path.write_text(json.dumps(content))
    assert label_version(path) == version
