"""Dynamic time warping of two sequences of angles, within a band, by the time that every frame lasts.

A path goes from the first pair of frames to the last, one frame on in one sequence or in both, and pays for each step the
difference of the pair that it comes to, times the time that has passed in both: the symmetric form of Sakoe and Chiba (1978),
with true durations for steps. So all paths have the same length in time, and neither rates of frames nor gaps favour one.
docs/decisions/014-warping.md says why no library does this here.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffusionpose.errors import UsageError

UNKNOWN = 30.0
"""Degrees that an angle which is unknown in either frame counts as, so that a path gains nothing by what cannot be seen."""
MOST_PAIRS = 300_000_000
"""Of frames, within the band: a byte and some 50 ns each."""
_TIE = 1e-9
_BOTH, _FIRST, _SECOND = range(3)
"""Which sequence a step goes one frame on in."""


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
        """(n,) of each row's duration in the whole."""
        return self.durations / self.durations.sum()

    @property
    def progress(self) -> np.ndarray:
        """(n,) in [0, 1]: the middle of each row, as a share of the whole."""
        return np.cumsum(self.shares) - self.shares / 2


@dataclass(frozen=True, eq=False)
class Warping:
    """A path through two sequences.

    Args:
        first: (k,) rows of the first sequence, each next one the same or one on.
        second: (k,) likewise, of the second.
        weights: (k,) that sum to 1: the time that passes on the way to each pair, as a share of both sequences.
    """

    first: np.ndarray
    second: np.ndarray
    weights: np.ndarray


def angle_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Degrees from one angle to the other, in [-180, 180], the short way round."""
    difference = other - one
    return difference - 360 * np.rint(difference / 360)


def warp(first: AngleSequence, second: AngleSequence, band: float = 1.0) -> Warping:
    """The path with the least difference.

    Args:
        first: One sequence.
        second: The other, with the same angles.
        band: How far the progress of a pair may differ, as a share of the whole; 1 is no limit.

    Raises:
        UsageError: If more pairs lie within the band than memory is meant to hold.
    """
    low, high = _band(first.progress, second.progress, band)
    num_pairs = int((high - low + 1).sum())
    if num_pairs > MOST_PAIRS:
        raise UsageError(
            f"{len(first.angles)} x {len(second.angles)} frames are too many to warp with --band {band:g}: take less "
            f"than {band * MOST_PAIRS / num_pairs:.2g}, or cut the videos"
        )
    return _traced(first, second, *_steps(first, second, low, high))


def _band(first: np.ndarray, second: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """For each row of the first the lowest and highest row of the second; neighbours always have a step between them."""
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
    """The step by which the cheapest path comes to each pair of the band.

    Pairs (i, j) of one diagonal, i + j = d, know nothing of each other, so each diagonal is computed at once.

    Returns:
        For each diagonal the steps to its pairs by increasing i; for each diagonal its lowest i.
    """
    rows = np.arange(len(low))
    diagonals = np.arange(len(first.angles) + len(second.angles) - 1)
    starts = np.searchsorted(rows + high, diagonals)
    ends = np.searchsorted(rows + low, diagonals, side="right")
    # Paths' costs by i + 1, of the diagonal before and of that before it; there the path starts, before both sequences.
    before, earlier = np.full((2, len(rows) + 1), np.inf)
    earlier[0] = 0
    # Angle by angle and in single precision: this is where the time goes.
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
        # Of paths that differ by rounding only, the straight one.
        taken = np.argmin(totals - [[_TIE], [0], [0]], axis=0)
        steps.append(taken.astype(np.uint8))
        earlier, before = before, np.full(len(rows) + 1, np.inf)
        before[start + 1 : end + 1] = np.take_along_axis(totals, taken[None], 0)[0]
    return steps, starts


def _cost(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(num_angles, k) each -> (k,) mean difference of each pair in degrees."""
    difference = np.abs(one - other)
    np.minimum(difference, 360 - difference, out=difference)
    difference[np.isnan(difference)] = UNKNOWN
    return difference.mean(0)


def _traced(
    first: AngleSequence, second: AngleSequence, steps: list[np.ndarray], starts: np.ndarray
) -> Warping:
    """The path from its end back to its start."""
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
