"""Skeletons: named joints, limbs between them, and mapping from one skeleton to another.

A skeleton is always passed explicitly, never inferred from the number of joints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

SIDES = ("left", "right")


@dataclass(frozen=True)
class Skeleton:
    """Joints (nodes) and limbs (edges) of one annotation convention.

    Args:
        name: Identifier, written to every output.
        joints: Joint names in storage order; joints of a side have a `left_` or `right_` prefix.
        limbs: Pairs of 0-based joint indices.

    Raises:
        ValueError: On repeated joints, or limbs that do not connect two of the joints.
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if len(set(self.joints)) != len(self.joints):
            raise ValueError(f"skeleton {self.name!r} has duplicate joint names")
        for limb in self.limbs:
            if len(set(limb)) != 2 or not all(0 <= joint < len(self.joints) for joint in limb):
                raise ValueError(
                    f"skeleton {self.name!r}: limb {limb} does not connect two of its joints"
                )

    @property
    def num_joints(self) -> int:
        """Number of joints."""
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Index of a joint.

        Raises:
            KeyError: If the skeleton has no such joint.
        """
        try:
            return self.joints.index(joint)
        except ValueError:
            raise KeyError(f"skeleton {self.name!r} has no joint {joint!r}") from None

    def side(self, joint: int) -> str:
        """`left`, `right` or `centre`."""
        prefix = self.joints[joint].split("_", 1)[0]
        return prefix if prefix in SIDES else "centre"

    @cached_property
    def flip_permutation(self) -> tuple[int, ...]:
        """Index of each joint's mirror image; `keypoints[list(flip_permutation)]` swaps sides."""
        swap = {"left": "right", "right": "left"}

        def mirrored(joint: str) -> str:
            side, _, rest = joint.partition("_")
            return f"{swap[side]}_{rest}" if side in swap else joint

        return tuple(self.index(mirrored(joint)) for joint in self.joints)

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """For each joint, the sorted indices of the joints that it shares a limb with."""
        found: list[list[int]] = [[] for _ in self.joints]
        for a, b in self.limbs:
            found[a].append(b)
            found[b].append(a)
        return tuple(tuple(sorted(joints)) for joints in found)

    @cached_property
    def limb_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of limb indices that share a joint: the angles of the Markov loss (Eq. 4)."""
        numbered = enumerate(self.limbs)
        return tuple(
            (m, n)
            for (m, first), (n, second) in combinations(numbered, 2)
            if set(first) & set(second)
        )

    @cached_property
    def is_tree(self) -> bool:
        """Whether the limbs connect all joints without cycles, so that Eq. 1 ends at the leaves."""
        reached, frontier = {0}, [0]
        while frontier:
            for joint in self.neighbours[frontier.pop()]:
                if joint not in reached:
                    reached.add(joint)
                    frontier.append(joint)
        return len(reached) == self.num_joints and len(self.limbs) == self.num_joints - 1


def _skeleton(name: str, joints: Sequence[str], limbs: Sequence[tuple[str, str]]) -> Skeleton:
    return Skeleton(
        name, tuple(joints), tuple((joints.index(a), joints.index(b)) for a, b in limbs)
    )


def _sided(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """Expand each pair to both sides; a leading dot marks joints without a side."""

    def name(side: str, joint: str) -> str:
        return joint[1:] if joint.startswith(".") else f"{side}_{joint}"

    return [(name(side, a), name(side, b)) for a, b in pairs for side in SIDES]


def _both(*joints: str) -> list[str]:
    return [f"{side}_{joint}" for joint in joints for side in SIDES]


_LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_ARMS_LEGS = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))

POSETRACK15 = _skeleton(
    "posetrack15",
    ["nose", "head_bottom", "head_top", *_both(*_LIMBS)],
    [
        ("head_top", "nose"),
        ("nose", "head_bottom"),
        *_sided((".head_bottom", "shoulder"), (".head_bottom", "hip"), *_ARMS_LEGS),
    ],
)
"""The internal skeleton: PoseTrack18's joints without the unannotated ears. Its limbs form a
tree."""

POSETRACK17 = _skeleton(
    "posetrack17",
    ["nose", "head_bottom", "head_top", "left_ear", "right_ear", *_both(*_LIMBS)],
    [(POSETRACK15.joints[a], POSETRACK15.joints[b]) for a, b in POSETRACK15.limbs],
)
"""Skeleton of PoseTrack18 and PoseTrack21 files: 17 joints, with ears that are always (0, 0, 0)."""

COCO17 = _skeleton(
    "coco17",
    ["nose", *_both("eye", "ear", *_LIMBS)],
    [
        ("left_shoulder", "right_shoulder"),
        ("left_hip", "right_hip"),
        *_sided(
            (".nose", "eye"), ("eye", "ear"), ("ear", "shoulder"), ("shoulder", "hip"), *_ARMS_LEGS
        ),
    ],
)

LSP14 = _skeleton(
    "lsp14",
    ["head_bottom", "head_top", *_both(*_LIMBS)],
    [
        ("head_top", "head_bottom"),
        *_sided((".head_bottom", "shoulder"), (".head_bottom", "hip"), *_ARMS_LEGS),
    ],
)

SKELETONS = {skeleton.name: skeleton for skeleton in (POSETRACK15, POSETRACK17, COCO17, LSP14)}


def remap(
    values: np.ndarray, source: Sequence[str], target: Sequence[str], missing: float = np.nan
) -> np.ndarray:
    """Reorder joints by name from one skeleton to another.

    Args:
        values: (..., len(source), channels).
        source: Joint names of `values`.
        target: Joint names of the result.
        missing: Value for joints that `source` lacks.

    Returns:
        (..., len(target), channels) float64.
    """
    out = np.full((*values.shape[:-2], len(target), values.shape[-1]), missing, dtype=np.float64)
    for index, joint in enumerate(target):
        if joint in source:
            out[..., index, :] = values[..., list(source).index(joint), :]
    return out
