"""Who may be a person: where somebody was seen, where they are expected, and what was said of their poses.

Lengths are pixels of the displayed image, boxes xyxy, times seconds.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np

from diffusionpose.structures import NO_TRACK

VELOCITY_SECONDS = 0.25
"""A sighting this old has 1/e of the weight of a new one in the estimate of the velocity."""
COASTING_SECONDS = 0.5
"""An unseen person slows down with this time constant: an old velocity must not carry far."""
VELOCITY_SIGHTINGS = 16
"""The velocity comes from this many sightings at most."""
JITTER_SECONDS = 0.05
"""A box trembles by about 5 % of the height, and a person moves at about one height a second."""
CONVINCING = 0.5
"""So high is a person's pose, in the mean of all looks at it: who is asked often must not come through by luck."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """A box of the `place`-th frame fed: `time` in seconds, `box` (4,) float64 xyxy pixels."""

    place: int
    time: float
    box: np.ndarray
    score: float


@dataclass(eq=False)
class Candidate:
    """A candidate for a person.

    It gets its `number` when it is first given out; `num_nested` counts the runs in a row in which
    it lay in somebody else's box. `looks` are what was said of its pose while the detector doubted, the next one not
    before place `ask_from`.
    """

    sightings: list[Sighting] = field(default_factory=list)
    number: int = NO_TRACK
    num_nested: int = 0
    looks: list[float] = field(default_factory=list)
    ask_from: int = 0

    @property
    def last(self) -> Sighting:
        return self.sightings[-1]

    @property
    def is_sure(self) -> bool:
        """Whether it has been given out on the detector's word."""
        return self.number != NO_TRACK and not self.looks

    @property
    def convinces(self) -> bool:
        """Whether its pose makes it a person where the detector doubts."""
        return bool(self.looks) and sum(self.looks) >= CONVINCING * len(self.looks)

    def around(self, place: int) -> tuple[Sighting | None, Sighting | None]:
        """The last sighting at or before a frame, and the first one at or after it."""
        places = [sighting.place for sighting in self.sightings]
        after = bisect_left(places, place)
        before = bisect_right(places, place) - 1
        return (
            self.sightings[before] if before >= 0 else None,
            self.sightings[after] if after < len(places) else None,
        )

    def predict(self, time: float) -> np.ndarray:
        """The box (4,) expected at that time: recent motion carried on, slowing down."""
        recent = self.sightings[-VELOCITY_SIGHTINGS:]
        ages = np.array([min(one.time - self.last.time, 0.0) for one in recent])
        centres = np.stack([(one.box[:2] + one.box[2:]) / 2 for one in recent])
        weights = np.exp(ages / VELOCITY_SECONDS)
        weights /= weights.sum()
        ages, centres = ages - weights @ ages, centres - weights @ centres
        # Ridge regression: jitter between a few close sightings must not look like speed.
        ridge = JITTER_SECONDS**2 / len(recent)
        slope = (weights * ages) @ centres / (weights @ ages**2 + ridge)
        elapsed = 1 - np.exp(-max(time - self.last.time, 0.0) / COASTING_SECONDS)
        # Only the centre moves on: a box that shrinks behind an obstacle would vanish.
        return self.last.box + np.tile(slope * COASTING_SECONDS * elapsed, 2)

    def forget(self, place: int) -> None:
        """Drop the sightings that no frame from `place` on needs."""
        first = bisect_left([sighting.place for sighting in self.sightings], place) - 1
        del self.sightings[: max(0, min(first, len(self.sightings) - VELOCITY_SIGHTINGS))]
