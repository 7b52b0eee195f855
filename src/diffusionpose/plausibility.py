"""Where poses do not look like a person's: limbs that change their length, joints bent further than joints go.

A limb that turns towards the camera looks shorter, never longer; so frames are flagged for long limbs, for jumps of length
within one frame, and for angles out of their bands. A flag says where to look, not that something is wrong: who comes
nearer to the camera grows, too.
"""

from dataclasses import dataclass

import numpy as np

from diffusionpose.angles import ANGLES, joint_angles
from diffusionpose.poses import VideoPoses

SURE = 0.3
"""Joints that score less are not judged."""
LONGEST = 1.4
"""Of a limb, in medians of its track."""
LARGEST_JUMP = 0.5
"""Of a limb's length from frame to frame, in medians of its track."""
SHORTEST = 0.3
"""Of the longest limb's median; shorter limbs are shown and not judged."""
BANDS = {"elbow": (0.0, 165.0), "knee": (0.0, 165.0), "hip": (0.0, 160.0)}
"""Degrees that a joint of that name reaches; shoulder and trunk go anywhere."""


@dataclass(frozen=True)
class Flag:
    """One thing to look at.

    Args:
        frame: Its index in the video.
        what: Limb or angle, as people say it.
        why: What it left, with figures.
    """

    frame: int
    what: str
    why: str


@dataclass(frozen=True, eq=False)
class Plausibility:
    """One track, a row a frame.

    Args:
        lengths: (num_frames, num_limbs) of limbs in medians of the track; NaN where an end is missing or unsure.
        angles: (num_frames, len(ANGLES)) degrees, likewise.
        flags: What leaves its band, in order of frames.
    """

    lengths: np.ndarray
    angles: np.ndarray
    flags: tuple[Flag, ...]


def limb_names(poses: VideoPoses) -> tuple[str, ...]:
    """`left_hip to left_knee`, in the order of the skeleton's limbs."""
    joints = poses.header.joints
    return tuple(f"{joints[a]} to {joints[b]}" for a, b in poses.header.limbs)


def judge(poses: VideoPoses, track_id: int) -> Plausibility:
    """One person through the video.

    Raises:
        KeyError: If there is no such track.
    """
    track = poses.track(track_id)
    points = np.where((track.keypoint_scores >= SURE)[..., None], track.keypoints, np.nan)
    limbs = np.array(poses.header.limbs, int).reshape(-1, 2)
    lengths = np.linalg.norm(points[:, limbs[:, 0]] - points[:, limbs[:, 1]], axis=-1)
    usual = _medians(lengths)
    lengths = lengths / usual
    # Of a short limb, a few pixels are a large share.
    judged = lengths.copy()
    judged[:, usual < SHORTEST * np.nanmax(usual, initial=0.0)] = np.nan
    angles = joint_angles(points, poses.header.joints)
    indices = track.frame_indices
    flags = [
        *_long_limbs(judged, limb_names(poses), indices),
        *_jumps(judged, limb_names(poses), indices),
        *_bent(angles, indices),
    ]
    return Plausibility(lengths, angles, tuple(sorted(flags, key=lambda flag: flag.frame)))


def _medians(values: np.ndarray) -> np.ndarray:
    """Of each column; NaN for columns without a positive one."""
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


def _jumps(lengths: np.ndarray, names: tuple[str, ...], indices: np.ndarray) -> list[Flag]:
    """Between frames that follow each other."""
    steps = np.abs(np.diff(lengths, axis=0))
    steps[np.diff(indices) != 1] = np.nan
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
