"""Multi-person tracking with a fixed lag: ids, bridged gaps and smoothed boxes.

Boxes are associated frame by frame as in ByteTrack, strong boxes before weak ones, except that
confirmed people seen in the previous detector run are matched first, with boxes of both kinds. A
frame is output `lag` frames late: gaps can then be bridged, false positives dropped and boxes
smoothed without phase lag, in memory for `lag` frames. If detector scores are too low to decide,
the pose score decides, provided there is a judge. Distances are in heights of the person and
velocities per second, so that neither resolution nor frame rate matters.

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
"""Standard deviation of the smoothing window. Measured on white jitter at 30 frames/s, with a
person who jumps by half a height: 0.12 smooths no better and loses 7 more points of worst IoU."""
REACH, REACH_PER_SECOND, MAX_REACH = 0.3, 1.5, 1.0
"""Maximum distance of a sighting from the prediction in heights: base, growth per second, cap."""
MAX_SIZE_RATIO = 2.2
"""Maximum ratio of box heights between sightings (half of a person may become occluded)."""
DUPLICATE_IOU, NESTED = 0.7, 0.8
"""IoU, and share of the smaller box, above which two boxes are taken for the same person."""
SHADOW_RUNS = 3
"""Consecutive detector runs inside another box after which a track without number is dropped."""
WEAK_IOU, WEAK_COST = 0.4, 1.5
"""Minimum IoU of a weak box with the prediction, and its extra cost for people matched first. They
may prefer it to a strong one: a box around two people who meet can briefly be the strong one."""
LEFT_OUT = 2.5
"""Cost of leaving a person who is matched first without a box."""
MISSED_RUN_DECAY = 0.95
"""Factor on the score of a bridged frame for each detector run that missed the person."""

DOUBTFUL = 0.625
"""Share of `start_score` from which persistent boxes become a person if the pose is convincing."""
BESIDE = 0.3
"""Maximum overlap of a doubtful person with anybody better known, as a share of the smaller box: a
part of a person is not another one."""
LEAST_HEIGHT = 40
"""Minimum box height in pixels for judging a pose: poses in smaller boxes, of which grandstands are
full, are guesses."""

Judge = Callable[[np.ndarray], float]
"""Mean joint score, in [0, 1], of the pose in a box (4,) of the newest frame."""


@dataclass(frozen=True)
class TrackedFrame:
    """Final people of one frame, with `boxes.track_ids` set."""

    index: int
    boxes: Boxes


class Tracker:
    """Assigns ids to the boxes of a video, frame by frame.

    Args:
        max_gap: Maximum number of frames bridged between two sightings.
        min_hits: Number of strong sightings within `lag` frames that make a person; if the detector
            ran less often, a majority of its runs is enough.
        start_score: Minimum score of a strong box. Weaker boxes only extend a track, at both ends.
        detect_every: Number of frames from one detector run to the next.
        smoothing_frames: Frames on either side used to smooth a box; 0 leaves boxes as detected.
        lost_seconds: Time for which an unseen person keeps the id, even if the gap stays empty.
        trust_boxes: For boxes given by the user: they are output immediately and unchanged; ids are
            assigned only in frames without any.

    Raises:
        ValueError: If a number is out of range.
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
        """Process the next frame.

        Args:
            index: Frame index, higher than the previous one. It only labels the output: gaps and
                lag count the frames passed, so that every tenth frame of a video works, too.
            time: Time in seconds.
            boxes: People in the frame; None if the detector did not run on it.
            judge: Scores the poses of doubtful boxes; without it they do not become people.

        Returns:
            Frames that are now final, in order.

        Raises:
            ValueError: If the index does not increase, or boxes have ids without `trust_boxes`.
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
        """Return the frames still held back, at the end of the video."""
        if self._runs:
            # A video shorter than the window has fewer runs than usual: judge by those it has.
            self._ask(self._runs_since(self._newest - self.lag))
        return self._give_out(self._newest)

    def cut(self) -> list[TrackedFrame]:
        """Return the frames still held back, and forget all tracks: a new scene follows."""
        final = self.flush()
        self._tracks.clear()
        self._runs.clear()
        return final

    # --- Association ------------------------------------------------------------------------------

    def _named(self, time: float, boxes: Boxes) -> Boxes:
        """Return the user's boxes with ids: those given, else assigned ones."""
        if (boxes.track_ids != NO_TRACK).any():
            return boxes
        owners = self._associate(time, boxes)
        for track in owners:
            self._number(track)
            track.forget(self._newest)
        self._tracks = [one for one in self._tracks if self._is_alive(one, time)]
        return Boxes(boxes.boxes, boxes.scores, np.array([track.number for track in owners]))

    def _associate(self, time: float, boxes: Boxes) -> list[Candidate]:
        """Extend tracks with the boxes of the newest frame, and start new ones.

        Returns:
            Tracks that have a sighting in the frame, in the order of its boxes.
        """
        sightings = [
            Sighting(self._newest, time, box.astype(np.float64), float(score))
            for box, score in zip(boxes.boxes, boxes.scores, strict=True)
        ]
        strong = [one for one in sightings if one.score >= self._start_score]
        weak = [one for one in sightings if one.score < self._start_score]
        alive = [track for track in self._tracks if self._is_alive(track, time)]
        # Unconfirmed tracks, perhaps parts of a person, are matched after the people just seen.
        last_run = self._runs[-2] if len(self._runs) > 1 else 0
        first = [track for track in alive if track.is_sure and track.last.place >= last_run]
        owners = self._match(first, sightings, time, choosing=True)
        for those in (strong, weak):
            idle = [track for track in alive if track.last.place != self._newest]
            owners |= self._match(idle, [one for one in those if one not in owners], time)
        # Weak boxes start tracks, too, so that a person who is recognised later has a past.
        for one in (*strong, *weak):
            others = [other.box for other in owners]
            if one not in owners and (self._trust_boxes or not _is_nested(one.box, others)):
                owners[one] = Candidate([one])
                self._tracks.append(owners[one])
        if not self._trust_boxes:
            self._drop_shadows([one for one in self._tracks if one.last.place == self._newest])
        return [owners[one] for one in sightings if one in owners]

    def _drop_shadows(self, seen: Sequence[Candidate]) -> None:
        """Drop tracks without number inside an older track's box: they would steal its boxes."""
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
        """Assign sightings to tracks at minimum cost, and append them.

        As many tracks as possible get one. With `choosing`, both strong and weak sightings are
        given, and a track may prefer none to a bad one: otherwise an occluded person could push a
        neighbour to a worse box.
        """
        if not tracks or not sightings:
            return {}
        cost = self._costs(tracks, sightings, time)
        if choosing:
            cost += WEAK_COST * np.array([one.score < self._start_score for one in sightings])
        # One extra column per track means "no box". Finite values replace inf, because the solver
        # rejects a matrix in which inf cannot be avoided.
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
        """(tracks, sightings) costs of assignment; inf where impossible."""
        expected = np.stack([track.predict(time) for track in tracks])
        seen = np.stack([sighting.box for sighting in sightings])
        unseen = np.array([max(time - track.last.time, 0.0) for track in tracks])
        heights, seen_heights = expected[:, 3] - expected[:, 1], seen[:, 3] - seen[:, 1]
        # In heights of the taller box: the other may show only half of the person.
        tallest = np.maximum(heights[:, None], seen_heights)
        distance = _centre_distances(expected, seen) / tallest
        # A person who stops abruptly, as after a jump, is still at the last position.
        last = np.stack([track.last.box for track in tracks])
        nearest = np.minimum(distance, _centre_distances(last, seen) / tallest)
        reach = np.minimum(REACH + REACH_PER_SECOND * unseen, MAX_REACH)[:, None]
        ratio = np.abs(np.log(seen_heights / heights[:, None]))
        overlap = pairwise_iou(expected, seen)
        # Prefer tracks with many sightings that were seen recently.
        young = np.array([len(track.sightings) < self._min_hits for track in tracks])
        weak = np.array([one.score < self._start_score for one in sightings])
        cost = distance / reach + (1 - overlap) + ratio + (0.3 * young + 0.3 * unseen)[:, None]
        fits = (nearest <= reach) & (ratio <= np.log(MAX_SIZE_RATIO))
        fits &= (overlap >= WEAK_IOU) | ~weak
        return np.where(fits, cost, np.inf)

    # --- Doubtful people, decided by their pose ---------------------------------------------------

    def _ask(self, num_runs: int) -> None:
        """Judge the poses of doubtful tracks that were just seen, are persistent and stand apart.

        Args:
            num_runs: Number of detector runs in which they must be seen as often as a person.
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
                # Wait twice as long each time, so that a permanent false positive costs little.
                wait = self._min_hits * self._detect_every * 2 ** len(track.looks)
                track.ask_from = self._newest + wait
                track.looks.append(self._judge(track.last.box))

    # --- Output -----------------------------------------------------------------------------------

    def _give_out(self, up_to: int) -> list[TrackedFrame]:
        """Finalise and return the pending frames up to place `up_to`."""
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
        """Drop tracks, sightings and runs that no frame from `place` on needs."""
        newest = self._pending[-1][2] if self._pending else time
        self._tracks = [
            track
            for track in self._tracks
            if track.last.place >= place or self._is_alive(track, newest)
        ]
        for track in self._tracks:
            track.forget(place - self._smoothing_frames)
        # Keep one run before the window: its first frames must know that the detector ran.
        del self._runs[: max(0, bisect_left(self._runs, place - self.lag) - 1)]

    def _number(self, track: Candidate) -> None:
        if track.number == NO_TRACK:
            track.number = self._next_number
            self._next_number += 1

    def _is_person(self, track: Candidate, place: int) -> bool:
        """Whether a track is sure, is seen often enough from `place` on, or convinces."""
        if self._lasts(track, place, self._start_score, self._runs_since(self._newest - self.lag)):
            # From now on, the detector alone confirms this person.
            track.looks.clear()
            return True
        return track.is_sure or track.convinces

    def _lasts(self, track: Candidate, place: int, score: float, num_runs: int) -> bool:
        """Whether enough sightings from `place` on have at least that score."""
        num_good = sum(one.place >= place and one.score >= score for one in track.sightings)
        return num_good >= min(self._min_hits, num_runs // 2 + 1)

    def _runs_since(self, place: int) -> int:
        return len(self._runs) - bisect_left(self._runs, place)

    def _state(self, track: Candidate, place: int, time: float) -> tuple[np.ndarray, float] | None:
        """Box (4,) and score of a track in a frame; None where it is unknown."""
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
            # The detector has not run since: the person stays until its next run.
            return self._smoothed(track, before), before.score
        return None

    def _num_runs(self, after: int, up_to: int) -> int:
        """Number of detector runs after place `after`, up to and including `up_to`."""
        return bisect_right(self._runs, up_to) - bisect_right(self._runs, after)

    def _smoothed(self, track: Candidate, centre: Sighting) -> np.ndarray:
        """Box (4,) of a sighting, smoothed by those around it."""
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
    """Fit a robust local parabola to (n, 4) values; return its value (4,) at time 0.

    Unlike a mean or a line, a parabola follows acceleration without lag. Times are in standard
    deviations of the window, values in heights of the person.
    """
    design = np.stack([np.ones_like(times), times, times**2], 1)
    near = np.exp(-(times**2) / 2)
    # Few or one-sided sightings cannot tell motion from noise: penalise slope and curvature.
    penalty = np.diag([0.0, 0.01, 0.3])
    weights = near
    fit = np.zeros((3, values.shape[1]))
    for _ in range(4):
        weighted = design * weights[:, None]
        fit = np.linalg.solve(design.T @ weighted + penalty, weighted.T @ values)
        misfit = np.linalg.norm(values - design @ fit, axis=1)
        scale = max(1.5 * _weighted_median(misfit, near), 0.01)
        # Tukey's biweight: a box that jumps for one frame loses its weight.
        weights = near * np.clip(1 - (misfit / (4 * scale)) ** 2, 1e-3, None) ** 2
    return fit[0]


def _centre_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m) distances in pixels between the centres of (n, 4) and (m, 4) boxes."""
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (first, second)]
    return np.linalg.norm(centres[0][:, None] - centres[1], axis=-1)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(share, share[-1] / 2)]])


def _is_nested(box: np.ndarray, others: Sequence[np.ndarray], share: float = NESTED) -> bool:
    """Whether the overlap with any other box exceeds that share of the smaller of the two."""
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
