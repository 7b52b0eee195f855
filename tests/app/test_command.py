"""`diffusionpose app` as a process: its address, its termination, and a real video."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from math import inf, nan

import pytest

from diffusionpose import cli_app
from diffusionpose.errors import DiffusionPoseError, MissingExtraError

PATIENCE = 600


@contextmanager
def running(folder, *options):
    """Run the command in a process with temporary files in `folder`; also yield its address."""
    command = [sys.executable, "-m", "diffusionpose", "app", "--port", "0", *map(str, options)]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process, process.stdout.readline().split()[1]
        finally:
            process.kill()


def ask(address, path="", data=None):
    with urllib.request.urlopen(f"{address}{path}", data, PATIENCE) as answer:
        return answer.status, answer.read()


def test_the_extra_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setattr(
        cli_app.importlib.util,
        "find_spec",
        lambda name: None if name == "uvicorn" else find_spec(name),
    )
    with pytest.raises(MissingExtraError, match=r"uvicorn.*diffusionpose\[app\]"):
        cli_app.serve_app()


def test_the_other_verbs_do_not_load_the_server():
    code = "import sys, diffusionpose.cli; print([m for m in ('starlette', 'uvicorn', 'torch') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_telemetry_of_dependencies_is_off():
    names = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "ORT_DISABLE_TELEMETRY")
    assert [os.environ[name] for name in names] == ["1", "1", "1"]


def test_an_address_in_use_is_one_line(tmp_path):
    pytest.importorskip("uvicorn")
    with running(tmp_path) as (_, address):
        port = urllib.parse.urlsplit(address).port
        command = [sys.executable, "-m", "diffusionpose", "app", "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"model": "nothere"}, 1, "no model 'nothere'"),
        ({"model": "empty"}, 1, "config.json: no such file"),
        ({"model": "nothere.onnx"}, 1, "nothere.onnx: no such file"),
        ({"model": "nothere.ONNX"}, 1, "nothere.ONNX: no such file"),
        ({"device": "tpu"}, 2, "device 'tpu' is not available"),
        ({"max_upload_mb": inf}, 2, "--max-upload-mb must be above 0 and at most"),
        ({"max_upload_mb": 1e303}, 2, "--max-upload-mb must be above 0 and at most"),
        ({"keep_minutes": nan}, 2, "--keep-minutes must be above 0"),
        ({"time_limit": inf}, 2, "--time-limit must be above 0"),
        ({"memory_limit": nan}, 2, "--memory-limit must be above 0"),
    ],
    ids=str,
)
def test_what_no_job_could_work_with_is_told_before_anything_is_served(
    monkeypatch, tmp_path, options, code, message
):
    pytest.importorskip("uvicorn")
    from diffusionpose.app import serve

    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve, "serve", lambda *_, **__: pytest.fail("served"))
    with pytest.raises(DiffusionPoseError, match=re.escape(message)) as error:
        cli_app.serve_app(**options)
    assert error.value.exit_code == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_real_video_and_a_signal(tmp_path, untrained, made_video, number, code):
    pytest.importorskip("uvicorn")
    with running(tmp_path, "--model", untrained, "--device", "cpu") as (process, address):
        (root,) = tmp_path.iterdir()
        assert root.stat().st_mode & 0o777 == 0o700
        query = "api/jobs?name=figure.mp4&formats=csv,npz&smooth=one-euro&blur_faces=true"
        status, body = ask(address, query, made_video.read_bytes())
        assert status == 201
        job = json.loads(body)
        end = time.monotonic() + PATIENCE
        while job["state"] in ("queued", "running") and time.monotonic() < end:
            time.sleep(0.2)
            job = json.loads(ask(address, f"api/jobs/{job['id']}")[1])
        assert (job["state"], job["message"], job["frames"]) == ("done", "", 12)
        assert job["result"]["frames"] == 12
        assert ask(address, f"api/jobs/{job['id']}/video")[1][4:8] == b"ftyp"
        # A second job is running when the signal arrives.
        ask(address, "api/jobs?name=figure.mp4", made_video.read_bytes())
        process.send_signal(number)
        assert process.wait(PATIENCE) == code
        assert process.stderr.read().startswith("diffusionpose: error: ")
        # Neither own files nor ids by which dependencies recognise a machine are left.
        assert list(tmp_path.iterdir()) == []
