"""Fixtures shared by several folders of tests."""

import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from filelock import FileLock

from diffusionpose.config import BackboneConfig, DecoderConfig, EncoderConfig, ModelConfig
from diffusionpose.structures import Frame
from diffusionpose.video import VideoWriter
from tests.data.made import draw, figure

torch.set_num_threads(1)
if not torch.cuda.is_available():
    # Read when the kernels are first imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, worker_id):
    """Return a folder shared by all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def untrained(shared_folder):
    """Folder of a small model with random weights."""
    from diffusionpose import DiffusionPose

    config = ModelConfig(
        name="untrained",
        backbone=BackboneConfig(hidden_size=32, depth=1, num_heads=2),
        encoder=EncoderConfig(depth=1, num_heads=2),
        decoder=DecoderConfig(depth=1, num_heads=2),
    )
    with FileLock(shared_folder / "untrained.lock"):
        folder = shared_folder / "untrained"
        if not folder.exists():
            torch.manual_seed(0)
            DiffusionPose(config).save_pretrained(folder, "card")
    return folder


@pytest.fixture(scope="session")
def exported(untrained, shared_folder):
    """Return the ONNX file of that model, which one slow export makes for all workers."""
    pytest.importorskip("onnxscript")
    from diffusionpose.export import TOLERANCE, export_onnx

    path = shared_folder / "untrained.onnx"
    with FileLock(shared_folder / "export.lock"):
        if not path.exists():
            assert export_onnx(untrained, path) < TOLERANCE
    return path


@pytest.fixture(scope="session")
def made_video(tmp_path_factory):
    """Return a 160 x 120 video of a stick figure: 12 frames at 25 frames/s."""
    path = tmp_path_factory.mktemp("video") / "figure.mp4"
    with VideoWriter(path, 160, 120, rate=Fraction(25)) as writer:
        for index in range(12):
            image = np.ascontiguousarray(draw(figure((60 + 2 * index, 62), 48, index / 3)))
            writer.write(Frame(index, Fraction(index, 25), image))
    return path


@pytest.fixture(scope="session")
def made_boxes(tmp_path_factory):
    """Return a boxes file for `made_video`: two people, the second only in frames 3 to 7."""
    import json

    frames = []
    for index in range(12):
        boxes = [{"box": [30 + 2 * index, 8, 90 + 2 * index, 112], "track_id": 4}]
        if 3 <= index <= 7:
            boxes.append({"box": [100, 20, 150, 110], "score": 0.5, "track_id": 9})
        frames.append({"index": index, "boxes": boxes})
    path = tmp_path_factory.mktemp("boxes") / "boxes.json"
    path.write_text(json.dumps({"frames": frames}))
    return path
