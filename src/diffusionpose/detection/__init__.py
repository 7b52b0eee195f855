"""Person boxes: three kinds of detectors, and boxes from a user's file instead.

Detectors take RGB images and return xyxy boxes in pixels, clipped to the image. Besides confident
boxes they return weak ones, which score less than `start_score`: these do not start a track by
themselves, but the tracker uses them to extend existing tracks, and has the better ones verified by
their poses.
"""

import os
import re
from pathlib import Path

from diffusionpose.detection.boxes_file import BoxesFile
from diffusionpose.detection.contract import PersonDetector, check_detector, detect_people
from diffusionpose.detection.huggingface import TransformersDetector
from diffusionpose.detection.nanodet import NanoDetDetector
from diffusionpose.detection.yolox import YOLOXDetector
from diffusionpose.errors import UsageError

__all__ = [
    "BoxesFile",
    "NanoDetDetector",
    "PersonDetector",
    "TransformersDetector",
    "YOLOXDetector",
    "check_detector",
    "detect_people",
    "load_detector",
]


def load_detector(
    name: str | os.PathLike[str] | None,
    *,
    device: str = "cpu",
    score_threshold: float | None = None,
) -> PersonDetector:
    """Load a detector by name.

    Args:
        name: None or `nanodet` for the bundled detector; a YOLOX file ending in `.onnx`; or a
            folder or Hugging Face id of a transformers object detector. Only an id that is not a
            local folder may cause a download.
        device: torch device name. ONNX models run on the CPU unless onnxruntime supports CUDA.
        score_threshold: Minimum score of boxes, in [0, 1]. None uses the detector's own
            `start_score`, and also returns weaker boxes for the tracker.

    Raises:
        UsageError: If the name is unknown, or the threshold is out of range.
        CheckpointError: If the weights are missing, broken, or of another layout.
    """
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise UsageError(f"score_threshold must be in [0, 1], not {score_threshold}")
    if name is None or name == "nanodet":
        return NanoDetDetector(device=device, score_threshold=score_threshold)
    path = Path(name or "-").expanduser()  # Path("") would be the current folder
    if path.suffix.lower() == ".onnx":
        return YOLOXDetector(path, device=device, score_threshold=score_threshold)
    is_id = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None
    if path.is_dir() or is_id:
        return TransformersDetector(str(name), device=device, score_threshold=score_threshold)
    raise UsageError(
        f"unknown detector {str(name)!r}; give 'nanodet', a YOLOX .onnx file, or a folder or "
        "Hugging Face id (owner/name) of an object detector"
    )
