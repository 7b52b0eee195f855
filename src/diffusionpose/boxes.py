"""Arithmetic on boxes: overlaps, duplicates, and what lies in the image.

Boxes are xyxy in pixels of the displayed image.
"""

import numpy as np

from diffusionpose.structures import Boxes

MAX_CANDIDATES = 300
"""Boxes that survive to the suppression of duplicates; a frame with more people is not ours."""


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


def clip_to_image(boxes: np.ndarray, scores: np.ndarray, image: np.ndarray) -> Boxes:
    """Boxes inside the image; what has no area left there is dropped."""
    height, width = image.shape[:2]
    boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(-1)
    return Boxes(boxes[inside], np.clip(scores[inside], 0, 1))
