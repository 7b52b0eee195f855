"""COCO person keypoints -> stills, each a clip of one frame.

Joints map by the names of the file's own person category. Of COCO's 17, the nose and the 12 joints of arms and legs are
PoseTrack's; eyes and ears have no counterpart; there is no head_top. head_bottom is taken as the middle of the shoulders
when both are labelled, which is where PoseTrack's annotators put the bottom of the head to within a few pixels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusionpose.data.clips import ClipRecord
from diffusionpose.data.json_nodes import Node, read_json
from diffusionpose.data.posetrack_files import (
    find_duplicate_ids,
    image_name,
    joint_names,
    named_keypoints,
    xywh_box,
)
from diffusionpose.data.subset import Subset
from diffusionpose.nn.geometry import keypoint_box
from diffusionpose.skeleton import POSETRACK15, Skeleton

MIN_JOINTS = 4
"""People with fewer labelled joints teach little and are left out."""
BOX_FACTOR = 1.25
"""By how much the extents of the keypoints grow to a box where the file's box has no area."""


@dataclass(frozen=True, eq=False)
class CocoPerson:
    """One annotation.

    Args:
        image_id: Of the file.
        number: The annotation's id.
        keypoints: (num_joints, 2) pixels, NaN where missing.
        num_labelled: Joints of the file that have a place among these.
        box: xyxy pixels, the file's, or the keypoints' where that has no area; None where neither has one.
        is_crowd: A group under one outline.
    """

    image_id: int
    number: int
    keypoints: np.ndarray
    num_labelled: int
    box: np.ndarray | None
    is_crowd: bool

    @property
    def teaches(self) -> bool:
        """Whether training takes it."""
        return not self.is_crowd and self.num_labelled >= MIN_JOINTS and self.box is not None


def read_coco(
    root: Path,
    annotations: Path,
    skeleton: Skeleton = POSETRACK15,
    subset: Path | None = None,
) -> tuple[dict[int, str], list[CocoPerson]]:
    """File names of the images by id, and everybody annotated in them, crowds too.

    Args:
        root: Data set root.
        annotations: The json file, relative to the root.
        skeleton: The joints wanted, matched by name with the file's own category.
        subset: File of the images wanted, by file name or id, relative to the root (`Subset`).

    Raises:
        DataError: If the file cannot be read or contradicts the COCO keypoint form, naming file and JSON path; or if the
            subset names what is not there.
    """
    content = read_json(Path(root) / annotations)
    names = coco_joints(content)
    files = image_files(content)
    kept = files
    if subset is not None:
        wanted = Subset.read(Path(root) / subset)
        kept = {key: name for key, name in files.items() if wanted.holds((name, str(key)))}
        wanted.check()
    people = []
    find_duplicate_ids(content)
    for annotation in content.need("annotations").items():
        # Read before it is left out: what is malformed is an error wherever it stands.
        image_id = known_image(annotation, files)
        person = read_person(annotation, image_id or 0, names, skeleton)
        if image_id in kept:
            people.append(person)
    return kept, people


def annotated_images(people: Sequence[CocoPerson], stride: int) -> list[int]:
    """Every n-th of the images with annotations, in the file's order, whether or not training takes anybody in it."""
    return list(dict.fromkeys(person.image_id for person in people))[::stride]


def load_coco(
    root: Path,
    annotations: Path,
    images: Path,
    skeleton: Skeleton = POSETRACK15,
    subset: Path | None = None,
    stride: int = 1,
) -> list[ClipRecord]:
    """Every person of a COCO keypoint file with at least `MIN_JOINTS` labelled joints and a box; crowds are left out.

    Args:
        root: Data set root.
        annotations: As `read_coco`.
        images: The image folder, relative to the root.
        skeleton: As `read_coco`.
        subset: As `read_coco`.
        stride: Keep the people of every n-th image, as `annotated_images`.

    Raises:
        DataError: As `read_coco`.
    """
    files, people = read_coco(root, annotations, skeleton, subset)
    kept = set(annotated_images(people, stride))
    records, seen = [], Counter[int]()
    for person in people:
        number = seen[person.image_id]
        seen[person.image_id] += 1
        if not person.teaches or person.image_id not in kept:
            continue
        assert person.box is not None
        path = Path(root) / images / files[person.image_id]
        records.append(
            ClipRecord(
                frames=(path, path, path),
                keypoints=person.keypoints,
                box=person.box,
                video=path.stem,
                image_id=person.image_id,
                track_id=person.number,
                still=True,
                number=number,
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


def read_person(
    annotation: Node, image_id: int, names: tuple[str, ...], skeleton: Skeleton = POSETRACK15
) -> CocoPerson:
    """An annotation, its joints matched by name."""
    is_crowd = bool(annotation.get("iscrowd").flag())
    triples = named_keypoints(annotation.need("keypoints"), names, skeleton.joints)
    keypoints = np.where(triples[:, 2:] > 0, triples[:, :2], np.nan)
    labelled = int(np.isfinite(keypoints[:, 0]).sum())
    keypoints = _with_head_bottom(keypoints, names, skeleton)
    box = xywh_box(annotation.need("bbox"))
    if labelled and not _has_area(box):
        box = keypoint_box(keypoints, BOX_FACTOR)
    return CocoPerson(
        image_id=image_id,
        number=annotation.need("id").integer() or 0,
        keypoints=keypoints,
        num_labelled=labelled,
        box=box if _has_area(box) else None,
        is_crowd=is_crowd,
    )


def _has_area(box: np.ndarray | None) -> bool:
    return box is not None and bool((box[2:] > box[:2]).all())


def _with_head_bottom(
    keypoints: np.ndarray, names: tuple[str, ...], skeleton: Skeleton
) -> np.ndarray:
    if "head_bottom" in names or "head_bottom" not in skeleton.joints:
        return keypoints
    shoulders = [skeleton.index("left_shoulder"), skeleton.index("right_shoulder")]
    keypoints[skeleton.index("head_bottom")] = keypoints[shoulders].mean(axis=0)
    return keypoints
