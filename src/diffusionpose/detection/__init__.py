"""Person boxes: three kinds of detector, and a file of boxes that the user gives instead.

Every detector takes RGB images and returns xyxy boxes in pixels of the image, clipped to it.
A detector returns weak boxes too: they do not make a person by themselves, but the tracker prolongs
with them a person who is known already, and has the better ones judged by their poses. `start_score`
tells weak from strong.
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
    """The detector of that name.

    Args:
        name: None or `nanodet` for the one that comes with the package; a YOLOX file ending in
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
    if name is None or name == "nanodet":
        return NanoDetDetector(device=device, score_threshold=score_threshold)
    path = Path(name or "-").expanduser()  # Path("") would be the current folder
    if path.suffix.lower() == ".onnx":
        return YOLOXDetector(path, device=device, score_threshold=score_threshold)
    is_id = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None
    if path.is_dir() or is_id:
        return TransformersDetector(str(name), device=device, score_threshold=score_threshold)
    raise UsageError(
        f"no such detector: {str(name)!r}; give 'nanodet', a YOLOX .onnx file, or a folder or "
        "Hugging Face id (owner/name) of an object detector"
    )
