"""`diffusionpose batch` as users see it: many clips, some broken, and kills at any time."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest

from diffusionpose.batch.ledger import LEDGER
from diffusionpose.structures import Frame
from diffusionpose.video import VideoWriter
from tests.data.made import draw, figure
from tests.video.helpers import CLIPS

PATIENCE = 600
"""Timeout in seconds, long enough for a busy machine."""
BROKEN = ("03_zero_bytes.mp4", "17_text.mp4", "16_audio_only.mp4", "36_trunc_in_first_frame.mp4")


def clips(folder, number, num_broken):
    """Write short clips `0000.mp4`, ... of different figures; the last ones are not videos."""
    folder.mkdir()
    for clip in range(number - num_broken):
        with VideoWriter(folder / f"{clip:04}.mp4", 160, 120, rate=Fraction(25)) as writer:
            for index in range(12):
                centre = 50 + 3 * (clip % 10) + 2 * index, 62
                image = np.ascontiguousarray(draw(figure(centre, 40 + clip % 9, index / 3 + clip)))
                writer.write(Frame(index, Fraction(index, 25), image))
    for clip in range(number - num_broken, number):
        (folder / f"{clip:04}.mp4").write_bytes((CLIPS / BROKEN[clip % len(BROKEN)]).read_bytes())
    return folder


@pytest.fixture
def start(untrained):
    """Start `batch` with the small model, as the leader of its own process group."""

    def call(videos, out, *options):
        base = ("--model", untrained, "--device", "cpu", "--no-video")
        command = [sys.executable, "-m", "diffusionpose", "batch", videos, "--out", out]
        return subprocess.Popen(
            [*map(str, (*command, *base, *options))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return call


def finish(process):
    """Wait for the end; return exit code, stdout and stderr."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def results(folder):
    """Read the bytes of all results."""
    return {path.name: path.read_bytes() for path in folder.glob("*.poses.*")}


def ledger(folder):
    """Read the last entry of each video."""
    lines = [json.loads(line) for line in (folder / LEDGER).read_text().splitlines()]
    return {line["name"]: line for line in lines}


def leftovers(folder):
    return [path.name for path in folder.iterdir() if ".tmp-" in path.name]


def is_gone(group):
    """Whether a process group ends within a minute."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def wait_for_some_moment(process, out, chance, most):
    """Wait for a random time: during imports, or during one of the next `most` videos."""
    wanted = len(list(out.glob("*.poses.json"))) + chance.randint(0, most)
    while process.poll() is None and len(list(out.glob("*.poses.json"))) < wanted:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 1))


def killed_and_continued(start, tmp_path, number, num_broken, kills):
    """Run a batch without interruption, and one that is killed at random; return both folders."""
    videos, chance = clips(tmp_path / "videos", number, num_broken), random.Random(0)
    good = number - num_broken
    code, _, err = finish(start(videos, tmp_path / "whole", "--format", "csv", "--workers", 2))
    assert code == 4, err
    hits = 0
    for _ in range(kills):
        process = start(videos, tmp_path / "out", "--format", "csv", "--workers", 1)
        wait_for_some_moment(process, tmp_path / "out", chance, max(1, good // kills))
        hits += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
    assert hits > kills / 2
    code, out, err = finish(start(videos, tmp_path / "out", "--format", "csv", "--workers", 1))
    assert code == 4, err
    assert [line.split() for line in out.splitlines()][:2] == [
        ["ok", str(good)], ["rejected", str(num_broken)]
    ]  # fmt: skip
    assert err.count("diffusionpose: rejected: ") == num_broken
    assert all(f"rejected: {clip:04}.mp4: " in err for clip in range(good, number))
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert len(results(tmp_path / "out")) == 2 * good
    assert leftovers(tmp_path / "out") == []
    entries, whole = ledger(tmp_path / "out"), ledger(tmp_path / "whole")
    assert {name: one["files"] for name, one in entries.items()} == {
        name: one["files"] for name, one in whole.items()
    }


def test_killed_anywhere_and_continued_to_the_same_bytes(start, tmp_path):
    killed_and_continued(start, tmp_path, number=8, num_broken=2, kills=3)


@pytest.mark.slow
def test_a_hundred_clips_and_twenty_kills(start, tmp_path):
    killed_and_continued(start, tmp_path, number=100, num_broken=10, kills=20)


def test_what_is_damaged_is_delivered_and_what_is_done_is_kept(start, made_video, tmp_path):
    damaged = CLIPS / "01_trunc_faststart.mp4"
    code, out, err = finish(start(made_video, tmp_path / "out", damaged))
    assert code == 4
    assert out.split() == ["ok", "1", "partial", "1", "videos", "2"]
    assert err.startswith("diffusionpose: partial: 01_trunc_faststart.mp4: TRUNCATED: ")
    assert err.count("\n") == 1
    entries = ledger(tmp_path / "out")
    assert entries["figure.mp4"]["frames"] == 12
    assert list(entries["figure.mp4"]["files"]) == ["figure.poses.json"]
    before = (tmp_path / "out" / LEDGER).read_bytes()
    code, out, err = finish(start(made_video, tmp_path / "out", damaged, "--quiet"))
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert (tmp_path / "out" / LEDGER).read_bytes() == before
    assert finish(start(made_video, tmp_path / "out"))[:2] == (
        0, "ok              1\nvideos          1 (1 done before)\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (["--time-limit", "0.01"], "timeout: figure.mp4: not done after 0.01 seconds"),
        (["--memory-limit", "0.25"], "crashed: figure.mp4: took more than 0.25 GiB of memory"),
    ],
)
def test_a_video_that_exceeds_a_limit_is_named(start, made_video, tmp_path, limit, message):
    code, out, err = finish(start(made_video, tmp_path / "out", "--steps", "1000", *limit))
    assert (code, err) == (4, f"diffusionpose: {message}\n")
    assert out.splitlines()[-1].split() == ["videos", "1"]
    assert results(tmp_path / "out") == {}
    assert leftovers(tmp_path / "out") == []


def test_what_predict_put_in_their_place_is_not_replaced(start, run, untrained, tmp_path):
    one, other = (clips(tmp_path / name, 2, 0) for name in ("one", "other"))
    (other / "0000.mp4").write_bytes((other / "0001.mp4").read_bytes())
    out = tmp_path / "out"
    assert finish(start(one, out))[0] == 0
    taken = ["predict", other / "0000.mp4", "--out", out, "--no-video", "--overwrite"]
    assert run(*taken, "--model", untrained, "--device", "cpu")[0] == 0
    content = (out / "0000.poses.json").read_bytes()
    finish(start(one, out))
    assert (out / "0000.poses.json").read_bytes() == content
    line = ledger(out)["0000.mp4"]
    assert line["status"] == "rejected"
    assert "not a result of this video" in line["message"]
    assert finish(start(one, out, "--overwrite"))[0] == 0
    assert ledger(out)["0000.mp4"]["status"] == "ok"


def wait_for_a_temporary(process, out):
    deadline = time.monotonic() + PATIENCE
    while not (out.exists() and leftovers(out)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems do not tell a process that its parent died"
)
def test_processes_do_not_outlive_the_batch(start, made_video, tmp_path):
    process = start(made_video, tmp_path / "out", "--steps", "1000")
    wait_for_a_temporary(process, tmp_path / "out")
    process.kill()  # only the parent
    assert finish(process)[0] == -signal.SIGKILL
    assert is_gone(process.pid)


def ends_by_a_signal(start, video, out, sent, *options):
    """End a batch during a video, leaving nothing behind; return exit code, stdout and stderr."""
    process = start(video, out, "--steps", "1000", *options)
    wait_for_a_temporary(process, out)
    # Ctrl-C in a terminal signals the whole group; only the parent reacts.
    os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
    ended = finish(process)
    assert leftovers(out) == []
    assert [one["status"] for one in ledger(out).values()] == ["started"]
    assert is_gone(process.pid)
    return ended


SIGNALS = [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]


@pytest.mark.parametrize(("sent", "code", "message"), SIGNALS)
def test_a_signal_ends_all_and_leaves_nothing_half_written(
    start, made_video, tmp_path, sent, code, message
):
    ended = ends_by_a_signal(start, made_video, tmp_path / "out", sent)
    assert ended == (code, "", f"diffusionpose: error: {message}\n")


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code", "message"), SIGNALS)
def test_a_signal_ends_a_batch_on_ray_and_leaves_nothing_half_written(
    start, made_video, tmp_path, sent, code, message
):
    pytest.importorskip("ray")
    ended = ends_by_a_signal(start, made_video, tmp_path / "out", sent, "--ray", "local")
    assert ended == (code, "", f"diffusionpose: error: {message}\n")


@pytest.mark.slow
def test_ray_does_not_change_a_byte(start, tmp_path):
    pytest.importorskip("ray")
    videos = clips(tmp_path / "videos", 4, 1)
    assert finish(start(videos, tmp_path / "here", "--workers", 1))[0] == 4
    code, out, err = finish(start(videos, tmp_path / "there", "--ray", "local"))
    assert (code, out.split()[:4]) == (4, ["ok", "3", "rejected", "1"])
    assert err.startswith("diffusionpose: rejected: 0003.mp4: ")
    assert err.count("\n") == 1
    assert results(tmp_path / "there") == results(tmp_path / "here")
    code, out, _ = finish(start(videos, tmp_path / "there", "--workers", 1))
    assert (code, out.splitlines()[-1].split()) == (4, ["videos", "4", "(3", "done", "before)"])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--workers", "0"], 2, "--workers"),
        (["--time-limit", "0"], 2, "--time-limit must be positive"),
        (["--format", "xml"], 2, "xml"),
        (["--model", "nothing"], 1, "no model 'nothing'"),
        (["--device", "tpu"], 2, "device 'tpu' is not available"),
        (["--steps", "0"], 2, "num_inference_steps"),
        (["elsewhere/figure.mov"], 2, "would both become figure.poses.json"),
    ],
)
def test_errors_are_one_line(start, made_video, tmp_path, options, code, message):
    found, out, err = finish(start(made_video, tmp_path / "out", *options))
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
