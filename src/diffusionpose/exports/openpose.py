"""OpenPose's JSON output with BODY_25 keypoints: one file per frame in a folder."""

import json
from collections.abc import Iterator

import numpy as np

from diffusionpose.formats.text import rounded
from diffusionpose.poses import VideoPoses
from diffusionpose.skeleton import remap
from diffusionpose.structures import FramePoses

BODY_25 = (
    "nose",
    "neck",
    *(f"right_{joint}" for joint in ("shoulder", "elbow", "wrist")),
    *(f"left_{joint}" for joint in ("shoulder", "elbow", "wrist")),
    "mid_hip",
    *(f"right_{joint}" for joint in ("hip", "knee", "ankle")),
    *(f"left_{joint}" for joint in ("hip", "knee", "ankle")),
    *(f"{side}_{joint}" for joint in ("eye", "ear") for side in ("right", "left")),
    *(
        f"{side}_{joint}"
        for side in ("left", "right")
        for joint in ("big_toe", "small_toe", "heel")
    ),
)
"""OpenPose's joint order. `neck` is the midpoint of the shoulders, `mid_hip` that of the hips."""


def body_25(keypoints: np.ndarray, joints: tuple[str, ...]) -> np.ndarray:
    """Convert (num_joints, 3) x, y, score to BODY_25: (25, 3); 0, 0, 0 where missing."""
    found = remap(keypoints, joints, BODY_25)
    for name, joint in (("neck", "shoulder"), ("mid_hip", "hip")):
        sides = [found[BODY_25.index(f"{side}_{joint}")] for side in ("left", "right")]
        middle = np.mean(sides, 0)
        middle[2] = min(sides[0][2], sides[1][2])
        found[BODY_25.index(name)] = middle
    found[np.isnan(found).any(-1)] = 0
    return found


def frame_json(frame: FramePoses, joints: tuple[str, ...]) -> str:
    """Format the file of a frame."""
    people = [
        {
            "person_id": [int(person.track_id)],
            "pose_keypoints_2d": rounded(body_25(person.keypoints, joints), 4).ravel().tolist(),
            "face_keypoints_2d": [],
            "hand_left_keypoints_2d": [],
            "hand_right_keypoints_2d": [],
            "pose_keypoints_3d": [],
            "face_keypoints_3d": [],
            "hand_left_keypoints_3d": [],
            "hand_right_keypoints_3d": [],
        }
        for person in frame.people
    ]
    return json.dumps({"version": 1.3, "people": people}, separators=(",", ":"))


def openpose_files(poses: VideoPoses, name: str) -> Iterator[tuple[str, str]]:
    """Yield the name and contents of the file of each frame."""
    for frame in poses.frames():
        yield f"{name}_{frame.index:012d}_keypoints.json", frame_json(frame, poses.header.joints)
