"""Crop windows of tracked people, held still while the person stays inside.

Coordinates are pixels of the displayed image.
"""

from dataclasses import dataclass

import numpy as np

from diffusionpose.config import Size
from diffusionpose.nn.geometry import CropWindow, crop_window
from diffusionpose.structures import Boxes

HELD_SHIFT, HELD_SCALE = 0.08, 1.12
"""A window is held while the person's own window deviates by at most this shift (as a fraction of
the held window) and this scale factor; training augments by as much."""
LEAD_FRAMES, MAX_LEAD = 4.0, 0.06
"""A new window is placed ahead of a moving person by this many frames of motion, but at most by
this fraction of the window."""


@dataclass(frozen=True, eq=False)
class HeldWindow:
    """A crop window (centre x, centre y, width, height); `number` is constant while held."""

    window: CropWindow
    number: int
    centre: np.ndarray
    """Centre (2,) of the person's own window in the latest frame."""


class CropWindows:
    """Crop windows of people over time; held windows let neighbouring frames share crops.

    Args:
        size: (height, width) of a crop.
        is_held: If false, every frame gets the window of its own box.
    """

    def __init__(self, size: Size, *, is_held: bool = True) -> None:
        self._size, self._is_held = size, is_held
        self._by_track: dict[int, HeldWindow] = {}
        self._next_number = 0

    def update(self, people: Boxes) -> list[HeldWindow]:
        """Return the windows of a frame's people, in the order of their boxes.

        Call once per frame, in order. A person who was absent gets a new window on return.
        """
        found: dict[int, HeldWindow] = {}
        windows = []
        for track_id, box in zip(people.track_ids.tolist(), people.boxes, strict=True):
            windows.append(self._window(self._by_track.get(track_id), crop_window(box, self._size)))
            found[track_id] = windows[-1]
        self._by_track = found
        return windows

    def _window(self, held: HeldWindow | None, own: CropWindow) -> HeldWindow:
        centre, size = own[:2], own[2:]
        if held is not None and self._is_held:
            offset = np.abs(centre - held.window[:2]) / held.window[2:]
            scale = float(size[0] / held.window[2])
            if offset.max() <= HELD_SHIFT and 1 / HELD_SCALE <= scale <= HELD_SCALE:
                return HeldWindow(held.window, held.number, centre)
            lead = np.clip(LEAD_FRAMES * (centre - held.centre) / size, -MAX_LEAD, MAX_LEAD)
            own = np.concatenate([centre + lead * size, size])
        self._next_number += 1
        return HeldWindow(own, self._next_number, centre)
