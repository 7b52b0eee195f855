"""Test client of the server, which runs in this process; workers are separate processes."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from starlette.testclient import TestClient

from diffusionpose.app.guard import Hosts
from diffusionpose.app.jobs import AppSettings, Jobs
from diffusionpose.app.server import create_app
from diffusionpose.app.worker import Work
from tests.app.works import quick

ADDRESS = "http://127.0.0.1:8000"
PATIENCE = 300
"""Maximum time in seconds for a worker to start on a busy machine."""


@contextmanager
def serving(
    root: Path, work: Work = quick, settings: AppSettings | None = None, *, is_going: bool = True
) -> Iterator[tuple[TestClient, Jobs]]:
    """Yield a client and its jobs; without `is_going`, all jobs stay queued."""
    with closing(Jobs(root, settings or AppSettings(), work)) as jobs:
        client = TestClient(create_app(jobs, Hosts("127.0.0.1", 8000)), base_url=ADDRESS)
        if is_going:
            with client:
                yield client, jobs
        else:
            yield client, jobs


def upload(client: TestClient, content: bytes = b"a video", **query: str | float) -> str:
    """Create a job and return its id."""
    answer = client.post("/api/jobs", params={"name": "walk.mp4", **query}, content=content)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def wait(client: TestClient, job_id: str, *states: str) -> dict:
    """Wait until the job is in one of these states, and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        job = client.get(f"/api/jobs/{job_id}").json()
        if job["state"] in states:
            return job
        time.sleep(0.05)
    raise AssertionError(f"still {job['state']}")
