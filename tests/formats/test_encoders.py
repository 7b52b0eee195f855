"""JSON and CSV: exact contents and strictness."""

import csv
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusionpose.formats import CSV_COLUMNS, FORMATS, open_writers, read_poses, write_poses
from diffusionpose.structures import FramePoses, PersonPose, PosesHeader, VideoVerdict
from tests.formats.helpers import GOLDEN_JSON, HEADER, NAN, make_header, results, strict, written


def test_json_is_as_documented_byte_for_byte(tmp_path):
    assert written(tmp_path / "a.json", "json") == GOLDEN_JSON


def test_the_example_in_the_documentation_is_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    example = page.split("```json\n")[1].split("```")[0]
    (tmp_path / "a.json").write_text(example, encoding="utf-8")
    assert (
        written(tmp_path / "b.json", "json", *_reordered(read_poses(tmp_path / "a.json")))
        == example
    )
    assert ",".join(CSV_COLUMNS) in page


def _reordered(result):
    header, frames, verdict = result
    return frames, header, verdict


def test_json_of_no_frames_is_valid(tmp_path):
    write_poses(tmp_path / "a.json", "json", HEADER, [], VideoVerdict(0, 0, Fraction(0)))
    assert strict((tmp_path / "a.json").read_text())["frames"] == []
    assert read_poses(tmp_path / "a.json")[1] == []


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


def test_csv_has_a_row_for_each_frame_person_and_joint(tmp_path):
    assert written(tmp_path / "a.csv", "csv") == (
        "frame,time,person,track_id,joint,x,y,score,filled\n"
        "0,0.0,0,3,nose,10.0,20.0,0.9,0\n"
        "0,0.0,0,3,head_top,,,0.0,0\n"
        "0,0.0,0,3,left_wrist,30.123,40.5,0.1234,0\n"
        "0,0.0,1,,nose,10.0,20.0,0.9,0\n"
        "0,0.0,1,,head_top,,,0.0,0\n"
        "0,0.0,1,,left_wrist,30.123,40.5,0.1234,0\n"
        "2,0.066733,0,4,nose,10.0,20.0,0.9,0\n"
        "2,0.066733,0,4,head_top,,,0.0,0\n"
        "2,0.066733,0,4,left_wrist,30.123,40.5,0.1234,0\n"
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
