"""Box operations: areas, IoU, validation, non-maximum suppression, clipping.

Boxes are xyxy in pixels of the displayed image.
"""

import numpy as np

from diffusionpose.errors import UsageError
from diffusionpose.structures import Boxes

MAX_CANDIDATES = 300
"""Number of top-scoring boxes that enter non-maximum suppression."""


def pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of xyxy boxes: (n, 4) and (m, 4) -> (n, m), in [0, 1]."""
    inter = pairwise_intersection(first, second)
    union = box_areas(first)[:, None] + box_areas(second) - inter
    return inter / np.maximum(union, 1e-9)


def pairwise_intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection areas of xyxy boxes in square pixels: (n, 4) and (m, 4) -> (n, m)."""
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.clip(bottom_right - top_left, 0, None).prod(-1)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of (n, 4) xyxy boxes in square pixels: (n,)."""
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1)


def check_boxes(boxes: Boxes, where: str) -> None:
    """Validate boxes that come from the user or from a user's detector.

    Args:
        boxes: The boxes.
        where: Prefix of the error message.

    Raises:
        UsageError: If a box has no area or is not finite, or a score is not in [0, 1].
    """
    has_area = (boxes.boxes[:, :2] < boxes.boxes[:, 2:]).all(1) & np.isfinite(boxes.boxes).all(1)
    if not has_area.all():
        wrong = boxes.boxes[~has_area][0].tolist()
        raise UsageError(f"{where}: box {wrong} is not [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
    is_score = (boxes.scores >= 0) & (boxes.scores <= 1)
    if not is_score.all():
        raise UsageError(f"{where}: score {boxes.scores[~is_score][0]:g} is not in [0, 1]")


def suppress_duplicates(boxes: Boxes, max_iou: float) -> Boxes:
    """Greedy non-maximum suppression.

    Args:
        boxes: The boxes.
        max_iou: Boxes that overlap a better one by more than this are dropped.

    Returns:
        The remaining boxes, best score first.
    """
    boxes = boxes[np.argsort(-boxes.scores, kind="stable")[:MAX_CANDIDATES]]
    overlaps = pairwise_iou(boxes.boxes, boxes.boxes) > max_iou
    keep = np.ones(len(boxes), bool)
    for index in range(len(boxes)):
        if keep[index]:
            keep[index + 1 :] &= ~overlaps[index, index + 1 :]
    return boxes[keep]


def clip_to_image(boxes: np.ndarray, scores: np.ndarray, image: np.ndarray) -> Boxes:
    """Clip (n, 4) boxes to the image and scores to [0, 1]; drop boxes without area inside it."""
    height, width = image.shape[:2]
    boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(-1)
    return Boxes(boxes[inside], np.clip(scores[inside], 0, 1))
