"""The detector that comes with the package: SSDLite-MobileNetV2."""

import math
from collections.abc import Sequence
from functools import cache
from importlib import resources

import cv2
import numpy as np

from diffusionpose.boxes import clip_to_image, suppress_duplicates
from diffusionpose.detection.onnx import open_session
from diffusionpose.errors import CheckpointError
from diffusionpose.structures import Boxes

INPUT_SIZE = 300
GRIDS = (19, 10, 5, 3, 2, 1)
SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
CODE_SCALES = (10.0, 10.0, 5.0, 5.0)


def _anchor_shapes(layer: int) -> np.ndarray:
    """(height, width) of a layer's anchors, in fractions of the image: 3 in the first layer, else 6."""
    scale = SCALES[layer]
    if layer == 0:
        pairs = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
    else:
        between = math.sqrt(scale * SCALES[layer + 1])
        pairs = [*((scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)), (between, 1.0)]
    return np.array(
        [(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for scale, ratio in pairs]
    )


@cache
def _anchors() -> tuple[np.ndarray, np.ndarray]:
    """Anchors of the six layers, and for each anchor the index of its mirror image.

    Returns:
        anchors (1917, 4), centre y, centre x, height, width in fractions of the image; mirror (1917,).
    """
    anchors, mirror = [], []
    for layer, size in enumerate(GRIDS):
        shapes = _anchor_shapes(layer)
        steps = (np.arange(size) + 0.5) / size
        grid = np.empty((size, size, len(shapes), 4))
        grid[..., 0], grid[..., 1] = steps[:, None, None], steps[None, :, None]
        grid[..., 2:] = shapes
        numbers = np.arange(grid[..., 0].size).reshape(grid.shape[:3]) + sum(map(len, anchors))
        anchors.append(grid.reshape(-1, 4))
        mirror.append(numbers[:, ::-1].reshape(-1))
    return np.concatenate(anchors), np.concatenate(mirror)


def _decode(codes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Box codes (n, 4) against their anchors (n, 4) to xyxy in fractions of the image."""
    codes = codes / CODE_SCALES
    centres = codes[:, :2] * anchors[:, 2:] + anchors[:, :2]
    halves = np.exp(codes[:, 2:]) * anchors[:, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], 1)[:, [1, 0, 3, 2]]


def _shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Stretch to a square without aliasing: as good as area averaging, which takes 9 ms at 1080p."""
    doubled = cv2.resize(image, (2 * size, 2 * size), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(doubled, (size, size), interpolation=cv2.INTER_AREA)


class SSDLiteDetector:
    """The bundled SSDLite-MobileNetV2 (MIT): small and quick, weak on people under 64 pixels.

    The image is stretched to 300x300, as in training. With `flip`, the raw outputs for the image and
    its mirror image are averaged: better boxes, and steadier ones, for twice the time.
    """

    name = "ssdlite"

    def __init__(
        self, *, device: str = "cpu", score_threshold: float | None = None, flip: bool = True
    ) -> None:
        asset = resources.files("diffusionpose") / "assets" / "ssdlite_person.onnx"
        if not asset.is_file():
            raise CheckpointError("the bundled detector is missing: reinstall diffusionpose")
        self._session = open_session(asset.read_bytes(), "the bundled detector", device)
        self._input = self._session.get_inputs()[0].name
        self._flip = flip
        self._floor = 0.1 if score_threshold is None else score_threshold
        self.start_score = 0.3 if score_threshold is None else score_threshold

    def __call__(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> Boxes:
        codes, logits = self._outputs(image)
        scores = _sigmoid(logits[:, 1])
        found = np.flatnonzero(scores >= self._floor)
        height, width = image.shape[:2]
        boxes = _decode(codes[found], _anchors()[0][found])
        boxes = boxes * [width, height, width, height]
        return suppress_duplicates(clip_to_image(boxes, scores[found], image), max_iou=0.5)

    def _outputs(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Box codes (1917, 4), y, x, height, width, and logits (1917, 2), nobody and person."""
        pixels = _shrink(image, INPUT_SIZE)[None]
        if self._flip:
            pixels = np.concatenate([pixels, pixels[:, :, ::-1]])
        scaled = pixels.astype(np.float32)
        scaled *= 1 / 127.5
        scaled -= 1
        codes, logits = self._session.run(None, {self._input: scaled})
        if not self._flip:
            return codes[0, :, 0], logits[0]
        mirror = _anchors()[1]
        # In the mirror image the code of centre x points the other way.
        codes = (codes[0, :, 0] + codes[1, mirror, 0] * [1, -1, 1, 1]) / 2
        return codes, (logits[0] + logits[1, mirror]) / 2


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # tanh cannot overflow, exp(-logits) can.
    return 0.5 + 0.5 * np.tanh(0.5 * logits)
