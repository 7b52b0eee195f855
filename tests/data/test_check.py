import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusionpose.data.check import check_data
from diffusionpose.data.coco import load_coco
from diffusionpose.data.posetrack import load_posetrack
from diffusionpose.errors import DataError, UsageError
from tests.data.made import coco_root, edit, first_file, posetrack17_root, posetrack_root, put

ROOTS = {
    "17": lambda root: posetrack17_root(root, num_frames=3),
    "18": lambda root: posetrack_root(root, num_frames=3),
    "coco": coco_root,
}


def load(root, layout):
    if layout == "coco":
        return load_coco(root, Path("train.json"), Path("images"))
    return load_posetrack(root, "val")


def annotation_file(root, layout):
    return root / "train.json" if layout == "coco" else first_file(root)


@pytest.mark.parametrize("layout", ROOTS)
def test_clean_roots_have_no_findings_and_right_numbers(tmp_path, layout):
    root = ROOTS[layout](tmp_path)
    report = check_data(root)
    assert report.findings == ()
    assert report.is_clean
    (part,) = report.parts
    records = load(root, layout)
    assert part.usable["people"] == len(records)
    joints = sum(int(np.isfinite(record.keypoints[:, 0]).sum()) for record in records)
    assert part.usable["joints"] == joints
    if layout == "coco":
        numbers = {"files": 1, "frames": 4, "labelled frames": 4, "people": 4, "joints": 3 * 14 + 3}
        assert part.found == numbers
        assert part.dropped == {"people with fewer than 4 joints or without a box": 1, "crowds": 1}
    else:
        numbers = {"files": 2, "videos": 2, "frames": 6, "labelled frames": 4, "people": 4}
        assert part.found == part.usable == numbers | {"joints": 60}
    assert part.layouts == ({"coco": "coco", "17": "posetrack17", "18": "posetrack18"}[layout],)
    assert list(report.lines())[-1] == "no problems"


PERSON17 = ["annolist", 1, "annorect", 0]
POINT17 = [*PERSON17, "annopoints", 0, "point", 3]
ID18 = 10_000_000_001


def twice(*path):
    """Return a change that appends a copy of an element to its list."""

    def change(content):
        for part in path[:-1]:
            content = content[part]
        content.append(copy.deepcopy(content[path[-1]]))

    return change


def swapped(content):
    frames = content["images"]
    frames[0], frames[1] = frames[1], frames[0]


NAN, INF = float("nan"), float("inf")

MALFORMED = [
    # One wrong or missing value: (layout, change, code, JSON path)
    ("18", put(["images"], KeyError), "missing-key", ""),
    ("18", put(["images"], []), "no-frames", "images"),
    ("18", put(["images"], {}), "wrong-type", "images"),
    ("18", put(["images", 0, "id"], KeyError), "missing-key", "images[0]"),
    ("18", put(["images", 0, "id"], "x"), "wrong-type", "images[0].id"),
    ("18", put(["images", 1, "file_name"], 7), "wrong-type", "images[1].file_name"),
    ("18", put(["images", 1, "width"], 0), "bad-size", "images[1].width"),
    ("18", put(["images", 1, "is_labeled"], "yes"), "wrong-type", "images[1].is_labeled"),
    ("18", put(["images", 1, "is_labeled"], False), "label-mismatch", "images[1]"),
    ("18", put(["images", 1, "nframes"], 9), "wrong-nframes", "images[1].nframes"),
    ("18", swapped, "frame-order", "images[1].file_name"),
    ("18", put(["images", 1, "ignore_regions_x"], [[1, 2, 3]]), "wrong-count", "images[1]"),
    ("18", put(["images", 1, "ignore_regions_x"], 5), "wrong-type", "images[1].ignore_regions_x"),
    ("18", put(["annotations"], KeyError), "missing-key", ""),
    ("18", put(["annotations", 0], None), "wrong-type", "annotations[0]"),
    ("18", put(["annotations", 0], "x"), "wrong-type", "annotations[0]"),
    ("18", put(["images", 1, "file_name"], ""), "wrong-type", "images[1].file_name"),
    ("18", put(["annotations", 0, "image_id"], 5), "dangling-image-id", "annotations[0].image_id"),
    ("18", put(["annotations", 0, "image_id"], KeyError), "missing-key", "annotations[0]"),
    ("18", put(["annotations", 0, "track_id"], KeyError), "missing-key", "annotations[0]"),
    ("18", put(["annotations", 0, "track_id"], [1]), "wrong-type", "annotations[0].track_id"),
    ("18", put(["annotations", 0, "bbox_head"], KeyError), "missing-key", "annotations[0]"),
    ("18", put(["annotations", 0, "bbox"], [1, 2, 0, 4]), "empty-box", "annotations[0].bbox"),
    ("18", put(["annotations", 0, "bbox"], [1, 2, 3, -4]), "empty-box", "annotations[0].bbox"),
    ("18", put(["annotations", 0, "bbox"], [160, 2, 3, 4]), "box-outside", "annotations[0].bbox"),
    ("18", put(["annotations", 0, "bbox"], [-9, 2, 9, 4]), "box-outside", "annotations[0].bbox"),
    ("18", put(["annotations", 0, "bbox"], [1, 2, 3]), "wrong-count", "annotations[0].bbox"),
    ("18", put(["annotations", 0, "bbox", 2], NAN), "not-finite", "annotations[0].bbox[2]"),
    ("18", put(["annotations", 0, "bbox_head"], [1, 2, -3, 4]), "empty-box", "annotations[0].bbox_head"),
    ("18", put(["annotations", 0, "keypoints", 3], INF), "not-finite", "annotations[0].keypoints[3]"),
    ("18", put(["annotations", 0, "keypoints", 4], None), "wrong-type", "annotations[0].keypoints[4]"),
    ("18", put(["annotations", 0, "keypoints"], [1.0] * 45), "wrong-count", "annotations[0].keypoints"),
    ("18", put(["annotations", 0, "keypoints", 2], 0.5), "bad-visibility", "annotations[0].keypoints[2]"),
    ("18", put(["annotations", 0, "keypoints", 3], -17.0), "joint-outside", "annotations[0].keypoints"),
    ("18", put(["annotations", 0, "scores"], [1, 2]), "wrong-count", "annotations[0].scores"),
    ("18", put(["annotations", 1, "id"], ID18 * 100), "duplicate-id", "annotations[1].id"),
    ("18", put(["categories", 0, "keypoints", 0], "nase"), "missing-joint", "categories"),
    ("18", put(["categories", 0, "keypoints", 0], 3), "wrong-type", "categories[0].keypoints[0]"),
    ("17", put(["annolist"], 5), "wrong-type", "annolist"),
    ("17", put(["annolist"], []), "no-frames", "annolist"),
    ("17", put(["annolist", 0], []), "wrong-type", "annolist[0]"),
    ("17", put(["annolist", 1, "image"], KeyError), "missing-key", "annolist[1]"),
    ("17", put(["annolist", 1, "image", 0], {}), "missing-key", "annolist[1].image[0]"),
    ("17", put(["annolist", 1, "image", 0, "name"], "bonn_5sec/00001_bonn/0001_crop.jpg"),
     "duplicate-frame", "annolist[1].image[0].name"),
    ("17", put(["annolist", 1, "is_labeled"], [0]), "label-mismatch", "annolist[1]"),
    ("17", put(["annolist", 1, "ignore_regions"], [{"point": []}]), "bad-polygon", "annolist[1].ignore_regions[0]"),
    ("17", put(["annolist", 1, "ignore_regions"], [{}]), "missing-key", "annolist[1].ignore_regions[0]"),
    ("17", put([*PERSON17, "x2"], KeyError), "missing-key", "annolist[1].annorect[0]"),
    ("17", put([*PERSON17, "x2"], [0]), "empty-box", "annolist[1].annorect[0]"),
    ("17", put([*PERSON17, "y1"], [1, 2]), "wrong-count", "annolist[1].annorect[0].y1"),
    ("17", put([*PERSON17, "track_id"], []), "wrong-count", "annolist[1].annorect[0].track_id"),
    ("17", twice(*PERSON17), "duplicate-track", "annolist[1].annorect[1].track_id"),
    ("17", put([*POINT17, "id"], [15]), "unknown-joint", "annolist[1].annorect[0].annopoints[0].point[3].id"),
    ("17", put([*POINT17, "id"], [4]), "duplicate-joint", "annolist[1].annorect[0].annopoints[0].point[4]"),
    ("17", put([*POINT17, "x"], KeyError), "missing-key", "annolist[1].annorect[0].annopoints[0].point[3]"),
    ("17", put([*POINT17, "y"], [500]), "joint-outside", "annolist[1].annorect[0].annopoints"),
    ("17", put([*POINT17, "y"], ["1"]), "wrong-type", "annolist[1].annorect[0].annopoints[0].point[3].y[0]"),
    ("17", put([*POINT17, "y"], [NAN]), "not-finite", "annolist[1].annorect[0].annopoints[0].point[3].y[0]"),
    ("coco", put(["categories"], KeyError), "missing-key", ""),
    ("coco", put(["categories", 0, "keypoints"], KeyError), "missing-key", "categories"),
    ("coco", put(["images", 0, "file_name"], KeyError), "missing-key", "images[0]"),
    ("coco", put(["images", 0, "height"], 60), "image-size", "images[0].width"),
    ("coco", put(["annotations"], KeyError), "missing-key", ""),
    ("coco", put(["annotations", 0, "image_id"], 99), "dangling-image-id", "annotations[0].image_id"),
    ("coco", put(["annotations", 0, "id"], 2), "duplicate-id", "annotations[1].id"),
    ("coco", put(["annotations", 0, "keypoints"], KeyError), "missing-key", "annotations[0]"),
    ("coco", put(["annotations", 0, "bbox"], [999, 0, 9, 9]), "box-outside", "annotations[0].bbox"),
    ("coco", put(["annotations", 0, "keypoints", 1], 140.0), "joint-outside", "annotations[0].keypoints"),
    ("coco", put(["annotations", 0, "iscrowd"], 7), "wrong-type", "annotations[0].iscrowd"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "change", "code", "where"),
    MALFORMED,
    ids=[f"{layout}-{code}-{where}" for layout, _, code, where in MALFORMED],
)
def test_every_problem_is_found_where_it_is(tmp_path, layout, change, code, where):
    root = ROOTS[layout](tmp_path)
    file = annotation_file(root, layout)
    edit(file, change)
    report = check_data(root)
    assert [(f.code, f.file, f.where) for f in report.findings] == [(code, str(file), where)]
    assert not report.is_clean
    assert list(report.lines())[-1] == "1 problem"


@pytest.mark.parametrize(
    "change",
    [
        put(["annotations", 0, "keypoints", 3], -15.0),
        put(["annotations", 0, "keypoints"], [-900.0, 0.0, 0] + [1.0, 1.0, 1] * 16),
    ],
    ids=["a little", "unlabelled"],
)
def test_joints_a_little_outside_or_not_labelled_are_no_problem(tmp_path, change):
    root = ROOTS["18"](tmp_path)
    edit(first_file(root), change)
    assert check_data(root).is_clean


def both(*changes):
    def change(content):
        for each in changes:
            each(content)

    return change


FIRST = "annotations[0]"
SEVERAL = [
    # The same person twice: duplicate id and track.
    ("18", twice("annotations", 0),
     [("duplicate-track", "annotations[2].track_id"), ("duplicate-id", "annotations[2].id")]),
    # All problems of a file are reported, not just the first.
    ("18", both(put(["annotations", 0, "bbox"], "x"), put(["annotations", 1, "keypoints"], [1]),
                put(["images", 2, "height"], "y")),
     [("wrong-type", f"{FIRST}.bbox"), ("wrong-count", "annotations[1].keypoints"),
      ("wrong-type", "images[2].height")]),
    # Two frames with the same id, and people that refer to a frame that no longer exists.
    ("18", put(["images", 2, "id"], ID18),
     [("duplicate-id", "images[2].id"), ("dangling-image-id", "annotations[1].image_id")]),
    ("18", put(["categories", 0, "keypoints"], ["nose"] * 17),
     [("duplicate-joint", "categories[0].keypoints")]),
    ("18", both(put(["images", 1, "ignore_regions_x"], [[1, 2], [3, "a"]]),
                put(["images", 1, "ignore_regions_y"], [[1, 2], [3, 4]])),
     [("wrong-type", "images[1].ignore_regions_x[1][1]"),
      ("bad-polygon", "images[1].ignore_regions_x[0]"), ("bad-polygon", "images[1].ignore_regions_x[1]")]),
    ("17", put([*PERSON17, "x1"], KeyError), [("missing-key", "annolist[1].annorect[0]")]),
    ("17", put([*PERSON17], {"annopoints": [{"point": [{}]}]}),
     [("missing-key", f"annolist[1].annorect[0]{rest}")
      for rest in [".annopoints[0].point[0]"] * 3 + [""] * 5]),
    ("coco", both(put(["annotations", 0, "bbox"], [1, 2, -3, 4]), put(["annotations", 0, "keypoints", 5], 9)),
     [("bad-visibility", f"{FIRST}.keypoints[5]"), ("empty-box", f"{FIRST}.bbox")]),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "change", "expected"), SEVERAL)
def test_all_problems_of_a_file_are_found(tmp_path, layout, change, expected):
    root = ROOTS[layout](tmp_path)
    edit(annotation_file(root, layout), change)
    assert [(f.code, f.where) for f in check_data(root).findings] == expected


@pytest.mark.parametrize("layout", ROOTS)
@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "bad-json"),
        (b'{"images": [{"id": 1', "bad-json"),
        (b"[" * 200_000, "bad-json"),
        (b'{"a":' * 200_000, "bad-json"),
        (b"\xff\xfe\xff", "bad-json"),
        (b'{"images": ' + b"9" * 5000 + b"}", "bad-json"),
        (b"null", "wrong-type"),
        (b"[]", "wrong-type"),
        (b"1e999", "wrong-type"),
        (b'"\\ud800"', "wrong-type"),
    ],
)
def test_files_that_are_no_such_json_are_named(tmp_path, layout, text, code):
    root = ROOTS[layout](tmp_path)
    file = annotation_file(root, layout)
    file.write_bytes(text)
    findings = check_data(root).findings
    assert {(f.code, f.file, f.where) for f in findings} == {(code, str(file), "")}
    with pytest.raises(DataError, match=file.name):
        load(root, layout)


def test_damaged_images_are_named(tmp_path):
    root = posetrack_root(tmp_path)
    folder = root / "images/val/000001_bonn"
    whole = (folder / "000001.jpg").read_bytes()
    (folder / "000000.jpg").unlink()
    (folder / "000001.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "000002.jpg").write_bytes(b"no image")
    (folder / "000003.jpg").write_bytes(b"")
    (folder / "000004.jpg").unlink()
    (folder / "000004.jpg").mkdir()
    codes = dict.fromkeys((1, 2, 3), "unreadable-image") | {0: "missing-image", 4: "missing-image"}
    found = [(f.code, f.where) for f in check_data(root).findings]
    assert found == [(codes[n], f"images[{n}].file_name") for n in range(5)]
    (part,) = check_data(root).parts
    # Frame 0 has no people; of the 5 in either video, those in frames 1 to 4 of the first are lost.
    assert (part.found["people"], part.usable["people"], part.usable["frames"]) == (10, 6, 7)
    assert part.dropped["frames without a good image"] == 5
    assert check_data(root, images=False).is_clean


def test_png_images_that_are_cut_short_are_named(tmp_path):
    root = coco_root(tmp_path)
    file = root / "images" / "2.png"
    file.write_bytes(file.read_bytes()[:-40])
    (finding,) = check_data(root).findings
    assert (finding.code, finding.where) == ("unreadable-image", "images[2].file_name")
    assert "truncated" in finding.message


@pytest.mark.parametrize("layout", ROOTS)
def test_roots_without_images_say_so_once_a_file(tmp_path, layout):
    root = ROOTS[layout](tmp_path)
    (root / "images").rename(tmp_path.with_name(tmp_path.name + "-elsewhere"))
    findings = check_data(root).findings
    assert {finding.code for finding in findings} == {"missing-images"}
    assert len(findings) == (1 if layout == "coco" else 2)


@pytest.mark.parametrize("layout", ["18", "coco"])
@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (1, 1.0, "duplicate-id"),
        (1.0, 1, "duplicate-id"),
        (1, True, "wrong-type"),
        (1, "1", "wrong-type"),
        (1, 1.5, "wrong-type"),
        (1, 99.0, None),
    ],
)
def test_ids_are_refused_when_loading_as_the_check_says(tmp_path, layout, first, second, code):
    root = ROOTS[layout](tmp_path)
    for index, value in enumerate((first, second)):
        edit(annotation_file(root, layout), put(["annotations", index, "id"], value))
    report = check_data(root)
    assert [finding.code for finding in report.findings] == ([] if code is None else [code])
    assert bool(report.parts[0].dropped.get("files refused")) == (code is not None)
    if code is not None:
        with pytest.raises(DataError, match=r"annotations\[1\]\.id: "):
            load(root, layout)
    else:
        load(root, layout)


@pytest.mark.parametrize(
    "change",
    [put(["annotations", 0, "bbox"], "x"), put(["annotations", 1, "id"], ID18 * 100)],
    ids=["malformed", "duplicate-id"],
)
def test_refused_files_are_counted_and_give_nothing(tmp_path, change):
    root = ROOTS["18"](tmp_path)
    edit(first_file(root), change)
    (part,) = check_data(root).parts
    assert part.dropped["files refused"] == 1
    assert (part.found["people"], part.usable["people"], part.usable["videos"]) == (4, 2, 1)


def test_label_versions_are_told_and_must_not_mix(tmp_path):
    root = ROOTS["18"](tmp_path / "posetrack18_v0.45")
    assert check_data(root).parts[0].versions == ("0.45",)
    edit(first_file(root), put(["info"], {"version": "0.2"}))
    report = check_data(root)
    assert report.parts[0].versions == ("0.2", "0.45")
    assert [finding.code for finding in report.findings] == ["mixed-versions"]


def test_splits_and_layouts_can_be_chosen(tmp_path):
    root = ROOTS["18"](tmp_path)
    file = first_file(root)
    (root / "posetrack_data" / "train").mkdir()
    (root / "posetrack_data" / "train" / "x.json").write_text("{}")
    assert [part.name for part in check_data(root).parts] == ["train", "val"]
    assert check_data(root, "val").is_clean
    assert check_data(root, "val", "posetrack18").is_clean
    found = check_data(root, "val", "posetrack17").findings
    assert [finding.code for finding in found] == ["wrong-layout"] * 2
    with pytest.raises(DataError, match="available splits: train, val"):
        check_data(root, "test")
    with pytest.raises(UsageError, match="choose from auto, posetrack17"):
        check_data(root, layout="mpii")
    with pytest.raises(DataError, match="no annotation files with 'val'"):
        check_data(coco_root(tmp_path / "coco"), "val", "coco")
    with pytest.raises(DataError, match="no such folder"):
        check_data(file / "nothing")


def test_reports_are_plain_json(tmp_path):
    root = ROOTS["17"](tmp_path)
    edit(first_file(root), put(["annolist", 1, "image", 0, "name"], "\ud800\n"))
    report = json.loads(json.dumps(check_data(root).to_dict()))
    assert report["is_clean"] is False
    assert report["findings"][0]["code"] == "missing-image"
    assert report["parts"][0]["found"]["videos"] == 2
    assert all("\n" not in line for line in check_data(root).lines())


# Fuzzing: valid files with random nodes dropped or replaced -------------------------------------

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([[], {}, [[]], [{}], {"point": 3}, 10**30, -(10**400), "\x00", "a" * 5000, "/", ".."]),
)  # fmt: skip


def places(content, path=()):
    """Paths of all nodes."""
    yield path
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    made = {layout: make(tmp_path_factory.mktemp(layout)) for layout, make in ROOTS.items()}
    return {
        layout: (root, annotation_file(root, layout), annotation_file(root, layout).read_text())
        for layout, root in made.items()
    }


@pytest.mark.parametrize("layout", ROOTS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_for_any_content_checking_ends_and_loading_raises_only_data_errors(roots, layout, data):
    root, file, text = roots[layout]
    content = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(places(content), key=str)))
        value = data.draw(st.one_of(st.just(KeyError), ODD))
        if not path:
            content = {} if value is KeyError else value
            break
        put(path, copy.deepcopy(value))(content)
    file.write_text(json.dumps(content))
    try:
        findings = check_data(root, images=data.draw(st.booleans())).findings
        assert all(finding.file for finding in findings)
        assert all(str(finding).isprintable() for finding in findings)
        refusal = None
        try:
            load(root, layout)
        except DataError as error:
            refusal = str(error)
        assert refusal is None or findings
        assert refusal is None or "\n" not in refusal
    finally:
        file.write_text(text)
