"""What is too little for several processes is told before they start."""

import pytest

from diffusionpose.errors import ConfigError
from tests.data.made import posetrack_root
from tests.journeys.test_overfit import recipe

pytest.importorskip("lightning")

from diffusionpose.training.sources import Ranks, make_loaders


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
