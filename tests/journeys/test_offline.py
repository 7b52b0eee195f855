"""No process contacts another machine; everything works without a network."""

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.app.test_command import ask, running
from tests.test_compare import poses_of

WATCH = Path(__file__).parent / "watch"
PATIENCE = 900
"""Timeout of a command in seconds, long enough for a busy machine."""


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """Watch all processes started from here; return a function that reads their network events."""
    monkeypatch.syspath_prepend(WATCH)
    monkeypatch.setenv("NETWORK_LOG", str(tmp_path / "network.jsonl"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))

    def read():
        lines = (tmp_path / "network.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return read


@pytest.fixture
def cli(seen):
    """Run the command line in a separate process; return its stdout; it must exit with 0."""

    def call(*arguments, before=()):
        command = [*before, sys.executable, "-m", "diffusionpose", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def is_local(host):
    """Whether a host name or address refers to this machine."""
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(one):
    """Return the host that an event refers to; None for local sockets, such as Unix sockets."""
    event, arguments = one["event"], one["arguments"]
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        family, address = arguments[0], arguments[1]
        return address[0] if family in ("AF_INET", "AF_INET6") and address else None
    if event in ("urllib.Request", "webbrowser.open"):
        return urlsplit(arguments[0]).hostname
    if event in ("http.client.connect", "ftplib.connect", "smtplib.connect"):
        return arguments[1]
    if event == "socket.getnameinfo":
        return arguments[0][0]
    return arguments[0]


def abroad(events):
    """Return the events that refer to other machines."""
    return [one for one in events if one["event"] != "start" and not is_local(host_of(one))]


def processes(events):
    return {one["process"] for one in events}


OUTSIDE = "192.0.2.1"
"""An address reserved for documentation."""


@pytest.mark.parametrize(
    ("code", "event"),
    [
        # Connecting a datagram socket sends nothing.
        (f"socket.socket(type=socket.SOCK_DGRAM).connect(('{OUTSIDE}', 9))", "socket.connect"),
        (f"socket.getaddrinfo('{OUTSIDE}', 9, flags=socket.AI_NUMERICHOST)", "socket.getaddrinfo"),
        (f"socket.gethostbyname('{OUTSIDE}')", "socket.gethostbyname"),
        (f"sys.audit('urllib.Request', 'http://{OUTSIDE}/', None, {{}}, 'GET')", "urllib.Request"),
        (f"sys.audit('http.client.connect', None, '{OUTSIDE}', 80)", "http.client.connect"),
    ],
)
def test_what_is_asked_of_another_machine_is_seen(seen, code, event):
    program = f"import socket, sys\n{code}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
    assert [one["event"] for one in abroad(seen())] == [event]


def test_processes_of_processes_are_seen_and_this_machine_is_not_another(seen, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, socket\n"
        "def ask(host):\n"
        "    socket.socket(type=socket.SOCK_DGRAM).connect((host, 9))\n"
        "if __name__ == '__main__':\n"
        f"    for host in ('127.0.0.1', '{OUTSIDE}'):\n"
        "        child = multiprocessing.get_context('spawn').Process(target=ask, args=(host,))\n"
        "        child.start(), child.join()\n"
    )
    subprocess.run([sys.executable, program], timeout=PATIENCE)
    connects = [one for one in seen() if one["event"] == "socket.connect"]
    assert [one["arguments"][1][0] for one in connects] == ["127.0.0.1", OUTSIDE]
    assert [host_of(one) for one in abroad(seen())] == [OUTSIDE]
    assert len(processes(seen())) >= 3


@pytest.fixture
def options(untrained, made_boxes):
    return ("--model", untrained, "--device", "cpu", "--boxes", made_boxes)


def test_poses_their_report_other_formats_and_a_comparison(
    cli, seen, options, made_video, tmp_path
):
    result = tmp_path / "figure.poses.json"
    cli("predict", made_video, *options, "--report", "--angles", "--out", tmp_path)
    cli("report", result, "--video", made_video, "-o", tmp_path / "again.html")
    cli("convert", result, "--format", "csv,npz,openpose")
    # An untrained model finds no joints that could be compared.
    made = tmp_path / "made.poses.json"
    poses_of([0, 40, 80]).save(made)
    cli("compare", made, made, "--html", tmp_path / "compared.html")
    assert len(processes(seen())) >= 4
    assert abroad(seen()) == []


def test_people_found_by_the_bundled_detector_and_many_videos(
    cli, seen, untrained, made_video, tmp_path
):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(made_video, videos / name)
    small = ("--model", untrained, "--device", "cpu", "--no-video", "--workers", 2)
    cli("batch", videos, *small, "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.poses.json"))) == 2
    assert len(processes(seen())) >= 3, "workers are watched, too"
    assert abroad(seen()) == []


def test_doctor_and_models(cli, seen):
    cli("models")
    done = subprocess.run([sys.executable, "-m", "diffusionpose", "doctor"], timeout=PATIENCE)
    assert done.returncode in (0, 1), "a machine may have broken parts"
    assert len(processes(seen())) >= 2
    assert abroad(seen()) == []


def test_the_page(seen, untrained, made_video, tmp_path):
    pytest.importorskip("uvicorn")
    folder = tmp_path / "temporary"
    folder.mkdir()
    with running(folder, "--model", untrained, "--device", "cpu") as (process, address):
        for path in ("", "app.js", "app.css", "api/settings"):
            assert ask(address, path)[0] == 200
        job = json.loads(ask(address, "api/jobs?name=figure.mp4", made_video.read_bytes())[1])
        end = time.monotonic() + PATIENCE
        while job["state"] in ("queued", "running") and time.monotonic() < end:
            time.sleep(0.2)
            job = json.loads(ask(address, f"api/jobs/{job['id']}")[1])
        assert job["state"] == "done", job["message"]
        process.terminate()
        process.wait(PATIENCE)
    assert len(processes(seen())) >= 2, "the job's process is watched, too"
    assert abroad(seen()) == []


def may_leave_the_network():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_leave_the_network(), reason="needs leave for network namespaces")
def test_where_there_is_no_network_at_all(cli, options, made_video, tmp_path):
    alone = ("unshare", "-rn")
    interfaces = subprocess.run(
        [*alone, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True
    )
    assert [line.split(":")[0].strip() for line in interfaces.stdout.splitlines()[2:]] == ["lo"]
    result, page = tmp_path / "figure.poses.json", tmp_path / "again.html"
    cli("predict", made_video, *options, "--report", "--out", tmp_path, before=alone)
    cli("report", result, "--video", made_video, "-o", page, before=alone)
    assert page.read_text().startswith("<!doctype html>")
