"""Joint angles in the image plane, from keypoints.

These are angles of the projection: a knee that bends towards the camera looks straight. All are in
degrees, one for each side of the body except `trunk`.

| angle | between | 0 is |
|---|---|---|
| `elbow` | upper arm and forearm | straight arm |
| `knee` | thigh and shank | straight leg |
| `shoulder` | trunk and upper arm | arm hanging down |
| `hip` | trunk and thigh | leg in line with the trunk |
| `trunk` | mid-hip to mid-shoulder line and the vertical | upright; positive to the image's right |
"""

import numpy as np

from diffusionpose.skeleton import SIDES

_BENDS = {
    "elbow": (("shoulder", "elbow"), ("elbow", "wrist")),
    "knee": (("hip", "knee"), ("knee", "ankle")),
    "shoulder": (("shoulder", "hip"), ("shoulder", "elbow")),
    "hip": (("shoulder", "hip"), ("hip", "knee")),
}
"""Two directions for each angle, as (from, to) joints; the angle is 0 if they are parallel."""
ANGLES = (*(f"{side}_{name}" for name in _BENDS for side in SIDES), "trunk")


def joint_angles(keypoints: np.ndarray, joints: tuple[str, ...]) -> np.ndarray:
    """Compute all `ANGLES` from keypoints.

    Args:
        keypoints: (..., num_joints, 2) pixels, y down; NaN where missing.
        joints: Joint names in the order of `keypoints`.

    Returns:
        (..., len(ANGLES)) degrees: `trunk` in (-180, 180], the others in [0, 180]. NaN where a
        joint is missing or a limb has no length.
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
    """Unsigned angle between two directions in degrees; NaN if either has no length."""
    cross = one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
    dot = (one * other).sum(-1)
    # Unlike acos, atan2 is accurate for nearly straight limbs too.
    angle = np.degrees(np.arctan2(np.abs(cross), dot))
    has_length = (np.square(one).sum(-1) > 0) & (np.square(other).sum(-1) > 0)
    return np.where(has_length, angle, np.nan)
