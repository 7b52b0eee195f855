"""Selection of the videos of a batch."""

import pytest

from diffusionpose.batch.videos import find_videos
from diffusionpose.errors import UsageError
from tests.video.helpers import CLIPS


def test_a_folder_means_its_videos_by_name_and_each_file_once(tmp_path):
    whole = (CLIPS / "00_ok.mp4").read_bytes()
    for name in ("c.MOV", "a.mp4", "nameless", ".hidden.mp4"):
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "b.mkv").touch()  # named like a video, so it is reported if it is not one
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "d.mp4").write_bytes(whole)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    found = find_videos([tmp_path / "c.MOV", tmp_path, tmp_path / "a.mp4"])
    assert [path.name for path in found] == ["c.MOV", "a.mp4", "b.mkv", "nameless"]


@pytest.mark.parametrize("name", ["tape.dv", "CAMERA.MXF", "raw.h264", "old.rmvb"])
def test_videos_of_kinds_that_are_not_read_are_not_passed_over(tmp_path, name):
    (tmp_path / "a.mp4").write_bytes((CLIPS / "00_ok.mp4").read_bytes())
    (tmp_path / name).write_bytes(b"\x06\x0e\x2b\x34")
    assert {path.name for path in find_videos([tmp_path])} == {"a.mp4", name}


def test_files_that_are_given_are_taken_as_they_are(tmp_path):
    assert find_videos([tmp_path / "not-there"]) == (tmp_path / "not-there",)


@pytest.mark.parametrize("names", [("a/x.mp4", "b/x.mp4"), ("a/x.mp4", "a/x.mov"), ("a/x.mp4", "b/X.mp4")])  # fmt: skip
def test_results_of_one_name_are_refused(tmp_path, names):
    with pytest.raises(UsageError, match=r"would both become [xX]\.poses\.json"):
        find_videos([tmp_path / name for name in names])


def test_folders_without_videos_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no videos directly in it"):
        find_videos([tmp_path])
    with pytest.raises(UsageError, match="no videos"):
        find_videos([])
