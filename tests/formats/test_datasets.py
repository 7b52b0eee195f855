"""PoseTrack18 and COCO files."""

from fractions import Fraction

import numpy as np
import pytest

from diffusionpose.formats import posetrack_sequence
from diffusionpose.skeleton import COCO17, POSETRACK17
from diffusionpose.structures import FramePoses, PersonPose
from tests.formats.helpers import NAN, make_header, strict, written


def _at(skeleton, **joints) -> list:
    """Arrange values by joint name in the order of the skeleton, zeros elsewhere."""
    rows = [joints.get(name, [0, 0, 0]) for name in skeleton.joints]
    return [value for row in rows for value in (row if isinstance(row, list) else [row])]


def test_posetrack_file(tmp_path):
    header = make_header(name="000342_mpii_test")
    found = strict(written(tmp_path / "a.json", "posetrack", header=header))
    assert found["images"] == [
        {
            "id": 10003420000 + index,
            "frame_id": 10003420000 + index,
            "vid_id": "000342",
            "file_name": f"images/000342_mpii_test/{index:06d}.jpg",
            "is_labeled": True,
            "nframes": 3,
        }
        for index in range(3)
    ]
    keypoints = _at(POSETRACK17, nose=[10.0, 20.0, 1], left_wrist=[30.123, 40.5, 1])
    scores = [0.9, *[0.0] * 8, 0.1234, *[0.0] * 7]
    assert POSETRACK17.joints.index("left_wrist") == 9
    assert found["annotations"] == [
        {
            "image_id": image_id,
            "id": number,
            "track_id": track_id,
            "category_id": 1,
            "bbox": [1.0, 2.0, 40.0, 60.0],
            "keypoints": keypoints,
            "scores": scores,
        }
        for number, (image_id, track_id) in enumerate(
            [(10003420000, 3), (10003420000, -1), (10003420002, 4)], start=1
        )
    ]
    (category,) = found["categories"]
    assert (category["id"], category["name"]) == (1, "person")
    assert category["keypoints"] == list(POSETRACK17.joints)
    assert category["skeleton"] == [[a + 1, b + 1] for a, b in POSETRACK17.limbs]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000342_mpii_test", ("000342", 1_000342_0000)),
        ("001001_bonn_train", ("001001", 2_001001_0000)),
        ("024575_mpiinew_test.mp4", ("024575", 3_024575_0000)),
        ("holiday.mp4", ("000000", 1_000000_0000)),
        ("000342_other", ("000000", 1_000000_0000)),
    ],
)
def test_posetrack_sequences(name, expected):
    assert posetrack_sequence(name) == expected


def test_coco_file(tmp_path):
    found = strict(written(tmp_path / "a.json", "coco"))
    assert found["info"] == {"description": "clip.mp4", "version": "diffusionpose 0.1.0"}
    assert found["images"][2] == {
        "id": 2,
        "file_name": "clip/000002.jpg",
        "width": 640,
        "height": 480,
        "time": 0.066733,
    }
    assert [image["id"] for image in found["images"]] == [0, 1, 2]
    assert COCO17.joints.index("left_wrist") == 9
    assert found["annotations"][2] == {
        "id": 3,
        "image_id": 2,
        "category_id": 1,
        "track_id": 4,
        "keypoints": _at(COCO17, nose=[10.0, 20.0, 2], left_wrist=[30.123, 40.5, 2]),
        "keypoint_scores": [0.9, *[0.0] * 8, 0.1234, *[0.0] * 7],
        "num_keypoints": 2,
        "bbox": [1.0, 2.0, 40.0, 60.0],
        "area": 2400.0,
        "score": 0.5,
        "iscrowd": 0,
    }
    assert found["categories"][0]["keypoints"] == list(COCO17.joints)


def test_a_joint_at_the_origin_is_not_missing(tmp_path):
    keypoints = np.array([[0, 0, 0.0], [NAN, NAN, 0], [0, 0, 0.9]])
    frame = FramePoses(0, Fraction(0), (PersonPose(0, np.zeros(4), 0.5, 0.5, keypoints),))
    assert strict(written(tmp_path / "a", "coco", [frame]))["annotations"][0]["num_keypoints"] == 2
    found = strict(written(tmp_path / "b", "posetrack", [frame]))["annotations"][0]
    assert sum(found["keypoints"][2::3]) == 2
