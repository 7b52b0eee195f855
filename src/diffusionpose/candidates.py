"""Candidates for people: their sightings, predicted positions and pose scores.

Lengths are pixels of the displayed image, boxes xyxy, times seconds.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np

from diffusionpose.structures import NO_TRACK

VELOCITY_SECONDS = 0.25
"""Time constant at which the weights of sightings decay in the velocity estimate."""
COASTING_SECONDS = 0.5
"""Time constant at which an unseen person slows down: an old velocity must not carry far."""
VELOCITY_SIGHTINGS = 16
"""Maximum number of sightings in the velocity estimate."""
JITTER_SECONDS = 0.05
"""Ratio of box jitter (about 5 % of the height) to a person's speed (about one height/s)."""
CONVINCING = 0.5
"""Minimum mean pose score of a person over all looks: frequent looks must not succeed by chance."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """A detected box.

    Args:
        place: Position of its frame among those passed to the tracker, from 0.
        time: Seconds.
        box: (4,) float64 xyxy pixels.
        score: Of the box.
    """

    place: int
    time: float
    box: np.ndarray
    score: float


@dataclass(eq=False)
class Candidate:
    """A candidate for a person.

    Args:
        sightings: In order of time.
        number: Track id, `NO_TRACK` until it is first output.
        num_nested: Number of consecutive detector runs in which it lay in somebody else's box.
        looks: Scores of its pose, taken while detector scores were too low to decide.
        ask_from: Place before which its pose is not scored again.
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
        """Whether it has been output, confirmed by the detector alone."""
        return self.number != NO_TRACK and not self.looks

    @property
    def convinces(self) -> bool:
        """Whether its pose scores confirm a person where those of the detector do not."""
        return bool(self.looks) and sum(self.looks) >= CONVINCING * len(self.looks)

    def around(self, place: int) -> tuple[Sighting | None, Sighting | None]:
        """Return the last sighting at or before a place, and the first one at or after it."""
        places = [sighting.place for sighting in self.sightings]
        after = bisect_left(places, place)
        before = bisect_right(places, place) - 1
        return (
            self.sightings[before] if before >= 0 else None,
            self.sightings[after] if after < len(places) else None,
        )

    def predict(self, time: float) -> np.ndarray:
        """Predict the box (4,) at that time by extrapolating recent motion, damped."""
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
        # Only the centre is extrapolated: a box that shrinks behind an obstacle would vanish.
        return self.last.box + np.tile(slope * COASTING_SECONDS * elapsed, 2)

    def forget(self, place: int) -> None:
        """Drop the sightings that no frame from `place` on needs."""
        first = bisect_left([sighting.place for sighting in self.sightings], place) - 1
        del self.sightings[: max(0, min(first, len(self.sightings) - VELOCITY_SIGHTINGS))]
