"""Dynamic time warping of two sequences of angles within a band, weighted by frame durations.

A path leads from the first to the last pair of frames, advancing by one frame in either sequence or
in both. Each step costs the difference of the pair that it reaches, times the time that passes in
both sequences: the symmetric form of Sakoe and Chiba (1978), with true durations as step weights.
All paths thus have the same total duration, and neither frame rates nor gaps favour any of them.
docs/decisions/014-warping.md explains why this is not left to a library.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffusionpose.errors import UsageError

UNKNOWN = 30.0
"""Difference in degrees assumed for an angle that is unknown in either frame, so that paths do not
seek unknown angles."""
MOST_PAIRS = 300_000_000
"""Maximum number of pairs of frames within the band: each takes a byte and some 50 ns."""
_TIE = 1e-9
_BOTH, _FIRST, _SECOND = range(3)
"""Which sequence advances in a step."""


@dataclass(frozen=True, eq=False)
class AngleSequence:
    """Angles over time.

    Args:
        angles: (n, num_angles) degrees, n > 0; NaN where unknown.
        durations: (n,) seconds that each row lasts, positive.
    """

    angles: np.ndarray
    durations: np.ndarray

    @cached_property
    def shares(self) -> np.ndarray:
        """(n,) duration of each row as a fraction of the total."""
        return self.durations / self.durations.sum()

    @property
    def progress(self) -> np.ndarray:
        """(n,) middle of each row in time, as a fraction of the total in [0, 1]."""
        return np.cumsum(self.shares) - self.shares / 2


@dataclass(frozen=True, eq=False)
class Warping:
    """A warping path through two sequences.

    Args:
        first: (k,) rows of the first sequence; each is the previous one or the next.
        second: (k,) rows of the second sequence, likewise.
        weights: (k,) time that passes in the step to each pair, as a fraction of both sequences;
            the sum is 1.
    """

    first: np.ndarray
    second: np.ndarray
    weights: np.ndarray


def angle_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Signed difference `other - one` in degrees, wrapped to [-180, 180]."""
    difference = other - one
    return difference - 360 * np.rint(difference / 360)


def warp(first: AngleSequence, second: AngleSequence, band: float = 1.0) -> Warping:
    """Find the path with the lowest cost.

    Args:
        first: One sequence.
        second: The other, with the same angles.
        band: Maximum difference in progress of a pair, as a fraction of the whole; 1 is no limit.

    Raises:
        UsageError: If more than `MOST_PAIRS` pairs lie within the band.
    """
    low, high = _band(first.progress, second.progress, band)
    num_pairs = int((high - low + 1).sum())
    if num_pairs > MOST_PAIRS:
        raise UsageError(
            f"{len(first.angles)} x {len(second.angles)} frames are too many to align with --band {band:g}: use a "
            f"band below {band * MOST_PAIRS / num_pairs:.2g}, or shorter videos"
        )
    return _traced(first, second, *_steps(first, second, low, high))


def _band(first: np.ndarray, second: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """For each row of the first sequence, the lowest and highest row of the second within the band.

    Bands of consecutive rows are widened where needed, so that a path can always step between them.
    """
    last = len(second) - 1
    low = np.searchsorted(second, first - width)
    high = np.searchsorted(second, first + width, side="right") - 1
    low[0], high[-1] = 0, last
    low, high = np.clip(low, 0, last), np.clip(high, 0, last)
    high = np.maximum.accumulate(np.maximum(high, low))
    low[1:] = np.minimum(low[1:], np.minimum(high[:-1] + 1, last))
    return low, high


def _steps(
    first: AngleSequence, second: AngleSequence, low: np.ndarray, high: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Find the last step of the cheapest path to each pair of the band.

    The pairs (i, j) of a diagonal i + j = d do not depend on each other, so diagonals are
    vectorised.

    Returns:
        For each diagonal, the steps to its pairs by increasing i; and for each diagonal, its lowest
        i.
    """
    rows = np.arange(len(low))
    diagonals = np.arange(len(first.angles) + len(second.angles) - 1)
    starts = np.searchsorted(rows + high, diagonals)
    ends = np.searchsorted(rows + low, diagonals, side="right")
    # Costs by i + 1 on the two previous diagonals; the path starts before both sequences, at i =
    # -1.
    before, earlier = np.full((2, len(rows) + 1), np.inf)
    earlier[0] = 0
    # Contiguous by angle and in single precision, as this dominates the run time.
    one = np.ascontiguousarray(first.angles.T, np.float32)
    backwards = np.ascontiguousarray(second.angles[::-1].T, np.float32)
    shares, last = second.shares[::-1], len(second.angles) - 1
    steps = []
    for diagonal, start, end in zip(diagonals, starts, ends, strict=True):
        columns = slice(last - diagonal + start, last - diagonal + end)
        cost = _cost(one[:, start:end], backwards[:, columns])
        one_on = cost * first.shares[start:end]
        other_on = cost * shares[columns]
        totals = np.stack(
            [
                earlier[start:end] + one_on + other_on,
                before[start:end] + one_on,
                before[start + 1 : end + 1] + other_on,
            ]
        )
        # Prefer the diagonal step among paths that differ by rounding only.
        taken = np.argmin(totals - [[_TIE], [0], [0]], axis=0)
        steps.append(taken.astype(np.uint8))
        earlier, before = before, np.full(len(rows) + 1, np.inf)
        before[start + 1 : end + 1] = np.take_along_axis(totals, taken[None], 0)[0]
    return steps, starts


def _cost(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each pair in degrees: twice (num_angles, k) -> (k,)."""
    difference = np.abs(one - other)
    np.minimum(difference, 360 - difference, out=difference)
    difference[np.isnan(difference)] = UNKNOWN
    return difference.mean(0)


def _traced(
    first: AngleSequence, second: AngleSequence, steps: list[np.ndarray], starts: np.ndarray
) -> Warping:
    """Trace the path back from its end to its start."""
    row, column = len(first.angles) - 1, len(second.angles) - 1
    path = []
    while row >= 0 and column >= 0:
        step = steps[row + column][row - starts[row + column]]
        path.append((row, column, step))
        row -= step != _SECOND
        column -= step != _FIRST
    rows, columns, taken = np.array(path[::-1]).T
    passed = (taken != _SECOND) * first.shares[rows] + (taken != _FIRST) * second.shares[columns]
    return Warping(rows, columns, passed / 2)
