"""Motion capture: BVH files, read as rotations of bones.

In world coordinates x points to the person's left, y to the back and z up; in BVH, y points up and
z to the front.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from diffusionpose.errors import DataError
from diffusionpose.paths import check_regular

BONES = (
    "Hips", "LHipJoint", "LeftUpLeg", "LeftLeg", "LeftFoot", "LeftToeBase",
    "RHipJoint", "RightUpLeg", "RightLeg", "RightFoot", "RightToeBase",
    "LowerBack", "Spine", "Spine1", "Neck", "Neck1", "Head",
    "LeftShoulder", "LeftArm", "LeftForeArm", "LeftHand",
    "RightShoulder", "RightArm", "RightForeArm", "RightHand",
)  # fmt: skip
"""Required bones: those of the usual BVH conversion of the CMU motion capture library."""
_TO_WORLD = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
_AXES = {"Xrotation": "X", "Yrotation": "Y", "Zrotation": "Z"}


@dataclass(frozen=True)
class Motion:
    """A recording.

    Args:
        name: Name of the file.
        rotations: By bone, (frames, 3, 3) rotations from the file's rest pose, in world
            coordinates.
        offsets: By bone, (3,) offset from the parent in the rest pose, in the file's unit.
        root: (frames, 3) position of the root bone, in the file's unit.
    """

    name: str
    rotations: dict[str, np.ndarray]
    offsets: dict[str, np.ndarray]
    root: np.ndarray

    def __len__(self) -> int:
        return len(self.root)


def read_bvh(path: Path) -> Motion:
    """Read a BVH file.

    Raises:
        DataError: If it is not a valid BVH file, or lacks any of `BONES`.
    """
    check_regular(path, DataError)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        start = next(n for n, line in enumerate(lines) if line.strip() == "MOTION")
        joints = _read_hierarchy(lines[:start])
        count = int(lines[start + 1].split()[-1])
        rows = [line.split() for line in lines[start + 3 : start + 3 + count]]
        values = np.array(rows, float).reshape(count, sum(len(joint.channels) for joint in joints))
    except (StopIteration, IndexError, KeyError, ValueError):
        raise DataError(f"{path}: not a BVH file, or truncated") from None
    if not np.isfinite(values).all():
        raise DataError(f"{path}: has frames with NaN or infinite values")
    missing = set(BONES) - {joint.name for joint in joints}
    if missing:
        raise DataError(
            f"{path}: has no bone {min(missing)}; bones must be named as in the BVH conversion of "
            "the CMU library"
        )
    return _motion(path.name, joints, values)


@dataclass
class _Joint:
    name: str
    parent: int
    offset: np.ndarray
    channels: list[str]


def _read_hierarchy(lines: list[str]) -> list[_Joint]:
    joints: list[_Joint] = []
    inside: list[int | None] = []
    for words in filter(None, (line.split() for line in lines)):
        if words[0] in ("ROOT", "JOINT"):
            parent = inside[-1] if inside else -1
            joints.append(_Joint(words[1], -1 if parent is None else parent, np.zeros(3), []))
            inside.append(len(joints) - 1)
        elif words[0] == "End":
            inside.append(None)
        elif words[0] == "}":
            inside.pop()
        elif inside and (at := inside[-1]) is not None:
            if words[0] == "OFFSET":
                joints[at].offset = np.array(words[1:4], float)
            elif words[0] == "CHANNELS":
                joints[at].channels = words[2 : 2 + int(words[1])]
    return joints


def _motion(name: str, joints: list[_Joint], values: np.ndarray) -> Motion:
    rotations: list[np.ndarray] = []
    root, column = np.zeros((len(values), 3)), 0
    for joint in joints:
        own = values[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        turns = [n for n, channel in enumerate(joint.channels) if channel in _AXES]
        if joint.parent < 0:
            for axis, channel in enumerate(("Xposition", "Yposition", "Zposition")):
                if channel in joint.channels:
                    root[:, axis] = own[:, joint.channels.index(channel)]
        local = np.broadcast_to(np.eye(3), (len(values), 3, 3))
        if turns:
            order = "".join(_AXES[joint.channels[n]] for n in turns)
            local = Rotation.from_euler(order, own[:, turns], degrees=True).as_matrix()
        rotations.append(local if joint.parent < 0 else rotations[joint.parent] @ local)
    return Motion(
        name=name,
        rotations={
            joint.name: _TO_WORLD @ matrix @ _TO_WORLD.T
            for joint, matrix in zip(joints, rotations, strict=True)
        },
        offsets={joint.name: _TO_WORLD @ joint.offset for joint in joints},
        root=root @ _TO_WORLD.T,
    )
