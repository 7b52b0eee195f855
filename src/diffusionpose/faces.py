"""Blurring of faces in images.

Only people who were detected are covered: if no face may be visible, review every frame before
sharing a video.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from diffusionpose.skeleton import Skeleton
from diffusionpose.structures import PersonPose

SURE = 0.2
"""Minimum score of head joints; without two of them, the upper part of the box is covered."""
RADIUS = 0.75
"""Radius of the covered circle in lengths from head top to head bottom; includes hair and chin at
any orientation."""
UPPER_PART = 0.3
"""Fraction of the box height that is covered when the head is unknown."""
TILES = 6
"""Number of tiles across a face: too few to recognise anyone."""


def blur_faces(image: np.ndarray, people: Iterable[PersonPose], skeleton: Skeleton) -> np.ndarray:
    """Return a copy of the image with every head pixelated and blurred.

    Args:
        image: (height, width, 3) uint8 RGB; not modified.
        people: With keypoints in pixels of this image.
        skeleton: Joint names; `head_top`, `head_bottom` and `nose` are used where present.
    """
    out = np.array(image, order="C")
    for person in people:
        centre, half = _head(person, skeleton)
        low = np.maximum(np.floor(centre - half), 0).astype(int)
        high = np.minimum(np.ceil(centre + half) + 1, image.shape[1::-1]).astype(int)
        if (low < high).all():
            _cover(out[low[1] : high[1], low[0] : high[0]], centre - low, half)
    return out


def head_circle(person: PersonPose, skeleton: Skeleton) -> tuple[np.ndarray, float] | None:
    """Centre (x, y) and radius in pixels of a circle around the head.

    None if fewer than two head joints score at least `SURE`.
    """
    found = {
        joint: person.keypoints[skeleton.index(joint)]
        for joint in ("head_top", "head_bottom", "nose")
        if joint in skeleton.joints
    }
    places = {
        joint: point[:2]
        for joint, point in found.items()
        if point[2] >= SURE and np.isfinite(point).all()
    }
    if len(places) < 2:
        return None
    points = np.stack(list(places.values()))
    # The largest distance is from top to bottom, or from the nose to either of them.
    span = np.linalg.norm(points[:, None] - points, axis=-1).max()
    length = span if {"head_top", "head_bottom"} <= places.keys() else 2 * span
    return (points.min(0) + points.max(0)) / 2, max(RADIUS * float(length), 2.0)


def _head(person: PersonPose, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half axes (x, y) of an axis-aligned ellipse around the head."""
    circle = head_circle(person, skeleton)
    if circle is not None:
        return circle[0], np.full(2, circle[1])
    x0, y0, x1, y1 = np.asarray(person.box, np.float64)
    height = UPPER_PART * (y1 - y0)
    return np.array([(x0 + x1) / 2, y0 + height / 2]), np.array([(x1 - x0) / 2, height * 0.75])


def _cover(region: np.ndarray, centre: np.ndarray, half: np.ndarray) -> None:
    """Pixelate an ellipse in place."""
    height, width = region.shape[:2]
    cell = max(1.0, 2 * float(half.min()) / TILES)
    few = (max(1, round(width / cell)), max(1, round(height / cell)))
    tiles = cv2.resize(region, few, interpolation=cv2.INTER_AREA)
    covered = cv2.resize(tiles, (width, height), interpolation=cv2.INTER_LINEAR)
    y, x = np.mgrid[:height, :width]
    inside = np.square((x - centre[0]) / half[0]) + np.square((y - centre[1]) / half[1]) <= 1
    region[inside] = covered[inside]
