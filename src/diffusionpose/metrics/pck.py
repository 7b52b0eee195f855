"""PCK: the share of joints within a fraction of a person's own length of the truth."""

from dataclasses import dataclass, field

import numpy as np

from diffusionpose.skeleton import Skeleton

LIMB_JOINTS = tuple(
    f"{side}_{joint}"
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
)


@dataclass
class Pck:
    """PCK at `threshold` times the torso, left shoulder to right hip, of each person; mean over joints.

    People without those two joints are left out, as are unlabelled joints.

    Args:
        skeleton: Order of the keypoints.
        threshold: Share of the torso.
        joints: Names of the joints that count.
    """

    skeleton: Skeleton
    threshold: float = 0.2
    joints: tuple[str, ...] = LIMB_JOINTS
    _hits: list[np.ndarray] = field(default_factory=list)

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Adds people.

        Args:
            predicted: (num_people, num_joints, 2) pixels.
            truth: Likewise, NaN where unlabelled.
        """
        torso = (
            truth[:, self.skeleton.index("left_shoulder")]
            - truth[:, self.skeleton.index("right_hip")]
        )
        reference = self.threshold * np.linalg.norm(torso, axis=-1)
        chosen = [self.skeleton.index(joint) for joint in self.joints]
        distance = np.linalg.norm(predicted[:, chosen] - truth[:, chosen], axis=-1)
        known = np.isfinite(truth[:, chosen, 0]) & (reference > 0)[:, None]
        # NaN predictions compare false: a missing joint is a miss.
        self._hits.append(np.where(known, distance <= reference[:, None], np.nan))

    def compute(self) -> dict[str, float]:
        """Share by joint, and `mean` over joints that have any truth; NaN if nothing was added."""
        hits = np.concatenate(self._hits) if self._hits else np.empty((0, len(self.joints)))
        known = np.isfinite(hits).sum(0)
        share = np.divide(
            np.nansum(hits, 0), known, out=np.full(len(self.joints), np.nan), where=known > 0
        )
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
