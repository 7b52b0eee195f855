"""Result files: what they say, that they are strict, and that none is ever half there."""

import csv
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusionpose.errors import DataError, DiffusionPoseError, UsageError
from diffusionpose.formats import (
    FORMATS,
    AtomicFile,
    PosesWriter,
    open_writers,
    poses_json_schema,
    posetrack_sequence,
    read_poses,
    write_poses,
)
from diffusionpose.skeleton import COCO17, POSETRACK15, POSETRACK17
from diffusionpose.structures import (
    NO_TRACK,
    FramePoses,
    PersonPose,
    PosesHeader,
    VideoInfo,
    VideoIssue,
    VideoVerdict,
)

NAN = float("nan")
TEMPORARY = re.compile(r"^\..+\.tmp-[0-9a-f]{8}$")


def make_header(joints: tuple[str, ...] = ("nose", "head_top", "left_wrist"), **video) -> PosesHeader:
    facts = {"name": "clip.mp4", "width": 640, "height": 480, "container": "mp4", "codec": "h264"}
    return PosesHeader(
        video=VideoInfo(**{**facts, "average_rate": Fraction(30000, 1001), **video}),
        skeleton="small",
        joints=joints,
        limbs=((0, 1), (1, 2)),
        model={"name": "tiny", "sha256": "ab12"},
        settings={"seed": 7, "steps": [1, 2]},
        version="0.1.0",
    )


def make_person(track_id: int = 3, score: float = 0.5) -> PersonPose:
    keypoints = np.array([[10, 20, 0.9], [NAN, NAN, 0], [30.12345, 40.5, 0.12345]])
    return PersonPose(track_id, np.array([1.0, 2, 41, 62.0004]), 0.75, score, keypoints)


HEADER = make_header()
FRAMES = [
    FramePoses(0, Fraction(0), (make_person(3), make_person(NO_TRACK, 0.25))),
    FramePoses(1, Fraction(1001, 30000)),
    FramePoses(2, Fraction(2002, 30000), (make_person(4),)),
]
ISSUE = VideoIssue("gap", "2 frames are missing", "partial", 2)
VERDICT = VideoVerdict(5, 3, Fraction(3003, 30000), (ISSUE,))


def written(path: Path, format_name: str, frames=FRAMES, header=HEADER, verdict=VERDICT) -> str:
    write_poses(path, format_name, header, frames, verdict)
    return path.read_text(encoding="utf-8")


def strict(text: str):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# ------------------------------------------------------------------------------------------------------ JSON

GOLDEN_JSON = """\
{
"schema": "diffusionpose/poses",
"schema_version": 1,
"version": "0.1.0",
"video": {"name": "clip.mp4", "width": 640, "height": 480, "container": "mp4", "codec": "h264", \
"rotation": 0, "average_rate": "30000/1001", "expected_frames": null, "has_audio": false},
"verdict": {"status": "partial", "num_packets": 5, "num_frames": 3, "duration": "1001/10000", \
"issues": [{"code": "gap", "message": "2 frames are missing", "severity": "partial", "frame": 2}]},
"skeleton": {"name": "small", "joints": ["nose", "head_top", "left_wrist"], "limbs": [[0, 1], [1, 2]]},
"model": {"name": "tiny", "sha256": "ab12"},
"settings": {"seed": 7, "steps": [1, 2]},
"frames": [
{"index": 0, "time": 0.0, "time_exact": "0/1", "people": [\
{"track_id": 3, "box": [1.0, 2.0, 41.0, 62.0], "box_score": 0.75, "score": 0.5, \
"keypoints": [[10.0, 20.0, 0.9], [null, null, 0.0], [30.123, 40.5, 0.1234]]}, \
{"track_id": null, "box": [1.0, 2.0, 41.0, 62.0], "box_score": 0.75, "score": 0.25, \
"keypoints": [[10.0, 20.0, 0.9], [null, null, 0.0], [30.123, 40.5, 0.1234]]}]},
{"index": 1, "time": 0.033367, "time_exact": "1001/30000", "people": []},
{"index": 2, "time": 0.066733, "time_exact": "1001/15000", "people": [\
{"track_id": 4, "box": [1.0, 2.0, 41.0, 62.0], "box_score": 0.75, "score": 0.5, \
"keypoints": [[10.0, 20.0, 0.9], [null, null, 0.0], [30.123, 40.5, 0.1234]]}]}
]
}
"""


def test_json_is_as_documented_byte_for_byte(tmp_path):
    assert written(tmp_path / "a.json", "json") == GOLDEN_JSON


def test_json_of_no_frames_is_valid(tmp_path):
    write_poses(tmp_path / "a.json", "json", HEADER, [], VideoVerdict(0, 0, Fraction(0)))
    assert strict((tmp_path / "a.json").read_text())["frames"] == []
    assert read_poses(tmp_path / "a.json")[1] == []


finite = st.floats(-1e5, 1e5)
unit = st.floats(0, 1)
joint = st.one_of(
    st.tuples(finite, finite, unit), st.just((NAN, NAN, 0.0)), st.just((-0.0, 0.0, -0.0))
)


@st.composite
def person(draw, num_joints: int, track_id: int) -> PersonPose:
    keypoints = np.array(draw(st.lists(joint, min_size=num_joints, max_size=num_joints)))
    box = np.array(draw(st.tuples(finite, finite, finite, finite)))
    return PersonPose(track_id, box, draw(unit), draw(unit), keypoints)


@st.composite
def results(draw) -> tuple[PosesHeader, list[FramePoses], VideoVerdict]:
    header = make_header(
        name=draw(st.text(min_size=1)),
        expected_frames=draw(st.none() | st.integers(0, 99)),
        average_rate=draw(st.none() | st.just(Fraction(25))),
    )
    frames, time = [], draw(st.fractions(-1, 1, max_denominator=10**6))
    for index in sorted(draw(st.sets(st.integers(0, 10**6), max_size=4))):
        time += draw(st.fractions(0, 100, max_denominator=90000))
        ids = draw(st.lists(st.integers(0, 9), unique=True, max_size=3)) + draw(
            st.lists(st.just(NO_TRACK), max_size=1)
        )
        frames.append(FramePoses(index, time, tuple(draw(person(3, each)) for each in ids)))
    severities = st.sampled_from(["info", "partial"])
    issues = st.builds(VideoIssue, st.text(), st.text(), severities, st.none() | st.integers(0, 9))
    verdict = VideoVerdict(9, len(frames), Fraction(1, 3), tuple(draw(st.lists(issues, max_size=2))))
    return header, frames, verdict


@settings(deadline=None, max_examples=60)
@given(results())
def test_json_reads_back_as_written(tmp_path_factory, result):
    header, frames, verdict = result
    folder = tmp_path_factory.mktemp("json")
    text = written(folder / "a.json", "json", frames, header, verdict)
    assert len(strict(text)["frames"]) == len(frames)
    found_header, found_frames, found_verdict = read_poses(folder / "a.json")
    assert (found_header, found_verdict) == (header, verdict)
    assert [(f.index, f.time) for f in found_frames] == [(f.index, f.time) for f in frames]
    for found, frame in zip(found_frames, frames, strict=True):
        assert [p.track_id for p in found.people] == [p.track_id for p in frame.people]
        for a, b in zip(found.people, frame.people, strict=True):
            np.testing.assert_allclose(a.keypoints[:, :2], b.keypoints[:, :2], rtol=0, atol=5.01e-4)
            np.testing.assert_allclose(a.keypoints[:, 2], b.keypoints[:, 2], rtol=0, atol=5.01e-5)
            np.testing.assert_allclose(a.box, b.box, rtol=0, atol=5.01e-4)
            np.testing.assert_allclose(
                [a.box_score, a.score], [b.box_score, b.score], rtol=0, atol=5.01e-5
            )
    assert written(folder / "b.json", "json", found_frames, found_header, found_verdict) == text


@settings(deadline=None, max_examples=25)
@given(results(), st.sampled_from([*FORMATS]))
def test_bytes_depend_on_the_result_alone(tmp_path_factory, result, format_name):
    header, frames, verdict = result
    folder = tmp_path_factory.mktemp("same")
    first = written(folder / "a", format_name, frames, header, verdict)
    assert written(folder / "other name", format_name, frames, header, verdict) == first
    assert "NaN" not in re.sub(r'"[^"]*"', "", first)
    if format_name != "csv":
        strict(first)


def test_a_joint_with_any_part_missing_is_missing(tmp_path):
    keypoints = np.array([[NAN, 5, 0.9], [5, np.inf, 0.9], [5, 5, NAN]])
    frame = FramePoses(0, Fraction(0), (PersonPose(0, np.zeros(4), 0.5, 0.5, keypoints),))
    found = strict(written(tmp_path / "a.json", "json", [frame]))
    assert found["frames"][0]["people"][0]["keypoints"] == [[None, None, 0.0]] * 3


def test_names_that_are_not_unicode_do_not_stop_the_writer(tmp_path):
    header = make_header(name="caf\udce9.mp4")
    written(tmp_path / "a.json", "json", header=header)
    assert read_poses(tmp_path / "a.json")[0].video.name == "caf\N{REPLACEMENT CHARACTER}.mp4"


def test_settings_that_json_cannot_hold_fail_before_the_first_frame(tmp_path):
    broken = PosesHeader(**{**vars(HEADER), "settings": {"rate": NAN}})
    with pytest.raises(ValueError, match="JSON"):
        open_writers(["csv", "json"], tmp_path, "clip", broken)
    assert list(tmp_path.iterdir()) == []


def _edited(**changes) -> str:
    return json.dumps({**json.loads(GOLDEN_JSON), **changes})


def _with_frame(**changes) -> str:
    frames = json.loads(GOLDEN_JSON)["frames"]
    frames[2].update(changes)
    return _edited(frames=frames)


def _with_person(**changes) -> str:
    frames = json.loads(GOLDEN_JSON)["frames"]
    frames[0]["people"][0].update(changes)
    return _edited(frames=frames)


def _with_verdict(**changes) -> str:
    return _edited(verdict={**json.loads(GOLDEN_JSON)["verdict"], **changes})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected JSON"),
        (GOLDEN_JSON[:-20], "expected JSON"),
        (GOLDEN_JSON.replace('"seed": 7', '"seed": NaN'), "expected JSON"),
        (GOLDEN_JSON.replace("30.123,", "NaN,"), "expected JSON"),
        ("[1]", "expected a JSON object, found list"),
        ("{}", 'expected "schema": "diffusionpose/poses", found None'),
        (_edited(schema="coco"), "found 'coco'"),
        (_edited(schema_version=2, version="9.9"), "found 2 (by version '9.9')"),
        (_edited(schema_version=True), "found True"),
        (_edited(frames=None), "frames: "),
        (_edited(video={"name": "a"}), "video.width: Field required (and "),
        (_edited(skeleton={"name": "s", "joints": ["a"], "limbs": [[0, 1]]}), "limb (0, 1)"),
        (_with_frame(index=0), "frame 0 comes after frame 1"),
        (_with_frame(time=9.5), "frame 2: time is 9.5, time_exact 1001/15000"),
        (_with_frame(time_exact="0.5"), "frames.2.time_exact: "),
        (_with_frame(time_exact="1/0"), "expected an exact fraction such as"),
        (_with_person(keypoints=[[1.0, 2.0, 0.5]]), "frame 0: 1 keypoints for 3 joints"),
        (_with_person(keypoints=[[None, 2.0, 0.5]] * 3), "one of x and y is null"),
        (_with_person(box=[1, 2, 3]), "frames.0.people.0.box"),
        (_with_person(score="0.5"), "frames.0.people.0.score: "),
        (_with_person(track_id=10**30), "frames.0.people.0.track_id: "),
        (
            _with_person(track_id=5).replace('"track_id": null', '"track_id": 5'),
            "frame 0: two people have one track id: [5, 5]",
        ),
        (_with_verdict(status="ok"), "status is 'ok', its issues say 'partial'"),
    ],
)
def test_malformed_files_are_refused_with_what_was_found(tmp_path, text, said):
    path = tmp_path / "bad.poses.json"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        read_poses(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot read .*No such file"):
        read_poses(tmp_path / "none.json")


def test_keys_of_later_versions_are_ignored(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(_with_person(mood="good").replace('"schema_version"', '"new": {}, "schema_version"'))
    assert read_poses(path)[0] == HEADER or read_poses(path)[0].settings == HEADER.settings


def test_json_schema_names_every_key_of_the_file():
    schema = poses_json_schema()
    golden = json.loads(GOLDEN_JSON)
    json.dumps(schema, allow_nan=False)
    assert set(schema["required"]) == set(golden)
    for record, found in [
        ("VideoRecord", golden["video"]),
        ("VerdictRecord", golden["verdict"]),
        ("IssueRecord", golden["verdict"]["issues"][0]),
        ("SkeletonRecord", golden["skeleton"]),
        ("FrameRecord", golden["frames"][0]),
        ("PersonRecord", golden["frames"][0]["people"][0]),
    ]:
        assert set(schema["$defs"][record]["required"]) == set(found), record
    assert schema["properties"]["schema_version"]["const"] == 1


# ------------------------------------------------------------------------------------------------------- CSV


def test_csv_has_a_row_for_each_frame_person_and_joint(tmp_path):
    assert written(tmp_path / "a.csv", "csv") == (
        "frame,time,person,track_id,joint,x,y,score\n"
        "0,0.0,0,3,nose,10.0,20.0,0.9\n"
        "0,0.0,0,3,head_top,,,0.0\n"
        "0,0.0,0,3,left_wrist,30.123,40.5,0.1234\n"
        "0,0.0,1,,nose,10.0,20.0,0.9\n"
        "0,0.0,1,,head_top,,,0.0\n"
        "0,0.0,1,,left_wrist,30.123,40.5,0.1234\n"
        "2,0.066733,0,4,nose,10.0,20.0,0.9\n"
        "2,0.066733,0,4,head_top,,,0.0\n"
        "2,0.066733,0,4,left_wrist,30.123,40.5,0.1234\n"
    )


@settings(deadline=None, max_examples=25)
@given(results())
def test_csv_is_read_by_the_csv_module(tmp_path_factory, result):
    header, frames, verdict = result
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    written(path, "csv", frames, header, verdict)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    wanted = [
        (frame.index, number, joint, person.keypoints[n])
        for frame in frames
        for number, person in enumerate(frame.people)
        for n, joint in enumerate(header.joints)
    ]
    assert len(rows) == len(wanted)
    for row, (index, number, joint, keypoint) in zip(rows, wanted, strict=True):
        assert (int(row["frame"]), int(row["person"]), row["joint"]) == (index, number, joint)
        found = [float(row[axis] or "nan") for axis in "xy"]
        np.testing.assert_allclose(found, keypoint[:2], rtol=0, atol=5.01e-4)


# ---------------------------------------------------------------------------------------- PoseTrack and COCO


def _at(skeleton, **joints) -> list:
    """Values by joint name, zeros elsewhere, in the order of the skeleton."""
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


# ---------------------------------------------------------------------------- writing: order, errors, kills


def test_all_formats_side_by_side(tmp_path):
    with open_writers(["json", "csv", "json"], tmp_path / "new" / "folder", "кадр 漢字 %03d", HEADER) as writer:
        for frame in FRAMES:
            writer.write(frame)
        assert all(not path.exists() for path in writer.paths)
        writer.close(VERDICT)
    assert [path.name for path in writer.paths] == ["кадр 漢字 %03d.poses.json", "кадр 漢字 %03d.poses.csv"]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted(writer.paths)


def test_files_are_readable_as_the_umask_says(tmp_path):
    written(tmp_path / "a.json", "json")
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "plain")]
    assert modes[0] == modes[1]


def test_an_exception_leaves_nothing_and_spares_what_was_there(tmp_path):
    old = tmp_path / "clip.poses.json"
    old.write_text("old")
    with pytest.raises(KeyboardInterrupt), open_writers([*FORMATS], tmp_path, "clip", HEADER) as writer:
        writer.write(FRAMES[0])
        assert len(list(tmp_path.iterdir())) == 1 + len(FORMATS)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text() == "old"


def test_a_failure_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(DiffusionPoseError, match=r"clip\.poses\.json: No space left"):
        with open_writers([*FORMATS], tmp_path, "clip", HEADER) as writer:
            writer.write(FRAMES[0])
            monkeypatch.setattr(os, "fsync", full)
            writer.close(VERDICT)
    assert list(tmp_path.iterdir()) == []


def test_leaving_without_a_verdict_is_a_mistake(tmp_path):
    with pytest.raises(RuntimeError, match="not closed"):
        with open_writers(["json"], tmp_path, "clip", HEADER) as writer:
            writer.write(FRAMES[0])
    assert list(tmp_path.iterdir()) == []


def test_staged_files_wait_for_publish(tmp_path):
    with PosesWriter(HEADER, [(tmp_path / "a.json", "json")]) as writer:
        writer.stage(VideoVerdict(0, 0, Fraction(0)))
        assert not (tmp_path / "a.json").exists()
        with pytest.raises(ValueError, match="staged"):
            writer.write(FRAMES[0])
        writer.publish()
    assert read_poses(tmp_path / "a.json")[1] == []


def _frame(index: int = 5, **person) -> FramePoses:
    return FramePoses(index, Fraction(0), (PersonPose(**{**vars(make_person()), **person}),))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (FRAMES[0], "frame 0 comes after frame 0"),
        (_frame(keypoints=np.zeros((2, 3))), r"keypoints are \(2, 3\), not \(3, 3\)"),
        (_frame(box=np.array([0, 0, NAN, 1])), "not finite"),
        (_frame(score=np.inf), "not finite"),
        (FramePoses(5, Fraction(0), (make_person(1), make_person(1))), "one track id"),
    ],
)
def test_frames_that_no_reader_could_use_are_refused(tmp_path, frame, said):
    with pytest.raises(ValueError, match=said), open_writers(["json"], tmp_path, "a", HEADER) as writer:
        writer.write(FRAMES[0])
        writer.write(frame)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "/a", "a\0b"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot name a file"):
        open_writers(["json"], tmp_path, name, HEADER)


def test_targets_that_cannot_be_written_are_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "clip.poses.csv").mkdir()
    with pytest.raises(UsageError, match="cannot write .*clip.poses.json: "):
        open_writers(["json"], tmp_path / "file", "clip", HEADER)
    with pytest.raises(UsageError, match="is a folder"):
        open_writers(["json", "csv"], tmp_path, "clip", HEADER)
    with pytest.raises(UsageError, match="File name too long"):
        open_writers(["json"], tmp_path, "x" * 300, HEADER)
    with pytest.raises(UsageError, match="'xml': there are json, csv"):
        open_writers(["json", "xml"], tmp_path, "clip", HEADER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.poses.csv", "file"]


def test_atomic_file_publishes_or_discards(tmp_path):
    (tmp_path / "video.mp4").write_text("old")
    kept, dropped = AtomicFile(tmp_path / "video.mp4"), AtomicFile(tmp_path / "other.mp4")
    assert TEMPORARY.match(kept.temporary.name)
    kept.temporary.write_text("new")
    kept.publish()
    kept.discard()
    dropped.discard()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("video.mp4", "new")]


KILLED = """
import os, sys, time
from fractions import Fraction
import tests.test_formats as t

def hang(*_):
    print("hangs", flush=True)
    time.sleep(120)

folder, moment = sys.argv[1:]
with t.open_writers([*t.FORMATS], folder, "clip", t.HEADER) as writer:
    for index in range(2000):
        writer.write(t.FramePoses(index, Fraction(index, 25), (t.make_person(),)))
    if moment == "write":
        hang()
    os.fsync = hang
    writer.close(t.VERDICT)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("moment", ["write", "close"])
def test_a_killed_process_leaves_no_final_file(tmp_path, moment):
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), moment],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(signal.SIGKILL)
    left = list(tmp_path.iterdir())
    assert len(left) == len(FORMATS)
    assert all(TEMPORARY.match(path.name) for path in left)
    sizes = [path.stat().st_size for path in left]
    assert all(sizes) if moment == "close" else not any(sizes)


def _peak_of(num_frames: int, folder: Path) -> int:
    tracemalloc.start()
    people = (make_person(),)
    try:
        with open_writers([*FORMATS], folder, f"clip{num_frames}", HEADER) as writer:
            for index in range(num_frames):
                writer.write(FramePoses(index, Fraction(index, 25), people))
            writer.close(VERDICT)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_video(tmp_path):
    _peak_of(5, tmp_path)  # what is cached once
    few, many = _peak_of(200, tmp_path), _peak_of(20_000, tmp_path)
    assert (tmp_path / "clip20000.poses.json").stat().st_size > 3_000_000
    assert many < few + 50_000
