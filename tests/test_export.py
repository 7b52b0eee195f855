"""An exported file reproduces torch's heatmaps for any batch size, or is not written."""

import numpy as np
import pytest
import torch

from diffusionpose import DiffusionPose
from diffusionpose.errors import DiffusionPoseError, UsageError

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")
from diffusionpose import export  # noqa: E402


def test_file_gives_the_heatmaps_of_torch(untrained, exported):
    model = DiffusionPose.from_pretrained(untrained)
    images, noise = export.example(model, 5, seed=9)
    session = ort.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    (found,) = session.run(["heatmaps"], {"images": images.numpy(), "noise": noise.numpy()})
    with torch.inference_mode():
        expected = model.generate(model.encode(model.extract(images)), noise)
    # DDIM's arithmetic around the single step adds a rounding error.
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert '"name":"untrained"' in facts["config"]
    assert len(facts["weights_sha256"]) == 64


def test_file_has_standard_operators_of_the_stated_opset_only(exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported)
    onnx.checker.check_model(model)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == export.OPSET
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not any(node.op_type in ("Scan", "Loop") for node in model.graph.node)


def test_a_file_that_is_there_stays(untrained, exported):
    before = exported.read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        export.export_onnx(untrained, exported)
    assert exported.read_bytes() == before


def test_a_model_too_large_for_one_file_is_refused(untrained, tmp_path, monkeypatch):
    """torch would write the weights to a second file, which would keep its temporary name."""
    monkeypatch.setattr(export, "MOST_WEIGHTS", 2**10)
    with pytest.raises(UsageError, match=r"GiB of weights are too large for an ONNX file"):
        export.export_onnx(untrained, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_written(untrained, exported, tmp_path, monkeypatch):
    """Another network's file simulates a wrong export."""
    monkeypatch.setattr(
        export, "_write", lambda *given: given[2].write_bytes(exported.read_bytes())
    )
    other = DiffusionPose(DiffusionPose.from_pretrained(untrained).config)
    other = other.save_pretrained(tmp_path / "other", "card")
    with pytest.raises(DiffusionPoseError, match="differs from torch"):
        export.export_onnx(other, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == [other]


def test_the_bundled_model_can_be_exported(tmp_path):
    """Its stem has operators that no other model has."""
    assert export.export_onnx("tiny", tmp_path / "tiny.onnx") < export.TOLERANCE
