"""Plausibility checks of poses: limbs of unusual length, and joints bent beyond their range.

A limb that turns towards the camera looks shorter, never longer. Frames are therefore flagged for
long limbs, for jumps in length from one frame to the next, and for angles outside their range. A
flag is a hint where to look, not an error: a person who approaches the camera grows, too.
"""

from dataclasses import dataclass

import numpy as np

from diffusionpose.angles import ANGLES, joint_angles
from diffusionpose.poses import VideoPoses

SURE = 0.3
"""Joints that score less are ignored."""
LONGEST = 1.4
"""Maximum length of a limb, relative to its median over the track."""
LARGEST_JUMP = 0.5
"""Maximum change of a limb's length between consecutive frames, relative to its median."""
SHORTEST = 0.3
"""Limbs with a median below this fraction of the longest limb's median are reported but not
flagged."""
BANDS = {"elbow": (0.0, 165.0), "knee": (0.0, 165.0), "hip": (0.0, 160.0)}
"""Range of each angle in degrees; shoulder and trunk are unlimited."""


@dataclass(frozen=True)
class Flag:
    """An implausible measurement.

    Args:
        frame: Index in the video.
        what: Name of the limb or angle.
        why: The measurement and the limit it exceeds.
    """

    frame: int
    what: str
    why: str


@dataclass(frozen=True, eq=False)
class Plausibility:
    """Measurements of one track, one row per frame.

    Args:
        lengths: (num_frames, num_limbs) relative to the median over the track; NaN where an end is
            missing or scores less than `SURE`.
        angles: (num_frames, len(ANGLES)) degrees, with NaN likewise.
        flags: Implausible measurements, sorted by frame.
    """

    lengths: np.ndarray
    angles: np.ndarray
    flags: tuple[Flag, ...]


def limb_names(poses: VideoPoses) -> tuple[str, ...]:
    """Names such as `left_hip to left_knee`, in the order of the skeleton's limbs."""
    joints = poses.header.joints
    return tuple(f"{joints[a]} to {joints[b]}" for a, b in poses.header.limbs)


def judge(poses: VideoPoses, track_id: int) -> Plausibility:
    """Check the poses of one track.

    Raises:
        KeyError: If there is no such track.
    """
    track = poses.track(track_id)
    points = np.where((track.keypoint_scores >= SURE)[..., None], track.keypoints, np.nan)
    limbs = np.array(poses.header.limbs, int).reshape(-1, 2)
    lengths = np.linalg.norm(points[:, limbs[:, 0]] - points[:, limbs[:, 1]], axis=-1)
    usual = _medians(lengths)
    lengths = lengths / usual
    # Of a short limb, a few pixels of error are a large fraction.
    judged = lengths.copy()
    judged[:, usual < SHORTEST * np.nanmax(usual, initial=0.0)] = np.nan
    angles = joint_angles(points, poses.header.joints)
    indices = track.frame_indices
    flags = [
        *_long_limbs(judged, limb_names(poses), indices),
        *_jumps(judged, limb_names(poses), indices, poses.cuts),
        *_bent(angles, indices),
    ]
    return Plausibility(lengths, angles, tuple(sorted(flags, key=lambda flag: flag.frame)))


def _medians(values: np.ndarray) -> np.ndarray:
    """Median of each column, ignoring NaN; NaN where it is not positive."""
    out = np.full(values.shape[1], np.nan)
    for column in range(values.shape[1]):
        known = values[:, column][np.isfinite(values[:, column])]
        if len(known) and np.median(known) > 0:
            out[column] = np.median(known)
    return out


def _long_limbs(lengths: np.ndarray, names: tuple[str, ...], indices: np.ndarray) -> list[Flag]:
    return [
        Flag(int(indices[row]), names[limb], f"{lengths[row, limb]:.2f} of its usual length")
        for row, limb in np.argwhere(lengths > LONGEST)
    ]


def _jumps(
    lengths: np.ndarray, names: tuple[str, ...], indices: np.ndarray, cuts: np.ndarray
) -> list[Flag]:
    """Flag large changes of length between consecutive frames of one scene."""
    steps = np.abs(np.diff(lengths, axis=0))
    steps[(np.diff(indices) != 1) | cuts[1:]] = np.nan
    return [
        Flag(
            int(indices[row + 1]),
            names[limb],
            f"from {lengths[row, limb]:.2f} to {lengths[row + 1, limb]:.2f} of its usual length in one frame",
        )
        for row, limb in np.argwhere(steps > LARGEST_JUMP)
    ]


def _bent(angles: np.ndarray, indices: np.ndarray) -> list[Flag]:
    flags = []
    for column, name in enumerate(ANGLES):
        low, high = BANDS.get(name.split("_")[-1], (-np.inf, np.inf))
        values = angles[:, column]
        flags += [
            Flag(int(indices[row]), name, f"{values[row]:.0f} degrees, beyond {high:.0f}")
            for row in np.flatnonzero((values < low) | (values > high))
        ]
    return flags
