"""Angles of joints in the picture's plane, from keypoints.

They are those of the projection: a knee that bends towards the camera looks straight. Degrees, for each side where there is one.

| angle | of | 0 is |
|---|---|---|
| `elbow` | upper arm and forearm | the straight arm |
| `knee` | thigh and shank | the straight leg |
| `shoulder` | trunk and upper arm | the arm hanging down |
| `hip` | trunk and thigh | the leg in line with the trunk |
| `trunk` | the line from the middle of the hips to the middle of the shoulders | upright; to the picture's right positive |
"""

import numpy as np

from diffusionpose.skeleton import SIDES

_BENDS = {
    "elbow": (("shoulder", "elbow"), ("elbow", "wrist")),
    "knee": (("hip", "knee"), ("knee", "ankle")),
    "shoulder": (("shoulder", "hip"), ("shoulder", "elbow")),
    "hip": (("shoulder", "hip"), ("hip", "knee")),
}
"""Two directions each, between which the angle is 0 in the straight limb."""
ANGLES = (*(f"{side}_{name}" for name in _BENDS for side in SIDES), "trunk")


def joint_angles(keypoints: np.ndarray, joints: tuple[str, ...]) -> np.ndarray:
    """(..., num_joints, 2) pixels, y down -> (..., len(ANGLES)) degrees; NaN where a joint is missing or limbs have no length.

    Bends are in [0, 180], `trunk` in (-180, 180].
    """
    missing = np.full((*keypoints.shape[:-2], 2), np.nan)

    def at(name: str) -> np.ndarray:
        return keypoints[..., joints.index(name), :] if name in joints else missing

    found = []
    for limbs in _BENDS.values():
        for side in SIDES:
            one, other = (at(f"{side}_{end}") - at(f"{side}_{start}") for start, end in limbs)
            found.append(_between(one, other))
    hips, shoulders = (
        sum(at(f"{side}_{joint}") for side in SIDES) / 2 for joint in ("hip", "shoulder")
    )
    upward = np.asarray(shoulders - hips)
    trunk = np.degrees(np.arctan2(upward[..., 0], -upward[..., 1]))
    found.append(np.where(np.hypot(*np.moveaxis(upward, -1, 0)) > 0, trunk, np.nan))
    return np.stack(found, -1)


def _between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of two directions, without a sign."""
    cross = one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
    dot = (one * other).sum(-1)
    # atan2 is as exact for straight limbs as for bent ones; acos is not.
    angle = np.degrees(np.arctan2(np.abs(cross), dot))
    has_length = (np.square(one).sum(-1) > 0) & (np.square(other).sum(-1) > 0)
    return np.where(has_length, angle, np.nan)
