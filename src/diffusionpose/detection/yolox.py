"""YOLOX detectors from users' ONNX files."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from diffusionpose.boxes import clip_to_image, suppress_duplicates
from diffusionpose.detection.onnx import open_session
from diffusionpose.errors import CheckpointError, first_line
from diffusionpose.structures import Boxes

STRIDES = (8, 16, 32)
PADDING = 114
LAYOUT = (
    "expected YOLOX: one input (1, 3, height, width) of fixed size, one output "
    "(1, boxes at strides 8, 16 and 32, 5 + classes)"
)


class YOLOXDetector:
    """A YOLOX model in ONNX as exported by its authors; class 0 is the person, as in COCO.

    Args:
        path: The ONNX file.
        device: torch device name.
        score_threshold: As in `load_detector`.

    Raises:
        CheckpointError: If the file is missing, is not ONNX, or has another layout.
    """

    def __init__(
        self, path: Path, *, device: str = "cpu", score_threshold: float | None = None
    ) -> None:
        if not path.is_file():
            raise CheckpointError(f"no such detector file: {path}")
        self.name = path.name
        self._session = open_session(str(path), str(path), device)
        self._size, self._input = self._read_layout()
        self._floor = 0.1 if score_threshold is None else score_threshold
        self.start_score = 0.4 if score_threshold is None else score_threshold
        self._grid = _cell_grid(self._size)
        self._is_decoded = self._probe()

    def __call__(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        return [self._detect(image) for image in images]

    def _refusal(self, found: str) -> CheckpointError:
        return CheckpointError(f"{self.name}: {LAYOUT}; found {found}")

    def _read_layout(self) -> tuple[tuple[int, int], str]:
        """Validate the model's signature; return (height, width) and name of its input."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise self._refusal(f"{len(inputs)} inputs and {len(outputs)} outputs")
        shape = inputs[0].shape
        sizes = shape[2:] if len(shape) == 4 and shape[1] == 3 else []
        if not sizes or inputs[0].type != "tensor(float)":
            raise self._refusal(f"input {shape} of {inputs[0].type}")
        if any(not isinstance(size, int) or size <= 0 or size % 32 for size in sizes):
            raise self._refusal(f"input {shape}")
        return (sizes[0], sizes[1]), inputs[0].name

    def _probe(self) -> bool:
        """Validate the output on a grey image; return whether boxes are already in pixels.

        Raw centres are offsets of a few cells around 0; decoded ones spread over the image.
        """
        grey = np.full((*self._size, 3), PADDING, np.uint8)
        try:
            output = self._run(grey)
        except Exception as error:  # onnxruntime's errors share no base
            raise self._refusal(f"a model that cannot be run ({first_line(error)})") from error
        columns = output.shape[2] if output.ndim == 3 else 0
        if output.shape[:2] != (1, len(self._grid)) or columns < 6:
            raise self._refusal(f"output {list(output.shape)}")
        if not np.isfinite(output).all() or output[..., 4:].min() < 0 or output[..., 4:].max() > 1:
            raise self._refusal("scores outside [0, 1]")
        return bool(np.median(output[0, :, 0]) > self._size[1] / 8)

    def _run(self, padded: np.ndarray) -> np.ndarray:
        """Run a (height, width, 3) RGB image of the model's input size: (1, boxes, 5 + classes)."""
        pixels = padded[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
        return self._session.run(None, {self._input: np.ascontiguousarray(pixels)})[0]

    def _detect(self, image: np.ndarray) -> Boxes:
        scale = min(self._size[0] / image.shape[0], self._size[1] / image.shape[1])
        height, width = (max(1, round(length * scale)) for length in image.shape[:2])
        padded = np.full((*self._size, 3), PADDING, np.uint8)
        padded[:height, :width] = cv2.resize(image, (width, height))
        output = self._run(padded)[0]
        scores = output[:, 4] * output[:, 5]
        found = np.flatnonzero(scores >= self._floor)
        boxes = self._decode(output[found, :4], self._grid[found]) / scale
        return suppress_duplicates(clip_to_image(boxes, scores[found], image), max_iou=0.6)

    def _decode(self, raw: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Decode boxes (n, 4) and grid cells (n, 3) to xyxy in pixels of the padded image."""
        centres, sizes = raw[:, :2], raw[:, 2:]
        if not self._is_decoded:
            centres = (centres + grid[:, :2]) * grid[:, 2:]
            sizes = np.exp(np.minimum(sizes, 20)) * grid[:, 2:]
        return np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)


def _cell_grid(size: tuple[int, int]) -> np.ndarray:
    """Column, row and stride in pixels of all grid cells, in YOLOX's order: (cells, 3)."""
    levels = []
    for stride in STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells = np.stack([columns, rows, np.full_like(rows, stride)], -1)
        levels.append(cells.reshape(-1, 3))
    return np.concatenate(levels).astype(np.float32)
