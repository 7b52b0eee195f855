"""COCO person keypoints -> stills, each a clip of one frame.

Joints map by the names of the file's own person category. Of COCO's 17, the nose and the 12 joints of arms and legs are
PoseTrack's; eyes and ears have no counterpart; there is no head_top. head_bottom is taken as the middle of the shoulders
when both are labelled, which is where PoseTrack's annotators put the bottom of the head to within a few pixels.
"""

from pathlib import Path

import numpy as np

from diffusionpose.data.clips import ClipRecord
from diffusionpose.data.json_nodes import Node, read_json
from diffusionpose.data.posetrack_files import image_name, joint_names, named_keypoints, xywh_box
from diffusionpose.data.subset import Subset
from diffusionpose.nn.geometry import keypoint_box
from diffusionpose.skeleton import POSETRACK15, Skeleton

MIN_JOINTS = 4
"""People with fewer labelled joints teach little and are left out."""
BOX_FACTOR = 1.25
"""By how much the extents of the keypoints grow to a box where the file's box has no area."""


def load_coco(
    root: Path,
    annotations: Path,
    images: Path,
    skeleton: Skeleton = POSETRACK15,
    subset: Path | None = None,
) -> list[ClipRecord]:
    """Every person of a COCO keypoint file with at least `MIN_JOINTS` labelled joints; crowds are left out.

    Args:
        root: Data set root.
        annotations: The json file, relative to the root.
        images: The image folder, relative to the root.
        skeleton: The joints wanted, matched by name with the file's own category.
        subset: File of the images wanted, by file name or id, relative to the root (`Subset`).

    Raises:
        DataError: If the file cannot be read or contradicts the COCO keypoint form, naming file and JSON path; or if the
            subset names what is not there.
    """
    content = read_json(Path(root) / annotations)
    names = coco_joints(content)
    files = image_files(content)
    wanted = Subset.read(Path(root) / subset) if subset else None
    kept = {
        image_id
        for image_id, name in files.items()
        if wanted is None or wanted.holds((name, str(image_id)))
    }
    if wanted is not None:
        wanted.check()
    records = []
    for annotation in content.need("annotations").items():
        image_id = known_image(annotation, files)
        usable = usable_annotation(annotation, names, skeleton)
        if image_id is None or image_id not in kept or usable is None:
            continue
        path = Path(root) / images / files[image_id]
        records.append(
            ClipRecord(
                frames=(path, path, path),
                keypoints=usable[0],
                box=usable[1],
                video=path.stem,
                image_id=image_id,
                track_id=annotation.need("id").integer() or 0,
                still=True,
            )
        )
    return records


def coco_joints(content: Node) -> tuple[str, ...]:
    """The joints of a COCO keypoint file's person category, which it must name."""
    joints = joint_names(content)
    if not joints:
        found = content.need("categories")
        if found.is_there:
            found.find("missing-key", "no category has 'keypoints': is this a keypoint file?")
    return joints


def image_files(content: Node) -> dict[int, str]:
    """File names by image id."""
    files: dict[int, str] = {}
    for image in content.need("images").items():
        image_id, name = image.need("id").integer(), image_name(image.need("file_name"))
        if image_id in files:
            image.get("id").find("duplicate-id", f"image {image_id} stands twice")
        elif image_id is not None:
            files[image_id] = name
    return files


def known_image(annotation: Node, files: dict[int, str]) -> int | None:
    """The image that an annotation points to; that there is none is reported."""
    image_id = annotation.need("image_id").integer()
    if image_id is not None and image_id not in files:
        annotation.get("image_id").find("dangling-image-id", f"there is no image {image_id}")
        return None
    return image_id


def num_labelled(annotation: Node) -> int:
    """Number of an annotation's joints with a visibility above 0, in the file's own joints."""
    values = annotation.get("keypoints").numbers()
    return 0 if values is None else int((values[2::3] > 0).sum())


def usable_annotation(
    annotation: Node, names: tuple[str, ...], skeleton: Skeleton = POSETRACK15
) -> tuple[np.ndarray, np.ndarray] | None:
    """What training uses of an annotation; None for crowds, people with few joints, and boxes without an area.

    Returns:
        (num_joints, 2) keypoints in pixels, NaN where missing; xyxy box in pixels.
    """
    is_crowd = annotation.get("iscrowd").flag()
    triples = named_keypoints(annotation.need("keypoints"), names, skeleton.joints)
    keypoints = np.where(triples[:, 2:] > 0, triples[:, :2], np.nan)
    keypoints = _with_head_bottom(keypoints, names, skeleton)
    box = xywh_box(annotation.need("bbox"))
    if is_crowd or np.isfinite(keypoints[:, 0]).sum() < MIN_JOINTS:
        return None
    if box is None or not (box[2:] > box[:2]).all():
        box = keypoint_box(keypoints, BOX_FACTOR)
    return (keypoints, box) if (box[2:] > box[:2]).all() else None


def _with_head_bottom(
    keypoints: np.ndarray, names: tuple[str, ...], skeleton: Skeleton
) -> np.ndarray:
    if "head_bottom" in names or "head_bottom" not in skeleton.joints:
        return keypoints
    shoulders = [skeleton.index("left_shoulder"), skeleton.index("right_shoulder")]
    keypoints[skeleton.index("head_bottom")] = keypoints[shoulders].mean(axis=0)
    return keypoints
