"""Comparison of two people's joint angles, aligned by dynamic time warping."""

import csv
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path

import numpy as np

from diffusionpose.angles import ANGLES
from diffusionpose.errors import DataError, UsageError
from diffusionpose.formats import counted
from diffusionpose.plausibility import judge
from diffusionpose.poses import VideoPoses
from diffusionpose.results import read_result
from diffusionpose.skeleton import SIDES
from diffusionpose.warping import AngleSequence, Warping, angle_difference, warp

NOTHING = "-"
"""Placeholder for unknown values in tables."""


@dataclass(frozen=True, eq=False)
class Movement:
    """One person's joint angles, in the frames where any of them is known.

    Args:
        video: Name of the video.
        track_id: Of the person.
        num_frames: Number of frames in which an angle is known.
        times: (n,) seconds in the video, n > 0; may include moments between frames (`refined`).
        sequence: (n, len(ANGLES)) degrees, with the duration of each row.
        gaps: (g, 2) start and end in seconds of the gaps in which no angle is known.
    """

    video: str
    track_id: int
    num_frames: int
    times: np.ndarray
    sequence: AngleSequence
    gaps: np.ndarray

    @property
    def facts(self) -> str:
        """Person, number of frames, time range and gaps, as text."""
        start, end = self.times[0], self.times[-1]
        frames = counted(self.num_frames, "frame")
        known = f"person {self.track_id}, {frames}, {start:.2f} s to {end:.2f} s"
        if not len(self.gaps):
            return known
        if len(self.gaps) == 1:
            return f"{known}, unknown from {self.gaps[0, 0]:.2f} s to {self.gaps[0, 1]:.2f} s"
        lengths = np.diff(self.gaps)
        longest_start, longest_end = self.gaps[int(lengths.argmax())]
        return (
            f"{known}, unknown in {len(self.gaps)} gaps, {lengths.sum():.2f} s in all, "
            f"the longest from {longest_start:.2f} s to {longest_end:.2f} s"
        )

    @property
    def title(self) -> str:
        """`facts` after the video's name, in which unprintable characters are escaped."""
        name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in self.video)
        return f"{name}, {self.facts}"

    def refined(self, step: float) -> "Movement":
        """Interpolate linearly between consecutive frames, to about `step` seconds per row."""
        angles, durations = self.sequence.angles, self.sequence.durations
        parts = round(float(np.median(durations)) / step)
        if parts < 2:
            return self
        shares = np.arange(parts) / parts
        follows = np.append(np.isclose(self.times[:-1] + durations[:-1], self.times[1:]), False)
        turns = angle_difference(angles, np.roll(angles, -1, 0))
        turns[~follows] = np.nan
        between = angles[:, None] + shares[:, None] * turns[:, None]
        between[:, 0] = angles  # known angles stay, even if the next one is NaN
        between = angle_difference(np.zeros(1), between.reshape(-1, angles.shape[1]))
        known = np.isfinite(between).any(1)
        times = (self.times[:, None] + shares * durations[:, None]).ravel()
        sequence = AngleSequence(between[known], np.repeat(durations / parts, parts)[known])
        return replace(self, times=times[known], sequence=sequence)


def movement_of(
    poses: VideoPoses, track_id: int | None = None, *, mirrored: bool = False
) -> Movement:
    """Extract one person's angles; joints below `plausibility.SURE` count as missing.

    Args:
        poses: The result.
        track_id: Of the person; None selects the person seen in the most frames.
        mirrored: Swap left and right.

    Raises:
        DataError: If there are no tracks, or no angle of that person is known.
        UsageError: If there is no such person.
    """
    video = poses.header.video.name
    if not poses.track_ids:
        raise DataError(f"{video}: nothing to compare, nobody has a track id")
    if track_id is None:
        track_id = max(poses.track_ids, key=lambda one: int((poses.track_id == one).sum()))
    if track_id not in poses.track_ids:
        there = ", ".join(map(str, poses.track_ids))
        raise UsageError(f"{video} has no person {track_id}: choose from {there}")
    angles = judge(poses, track_id).angles
    known = np.isfinite(angles).any(1)
    if not known.any():
        raise DataError(f"{video}: person {track_id} has no known angle in any frame")
    angles = mirror(angles[known]) if mirrored else angles[known]
    durations = frame_durations(poses.frame_times)
    sequence = AngleSequence(angles, durations[known])
    times = poses.frame_times
    gaps = _gaps(np.flatnonzero(known), times, times + durations)
    return Movement(video, track_id, int(known.sum()), times[known], sequence, gaps)


def _gaps(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Find gaps between known frames.

    Args:
        rows: Indices of the known frames, increasing.
        starts: Start of every frame in seconds.
        ends: End of every frame in seconds.

    Returns:
        (g, 2) start and end of each gap in seconds.
    """
    is_gap = np.diff(rows) > 1
    return np.stack([ends[rows[:-1][is_gap]], starts[rows[1:][is_gap]]], 1)


def mirror(angles: np.ndarray) -> np.ndarray:
    """Mirror (..., len(ANGLES)) degrees: swap sides and negate the trunk's lean."""
    left, right = SIDES
    swapped = [
        name.replace(left, right) if name.startswith(left) else name.replace(right, left)
        for name in ANGLES
    ]
    signs = [-1 if name == "trunk" else 1 for name in ANGLES]
    return angles[..., [ANGLES.index(name) for name in swapped]] * signs


def frame_durations(times: np.ndarray) -> np.ndarray:
    """(n,) increasing seconds -> (n,) seconds to the next frame.

    The last frame gets the median duration; a single frame lasts 1 s.
    """
    if len(times) < 2:
        return np.ones(len(times))
    steps = np.diff(times)
    return np.append(steps, np.median(steps))


@dataclass(frozen=True)
class AngleFigures:
    """Statistics of one angle along the warping path; NaN if it is never known.

    Args:
        name: One of `ANGLES`.
        mean: Mean absolute difference in degrees, over the time in which both are known.
        largest: The difference B - A in degrees that is largest in magnitude.
        time_a: Its time in A, in seconds.
        time_b: Its time in B, in seconds.
        range_a: Range of motion of A in degrees.
        range_b: Range of motion of B in degrees.
    """

    name: str
    mean: float
    largest: float
    time_a: float
    time_b: float
    range_a: float
    range_b: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two movements and the warping path that aligns them.

    Args:
        a: One movement.
        b: The other.
        warping: Pairs of rows of A and B.
        is_mirrored: Whether left and right of B are swapped.
    """

    a: Movement
    b: Movement
    warping: Warping
    is_mirrored: bool = False

    @cached_property
    def angles_a(self) -> np.ndarray:
        """(k, len(ANGLES)) degrees of A along the path; NaN where unknown or held over a gap."""
        return _angles_along(self.a, self.warping.first)

    @cached_property
    def angles_b(self) -> np.ndarray:
        """(k, len(ANGLES)) degrees of B along the path; NaN where unknown or held over a gap."""
        return _angles_along(self.b, self.warping.second)

    @cached_property
    def times_a(self) -> np.ndarray:
        """(k,) seconds in A along the path."""
        return self.a.times[self.warping.first]

    @cached_property
    def times_b(self) -> np.ndarray:
        """(k,) seconds in B along the path."""
        return self.b.times[self.warping.second]

    @cached_property
    def differences(self) -> np.ndarray:
        """(k, len(ANGLES)) degrees from A to B, in [-180, 180]; NaN where either is unknown."""
        return angle_difference(self.angles_a, self.angles_b)

    @cached_property
    def mean(self) -> float:
        """Mean absolute difference of all angles in degrees, weighted by time; NaN if unknown."""
        weights = np.repeat(self.warping.weights[:, None], len(ANGLES), 1)
        return _mean(np.abs(self.differences), weights)

    @cached_property
    def figures(self) -> tuple[AngleFigures, ...]:
        """Statistics of each angle, in the order of `ANGLES`."""
        return tuple(self._figures(column) for column in range(len(ANGLES)))

    def _figures(self, column: int) -> AngleFigures:
        differences = self.differences[:, column]
        size = np.abs(differences)
        known = np.isfinite(size)
        worst = int(np.nanargmax(size)) if known.any() else None
        return AngleFigures(
            name=ANGLES[column],
            mean=_mean(size, self.warping.weights),
            largest=np.nan if worst is None else float(differences[worst]),
            time_a=np.nan if worst is None else float(self.times_a[worst]),
            time_b=np.nan if worst is None else float(self.times_b[worst]),
            range_a=motion_range(self.a.sequence.angles[:, column]),
            range_b=motion_range(self.b.sequence.angles[:, column]),
        )


def _angles_along(movement: Movement, rows: np.ndarray) -> np.ndarray:
    """(k, len(ANGLES)) degrees at `rows` (k,), which must not decrease."""
    angles = movement.sequence.angles[rows]
    for start, end in movement.gaps:
        # While this sequence is held at either side of a gap, the other one moves on: only the
        # first and the last of these pairs are real matches.
        before = int(np.searchsorted(movement.times, (start + end) / 2)) - 1
        comes = int(np.searchsorted(rows, before))
        leaves = int(np.searchsorted(rows, before + 1, side="right")) - 1
        angles[comes + 1 : leaves] = np.nan
    return angles


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    known = np.isfinite(values)
    total = weights[known].sum()
    return float((values[known] * weights[known]).sum() / total) if total > 0 else np.nan


def motion_range(angles: np.ndarray) -> float:
    """Degrees of the smallest arc that contains all known angles; NaN if there are none."""
    known = np.sort(angles[np.isfinite(angles)])
    if not len(known):
        return np.nan
    # Angles wrap around: from 170 to -170 the trunk has turned by 20 degrees.
    gaps = np.diff(known, append=known[0] + 360)
    return float(360 - gaps.max())


def compare(
    a: Movement, b: Movement, band: float = 1.0, *, is_mirrored: bool = False
) -> Comparison:
    """Align two movements in time.

    Args:
        a: One movement.
        b: The other.
        band: Passed to `warp`.
        is_mirrored: Whether `b` was mirrored; recorded in the result only.

    Raises:
        UsageError: If the movements are too long for the band.
    """
    # At different frame rates, each frame of the slower video would be held for several of the
    # faster.
    step = min(float(np.median(one.sequence.durations)) for one in (a, b))
    a, b = a.refined(step), b.refined(step)
    return Comparison(a, b, warp(a.sequence, b.sequence, band), is_mirrored)


def as_text(comparison: Comparison) -> str:
    """Format a comparison as a text table with a line for each angle."""
    mirrored = ", left and right exchanged" if comparison.is_mirrored else ""
    lines = [
        f"A: {comparison.a.title}",
        f"B: {comparison.b.title}{mirrored}",
        "",
        f"{'degrees':<16}{'mean':>7}{'largest':>9}{'at A, s':>10}{'at B, s':>10}{'range A':>9}{'range B':>9}",
    ]
    lines += [
        f"{words(one.name):<16}{number(one.mean):>7}{number(one.largest):>9}{number(one.time_a, 2):>10}"
        f"{number(one.time_b, 2):>10}{number(one.range_a):>9}{number(one.range_b):>9}"
        for one in comparison.figures
    ]
    lines.append(f"{'all':<16}{number(comparison.mean):>7}")
    return "\n".join(lines) + "\n"


def words(name: str) -> str:
    """Display name of an angle: `left elbow` for `left_elbow`."""
    return name.replace("_", " ")


def number(value: float, decimals: int = 1) -> str:
    """Format a number, avoiding -0; a dash for NaN."""
    return NOTHING if np.isnan(value) else f"{round(value, decimals) + 0.0:.{decimals}f}"


def as_csv(comparison: Comparison) -> str:
    """Format as CSV: for each pair of the path, its times, and A, B and B - A of each angle."""
    columns = np.stack([comparison.angles_a, comparison.angles_b, comparison.differences], -1)
    header = [f"{name}_{part}" for name in ANGLES for part in ("a", "b", "difference")]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time_a", "time_b", *header])
    rows = zip(
        comparison.times_a, comparison.times_b, columns.reshape(len(columns), -1), strict=True
    )
    for time_a, time_b, values in rows:
        cells = ["" if np.isnan(value) else round(float(value), 2) + 0.0 for value in values]
        writer.writerow([round(float(time_a), 6), round(float(time_b), 6), *cells])
    return text.getvalue()


def load_movement(path: Path, track_id: int | None, *, mirrored: bool = False) -> Movement:
    """Read a `NAME.poses.json` and extract one person's angles, as `movement_of`.

    Raises:
        DataError: If the file is not a valid result, there are no tracks, or no angle is known.
        UsageError: If there is no such person.
    """
    return movement_of(read_result(path), track_id, mirrored=mirrored)
