import json
from pathlib import Path

import numpy as np
import pytest

from diffusionpose.data.annotated_sets import coco_set, posetrack_set
from diffusionpose.data.coco import load_coco
from diffusionpose.data.posetrack_files import label_version
from tests.data.made import coco_root, edit, posetrack_root


def test_a_still_stands_in_for_its_neighbours(tmp_path):
    root = coco_root(tmp_path)
    found = coco_set(root, Path("train.json"), Path("images"))
    records = load_coco(root, Path("train.json"), Path("images"))
    assert [video.name for video in found.videos] == ["0", "1", "2", "3"]
    people = [video.frames[0].people[0] for video in found.videos]
    # Neither a person with three joints nor a crowd is used for training.
    assert [int(np.isfinite(one.keypoints[:, 0]).sum()) for one in people] == [14, 14, 3, 0]
    assert [one.is_crowd for one in people] == [False, False, False, True]
    assert len(records) == 2
    # Images with adjacent numbers are not neighbours.
    for number in (0, 1):
        assert found.clips(number, 0) == (root / "images" / f"{number}.png",) * 3
    (person,) = found.videos[1].frames[0].people
    np.testing.assert_array_equal(person.keypoints, records[1].keypoints)
    np.testing.assert_array_equal(person.box, records[1].box)
    elsewhere = coco_set(root, Path("train.json"), (root / "images").absolute())
    assert elsewhere.clips(1, 0)[0] == root / "images" / "1.png"
    assert elsewhere.videos[1].frames[0].file_name == "1.png"


def test_frames_of_videos_have_neighbours(tmp_path):
    found = posetrack_set(posetrack_root(tmp_path), "val")
    names = [[path.stem for path in found.clips(1, index)] for index in (0, 3, 5)]
    assert names == [
        ["000000", "000000", "000001"],
        ["000002", "000003", "000004"],
        ["000004", "000005", "000005"],
    ]
    assert {path.parent.name for path in found.clips(1, 0)} == {"000002_mpii"}


@pytest.mark.parametrize(
    ("folder", "info", "expected"),
    [
        ("posetrack18_v0.45_public/val", None, "0.45"),
        ("posetrack18/val", None, None),
        ("posetrack18_v0.2/val", {"version": 0.45}, "0.45"),
    ],
)
def test_label_version(tmp_path, folder, info, expected):
    path = tmp_path / folder / "x.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": []} | ({"info": info} if info else {})))
    assert label_version(path) == expected


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_training_and_evaluation_stride_over_the_same_images(tmp_path, stride):
    root = coco_root(tmp_path, 8)

    def first_teaches_nobody(content):
        content["annotations"][0]["iscrowd"] = 1

    edit(root / "train.json", first_teaches_nobody)
    place = root, Path("train.json"), Path("images")
    found = [video.frames[0].frame_id for video in coco_set(*place, stride=stride).videos]
    assert found == list(range(0, 8, stride))
    records = load_coco(*place, stride=stride)
    # People not used for training are dropped from these images, without replacement.
    assert [record.image_id for record in records] == [n for n in found if n not in (0, 6, 7)]
