"""Files of person detections, as used for evaluation by DCPose: one list for all frames."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusionpose.annotations import AnnotatedFrame
from diffusionpose.data.json_nodes import Node, read_json
from diffusionpose.data.posetrack_files import xywh_box
from diffusionpose.errors import DataError
from diffusionpose.paths import bare_name
from diffusionpose.structures import Boxes

PERSON = 1
"""`category_id` of people in COCO."""


@dataclass(frozen=True)
class Detections:
    """Detected people by frame.

    Args:
        by_image: Boxes by descending score, by image id or by `bare_name` of the image.
        num_weak: Number of detections dropped for their score.
        num_flat: Number dropped because their box has no area.
        num_others: Number dropped because their `category_id` is not a person's.
    """

    by_image: dict[int | str, Boxes]
    num_weak: int
    num_flat: int
    num_others: int

    def boxes_at(self, frame: AnnotatedFrame) -> Boxes:
        """Return the detections of a frame, looked up by id or file name; may be empty."""
        for key in (frame.frame_id, bare_name(frame.file_name)):
            if key is not None and key in self.by_image:
                return self.by_image[key]
        return Boxes.empty()

    def counted(self) -> dict[str, int]:
        """Return the numbers of detections kept, and dropped by reason."""
        return {
            "taken": len(self),
            "below the score": self.num_weak,
            "without an area": self.num_flat,
            "of other categories": self.num_others,
        }

    def __len__(self) -> int:
        return sum(map(len, self.by_image.values()))


def load_detections(path: Path, threshold: float = 0.2) -> Detections:
    """Load lists of `{"image_name" | "image_id", "bbox": [x, y, width, height], "score", ...}`.

    Args:
        path: The JSON file, or a folder of such files.
        threshold: Detections with a lower score are dropped; MMPose uses 0.4.

    Raises:
        DataError: If there is no file, or one cannot be read or is malformed; names the JSON path.
    """
    files = detection_files(path)
    found: dict[int | str, list[tuple[np.ndarray, float]]] = {}
    left_out = {"weak": 0, "flat": 0, "others": 0}
    for entry in (entry for file in files for entry in read_json(file).items()):
        image, box, score = _image_key(entry), xywh_box(entry.need("bbox")), entry.need("score")
        confidence = score.number()
        if image is None or box is None or confidence is None:
            entry.find("missing-key", "expected an image, a box and a score")
        elif entry.get("category_id").integer() not in (None, PERSON):
            left_out["others"] += 1
        elif confidence < threshold:
            left_out["weak"] += 1
        elif not (box[2:] > box[:2]).all():
            left_out["flat"] += 1
        else:
            found.setdefault(image, []).append((box, confidence))
    counts = {f"num_{reason}": number for reason, number in left_out.items()}
    return Detections({image: _best_first(boxes) for image, boxes in found.items()}, **counts)


def detection_files(path: Path) -> list[Path]:
    """Return the file itself, or the detection files of a folder.

    Raises:
        DataError: If the folder has none.
    """
    files = sorted(Path(path).glob("[!.]*.json")) if Path(path).is_dir() else [Path(path)]
    if not files:
        raise DataError(f"{path}: no detection files (*.json)")
    return files


def _image_key(entry: Node) -> int | str | None:
    name = entry.get("image_name")
    if name.is_there:
        text = name.text()
        return None if text is None else bare_name(text)
    image_id = entry.need("image_id")
    if isinstance(image_id.value, str):
        return bare_name(image_id.value)
    return image_id.integer()


def _best_first(boxes: list[tuple[np.ndarray, float]]) -> Boxes:
    boxes.sort(key=lambda pair: -pair[1])
    return Boxes(np.array([box for box, _ in boxes]), np.array([score for _, score in boxes]))
