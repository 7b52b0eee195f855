"""The HTML of a report: video, skeletons, scores, plausibility, heatmaps, denoising."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from diffusionpose.angles import ANGLES
from diffusionpose.formats import counted
from diffusionpose.plausibility import LONGEST, judge, limb_names
from diffusionpose.poses import VideoPoses
from diffusionpose.render import track_colour
from diffusionpose.report.insight import COLUMNS, Sheet, Theatre, png, tiles
from diffusionpose.structures import VideoVerdict

MISSING = -(2**15)
"""Value of NaN in packed 16-bit integers."""
PLACE_UNIT = 0.25
"""Resolution of packed coordinates in pixels."""
SHARE_UNIT = 0.01
"""Resolution of packed limb lengths relative to their median."""


@dataclass(frozen=True, eq=False)
class ReportParts:
    """Contents of a report besides the poses.

    Args:
        video: MP4 of the frames without skeletons; None shows skeletons on grey.
        video_size: (width, height) of that MP4.
        sheets: Heatmaps by (track id, frame index).
        theatres: Denoising of each person in the chosen frame.
        model_facts: Lines (name, text) about the model.
        timings: Lines (name, text) about the run.
    """

    video: bytes | None = None
    video_size: tuple[int, int] = (0, 0)
    sheets: dict[tuple[int, int], Sheet] | None = None
    theatres: Sequence[Theatre] = ()
    model_facts: Sequence[tuple[str, str]] = ()
    timings: Sequence[tuple[str, str]] = ()


def report_html(poses: VideoPoses, parts: ReportParts) -> str:
    """Render the whole page."""
    folder = resources.files("diffusionpose") / "assets" / "report"
    page = Template((folder / "report.html").read_text("utf-8"))
    # Escaped, so that a file name cannot contain "</script>" or "<!--".
    data = json.dumps(payload(poses, parts), allow_nan=False).replace("<", "\\u003c")
    return page.substitute(
        title=escape(poses.header.video.name.encode("utf-8", "replace").decode()),
        style=(folder / "report.css").read_text("utf-8"),
        script=(folder / "report.js").read_text("utf-8"),
        data=data,
    )


def payload(poses: VideoPoses, parts: ReportParts) -> dict[str, object]:
    """Build the data for the page's script, as JSON types."""
    video, skeleton = poses.header.video, poses.skeleton
    sheets = parts.sheets or {}
    start = float(poses.frame_times[0]) if len(poses) else 0.0
    return {
        "name": video.name.encode("utf-8", "replace").decode(),
        "size": [video.width, video.height],
        "video": _uri("video/mp4", parts.video) if parts.video else None,
        "start": start,
        "times": _floats(poses.frame_times - start),
        "frames": poses.frame_indices.tolist(),
        "joints": list(skeleton.joints),
        "sides": [skeleton.side(joint) for joint in range(skeleton.num_joints)],
        "limbs": [list(limb) for limb in skeleton.limbs],
        "limbNames": list(limb_names(poses)),
        "angleNames": list(ANGLES),
        "units": {"place": PLACE_UNIT, "share": SHARE_UNIT, "missing": MISSING},
        "longest": LONGEST,
        "people": [_person(poses, track) for track in poses.track_ids],
        "sheets": {
            f"{track}/{frame}": [_uri("image/png", sheet.png), _floats(sheet.to_image.ravel())]
            for (track, frame), sheet in sheets.items()
        },
        "sheetColumns": COLUMNS,
        "theatres": [_theatre(one) for one in parts.theatres],
        "verdict": {
            "status": poses.verdict.status,
            "summary": _summary(poses.verdict),
            "issues": [
                {"code": issue.code, "message": issue.message, "severity": issue.severity}
                for issue in poses.verdict.issues
            ],
        },
        "facts": _facts(poses),
        "model": [list(line) for line in parts.model_facts],
        "timings": [list(line) for line in parts.timings],
    }


def _person(poses: VideoPoses, track_id: int) -> dict[str, object]:
    """Data of one track, from its first to its last frame only, as crowds have many tracks."""
    track, found = poses.track(track_id), judge(poses, track_id)
    part = track.span
    filled = np.zeros(track.keypoint_scores.shape, np.uint8)
    filled[track.present] = poses.filled[poses.track_id == track_id]
    red, green, blue = track_colour(track_id)
    return {
        "id": track_id,
        "colour": f"rgb({red} {green} {blue})",
        "numFrames": int(track.present.sum()),
        "score": round(float(np.nanmean(track.score)), 3),
        "first": part.start,
        "places": _packed(track.keypoints[part] / PLACE_UNIT, np.int16),
        "scores": _packed(np.nan_to_num(track.keypoint_scores[part]) * 255, np.uint8),
        "filled": _packed(filled[part], np.uint8),
        "boxes": _packed(track.box[part] / PLACE_UNIT, np.int16),
        "lengths": _packed(found.lengths[part] / SHARE_UNIT, np.int16),
        "angles": _packed(found.angles[part], np.int16),
        "flags": [[flag.frame, flag.what, flag.why] for flag in found.flags],
    }


def _theatre(theatre: Theatre) -> dict[str, object]:
    """Data of one person's denoising: tiles for each stage, an ellipse for each joint."""
    stages = {
        str(steps): [_uri("image/png", png(_stage(maps))) for maps in path]
        for steps, path in theatre.stages.items()
    }
    means, axes = zip(
        *(ellipse(theatre.points[:, n]) for n in range(theatre.points.shape[1])), strict=True
    )
    return {
        "frame": theatre.frame,
        "id": theatre.track_id,
        "stages": stages,
        "shape": list(next(iter(theatre.stages.values())).shape[2:]),
        "seeds": len(theatre.points),
        "points": _packed(theatre.points.transpose(1, 0, 2) / PLACE_UNIT, np.int16),
        "means": [_floats(mean) for mean in means],
        "ellipses": [_floats(axis) for axis in axes],
        "toImage": _floats(theatre.to_image.ravel()),
    }


def _stage(maps: np.ndarray) -> np.ndarray:
    """Arrange (joints, height, width) maps as tiles; noise is rescaled to percentiles 2 to 98."""
    low, high = min(0.0, float(np.percentile(maps, 2))), max(1.0, float(np.percentile(maps, 98)))
    return tiles((maps - low) / (high - low))


def ellipse(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit an ellipse at two standard deviations to (n, 2) points.

    Returns:
        Mean (2,), and (major half axis, minor half axis, angle in degrees).
    """
    mean = points.mean(0)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    minor, major = 2 * np.sqrt(np.maximum(values, 0))
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    return mean, np.array([major, minor, angle])


def _summary(verdict: VideoVerdict) -> str:
    """Heading of the list of issues."""
    if verdict.status == "partial":
        return "Incomplete:"
    return "Read to its end; noticed:" if verdict.issues else "Read to its end; nothing lost."


def _facts(poses: VideoPoses) -> list[list[str]]:
    video = poses.header.video
    seconds = float(poses.verdict.duration)
    settings = ", ".join(
        f"{name} {_setting(value)}" for name, value in poses.header.settings.items()
    )
    return [
        ["Video", f"{video.width} x {video.height}, {video.codec} in {video.container}"],
        ["Length", f"{counted(poses.verdict.num_frames, 'frame')}, {seconds:.2f} s"],
        [
            "People",
            f"{counted(len(poses.track_ids), 'track')}, {counted(len(poses.frame_index), 'pose')}",
        ],
        ["Settings", settings],
        ["Version", f"diffusionpose {poses.header.version}"],
    ]


def _setting(value: object) -> str:
    """Format a setting; a list holds values that were applied in this order."""
    return " then ".join(map(str, value)) if isinstance(value, list) else str(value)


def _packed(values: np.ndarray, kind: type[np.integer[Any]]) -> str:
    """Pack an array as base64 of little-endian integers, row-major; NaN becomes `MISSING`."""
    limits = np.iinfo(kind)
    whole = np.clip(np.rint(np.nan_to_num(values, nan=float(MISSING))), limits.min, limits.max)
    return base64.b64encode(whole.astype(np.dtype(kind).newbyteorder("<")).tobytes()).decode()


def _floats(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
