"""Exports, read back by common libraries for their formats."""

import csv
import json
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from diffusionpose.errors import MissingExtraError, UsageError
from diffusionpose.exports import EXPORTS, ExportOptions, StagedExports, check_exports
from diffusionpose.exports.motion import OPENSIM_NAMES, metres_per_pixel
from diffusionpose.exports.openpose import BODY_25, body_25
from diffusionpose.poses import VideoPoses
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.structures import NO_TRACK, FramePoses, PersonPose
from tests.formats.helpers import VERDICT, make_header
from tests.test_angles import figure

HEADER = replace(make_header(), joints=POSETRACK15.joints, limbs=POSETRACK15.limbs)
OPTIONS = ExportOptions(height=1.8)


def person(track_id, shift=0.0, missing=(), filled=()):
    """Make a figure 130 pixels tall, including head_top."""
    points = figure(head_top=(0, -20), nose=(0, -10)) + np.array([100 + shift, 200])
    scores = np.full((15, 1), 0.75)
    for joint in missing:
        points[POSETRACK15.index(joint)], scores[POSETRACK15.index(joint)] = np.nan, 0
    box = np.array([80.0 + shift, 170, 120 + shift, 330])
    return PersonPose(track_id, box, 0.9, 0.8, np.hstack([points, scores]), filled)


POSES = VideoPoses.from_frames(
    HEADER,
    [
        FramePoses(0, Fraction(0), (person(7), person(NO_TRACK, 300))),
        FramePoses(1, Fraction(1, 25), ()),
        FramePoses(2, Fraction(2, 25), (person(7, 4, ("left_wrist",)), person(2, 9, filled=(0,)))),
        FramePoses(3, Fraction(3, 25), (person(7, 6),)),
    ],
    VERDICT,
)


def made(tmp_path, *names, poses=POSES):
    before = set(tmp_path.iterdir())
    with StagedExports(poses, names, tmp_path, "clip", OPTIONS) as staged:
        assert all(path.name.startswith(".") for path in set(tmp_path.iterdir()) - before)
        staged.publish()
        paths = staged.paths
    assert sorted(tmp_path.iterdir()) == sorted(paths), "nothing temporary stays"
    return paths


def test_parquet_is_the_csv_with_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (path,) = made(tmp_path, "parquet")
    rows = parquet.read_table(path).to_pylist()
    assert len(rows) == 5 * 15
    assert rows[0] == {
        "frame": 0, "time": 0.0, "person": 0, "track_id": 7, "joint": "nose",
        "x": 100.0, "y": 190.0, "score": 0.75, "filled": False,
    }  # fmt: skip
    assert rows[15]["person"] == 1
    assert rows[15]["track_id"] is None
    wrist = rows[30 + POSETRACK15.index("left_wrist")]
    assert (wrist["frame"], wrist["x"], wrist["score"]) == (2, None, 0.0)
    assert [row["joint"] for row in rows if row["filled"]] == ["nose"]


def test_npz_has_the_arrays(tmp_path):
    (path,) = made(tmp_path, "npz")
    with np.load(path) as found:
        assert found["joints"].tolist() == list(POSETRACK15.joints)
        np.testing.assert_array_equal(found["keypoints"], POSES.keypoints)
        np.testing.assert_array_equal(found["frame_indices"], [0, 1, 2, 3])
        assert found["filled"].sum() == 1


def test_openpose_by_its_documented_form(tmp_path):
    (folder,) = made(tmp_path, "openpose")
    assert sorted(path.name for path in folder.iterdir()) == [
        f"clip_{n:012d}_keypoints.json" for n in range(4)
    ]
    content = json.loads((folder / "clip_000000000002_keypoints.json").read_text())
    assert content["version"] == 1.3
    assert [one["person_id"] for one in content["people"]] == [[7], [2]]
    points = np.reshape(content["people"][0]["pose_keypoints_2d"], (25, 3))
    assert points[BODY_25.index("neck")].tolist() == [104, 210, 0.75]
    assert points[BODY_25.index("mid_hip")].tolist() == [104, 260, 0.75]
    assert points[BODY_25.index("right_knee")].tolist() == [94, 290, 0.75]
    for missing in ("left_wrist", "left_eye", "right_heel"):
        assert points[BODY_25.index(missing)].tolist() == [0, 0, 0]
    empty = json.loads((folder / "clip_000000000001_keypoints.json").read_text())
    assert empty == {"version": 1.3, "people": []}


# The figure measures 20 + 60 + 30 + 30 from head_top to ankle, without 3.9 % of the height below.
SCALE = (1 - 0.039) * 1.8 / 140
BOTTOM = HEADER.video.height - 0.5


def test_trc_holds_metres_upwards_from_the_bottom_of_the_picture(tmp_path):
    two, seven = sorted(made(tmp_path, "trc"))
    assert (two.name, seven.name) == ("clip.person2.trc", "clip.person7.trc")
    lines = seven.read_text().splitlines()
    assert lines[0].split("\t")[3] == "clip.person7.trc"
    assert lines[2].split("\t")[:5] == ["25", "25", "4", "15", "m"]
    assert lines[3].split("\t")[2:6:3] == ["Nose", "Neck"]
    assert lines[5] == ""
    rows = [line.split("\t") for line in lines[6:]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row[1]) for row in rows] == pytest.approx([0, 0.04, 0.08, 0.12])
    knee = 2 + 3 * POSETRACK15.index("right_knee")
    assert [float(value) for value in rows[0][knee : knee + 3]] == pytest.approx(
        [SCALE * 90.5, SCALE * (BOTTOM - 290), 0], abs=1e-6
    )
    assert set(rows[1][2:]) == {""}, "absent"
    wrist = 2 + 3 * POSETRACK15.index("left_wrist")
    assert rows[2][wrist : wrist + 3] == ["", "", ""]
    assert all(len(row) == 2 + 45 for row in rows)


def test_c3d_is_read_by_ezc3d(tmp_path):
    ezc3d = pytest.importorskip("ezc3d")
    two, seven = sorted(made(tmp_path, "c3d"))
    found = ezc3d.c3d(str(seven))
    assert found["parameters"]["POINT"]["LABELS"]["value"][0] == "Nose"
    assert found["parameters"]["POINT"]["UNITS"]["value"] == ["m"]
    assert found["header"]["points"]["frame_rate"] == pytest.approx(25)
    points = found["data"]["points"]
    assert points.shape == (4, 15, 4)
    knee = POSETRACK15.index("right_knee")
    assert points[:3, knee, 0] == pytest.approx([SCALE * 90.5, SCALE * (BOTTOM - 290), 0], abs=1e-6)
    assert np.isnan(points[:3, :, 1]).all()
    assert np.isnan(points[0, POSETRACK15.index("left_wrist"), 2])
    assert ezc3d.c3d(str(two))["data"]["points"].shape == (4, 15, 1)


@pytest.mark.parametrize(
    ("shift", "header", "trial"),
    [(0, {2: (2, 2), 7: (0, 3)}, [3, 0]), (70_000, {2: (0, 0), 7: (0, 3)}, [70_003 - 65_536, 1])],
)
def test_c3d_of_several_people_have_one_axis_of_time(tmp_path, shift, header, trial):
    """Frames are numbered from 1; beyond 16 bits, only `TRIAL` has the number of the first one."""
    ezc3d = pytest.importorskip("ezc3d")
    later = [replace(frame, index=frame.index + shift) for frame in POSES.frames()]
    poses = VideoPoses.from_frames(HEADER, later, VERDICT)
    paths = dict(zip((2, 7), sorted(made(tmp_path, "c3d", poses=poses)), strict=True))
    found = {track: ezc3d.c3d(str(path)) for track, path in paths.items()}
    for track, (first, last) in header.items():
        points = found[track]["header"]["points"]
        assert (points["first_frame"], points["last_frame"]) == (first, last)
    start, end = (
        found[2]["parameters"]["TRIAL"][f"ACTUAL_{which}_FIELD"] for which in ("START", "END")
    )
    assert start["value"].tolist() == end["value"].tolist() == trial
    assert start["type"] == found[2]["parameters"]["POINT"]["USED"]["type"], "integers"


def test_angles_have_a_row_each(tmp_path):
    (path,) = made(tmp_path, "angles")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 9
    assert rows[0] == {
        "frame": "0", "time": "0.0", "person": "0", "track_id": "7", "angle": "left_elbow", "degrees": "0.0",
    }  # fmt: skip
    assert rows[9]["track_id"] == ""
    assert next(row for row in rows[18:] if row["angle"] == "left_elbow")["degrees"] == ""


def test_metres_need_a_height_and_a_chain(tmp_path):
    with pytest.raises(UsageError, match="--height-m"):
        check_exports(["trc"], ExportOptions())
    with pytest.raises(UsageError, match=r"between 0\.3 and 3 metres, not 180"):
        check_exports(["npz"], ExportOptions(180))
    headless = FramePoses(0, Fraction(0), (person(1, missing=("head_top",)),))
    poses = VideoPoses.from_frames(HEADER, [headless], VERDICT)
    with StagedExports(poses, ["trc", "npz"], tmp_path, "clip", OPTIONS) as staged:
        staged.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.poses.npz"]
    (note,) = staged.notes
    assert note.startswith("clip.person1.trc was not written: ")
    assert "track 1: the scale is unknown, as no frame has head" in note


def test_nobody_leaves_out_the_files_a_person_and_no_others(tmp_path):
    nobody = VideoPoses.from_frames(HEADER, [FramePoses(0, Fraction(0))], VERDICT)
    with StagedExports(nobody, ["trc", "npz", "c3d"], tmp_path, "clip", OPTIONS) as staged:
        staged.publish()
        assert [path.name for path in staged.paths] == ["clip.poses.npz"]
    assert staged.notes == (
        "no trc file was written: nobody has a track id",
        "no c3d file was written: nobody has a track id",
    )
    assert list(tmp_path.iterdir()) == list(staged.paths)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pyarrow.*diffusionpose\[tables\]"):
        check_exports(["parquet"], ExportOptions())


def test_every_export_replaces_its_own(tmp_path):
    names = list(EXPORTS)
    pytest.importorskip("pyarrow")
    pytest.importorskip("ezc3d")
    first = made(tmp_path, *names)
    assert made(tmp_path, *names) == first


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are of letters, not bytes")
def test_names_that_are_not_utf_8(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("ezc3d")
    folder = tmp_path / "d\udcff"
    folder.mkdir()
    with StagedExports(POSES, tuple(EXPORTS), folder, "r\udcff", OPTIONS) as staged:
        staged.publish()
    assert len(list(folder.iterdir())) == len(staged.paths) == 8
    assert "r?.person7.trc" in (folder / "r\udcff.person7.trc").read_text()


def scale_of(*changes):
    """Metres per pixel of a person in several frames, each with changed keypoints of the figure."""
    frames = []
    for index, change in enumerate(changes):
        one = person(1)
        points = one.keypoints.copy()
        points[:, :2] = change(points[:, :2])
        frames.append(FramePoses(index, Fraction(index, 25), (replace(one, keypoints=points),)))
    poses = VideoPoses.from_frames(HEADER, frames, VERDICT)
    return metres_per_pixel(poses.track(1), poses.header.joints, 1.8)


def test_the_scale_is_that_of_upright_frames_and_of_both_legs():
    def longer(points):
        points = points.copy()
        points[POSETRACK15.index("left_ankle"), 1] += 20
        return points

    upright, bent, collapsed = (lambda p: p), (lambda p: 0.5 * p), (lambda p: 0 * p)
    assert scale_of(*[bent] * 9, upright, upright) == pytest.approx(SCALE)
    assert scale_of(*[collapsed] * 9, upright) == pytest.approx(SCALE)
    assert scale_of(longer) == pytest.approx(SCALE * 140 / 150)


def test_trc_starts_with_the_persons_first_frame(tmp_path):
    two = sorted(made(tmp_path, "trc"))[0]
    lines = two.read_text().splitlines()
    assert lines[2].split("\t") == ["25", "25", "1", "15", "m", "25", "3", "1"]
    assert [line.split("\t")[0] for line in lines[6:]] == ["3"]


def test_markers_keep_their_sides():
    sided = {
        f"{side}_{joint}": side[0].upper() + joint.capitalize()
        for side in ("left", "right")
        for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    }
    assert {
        "nose": "Nose",
        "head_bottom": "Neck",
        "head_top": "Head",
    } | sided == OPENSIM_NAMES


def test_missing_markers_are_invalid_in_c3d(tmp_path):
    ezc3d = pytest.importorskip("ezc3d")
    seven = sorted(made(tmp_path, "c3d"))[1]
    residuals = ezc3d.c3d(str(seven))["data"]["meta_points"]["residuals"][0]
    wrist = POSETRACK15.index("left_wrist")
    assert residuals[wrist].tolist() == [0, -1, -1, 0]


@pytest.mark.parametrize(("shift", "first"), [(65_532, 65_534), (65_533, 0)])
def test_c3d_counts_in_its_header_as_far_as_two_bytes_go(tmp_path, shift, first):
    ezc3d = pytest.importorskip("ezc3d")
    later = [replace(frame, index=frame.index + shift) for frame in POSES.frames()]
    poses = VideoPoses.from_frames(HEADER, later, VERDICT)
    two = sorted(made(tmp_path, "c3d", poses=poses))[0]
    assert ezc3d.c3d(str(two))["header"]["points"]["first_frame"] == first


def test_body_25_is_openposes_and_its_middles_have_the_lower_score():
    assert BODY_25 == (
        "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
        "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
        "right_eye", "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel",
        "right_big_toe", "right_small_toe", "right_heel",
    )  # fmt: skip
    one = person(1)
    one.keypoints[POSETRACK15.index("left_shoulder"), 2] = 0.5
    one.keypoints[POSETRACK15.index("right_hip"), 2] = 0.25
    found = body_25(one.keypoints, POSETRACK15.joints)
    assert found[[1, 8], 2].tolist() == [0.5, 0.25]


def test_npz_and_parquet_have_what_the_poses_have(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    slow = [replace(frame, time=Fraction(frame.index, 10)) for frame in POSES.frames()]
    poses = VideoPoses.from_frames(HEADER, slow, VERDICT)
    table, arrays = made(tmp_path, "parquet", "npz", poses=poses)
    assert parquet.read_table(table)["time"].to_pylist() == poses.time.repeat(15).tolist()
    with np.load(arrays) as found:
        assert found["limbs"].tolist() == [list(limb) for limb in poses.header.limbs]
        for name in set(found) - {"joints", "limbs"}:
            np.testing.assert_array_equal(found[name], getattr(poses, name), err_msg=name)


def test_angles_have_two_decimals(tmp_path):
    one = person(1)
    one.keypoints[POSETRACK15.index("left_wrist"), :2] += (1, 0)
    poses = VideoPoses.from_frames(HEADER, [FramePoses(0, Fraction(0), (one,))], VERDICT)
    (path,) = made(tmp_path, "angles", poses=poses)
    assert path.read_text().splitlines()[1].endswith(",left_elbow,2.86")


def test_nobody_is_smaller_than_0_3_metres():
    check_exports(["trc"], ExportOptions(0.3))
    with pytest.raises(UsageError, match=r"between 0\.3 and 3 metres, not 0\.2"):
        check_exports(["trc"], ExportOptions(0.2))
