"""Reading of JSON results: round trip, and messages about malformed files."""

import json
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from diffusionpose.errors import DataError
from diffusionpose.formats import is_result_of, read_poses
from diffusionpose.structures import FramePoses
from tests.formats.helpers import GOLDEN_JSON, HEADER, make_person, results, strict, written


@settings(deadline=None, max_examples=60)
@given(results())
def test_json_reads_back_as_written(tmp_path_factory, result):
    header, frames, verdict = result
    folder = tmp_path_factory.mktemp("json")
    text = written(folder / "a.json", "json", frames, header, verdict)
    assert len(strict(text)["frames"]) == len(frames)
    found_header, found_frames, found_verdict = read_poses(folder / "a.json")
    assert (found_header, found_verdict) == (header, verdict)
    assert is_result_of(folder / "a.json", header.video)
    assert is_result_of(folder / "a.json", replace(header.video, average_rate=None))
    older = text.replace(', "fingerprint": "cd34"', "")
    (folder / "older.json").write_text(older, encoding="utf-8")
    assert is_result_of(folder / "older.json", header.video)
    assert not is_result_of(
        folder / "older.json", replace(header.video, width=header.video.width + 1)
    )
    for other in ("ef56", ""):
        assert not is_result_of(folder / "a.json", replace(header.video, fingerprint=other))
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
        (_with_frame(index=0), "frame 0 follows frame 1"),
        (_with_frame(time=9.5), "frame 2: time is 9.5, but time_exact 1001/15000"),
        (_with_frame(time_exact="0.5"), "frames.2.time_exact: "),
        (_with_frame(time_exact="1/0"), "expected an exact fraction such as"),
        (_with_person(keypoints=[[1.0, 2.0, 0.5]]), "frame 0: 1 keypoints for 3 joints"),
        (
            _with_person(keypoints=[[None, 2.0, 0.5]] * 3),
            "x and y must both be numbers or both be null",
        ),
        (_with_person(box=[1, 2, 3]), "frames.0.people.0.box"),
        (_with_person(score="0.5"), "frames.0.people.0.score: "),
        (_with_person(track_id=10**30), "frames.0.people.0.track_id: "),
        (
            _with_person(track_id=5).replace('"track_id": null', '"track_id": 5'),
            "frame 0: two people have the same track id: [5, 5]",
        ),
        (_with_verdict(status="ok"), "status is 'ok', but its issues say 'partial'"),
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
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        read_poses(tmp_path / "none.json")


def test_keys_of_later_versions_are_ignored(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        _with_person(mood="good").replace('"schema_version"', '"new": {}, "schema_version"')
    )
    assert read_poses(path)[0] == HEADER


def with_filled():
    return replace(make_person(3), filled=(0, 2))


def test_filled_joints_are_written_and_read_back(tmp_path):
    frames = [FramePoses(0, Fraction(0), (make_person(4), with_filled()))]
    text = written(tmp_path / "a.json", "json", frames)
    people = strict(text)["frames"][0]["people"]
    assert [one.get("filled") for one in people] == [None, [0, 2]]
    assert [one.filled for one in read_poses(tmp_path / "a.json")[1][0].people] == [(), (0, 2)]
    rows = written(tmp_path / "a.csv", "csv", frames).splitlines()[1:]
    assert [row[-1] for row in rows] == ["0", "0", "0", "1", "0", "1"]
    (tmp_path / "b.json").write_text(text.replace('"filled": [0, 2]', '"filled": [0, 3]'))
    with pytest.raises(DataError, match="frame 0: filled has joint 3, but there are 3 joints"):
        read_poses(tmp_path / "b.json")


def test_times_that_differ_by_a_microsecond_and_more_are_refused(tmp_path):
    text = written(tmp_path / "a.json", "json")
    (tmp_path / "b.json").write_text(text.replace('"time": 0.066733', '"time": 0.066743'))
    with pytest.raises(DataError, match=r"frame 2: time is 0\.066743"):
        read_poses(tmp_path / "b.json")


def test_one_of_y_missing_is_refused_as_one_of_x_is(tmp_path):
    text = written(tmp_path / "a.json", "json")
    (tmp_path / "b.json").write_text(text.replace("[10.0, 20.0, 0.9]", "[10.0, null, 0.9]"))
    with pytest.raises(DataError, match="x and y must both be numbers or both be null"):
        read_poses(tmp_path / "b.json")


@pytest.mark.parametrize("facts", ["5", "[1]", "null"])
def test_a_file_that_is_not_a_result_belongs_to_no_video(tmp_path, facts):
    (tmp_path / "a.json").write_text(f'{{\n"video": {facts},\n}}')
    assert not is_result_of(tmp_path / "a.json", HEADER.video)


@pytest.mark.parametrize(("time", "exact"), [(0.0, "0/1"), (-0.5, "-1/2")])
def test_times_that_do_not_increase_are_refused(tmp_path, time, exact):
    text = written(tmp_path / "a.json", "json")
    changed = text.replace(
        '"time": 0.033367, "time_exact": "1001/30000"', f'"time": {time}, "time_exact": "{exact}"'
    )
    assert changed != text
    (tmp_path / "b.json").write_text(changed)
    with pytest.raises(DataError, match=r"frame 1: time \S+ s is not after 0\.0 s"):
        read_poses(tmp_path / "b.json")
