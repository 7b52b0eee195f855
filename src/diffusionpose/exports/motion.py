"""TRC and C3D files for motion analysis: one file per person, two dimensions in metres.

The scale comes from the person's height, of which the chain from head top to ankle is a fixed
fraction. x points right, y up from the bottom of the image, z is 0. A single image has no depth: a
person who approaches the camera grows.
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
"""Height of the ankle as a fraction of the body height (Winter 2009, Fig. 4.1)."""
UPRIGHT = 90
"""Percentile of the chain's length over frames; a high one, as bending only shortens the
projection."""
MAX_HEADER_FRAME = 0xFFFF
"""Largest 1-based frame number in a C3D header."""
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
"""Marker names of Sports2D and Pose2Sim."""


class NoMetresError(DataError):
    """The scale in metres of a person cannot be determined."""


def metres_per_pixel(track: Track, joints: tuple[str, ...], height: float) -> float:
    """Estimate a person's scale from the chain head_top, head_bottom, hips, knees, ankles.

    Both sides are averaged.

    Args:
        track: Of the person.
        joints: Joint names of the track's keypoints.
        height: Of the person in metres.

    Raises:
        NoMetresError: If no frame has the complete chain.
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
            f"track {track.track_id}: the scale is unknown, as no frame has head, hips, knees and ankles"
        )
    return (1 - ANKLE_SHARE) * height / float(np.percentile(known, UPRIGHT))


def markers(poses: VideoPoses, track: Track, height: float) -> np.ndarray:
    """(frames, joints, 3) positions in metres, in the frames of `track`; NaN where missing."""
    scale = metres_per_pixel(track, poses.header.joints, height)
    bottom = poses.header.video.height - 0.5
    points = np.zeros((*track.keypoints.shape[:2], 3))
    points[..., 0] = track.keypoints[..., 0] + 0.5
    points[..., 1] = bottom - track.keypoints[..., 1]
    points[..., 2] = np.where(np.isnan(track.keypoints[..., 0]), np.nan, 0)
    return scale * points


def frame_rate(poses: VideoPoses) -> float:
    """Mean frames per second of the result; 30 if there is only one frame."""
    times = poses.frame_times
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 30.0


def write_trc(poses: VideoPoses, track_id: int, height: float, path: Path, name: str) -> None:
    """Write a TRC file as read by OpenSim; cells of missing markers are empty, times are exact."""
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
    """Store the frame range of a person in the video; `first` is 0-based, C3D is 1-based."""
    # The header has two bytes per number; if these are too few, it counts from 1, and only TRIAL is
    # right.
    if first + number <= MAX_HEADER_FRAME:
        file["header"]["points"]["first_frame"] = first
    for name, frame in (("ACTUAL_START_FIELD", first + 1), ("ACTUAL_END_FIELD", first + number)):
        file.add_parameter("TRIAL", name, [0, 0])
        words = file["parameters"]["TRIAL"][name]
        # Two integers, low word first; ezc3d adds lists as floats, so the type is set.
        words["type"] = file["parameters"]["POINT"]["USED"]["type"]
        words["value"] = np.array([frame & 0xFFFF, frame >> 16])


def write_c3d(poses: VideoPoses, track_id: int, height: float, path: Path) -> None:
    """Write a C3D file with points in metres and frames numbered as in the video.

    Missing points have residual -1. C3D has a single frame rate, which is the mean; exact times of
    videos with a variable frame rate are in the other formats.
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
    # ezc3d only accepts UTF-8 names, and appends a missing suffix, so write elsewhere and copy.
    with temporary_folder() as folder:
        written = folder / "points.c3d"
        file.write(str(written))
        shutil.copyfile(written, path)
