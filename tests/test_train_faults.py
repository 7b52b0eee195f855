"""Faults in long runs: kills, signals, full disks, NaN, dead workers, several processes."""

import json
import math
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from diffusionpose.model.pretrained import sha256_of
from tests.data.made import posetrack_root
from tests.journeys.test_overfit import recipe

pytest.importorskip("lightning")

from diffusionpose.data import clips
from diffusionpose.errors import CheckpointError, DiffusionPoseError
from diffusionpose.train import train

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return posetrack_root(tmp_path_factory.mktemp("set") / "people")


def written(root, folder, **changes):
    """Write a recipe file: 10 people, random augmentation, frequent checkpoints."""
    settings = {
        "augment": {},
        "validation": [{"kind": "posetrack", "root": str(root), "split": "val"}],
        "checkpoint_minutes": 1e-3,
        "final_timestep_share": 0.5,
        "workers": 1,
        "epochs": 4,
    }
    config = recipe(root, **(settings | changes))
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def start(path, run, *options, **popen):
    command = [sys.executable, "-m", "diffusionpose", "train", str(path), "--out", str(run), "-q"]
    return subprocess.Popen(
        [*command, *options],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **popen,
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


def weights(run):
    return sha256_of(run / "model" / "model.safetensors")


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def wait_for_checkpoint(run, process, after=0.0):
    """Wait until a checkpoint is newer than `after`, or the run has ended."""
    path = run / "checkpoints" / "last.ckpt"
    while process.poll() is None:
        if path.exists() and path.stat().st_mtime > after:
            return path.stat().st_mtime
        time.sleep(0.01)
    return after


def killed_often(path, run, kills, seed):
    """Kill a run at random moments and resume it until done; return the number of kills."""
    rng, done, after = random.Random(seed), 0, 0.0
    while True:
        resumes = ["--resume"] if (run / "checkpoints" / "last.ckpt").exists() else []
        process = start(path, run, *resumes, start_new_session=True)
        if done < kills:
            after = wait_for_checkpoint(run, process, after)
            time.sleep(rng.uniform(0, 0.5))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                done += 1
                continue
        code, _, err = finish(process)
        assert code == 0, err
        return done


def compare_with_straight_run(root, folder, kills, **changes):
    path = written(root, folder, **changes)
    code, _, err = finish(start(path, folder / "straight"))
    assert (code, err) == (0, "")
    assert killed_often(path, folder / "killed", kills, seed=kills) == kills
    assert weights(folder / "killed") == weights(folder / "straight")
    assert metrics(folder / "killed") == metrics(folder / "straight")
    assert not list((folder / "killed" / "checkpoints").glob(".*tmp*")) or kills


def test_a_killed_and_resumed_run_has_the_weights_of_a_straight_one(root, tmp_path):
    changes = {"accumulate": 2, "batch_size": 2, "workers": 0}
    compare_with_straight_run(root, tmp_path, kills=1, epochs=8, **changes)


@pytest.mark.slow
def test_twenty_kills_change_no_bit(root, tmp_path):
    compare_with_straight_run(root, tmp_path, kills=20, epochs=40)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_the_run(root, tmp_path, number, code):
    """Terminals and some schedulers signal the whole process group, including workers."""
    path = written(root, tmp_path, epochs=400, checkpoint_minutes=60)
    run = tmp_path / "run"
    process = start(path, run, start_new_session=True)
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, number)
    found, _, err = finish(process)
    assert found == code, err
    assert len(err.strip().splitlines()) == 1
    assert "continue with --resume" in err or "during validation" in err
    if "continue with --resume" in err:
        state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert state["global_step"] > 0


def test_a_full_disk_leaves_the_old_checkpoint(root, tmp_path):
    path, run = written(root, tmp_path, epochs=2, workers=0), tmp_path / "run"
    assert finish(start(path, run))[0] == 0
    checkpoint = run / "checkpoints" / "last.ckpt"
    before = checkpoint.read_bytes()
    path = written(root, tmp_path, epochs=60, workers=0)
    limit = len(before) // 2

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, _, err = finish(start(path, run, "--resume", preexec_fn=full))
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert "cannot write" in err
    assert checkpoint.read_bytes() == before
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
    assert not [p for p in run.rglob("*") if "tmp" in p.name]
    assert finish(start(path, run, "--resume"))[0] == 0


def test_a_full_disk_under_kept_features_is_one_line(root, tmp_path):
    frozen = {"optimizer": {"backbone_scale": 0.0, "warmup_steps": 1}}
    kept = {"feature_cache": str(tmp_path / "features"), "workers": 0}
    path = written(root, tmp_path, **frozen, **kept)

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code, _, err = finish(start(path, tmp_path / "run", preexec_fn=full))
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert f"cannot write {tmp_path}/features/features-" in err
    assert not list((tmp_path / "features").iterdir())


def poisoned(config, run, monkeypatch, indices):
    """Train with clips whose pixels make every loss NaN."""
    original = clips.ClipDataset.__getitem__

    def get(self, key):
        clip = original(self, key)
        if self.augment is not None and clip["index"] in indices:
            clip["images"] = clip["images"].float() * float("nan")
        return clip

    monkeypatch.setattr(clips.ClipDataset, "__getitem__", get)
    return train(config, run, progress=False)


def test_a_step_that_is_not_finite_is_left_out_and_counted(root, tmp_path, monkeypatch):
    config = recipe(root, epochs=2, batch_size=1, accumulate=1)
    poisoned(config, tmp_path / "run", monkeypatch, {3})
    lines = metrics(tmp_path / "run")
    assert [line["skipped_steps"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["train/total"]) for line in lines)
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
    moments = state["optimizer_states"][0]["state"].values()
    assert all(torch.as_tensor(v).isfinite().all() for entry in moments for v in entry.values())


def test_three_steps_that_are_not_finite_end_the_run_with_their_clips(root, tmp_path, monkeypatch):
    config = recipe(root, epochs=9, batch_size=5)
    with pytest.raises(DiffusionPoseError, match="3 steps without finite gradients") as caught:
        poisoned(config, tmp_path / "run", monkeypatch, {3})
    assert "000001_bonn:10000000004:0" in str(caught.value)


def test_a_dead_worker_is_named(root, tmp_path):
    path, run = written(root, tmp_path, epochs=400, workers=2), tmp_path / "run"
    process = start(path, run)
    wait_for_checkpoint(run, process)
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            os.kill(int(children[-1]), signal.SIGKILL)
            break
    code, _, err = finish(process)
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert re.search(r"loader worker [01] \(process \d+\) died", err)


def test_an_image_that_is_gone_is_named(root, tmp_path):
    own = posetrack_root(tmp_path / "data", videos=("000001_bonn",))
    gone = sorted((own / "images").rglob("*.jpg"))[2]
    gone.unlink()
    code, _, err = finish(start(written(own, tmp_path), tmp_path / "run"))
    assert code == 1
    assert err.strip().splitlines() == [f"diffusionpose: error: {str(gone)!r}: no such file"]


def test_a_damaged_checkpoint_is_not_gone_on_with(root, tmp_path):
    config = recipe(root, epochs=1)
    train(config, tmp_path / "run", progress=False)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged since it was written"):
        train(config, tmp_path / "run", resume=True, progress=False)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_two_processes(path, run):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
    torchrun += [f"--master-port={free_port()}", "-m", "diffusionpose", "train", str(path)]
    return subprocess.run(
        [sys.executable, *torchrun, "--out", str(run), "-q"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_processes_learn_as_one_with_twice_the_batch(root, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    slowly = {"optimizer": {"learning_rate": 2e-4, "warmup_steps": 1}, "epochs": 5, "workers": 0}
    path = written(root, tmp_path, batch_size=4, **slowly)
    code, _, err = finish(start(path, one))
    assert (code, err) == (0, "")
    done = in_two_processes(written(root, tmp_path, batch_size=2, **slowly), two)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: ") == 1
    curves = [
        np.array([[line["train/total"], line["train/heatmap"]] for line in metrics(run)])
        for run in (one, two)
    ]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)
    assert curves[0][-1, 0] < curves[0][0, 0]
    steps, scores = (
        [[line[key] for line in metrics(run)] for run in (one, two)]
        for key in ("step", "val/pck_people_val")
    )
    assert steps[0] == steps[1]
    np.testing.assert_allclose(scores[1], scores[0], atol=0.02)


def test_two_processes_learn_a_row_whose_decoder_reads_no_position_conditions(root, tmp_path):
    path = written(root, tmp_path, batch_size=2, epochs=1, workers=0)
    values = yaml.safe_load(path.read_text())
    values["model"]["decoder"]["kind"] = "unet"
    path.write_text(yaml.safe_dump(values))
    done = in_two_processes(path, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2]
