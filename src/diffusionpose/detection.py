"""Person boxes: three kinds of detector, and a file of boxes that the user gives instead.

Every detector takes RGB images and returns xyxy boxes in pixels of the image, clipped to it.
A detector returns weak boxes too: they do not make a person, but the tracker prolongs with them a
person who is known already. `start_score` tells the two apart.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffusionpose.errors import CheckpointError, UsageError
from diffusionpose.structures import NO_TRACK, Boxes

MAX_CANDIDATES = 300
"""Boxes that survive to the suppression of duplicates; a frame with more people is not ours."""


class PersonDetector(Protocol):
    """Finds people in images.

    Attributes:
        name: Goes into the settings that a result records.
        start_score: From this score on a box counts as a person by itself.
    """

    name: str
    start_score: float

    def __call__(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        """Boxes of every (height, width, 3) uint8 RGB image, best score first."""
        ...


def load_detector(
    name: str | os.PathLike[str] | None,
    *,
    device: str = "cpu",
    score_threshold: float | None = None,
) -> PersonDetector:
    """The detector of that name.

    Args:
        name: None or `ssdlite` for the one that comes with the package; a YOLOX file ending in
            `.onnx`; or a folder or Hugging Face id of a transformers object detector. Only an id
            that is not a local folder may cause a download.
        device: Torch's name of a device. ONNX models run on the CPU unless onnxruntime has CUDA.
        score_threshold: Least score of a box, in [0, 1]. None takes the detector's own
            `start_score`, and returns weaker boxes besides, for the tracker.

    Raises:
        UsageError: When the name means nothing or the threshold is out of range.
        CheckpointError: When the weights are missing, broken or of another layout.
    """
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise UsageError(f"the detector's score threshold must be in [0, 1], not {score_threshold}")
    if name is None or name == "ssdlite":
        return SSDLiteDetector(device=device, score_threshold=score_threshold)
    path = Path(name or "-").expanduser()  # Path("") would be the current folder
    if path.suffix.lower() == ".onnx":
        return YOLOXDetector(path, device=device, score_threshold=score_threshold)
    is_id = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None
    if path.is_dir() or is_id:
        return TransformersDetector(str(name), device=device, score_threshold=score_threshold)
    raise UsageError(
        f"no such detector: {str(name)!r}; give 'ssdlite', a YOLOX .onnx file, or a folder or "
        "Hugging Face id (owner/name) of an object detector"
    )


def pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of xyxy boxes: (n, 4) and (m, 4) to (n, m), in [0, 1]."""
    inter = pairwise_intersection(first, second)
    union = box_areas(first)[:, None] + box_areas(second) - inter
    return inter / np.maximum(union, 1e-9)


def pairwise_intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Area in square pixels that each of (n, 4) shares with each of (m, 4) boxes: (n, m)."""
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.clip(bottom_right - top_left, 0, None).prod(-1)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of (n, 4) xyxy boxes in square pixels."""
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1)


def suppress_duplicates(boxes: Boxes, max_iou: float) -> Boxes:
    """Greedy non-maximum suppression: best score first, none overlaps a better one by more."""
    boxes = boxes[np.argsort(-boxes.scores, kind="stable")[:MAX_CANDIDATES]]
    overlaps = pairwise_iou(boxes.boxes, boxes.boxes) > max_iou
    keep = np.ones(len(boxes), bool)
    for index in range(len(boxes)):
        if keep[index]:
            keep[index + 1 :] &= ~overlaps[index, index + 1 :]
    return boxes[keep]


def _clipped(boxes: np.ndarray, scores: np.ndarray, image: np.ndarray) -> Boxes:
    """Boxes inside the image; what has no area left there is dropped."""
    height, width = image.shape[:2]
    boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(-1)
    return Boxes(boxes[inside], np.clip(scores[inside], 0, 1))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # tanh cannot overflow, exp(-logits) can.
    return 0.5 + 0.5 * np.tanh(0.5 * logits)


def _onnx_session(model: str | bytes, name: str, device: str) -> Any:
    """An onnxruntime session; `CheckpointError` when the bytes are no ONNX model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(len(os.sched_getaffinity(0)), 4)
    # Spinning threads would starve torch, which works on the same cores in between.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    on_gpu = device.startswith("cuda") and "CUDAExecutionProvider" in ort.get_available_providers()
    providers = [*(["CUDAExecutionProvider"] if on_gpu else []), "CPUExecutionProvider"]
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base
        raise CheckpointError(
            f"{name}: not a readable ONNX model ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200]


# --- SSDLite-MobileNetV2, the bundled one ---------------------------------------------------------

SSD_INPUT = 300
SSD_GRIDS = (19, 10, 5, 3, 2, 1)
SSD_SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
SSD_CODE_SCALES = (10.0, 10.0, 5.0, 5.0)


def _ssd_shapes(layer: int) -> np.ndarray:
    """(height, width) of a layer's anchors, in fractions of the image: 3 in the first layer, else 6."""
    scale = SSD_SCALES[layer]
    if layer == 0:
        pairs = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
    else:
        between = math.sqrt(scale * SSD_SCALES[layer + 1])
        pairs = [*((scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)), (between, 1.0)]
    return np.array(
        [(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for scale, ratio in pairs]
    )


@cache
def _ssd_anchors() -> tuple[np.ndarray, np.ndarray]:
    """Anchors of the six layers, and for each anchor the index of its mirror image.

    Returns:
        anchors (1917, 4), centre y, centre x, height, width in fractions of the image; mirror (1917,).
    """
    anchors, mirror = [], []
    for layer, size in enumerate(SSD_GRIDS):
        shapes = _ssd_shapes(layer)
        steps = (np.arange(size) + 0.5) / size
        grid = np.empty((size, size, len(shapes), 4))
        grid[..., 0], grid[..., 1] = steps[:, None, None], steps[None, :, None]
        grid[..., 2:] = shapes
        numbers = np.arange(grid[..., 0].size).reshape(grid.shape[:3]) + sum(map(len, anchors))
        anchors.append(grid.reshape(-1, 4))
        mirror.append(numbers[:, ::-1].reshape(-1))
    return np.concatenate(anchors), np.concatenate(mirror)


def _ssd_decode(codes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Box codes (n, 4) against their anchors (n, 4) to xyxy in fractions of the image."""
    codes = codes / SSD_CODE_SCALES
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
        self._session = _onnx_session(asset.read_bytes(), "the bundled detector", device)
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
        boxes = _ssd_decode(codes[found], _ssd_anchors()[0][found])
        boxes = boxes * [width, height, width, height]
        return suppress_duplicates(_clipped(boxes, scores[found], image), max_iou=0.5)

    def _outputs(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Box codes (1917, 4), y, x, height, width, and logits (1917, 2), nobody and person."""
        pixels = _shrink(image, SSD_INPUT)[None]
        if self._flip:
            pixels = np.concatenate([pixels, pixels[:, :, ::-1]])
        scaled = pixels.astype(np.float32)
        scaled *= 1 / 127.5
        scaled -= 1
        codes, logits = self._session.run(None, {self._input: scaled})
        if not self._flip:
            return codes[0, :, 0], logits[0]
        mirror = _ssd_anchors()[1]
        # In the mirror image the code of centre x points the other way.
        codes = (codes[0, :, 0] + codes[1, mirror, 0] * [1, -1, 1, 1]) / 2
        return codes, (logits[0] + logits[1, mirror]) / 2


# --- YOLOX ----------------------------------------------------------------------------------------

YOLOX_STRIDES = (8, 16, 32)
YOLOX_PADDING = 114
YOLOX_LAYOUT = (
    "expected YOLOX: one input (1, 3, height, width) of fixed size, one output "
    "(1, boxes at strides 8, 16 and 32, 5 + classes)"
)


class YOLOXDetector:
    """A YOLOX model in ONNX, as its authors export it; class 0 is the person, as in COCO.

    Raises:
        CheckpointError: When the file is missing, not ONNX, or not of that layout.
    """

    def __init__(
        self, path: Path, *, device: str = "cpu", score_threshold: float | None = None
    ) -> None:
        if not path.is_file():
            raise CheckpointError(f"no such detector file: {path}")
        self.name = path.name
        self._session = _onnx_session(str(path), str(path), device)
        self._size, self._input = self._read_layout()
        self._floor = 0.1 if score_threshold is None else score_threshold
        self.start_score = 0.4 if score_threshold is None else score_threshold
        self._grid = _yolox_grid(self._size)
        self._is_decoded = self._probe()

    def __call__(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        return [self._detect(image) for image in images]

    def _refusal(self, found: str) -> CheckpointError:
        return CheckpointError(f"{self.name}: {YOLOX_LAYOUT}; found {found}")

    def _read_layout(self) -> tuple[tuple[int, int], str]:
        """(height, width) and name of the input."""
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
        """Whether boxes come out as pixels already, found by running a grey image.

        Undecoded centres are offsets of a few cells around 0; decoded ones spread over the image.
        """
        grey = np.full((*self._size, 3), YOLOX_PADDING, np.uint8)
        try:
            output = self._run(grey)
        except Exception as error:  # onnxruntime's errors share no base
            raise self._refusal(f"that it does not run ({_first_line(error)})") from error
        columns = output.shape[2] if output.ndim == 3 else 0
        if output.shape[:2] != (1, len(self._grid)) or columns < 6:
            raise self._refusal(f"output {list(output.shape)}")
        if not np.isfinite(output).all() or output[..., 4:].min() < 0 or output[..., 4:].max() > 1:
            raise self._refusal("scores outside [0, 1]")
        return bool(np.median(output[0, :, 0]) > self._size[1] / 8)

    def _run(self, padded: np.ndarray) -> np.ndarray:
        """(1, boxes, 5 + classes) for a (height, width, 3) RGB image of the model's size."""
        pixels = padded[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
        return self._session.run(None, {self._input: np.ascontiguousarray(pixels)})[0]

    def _detect(self, image: np.ndarray) -> Boxes:
        scale = min(self._size[0] / image.shape[0], self._size[1] / image.shape[1])
        height, width = (max(1, round(length * scale)) for length in image.shape[:2])
        padded = np.full((*self._size, 3), YOLOX_PADDING, np.uint8)
        padded[:height, :width] = cv2.resize(image, (width, height))
        output = self._run(padded)[0]
        scores = output[:, 4] * output[:, 5]
        found = np.flatnonzero(scores >= self._floor)
        boxes = self._decode(output[found, :4], self._grid[found]) / scale
        return suppress_duplicates(_clipped(boxes, scores[found], image), max_iou=0.6)

    def _decode(self, raw: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Raw boxes (n, 4) and their cells (n, 3) to xyxy in pixels of the padded image."""
        centres, sizes = raw[:, :2], raw[:, 2:]
        if not self._is_decoded:
            centres = (centres + grid[:, :2]) * grid[:, 2:]
            sizes = np.exp(np.minimum(sizes, 20)) * grid[:, 2:]
        return np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)


def _yolox_grid(size: tuple[int, int]) -> np.ndarray:
    """(cells, 3): column, row and stride in pixels of every cell, in YOLOX's order."""
    levels = []
    for stride in YOLOX_STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells = np.stack([columns, rows, np.full_like(rows, stride)], -1)
        levels.append(cells.reshape(-1, 3))
    return np.concatenate(levels).astype(np.float32)


# --- transformers ---------------------------------------------------------------------------------


class TransformersDetector:
    """An object detector of transformers (D-FINE, RT-DETRv2, YOLOS, ...) with a class `person`.

    Pictures are prepared by the PIL variant of the model's own processor: the other one needs
    torchvision. Weights are read from safetensors only, never unpickled.

    Raises:
        CheckpointError: When the model cannot be had, is no object detector, or knows no person.
    """

    def __init__(
        self, name: str, *, device: str = "cpu", score_threshold: float | None = None
    ) -> None:
        self.name = Path(name).expanduser().name if Path(name).expanduser().is_dir() else name
        self._processor, self._model = _load_transformers(name)
        self._model = self._model.to(device).eval()
        self._device = device
        self._person = self._person_label()
        self._floor = 0.15 if score_threshold is None else score_threshold
        self.start_score = 0.5 if score_threshold is None else score_threshold

    def __call__(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        # Pictures of one size go together; mixed ones would be padded, which changes the boxes.
        if len({image.shape for image in images}) > 1:
            return [self._detect([image])[0] for image in images]
        return self._detect(images) if len(images) else []

    def _person_label(self) -> int:
        labels = self._model.config.id2label
        for index, label in labels.items():
            if str(label).casefold() == "person":
                return int(index)
        some = ", ".join(map(str, list(labels.values())[:5]))
        raise CheckpointError(f"{self.name}: none of its classes is 'person' (it has {some}, ...)")

    def _detect(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        import torch

        inputs = self._processor(
            list(images), return_tensors="pt", input_data_format="channels_last"
        )
        with torch.inference_mode():
            outputs = self._model(pixel_values=inputs["pixel_values"].to(self._device))
        results = self._processor.post_process_object_detection(
            outputs, threshold=self._floor, target_sizes=[image.shape[:2] for image in images]
        )
        return [self._people(result, image) for result, image in zip(results, images, strict=True)]

    def _people(self, result: dict[str, Any], image: np.ndarray) -> Boxes:
        is_person = (result["labels"] == self._person).cpu().numpy()
        boxes, scores = (result[key].float().cpu().numpy() for key in ("boxes", "scores"))
        people = _clipped(boxes[is_person], scores[is_person], image)
        return suppress_duplicates(people, max_iou=0.7)


def _load_transformers(name: str) -> tuple[Any, Any]:
    """Processor and model; a local folder is read without looking at the network."""
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder = Path(name).expanduser()
    is_local = folder.is_dir()
    source = str(folder) if is_local else name
    try:
        processor = AutoImageProcessor.from_pretrained(
            source, backend="pil", local_files_only=is_local
        )
        model, report = AutoModelForObjectDetection.from_pretrained(
            source, use_safetensors=True, local_files_only=is_local, output_loading_info=True
        )
    except Exception as error:  # the hub, safetensors, ...: no common base
        hint = "" if is_local else "; without network, give a local folder"
        raise CheckpointError(
            f"{name}: cannot be loaded as an object detector of transformers, which needs "
            f"config.json, preprocessor_config.json and model.safetensors{hint} "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error
    lost = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])})
    if lost:
        # transformers would fill them with random numbers and only warn.
        raise CheckpointError(f"{name}: {len(lost)} weights are missing or misfit, first {lost[0]}")
    return processor, model


# --- boxes from a file ----------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _GivenBox(_Strict):
    box: Annotated[
        list[Annotated[float, Field(ge=-1e6, le=1e6)]], Field(min_length=4, max_length=4)
    ]
    score: Annotated[float, Field(ge=0, le=1)] = 1.0
    track_id: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    @model_validator(mode="after")
    def _has_area(self) -> "_GivenBox":
        # As float32, in which they are kept: two doubles may round to the same number.
        x1, y1, x2, y2 = np.asarray(self.box, np.float32)
        if not (x1 < x2 and y1 < y2):
            raise ValueError("a box is [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
        return self


class _GivenFrame(_Strict):
    index: Annotated[int, Field(ge=0)]
    boxes: list[_GivenBox]

    @model_validator(mode="after")
    def _ids_are_distinct(self) -> "_GivenFrame":
        ids = [box.track_id for box in self.boxes if box.track_id is not None]
        repeated = [number for number in ids if ids.count(number) > 1]
        if repeated:
            raise ValueError(f"track_id {repeated[0]} is given to two boxes of this frame")
        return self


class _GivenFile(_Strict):
    frames: list[_GivenFrame]

    @model_validator(mode="after")
    def _frames_agree(self) -> "_GivenFile":
        seen: set[int] = set()
        for frame in self.frames:
            if frame.index in seen:
                raise ValueError(f"frame {frame.index} is given twice; put its boxes together")
            seen.add(frame.index)
        if len({box.track_id is None for frame in self.frames for box in frame.boxes}) > 1:
            raise ValueError("some boxes have a track_id and some have none; give all or none")
        return self


class BoxesFile:
    """Person boxes by frame that the user gives instead of a detector.

    The file: `{"frames": [{"index": 0, "boxes": [{"box": [x1, y1, x2, y2], "score": 1.0,
    "track_id": 3}]}]}` in pixels of the displayed image; `score` and `track_id` may be left out,
    `track_id` of all boxes or of none. A frame that is not in the file has no people.
    """

    def __init__(self, frames: dict[int, Boxes], name: str = "boxes") -> None:
        self._frames = frames
        self.name = name

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "BoxesFile":
        """Read and check a file.

        Raises:
            UsageError: With the place of the first fault and what to do.
        """
        given = _parse_boxes(Path(path))
        return cls({frame.index: _as_boxes(frame) for frame in given.frames}, Path(path).name)

    @property
    def has_track_ids(self) -> bool:
        """Whether the file names the people itself."""
        return any((boxes.track_ids != NO_TRACK).any() for boxes in self._frames.values())

    @property
    def last_index(self) -> int:
        """The highest frame index in the file, -1 when it has none."""
        return max(self._frames, default=-1)

    def boxes_at(self, index: int) -> Boxes:
        """The boxes of the frame with that index, empty where the file says nothing."""
        return self._frames.get(index, Boxes.empty())


def _as_boxes(frame: _GivenFrame) -> Boxes:
    ids = [NO_TRACK if given.track_id is None else given.track_id for given in frame.boxes]
    coordinates = np.array([given.box for given in frame.boxes])
    return Boxes(coordinates, np.array([given.score for given in frame.boxes]), np.array(ids))


def _parse_boxes(path: Path) -> _GivenFile:
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except OSError as error:
        raise UsageError(f"boxes file {path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"boxes file {path}: not valid JSON ({_first_line(error)})") from error
    try:
        return _GivenFile.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"boxes file {path}: {_json_path(first['loc'])}: {message}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What `json` makes of an object, which silently keeps the last of two equal keys."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _json_path(place: tuple[str | int, ...]) -> str:
    """`frames[0].boxes[2].box` of pydantic's ('frames', 0, 'boxes', 2, 'box')."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).lstrip(".") or "top level"
