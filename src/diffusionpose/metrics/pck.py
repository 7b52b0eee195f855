"""PCK: the share of joints within a fraction of a person's own length of the truth."""

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


@dataclass
class Pck:
    """PCK at `threshold` times the torso, left shoulder to right hip, of each person; mean over joints.

    People without those two joints, or with both in one place, are left out, as are unlabelled joints.

    Args:
        skeleton: Order of the keypoints.
        threshold: Share of the torso.
        joints: Names of the joints that count.
    """

    skeleton: Skeleton
    threshold: float = 0.2
    joints: tuple[str, ...] = LIMB_JOINTS
    _hits: list[np.ndarray] = field(default_factory=list)

    def update(
        self, predicted: np.ndarray, truth: np.ndarray, lengths: np.ndarray | None = None
    ) -> None:
        """Adds people.

        Args:
            predicted: (num_people, num_joints, 2) pixels.
            truth: Likewise, NaN where unlabelled.
            lengths: (num_people,) pixels, what `threshold` is a share of, in place of the torso.
        """
        reference = self.threshold * (self._torso(truth) if lengths is None else lengths)
        chosen = [self.skeleton.index(joint) for joint in self.joints]
        distance = np.linalg.norm(predicted[:, chosen] - truth[:, chosen], axis=-1)
        known = np.isfinite(truth[:, chosen, 0]) & (reference > 0)[:, None]
        # NaN predictions compare false: a missing joint is a miss.
        self._hits.append(np.where(known, distance <= reference[:, None], np.nan))

    def _torso(self, truth: np.ndarray) -> np.ndarray:
        ends = (truth[:, self.skeleton.index(joint)] for joint in ("left_shoulder", "right_hip"))
        return np.linalg.norm(np.subtract(*ends), axis=-1)

    def counts(self) -> np.ndarray:
        """(2, len(joints)): how many were right, and how many counted."""
        hits = np.concatenate(self._hits) if self._hits else np.empty((0, len(self.joints)))
        return np.array([np.nansum(hits, 0), np.isfinite(hits).sum(0)])

    def compute(self) -> dict[str, float]:
        """Share by joint, and `mean` over joints that have any truth; NaN if nothing was added."""
        right, known = self.counts()
        share = np.divide(right, known, out=np.full(len(self.joints), np.nan), where=known > 0)
        mean = float(np.nanmean(share)) if np.isfinite(share).any() else float("nan")
        return dict(zip(self.joints, share.tolist(), strict=True)) | {"mean": mean}

    def hits(self) -> list[np.ndarray]:
        """What was added, as `merge` takes it."""
        return list(self._hits)

    def merge(self, hits: list[np.ndarray]) -> None:
        """Adds what another process counted."""
        self._hits += hits

    def reset(self) -> None:
        """Forgets everything added."""
        self._hits.clear()


class VideoPck(JointMetric):
    """`Pck` of videos: every person of the truth against the one prediction that is theirs.

    Predictions that are nobody's do not count: PCK says nothing of people who are not there.

    Args:
        pairs: Videos.
        reference: `torso` is `Pck` with its defaults, over the 12 joints of the limbs; `head` is PCKh, half of 0.6
            times the diagonal of the head box, over all 15 joints.

    Raises:
        DataError: If `reference` is `head` and a person of the truth has no head box.
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
        torso = [POSETRACK15.index(joint) for joint in ("left_shoulder", "right_hip")]
        people = [
            person
            for pair in pairs
            for frame in pair.truth.frames
            for person in frame.people
            if person.has_joints
        ]
        ends = np.array([person.keypoints[torso] for person in people]).reshape(-1, 2, 2)
        lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1)
        without = int((~(lengths > 0)).sum())  # NaN where an end is missing
        if without:
            self.warnings.append(
                f"{without} of {len(people)} people are left out: no left shoulder or no right hip is annotated, from "
                "which the torso is measured, or both lie in one place"
            )

    def values(self, weights: np.ndarray) -> np.ndarray:
        """(15,) PCK in percent."""
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
