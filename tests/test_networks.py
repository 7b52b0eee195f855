"""Exported files reproduce torch's heatmaps with every engine; mismatches are reported."""

import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import diffusionpose
from diffusionpose import PosePipeline
from diffusionpose.detection import BoxesFile
from diffusionpose.errors import CheckpointError, UsageError
from diffusionpose.model.model import DiffusionPose
from diffusionpose.networks import load_network
from diffusionpose.video import open_video

CPU = torch.device("cpu")
DEMO = Path(__file__).parents[1] / "examples" / "demo.mp4"


def needs(engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    return engine


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_give_the_heatmaps_of_torch(untrained, exported, engine):
    theirs = load_network(exported, CPU, engine=needs(engine), flip_test=True)
    ours = load_network(untrained, CPU, flip_test=True)
    assert theirs.config == ours.config
    assert theirs.facts["sha256"] == ours.facts["sha256"]
    images = torch.randint(0, 256, (6, 3, *ours.config.image_size), dtype=torch.uint8)
    noise = torch.randn(2, 3, *ours.noise_shape)
    maps = [
        network.heatmaps(network.features(images).unflatten(0, (2, 3)), noise)
        for network in (theirs, ours)
    ]
    torch.testing.assert_close(*maps, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (".", "untrained"),
        ("inner/..", "untrained"),
        ("owner/model", "owner/model"),
        ("tiny", "tiny"),
    ],
)
def test_a_model_has_the_name_that_it_is_found_by(untrained, monkeypatch, tmp_path, asked, name):
    folder = tmp_path / "untrained"
    shutil.copytree(untrained, folder)
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder)
    # In the hub's cache, the folder is named by a hash.
    monkeypatch.setattr("diffusionpose.model.pretrained._from_hub", lambda _: folder)
    assert load_network(asked, CPU).facts["name"] == name


def test_notebooks_can_complete_the_public_names():
    assert set(diffusionpose.__all__) <= set(dir(diffusionpose))


def test_weights_held_in_bfloat16_are_those_that_autocast_makes():
    by_autocast, held = (DiffusionPose.from_pretrained("tiny") for _ in range(2))
    held.hold_bfloat16()
    kept = {name: value.dtype for name, value in held.named_parameters()}
    assert kept["backbone.stem.first.weight"] == torch.bfloat16
    assert kept["decoder.blocks.0.markov.node.weight"] == torch.float32
    assert kept["encoder.blocks.0.spatial.mamba.dt_proj.bias"] == torch.float32
    images = torch.randint(0, 256, (1, 3, 3, *held.config.image_size), dtype=torch.uint8)
    noise = torch.randn(1, *held.noise_shape)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        maps = [m.generate(m.encode(m.extract(images)), noise) for m in (held, by_autocast)]
    assert torch.equal(*maps)


def test_bfloat16_finds_the_joints_that_float32_finds():
    with open_video(DEMO) as reader:
        frames = list(islice(reader, 8))
    found = [
        [
            people.people[0].keypoints[:, :2]
            for _, people in PosePipeline.from_pretrained(
                "tiny", device="cpu", precision=precision
            ).stream(frames)
        ]
        for precision in ("float32", "bfloat16")
    ]
    away = np.linalg.norm(np.subtract(*found), axis=-1)  # the walker is 420 pixels tall
    assert 0 < np.median(away) < 1
    assert np.quantile(away, 0.95) < 4


@pytest.mark.parametrize("engine", [None, "openvino"])
def test_a_video_through_an_exported_file(untrained, exported, made_video, made_boxes, engine):
    boxes = BoxesFile.load(made_boxes)
    found = PosePipeline.from_pretrained(exported, device="cpu", engine=engine and needs(engine))
    theirs = found(made_video, boxes=boxes)
    ours = PosePipeline.from_pretrained(untrained, device="cpu")(made_video, boxes=boxes)
    assert theirs.header.settings["engine"] == (engine or "onnxruntime")
    assert theirs.header.model["name"] == "untrained.onnx"
    # With random weights, two peaks may be equal but for rounding, and either may win.
    away = abs(theirs.keypoints - ours.keypoints).max(-1)
    assert (away < 0.1).mean() > 0.98


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("folder", {"engine": "onnxruntime"}, "diffusionpose export"),
        ("folder", {"engine": "tensorrt"}, "choose from torch, onnxruntime, openvino"),
        ("file", {"engine": "torch"}, "cannot run the exported file"),
        ("file", {"num_inference_steps": 2}, "one DDIM step"),
        ("file", {"precision": "bfloat16"}, "float32"),
    ],
)
def test_what_does_not_go_together_is_named(untrained, tmp_path, model, settings, message):
    given = untrained if model == "folder" else tmp_path / "model.onnx"
    with pytest.raises(UsageError, match=message):
        load_network(given, CPU, **settings)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_files_that_are_no_export_are_named(tmp_path, engine):
    needs(engine)
    with pytest.raises(CheckpointError, match=r"absent.onnx: cannot be read"):
        load_network(tmp_path / "absent.onnx", CPU, engine=engine)
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(CheckpointError, match=r"noise.onnx: not a readable ONNX model"):
        load_network(tmp_path / "noise.onnx", CPU, engine=engine)
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "other", [value], [out])
    other = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match=r"other.onnx: not written by 'diffusionpose export'"):
        load_network(tmp_path / "other.onnx", CPU, engine=engine)
    onnx.helper.set_model_props(other, {"config": "{]"})
    onnx.save(other, tmp_path / "broken.onnx")
    with pytest.raises(CheckpointError, match=r"broken.onnx: invalid model configuration"):
        load_network(tmp_path / "broken.onnx", CPU, engine=engine)


def edited(exported, path, edit):
    """Write a modified copy of an exported file."""
    model = pytest.importorskip("onnx").load(exported)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


def _rename_input(model):
    for node in model.graph.node:
        node.input[:] = ["pictures" if name == "images" else name for name in node.input]
    next(one for one in model.graph.input if one.name == "images").name = "pictures"


def _forget_numbers(model):
    floats = (one for one in model.graph.initializer if one.data_type == 1)
    weights = next(one for one in floats if len(one.raw_data) > 40_000)
    weights.raw_data = np.full(len(weights.raw_data) // 4, np.nan, np.float32).tobytes()


def _narrow(model):
    (out,) = model.graph.output
    last = next(node for node in model.graph.node if "heatmaps" in node.output)
    last.output[:] = ["whole"]
    onnx = pytest.importorskip("onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "first"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["whole", "first"], [out.name], axis=1))
    out.type.tensor_type.shape.dim[1].dim_value = 1


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_rename_input, "cannot run it"),
        (_forget_numbers, "is not finite heatmaps of shape"),
        (_narrow, "is not finite heatmaps of shape"),
    ],
)
def test_an_exported_file_that_was_edited_is_named(exported, tmp_path, engine, edit, message):
    path = edited(exported, tmp_path / "edited.onnx", edit)
    network = load_network(path, CPU, engine=needs(engine))
    images = torch.zeros((1, 3, 3, *network.config.image_size), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match=f"edited.onnx: .*{message}"):
        network.heatmaps(images[:, :, None], torch.zeros(1, 1, *network.noise_shape))


def test_a_configuration_nested_without_an_end_is_named(exported, tmp_path):
    def nest(model):
        next(one for one in model.metadata_props if one.key == "config").value = "[" * 100_000

    with pytest.raises(CheckpointError, match="invalid model configuration"):
        load_network(edited(exported, tmp_path / "deep.onnx", nest), CPU)


def test_openvino_opens_no_connection(exported):
    """The package reports each import to its vendor unless prevented."""
    needs("openvino")
    watch = f"""
import sys, torch, threading
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("CONNECTION", event)
sys.addaudithook(hook)
from pathlib import Path
from diffusionpose.networks import load_network
load_network(Path({str(exported)!r}), torch.device("cpu"), engine="openvino")
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(5)
print("loaded")
"""
    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "loaded"
