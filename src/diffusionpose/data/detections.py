"""Person boxes of a detector over a data set, as the DCPose family ships them, by frame.

A list of `{image_name | image_id, bbox: [x, y, width, height], score, category_id}`, in one file or a folder of files.
"""

from pathlib import Path, PurePosixPath

import numpy as np

from diffusionpose.annotations import AnnotatedFrame
from diffusionpose.data.json_nodes import Node, read_json
from diffusionpose.data.posetrack_files import xywh_box
from diffusionpose.errors import DataError
from diffusionpose.structures import Boxes

PERSON = 1


class Detections:
    """Boxes by frame.

    Args:
        name: Of the file or folder, for results.
        boxes: By `image_id`, or by the last two parts of `image_name`: folder and file.
    """

    def __init__(self, name: str, boxes: dict[int | str, Boxes]) -> None:
        self.name, self._boxes = name, boxes

    @classmethod
    def load(cls, path: Path, min_score: float = 0.0) -> "Detections":
        """A file, or all `*.json` of a folder.

        Args:
            path: The file or folder.
            min_score: Boxes that score less are dropped.

        Raises:
            DataError: If there is nothing to read, or it is not in this form.
        """
        path = Path(path)
        files = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path}: no detection files (*.json)")
        found: dict[int | str, list[tuple[np.ndarray, float]]] = {}
        for file in files:
            content = read_json(file)
            if not isinstance(content.value, list):
                content.find(
                    "wrong-type", "a list of detections expected: [{image_name, bbox, score}, ...]"
                )
            for node in content.items():
                key, box, score = _detection(node)
                if score >= min_score and node.get("category_id").integer() in (None, PERSON):
                    found.setdefault(key, []).append((box, score))
        return cls(
            path.name,
            {
                key: Boxes(np.array([box for box, _ in rows]), np.array([s for _, s in rows]))
                for key, rows in found.items()
            },
        )

    def boxes_at(self, frame: AnnotatedFrame) -> Boxes:
        """The boxes of a frame, by its id or else by its name; none where there are none."""
        by_id = self._boxes.get(frame.frame_id) if frame.frame_id is not None else None
        return by_id or self._boxes.get(_short(frame.file_name)) or Boxes.empty()


def _detection(node: Node) -> tuple[int | str, np.ndarray, float]:
    name, number = node.get("image_name").text(), node.get("image_id").integer()
    if name is None and number is None:
        node.find("missing-key", "image_name or image_id expected")
    box, score = xywh_box(node.need("bbox")), node.need("score").number()
    if box is None or not (box[2:] > box[:2]).all():
        node.get("bbox").find("bad-box", "x, y, width, height expected, with an area")
    key = number if name is None else _short(name)
    assert key is not None
    assert box is not None
    assert score is not None
    return key, box, score


def _short(name: str) -> str:
    """Folder and file: what stands before differs from tool to tool."""
    return "/".join(PurePosixPath(name).parts[-2:])
