"""Conversion of results, with gaps filled and paths smoothed."""

from dataclasses import replace

import numpy as np
import pytest

from diffusionpose.errors import DataError, UsageError
from diffusionpose.exports import ExportOptions
from diffusionpose.poses import VideoPoses
from diffusionpose.postprocess import Butterworth, OneEuro
from diffusionpose.results import ResultOptions, convert
from tests.exports.test_exports import POSES
from tests.test_postprocess import NAN, make_poses, noisy


def saved(tmp_path):
    """Save a result with a gap of two frames."""
    paths = noisy(num_frames=40)[1]
    paths[10:12, 1] = NAN
    path = tmp_path / "clip.poses.json"
    make_poses(paths).save(path)
    return path


def test_formats_stand_beside_the_result_or_elsewhere(tmp_path):
    source = saved(tmp_path)
    before = source.read_bytes()
    files = convert(source, tmp_path, ResultOptions(("csv", "npz")))
    assert [file.name for file in files] == ["clip.poses.csv", "clip.poses.npz"]
    (copy,) = convert(source, tmp_path / "new", ResultOptions(("json",)))
    assert copy.read_bytes() == before == source.read_bytes()


def test_what_was_done_is_written_down(tmp_path):
    source = saved(tmp_path)
    wanted = ResultOptions(("json",), fill_gaps=2, smoother=Butterworth(5))
    (file,) = convert(source, tmp_path / "new", wanted)
    before, after = VideoPoses.load(source), VideoPoses.load(file)
    assert after.header.settings == {
        **before.header.settings,
        "fill_gaps": 2,
        "smooth": "butterworth:5",
    }
    assert after.filled.sum() == 2
    assert np.isfinite(after.track(3).keypoints).all()
    assert np.abs(after.keypoints - before.keypoints)[after.track_id == 3][:, 0].mean() > 0.1
    after.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
    assert ResultOptions(smoother=OneEuro()).noted(before.header).settings["smooth"] == "one-euro"


def test_weak_joints_are_dropped_before_gaps_are_filled(tmp_path):
    poses = make_poses(noisy(num_frames=40)[1])
    poses.keypoint_scores[poses.track_id == 3, 0] = 0.9
    weak = (poses.track_id == 3) & np.isin(poses.frame_index, [20, 21])
    poses.keypoint_scores[weak, 0] = 0.29
    poses.save(tmp_path / "clip.poses.json")
    dropped = ResultOptions(min_score=0.3).processed(poses)
    assert np.isnan(dropped.keypoints[weak, 0]).all()
    assert (dropped.keypoint_scores[weak, 0] == 0).all()
    np.testing.assert_array_equal(dropped.keypoints[~weak], poses.keypoints[~weak])
    wanted = ResultOptions(("json",), min_score=0.3, fill_gaps=2)
    (file,) = convert(tmp_path / "clip.poses.json", tmp_path / "new", wanted)
    filled = VideoPoses.load(file)
    assert filled.filled[weak, 0].all()
    assert filled.filled.sum() == 2
    assert filled.header.settings["min_score"] == 0.3
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="--min-score"):
            ResultOptions(min_score=wrong)


def test_what_is_done_again_stands_behind_what_was_done(tmp_path):
    source = saved(tmp_path)
    steps = [
        ResultOptions(("json",), fill_gaps=1, smoother=Butterworth(6)),
        ResultOptions(("json",), fill_gaps=2),
        ResultOptions(("json",), fill_gaps=5, smoother=OneEuro()),
    ]
    for number, wanted in enumerate(steps):
        (source,) = convert(source, tmp_path / str(number), wanted)
    settings = VideoPoses.load(source).header.settings
    assert settings["smooth"] == ["butterworth:6", "one-euro"]
    assert settings["fill_gaps"] == [1, 2, 5]


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [(0.5, 0.9, (15, 27)), (None, 0.1, (0, 3)), (1.2, None, (36, 39)), (-3, 99, (0, 39))],
)
def test_a_part_is_cut_out_after_smoothing(tmp_path, start, end, frames):
    source, wanted = saved(tmp_path), ResultOptions(("json",), smoother=Butterworth(5))
    (whole,) = convert(source, tmp_path / "whole", wanted)
    (part,) = convert(source, tmp_path / "part", wanted, start=start, end=end)
    found, smooth = VideoPoses.load(part), VideoPoses.load(whole)
    assert (found.frame_indices[0], found.frame_indices[-1]) == frames
    inside = np.isin(smooth.frame_index, found.frame_indices)
    np.testing.assert_array_equal(found.keypoints, smooth.keypoints[inside])
    assert found.header.settings.get("start") == start
    assert found.header.settings.get("end") == end


def test_times_of_the_files_find_their_frames_and_parts_of_parts_are_noted(tmp_path):
    (part,) = convert(saved(tmp_path), tmp_path / "1", ResultOptions(), start=0.066667, end=0.5)
    assert VideoPoses.load(part).frame_indices[[0, -1]].tolist() == [2, 15]
    (part,) = convert(part, tmp_path / "2", ResultOptions(), start=0.1, end=0.433333)
    found = VideoPoses.load(part)
    assert found.frame_indices[[0, -1]].tolist() == [3, 13]
    assert found.header.settings["start"] == [0.066667, 0.1]
    for wrong in ({"end": float("inf")}, {"start": float("nan")}):
        with pytest.raises(UsageError, match="--start and --end must be finite"):
            convert(part, tmp_path / "3", ResultOptions(), **wrong)


@pytest.mark.parametrize(("start", "end"), [(2, None), (0.9, 0.5)])
def test_a_part_without_frames_is_refused(tmp_path, start, end):
    with pytest.raises(
        UsageError, match=r"--start .*: no frames in this range; the video goes from"
    ):
        convert(saved(tmp_path), tmp_path / "part", ResultOptions(), start=start, end=end)


def test_files_that_are_there_stay_unless_asked_for(tmp_path):
    source = saved(tmp_path)
    table = tmp_path / "clip.poses.csv"
    table.write_text("mine")
    with pytest.raises(UsageError, match=r"clip\.poses\.csv already exists"):
        convert(source, tmp_path, ResultOptions(("csv", "npz")))
    assert table.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.poses.csv", "clip.poses.json"]
    convert(source, tmp_path, ResultOptions(("csv",)), overwrite=True)
    assert table.read_text().startswith("frame,")
    with pytest.raises(UsageError, match="the source itself"):
        convert(source, tmp_path, ResultOptions(("json",)), overwrite=True)


def test_a_failing_export_leaves_nothing(tmp_path, monkeypatch):
    source = saved(tmp_path)

    def fail(*_):
        raise DataError("broken")

    monkeypatch.setattr("diffusionpose.exports.files._write_trc", fail)
    wanted = ResultOptions(("csv", "npz", "trc"), export=ExportOptions(1.8))
    with pytest.raises(DataError, match="broken"):
        convert(source, tmp_path, wanted)
    assert list(tmp_path.iterdir()) == [source]


def test_who_is_seen_in_parts_only_costs_nobody_else_their_files(tmp_path):
    wanted, notes = ResultOptions(("npz", "trc"), export=ExportOptions(1.8)), []
    files = convert(saved(tmp_path), tmp_path, wanted, on_note=notes.append)
    assert [file.name for file in files] == ["clip.poses.npz"]
    assert "no frame has head, hips" in notes[0]


def test_what_nobody_has_a_track_for_is_noted_and_the_rest_made(tmp_path):
    source = saved(tmp_path)
    poses = VideoPoses.load(source)
    nobody = replace(poses, track_id=np.full_like(poses.track_id, -1))
    nobody.save(source)
    wanted, notes = ResultOptions(("csv", "npz", "trc"), export=ExportOptions(1.8)), []
    files = convert(source, tmp_path, wanted, on_note=notes.append)
    assert [file.name for file in files] == ["clip.poses.csv", "clip.poses.npz"]
    assert notes == ["no trc file was written: nobody has a track id"]


def saved_pair(tmp_path):
    """Save a result with the people 2 and 7."""
    path = tmp_path / "clip.poses.json"
    POSES.save(path)
    return path


def test_files_of_a_person_that_are_there_stay_unless_asked_for(tmp_path):
    source, wanted = saved_pair(tmp_path), ResultOptions(("trc",), export=ExportOptions(1.8))
    mine = tmp_path / "clip.person7.trc"
    mine.write_text("mine")
    with pytest.raises(UsageError, match=r"clip\.person7\.trc already exists"):
        convert(source, tmp_path, wanted)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "clip.person2.trc").exists()
    (tmp_path / "clip.person9.trc").touch()
    notes = []
    convert(source, tmp_path, wanted, overwrite=True, on_note=notes.append)
    assert mine.read_text().startswith("PathFileType")
    assert notes == ["left from before, not made with these results: clip.person9.trc"]


def test_people_of_different_heights_one_by_one(tmp_path):
    source, notes = saved_pair(tmp_path), []
    for track, height in ((2, 1.6), (7, 1.9)):
        wanted = ResultOptions(("trc",), export=ExportOptions(height))
        (file,) = convert(source, tmp_path, wanted, people=[track], on_note=notes.append)
        assert file.name == f"clip.person{track}.trc"
    assert notes == []
    (copy,) = convert(source, tmp_path / "one", ResultOptions(("json",)), people=[7])
    alone = VideoPoses.load(copy)
    assert alone.track_ids == (7,)
    assert (alone.track_id == 7).all()
    assert len(alone) == len(POSES)
    assert alone.header.settings["people"] == [7]
    with pytest.raises(UsageError, match="unknown --person 3; ids in this result: 2, 7"):
        convert(source, tmp_path, ResultOptions(), people=[7, 3])


@pytest.mark.parametrize(
    "name", ["clip.poses.csv", "clip.coco.json", "clip.person3.trc", "clip.mp4"]
)
def test_another_file_of_a_result_is_told_from_a_broken_one(tmp_path, name):
    with pytest.raises(DataError, match="No such file"):
        convert(tmp_path / name, tmp_path, ResultOptions())
    (tmp_path / name).write_text("{}")
    with pytest.raises(
        DataError, match=r"only NAME\.poses\.json holds the whole result: pass that"
    ):
        convert(tmp_path / name, tmp_path, ResultOptions())
    (tmp_path / "clip.poses.json").write_text("{}")
    with pytest.raises(DataError, match="schema"):
        convert(tmp_path / "clip.poses.json", tmp_path, ResultOptions())


def test_unknown_formats_are_refused():
    with pytest.raises(UsageError, match=r"unknown --format 'xml'; choose from json, csv, .*trc"):
        ResultOptions(("xml",))
    with pytest.raises(UsageError, match="unknown --format ''; choose from json"):
        ResultOptions(())


def test_options_of_a_wrong_kind_are_refused():
    with pytest.raises(UsageError, match=r"formats must be a tuple of names, such as \('csv',\)"):
        ResultOptions(formats="csv")
    for frames in (-1, 1.5, "5"):
        with pytest.raises(UsageError, match=f"fill_gaps must be 0 frames or more, not {frames!r}"):
            ResultOptions(fill_gaps=frames)


def test_paths_may_be_text(tmp_path):
    POSES.save(tmp_path / "clip.poses.json")
    source, out = str(tmp_path / "clip.poses.json"), str(tmp_path / "csv")
    assert convert(source, out, ResultOptions(("csv",))) == (tmp_path / "csv" / "clip.poses.csv",)
