"""COCO person keypoints -> stills, each a clip of one frame.

COCO's 17 joints map to ours by name. It has no head_top; head_bottom is taken as the middle of the shoulders when both
are labelled, which is where PoseTrack's annotators put the bottom of the head to within a few pixels.
"""

import json
from pathlib import Path

import numpy as np

from diffusionpose.data.clips import ClipRecord
from diffusionpose.data.posetrack import named_keypoints, xywh_to_xyxy
from diffusionpose.errors import DataError
from diffusionpose.skeleton import POSETRACK15, Skeleton

MIN_JOINTS = 4
"""People with fewer labelled joints teach little and are left out."""


def load_coco(
    root: Path, annotations: Path, images: Path, skeleton: Skeleton = POSETRACK15
) -> list[ClipRecord]:
    """Every person of a COCO keypoint file with at least `MIN_JOINTS` labelled joints; crowds are left out.

    Args:
        root: Data set root.
        annotations: The json file, relative to the root.
        images: The image folder, relative to the root.
        skeleton: The joints wanted, matched by name with the file's own category.

    Raises:
        DataError: If the file cannot be read or is not in the COCO keypoint form.
    """
    file = Path(root) / annotations
    try:
        content = json.loads(file.read_text())
        names = content["categories"][0]["keypoints"]
        files = {image["id"]: image["file_name"] for image in content["images"]}
        records = []
        for annotation in content["annotations"]:
            keypoints = named_keypoints(annotation["keypoints"], names, skeleton)
            keypoints = _with_head_bottom(keypoints, names, skeleton)
            if annotation.get("iscrowd") or np.isfinite(keypoints[:, 0]).sum() < MIN_JOINTS:
                continue
            path = Path(root) / images / files[annotation["image_id"]]
            records.append(
                ClipRecord(
                    frames=(path, path, path),
                    keypoints=keypoints,
                    box=xywh_to_xyxy(annotation["bbox"]),
                    video=path.stem,
                    image_id=int(annotation["image_id"]),
                    track_id=int(annotation["id"]),
                    still=True,
                )
            )
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a COCO keypoint file: {error!r}") from None
    return records


def _with_head_bottom(keypoints: np.ndarray, names: list[str], skeleton: Skeleton) -> np.ndarray:
    if "head_bottom" in names or "head_bottom" not in skeleton.joints:
        return keypoints
    shoulders = [skeleton.index("left_shoulder"), skeleton.index("right_shoulder")]
    keypoints[skeleton.index("head_bottom")] = keypoints[shoulders].mean(axis=0)
    return keypoints
