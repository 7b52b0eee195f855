import json
from pathlib import Path

import numpy as np
import pytest

from diffusionpose.data.coco import load_coco
from diffusionpose.data.posetrack import load_posetrack
from diffusionpose.errors import DataError
from diffusionpose.skeleton import POSETRACK15
from tests.data.made import coco_root, figure, posetrack_root


def test_posetrack_people_and_their_neighbours(tmp_path):
    records = load_posetrack(posetrack_root(tmp_path), "val")
    assert len(records) == 2 * 5
    first = records[0]
    # Frame 0 is not annotated, but it is there as the neighbour of frame 1.
    assert [path.name for path in first.frames] == ["000000.jpg", "000001.jpg", "000002.jpg"]
    np.testing.assert_allclose(first.keypoints, figure((73, 66), 50, 0.5), atol=1e-6)
    low, high = first.keypoints.min(0), first.keypoints.max(0)
    np.testing.assert_allclose((first.box[:2] + first.box[2:]) / 2, (low + high) / 2)
    np.testing.assert_allclose(first.box[2:] - first.box[:2], 1.3 * (high - low))
    last = records[4]
    assert [path.name for path in last.frames] == ["000004.jpg", "000005.jpg", "000005.jpg"]
    assert not last.still


def test_stride_keeps_every_nth_annotated_frame(tmp_path):
    records = load_posetrack(posetrack_root(tmp_path), "val", stride=2)
    assert [record.frames[1].stem for record in records] == ["000001", "000003", "000005"] * 2


def test_missing_joints_are_nan(tmp_path):
    root = posetrack_root(tmp_path)
    file = root / "posetrack_data" / "val" / "000001_bonn.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["keypoints"][:3] = [0, 0, 0]
    file.write_text(json.dumps(content))
    keypoints = load_posetrack(root, "val")[0].keypoints
    assert np.isnan(keypoints[POSETRACK15.index("nose")]).all()
    assert np.isfinite(np.delete(keypoints, 0, axis=0)).all()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda text: text[:-20], "not in the PoseTrack18 form"),
        (lambda text: text.replace('"bbox"', '"box"'), "'bbox'"),
        (lambda text: json.dumps({"annolist": []}), "'images'"),
    ],
)
def test_malformed_posetrack_files_are_named(tmp_path, harm, message):
    root = posetrack_root(tmp_path)
    file = root / "posetrack_data" / "val" / "000002_mpii.json"
    file.write_text(harm(file.read_text()))
    with pytest.raises(DataError, match=r"000002_mpii\.json.*" + message):
        load_posetrack(root, "val")


def test_no_annotation_files(tmp_path):
    with pytest.raises(DataError, match="no annotation files"):
        load_posetrack(tmp_path, "val")


def test_coco_stills(tmp_path):
    records = load_coco(coco_root(tmp_path), Path("train.json"), Path("images"))
    assert [record.image_id for record in records] == [0, 1]
    record = records[1]
    assert record.still
    assert {path.name for path in record.frames} == {"1.png"}
    expected = figure((80, 62), 52, 1)
    nose = POSETRACK15.index("nose")
    assert np.isnan(record.keypoints[nose]).all()
    np.testing.assert_allclose(
        np.delete(record.keypoints, nose, 0), np.delete(expected, nose, 0), atol=1e-6
    )


def test_head_bottom_of_coco_people_is_between_the_shoulders(tmp_path):
    root = coco_root(tmp_path)
    content = json.loads((root / "train.json").read_text())
    names = content["categories"][0]["keypoints"]
    at = names.index("head_bottom")
    names.pop(at)
    for annotation in content["annotations"]:
        del annotation["keypoints"][3 * at : 3 * at + 3]
    (root / "train.json").write_text(json.dumps(content))
    keypoints = load_coco(root, Path("train.json"), Path("images"))[0].keypoints
    shoulders = [POSETRACK15.index(f"{side}_shoulder") for side in ("left", "right")]
    np.testing.assert_allclose(
        keypoints[POSETRACK15.index("head_bottom")], keypoints[shoulders].mean(0)
    )


@pytest.mark.parametrize(
    ("text", "message"), [("{}", "categories"), ("x", "not a COCO"), (None, "no such file")]
)
def test_malformed_coco_files_are_named(tmp_path, text, message):
    root = coco_root(tmp_path)
    if text is None:
        (root / "train.json").unlink()
    else:
        (root / "train.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_coco(root, Path("train.json"), Path("images"))
