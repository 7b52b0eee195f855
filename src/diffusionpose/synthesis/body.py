"""Bodies of any age and build from `anny`, posed by motion capture of other proportions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffusionpose.errors import MissingExtraError
from diffusionpose.skeleton import POSETRACK15, SIDES
from diffusionpose.synthesis.motion import Motion

_LIMBS = {
    f"{side}{bone}": f"{side}{end}"
    for side in ("Left", "Right")
    for bone, end in (
        ("UpLeg", "Leg"), ("Leg", "Foot"), ("Foot", "ToeBase"),
        ("Arm", "ForeArm"), ("ForeArm", "Hand"),
    )
}  # fmt: skip
"""Bones, and the child each points to, to align with the motion's rest pose; the spine agrees."""
_JOINT_BONES = {
    "shoulder": "Arm", "elbow": "ForeArm", "wrist": "Hand",
    "hip": "UpLeg", "knee": "Leg", "ankle": "Foot",
}  # fmt: skip
_NECK = "Neck"


@dataclass(frozen=True)
class Pose:
    """A body's bones in a frame: (bones, 3, 3) rotations from rest, (bones, 3) heads in metres."""

    rotations: np.ndarray
    heads: np.ndarray

    def skin(self, vertices: np.ndarray, weights: np.ndarray, rest_heads: np.ndarray) -> np.ndarray:
        """Apply linear blend skinning.

        Args:
            vertices: (n, 3) in the rest pose.
            weights: (n, bones).
            rest_heads: (bones, 3) heads of the bones in the rest pose.

        Returns:
            (n, 3) posed vertices.
        """
        shift = self.heads - np.einsum("bij,bj->bi", self.rotations, rest_heads)
        bones = np.concatenate([self.rotations, shift[..., None]], 2)
        moved = np.einsum("nb,bij->nij", weights, bones)
        return np.einsum("nij,nj->ni", moved[:, :, :3], vertices) + moved[:, :, 3]


@dataclass(frozen=True)
class Figure:
    """Shape of a person in the rest pose: (vertices, 3) and (bones, 3) heads in metres.

    z points up; the person faces -y.
    """

    vertices: np.ndarray
    heads: np.ndarray


class Body:
    """The body model: bones, skinning weights and joints.

    Raises:
        MissingExtraError: If `anny` is not installed.
    """

    def __init__(self) -> None:
        try:
            import anny  # pyright: ignore[reportMissingImports]
            from anny.keypoints import (  # pyright: ignore[reportMissingImports]
                KeypointsRegressor,
            )
        except ImportError:
            raise MissingExtraError("anny", "synthesis") from None
        # MakeHuman's base mesh, as garments need it, with the bones of CMU's motions.
        self._model: Any = anny.Anny(rig="cmu_mb", topology="makehuman", skinning_method="lbs")
        self.bones: list[str] = list(self._model.bone_labels)
        self.parents: list[int] = list(self._model.bone_parents)
        held = self._model.vertex_bone_weights.numpy()
        self.weights = np.zeros((len(held), len(self.bones)))
        rows = np.arange(len(held))[:, None]
        np.add.at(self.weights, (rows, self._model.vertex_bone_indices.numpy()), held)
        quads = np.asarray(self._model.faces)
        self.faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
        """Triangles of the body; the base mesh has further vertices, which only garments use."""
        self._drawn = np.unique(self.faces)
        nose = KeypointsRegressor.coco(self._model, ["nose"])
        self._nose = nose.regression_weights.numpy()[0]

    def figure(self, phenotype: dict[str, float]) -> Figure:
        """Create a person in the rest pose.

        Args:
            phenotype: gender, age, muscle, weight, height and proportions, each in [0, 1].
        """
        still = torch.eye(4, dtype=torch.float64).expand(1, len(self.bones), 4, 4)
        with torch.inference_mode():
            found = self._model(pose_parameters=still, phenotype_kwargs=phenotype)
        return Figure(found["rest_vertices"][0].numpy(), found["rest_bone_heads"][0].numpy())

    def pose(self, figure: Figure, motion: Motion, frame: int) -> Pose:
        """Pose a figure by a frame of a motion; fingers and toes follow their parents."""
        rotations: list[np.ndarray] = []
        heads: list[np.ndarray] = []
        for number, (bone, parent) in enumerate(zip(self.bones, self.parents, strict=True)):
            if bone not in motion.rotations or "Finger" in bone or "Thumb" in bone or "Toe" in bone:
                rotation = rotations[parent]
            else:
                rotation = motion.rotations[bone][frame]
                if bone in _LIMBS:
                    end = self.bones.index(_LIMBS[bone])
                    own = figure.heads[end] - figure.heads[number]
                    rotation = rotation @ turn(own, motion.offsets[_LIMBS[bone]])
            rotations.append(rotation)
            heads.append(
                figure.heads[number]
                if parent < 0
                else heads[parent]
                + rotations[parent] @ (figure.heads[number] - figure.heads[parent])
            )
        return Pose(np.stack(rotations), np.stack(heads))

    def joints(self, figure: Figure, pose: Pose, vertices: np.ndarray) -> np.ndarray:
        """Return the (15, 3) PoseTrack joints of a posed figure.

        They are heads of bones, except for the nose, which is regressed, and head_top, which is the
        highest vertex in the rest pose.

        Args:
            figure: The figure.
            pose: Its pose.
            vertices: (vertices, 3) posed.
        """
        found = {
            f"{side}_{joint}": pose.heads[self.bones.index(f"{side.capitalize()}{bone}")]
            for side in SIDES
            for joint, bone in _JOINT_BONES.items()
        }
        found["head_bottom"] = pose.heads[self.bones.index(_NECK)]
        found["nose"] = self._nose @ vertices
        found["head_top"] = vertices[self._drawn[figure.vertices[self._drawn, 2].argmax()]]
        return np.stack([found[joint] for joint in POSETRACK15.joints])

    def outline(self, vertices: np.ndarray) -> np.ndarray:
        """Select the (n, 3) vertices that are drawn."""
        return vertices[self._drawn]

    def leg_length(self, figure: Figure) -> float:
        """Return the length from hip to ankle in metres."""
        ends = [self.bones.index(bone) for bone in ("LeftUpLeg", "LeftLeg", "LeftFoot")]
        return float(np.linalg.norm(np.diff(figure.heads[ends], axis=0), axis=1).sum())


def turn(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the smallest rotation (3, 3) between two directions; undefined for opposite ones."""
    source, target = source / np.linalg.norm(source), target / np.linalg.norm(target)
    axis, cosine = np.cross(source, target), source @ target
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)
