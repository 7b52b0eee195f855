"""What is no file is refused before it is opened."""

import os

import pytest

from diffusionpose.errors import DataError
from diffusionpose.paths import check_regular


def test_pipes_devices_and_folders_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, kind in (("pipe", "pipe or device"), ("device", "pipe or device"), ("", "folder")):
        with pytest.raises(DataError, match=f"a {kind}, not a regular file: give a file"):
            check_regular(tmp_path / name, DataError)


def test_files_and_what_is_not_there_pass(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link", "nothing", "x" * 5000):
        check_regular(tmp_path / name, DataError)
