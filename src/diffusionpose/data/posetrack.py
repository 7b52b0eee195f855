"""PoseTrack18 and PoseTrack21 annotation files -> people with their neighbouring frames."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffusionpose.data.clips import ClipRecord
from diffusionpose.errors import DataError
from diffusionpose.skeleton import POSETRACK15, POSETRACK17, Skeleton, remap


def load_posetrack(
    root: Path, split: str, skeleton: Skeleton = POSETRACK15, stride: int = 1
) -> list[ClipRecord]:
    """Every annotated person of `root/posetrack_data/SPLIT/*.json`.

    Args:
        root: Holds `posetrack_data` and `images`.
        split: `train`, `val` or another folder.
        skeleton: The joints wanted, matched by name; the ears of PoseTrack files are never annotated.
        stride: Keep every n-th annotated frame of a video.

    Raises:
        DataError: If there are no annotation files, or one of them is not in the PoseTrack18 form.
    """
    folder = Path(root) / "posetrack_data" / split
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"{folder}: no annotation files (*.json); is this a PoseTrack18 root?")
    records = []
    for file in files:
        try:
            records += _video(json.loads(file.read_text()), Path(root), skeleton, stride)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: not in the PoseTrack18 form: {error!r}") from None
    return records


def _video(
    content: dict[str, Any], root: Path, skeleton: Skeleton, stride: int
) -> list[ClipRecord]:
    images = content["images"]
    position = {image["id"]: index for index, image in enumerate(images)}
    names = content["categories"][0].get("keypoints", POSETRACK17.joints)
    labelled = sorted({position[a["image_id"]] for a in content["annotations"]})
    kept = set(labelled[::stride])
    records = []
    for annotation in content["annotations"]:
        at = position[annotation["image_id"]]
        if at not in kept or not any(annotation.get("keypoints", ())):
            continue
        clip = tuple(
            root / images[min(max(at + step, 0), len(images) - 1)]["file_name"]
            for step in (-1, 0, 1)
        )
        keypoints = named_keypoints(annotation["keypoints"], names, skeleton)
        records.append(
            ClipRecord(
                frames=clip,
                keypoints=keypoints,
                box=xywh_to_xyxy(annotation["bbox"]),
                video=str(images[at].get("vid_id", "")),
                image_id=int(annotation["image_id"]),
                track_id=int(annotation["track_id"]),
            )
        )
    return records


def named_keypoints(
    values: list[float], names: list[str] | tuple[str, ...], skeleton: Skeleton
) -> np.ndarray:
    """Flat x, y, v triples -> (num_joints, 2) of `skeleton`, NaN where v is 0."""
    triples = np.asarray(values, dtype=np.float64).reshape(len(names), 3)
    points = np.where(triples[:, 2:] > 0, triples[:, :2], np.nan)
    return remap(points, names, skeleton.joints)


def xywh_to_xyxy(box: list[float]) -> np.ndarray:
    """(x, y, width, height) -> (x1, y1, x2, y2), pixels."""
    x, y, width, height = (float(v) for v in box)
    return np.array([x, y, x + width, y + height])
