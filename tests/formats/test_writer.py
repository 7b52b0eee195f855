"""Writing frame by frame: order, errors, kills and memory; final files are always complete."""

import gc
import os
import signal
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from diffusionpose.errors import DiffusionPoseError, UsageError
from diffusionpose.formats import FORMATS, PosesWriter, open_writers, read_poses, write_poses
from diffusionpose.structures import NO_TRACK, FramePoses, PersonPose, VideoVerdict
from tests.formats.helpers import FRAMES, HEADER, NAN, TEMPORARY, VERDICT, make_person, written


def test_all_formats_side_by_side(tmp_path):
    with open_writers(
        ["json", "csv", "json"], tmp_path / "new" / "folder", "кадр 漢字 %03d", HEADER
    ) as writer:
        for frame in FRAMES:
            writer.write(frame)
        assert all(not path.exists() for path in writer.paths)
        writer.close(VERDICT)
    assert [path.name for path in writer.paths] == [
        "кадр 漢字 %03d.poses.json",
        "кадр 漢字 %03d.poses.csv",
    ]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted(writer.paths)


def write_frames(folder: Path, frames, then=lambda writer: None) -> None:
    """Write frames in all formats, then call `then` before leaving the block."""
    with open_writers([*FORMATS], folder, "clip", HEADER) as writer:
        for frame in frames:
            writer.write(frame)
        then(writer)


def test_an_exception_leaves_nothing_and_spares_what_was_there(tmp_path):
    old = tmp_path / "clip.poses.json"
    old.write_text("old")

    def interrupt(_):
        assert len(list(tmp_path.iterdir())) == 1 + len(FORMATS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_frames(tmp_path, FRAMES, interrupt)
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text() == "old"


def test_a_failure_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    def close(writer):
        monkeypatch.setattr(os, "fsync", full)
        writer.close(VERDICT)

    with pytest.raises(DiffusionPoseError, match=r"clip\.poses\.json: No space left"):
        write_frames(tmp_path, FRAMES, close)
    assert list(tmp_path.iterdir()) == []


def test_leaving_without_a_verdict_is_a_mistake(tmp_path):
    with pytest.raises(RuntimeError, match="not closed"):
        write_frames(tmp_path, FRAMES)
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
    return FramePoses(index, Fraction(1), (PersonPose(**{**vars(make_person()), **person}),))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (FRAMES[0], "frame 0 follows frame 0"),
        (_frame(keypoints=np.zeros((2, 3))), r"keypoints have shape \(2, 3\), not \(3, 3\)"),
        (_frame(box=np.array([0, 0, NAN, 1])), "not finite"),
        (_frame(score=np.inf), "not finite"),
        (_frame(box_score=NAN), "not finite"),
        (FramePoses(5, Fraction(0)), r"frame 5: time 0\.0 s is not after 0\.0 s"),
        (FramePoses(5, Fraction(1), (make_person(1), make_person(1))), "the same track id"),
    ],
)
def test_frames_that_no_reader_could_use_are_refused(tmp_path, frame, said):
    with pytest.raises(ValueError, match=said):
        write_frames(tmp_path, [FRAMES[0], frame])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "/a", "a\0b"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="is not a valid file name"):
        open_writers(["json"], tmp_path, name, HEADER)


def test_a_format_that_is_none_is_refused(tmp_path):
    with pytest.raises(
        UsageError, match="unknown format 'xml'; choose from json, csv, posetrack, coco"
    ):
        write_poses(tmp_path / "a.xml", "xml", HEADER, FRAMES, VERDICT)
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_written_are_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "clip.poses.csv").mkdir()
    with pytest.raises(UsageError, match=r"cannot write .*clip\.poses\.json: "):
        open_writers(["json"], tmp_path / "file", "clip", HEADER)
    with pytest.raises(UsageError, match="is a folder"):
        open_writers(["json", "csv"], tmp_path, "clip", HEADER)
    with pytest.raises(UsageError, match="File name too long"):
        open_writers(["json"], tmp_path, "x" * 300, HEADER)
    with pytest.raises(UsageError, match="'xml'; choose from json, csv"):
        open_writers(["json", "xml"], tmp_path, "clip", HEADER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.poses.csv", "file"]


KILLED = """
import os, sys, time
from fractions import Fraction
import tests.formats.test_writer as t

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
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
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
    gc.disable()  # would clear the interpreter's free list of tuples at times
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
        gc.enable()


@pytest.mark.parametrize("num_frames", [3_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_video(tmp_path, num_frames):
    _peak_of(3_000, tmp_path)  # fills caches, including the interpreter's free list of tuples
    few, many = _peak_of(200, tmp_path), _peak_of(num_frames, tmp_path)
    assert (tmp_path / f"clip{num_frames}.poses.json").stat().st_size > 150 * num_frames
    assert many < few + 20_000


def test_several_people_without_a_track_are_fine(tmp_path):
    two = FramePoses(0, Fraction(0), (make_person(NO_TRACK), make_person(NO_TRACK)))
    written(tmp_path / "a.json", "json", [two])
    assert [one.track_id for one in read_poses(tmp_path / "a.json")[1][0].people] == [-1, -1]
