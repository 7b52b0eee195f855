"""Atomic files, which are published or discarded."""

import errno
import os
import stat
import subprocess
import sys

import pytest

from diffusionpose.errors import UsageError
from diffusionpose.formats import AtomicFile
from diffusionpose.formats.atomic_file import check_target
from tests.formats.helpers import TEMPORARY, written


def test_files_are_readable_as_the_umask_says(tmp_path):
    written(tmp_path / "a.json", "json")
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "plain")]
    assert modes[0] == modes[1]


def test_atomic_file_publishes_or_discards(tmp_path):
    (tmp_path / "video.mp4").write_text("old")
    kept, dropped = AtomicFile(tmp_path / "video.mp4"), AtomicFile(tmp_path / "other.mp4")
    assert TEMPORARY.match(kept.temporary.name)
    kept.temporary.write_text("new")
    kept.publish()
    kept.discard()
    dropped.discard()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("video.mp4", "new")]


def test_a_process_that_ends_before_it_publishes_leaves_nothing(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from diffusionpose.formats.atomic_file import AtomicFile, AtomicFolder\n"
        "done, left = (AtomicFile(Path(name)) for name in sys.argv[1:3])\n"
        "full, open = (AtomicFolder(Path(name)) for name in sys.argv[3:])\n"
        "for one in (full, open): (one.temporary / 'a').touch()\n"
        "done.publish(); full.publish(); sys.exit(143)"
    )
    names = [str(tmp_path / name) for name in ("done", "left", "full", "open")]
    assert subprocess.run([sys.executable, "-c", program, *names]).returncode == 143
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done", "full"]


def test_a_source_that_is_gone_does_no_harm(tmp_path):
    (tmp_path / "there").touch()
    check_target(tmp_path / "there", [tmp_path / "gone"], overwrite=True)
    with pytest.raises(UsageError, match="is the source itself"):
        check_target(tmp_path / "there", [tmp_path / "there"], overwrite=True)


def test_a_file_is_synced_by_a_descriptor_that_may_write(tmp_path, monkeypatch):
    """Windows requires this, and has no descriptors for folders."""
    fcntl = pytest.importorskip("fcntl")

    def sync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "fsync", sync)
    AtomicFile(tmp_path / "file").publish()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
