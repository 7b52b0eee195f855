import json
from pathlib import Path

import numpy as np
import pytest

from diffusionpose.annotations import AnnotatedFrame
from diffusionpose.data.coco import load_coco
from diffusionpose.data.posetrack import load_posetrack, usable_joints
from diffusionpose.errors import DataError
from diffusionpose.skeleton import POSETRACK15, POSETRACK17, remap
from tests.data.made import (
    coco_root,
    edit,
    figure,
    first_file,
    grown,
    posetrack17_root,
    posetrack_root,
    put,
)
from tests.metrics.made import person


def test_posetrack_people_and_their_neighbours(tmp_path):
    records = load_posetrack(posetrack_root(tmp_path), "val")
    assert len(records) == 2 * 5
    first = records[0]
    # Frame 0 is not annotated, but is used as the neighbour of frame 1.
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
        (lambda text: text[:-20], "not valid JSON"),
        (lambda text: text.replace('"file_name"', '"name"'), r"images\[0\]: .*'file_name'"),
        (lambda text: json.dumps({"annolist": []}), "annolist: the video has no frames"),
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
    ("text", "message"), [("{}", "categories"), ("x", "not valid JSON"), (None, "no such file")]
)
def test_malformed_coco_files_are_named(tmp_path, text, message):
    root = coco_root(tmp_path)
    if text is None:
        (root / "train.json").unlink()
    else:
        (root / "train.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_coco(root, Path("train.json"), Path("images"))


ROOTS = {"17": posetrack17_root, "18": posetrack_root}


@pytest.mark.parametrize("layout", ROOTS)
def test_both_layouts_give_the_same_people(tmp_path, layout):
    records = load_posetrack(ROOTS[layout](tmp_path), "val")
    assert len(records) == 2 * 5
    first = records[0]
    np.testing.assert_allclose(first.keypoints, figure((73, 66), 50, 0.5), atol=1e-6)
    low, high = first.keypoints.min(0), first.keypoints.max(0)
    factor = {"17": 1.2, "18": 1.3}[layout]
    np.testing.assert_allclose(first.box[2:] - first.box[:2], factor * (high - low))
    assert all(path.is_file() for record in records for path in record.frames + record.further)
    assert first.video == {"17": "00001_bonn", "18": "000001_bonn"}[layout]
    assert first.image_id == {"17": 1, "18": 10_000_000_001}[layout]


def move_images_to_data(root):
    """Move images to where PoseTrack21 has them."""
    (root / "data").mkdir()
    (root / "images").rename(root / "data" / "images")


def rename_images(*folders):
    """Rename images as common PoseTrack17 tools do: %08d, counted from 1."""

    def change(root):
        for file in sorted((root / "images").rglob("*.jpg")):
            number = int(file.stem.removesuffix("_crop")) + (not file.stem.endswith("_crop"))
            place = [file.parent.name if part is None else part for part in folders]
            target = root.joinpath("images_renamed", *place, f"{number:08d}.jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)

    return change


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        ("18", move_images_to_data),
        ("17", rename_images("val", None)),
        ("17", rename_images("bonn_5sec", None)),
        ("17", rename_images(None)),
        ("18", rename_images("val", None)),
    ],
)
def test_images_are_found_where_users_have_them(tmp_path, layout, change):
    root = ROOTS[layout](tmp_path)
    before = load_posetrack(root, "val")
    change(root)
    for old, new in zip(before, load_posetrack(root, "val"), strict=True):
        # The images differ between frames, so a wrong order would be detected.
        assert all(path.is_file() for path in new.frames)
        steps = [int(path.stem.removesuffix("_crop")) for path in old.frames]
        offset = int(new.frames[1].stem) - steps[1]
        assert [int(path.stem) for path in new.frames] == [step + offset for step in steps]


def test_videos_without_any_image_say_what_was_looked_for(tmp_path):
    root = posetrack17_root(tmp_path)
    (root / "images").rename(root / "pictures")
    with pytest.raises(
        DataError, match=r"00001_bonn: none of its images.*images_renamed/val/00001_bonn/00000001"
    ):
        load_posetrack(root, "val")


def test_neighbours_are_by_time_and_may_lie_on_disk_only(tmp_path):
    def keep_every_second(content):
        content["images"] = content["images"][1::2][::-1]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]

    root = posetrack_root(tmp_path, videos=("000001_bonn",))
    edit(first_file(root), keep_every_second)

    def frames():
        records = load_posetrack(root, "val")
        return [[int(path.stem) for path in record.frames] for record in records]

    assert frames() == [[4, 5, 5], [2, 3, 4], [0, 1, 2]]
    for number in (0, 2, 4):
        (root / f"images/val/000001_bonn/{number:06d}.jpg").unlink()
    # In a subsampled video, the next existing frame is the neighbour.
    assert frames() == [[3, 5, 5], [1, 3, 5], [1, 1, 3]]


def test_frames_without_numbers_follow_the_order_of_the_file(tmp_path):
    def rename(content):
        for image, name in zip(content["images"], "fedcba", strict=True):
            old = root / image["file_name"]
            image["file_name"] = f"images/val/{name}.jpg"
            old.rename(root / image["file_name"])

    root = posetrack_root(tmp_path, videos=("000001_bonn",))
    edit(first_file(root), rename)
    records = load_posetrack(root, "val")
    assert ["".join(path.stem for path in record.frames) for record in records] == [
        "fed", "edc", "dcb", "cba", "baa",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("000001_bonn\n", [(0, n) for n in range(1, 6)]),
        ("# comment\n\nimages/val/000002_mpii/000003.jpg\r\n10000000002", [(0, 2), (1, 3)]),
        ("000002_mpii\n10000010001", [(1, n) for n in range(1, 6)]),
        ("images/val/000001_bonn/000000.jpg", []),
    ],
)
def test_subsets_keep_what_they_name(tmp_path, text, kept):
    root = posetrack_root(tmp_path)
    (root / "subset.txt").write_text(text)
    records = load_posetrack(root, "val", subset=Path("subset.txt"))
    assert [divmod(record.image_id - 10_000_000_000, 10_000) for record in records] == kept
    # Neighbours need not be in the subset.
    assert all(len(set(record.frames)) == 3 for record in records if record.image_id % 10 != 5)


def test_subsets_must_name_what_is_there(tmp_path):
    root = posetrack_root(tmp_path)
    subset = tmp_path / "subset.txt"
    for text, message in (
        ("000001_bonn\n\n000003_bonn\nx", r"subset\.txt: line 3: '000003_bonn' is not a video.* 1 more lines"),
        ("# nothing\n", "has no entries"),
    ):  # fmt: skip
        subset.write_text(text)
        with pytest.raises(DataError, match=message):
            load_posetrack(root, "val", subset=subset)
    subset.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        load_posetrack(root, "val", subset=subset)
    with pytest.raises(DataError, match="no such subset file"):
        load_posetrack(root, "val", subset=Path("other.txt"))


@pytest.mark.parametrize("name", ["1.png", "1"])
def test_coco_subsets_name_images_or_ids(tmp_path, name):
    root = coco_root(tmp_path)
    (root / "subset.txt").write_text(name)
    arguments = (root, Path("train.json"), Path("images"), POSETRACK15, Path("subset.txt"))
    assert [record.image_id for record in load_coco(*arguments)] == [1]
    (root / "subset.txt").write_text("9.png")
    with pytest.raises(DataError, match=r"'9\.png' is not a video or frame"):
        load_coco(*arguments)


def one_person(root, **fields):
    """Return the first record after changing its annotation; or its image for regions and size."""

    def change(content):
        for key, value in fields.items():
            node = content["images"][1] if key in IMAGE_KEYS else content["annotations"][0]
            node[key] = value

    edit(first_file(root), change)
    return load_posetrack(root, "val")[0]


IMAGE_KEYS = ("width", "height", "ignore_regions_x", "ignore_regions_y")


def test_joints_in_ignore_regions_do_not_count(tmp_path):
    points = figure((73, 66), 50, 0.5)
    x, y = points[POSETRACK15.index("left_wrist")]
    record = one_person(
        posetrack_root(tmp_path),
        ignore_regions_x=[[x - 2, x + 2, x + 2, x - 2], [0, 1]],
        ignore_regions_y=[[y - 2, y - 2, y + 2, y + 2], [0, 1]],
    )
    missing = np.isnan(record.keypoints[:, 0])
    assert [POSETRACK15.joints[j] for j in np.flatnonzero(missing)] == ["left_wrist"]


def test_people_wholly_in_ignore_regions_are_left_out(tmp_path):
    record = one_person(
        posetrack_root(tmp_path),
        ignore_regions_x=[[-500, 500, 500, -500]],
        ignore_regions_y=[[-500, -500, 500, 500]],
    )
    assert record.image_id == 10_000_000_002


@pytest.mark.parametrize(
    ("fields", "box"),
    [
        ({"bbox": [10, 20, 30, 40]}, [10, 20, 40, 60]),
        ({"bbox": [-10, -20, 500, 500]}, [-10, -20, 490, 480]),
        ({"bbox": [-10, -20, 500, 500], "width": 160, "height": 120}, [0, 0, 160, 120]),
        ({"bbox": [10, 20, 0, 40]}, "made"),
        ({"bbox": [10, 20, 30, -40]}, "made"),
        ({"bbox": [900, 20, 30, 40], "width": 160, "height": 120}, "made"),
        ({"bbox": []}, "made"),
        ({"bbox": None}, "made"),
    ],
)
def test_boxes_are_the_files_or_made_from_keypoints(tmp_path, fields, box):
    points = figure((73, 66), 50, 0.5)
    x, y, width, height = grown(points)
    made = np.array([x, y, x + width, y + height])
    if "width" in fields:
        made = np.clip(made, 0, [160, 120] * 2)
    record = one_person(posetrack_root(tmp_path), **fields)
    np.testing.assert_allclose(record.box, made if box == "made" else box, atol=1e-6)


def test_joints_of_visibility_0_are_labelled_in_posetrack17_only(tmp_path):
    def hide17(content):
        point = content["annolist"][1]["annorect"][0]["annopoints"][0]["point"][13]
        assert point["id"] == [13]
        point["is_visible"] = [0]

    def hide18(content):
        content["annotations"][0]["keypoints"][2] = 0

    nose = {}
    for layout, hide in (("17", hide17), ("18", hide18)):
        root = ROOTS[layout](tmp_path / layout)
        edit(first_file(root), hide)
        nose[layout] = load_posetrack(root, "val")[0].keypoints[POSETRACK15.index("nose")]
    np.testing.assert_allclose(nose["17"], figure((73, 66), 50, 0.5)[0])
    assert np.isnan(nose["18"]).all()


def test_people_with_one_joint_and_no_box_are_left_out(tmp_path):
    points = np.full((15, 2), np.nan)
    points[0] = 50
    triples = np.column_stack([points, np.ones(15)])
    values = remap(np.nan_to_num(triples), POSETRACK15.joints, POSETRACK17.joints, missing=0.0)
    values[~(values[:, :2] > 0).all(1)] = 0
    record = one_person(posetrack_root(tmp_path), keypoints=values.ravel().tolist(), bbox=None)
    assert record.image_id == 10_000_000_002


def test_other_skeletons_are_matched_by_name(tmp_path):
    record = load_posetrack(posetrack_root(tmp_path), "val", POSETRACK17)[0]
    assert record.keypoints.shape == (17, 2)
    missing = np.isnan(record.keypoints[:, 0])
    assert [POSETRACK17.joints[j] for j in np.flatnonzero(missing)] == ["left_ear", "right_ear"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["annotations", 1, "keypoints"],
            [1] * 5,
            r"annotations\[1\]\.keypoints: expected 0 or 42",
        ),
        (["annotations", 1, "image_id"], 77, r"annotations\[1\]\.image_id: there is no image 77"),
        (["annotations", 1, "bbox"], "x", r"annotations\[1\]\.bbox: expected a list of numbers"),
        (["images", 2, "id"], 1, r"images\[2\]\.id: image id 1 is used twice"),
        (["annotations", 2, "id"], 1, r"annotations\[2\]\.id: annotation id 1 is used twice"),
        (["images", 2], {}, r"images\[2\]: the key 'id' is missing"),
        (["categories"], [{"name": "person"}], "categories: no category has 'keypoints'"),
    ],
)
def test_malformed_coco_files_name_the_place(tmp_path, path, value, message):
    root = coco_root(tmp_path)
    edit(root / "train.json", put(path, value))
    with pytest.raises(DataError, match=r"train\.json: " + message):
        load_coco(root, Path("train.json"), Path("images"))


def test_records_know_further_frames_and_track_ids(tmp_path):
    root = posetrack_root(tmp_path)

    def change(content):
        content["annotations"][1]["track_id"] = 7
        del content["annotations"][2]["track_id"]

    edit(first_file(root), change)
    first, second, third, *_ = load_posetrack(root, "val")
    assert [path.stem for path in second.further] == ["000000", "000004"]
    assert [first.track_id, second.track_id, third.track_id] == [0, 7, -1]


def test_joints_strictly_inside_any_region_do_not_count():
    triangle = np.array([[0.0, 0], [10, 0], [10, 10]])
    square = np.array([[50.0, 50], [60, 50], [60, 60], [50, 60]])
    places = {"nose": (8, 2), "left_wrist": (55, 55), "left_knee": (10, 5), "left_hip": (30, 30)}
    one = person(places)
    frame = AnnotatedFrame("a.jpg", (one,), ignore_regions=(triangle, square))
    found = usable_joints(one, frame, "posetrack17")
    kept = np.isfinite(found[:, 0])
    expected = person({name: places[name] for name in ("left_knee", "left_hip")})
    assert kept.tolist() == np.isfinite(expected.keypoints[:, 0]).tolist()
