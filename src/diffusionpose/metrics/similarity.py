"""Similarity of two poses: COCO's object keypoint similarity (OKS)."""

import numpy as np

from diffusionpose.annotations import AnnotatedPerson
from diffusionpose.skeleton import POSETRACK15

_SIGMAS = {
    "nose": 0.026,
    "head_bottom": 0.079,
    "head_top": 0.079,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
OKS_SIGMAS = np.array(
    [_SIGMAS[joint.removeprefix("left_").removeprefix("right_")] for joint in POSETRACK15.joints]
)
"""(15,) COCO's sigmas; head_bottom and head_top, not in COCO, get that of the shoulders."""


def person_area(person: AnnotatedPerson) -> float:
    """Return the area of the person's box, or else of the joints' extent, in square pixels.

    The result is 0 without box and joints. COCO uses the area of the segmentation mask, which
    PoseTrack does not have.
    """
    if person.box is not None:
        width, height = np.maximum(person.box[2:] - person.box[:2], 0)
        return float(width * height)
    known = person.keypoints[np.isfinite(person.keypoints[:, 0])]
    return float(np.ptp(known, axis=0).prod()) if len(known) else 0.0


def object_keypoint_similarity(predicted: np.ndarray, truth: np.ndarray, area: float) -> float:
    """Compute OKS: the mean of exp(-d^2 / (2 area (2 sigma)^2)) over annotated joints.

    Args:
        predicted: (15, 2) pixels; a missing joint counts as 0.
        truth: (15, 2) pixels, NaN where missing.
        area: Area of the annotated person in square pixels.

    Returns:
        OKS in [0, 1]; NaN if no joint is annotated.
    """
    known = np.isfinite(truth[:, 0])
    if not known.any():
        return float("nan")
    squared = ((predicted - truth)[known] ** 2).sum(axis=1)
    spread = 2 * (area + np.spacing(1)) * (2 * OKS_SIGMAS[known]) ** 2
    return float(np.nan_to_num(np.exp(-squared / spread)).mean())


def nearness(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the mean of 1 / (1 + d) over annotated joints, independent of the person's size.

    Args:
        predicted: (15, 2) pixels; a missing joint counts as 0.
        truth: (15, 2) pixels, NaN where missing.

    Returns:
        Nearness in [0, 1]; NaN if no joint is annotated.
    """
    known = np.isfinite(truth[:, 0])
    if not known.any():
        return float("nan")
    distance = np.linalg.norm((predicted - truth)[known], axis=1)
    return float(np.nan_to_num(1 / (1 + distance)).mean())
