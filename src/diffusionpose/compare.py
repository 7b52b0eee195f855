"""Two people's movements, warped in time onto each other: how far their joint angles differ, as a table and as CSV."""

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
"""Stands for what is not known, in tables."""


@dataclass(frozen=True, eq=False)
class Movement:
    """One person's angles, in the frames where any of them is known.

    Args:
        video: Its name.
        track_id: Of the person.
        num_frames: In which an angle is known.
        times: (n,) seconds in the video, n > 0: of these frames, and maybe of moments between them.
        sequence: (n, len(ANGLES)) degrees with the duration of each row.
        gaps: (g, 2) seconds from and to, between known frames, in which no angle is known.
    """

    video: str
    track_id: int
    num_frames: int
    times: np.ndarray
    sequence: AngleSequence
    gaps: np.ndarray

    @property
    def facts(self) -> str:
        """Who, how long and when, and what is missing between."""
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
        """With the video's name, for terminals: what cannot be printed is spelt out."""
        name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in self.video)
        return f"{name}, {self.facts}"

    def refined(self, step: float) -> "Movement":
        """With moments between frames that follow each other, angles straight between theirs, about `step` seconds apart."""
        angles, durations = self.sequence.angles, self.sequence.durations
        parts = round(float(np.median(durations)) / step)
        if parts < 2:
            return self
        shares = np.arange(parts) / parts
        follows = np.append(np.isclose(self.times[:-1] + durations[:-1], self.times[1:]), False)
        turns = angle_difference(angles, np.roll(angles, -1, 0))
        turns[~follows] = np.nan
        between = angles[:, None] + shares[:, None] * turns[:, None]
        between[:, 0] = angles  # also where the next one is unknown
        between = angle_difference(np.zeros(1), between.reshape(-1, angles.shape[1]))
        known = np.isfinite(between).any(1)
        times = (self.times[:, None] + shares * durations[:, None]).ravel()
        sequence = AngleSequence(between[known], np.repeat(durations / parts, parts)[known])
        return replace(self, times=times[known], sequence=sequence)


def movement_of(
    poses: VideoPoses, track_id: int | None = None, *, mirrored: bool = False
) -> Movement:
    """The angles of one person; joints that score less than `plausibility.SURE` count as missing.

    Args:
        poses: The result.
        track_id: Of the person; None takes the one who is seen in most frames.
        mirrored: Exchange left and right, as a mirror does.

    Raises:
        DataError: If nobody has a track, or no angle of that person is known.
        UsageError: If there is no such person.
    """
    video = poses.header.video.name
    if not poses.track_ids:
        raise DataError(f"{video}: nobody in it has a track to compare")
    if track_id is None:
        track_id = max(poses.track_ids, key=lambda one: int((poses.track_id == one).sum()))
    if track_id not in poses.track_ids:
        there = ", ".join(map(str, poses.track_ids))
        raise UsageError(f"{video} has no person {track_id}: there are {there}")
    angles = judge(poses, track_id).angles
    known = np.isfinite(angles).any(1)
    if not known.any():
        raise DataError(f"{video}: no angle of person {track_id} is known in any frame")
    angles = mirror(angles[known]) if mirrored else angles[known]
    durations = frame_durations(poses.frame_times)
    sequence = AngleSequence(angles, durations[known])
    times = poses.frame_times
    gaps = _gaps(np.flatnonzero(known), times, times + durations)
    return Movement(video, track_id, int(known.sum()), times[known], sequence, gaps)


def _gaps(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(g, 2) from the end of one of the known frames `rows` to the start of the next, where others lie between."""
    is_gap = np.diff(rows) > 1
    return np.stack([ends[rows[:-1][is_gap]], starts[rows[1:][is_gap]]], 1)


def mirror(angles: np.ndarray) -> np.ndarray:
    """(..., len(ANGLES)) degrees as a mirror shows them: sides exchanged, the trunk leaning the other way."""
    left, right = SIDES
    swapped = [
        name.replace(left, right) if name.startswith(left) else name.replace(right, left)
        for name in ANGLES
    ]
    signs = [-1 if name == "trunk" else 1 for name in ANGLES]
    return angles[..., [ANGLES.index(name) for name in swapped]] * signs


def frame_durations(times: np.ndarray) -> np.ndarray:
    """(n,) increasing seconds -> (n,) seconds to the next frame; for the last the usual one, for a single one 1."""
    if len(times) < 2:
        return np.ones(len(times))
    steps = np.diff(times)
    return np.append(steps, np.median(steps))


@dataclass(frozen=True)
class AngleFigures:
    """One angle along the path; NaN where it is never known.

    Args:
        name: In `ANGLES`.
        mean: Absolute difference in degrees, over the time in which the angle is known in both.
        largest: Difference of B from A in degrees where it is furthest from 0.
        time_a: Seconds in A, there.
        time_b: Seconds in B, there.
        range_a: Degrees of motion of A.
        range_b: Degrees of motion of B.
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
    """Two movements and the path that lays one onto the other.

    Args:
        a: One movement.
        b: The other.
        warping: A's and B's rows.
        is_mirrored: Whether left and right of B are exchanged.
    """

    a: Movement
    b: Movement
    warping: Warping
    is_mirrored: bool = False

    @cached_property
    def angles_a(self) -> np.ndarray:
        """(k, len(ANGLES)) degrees of A along the path; NaN where unknown, and where it stands still over a gap."""
        return _angles_along(self.a, self.warping.first)

    @cached_property
    def angles_b(self) -> np.ndarray:
        """(k, len(ANGLES)) degrees of B along the path, likewise."""
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
        """Absolute difference of all angles, over the time in which they are known; NaN if they never are."""
        weights = np.repeat(self.warping.weights[:, None], len(ANGLES), 1)
        return _mean(np.abs(self.differences), weights)

    @cached_property
    def figures(self) -> tuple[AngleFigures, ...]:
        """Of every angle, in the order of `ANGLES`."""
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
    """(k, len(ANGLES)) degrees at rows (k,) that never go back."""
    angles = movement.sequence.angles[rows]
    for start, end in movement.gaps:
        # The other goes on while this one stands at either side of its gap: only coming there and leaving are pairs.
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
    """Degrees of the smallest arc that holds all known angles; NaN if none is."""
    known = np.sort(angles[np.isfinite(angles)])
    if not len(known):
        return np.nan
    # The trunk goes round: from 170 over 180 to -170 it has turned by 20.
    gaps = np.diff(known, append=known[0] + 360)
    return float(360 - gaps.max())


def compare(
    a: Movement, b: Movement, band: float = 1.0, *, is_mirrored: bool = False
) -> Comparison:
    """Lays one movement onto the other.

    Args:
        a: One movement.
        b: The other.
        band: As `warp` takes it.
        is_mirrored: Whether `b` was mirrored; it is noted only.

    Raises:
        UsageError: If they are too long for the band.
    """
    # Else each frame of the slower video would stand still for several of the faster.
    step = min(float(np.median(one.sequence.durations)) for one in (a, b))
    a, b = a.refined(step), b.refined(step)
    return Comparison(a, b, warp(a.sequence, b.sequence, band), is_mirrored)


def as_text(comparison: Comparison) -> str:
    """Who is compared, and a line for each angle."""
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
    """`left elbow` of `left_elbow`."""
    return name.replace("_", " ")


def number(value: float, decimals: int = 1) -> str:
    """Rounded, without a minus before 0; a dash for NaN."""
    return NOTHING if np.isnan(value) else f"{round(value, decimals) + 0.0:.{decimals}f}"


def as_csv(comparison: Comparison) -> str:
    """A row for each pair of the path: its times, and each angle of A and of B with B's difference from A."""
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
    """As `movement_of`, from a `NAME.poses.json`.

    Raises:
        DataError: Also if the file is none of ours.
    """
    return movement_of(read_result(path), track_id, mirrored=mirrored)
