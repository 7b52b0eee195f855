"""Where a person is cut out of the picture: windows that stay while the person stays inside.

Coordinates are pixels of the displayed image.
"""

from dataclasses import dataclass

import numpy as np

from diffusionpose.config import Size
from diffusionpose.nn.geometry import CropWindow, crop_window
from diffusionpose.structures import Boxes

HELD_SHIFT, HELD_SCALE = 0.08, 1.12
"""A crop window is held while the person's own is no further off, in shares of it, and no larger or smaller: the model
is trained with as much."""
LEAD_FRAMES, MAX_LEAD = 4.0, 0.06
"""A new window lies where a moving person will be in so many frames, in shares of the window at most."""


@dataclass(frozen=True, eq=False)
class HeldWindow:
    """A crop window (centre x, centre y, width, height); as long as it is held it keeps its number."""

    window: CropWindow
    number: int
    centre: np.ndarray
    """Of the person's own window, (2,), in the newest frame."""


class CropWindows:
    """Crop windows of people over time, held while the person stays inside: neighbouring frames then share crops.

    Args:
        size: (height, width) of a crop.
        is_held: Otherwise every frame has the window of its own box.
    """

    def __init__(self, size: Size, *, is_held: bool = True) -> None:
        self._size, self._is_held = size, is_held
        self._by_track: dict[int, HeldWindow] = {}
        self._next_number = 0

    def update(self, people: Boxes) -> list[HeldWindow]:
        """The windows of a frame's people, in the order of their boxes; frames come in order.

        Who is not in a frame gets a new window afterwards.
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
