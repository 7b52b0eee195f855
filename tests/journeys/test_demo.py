"""The bundled model on the bundled clip, which a new user tries first."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from diffusionpose import PosePipeline
from diffusionpose.model.pretrained import bundled

DEMO = Path(__file__).parents[2] / "examples" / "demo.mp4"


@pytest.fixture(scope="module")
def walker():
    """Return (frames, 15, 2) pixels and (frames, 15) scores of the only person, and joint names."""
    poses = PosePipeline.from_pretrained("tiny")(DEMO)
    (track,) = poses.track_ids
    person = poses.track(track)
    return person.keypoints, person.keypoint_scores, poses.header.joints


def test_the_bundled_weights_are_whole():
    assert "tiny" in bundled()


def test_one_person_with_one_id_in_every_frame(walker):
    keypoints, _, _ = walker
    assert keypoints.shape == (70, 15, 2)
    assert np.isfinite(keypoints).all()


def test_a_walker_stands_upright_and_moves_smoothly(walker):
    keypoints, scores, names = walker
    at = {name: keypoints[:, index] for index, name in enumerate(names)}
    hips = (at["left_hip"] + at["right_hip"]) / 2
    order = [
        at["head_top"],
        at["head_bottom"],
        hips,
        (at["left_knee"] + at["right_knee"]) / 2,
        (at["left_ankle"] + at["right_ankle"]) / 2,
    ]
    for upper, lower in itertools.pairwise(order):
        assert np.mean(upper[:, 1] < lower[:, 1]) > 0.97
    height = float(np.median(order[-1][:, 1] - order[0][:, 1]))
    # From frame to frame, hips move by less than a tenth of the body height.
    assert np.quantile(np.linalg.norm(np.diff(hips, axis=0), axis=1), 0.95) < 0.1 * height
    assert np.median(scores) > 0.3
