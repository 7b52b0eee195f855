"""Detectors of transformers with random weights, intact and corrupted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffusionpose.detection import TransformersDetector, load_detector
from diffusionpose.errors import CheckpointError
from tests.detection.helpers import assert_inside, picture


def seeded(model_class: Any, config: Any) -> Any:
    """Make a model with reproducible random weights."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config)


@pytest.fixture(scope="module")
def yolos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny YOLOS with random weights and the classes N/A and person."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("detectors") / "yolos"
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        num_detection_tokens=5,
        id2label={0: "N/A", 1: "Person"},
    )
    model = seeded(transformers.YolosForObjectDetection, config)
    # Only the best class of a box counts, so make it the person.
    model.class_labels_classifier.layers[-1].bias.data[1] = 9
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.YolosImageProcessorPil(size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rtdetr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny RT-DETRv2 with random weights and the classes person and cat."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("detectors") / "rtdetr"
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrV2Config(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 8, 8],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=10,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=0,
        id2label={0: "person", 1: "cat"},
    )
    seeded(transformers.RTDetrV2ForObjectDetection, config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.RTDetrImageProcessorPil(size=size).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("fixture", ["yolos_folder", "rtdetr_folder"])
def test_a_folder_of_transformers_detects_people_only(
    fixture: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    capsys.readouterr()
    detector = load_detector(folder, score_threshold=0.0)
    assert capsys.readouterr().err == ""
    assert isinstance(detector, TransformersDetector)
    assert detector.name == folder.name
    same, other = picture(90, 160), picture(50, 40, seed=1)
    alone = detector([same])[0]
    assert len(alone)
    assert_inside(alone, same)
    for group in ([same, same], [same, other]):
        found = detector(group)
        assert found[0].boxes == pytest.approx(alone.boxes, abs=0.1)
        for boxes, image in zip(found, group, strict=True):
            assert_inside(boxes, image)
    assert detector([]) == []


def test_boxes_of_transformers_are_the_models_in_pixels(yolos_folder: Path) -> None:
    import torch

    detector = load_detector(yolos_folder, score_threshold=0.0)
    answer = SimpleNamespace(
        logits=torch.tensor([[[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]]]),
        pred_boxes=torch.tensor([[[0.5, 0.5, 0.2, 0.6], [0.1, 0.1, 0.1, 0.1]]]),
    )
    detector._model = lambda pixel_values: answer  # pyright: ignore[reportAttributeAccessIssue]
    (boxes,) = detector([picture(100, 200)])
    assert boxes.boxes == pytest.approx(np.array([[80, 20, 120, 80]]), abs=1e-3)
    assert boxes.scores[0] > 0.99


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def spoiled(yolos_folder: Path, tmp_path: Path) -> Path:
    """Copy an intact folder, which a test then corrupts."""
    copy = tmp_path / "spoiled"
    copy.mkdir()
    for path in yolos_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_a_detector_without_persons_is_refused(spoiled: Path) -> None:
    edit_json(spoiled / "config.json", id2label={"0": "cat", "1": "dog"})
    with pytest.raises(CheckpointError, match=r"none of its classes is 'person' .*cat, dog"):
        load_detector(spoiled)


def test_missing_weights_are_refused_not_made_up(spoiled: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(spoiled / "model.safetensors")
    lost = next(key for key in sorted(weights) if "class_labels" in key)
    save_file(
        {key: value for key, value in weights.items() if key != lost},
        spoiled / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CheckpointError, match="1 weights are missing"):
        load_detector(spoiled)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "broken"])
def test_a_spoiled_folder_is_refused(spoiled: Path, name: str, how: str) -> None:
    if how == "missing":
        (spoiled / name).unlink()
    else:
        (spoiled / name).write_bytes((spoiled / name).read_bytes()[:60])
    with pytest.raises(
        CheckpointError, match="cannot be loaded as a transformers object detector"
    ) as error:
        load_detector(spoiled)
    assert "\n" not in str(error.value)


def test_a_hub_id_without_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"nobody/nothing: .*without network") as error:
        load_detector("nobody/nothing")
    assert "\n" not in str(error.value)
