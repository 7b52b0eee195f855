"""Synthetic images and models, and properties of the boxes of any detector."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from diffusionpose.detection import yolox
from diffusionpose.structures import Boxes

YOLOX_SIZE = (64, 96)
YOLOX_CELLS = sum((YOLOX_SIZE[0] // stride) * (YOLOX_SIZE[1] // stride) for stride in (8, 16, 32))


def picture(height: int = 90, width: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def assert_inside(boxes: Boxes, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    assert (boxes.boxes >= 0).all()
    assert (boxes.boxes <= [width, height, width, height]).all()
    assert (boxes.boxes[:, 2:] > boxes.boxes[:, :2]).all()
    assert ((boxes.scores >= 0) & (boxes.scores <= 1)).all()
    assert (np.diff(boxes.scores) <= 0).all()


def draw_person(height: int, width: int, x: int, feet: int, size: int) -> np.ndarray:
    """Draw a simple figure, `size` pixels tall, in front of a bright wall and a floor."""
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


def yolox_file(
    path: Path,
    rows: dict[int, list[float]] | None = None,
    *,
    decoded: bool = False,
    columns: int = 85,
    cells: int = YOLOX_CELLS,
    shape: tuple[Any, ...] = (1, 3, *YOLOX_SIZE),
) -> Path:
    """Write an ONNX file with YOLOX's layout that always outputs `rows`, by cell index.

    A row is x, y, w, h, object score, person score. The output is multiplied by the brightness of
    the first channel (blue) of the first pixel over 255, so that a test can see the channel order.
    """
    output = np.zeros((1, cells, columns), np.float32)
    if decoded:
        grid = yolox._cell_grid(YOLOX_SIZE)
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
