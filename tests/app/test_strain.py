"""The server under load: generated requests, and twenty clients for a minute."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("starlette")

import httpx2

SERVER = """
from diffusionpose.app.jobs import AppSettings
from diffusionpose.app.serve import serve
from tests.app import works
if __name__ == "__main__":
    serve(AppSettings(max_upload_mb=0.2), "127.0.0.1", 0, on_ready=lambda a: print(a, flush=True), work=works.quick)
"""
CLIENTS, SECONDS, WARM_UP = 20, 60, 20
GROWTH = 20_000_000
"""Maximum growth in bytes of the server's memory, from the warm-up to the end of the minute."""

pytestmark = pytest.mark.slow


@contextmanager
def running(folder):
    """Run a server in a separate process; yield it with its address."""
    script = folder / "serve.py"
    script.write_text(SERVER)
    (folder / "tmp").mkdir()
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder / "tmp")}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed")
def test_no_generated_request_breaks_the_server(tmp_path):
    with running(tmp_path) as (process, address):
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{address}openapi.json", "--checks",
            "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance",
            "--max-examples", "50", "--seed", "0", "--request-timeout", "120",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert process.poll() is None


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def visit(address, end, statuses):
    """Upload, query, cancel or download the zip file, and delete, repeatedly."""
    with httpx2.Client(base_url=address, timeout=300) as client:
        while time.monotonic() < end:
            answer = client.post("/api/jobs?name=walk.mp4", content=b"x" * 100_000)
            statuses.append(answer.status_code)
            if answer.status_code != 201:
                continue
            job = f"/api/jobs/{answer.json()['id']}"
            statuses.append(client.get(job).status_code)
            if len(statuses) % 2:
                statuses.append(client.post(f"{job}/cancel").status_code)
            statuses.append(client.get(f"{job}/zip").status_code)
            statuses.append(client.delete(job).status_code)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
def test_twenty_clients_for_a_minute_leave_nothing_behind(tmp_path):
    with running(tmp_path) as (process, address):
        statuses, start = [], time.monotonic()
        end = start + WARM_UP + SECONDS
        clients = [
            threading.Thread(target=visit, args=(address, end, statuses)) for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        time.sleep(WARM_UP)
        warm = resident(process.pid)
        for client in clients:
            client.join()
        print(f"{len(statuses)} requests, {(resident(process.pid) - warm) / 1e6:+.1f} MB")
        assert len(statuses) > CLIENTS
        assert set(statuses) <= {200, 201, 204, 404, 409, 429}
        assert resident(process.pid) - warm < GROWTH
        (root,) = (tmp_path / "tmp").iterdir()
        assert list(root.iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []
