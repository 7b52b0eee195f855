"""The server as seen by clients: access, uploads, and the life of jobs and their files."""

import io
import stat
import zipfile

import pytest

pytest.importorskip("starlette")

from diffusionpose.app import jobs as jobs_module
from diffusionpose.app import server
from diffusionpose.app.guard import Hosts
from diffusionpose.app.jobs import AppSettings
from tests.app import works
from tests.app.helpers import ADDRESS, serving, upload, wait


@pytest.fixture
def idle(tmp_path):
    """A client of a server that starts no job, and its jobs."""
    with serving(tmp_path, is_going=False) as both:
        yield both


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---- access


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "LOCALHOST:8000"]
)
def test_own_names_are_served(idle, host):
    origin = {"origin": f"http://{host}"}
    assert idle[0].get("/", headers={"host": host, **origin}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8000"},
        {"host": "127.0.0.1"},
        {"host": "127.0.0.1:8001"},
        {"host": "127.0.0.1:8000@evil.example"},
        {"host": "user@127.0.0.1:8000"},
        {"host": "127.0.0.1:port"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8000"},
        {"origin": "http://localhost:8000"},
    ],
    ids=str,
)
def test_other_hosts_and_origins_are_not_served(idle, headers):
    for method, path in [("GET", "/"), ("POST", "/api/jobs"), ("GET", "/nothing")]:
        answer = idle[0].request(method, path, headers=headers)
        assert answer.status_code == 403
        assert set(answer.json()) == {"error"}


def test_an_open_address_takes_addresses_but_no_names():
    everywhere = Hosts("0.0.0.0", 80)
    assert everywhere.allow("192.168.1.7")
    assert everywhere.allow("[fe80::1]:80")
    assert not everywhere.allow("evil.example")
    assert not Hosts("192.168.1.7", 80).allow("192.168.1.8")
    assert Hosts("Mill.local", 8000).allow("mill.local:8000")


def test_every_answer_keeps_things_private(idle):
    for path in (
        "/",
        "/app.js",
        "/app.css",
        "/icon.svg",
        "/openapi.json",
        "/api/settings",
        "/nothing",
    ):
        headers = idle[0].get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_the_page_takes_nothing_from_elsewhere(idle):
    for path in ("/", "/app.js", "/app.css"):
        text = idle[0].get(path).text
        assert "https://" not in text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "style=" not in text  # forbidden by the policy


# ---- uploads


def test_an_upload_is_private_and_has_none_of_the_clients_names(idle, tmp_path):
    client, _ = idle
    job = client.get(f"/api/jobs/{upload(client, name='../../a/walk.mp4')}").json()
    assert (job["state"], job["position"], job["name"]) == ("queued", 0, "walk.mp4")
    (file,) = files_of(tmp_path)
    assert file.read_bytes() == b"a video"
    assert file.name == "upload"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    second = upload(client)
    assert client.get(f"/api/jobs/{second}").json()["position"] == 1
    assert len({job["id"], second, file.parent.name}) == 3


def chunks(sent, count):
    for _ in range(count):
        sent.append(1000)
        yield b"x" * 1000


@pytest.mark.parametrize("is_announced", [True, False])
def test_the_cap_holds_while_the_upload_streams(tmp_path, is_announced):
    with serving(tmp_path, settings=AppSettings(max_upload_mb=0.01), is_going=False) as (client, _):
        upload(client, b"x" * 10_000)
        before = files_of(tmp_path)
        content = b"x" * 10_001 if is_announced else chunks([], 11)
        answer = client.post("/api/jobs", content=content)
        assert (answer.status_code, "0.01 MB" in answer.json()["error"]) == (413, True)
        assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("query", "content", "status"),
    [
        ({"formats": "xml"}, b"x", 422),
        ({"nothing": "1"}, b"x", 422),
        ({"formats": "c3d"}, b"x", 422),
        ({"formats": ["csv", "coco"]}, b"x", 422),
        ({"name": ["a.mp4", "a.mp4"]}, b"x", 422),
        ({}, b"", 422),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_kept(
    idle, tmp_path, query, content, status
):
    answer = idle[0].post("/api/jobs", params=query, content=content)
    assert answer.status_code == status
    assert answer.json()["error"].count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_server_says_so_and_room_can_be_made(idle, monkeypatch):
    monkeypatch.setattr(jobs_module, "MAX_JOBS", 2)
    client, _ = idle
    first, _ = upload(client), upload(client)
    assert client.post("/api/jobs", content=b"x").status_code == 429
    assert client.delete(f"/api/jobs/{first}").status_code == 204
    upload(client)


def test_a_full_disk_is_told(idle, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server, "open", full, raising=False)
    answer = idle[0].post("/api/jobs", content=b"x")
    assert (answer.status_code, "No space left" in answer.json()["error"]) == (507, True)
    assert list(tmp_path.iterdir()) == []


# ---- jobs


@pytest.mark.parametrize("path", ["", "/cancel", "/video", "/zip"])
def test_nobody_sees_a_job_without_its_id(idle, path):
    client, _ = idle
    upload(client)
    method = "POST" if path == "/cancel" else "GET"
    answer = client.request(method, f"/api/jobs/guess{path}")
    assert (answer.status_code, "no such job" in answer.json()["error"]) == (404, True)
    assert client.get("/api/jobs").status_code == 405


def test_a_job_from_upload_to_deletion(tmp_path):
    with serving(tmp_path) as (client, _):
        job_id = upload(client, b"0123456789")
        job = wait(client, job_id, "done", "failed")
        assert (job["state"], job["message"]) == ("done", "")
        assert (job["frames"], job["expected_frames"], job["seconds_left"]) == (12, 12, None)
        assert job["result"]["people"] == 1
        assert job["result"]["warnings"] == ["VFR: steps vary"]
        assert 3500 < job["deleted_in"] <= 3600

        video = client.get(f"/api/jobs/{job_id}/video", headers={"range": "bytes=2-4"})
        assert (video.status_code, video.content) == (206, b"234")
        assert video.headers["content-range"] == "bytes 2-4/10"
        assert video.headers["content-type"] == "video/mp4"

        archive = client.get(f"/api/jobs/{job_id}/zip")
        assert "walk-poses.zip" in archive.headers["content-disposition"]
        names = zipfile.ZipFile(io.BytesIO(archive.content)).namelist()
        assert names == ["walk.mp4", "walk.poses.json"]

        # The upload is deleted; other files are readable by their owner only.
        assert {path.name for path in files_of(tmp_path)} == {"results.zip", "film.mp4"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files_of(tmp_path)} == {0o600}
        assert client.delete(f"/api/jobs/{job_id}").status_code == 204
        assert client.get(f"/api/jobs/{job_id}").status_code == 404
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "file"), [("video", "film.mp4"), ("zip", "results.zip")])
def test_a_file_that_somebody_else_removed_is_told(tmp_path, path, file):
    with serving(tmp_path) as (client, _):
        job_id = upload(client)
        wait(client, job_id, "done")
        next(tmp_path.rglob(file)).unlink()
        answer = client.get(f"/api/jobs/{job_id}/{path}")
        assert (answer.status_code, "no longer exists" in answer.json()["error"]) == (404, True)


FAILURES = [
    (works.refuse, AppSettings(), "walk.mp4: no video"),
    (works.crash, AppSettings(), "ended unexpectedly (signal 6)"),
    (works.nonsense, AppSettings(), "incomplete"),
    (works.endless, AppSettings(time_limit=0.01), "longer than the limit of 0.01 seconds"),
    (works.greedy, AppSettings(memory_limit=0.3), "more memory than the limit of 0.3 GiB"),
]


@pytest.mark.parametrize(
    ("work", "settings", "message"), FAILURES, ids=lambda w: getattr(w, "__name__", "")
)
def test_a_failure_is_a_sentence_and_leaves_no_files(tmp_path, work, settings, message):
    with serving(tmp_path, work, settings) as (client, _):
        job_id = upload(client)
        job = wait(client, job_id, "failed", "done")
        assert message in job["message"]
        assert "--" not in job["message"]
        assert str(tmp_path) not in job["message"]
        assert list(tmp_path.iterdir()) == []
        assert client.get(f"/api/jobs/{job_id}/video").status_code == 409


def test_cancelling_ends_the_worker_and_the_next_job_begins(tmp_path):
    with serving(tmp_path, works.endless) as (client, jobs):
        first, second = upload(client), upload(client)
        wait(client, first, "running")
        process = jobs._worker.process.pid
        assert client.post(f"/api/jobs/{first}/cancel").json()["state"] == "cancelled"
        with pytest.raises(ProcessLookupError):
            server.os.kill(process, 0)
        wait(client, second, "running")
        assert client.get(f"/api/jobs/{first}").json()["message"] == "Cancelled."
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_old_results_are_deleted(tmp_path):
    now = 0.0
    with serving(tmp_path, is_going=False) as (client, jobs):
        jobs._clock = lambda: now
        job_id = upload(client)
        client.post(f"/api/jobs/{job_id}/cancel")
        now = 3599
        jobs.tick()
        assert client.get(f"/api/jobs/{job_id}").json()["deleted_in"] == 1
        now = 3600
        jobs.tick()
        assert client.get(f"/api/jobs/{job_id}").status_code == 404


def test_cancelled_jobs_do_not_pile_up(idle, monkeypatch):
    monkeypatch.setattr(jobs_module, "MAX_SPENT", 3)
    client, jobs = idle
    for _ in range(8):
        client.post(f"/api/jobs/{upload(client)}/cancel")
    assert len(jobs._jobs) <= 4


def test_the_description_names_every_address(idle):
    described = idle[0].get("/openapi.json").json()
    routes = {route.path for route in idle[0].app.routes if route.path.startswith("/api")}
    assert set(described["paths"]) == routes
    names = {p["name"] for p in described["paths"]["/api/jobs"]["post"]["parameters"]}
    assert names == {"name", *jobs_module.JobOptions.model_fields}
    assert ADDRESS not in str(described)
