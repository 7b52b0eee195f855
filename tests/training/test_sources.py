"""Data loaders: checks before several processes start, and errors of workers."""

import re

import pytest

from diffusionpose.errors import ConfigError
from tests.data.made import posetrack_root
from tests.journeys.test_overfit import recipe

pytest.importorskip("lightning")

from diffusionpose.training.sources import ClipLoader, Ranks, make_loaders


def test_every_process_has_clips_and_somebody_to_validate_on(tmp_path):
    root = posetrack_root(tmp_path, videos=("000001_bonn",), num_frames=6)
    few = {"kind": "posetrack", "root": str(root), "split": "val", "stride": 2, "label": "few"}
    config = recipe(root, validation=[few], batch_size=1)
    three, four, six = (Ranks(rank=0, world=world, local_world=world) for world in (3, 4, 6))
    assert len(make_loaders(config, three).validation[0]) == 1
    with pytest.raises(ConfigError, match=r"few: 3 people to validate on .* the 4 processes"):
        make_loaders(config, four)
    with pytest.raises(ConfigError, match="5 clips do not fill a batch of 1 for each of 6"):
        make_loaders(config, six)


@pytest.mark.parametrize(
    ("error", "workers"),
    [
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", r"worker 0 \(process 12\)"),
        (
            "DataLoader worker (pid(s) 12, 34) exited unexpectedly",
            r"worker 0 \(process 12\), loader worker \? \(process 34\)",
        ),
    ],
)
def test_dead_workers_are_named(error, workers):
    loader = ClipLoader([], 1)
    loader.workers = {12: 0}
    assert re.search(rf"{workers} died", str(loader.explain(RuntimeError(error))))


def test_errors_raised_in_a_worker_are_not_taken_for_its_death():
    error = RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback")
    assert ClipLoader([], 1).explain(error) is None
