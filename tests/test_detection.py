"""Detectors on pictures and models made here; boxes files, right and wrong."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from diffusionpose import detection
from diffusionpose.detection import (
    BoxesFile,
    SSDLiteDetector,
    TransformersDetector,
    YOLOXDetector,
    load_detector,
    pairwise_iou,
    suppress_duplicates,
)
from diffusionpose.errors import CheckpointError, UsageError
from diffusionpose.structures import NO_TRACK, Boxes


def picture(height: int = 90, width: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def assert_inside(boxes: Boxes, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    assert (boxes.boxes >= 0).all()
    assert (boxes.boxes <= [width, height, width, height]).all()
    assert (boxes.boxes[:, 2:] > boxes.boxes[:, :2]).all()
    assert ((boxes.scores >= 0) & (boxes.scores <= 1)).all()
    assert (np.diff(boxes.scores) <= 0).all()


# --- overlaps


@pytest.mark.parametrize(
    ("second", "iou"),
    [
        ([0, 0, 10, 10], 1.0),
        ([5, 0, 15, 10], 1 / 3),
        ([10, 0, 20, 10], 0.0),
        ([2, 2, 4, 4], 0.04),
        ([3, 3, 3, 3], 0.0),
    ],
)
def test_pairwise_iou(second: list[float], iou: float) -> None:
    found = pairwise_iou(np.array([[0.0, 0, 10, 10]]), np.array([second]))
    assert found == pytest.approx(np.array([[iou]]))


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.floats(0.05, 0.95))
def test_suppression_keeps_what_a_plain_loop_keeps(seed: int, count: int, max_iou: float) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (count, 2))
    boxes = Boxes(
        np.concatenate([corners, corners + rng.uniform(1, 60, corners.shape)], 1),
        rng.permutation(count) / max(count, 1),
    )
    kept: list[int] = []
    for index in np.argsort(-boxes.scores):
        if all(pairwise_iou(boxes.boxes[[index]], boxes.boxes[[k]])[0, 0] <= max_iou for k in kept):
            kept.append(int(index))
    assert suppress_duplicates(boxes, max_iou).scores.tolist() == boxes.scores[kept].tolist()


# --- the bundled detector


def draw_person(height: int, width: int, x: int, feet: int, size: int) -> np.ndarray:
    """A plain figure of that size in pixels, standing in front of a bright wall and a floor."""
    image = np.full((height, width, 3), (205, 200, 190), np.uint8)
    image[int(height * 0.75) :] = (120, 110, 100)
    at = lambda dx, dy: (int(x + dx * size), int(feet - dy * size))  # noqa: E731

    def limb(color: tuple[int, int, int], thickness: float, *points: tuple[float, float]) -> None:
        corners = np.array([at(*point) for point in points], np.int32)
        cv2.polylines(image, [corners], False, color, int(thickness * size), cv2.LINE_AA)

    skin, shirt, trousers = (215, 165, 135), (60, 75, 130), (45, 45, 55)
    for side in (-1, 1):
        limb(trousers, 0.09, (side * 0.05, 0.5), (side * 0.07, 0.27), (side * 0.08, 0.04))
        limb((30, 25, 25), 0.05, (side * 0.08, 0.02), (side * 0.13, 0.02))
        limb(shirt, 0.065, (side * 0.11, 0.8), (side * 0.16, 0.64))
        limb(skin, 0.045, (side * 0.16, 0.64), (side * 0.17, 0.48))
    cv2.rectangle(image, at(-0.11, 0.83), at(0.11, 0.48), shirt, -1)
    limb(skin, 0.07, (0, 0.82), (0, 0.88))
    cv2.ellipse(image, at(0, 0.92), (int(0.055 * size), int(0.075 * size)), 0, 0, 360, skin, -1)
    cv2.ellipse(
        image, at(0, 0.95), (int(0.06 * size), int(0.05 * size)), 0, 180, 360, (50, 35, 25), -1
    )
    return cv2.GaussianBlur(image, (0, 0), 1.2)


@pytest.fixture(scope="module")
def ssdlite() -> SSDLiteDetector:
    return SSDLiteDetector()


def test_ssdlite_has_one_anchor_a_row_of_its_outputs(ssdlite: SSDLiteDetector) -> None:
    anchors, mirror = detection._ssd_anchors()
    codes, logits = ssdlite._outputs(picture())
    assert anchors.shape == (1917, 4) == codes.shape
    assert logits.shape == (1917, 2)
    flipped = anchors[mirror] * [1, -1, 1, 1] + [0, 1, 0, 0]
    assert np.allclose(flipped, anchors), "mirrored twice is where it was"


def test_ssdlite_has_the_shapes_of_the_object_detection_api() -> None:
    """Heights and widths; a ratio is width over height, and the odd square comes last."""
    assert detection._ssd_shapes(0) == pytest.approx(
        np.array([[0.1, 0.1], [0.1414, 0.2828], [0.2828, 0.1414]]), abs=1e-4
    )
    assert detection._ssd_shapes(5) == pytest.approx(
        np.array(
            [
                [0.95, 0.95],
                [0.6718, 1.3435],
                [1.3435, 0.6718],
                [0.5485, 1.6454],
                [1.6454, 0.5485],
                [0.9747, 0.9747],
            ]
        ),
        abs=1e-4,
    )


def test_ssdlite_decodes_a_code_of_zero_to_its_anchor_and_others_by_their_scales() -> None:
    anchor = np.array([[0.5, 0.4, 0.2, 0.1]])
    assert detection._ssd_decode(np.zeros((1, 4)), anchor) == pytest.approx(
        np.array([[0.35, 0.4, 0.45, 0.6]])
    )
    moved = detection._ssd_decode(np.array([[10.0, -10.0, 5 * np.log(2), 0.0]]), anchor)
    assert moved == pytest.approx(np.array([[0.25, 0.5, 0.35, 0.9]]))


@pytest.mark.parametrize("x", [200, 440])
def test_ssdlite_finds_the_person_where_it_is(ssdlite: SSDLiteDetector, x: int) -> None:
    image = draw_person(480, 640, x=x, feet=440, size=360)
    (boxes,) = ssdlite([image])
    truth = np.array([[x - 0.19 * 360, 80, x + 0.19 * 360, 445]])
    assert boxes.scores[0] > ssdlite.start_score
    assert pairwise_iou(boxes.boxes[:1], truth)[0, 0] > 0.6
    assert_inside(boxes, image)


def test_ssdlite_sees_the_mirror_image_mirrored(ssdlite: SSDLiteDetector) -> None:
    image = draw_person(480, 640, x=220, feet=440, size=340)
    (boxes,), (mirrored,) = ssdlite([image]), ssdlite([np.ascontiguousarray(image[:, ::-1])])
    box = mirrored.boxes[0, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [640, 0, 640, 0]
    assert np.abs(boxes.boxes[0] - box).max() < 2


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (1200, 40), (480, 640)])
def test_ssdlite_takes_any_size(ssdlite: SSDLiteDetector, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    for boxes in ssdlite([image, image]):
        assert_inside(boxes, image)


def test_ssdlite_is_the_default_and_keeps_to_the_threshold() -> None:
    image = draw_person(480, 640, x=300, feet=440, size=360)
    assert load_detector(None).name == load_detector("ssdlite").name == "ssdlite"
    strict = load_detector(None, score_threshold=0.99)
    loose = load_detector(None, score_threshold=0.01)
    assert strict.start_score == 0.99
    assert (strict([image])[0].scores >= 0.99).all()
    assert len(loose([image])[0]) > len(strict([image])[0])


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match=r"in \[0, 1\]"):
        load_detector(None, score_threshold=threshold)


@pytest.mark.parametrize("name", ["ssdlit", "/no/such/folder", "", "a b/c"])
def test_an_unknown_name_says_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match="ssdlite"):
        load_detector(name)


def test_importing_is_light() -> None:
    code = (
        "import sys, diffusionpose.detection, diffusionpose.tracking\n"
        "print([m for m in ('torch', 'transformers', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- YOLOX

SIZE = (64, 96)
CELLS = sum((SIZE[0] // stride) * (SIZE[1] // stride) for stride in (8, 16, 32))


def yolox_file(
    path: Path,
    rows: dict[int, list[float]] | None = None,
    *,
    decoded: bool = False,
    columns: int = 85,
    cells: int = CELLS,
    shape: tuple[Any, ...] = (1, 3, *SIZE),
) -> Path:
    """An ONNX of YOLOX's layout that answers `rows` (cell: x, y, w, h, object, person) to anything.

    The answer is scaled by the brightness of the first channel (blue) of the first pixel over 255,
    so that the test sees the channel order.
    """
    output = np.zeros((1, cells, columns), np.float32)
    if decoded:
        grid = detection._yolox_grid(SIZE)
        output[0, :, :2] = grid[:, :2] * grid[:, 2:]
        output[0, :, 2:4] = grid[:, 2:]
    for cell, values in (rows or {}).items():
        output[0, cell, : len(values)] = values
    scale = np.ones((1, cells, columns), np.float32)
    scale[..., 4:] = 0
    ends = [
        numpy_helper.from_array(np.array(v), n)
        for n, v in (
            ("start", [0, 0, 0]),
            ("end", [1, 1, 1]),
            ("axes", [1, 2, 3]),
            ("flat", [1, 1, 1]),
        )
    ]
    constants = [
        numpy_helper.from_array(output, "answer"),
        numpy_helper.from_array(scale, "fixed"),
        numpy_helper.from_array(np.array(255, np.float32), "white"),
    ]
    nodes = [
        helper.make_node("Slice", ["images", "start", "end", "axes"], ["pixel"]),
        helper.make_node("Reshape", ["pixel", "flat"], ["one"]),
        helper.make_node("Div", ["one", "white"], ["blue"]),
        helper.make_node("Max", ["blue", "fixed"], ["scale"]),
        helper.make_node("Mul", ["answer", "scale"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "yolox",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, cells, columns))],
        [*constants, *ends],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def blue_picture(height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = 255
    return image


def test_yolox_decodes_cells_of_every_stride(tmp_path: Path) -> None:
    # Cells: 8 rows of 12 at stride 8, then 4 rows of 6 at stride 16, then 2 rows of 3.
    rows = {
        1 * 12 + 2: [0.5, 0.5, np.log(2.0), np.log(3.0), 0.9, 1.0],
        96 + 2 * 6 + 4: [0.0, 0.25, 0.0, np.log(1.5), 0.8, 1.0],
    }
    detector = load_detector(yolox_file(tmp_path / "made.onnx", rows))
    # The picture is twice the model's height, so boxes come back twice as large.
    (boxes,) = detector([blue_picture(128, 160)])
    assert detector.name == "made.onnx"
    assert boxes.scores.tolist() == pytest.approx([0.9, 0.8])
    assert boxes.boxes[0].tolist() == pytest.approx([2 * v for v in (12, 0, 28, 24)])
    assert boxes.boxes[1].tolist() == pytest.approx([2 * v for v in (56, 24, 72, 48)])


def test_yolox_takes_decoded_boxes_as_they_are(tmp_path: Path) -> None:
    rows = {50: [40.0, 30.0, 20.0, 40.0, 0.9, 0.5]}
    detector = load_detector(str(yolox_file(tmp_path / "made.onnx", rows, decoded=True)))
    (boxes,) = detector([blue_picture(*SIZE)])
    assert boxes.boxes.tolist() == [[30, 10, 50, 50]]
    assert boxes.scores.tolist() == pytest.approx([0.45])


def test_yolox_gets_blue_first_and_grey_padding(tmp_path: Path) -> None:
    detector = YOLOXDetector(yolox_file(tmp_path / "made.onnx"))
    seen: list[np.ndarray] = []
    run = detector._run
    detector._run = lambda padded: seen.append(padded) or run(padded)
    red, blue = np.zeros((2, 32, 96, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    detector([red])
    assert (seen[0][:32] == red).all(), "the picture is in the top left corner"
    assert (seen[0][32:] == 114).all()
    person = yolox_file(tmp_path / "person.onnx", {50: [0, 0, 1, 1, 0.9, 0.9]})
    assert [len(boxes) for boxes in YOLOXDetector(person)([red, blue])] == [0, 1]


@pytest.mark.parametrize(
    ("layout", "found"),
    [
        ({"columns": 5}, "output"),
        ({"cells": CELLS + 1}, "output"),
        ({"shape": (1, 3, "height", "width")}, "input"),
        ({"shape": (1, 3, 60, 96)}, "input"),
        ({"rows": {3: [0, 0, 0, 0, 7.0, 1.0]}}, "scores outside"),
        ({"rows": {3: [0, 0, np.nan, 0, 0.5, 1.0]}}, "scores outside|not finite"),
    ],
)
def test_an_onnx_of_another_layout_is_refused(
    tmp_path: Path, layout: dict[str, Any], found: str
) -> None:
    path = yolox_file(tmp_path / "made.onnx", **layout)
    with pytest.raises(
        CheckpointError, match=rf"made\.onnx: expected YOLOX.*found.*({found})"
    ) as error:
        load_detector(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 50])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "made.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"made\.onnx") as error:
        load_detector(path)
    assert "\n" not in str(error.value)


def test_a_missing_onnx_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such detector file"):
        load_detector(tmp_path / "none.onnx")


# --- transformers


def seeded(model_class: Any, config: Any) -> Any:
    """A model with random weights, the same each time."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config)


@pytest.fixture(scope="module")
def yolos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny YOLOS with random weights and the classes N/A and person."""
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
    # Of the classes of a box only the best counts, so let it be the person.
    model.class_labels_classifier.layers[-1].bias.data[1] = 9
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.YolosImageProcessorPil(size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rtdetr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RT-DETRv2 with random weights and the classes person and cat."""
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
    fixture: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    detector = load_detector(folder, score_threshold=0.0)
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
    """A copy of a good folder, to be spoiled."""
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
    with pytest.raises(CheckpointError, match="cannot be loaded as an object detector") as error:
        load_detector(spoiled)
    assert "\n" not in str(error.value)


def test_a_hub_id_without_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"nobody/nothing: .*without network") as error:
        load_detector("nobody/nothing")
    assert "\n" not in str(error.value)


# --- boxes from a file


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def frame(index: Any = 0, *boxes: Any) -> dict[str, Any]:
    return {"index": index, "boxes": list(boxes)}


def test_a_boxes_file_gives_its_boxes(tmp_path: Path) -> None:
    content = {
        "frames": [
            frame(
                7,
                {"box": [1, 2, 3.5, 4], "score": 0.5, "track_id": 3},
                {"box": [-5, 0, 9, 9], "track_id": 0},
            ),
            frame(2),
        ]
    }
    given_boxes = BoxesFile.load(write(tmp_path / "boxes.json", content))
    boxes = given_boxes.boxes_at(7)
    assert boxes.boxes.tolist() == [[1, 2, 3.5, 4], [-5, 0, 9, 9]]
    assert boxes.scores.tolist() == [0.5, 1.0]
    assert boxes.track_ids.tolist() == [3, 0]
    assert len(given_boxes.boxes_at(2)) == len(given_boxes.boxes_at(3)) == 0
    assert given_boxes.has_track_ids
    assert given_boxes.last_index == 7
    assert given_boxes.name == "boxes.json"


def test_a_boxes_file_may_leave_ids_out(tmp_path: Path) -> None:
    content = {"frames": [frame(0, {"box": [1, 2, 3, 4]})]}
    given_boxes = BoxesFile.load(write(tmp_path / "boxes.json", content))
    assert not given_boxes.has_track_ids
    assert given_boxes.boxes_at(0).track_ids.tolist() == [NO_TRACK]
    empty = BoxesFile.load(write(tmp_path / "empty.json", {"frames": []}))
    assert empty.last_index == -1


BOX = {"box": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"frames": [], "frames": []}', "key 'frames' stands twice"),
        ('{"frames": [{"index": 0, "boxes": [{"box": [0, 0, NaN, 1]}]}]}', "NaN is no number"),
        (
            '{"frames": [{"index": 0, "boxes": [{"box": [0, 0, 1e999, 1]}]}]}',
            r"boxes\[0\].box\[2\]",
        ),
        ('{"frames": [{"index": 0, "boxes": [{"box": [0, 0, 1e300, 1]}]}]}', "less than or equal"),
        ([], "top level"),
        ({}, "frames"),
        ({"frames": {}}, "frames: .*list"),
        ({"frames": [], "fps": 3}, "fps: .*not permitted"),
        ({"frames": [frame(-1)]}, r"frames\[0\]\.index"),
        ({"frames": [frame(1.5)]}, r"frames\[0\]\.index"),
        ({"frames": [frame(True)]}, r"frames\[0\]\.index"),
        ({"frames": [frame("1")]}, r"frames\[0\]\.index"),
        ({"frames": [frame(1), frame(2), frame(1)]}, "frame 1 is given twice"),
        ({"frames": [frame(0, {"box": [1, 2, 3]})]}, r"frames\[0\]\.boxes\[0\]\.box"),
        ({"frames": [frame(0, {"box": [1, 2, 3, "4"]})]}, r"boxes\[0\]\.box\[3\]"),
        ({"frames": [frame(0, BOX, {"box": [3, 2, 3, 4]})]}, r"boxes\[1\]: .*x1 < x2"),
        ({"frames": [frame(0, {"box": [1, 4, 3, 2]})]}, "y1 < y2"),
        ({"frames": [frame(0, BOX | {"score": 1.5})]}, r"boxes\[0\]\.score"),
        ({"frames": [frame(0, BOX | {"track_id": -1})]}, r"boxes\[0\]\.track_id"),
        ({"frames": [frame(0, BOX | {"track_id": 2**63})]}, r"boxes\[0\]\.track_id"),
        ({"frames": [frame(0, BOX | {"id": 1})]}, r"boxes\[0\]\.id: .*not permitted"),
        ({"frames": [frame(0, BOX | {"track_id": 4}, BOX | {"track_id": 4})]}, "track_id 4"),
        ({"frames": [frame(0, BOX | {"track_id": 4}), frame(1, BOX)]}, "all or none"),
    ],
)
def test_a_wrong_boxes_file_is_one_line_with_the_place(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = write(tmp_path / "boxes.json", content)
    with pytest.raises(UsageError, match=rf"^boxes file .*boxes\.json: .*{message}") as error:
        BoxesFile.load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_an_unreadable_boxes_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        BoxesFile.load(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be read"):
        BoxesFile.load(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"frames": "\xe9"}')
    with pytest.raises(UsageError, match="not valid JSON"):
        BoxesFile.load(tmp_path / "latin.json")
