"""COCO person keypoints, loaded as still images.

Joints are matched by the names in the file's person category. Of COCO's 17 joints, PoseTrack has
the nose and the 12 joints of arms and legs, but not eyes and ears. COCO has no head_top;
head_bottom is set to the midpoint of the shoulders if both are labelled, which agrees with
PoseTrack's annotations to within a few pixels.
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
"""People with fewer labelled joints are not used for training."""
BOX_FACTOR = 1.25
"""Scale from the extent of the keypoints to a box, if the annotated box has no area."""


@dataclass(frozen=True, eq=False)
class CocoPerson:
    """An annotated person.

    Args:
        image_id: Id of the image in the file.
        number: Id of the annotation.
        keypoints: (num_joints, 2) pixels, NaN where missing.
        num_labelled: Number of labelled joints among `keypoints`, without a derived head_bottom.
        box: xyxy pixels; the annotated box, or one from the keypoints if that has no area, or None.
        is_crowd: Whether the annotation is a group of people.
    """

    image_id: int
    number: int
    keypoints: np.ndarray
    num_labelled: int
    box: np.ndarray | None
    is_crowd: bool

    @property
    def teaches(self) -> bool:
        """Whether the person is used for training."""
        return not self.is_crowd and self.num_labelled >= MIN_JOINTS and self.box is not None


def read_coco(
    root: Path,
    annotations: Path,
    skeleton: Skeleton = POSETRACK15,
    subset: Path | None = None,
) -> tuple[dict[int, str], list[CocoPerson]]:
    """Read the file names of images by id, and all annotated people, including crowds.

    Args:
        root: Root of the data set.
        annotations: JSON file, relative to the root.
        skeleton: Joints to return, matched by name with the file's person category.
        subset: Subset file with file names or ids of images, relative to the root (see `Subset`).

    Raises:
        DataError: If the file cannot be read or is malformed (names file and JSON path), or entries
            of the subset do not exist.
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
        # Parsed before filtering: malformed annotations are errors wherever they are.
        image_id = known_image(annotation, files)
        person = read_person(annotation, image_id or 0, names, skeleton)
        if image_id in kept:
            people.append(person)
    return kept, people


def annotated_images(people: Sequence[CocoPerson], stride: int) -> list[int]:
    """Return the ids of every n-th annotated image in the order of the file."""
    return list(dict.fromkeys(person.image_id for person in people))[::stride]


def load_coco(
    root: Path,
    annotations: Path,
    images: Path,
    skeleton: Skeleton = POSETRACK15,
    subset: Path | None = None,
    stride: int = 1,
) -> list[ClipRecord]:
    """Load the people of a COCO keypoint file that are used for training (`CocoPerson.teaches`).

    Args:
        root: Root of the data set.
        annotations: As for `read_coco`.
        images: Image folder, relative to the root.
        skeleton: As for `read_coco`.
        subset: As for `read_coco`.
        stride: Keep every n-th annotated image.

    Raises:
        DataError: As for `read_coco`.
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
    """Return the joints named by the person category, and report if there are none."""
    joints = joint_names(content)
    if not joints:
        found = content.need("categories")
        if found.is_there:
            found.find("missing-key", "no category has 'keypoints': is this a keypoint file?")
    return joints


def image_files(content: Node) -> dict[int, str]:
    """Return file names by image id."""
    files: dict[int, str] = {}
    for image in content.need("images").items():
        image_id, name = image.need("id").integer(), image_name(image.need("file_name"))
        if image_id in files:
            image.get("id").find("duplicate-id", f"image id {image_id} is used twice")
        elif image_id is not None:
            files[image_id] = name
    return files


def known_image(annotation: Node, files: dict[int, str]) -> int | None:
    """Return the image id of an annotation, and report if there is no such image."""
    image_id = annotation.need("image_id").integer()
    if image_id is not None and image_id not in files:
        annotation.get("image_id").find("dangling-image-id", f"there is no image {image_id}")
        return None
    return image_id


def num_labelled(annotation: Node) -> int:
    """Count the joints of an annotation with visibility above 0, among all joints of the file."""
    values = annotation.get("keypoints").numbers()
    return 0 if values is None else int((values[2::3] > 0).sum())


def read_person(
    annotation: Node, image_id: int, names: tuple[str, ...], skeleton: Skeleton = POSETRACK15
) -> CocoPerson:
    """Parse an annotation, with joints matched by name."""
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
