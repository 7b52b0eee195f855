"""Where the tags of people go in an image: at their heads, inside the image, beside each other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Tag(NamedTuple):
    """Centre (x, y) and half size (x, y) of a tag in pixels."""

    middle: np.ndarray
    reach: np.ndarray


def place_tag(
    extent: np.ndarray,
    head: tuple[np.ndarray, float] | None,
    reach: np.ndarray,
    others: Sequence[Tag],
    size: tuple[int, int],
) -> Tag:
    """Place a tag at a person's head, and beside the tags that are there already.

    Args:
        extent: x0, y0, x1, y1 of the person's joints in pixels.
        head: Centre (x, y) and radius of the head in pixels; None if it is unknown.
        reach: Half size (x, y) of the tag in pixels.
        others: Tags of other people, which stay where they are.
        size: (width, height) of the image.

    Returns:
        The tag; it overlaps another one only if the image has no room above or beside that.
    """
    place = np.array(_at_the_head(extent, head, reach, size))
    return Tag(_beside_others(Tag(place, reach), others, size), reach)


def _at_the_head(
    extent: np.ndarray,
    head: tuple[np.ndarray, float] | None,
    reach: np.ndarray,
    size: tuple[int, int],
) -> tuple[float, float]:
    """Centre of a tag of half size `reach` (x, y): above the head, or else above all joints.

    At the top of the image, the tag slides around the head, so that it moves smoothly with it.
    """
    x0, y0, x1, _ = extent
    if head is None:
        x, y = (x0 + x1) / 2, y0 - 2 * reach[1]
        return _kept_within(x, reach[0], size[0]), _kept_within(y, reach[1], size[1])
    (x, middle), radius = head
    y = _kept_within(middle - radius - reach[1], reach[1], size[1])
    # On an ellipse around the head.
    risen = min(abs(middle - y) / (radius + reach[1]), 1.0)
    aside = (radius + reach[0]) * (1 - risen**2) ** 0.5
    x += aside if x + aside + reach[0] < size[0] else -aside
    return _kept_within(x, reach[0], size[0]), y


def _beside_others(tag: Tag, others: Sequence[Tag], size: tuple[int, int]) -> np.ndarray:
    """Move a tag up or sideways until it overlaps no other; unchanged if the image has no room."""
    taken = np.array([other.middle for other in others]).reshape(-1, 2)
    room = np.array([other.reach for other in others]).reshape(-1, 2) + tag.reach
    for step in np.array([[0, -1], [1, 0], [-1, 0]]):
        middle = tag.middle
        while (hidden := (np.abs(middle - taken) < room - 1e-6).all(axis=1)).any():
            first = hidden.argmax()
            middle = np.where(step, taken[first] + step * room[first], middle)
        if (tag.reach <= middle).all() and (middle <= np.array(size) - 1 - tag.reach).all():
            return middle
    return tag.middle


def _kept_within(place: float, margin: float, size: int) -> float:
    """Clamp a coordinate so that `margin` fits on both sides; the centre if that is impossible."""
    return min(max(place, margin), size - 1 - margin) if 2 * margin < size else (size - 1) / 2
