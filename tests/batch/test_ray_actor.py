"""The actor that processes videos on a machine of a cluster; tested without one."""

import threading
import time
from dataclasses import replace

import pytest

from diffusionpose.batch.ledger import LEDGER
from diffusionpose.batch.ray_actor import VideoActor
from diffusionpose.batch.work import BatchOptions, Job, PipelineOptions, weights_of
from diffusionpose.batch.workers import Limits
from diffusionpose.errors import DiffusionPoseError
from diffusionpose.version import __version__
from tests.batch.stubs import made, work


@pytest.fixture
def jobs(tmp_path):
    """Return a function that makes jobs of "videos", in a folder with a ledger."""

    def make(**videos):
        out = tmp_path / "out"
        out.mkdir()
        (out / LEDGER).touch()
        weights = weights_of(PipelineOptions())
        return [Job(path, out, BatchOptions(), weights) for path in made(tmp_path / "in", **videos)]

    return make


@pytest.fixture
def actor():
    one = VideoActor(__version__, Limits(), work)
    yield one
    one.end()


def names(job):
    return sorted(path.name for path in job.out.iterdir() if path.name != LEDGER)


def test_its_process_serves_one_video_after_another_and_a_crash_is_the_video_s_alone(jobs, actor):
    given = jobs(a="pid", b="pid", c="die", d="pid")
    assert [actor.do(job).status for job in given] == ["ok", "ok", "crashed", "ok"]
    a, b, d = ((given[0].out / f"{stem}.poses.json").read_text() for stem in "abd")
    assert a == b != d
    assert names(given[0]) == ["a.poses.json", "b.poses.json", "d.poses.json"]


def test_limits_hold(jobs):
    actor = VideoActor(__version__, Limits(seconds=3), work)
    slow, fine = jobs(a="sleep", b="fine")
    assert actor.do(slow).status == "timeout"
    assert actor.do(fine).status == "ok"
    actor.end()


def test_its_end_leaves_nothing_half_written(jobs, actor):
    (job,) = jobs(a="sleep")
    entries = []
    doing = threading.Thread(target=lambda: entries.append(actor.do(job)))
    doing.start()
    while not names(job):  # its temporary file
        time.sleep(0.05)
    actor.end()
    assert names(job) == []
    doing.join()
    assert entries[0].status == "crashed"
    actor._free.release()  # needed by the fixture


def test_a_file_that_the_machine_does_not_have_is_rejected(jobs, actor):
    (job,) = jobs(a="fine")
    job.source.unlink()
    entry = actor.do(job)
    assert (entry.status, entry.name) == ("rejected", "a.mp4")
    assert (
        "must be on a file system that is mounted at the same path on all machines" in entry.message
    )


def test_a_machine_with_another_release_can_do_nothing(jobs):
    (job,) = jobs(a="fine")
    answer = VideoActor("0.0", Limits(), work).do(job)
    assert isinstance(answer, DiffusionPoseError)
    assert "install the same release everywhere" in str(answer)


def test_a_machine_with_other_weights_or_without_the_folder_can_do_nothing(jobs, actor):
    (job,) = jobs(a="fine")
    assert "different weights of tiny" in str(actor.do(replace(job, weights="w")))
    (job.out / LEDGER).unlink()
    assert "does not have" in str(actor.do(job))
    assert names(job) == []


def test_an_error_not_caused_by_a_video_is_returned(jobs, actor):
    (job,) = jobs(a="impossible")
    answer = actor.do(job)
    assert isinstance(answer, DiffusionPoseError)
    assert str(answer) == "no such model"
