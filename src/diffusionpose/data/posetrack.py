"""PoseTrack17, 18 and 21, loaded as people with neighbouring frames."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from diffusionpose.annotations import AnnotatedFrame, AnnotatedPerson, AnnotatedVideo
from diffusionpose.data.clips import ClipRecord
from diffusionpose.data.frames import locate_images
from diffusionpose.data.posetrack_files import find_annotations, read_posetrack
from diffusionpose.data.subset import Subset
from diffusionpose.nn.geometry import keypoint_box
from diffusionpose.skeleton import POSETRACK15, Skeleton, remap
from diffusionpose.structures import NO_TRACK

BOX_FACTORS = {"posetrack17": 1.2, "posetrack18": 1.3}
"""Scale from the extent of the keypoints to a box, if there is no annotated one.

For 17 this is the factor of DetectAndTrack; for 18 and 21 that of their annotated boxes.
"""


def load_posetrack(
    root: Path,
    split: str,
    skeleton: Skeleton = POSETRACK15,
    stride: int = 1,
    subset: Path | None = None,
) -> list[ClipRecord]:
    """Load the annotated people of a split, in the order of the files.

    Args:
        root: Root with annotations (`find_annotations`) and images (`locate_images`).
        split: `train`, `val` or another folder.
        skeleton: Joints to return, matched by name; PoseTrack never annotates ears.
        stride: Keep every n-th annotated frame of a video, among those in the subset.
        subset: Subset file, relative to the root (see `Subset`).

    Returns:
        People with a labelled joint outside ignore regions and a box with an area
        (`usable_person`).

    Raises:
        DataError: If annotations or images are missing, a file is malformed, or entries of the
            subset do not exist.
    """
    root = Path(root)
    wanted = Subset.read(root / subset) if subset else None
    records = []
    for file in find_annotations(root, split):
        video = read_posetrack(file)
        kept = [
            index
            for index, frame in enumerate(video.frames)
            if wanted is None or wanted.holds(frame_names(video, frame))
        ]
        annotated = [index for index in kept if video.frames[index].people]
        records += _records(root, split, video, annotated[::stride], skeleton)
    if wanted is not None:
        wanted.check()
    return records


def frame_names(video: AnnotatedVideo, frame: AnnotatedFrame) -> Iterator[str]:
    """Yield the names by which a subset file may select a frame: video, file name and id."""
    yield video.name
    yield frame.file_name
    if frame.frame_id is not None:
        yield str(frame.frame_id)


def _records(
    root: Path, split: str, video: AnnotatedVideo, kept: list[int], skeleton: Skeleton
) -> Iterator[ClipRecord]:
    images = locate_images(root, split, video) if kept else None
    for index in kept:
        frame = video.frames[index]
        for number, person in enumerate(frame.people):
            usable = usable_person(person, frame, video.layout)
            if usable is None or images is None:
                continue
            keypoints, box = usable
            further = images.clip(index, 2)
            yield ClipRecord(
                frames=images.clip(index),
                keypoints=remap(keypoints, POSETRACK15.joints, skeleton.joints),
                box=box,
                video=video.name,
                image_id=index if frame.frame_id is None else frame.frame_id,
                track_id=NO_TRACK if person.track_id is None else person.track_id,
                further=(further[0], further[2]),
                frame=index,
                number=number,
            )


def usable_person(
    person: AnnotatedPerson, frame: AnnotatedFrame, layout: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a person's `usable_joints` and `usable_box` for training, or None without a box."""
    keypoints = usable_joints(person, frame, layout)
    box = usable_box(person, keypoints, frame, layout)
    return None if box is None else (keypoints, box)


def usable_joints(person: AnnotatedPerson, frame: AnnotatedFrame, layout: str) -> np.ndarray:
    """Return (15, 2) keypoints in pixels, NaN unless labelled and outside ignore regions.

    Joints inside ignore regions do not count in PoseTrack's metric either. In 18 and 21, visibility
    0 means not labelled, as in COCO; in 17 it means occluded, and unlabelled joints are not in the
    file.
    """
    keypoints = person.keypoints.copy()
    if layout == "posetrack18":
        keypoints[person.visible == 0] = np.nan
    keypoints[_ignored(keypoints, frame.ignore_regions)] = np.nan
    return keypoints


def usable_box(
    person: AnnotatedPerson, keypoints: np.ndarray, frame: AnnotatedFrame, layout: str
) -> np.ndarray | None:
    """Return the annotated box, or one from the keypoints if that has no area within the image.

    Returns:
        xyxy pixels, clipped to the image if its size is known; None without keypoints or area.
    """
    if np.isnan(keypoints).all():
        return None
    for box in (person.box, keypoint_box(keypoints, BOX_FACTORS[layout])):
        if box is not None:
            clipped = clipped_boxes(box, frame.size)
            if (clipped[2:] > clipped[:2]).all():
                return clipped
    return None


def clipped_boxes(boxes: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Clip (..., 4) xyxy boxes to an image of (height, width); unchanged if the size is unknown."""
    return boxes if size is None else np.clip(boxes, 0, [size[1], size[0], size[1], size[0]])


def _ignored(keypoints: np.ndarray, regions: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return (15,) whether each joint lies strictly inside one of the polygons."""
    inside = np.zeros(len(keypoints), bool)
    for region in regions:
        if len(region) >= 3:
            polygon = region.astype(np.float32)
            inside |= [
                bool(np.isfinite(x)) and cv2.pointPolygonTest(polygon, (x, y), False) > 0
                for x, y in keypoints.tolist()
            ]
    return inside
