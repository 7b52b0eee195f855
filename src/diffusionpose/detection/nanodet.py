"""The bundled detector, NanoDet-g."""

import math
from collections.abc import Sequence
from importlib import resources

import cv2
import numpy as np

from diffusionpose.boxes import clip_to_image, suppress_duplicates
from diffusionpose.detection.onnx import open_session
from diffusionpose.errors import CheckpointError
from diffusionpose.structures import Boxes

STRIDES = (8, 16, 32)
PIXELS = 288 * 288
"""Approximate area of the network's input in pixels; its sides are multiples of the largest
stride."""
MEAN = (103.53, 116.28, 123.675)
STD = (57.375, 57.12, 58.395)
"""Mean and standard deviation of the input in training, in BGR."""


def input_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the network's input: about `PIXELS`, near the image's aspect ratio."""
    cell = STRIDES[-1]
    factor = math.sqrt(PIXELS / (height * width))
    most = PIXELS // cell
    rows, columns = (
        min(max(cell, round(side * factor / cell) * cell), most // cell * cell)
        for side in (height, width)
    )
    return rows, columns


class NanoDetDetector:
    """The bundled NanoDet-g (Apache-2.0), trained on COCO, person class only.

    Args:
        device: torch device name.
        score_threshold: As in `load_detector`.

    Raises:
        CheckpointError: If the bundled file is missing or broken.
    """

    name = "nanodet"

    def __init__(self, *, device: str = "cpu", score_threshold: float | None = None) -> None:
        asset = resources.files("diffusionpose") / "assets" / "nanodet_person.onnx"
        if not asset.is_file():
            raise CheckpointError("the bundled detector is missing: reinstall diffusionpose")
        self._session = open_session(asset.read_bytes(), "the bundled detector", device)
        self._floor = 0.1 if score_threshold is None else score_threshold
        self.start_score = 0.4 if score_threshold is None else score_threshold

    def __call__(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> Boxes:
        size = input_size(*image.shape[:2])
        levels = self._session.run(None, {"image": _prepared(image, size)})
        boxes, scores = zip(
            *(
                _decode(level[0], stride, self._floor)
                for level, stride in zip(levels, STRIDES, strict=True)
            ),
            strict=True,
        )
        to_image = np.tile(np.divide(image.shape[1::-1], size[::-1]), 2)
        found = clip_to_image(np.concatenate(boxes) * to_image, np.concatenate(scores), image)
        return suppress_duplicates(found, max_iou=0.6)


def _prepared(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize and normalise an RGB image to the network's input: (1, 3, *size) float32, BGR."""
    shrinks = image.shape[0] > size[0] and image.shape[1] > size[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = cv2.resize(image, size[::-1], interpolation=how)[..., ::-1].astype(np.float32)
    scaled = (small - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def _decode(level: np.ndarray, stride: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Decode one level of the output to boxes (n, 4) in input pixels and scores (n,).

    Args:
        level: (1 + 4 * bins, rows, columns) logits of the person class, and of the distance to each
            side as a distribution over multiples of the stride (Generalized Focal Loss, Eq. 6).
        stride: Of the level.
        floor: Cells that score less are dropped.
    """
    columns = level.shape[2]
    cells = level.reshape(len(level), -1).T
    scores = _sigmoid(cells[:, 0])
    found = np.flatnonzero(scores >= floor)
    weights = cells[found, 1:].reshape(len(found), 4, (len(level) - 1) // 4)
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    bins = np.arange(weights.shape[-1])
    distances = stride * (weights @ bins) / weights.sum(-1)
    centres = (np.stack([found % columns, found // columns], -1) + 0.5) * stride
    boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], -1)
    return boxes, scores[found]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # tanh cannot overflow, exp(-logits) can.
    return 0.5 + 0.5 * np.tanh(0.5 * logits)
