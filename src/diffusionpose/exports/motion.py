"""What motion analysis reads: TRC and C3D, a file a person, two dimensions in metres.

Metres come from the person's height: the length of the body's chain, head to ankle, is its share of it. x is to the right, y up
from the bottom of the picture, z is 0. There is no depth in a single picture: who comes nearer grows.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from diffusionpose.errors import DataError
from diffusionpose.paths import temporary_folder
from diffusionpose.poses import Track, VideoPoses

ANKLE_SHARE = 0.039
"""Of the height that lies below the ankle (Winter 2009, Fig. 4.1)."""
UPRIGHT = 90
"""Percentile over frames of the chain's length: bending towards the camera only shortens it."""
MAX_HEADER_FRAME = 0xFFFF
"""Of C3D, frames counted from 1."""
OPENSIM_NAMES = {
    "nose": "Nose",
    "head_bottom": "Neck",
    "head_top": "Head",
    "left_shoulder": "LShoulder",
    "right_shoulder": "RShoulder",
    "left_elbow": "LElbow",
    "right_elbow": "RElbow",
    "left_wrist": "LWrist",
    "right_wrist": "RWrist",
    "left_hip": "LHip",
    "right_hip": "RHip",
    "left_knee": "LKnee",
    "right_knee": "RKnee",
    "left_ankle": "LAnkle",
    "right_ankle": "RAnkle",
}
"""As the marker sets of Sports2D and Pose2Sim have them."""


class NoMetresError(DataError):
    """A person of whom no frame tells how large they are."""


def metres_per_pixel(track: Track, joints: tuple[str, ...], height: float) -> float:
    """From the chain head_top, head_bottom, hips, knees, ankles, both sides taken together.

    Raises:
        NoMetresError: If no frame has the whole chain.
    """

    def at(*names: str) -> np.ndarray:
        if any(name not in joints for name in names):
            return np.full((len(track), 2), np.nan)
        return np.mean([track.keypoints[:, joints.index(name)] for name in names], 0)

    hips = at("left_hip", "right_hip")
    length = np.linalg.norm(at("head_top") - at("head_bottom"), axis=-1)
    length = length + np.linalg.norm(at("head_bottom") - hips, axis=-1)
    for above, below in (("hip", "knee"), ("knee", "ankle")):
        sides = [
            np.linalg.norm(at(f"{side}_{above}") - at(f"{side}_{below}"), axis=-1)
            for side in ("left", "right")
        ]
        length = length + np.mean(sides, 0)
    known = length[np.isfinite(length) & (length > 0)]
    if not len(known):
        raise NoMetresError(
            f"track {track.track_id}: no frame has head, hips, knees and ankles, so metres cannot be told"
        )
    return (1 - ANKLE_SHARE) * height / float(np.percentile(known, UPRIGHT))


def markers(poses: VideoPoses, track: Track, height: float) -> np.ndarray:
    """(frames, joints, 3) metres, from the person's first to its last frame; NaN where missing."""
    scale = metres_per_pixel(track, poses.header.joints, height)
    bottom = poses.header.video.height - 0.5
    points = np.zeros((*track.keypoints.shape[:2], 3))
    points[..., 0] = track.keypoints[..., 0] + 0.5
    points[..., 1] = bottom - track.keypoints[..., 1]
    points[..., 2] = np.where(np.isnan(track.keypoints[..., 0]), np.nan, 0)
    return scale * points


def frame_rate(poses: VideoPoses) -> float:
    """Frames a second of the whole result; 30 where one frame leaves it open."""
    times = poses.frame_times
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 30.0


def write_trc(poses: VideoPoses, track_id: int, height: float, path: Path, name: str) -> None:
    """Tab-separated, as OpenSim reads it; cells of missing markers are empty. Times are those of the frames."""
    track = poses.track(track_id)
    part = track.span
    points, times = markers(poses, track, height)[part], track.times[part]
    frames = track.frame_indices[part]
    labels = [OPENSIM_NAMES.get(joint, joint) for joint in poses.header.joints]
    rate = f"{frame_rate(poses):.6g}"
    facts = (rate, rate, len(frames), len(labels), "m", rate, int(frames[0]) + 1, len(frames))
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{name.encode(errors='replace').decode()}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        "\t".join(map(str, facts)),
        "Frame#\tTime\t" + "\t".join(f"{label}\t\t" for label in labels),
        "\t\t" + "\t".join(f"X{n}\tY{n}\tZ{n}" for n in range(1, len(labels) + 1)),
        "",
    ]
    for index, time, row in zip(frames.tolist(), times.tolist(), points.tolist(), strict=True):
        cells = ["" if math.isnan(value) else f"{value:.6f}" for joint in row for value in joint]
        lines.append("\t".join([str(index + 1), f"{time:.6f}", *cells]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _number_frames(file: Any, first: int, number: int) -> None:
    """Where a person's frames lie in the video, counted from 0 here and from 1 there."""
    # Two bytes a number in the header; where they do not suffice it counts from 1, and TRIAL alone is right.
    if first + number <= MAX_HEADER_FRAME:
        file["header"]["points"]["first_frame"] = first
    for name, frame in (("ACTUAL_START_FIELD", first + 1), ("ACTUAL_END_FIELD", first + number)):
        file.add_parameter("TRIAL", name, [0, 0])
        words = file["parameters"]["TRIAL"][name]
        # Two integers, the lower one first; lists that are added are of floats.
        words["type"] = file["parameters"]["POINT"]["USED"]["type"]
        words["value"] = np.array([frame & 0xFFFF, frame >> 16])


def write_c3d(poses: VideoPoses, track_id: int, height: float, path: Path) -> None:
    """Points in metres at the mean frame rate, frames numbered as in the video; missing ones are invalid (residual -1).

    C3D knows one rate for all frames: times of a video whose rate varies are in the other formats.
    """
    import ezc3d

    track = poses.track(track_id)
    part = track.span
    points = markers(poses, track, height)[part]
    file = ezc3d.c3d()
    file["parameters"]["POINT"]["UNITS"]["value"] = ["m"]
    file["parameters"]["POINT"]["RATE"]["value"] = [frame_rate(poses)]
    file["parameters"]["POINT"]["LABELS"]["value"] = [
        OPENSIM_NAMES.get(joint, joint) for joint in poses.header.joints
    ]
    file["data"]["points"] = np.concatenate(
        [points.transpose(2, 1, 0), np.ones((1, points.shape[1], len(points)))]
    )
    file["data"]["meta_points"]["residuals"] = np.where(np.isnan(points[..., 0]), -1.0, 0.0).T[None]
    _number_frames(file, int(track.frame_indices[part.start]), len(points))
    # By a name of its own: it takes names in UTF-8 only, and gives the suffix to those without.
    with temporary_folder() as folder:
        written = folder / "points.c3d"
        file.write(str(written))
        shutil.copyfile(written, path)
