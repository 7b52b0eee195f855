"""Who is who over time: ids, bridged gaps and steady boxes, a fixed number of frames late.

Boxes are associated frame by frame (as ByteTrack does: strong boxes first, then weak ones; but people who were just seen
choose before all others, and among all boxes). A frame is given out
`lag` frames later, when what follows it is known: so gaps are bridged, false alarms dropped and boxes smoothed without
trailing behind, with memory for `lag` frames only. Where the detector doubts, the pose decides, if there is a judge of it.
Lengths are measured in heights of the person and velocities per second, so that neither the size of the picture nor the
frame rate matters.

Coordinates are pixels of the displayed image, boxes xyxy.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.optimize import linear_sum_assignment

from diffusionpose.boxes import box_areas, pairwise_intersection, pairwise_iou, suppress_duplicates
from diffusionpose.candidates import Candidate, Sighting
from diffusionpose.structures import NO_TRACK, Boxes

SMOOTHING_SECONDS = 0.08
"""Standard deviation of the smoothing window. Measured on white jitter at 30 frames a second against a
person who jumps by half a height: 0.12 steadies no better, and loses 7 more points of worst IoU."""
REACH, REACH_PER_SECOND, MAX_REACH = 0.3, 1.5, 1.0
"""How far from its prediction a person may turn up, in heights: at once, more per second, at most."""
MAX_SIZE_RATIO = 2.2
"""Between sightings a box may grow or shrink this much (half of a person may get hidden)."""
DUPLICATE_IOU, NESTED = 0.7, 0.8
"""Above these, a box (union, or its own area) is the same person as a better box."""
SHADOW_RUNS = 3
"""So many runs in a row in somebody's box, and a track that was never given out is no person."""
WEAK_IOU, WEAK_COST = 0.4, 1.5
"""A weak box must fit the prediction this well; a strong one is left for it where that costs so much more. A box
around two people who come close may be the strong one for a moment."""
LEFT_OUT = 2.5
"""What it costs to leave somebody who chooses without a box in a frame."""
MISSED_RUN_DECAY = 0.95
"""Factor on the score of a bridged frame for each detector run that missed the person."""

DOUBTFUL = 0.625
"""From this share of the detector's `start_score` on, boxes that stay make a person if the pose in them convinces."""
BESIDE = 0.3
"""Doubtful people share at most this part of their box, or of the other's, with anybody better known: half a person is
not another one."""
LEAST_HEIGHT = 40
"""Pixels. In a smaller box a pose is a guess, and stands are full of such boxes."""

Judge = Callable[[np.ndarray], float]
"""How well a pose fits a box (4,) of the newest frame: the mean score of its joints, in [0, 1]."""


@dataclass(frozen=True)
class TrackedFrame:
    """The final people of one frame; `boxes.track_ids` are set."""

    index: int
    boxes: Boxes


class Tracker:
    """Gives ids to the boxes of a video, frame by frame.

    Args:
        max_gap: Up to this many frames between two sightings are filled.
        min_hits: Strong sightings within `lag` frames that make a person; where the detector ran
            less often, in a majority of its runs.
        start_score: Weaker boxes make no person; they only prolong one, at both ends.
        detect_every: Distance in frames of the detector's runs.
        smoothing_frames: Frames on either side that steady a box; 0 leaves boxes as detected.
        lost_seconds: For so long an unseen person keeps the id (though longer gaps stay empty).
        trust_boxes: For boxes that the user gives: they come out at once, as they are, and those of
            a frame without ids get some.
    """

    def __init__(
        self,
        *,
        max_gap: int = 12,
        min_hits: int = 4,
        start_score: float = 0.3,
        detect_every: int = 1,
        smoothing_frames: int = 8,
        lost_seconds: float = 1.0,
        trust_boxes: bool = False,
    ) -> None:
        if min(max_gap, smoothing_frames) < 0 or min(min_hits, detect_every) < 1:
            raise ValueError("max_gap, smoothing_frames >= 0 and min_hits, detect_every >= 1")
        self._patience = max(max_gap + 1, detect_every)
        self.lag = 0 if trust_boxes else self._patience + smoothing_frames
        self._max_gap, self._min_hits = max_gap, min_hits
        self._start_score = 0.0 if trust_boxes else start_score
        self._smoothing_frames, self._lost_seconds = smoothing_frames, lost_seconds
        self._detect_every = detect_every
        self._trust_boxes = trust_boxes
        self._pending: deque[tuple[int, int, float]] = deque()
        self._runs: list[int] = []
        self._tracks: list[Candidate] = []
        self._newest, self._newest_index = -1, -1
        self._next_number = 1
        self._judge: Judge | None = None

    def update(
        self, index: int, time: Fraction, boxes: Boxes | None, judge: Judge | None = None
    ) -> list[TrackedFrame]:
        """Feed the next frame.

        Args:
            index: Frame index, higher than the one before. Inside, frames are counted as they come,
                so that a video of which every tenth frame is fed is as good as any.
            time: Its time in seconds.
            boxes: Its people; None when the detector did not look at this frame.
            judge: Asked about doubtful boxes of this frame; without one they make no person.

        Returns:
            The frames that are final now, in order.
        """
        if index <= self._newest_index:
            raise ValueError(f"frame {index} comes after frame {self._newest_index}")
        self._newest, self._newest_index = self._newest + 1, index
        if self._trust_boxes:
            return [TrackedFrame(index, self._named(float(time), boxes or Boxes.empty()))]
        self._pending.append((self._newest, index, float(time)))
        if boxes is not None:
            if (boxes.track_ids != NO_TRACK).any():
                raise ValueError("boxes that have track ids already need trust_boxes=True")
            self._runs.append(self._newest)
            self._associate(float(time), suppress_duplicates(boxes, DUPLICATE_IOU))
            self._judge = judge
            self._ask(self.lag // self._detect_every + 1)
        return self._give_out(self._newest - self.lag)

    def flush(self) -> list[TrackedFrame]:
        """The frames still held back, at the end of the video."""
        if self._runs:
            # Of a video that is shorter than the window there is no more to wait for.
            self._ask(self._runs_since(self._newest - self.lag))
        return self._give_out(self._newest)

    def cut(self) -> list[TrackedFrame]:
        """Another scene comes next, in which nobody is known.

        Returns:
            The frames still held back.
        """
        final = self.flush()
        self._tracks.clear()
        self._runs.clear()
        return final

    # --- which box is whom

    def _named(self, time: float, boxes: Boxes) -> Boxes:
        """Boxes of the user's with ids: theirs, else ours."""
        if (boxes.track_ids != NO_TRACK).any():
            return boxes
        owners = self._associate(time, boxes)
        for track in owners:
            self._number(track)
            track.forget(self._newest)
        self._tracks = [one for one in self._tracks if self._is_alive(one, time)]
        return Boxes(boxes.boxes, boxes.scores, np.array([track.number for track in owners]))

    def _associate(self, time: float, boxes: Boxes) -> list[Candidate]:
        """Prolong tracks with the boxes of the newest frame, start new ones.

        Returns:
            The tracks that have a sighting in the frame, in the order of its boxes.
        """
        sightings = [
            Sighting(self._newest, time, box.astype(np.float64), float(score))
            for box, score in zip(boxes.boxes, boxes.scores, strict=True)
        ]
        strong = [one for one in sightings if one.score >= self._start_score]
        weak = [one for one in sightings if one.score < self._start_score]
        alive = [track for track in self._tracks if self._is_alive(track, time)]
        # What is no person yet, a part of somebody perhaps, chooses after the people who were seen just now.
        last_run = self._runs[-2] if len(self._runs) > 1 else 0
        first = [track for track in alive if track.is_sure and track.last.place >= last_run]
        owners = self._match(first, sightings, time, choosing=True)
        for those in (strong, weak):
            idle = [track for track in alive if track.last.place != self._newest]
            owners |= self._match(idle, [one for one in those if one not in owners], time)
        # Weak boxes start tracks too, silent ones: they give a person who is recognised later a past.
        for one in (*strong, *weak):
            others = [other.box for other in owners]
            if one not in owners and (self._trust_boxes or not _is_nested(one.box, others)):
                owners[one] = Candidate([one])
                self._tracks.append(owners[one])
        if not self._trust_boxes:
            self._drop_shadows([one for one in self._tracks if one.last.place == self._newest])
        return [owners[one] for one in sightings if one in owners]

    def _drop_shadows(self, seen: Sequence[Candidate]) -> None:
        """End the silent tracks that have become a part of an older one: they would steal its box."""
        for place, track in enumerate(seen):
            is_nested = _is_nested(track.last.box, [older.last.box for older in seen[:place]])
            track.num_nested = track.num_nested + 1 if is_nested else 0
        self._tracks = [
            track
            for track in self._tracks
            if track.number != NO_TRACK or track.num_nested < SHADOW_RUNS
        ]

    def _is_alive(self, track: Candidate, time: float) -> bool:
        unseen = time - track.last.time
        return unseen <= self._lost_seconds or self._newest - track.last.place <= self._patience

    def _match(
        self,
        tracks: Sequence[Candidate],
        sightings: Sequence[Sighting],
        time: float,
        *,
        choosing: bool = False,
    ) -> dict[Sighting, Candidate]:
        """Best assignment of sightings to tracks, which are prolonged with them.

        As many as can be get one; those who are `choosing` among strong and weak ones would rather have none than a bad
        one, or somebody who is hidden would push the next person from the own box to a worse.
        """
        if not tracks or not sightings:
            return {}
        cost = self._costs(tracks, sightings, time)
        if choosing:
            cost += WEAK_COST * np.array([one.score < self._start_score for one in sightings])
        # A column for each track that gets no box, and a finite stand-in: the solver refuses a matrix in which inf
        # cannot be avoided.
        none = np.full((len(tracks), len(tracks)), LEFT_OUT if choosing else 1e5)
        padded = np.hstack([np.where(np.isfinite(cost), cost, 1e6), none])
        rows, columns = linear_sum_assignment(padded)
        pairs = [(r, c) for r, c in zip(rows, columns, strict=True) if c < len(sightings)]
        owners = {
            sightings[column]: tracks[row]
            for row, column in pairs
            if np.isfinite(cost[row, column])
        }
        for sighting, track in owners.items():
            track.sightings.append(sighting)
        return owners

    def _costs(
        self,
        tracks: Sequence[Candidate],
        sightings: Sequence[Sighting],
        time: float,
    ) -> np.ndarray:
        """(tracks, sightings): how badly each fits, inf where it cannot be."""
        expected = np.stack([track.predict(time) for track in tracks])
        seen = np.stack([sighting.box for sighting in sightings])
        unseen = np.array([max(time - track.last.time, 0.0) for track in tracks])
        heights, seen_heights = expected[:, 3] - expected[:, 1], seen[:, 3] - seen[:, 1]
        # In heights of the taller box: one may show only a half of the person.
        tallest = np.maximum(heights[:, None], seen_heights)
        distance = _centre_distances(expected, seen) / tallest
        # Whoever stops dead, as a jumper does, is still where they were seen last.
        last = np.stack([track.last.box for track in tracks])
        nearest = np.minimum(distance, _centre_distances(last, seen) / tallest)
        reach = np.minimum(REACH + REACH_PER_SECOND * unseen, MAX_REACH)[:, None]
        ratio = np.abs(np.log(seen_heights / heights[:, None]))
        overlap = pairwise_iou(expected, seen)
        # People known for long and seen just now have the first claim.
        young = np.array([len(track.sightings) < self._min_hits for track in tracks])
        weak = np.array([one.score < self._start_score for one in sightings])
        cost = distance / reach + (1 - overlap) + ratio + (0.3 * young + 0.3 * unseen)[:, None]
        fits = (nearest <= reach) & (ratio <= np.log(MAX_SIZE_RATIO))
        fits &= (overlap >= WEAK_IOU) | ~weak
        return np.where(fits, cost, np.inf)

    # --- who is a person though the detector doubts

    def _ask(self, num_runs: int) -> None:
        """Has the poses judged of doubtful tracks that the last run saw, that last long enough and stand apart.

        Args:
            num_runs: Of the detector, among which they must be seen as often as a person.
        """
        if self._judge is None:
            return
        since = self._newest - self.lag
        seen = [track for track in self._tracks if track.last.place == self._runs[-1]]
        known = [
            track
            for track in self._tracks
            if track.is_sure or self._lasts(track, since, self._start_score, num_runs)
        ]
        for track in seen:
            if track in known or self._newest < track.ask_from:
                continue
            others = [
                other.last.box
                for other in self._tracks
                if other is not track
                and (
                    other in known
                    or other.convinces
                    or (other in seen and other.last.score > track.last.score)
                )
            ]
            is_candidate = (
                self._lasts(track, since, DOUBTFUL * self._start_score, num_runs)
                and track.last.box[3] - track.last.box[1] >= LEAST_HEIGHT
                and not _is_nested(track.last.box, others, BESIDE)
            )
            if track.convinces or is_candidate:
                # Ever longer waits: what stands there all day costs nothing.
                wait = self._min_hits * self._detect_every * 2 ** len(track.looks)
                track.ask_from = self._newest + wait
                track.looks.append(self._judge(track.last.box))

    # --- what comes out

    def _give_out(self, up_to: int) -> list[TrackedFrame]:
        """The pending frames up to that place, final."""
        final = []
        while self._pending and self._pending[0][0] <= up_to:
            place, index, time = self._pending.popleft()
            final.append(TrackedFrame(index, self._people(place, time)))
            self._forget(place + 1, time)
        return final

    def _people(self, place: int, time: float) -> Boxes:
        people = []
        for track in self._tracks:
            state = self._state(track, place, time)
            if state is not None and self._is_person(track, place):
                self._number(track)
                people.append((*state, track.number))
        people.sort(key=lambda person: person[2])
        return _as_boxes(people)

    def _forget(self, place: int, time: float) -> None:
        """Drop what no frame from `place` on needs."""
        newest = self._pending[-1][2] if self._pending else time
        self._tracks = [
            track
            for track in self._tracks
            if track.last.place >= place or self._is_alive(track, newest)
        ]
        for track in self._tracks:
            track.forget(place - self._smoothing_frames)
        # One run more than the window holds: the frames since then must know that somebody looked.
        del self._runs[: max(0, bisect_left(self._runs, place - self.lag) - 1)]

    def _number(self, track: Candidate) -> None:
        if track.number == NO_TRACK:
            track.number = self._next_number
            self._next_number += 1

    def _is_person(self, track: Candidate, place: int) -> bool:
        """Whether a track is sure, is seen often enough from `place` on, or convinces."""
        if self._lasts(track, place, self._start_score, self._runs_since(self._newest - self.lag)):
            # The detector's word is enough, from now on.
            track.looks.clear()
            return True
        return track.is_sure or track.convinces

    def _lasts(self, track: Candidate, place: int, score: float, num_runs: int) -> bool:
        """Whether enough sightings from `place` on have that score."""
        num_good = sum(one.place >= place and one.score >= score for one in track.sightings)
        return num_good >= min(self._min_hits, num_runs // 2 + 1)

    def _runs_since(self, place: int) -> int:
        return len(self._runs) - bisect_left(self._runs, place)

    def _state(self, track: Candidate, place: int, time: float) -> tuple[np.ndarray, float] | None:
        """Box (4,) and score of a track in a frame; None where the person is not known to be."""
        before, after = track.around(place)
        if before is None:
            return None
        if before is after:
            return self._smoothed(track, before), before.score
        if after is not None:
            num_missed = self._num_runs(before.place, after.place - 1)
            if num_missed == 0 or after.place - before.place - 1 <= self._max_gap:
                share = (time - before.time) / max(after.time - before.time, 1e-9)
                ends = self._smoothed(track, before), self._smoothed(track, after)
                score = before.score + (after.score - before.score) * share
                return (
                    ends[0] + (ends[1] - ends[0]) * share,
                    score * MISSED_RUN_DECAY**num_missed,
                )
        if self._num_runs(before.place, place) == 0:
            # Nobody looked since: the person stays until the detector says otherwise.
            return self._smoothed(track, before), before.score
        return None

    def _num_runs(self, after: int, up_to: int) -> int:
        """Detector runs in the frames after one, up to and with another."""
        return bisect_right(self._runs, up_to) - bisect_right(self._runs, after)

    def _smoothed(self, track: Candidate, centre: Sighting) -> np.ndarray:
        """The box (4,) of a sighting, steadied by those around it."""
        near = [
            one
            for one in track.sightings
            if abs(one.place - centre.place) <= self._smoothing_frames
        ]
        times = np.array([one.time - centre.time for one in near]) / SMOOTHING_SECONDS
        boxes = np.stack([one.box for one in near])
        height = max(float(np.median(boxes[:, 3] - boxes[:, 1])), 1e-6)
        box = centre.box + height * _local_fit(times, (boxes - centre.box) / height)
        is_box = (box[2:] > box[:2]).all()
        return box if is_box else centre.box


def _local_fit(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Robust local parabola through (n, 4) values, at time 0: (4,).

    A parabola follows a person who speeds up, where a mean or a line would trail or cut corners.
    Times are in standard deviations of the window, values in heights of the person.
    """
    design = np.stack([np.ones_like(times), times, times**2], 1)
    near = np.exp(-(times**2) / 2)
    # Few or one-sided sightings cannot tell a curve from noise: bent and sloped fits cost extra.
    penalty = np.diag([0.0, 0.01, 0.3])
    weights = near
    fit = np.zeros((3, values.shape[1]))
    for _ in range(4):
        weighted = design * weights[:, None]
        fit = np.linalg.solve(design.T @ weighted + penalty, weighted.T @ values)
        misfit = np.linalg.norm(values - design @ fit, axis=1)
        scale = max(1.5 * _weighted_median(misfit, near), 0.01)
        # Tukey's biweight: a box that jumps for a frame loses its say.
        weights = near * np.clip(1 - (misfit / (4 * scale)) ** 2, 1e-3, None) ** 2
    return fit[0]


def _centre_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pixels between the centres of (n, 4) and (m, 4) boxes: (n, m)."""
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (first, second)]
    return np.linalg.norm(centres[0][:, None] - centres[1], axis=-1)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(share, share[-1] / 2)]])


def _is_nested(box: np.ndarray, others: Sequence[np.ndarray], share: float = NESTED) -> bool:
    """Whether more than that share of the box lies in one of the others, or of one of them in it."""
    if not others:
        return False
    stacked = np.stack(others)
    shared = pairwise_intersection(box[None], stacked)[0]
    smaller = np.minimum(box_areas(box[None]), box_areas(stacked))
    return bool((shared > share * smaller).any())


def _as_boxes(people: Sequence[tuple[np.ndarray, float, int]]) -> Boxes:
    if not people:
        return Boxes.empty()
    boxes, scores, numbers = zip(*people, strict=True)
    return Boxes(np.stack(boxes), np.array(scores), np.array(numbers))
