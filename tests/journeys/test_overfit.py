"""From a data set to poses: train on a made clip, then predict that clip; the answer must be its truth."""

import json

import numpy as np
import pytest

from diffusionpose import PosePipeline
from diffusionpose.config import parse
from diffusionpose.detection import BoxesFile
from diffusionpose.recipe import TrainConfig
from tests.data.made import figure, posetrack_root

pytest.importorskip("lightning")

NUM_FRAMES = 3


def recipe(root, **changes):
    """A very small model without augmentation."""
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
        "loss": {"location": 0.01, "alpha": 1e-4},
        "optimizer": {
            "learning_rate": 2e-3,
            "warmup_steps": 10,
            "schedule": "cosine",
            "ema_decay": 0.9,
        },
        "epochs": 250,
        "batch_size": 3,
        "workers": 0,
        "final_timestep_share": 1.0,
    }
    return parse(TrainConfig, values | changes, "test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from diffusionpose.train import train

    folder = tmp_path_factory.mktemp("overfit")
    root = posetrack_root(folder, videos=("000001_bonn",), num_frames=NUM_FRAMES, unlabelled=())
    return root, train(recipe(root), folder / "run", progress=False)


def test_a_made_clip_is_overfitted_to_less_than_a_pixel(trained, tmp_path):
    root, model = trained
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
    error = np.linalg.norm(poses.keypoints - np.stack(truth), axis=-1)
    assert error.shape == (NUM_FRAMES, 15)
    assert error.max() < 1
    assert set(poses.track_id.tolist()) == {7}
    assert poses.keypoint_scores.min() > 0.5
