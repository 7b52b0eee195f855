"""A server under test, in this process; its workers are processes of their own, as ever."""

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
"""Seconds that a worker may take to start on a busy machine."""


@contextmanager
def serving(
    root: Path, work: Work = quick, settings: AppSettings | None = None, *, is_going: bool = True
) -> Iterator[tuple[TestClient, Jobs]]:
    """A client and the jobs behind it; `is_going` false leaves every job waiting."""
    with closing(Jobs(root, settings or AppSettings(), work)) as jobs:
        client = TestClient(create_app(jobs, Hosts("127.0.0.1", 8000)), base_url=ADDRESS)
        if is_going:
            with client:
                yield client, jobs
        else:
            yield client, jobs


def upload(client: TestClient, content: bytes = b"a video", **query: str | float) -> str:
    """The id of a new job."""
    answer = client.post("/api/jobs", params={"name": "walk.mp4", **query}, content=content)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def wait(client: TestClient, job_id: str, *states: str) -> dict:
    """The job once it is in one of these states."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        job = client.get(f"/api/jobs/{job_id}").json()
        if job["state"] in states:
            return job
        time.sleep(0.05)
    raise AssertionError(f"still {job['state']}")
