"""Batches on a Ray cluster that loses machines; all but the first tests need the extra `ray`."""

import json
import os
import signal
import socket
import sys

import pytest

from diffusionpose.batch.ledger import LEDGER
from diffusionpose.batch.ray_workers import RayWorkers, _own_sigterm
from diffusionpose.batch.run import BatchPlan, run_batch
from diffusionpose.batch.work import BatchOptions
from diffusionpose.batch.workers import Limits
from diffusionpose.errors import DiffusionPoseError, MissingExtraError, UsageError
from tests.batch.stubs import made, work

NUM_VIDEOS = 16


@pytest.mark.parametrize(
    "address", ["", "remote", "ray://host:10001", "host", "host:port", "a b:1"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match="auto, local or HOST:PORT"):
        RayWorkers(address, None, 1, Limits())


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    with pytest.raises(MissingExtraError, match=r"pip install 'diffusionpose\[ray\]'"):
        RayWorkers("local", None, 1, Limits())
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.fixture
def heard():
    """Record the SIGTERMs that reach this process's own handler."""
    numbers = []
    before = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def connect(handler, then):
    """Install a SIGTERM handler as Ray does, then call `then`."""
    with _own_sigterm():
        signal.signal(signal.SIGTERM, handler)
        then()


def test_sigterm_is_ours_again_when_ray_has_taken_it(heard):
    connect(lambda *_: sys.exit(15), lambda: None)
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_a_sigterm_that_ray_answers_reaches_us_too(heard):
    with pytest.raises(SystemExit):
        connect(lambda *_: sys.exit(15), lambda: signal.raise_signal(signal.SIGTERM))
    assert heard == [signal.SIGTERM]


def test_ctrl_c_while_ray_has_it_is_no_sigterm(heard):
    with pytest.raises(SystemExit) as caught:
        connect(signal.SIG_IGN, lambda: sys.exit(130))
    assert (caught.value.code, heard) == (130, [])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


@pytest.fixture
def cluster():
    """Start two nodes on this machine, with one and two cores."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    nodes.second = nodes.add_node(num_cpus=2)
    yield nodes
    nodes.shutdown()


def ends(plan):
    lines = [json.loads(line) for line in (plan.out / LEDGER).read_text().splitlines()]
    return sorted(line["name"] for line in lines if line["status"] != "started")


def there(plan):
    return sorted(
        path.name for path in plan.out.iterdir() if path.name[0] != "." or ".tmp-" in path.name
    )


@pytest.mark.slow
def test_a_node_is_killed_midway_and_no_video_is_lost_or_done_twice(cluster, tmp_path):
    videos = {f"{number:02}": "slow" for number in range(NUM_VIDEOS)}
    made(tmp_path / "in", **videos)
    plan = BatchPlan(
        [tmp_path / "in"], tmp_path / "out", BatchOptions(), num_workers=3, ray=cluster.address
    )
    told = []

    def kill_second(entry, _):
        told.append(entry.name)
        if len(told) == 4:
            cluster.remove_node(cluster.second, allow_graceful=False)

    report = run_batch(plan, plan.videos(), kill_second, work)
    names = [f"{stem}.mp4" for stem in videos]
    assert report.counts == {"ok": NUM_VIDEOS}
    assert sorted(told) == ends(plan) == names
    assert there(plan) == [*(f"{stem}.poses.json" for stem in videos), LEDGER]
    again = run_batch(plan, plan.videos(), work=work)
    assert again.num_kept == NUM_VIDEOS
    assert ends(plan) == names


@pytest.mark.slow
def test_a_video_that_takes_its_actor_along_is_named_and_sinks_nothing(tmp_path):
    pytest.importorskip("ray")
    made(tmp_path / "in", a="fine", b="orphan", c="sleep", d="fine", e="die")
    plan = BatchPlan([tmp_path / "in"], tmp_path / "out", BatchOptions(), 2, Limits(5), ray="local")
    report = run_batch(plan, plan.videos(), work=work)
    assert [entry.status for entry in report.entries] == [
        "ok", "crashed", "timeout", "ok", "crashed"
    ]  # fmt: skip
    assert report.entries[1].message.startswith("its machine or actor was lost 3 times: ")
    assert "SIGKILL" in report.entries[4].message
    assert there(plan) == ["a.poses.json", "d.poses.json", LEDGER]


@pytest.mark.slow
def test_an_error_not_caused_by_a_video_ends_the_batch(tmp_path):
    pytest.importorskip("ray")
    made(tmp_path / "in", a="impossible", b="fine")
    plan = BatchPlan([tmp_path / "in"], tmp_path / "out", BatchOptions(), 1, ray="local")
    with pytest.raises(DiffusionPoseError, match="no such model"):
        run_batch(plan, plan.videos(), work=work)


@pytest.mark.slow
def test_where_nothing_answers_is_one_line(tmp_path):
    pytest.importorskip("ray")
    made(tmp_path / "in", a="fine")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        plan = BatchPlan([tmp_path / "in"], tmp_path / "out", BatchOptions(), ray=address)
        with pytest.raises(DiffusionPoseError, match="cannot connect"):
            run_batch(plan, plan.videos(), work=work)
    assert ends(plan) == []
