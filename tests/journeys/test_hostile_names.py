"""Untrusted names: URLs, protocols, patterns, pipes, devices and folders are always refused."""

import os
import re
import signal
import socket

import numpy as np
import pytest

from diffusionpose.app.options import file_name
from tests.test_compare import poses_of, swing

HOSTILE = (
    "http://127.0.0.1:9/a.mp4",
    "rtsp://127.0.0.1:9/a",
    "pipe:0",
    "concat:a.mp4|b.mp4",
    "subfile:,,start,0,end,9,,:a.mp4",
    "data:video/mp4;base64,AAAA",
    "data:," + "A" * 5000,
    "file:a.mp4",
    "s%03d.png",
    "fifo",
    "fifo.json",
    "fifo.onnx",
    "device",
    "device.json",
    "device.onnx",
    "folder",
    "folder.json",
    "missing.mp4",
    "missing.json",
)
PATIENCE = 240
"""Timeout in seconds, for names that are read without end."""


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """Make a working folder with files that must not be opened, and disable the network."""
    monkeypatch.chdir(tmp_path)
    poses_of(swing(np.linspace(0, 1, 9))).save("good.poses.json")
    for name in ("a.mp4", "b.mp4", "s001.png"):
        (tmp_path / name).write_bytes(b"mine")
    for suffix in ("", ".json", ".onnx"):
        os.mkfifo(f"fifo{suffix}")
        (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
        (tmp_path / f"folder{suffix}").mkdir()
    for function in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, function, refuse_network)
    monkeypatch.setattr(socket.socket, "connect", refuse_network)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refuse_network(*address):
    # Fails with a BaseException, which handlers cannot mistake for a refusal.
    pytest.fail(f"asked the network for {address}")


def too_long(*_):
    pytest.fail("read without an end")


ENTRANCES = {
    "report": lambda name: ("report", name, "-o", "out"),
    "report --video": lambda name: ("report", "good.poses.json", "--video", name, "-o", "out"),
    "convert": lambda name: ("convert", name, "--out", "out"),
    "compare A": lambda name: ("compare", name, "good.poses.json", "--out", "out"),
    "compare B": lambda name: ("compare", "good.poses.json", name, "--out", "out"),
    "evaluate --predictions": lambda name: (
        "evaluate", "--truth", "good.poses.json", "--predictions", name, "--json", "out",
    ),
    "evaluate --truth": lambda name: (
        "evaluate", "--truth", name, "--predictions", "good.poses.json", "--json", "out",
    ),
    "train": lambda name: ("train", name, "--out", "out"),
    "ablate": lambda name: ("ablate", name, "--out", "out"),
    "data check": lambda name: ("data", "check", name, "--json", "out"),
}  # fmt: skip
"""Commands that take a name without a video."""
OF_A_VIDEO = {
    "predict": lambda name, video: ("predict", name, "--out", "out"),
    "predict --boxes": lambda name, video: ("predict", video, "--boxes", name, "--out", "out"),
    "predict --detector": lambda name, video: ("predict", video, "--detector", name, "--out", "out"),
    "predict --model": lambda name, video: ("predict", video, "--model", name, "--out", "out"),
}  # fmt: skip


def assert_refused(outcome, folder):
    """Check that there is one line of error, and that nothing was written."""
    code, out, err = outcome
    assert code in (1, 2, 3)
    assert out == ""
    assert err.startswith("diffusionpose: error: ")
    assert err.count("\n") == 1
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:20])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_refused_wherever_a_file_is_asked_for(run, tmp_path, entrance, name):
    assert_refused(run(*ENTRANCES[entrance](name)), tmp_path)


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:20])
@pytest.mark.parametrize("entrance", OF_A_VIDEO)
def test_refused_wherever_a_video_goes_along(run, tmp_path, made_video, entrance, name):
    assert_refused(run(*OF_A_VIDEO[entrance](name, made_video)), tmp_path)


def test_refused_by_a_batch_one_by_one(run, tmp_path, untrained):
    # Two results of the same name would be refused before the names are checked.
    names = [name for name in HOSTILE if not name.startswith(("folder", "data:,"))]
    names = list({os.path.splitext(os.path.basename(name))[0]: name for name in names}.values())
    options = ("--model", untrained, "--device", "cpu", "--no-video", "--out", "out")
    signal.alarm(4 * PATIENCE)  # starts another process
    code, out, err = run("batch", *names, *options)
    assert code == 4
    assert out.split()[:2] == ["rejected", str(len(names))]
    lines = err.splitlines()
    assert len(lines) == len(names)
    for name in names:
        start = f"diffusionpose: rejected: {os.path.basename(name)}: "
        assert any(line.startswith(start) for line in lines)
    assert not list((tmp_path / "out").glob("*.poses.json"))


@pytest.mark.parametrize("name", ["folder", "folder.json"])
def test_a_folder_without_videos_is_no_batch(run, tmp_path, name):
    assert_refused(run("batch", name, "--out", "out"), tmp_path)


@pytest.mark.parametrize("name", [*HOSTILE, "../../a.mp4", "a\0b.mp4"], ids=lambda name: name[:20])
def test_the_page_keeps_an_uploads_name_for_show_only(tmp_path, name):
    pytest.importorskip("starlette")
    from tests.app.helpers import serving, upload

    root = tmp_path / "root"
    root.mkdir()
    with serving(root, is_going=False) as (client, _):
        job = client.get(f"/api/jobs/{upload(client, name=name)}").json()
    assert not re.search(r"[/\\\0]", job["name"])
    assert re.fullmatch(r"[\w.-]+", file_name(job["name"]))
    assert [path.name for path in root.rglob("*") if path.is_file()] in ([], ["video"])


@pytest.mark.parametrize("option", ["--out", "--html"])
@pytest.mark.parametrize("name", ["fifo", "device", "folder"])
def test_what_is_no_file_is_not_replaced_by_one(run, tmp_path, option, name):
    results = ("good.poses.json", "good.poses.json")
    code, out, err = run("compare", *results, option, name, "--overwrite")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / name).is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if ".tmp-" in path.name) == []
