"""What is done to a result after the network: weak joints dropped, short gaps in tracks filled, paths smoothed.

By true times; filled joints are marked.
"""

import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.signal import butter, sosfiltfilt

from diffusionpose.errors import UsageError
from diffusionpose.poses import Track, VideoPoses

EVEN = 0.01
"""Frames are evenly spaced when no interval differs from the middle one by a larger share."""
_ORDER = 2
_PADDING = 3 * (2 * _ORDER + 1)
_NARROWED = (math.sqrt(2) - 1) ** (1 / (2 * _ORDER))
"""Cut-off of two passes over that of each (Winter 2009)."""


class Smoother(Protocol):
    """Smooths one uninterrupted path."""

    @property
    def name(self) -> str:
        """As `parse_smoother` takes it."""
        ...

    def check_rate(self, rate: float) -> None:
        """Whether it can work on so many frames a second.

        Raises:
            UsageError: If they are too few.
        """
        ...

    def __call__(self, times: np.ndarray, points: np.ndarray, size: float) -> np.ndarray:
        """(n, 2) pixels at (n,) seconds, increasing, of a person of that size in pixels -> (n, 2)."""
        ...


@dataclass(frozen=True)
class OneEuro:
    """The 1 euro filter (Casiez et al., CHI 2012): an exponential average that gives way to movement. Needs no future.

    Args:
        min_cutoff: Hz, of a joint at rest.
        beta: Hz more for each body size a second that a joint moves at.
        speed_cutoff: Hz, of the speed itself.

    Raises:
        UsageError: If a cut-off is none.
    """

    min_cutoff: float = 1.5
    beta: float = 8.0
    speed_cutoff: float = 1.0
    name = "one-euro"

    def __post_init__(self) -> None:
        _check_cutoff("min_cutoff", self.min_cutoff)
        _check_cutoff("speed_cutoff", self.speed_cutoff)
        if not 0 <= self.beta < math.inf:
            raise UsageError(f"beta must be 0 or more, not {self.beta}")

    def check_rate(self, rate: float) -> None:
        """Any will do."""
        del rate

    def __call__(self, times: np.ndarray, points: np.ndarray, size: float) -> np.ndarray:
        """As `Smoother`."""
        out = points.copy()
        speed = np.zeros(2)
        for n in range(1, len(points)):
            step = times[n] - times[n - 1]
            share = _share(self.speed_cutoff, step)
            speed = share * (points[n] - points[n - 1]) / step + (1 - share) * speed
            cutoff = self.min_cutoff + self.beta * float(np.hypot(*speed)) / size
            share = _share(cutoff, step)
            out[n] = share * points[n] + (1 - share) * out[n - 1]
        return out


def _check_cutoff(name: str, cutoff: float) -> None:
    if not 0 < cutoff < math.inf:
        raise UsageError(f"{name} must be more than 0 Hz, not {cutoff}")


def _share(cutoff: float, step: float) -> float:
    """Of the new value, in an exponential average with that cut-off."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step))


@dataclass(frozen=True)
class Butterworth:
    """A Butterworth filter of second order, forwards and backwards, so without lag: what biomechanics uses.

    Args:
        cutoff: Hz, of the two passes together; 6 serves walking, sprints and throws want more.

    Raises:
        UsageError: If the cut-off is none.
    """

    cutoff: float = 6.0

    def __post_init__(self) -> None:
        _check_cutoff("cutoff", self.cutoff)

    @property
    def name(self) -> str:
        """With its cut-off."""
        return f"butterworth:{self.cutoff:g}"

    def check_rate(self, rate: float) -> None:
        """As `Smoother`."""
        if self.cutoff / _NARROWED >= rate / 2:
            raise UsageError(
                f"--smooth butterworth:{self.cutoff:g} needs more than {rate:.4g} frames a second: take less than "
                f"{_NARROWED * rate / 2:.3g} Hz",
                plain=f"{rate:.4g} frames a second are too few for the Butterworth filter at "
                f"{self.cutoff:g} Hz: take the 1 euro filter, or none",
            )

    def __call__(self, times: np.ndarray, points: np.ndarray, size: float) -> np.ndarray:
        """As `Smoother`; paths too short for the filter's ends stay as they are.

        Raises:
            UsageError: If the video has too few frames a second for the cut-off.
        """
        del size
        if len(points) <= _PADDING:
            return points
        steps = np.diff(times)
        middle = float(np.median(steps))
        is_even = bool((np.abs(steps - middle) <= EVEN * middle).all())
        # From the first time to the last: beyond its ends a path cannot be told.
        num_steps = round((times[-1] - times[0]) / middle)
        even, step = np.linspace(times[0], times[-1], num_steps + 1, retstep=True)
        self.check_rate(1 / step)
        # Two passes narrow the band; a wider one for each makes up for it.
        sections = butter(_ORDER, self.cutoff / _NARROWED, fs=1 / step, output="sos")
        path = points if is_even else _at(even, times, points)
        if len(path) <= _PADDING:
            return points
        smooth = sosfiltfilt(sections, path, axis=0, padlen=_PADDING)
        return smooth if is_even else _at(times, even, smooth)


def _at(wanted: np.ndarray, times: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A path at other times, straight between the known ones."""
    return np.column_stack([np.interp(wanted, times, column) for column in points.T])


def parse_smoother(text: str) -> Smoother:
    """`one-euro`, `butterworth` or `butterworth:HZ`.

    Raises:
        UsageError: If it is none of them.
    """
    if text == "one-euro":
        return OneEuro()
    if match := re.fullmatch(r"butterworth(?::(\d{1,4}(?:\.\d{1,3})?))?", text):
        cutoff = float(match[1] or Butterworth.cutoff)
        if cutoff > 0:
            return Butterworth(cutoff)
    raise UsageError(f"--smooth {text!r}: there are one-euro, butterworth and butterworth:HZ")


def smooth(poses: VideoPoses, smoother: Smoother) -> VideoPoses:
    """Every joint of every track, from gap to gap, scene by scene. People without a track, and scores, stay as they are."""
    keypoints = poses.keypoints.copy()
    for track_id in poses.track_ids:
        track = poses.track(track_id)
        at = np.flatnonzero(track.present)
        size = _size(track)
        for joint in range(keypoints.shape[1]):
            path = track.keypoints[:, joint]
            for run in _runs(~np.isnan(path[:, 0]), poses.cuts):
                path[run] = smoother(track.times[run], path[run], size)
        keypoints[poses.track_id == track_id] = track.keypoints[at]
    return replace(poses, keypoints=keypoints)


def _size(track: Track) -> float:
    """The longer side of the person's box, in the middle of its track."""
    box = track.box[track.present]
    return max(1.0, float(np.median((box[:, 2:] - box[:, :2]).max(1))))


def _runs(known: np.ndarray, cuts: np.ndarray) -> list[slice]:
    """Where `known` is true without interruption, in one scene."""
    goes_on = known[1:] & known[:-1] & ~cuts[1:]
    starts = np.flatnonzero(known & ~np.concatenate([[False], goes_on]))
    ends = np.flatnonzero(known & ~np.concatenate([goes_on, [False]])) + 1
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def drop_weak(poses: VideoPoses, least: float) -> VideoPoses:
    """Joints with a lower score become missing ones. Scores of people stay as they are."""
    weak = poses.keypoint_scores < least
    return replace(
        poses,
        keypoints=np.where(weak[..., None], np.nan, poses.keypoints),
        keypoint_scores=np.where(weak, 0, poses.keypoint_scores),
        filled=poses.filled & ~weak,
    )


def fill_gaps(poses: VideoPoses, most: int) -> VideoPoses:
    """Joints that are missing for a few frames get a path between their neighbours in time, and are marked.

    The path is monotone between known places (Fritsch and Carlson 1980); a filled joint has the lower score of the two that
    the gap lies between. People who are missing for a few frames come back in them, with every joint whose own gap is not
    longer than that.

    Args:
        poses: With tracks.
        most: Frames of the longest gap that is filled.
    """
    known_rows = [np.flatnonzero(poses.track_id == track_id) for track_id in poses.track_ids]
    rows = [np.setdiff1d(np.arange(len(poses.frame_index)), np.concatenate([*known_rows, []]))]
    parts = [_rows_of(poses, rows[0].astype(int))]
    parts += [_filled_track(poses, track_id, most) for track_id in poses.track_ids]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # People of one frame stay in their order; who comes back stands behind.
    order = np.lexsort([joined.pop("order"), joined["frame_index"]])
    return replace(poses, **{name: values[order] for name, values in joined.items()})


_COLUMNS = (
    "frame_index",
    "track_id",
    "box",
    "box_score",
    "score",
    "keypoints",
    "keypoint_scores",
    "filled",
)


def _rows_of(poses: VideoPoses, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: getattr(poses, name)[rows] for name in _COLUMNS} | {"order": rows}


def _filled_track(poses: VideoPoses, track_id: int, most: int) -> dict[str, np.ndarray]:
    """Rows of one track, in the frames where it is known or filled."""
    track = poses.track(track_id)
    rows = np.flatnonzero(poses.track_id == track_id)
    order = np.full(len(track), len(poses.frame_index) + rows[0])
    order[track.present] = rows
    filled = np.zeros(track.keypoint_scores.shape, bool)
    filled[track.present] = poses.filled[rows]
    back = np.zeros(len(track), bool)
    for gap in _gaps(track.present, poses.cuts, most):
        back[gap] = True
        for values in (track.box_score, track.score):
            values[gap] = min(values[gap.start - 1], values[gap.stop])
        ends = [gap.start - 1, gap.stop]
        share = (track.times[gap] - track.times[ends[0]]) / np.diff(track.times[ends])
        track.box[gap] = track.box[ends[0]] + share[:, None] * np.diff(track.box[ends], axis=0)
        track.keypoint_scores[gap] = 0
    kept = track.present | back
    for joint in range(len(poses.header.joints)):
        path, scores = track.keypoints[:, joint], track.keypoint_scores[:, joint]
        known = ~np.isnan(path[:, 0])
        gaps = _gaps(known, poses.cuts, most)
        # Once a joint: it takes as long as the track.
        between = PchipInterpolator(track.times[known], path[known]) if gaps else None
        for gap in gaps:
            assert between is not None
            path[gap] = between(track.times[gap])
            scores[gap] = min(scores[gap.start - 1], scores[gap.stop])
            filled[gap, joint] = True
    columns = {
        "frame_index": track.frame_indices,
        "track_id": np.full(len(track), track_id),
        "box": track.box,
        "box_score": track.box_score,
        "score": track.score,
        "keypoints": track.keypoints,
        "keypoint_scores": track.keypoint_scores,
        "filled": filled,
        "order": order,
    }
    return {name: values[kept] for name, values in columns.items()}


def _gaps(known: np.ndarray, cuts: np.ndarray, most: int) -> list[slice]:
    """Between known places of one scene, no longer than that."""
    gaps = [slice(before.stop, after.start) for before, after in pairwise(_runs(known, cuts))]
    return [
        gap
        for gap in gaps
        if gap.stop - gap.start <= most and not cuts[gap.start : gap.stop + 1].any()
    ]
