"""YOLOX, with synthetic models of its layout and of others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusionpose.detection import YOLOXDetector, load_detector
from diffusionpose.errors import CheckpointError
from tests.detection.helpers import YOLOX_CELLS, YOLOX_SIZE, yolox_file


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
    # The image is twice as tall as the model's input, so boxes become twice as large.
    (boxes,) = detector([blue_picture(128, 160)])
    assert detector.name == "made.onnx"
    assert boxes.scores.tolist() == pytest.approx([0.9, 0.8])
    assert boxes.boxes[0].tolist() == pytest.approx([2 * v for v in (12, 0, 28, 24)])
    assert boxes.boxes[1].tolist() == pytest.approx([2 * v for v in (56, 24, 72, 48)])


def test_yolox_takes_decoded_boxes_as_they_are(tmp_path: Path) -> None:
    rows = {50: [40.0, 30.0, 20.0, 40.0, 0.9, 0.5]}
    detector = load_detector(str(yolox_file(tmp_path / "made.onnx", rows, decoded=True)))
    (boxes,) = detector([blue_picture(*YOLOX_SIZE)])
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
        ({"cells": YOLOX_CELLS + 1}, "output"),
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
