"""Overfitting: train on a synthetic clip, then predict it; poses must match its ground truth."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffusionpose import PosePipeline
from diffusionpose.config import parse
from diffusionpose.detection import BoxesFile
from diffusionpose.recipe import TrainConfig, read_recipe
from tests.data.made import figure, posetrack_root

pytest.importorskip("lightning")

NUM_FRAMES = 3
CONFIGS = Path(__file__).parents[2] / "configs"


def recipe(root, **changes):
    """Make a recipe for a very small model without augmentation."""
    model = {
        "name": "overfit",
        "backbone": {"hidden_size": 64, "depth": 1, "num_heads": 2},
        "encoder": {"depth": 1, "num_heads": 2},
        "decoder": {"depth": 1, "num_heads": 2},
    }
    still = dict.fromkeys(
        ["flip", "scale", "rotation_share", "shift", "half_body", "colour", "grey", "blur"], 0.0
    )
    source = {"kind": "posetrack", "root": str(root), "split": "val"}
    values = {
        "name": "overfit",
        "model": model,
        "train": [source],
        "augment": still | {"occlusion": 0.0, "still_motion": 0.0},
        # Processors differ in the last digits: this weight leaves a margin for that.
        "loss": {"location": 0.03, "alpha": 1e-4},
        "optimizer": {
            "learning_rate": 2e-3,
            "warmup_steps": 10,
            "schedule": "cosine",
            "ema_decay": 0.9,
        },
        "epochs": 300,
        "batch_size": 3,
        "workers": 0,
        "final_timestep_share": 1.0,
    }
    return parse(TrainConfig, values | changes, "test")


def trained(folder, **changes):
    """Make the clip, and train a model on it."""
    from diffusionpose.train import train

    root = posetrack_root(folder, videos=("000001_bonn",), num_frames=NUM_FRAMES, unlabelled=())
    return root, train(recipe(root, **changes), folder / "run", progress=False)


def found(root, model, tmp_path):
    """Predict poses of the clip; also return their distances from the truth in pixels."""
    truth = [figure((70 + 3 * index, 66), 50, index / 2) for index in range(NUM_FRAMES)]
    annotations = json.loads((root / "posetrack_data" / "val" / "000001_bonn.json").read_text())
    frames = []
    for index, annotation in enumerate(annotations["annotations"]):
        x, y, w, h = annotation["bbox"]
        frames.append({"index": index, "boxes": [{"box": [x, y, x + w, y + h], "track_id": 7}]})
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps({"frames": frames}))
    pipeline = PosePipeline.from_pretrained(model, device="cpu")
    poses = pipeline(root / "images" / "val" / "000001_bonn", boxes=BoxesFile.load(file))
    return poses, np.linalg.norm(poses.keypoints - np.stack(truth), axis=-1)


def test_a_made_clip_is_overfitted_to_less_than_a_pixel(tmp_path):
    poses, error = found(*trained(tmp_path), tmp_path)
    assert error.shape == (NUM_FRAMES, 15)
    assert error.max() < 1
    assert set(poses.track_id.tolist()) == {7}
    assert poses.keypoint_scores.min() > 0.5


def test_the_loss_of_the_paper_s_recipe_learns(tmp_path):
    loss = read_recipe(CONFIGS / "paper.yaml", data=tmp_path).loss
    _, error = found(*trained(tmp_path, loss=loss.model_dump()), tmp_path)
    assert np.median(error) < 2
