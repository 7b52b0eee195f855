"""How alike two poses are: COCO's object keypoint similarity (OKS)."""

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
"""(15,) COCO's spread of annotators by joint; it has none for head_bottom and head_top, which get the shoulders'."""


def person_area(person: AnnotatedPerson) -> float:
    """Square pixels of the person's box, or of the joints' extent where there is none; 0 without either.

    PoseTrack has no outlines of people, whose area COCO takes.
    """
    if person.box is not None:
        width, height = np.maximum(person.box[2:] - person.box[:2], 0)
        return float(width * height)
    known = person.keypoints[np.isfinite(person.keypoints[:, 0])]
    return float(np.ptp(known, axis=0).prod()) if len(known) else 0.0


def object_keypoint_similarity(predicted: np.ndarray, truth: np.ndarray, area: float) -> float:
    """Mean over the joints of the truth of exp(-d^2 / (2 area (2 sigma)^2)), in [0, 1].

    Args:
        predicted: (15, 2) pixels; a missing joint counts 0.
        truth: (15, 2) pixels, NaN where missing.
        area: Of the true person, in square pixels.

    Returns:
        NaN where the truth has no joint.
    """
    known = np.isfinite(truth[:, 0])
    if not known.any():
        return float("nan")
    squared = ((predicted - truth)[known] ** 2).sum(axis=1)
    spread = 2 * (area + np.spacing(1)) * (2 * OKS_SIGMAS[known]) ** 2
    return float(np.nan_to_num(np.exp(-squared / spread)).mean())


def nearness(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the joints of the truth of 1 / (1 + d), in [0, 1], whatever the person's size.

    Args:
        predicted: (15, 2) pixels; a missing joint counts 0.
        truth: (15, 2) pixels, NaN where missing.

    Returns:
        NaN where the truth has no joint.
    """
    known = np.isfinite(truth[:, 0])
    if not known.any():
        return float("nan")
    distance = np.linalg.norm((predicted - truth)[known], axis=1)
    return float(np.nan_to_num(1 / (1 + distance)).mean())
