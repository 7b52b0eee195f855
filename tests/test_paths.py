"""Rejection of anything but regular files before opening; removal of temporary folders."""

import os
import tempfile

import pytest

from diffusionpose.errors import DataError, DiffusionPoseError
from diffusionpose.paths import check_regular, temporary_folder


def test_pipes_devices_and_folders_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, kind in (("pipe", "pipe or device"), ("device", "pipe or device"), ("", "folder")):
        with pytest.raises(DataError, match=f"is a {kind}, not a regular file"):
            check_regular(tmp_path / name, DataError)


def test_files_and_what_is_not_there_pass(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link", "nothing", "x" * 5000):
        check_regular(tmp_path / name, DataError)


def test_a_temporary_folder_is_removed():
    with temporary_folder() as folder:
        (folder / "file").touch()
    assert not folder.exists()


def test_no_place_for_a_temporary_folder_is_an_error_that_says_what_to_do(monkeypatch, tmp_path):
    """Simulate a container whose disks are all read-only."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "absent")])
    with pytest.raises(DiffusionPoseError, match="set TMPDIR"), temporary_folder():
        pass
