"""PCK: percentage of joints within a fraction of the person's torso or head length."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from diffusionpose.metrics.base import JointMetric
from diffusionpose.metrics.pairs import VideoPair, matched_people
from diffusionpose.metrics.posetrack_frames import (
    flat_head_note,
    head_length,
    require_head_boxes,
)
from diffusionpose.skeleton import POSETRACK15, Skeleton

LIMB_JOINTS = tuple(
    f"{side}_{joint}"
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
)


def torso_lengths(keypoints: np.ndarray, joints: Sequence[str]) -> np.ndarray:
    """Return the distances from left shoulder to right hip.

    Args:
        keypoints: (..., len(joints), 2) pixels.
        joints: Names of the joints.

    Returns:
        (...) pixels; NaN where an end is missing.

    Raises:
        ValueError: If one of the two joints is not among `joints`.
    """
    shoulder, hip = (joints.index(joint) for joint in ("left_shoulder", "right_hip"))
    return np.linalg.norm(keypoints[..., shoulder, :] - keypoints[..., hip, :], axis=-1)


@dataclass
class Pck:
    """PCK at `threshold` times the torso length (left shoulder to right hip); mean over joints.

    People without these two joints, or with both at the same location, are left out, as are
    unlabelled joints.

    Args:
        skeleton: Order of the keypoints.
        threshold: Largest distance of a correct joint, as a share of the torso.
        joints: Names of the joints to evaluate.
    """

    skeleton: Skeleton
    threshold: float = 0.2
    joints: tuple[str, ...] = LIMB_JOINTS
    _hits: list[np.ndarray] = field(default_factory=list)

    def update(
        self, predicted: np.ndarray, truth: np.ndarray, lengths: np.ndarray | None = None
    ) -> None:
        """Add people.

        Args:
            predicted: (num_people, num_joints, 2) pixels.
            truth: Likewise, NaN where unlabelled.
            lengths: (num_people,) reference lengths in pixels; by default torso lengths.
        """
        if lengths is None:
            lengths = torso_lengths(truth, self.skeleton.joints)
        reference = self.threshold * lengths
        chosen = [self.skeleton.index(joint) for joint in self.joints]
        distance = np.linalg.norm(predicted[:, chosen] - truth[:, chosen], axis=-1)
        known = np.isfinite(truth[:, chosen, 0]) & (reference > 0)[:, None]
        # Comparisons with NaN are false: a missing prediction is a miss.
        self._hits.append(np.where(known, distance <= reference[:, None], np.nan))

    def counts(self) -> np.ndarray:
        """Return (2, len(joints)) the number of correct and of evaluated instances per joint."""
        hits = np.concatenate(self._hits) if self._hits else np.empty((0, len(self.joints)))
        return np.array([np.nansum(hits, 0), np.isfinite(hits).sum(0)])

    def compute(self) -> dict[str, float]:
        """Return PCK in [0, 1] by joint, and its `mean` over joints with truth; NaN if empty."""
        right, known = self.counts()
        share = np.divide(right, known, out=np.full(len(self.joints), np.nan), where=known > 0)
        mean = float(np.nanmean(share)) if np.isfinite(share).any() else float("nan")
        return dict(zip(self.joints, share.tolist(), strict=True)) | {"mean": mean}

    def hits(self) -> list[np.ndarray]:
        """Return the accumulated state, for `merge`."""
        return list(self._hits)

    def merge(self, hits: list[np.ndarray]) -> None:
        """Add the state of another process."""
        self._hits += hits

    def reset(self) -> None:
        """Clear the accumulated state."""
        self._hits.clear()


class VideoPck(JointMetric):
    """PCK of videos, between each person of the ground truth and the matching prediction.

    Unmatched predictions do not count: PCK does not measure false positives.

    Args:
        pairs: Ground truth and predictions of videos.
        reference: `torso` for `Pck` with its defaults, over the 12 limb joints; `head` for PCKh
            over all 15 joints, with half the head length (0.6 times the head box's diagonal) as
            threshold.

    Raises:
        DataError: If `reference` is `head` and a person of the ground truth has no head box.
    """

    def __init__(
        self, pairs: Sequence[VideoPair], reference: Literal["torso", "head"] = "torso"
    ) -> None:
        super().__init__(len(pairs))
        if reference == "head":
            require_head_boxes([pair.truth for pair in pairs])
        measures = [_measured(pair, reference) for pair in pairs]
        self._joints = [POSETRACK15.index(joint) for joint in measures[0].joints]
        self._counts = np.array([measure.counts() for measure in measures])
        self._warn(pairs, reference)

    def _warn(self, pairs: Sequence[VideoPair], reference: str) -> None:
        if reference == "head":
            self.warnings += flat_head_note([pair.truth for pair in pairs], "they are left out")
            return
        people = [
            person.keypoints
            for pair in pairs
            for frame in pair.truth.frames
            for person in frame.people
            if person.has_joints
        ]
        points = np.array(people).reshape(-1, POSETRACK15.num_joints, 2)
        lengths = torso_lengths(points, POSETRACK15.joints)
        without = int((~(lengths > 0)).sum())  # NaN where an end is missing
        if without:
            self.warnings.append(
                f"{without} of {len(people)} people are left out: their left shoulder and right "
                "hip, which define the torso, are not both annotated, or at the same location"
            )

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return (15,) PCK in percent; NaN for joints that are not evaluated."""
        right, known = np.tensordot(weights, self._counts, 1)
        out = np.full(POSETRACK15.num_joints, np.nan)
        out[self._joints] = np.divide(
            100 * right, known, out=np.full(len(known), np.nan), where=known > 0
        )
        return out


def _measured(pair: VideoPair, reference: str) -> Pck:
    is_head = reference == "head"
    measure = Pck(POSETRACK15, 0.5, POSETRACK15.joints) if is_head else Pck(POSETRACK15)
    nobody = np.full((POSETRACK15.num_joints, 2), np.nan)
    for truth, predicted in pair.frames:
        matched = list(matched_people(truth, predicted, same_people=pair.same_people))
        if matched:
            found = np.stack([nobody if one is None else one.keypoints for _, one in matched])
            true = np.stack([person.keypoints for person, _ in matched])
            lengths = np.array([head_length(person) for person, _ in matched])
            measure.update(found, true, lengths if is_head else None)
    return measure
