"""Worker processes: a failure of one video does not affect the others."""

import os
import signal
import threading
import time
from contextlib import closing

import pytest

from diffusionpose.batch.ledger import LedgerEntry
from diffusionpose.batch.work import BatchOptions, Job
from diffusionpose.batch.workers import Limits, Workers
from diffusionpose.errors import DiffusionPoseError, UsageError
from tests.batch.stubs import made, work


@pytest.fixture
def jobs(tmp_path):
    """Return a function that makes jobs of "videos", without any results or temporary files."""

    def make(**videos):
        out = tmp_path / "out"
        out.mkdir()
        return [Job(path, out, BatchOptions(), "w") for path in made(tmp_path / "in", **videos)]

    return make


def files(job):
    return sorted(path.name for path in job.out.iterdir())


def test_one_video_never_sinks_the_others(jobs):
    given = jobs(a="pid", b="die", c="exit", d="raise", e="pid", f="pid")
    ended = {job.stem: entry for job, entry in Workers(1, Limits(), work).run(given)}
    assert {stem: entry.status for stem, entry in ended.items()} == {
        "a": "ok", "b": "crashed", "c": "crashed", "d": "crashed", "e": "ok", "f": "ok"
    }  # fmt: skip
    assert "SIGKILL" in ended["b"].message
    assert "exited with code 3" in ended["c"].message
    assert ended["d"].message.startswith("KeyError in stubs.py:")
    assert files(given[0]) == ["a.poses.json", "e.poses.json", "f.poses.json"]
    pids = [(given[0].out / f"{stem}.poses.json").read_text() for stem in "aef"]
    assert len(set(pids)) == 2  # a process is reused for the next video unless it ended


@pytest.mark.parametrize(
    ("what", "limits", "status", "message"),
    [
        ("sleep", Limits(seconds=3), "timeout", "not done after 3 seconds"),
        ("eat", Limits(gib=0.7), "crashed", "took more than 0.7 GiB of memory"),
    ],
)
def test_time_and_memory_are_limited(jobs, what, limits, status, message):
    given = jobs(a=what, b="fine")
    ended = {job.stem: entry for job, entry in Workers(1, limits, work).run(given)}
    assert (ended["a"].status, ended["a"].message) == (status, message)
    assert ended["b"].status == "ok"
    assert files(given[0]) == ["b.poses.json"]


def test_a_process_that_is_killed_from_outside_is_named(jobs):
    given = jobs(a="sleep")
    workers = Workers(1, Limits(), work)

    def kill():
        while not files(given[0]):  # its temporary file
            time.sleep(0.05)
        os.kill(workers._workers[0].process.pid, signal.SIGTERM)

    threading.Thread(target=kill, daemon=True).start()
    ((_, entry),) = workers.run(given)
    assert entry.status == "crashed"
    assert "SIGTERM" in entry.message
    assert files(given[0]) == []


def test_leaving_ends_all_processes_and_removes_what_is_half_written(jobs):
    given = jobs(a="fine", b="sleep", c="sleep")
    workers = Workers(2, Limits(), work)
    with closing(workers.run(given)) as ended:
        job, entry = next(ended)
        assert (job.stem, entry.status) == ("a", "ok")
        pids = [worker.process.pid for worker in workers._workers]
    assert files(given[0]) == ["a.poses.json"]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_error_not_caused_by_a_video_ends_the_batch(jobs):
    with pytest.raises(DiffusionPoseError, match="no such model") as caught:
        list(Workers(1, Limits(), work).run(jobs(a="impossible", b="fine")))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"gib": -1}, {"seconds": float("nan")}])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(UsageError, match="must be positive"):
        Limits(**limits)


def test_nothing_to_do_starts_nothing():
    assert list(Workers(1, Limits(), work).run([])) == []


def test_an_entry_knows_its_statuses():
    with pytest.raises(ValueError, match="status"):
        LedgerEntry("a.mp4", "done")
