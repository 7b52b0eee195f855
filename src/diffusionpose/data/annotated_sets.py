"""Annotated data sets for evaluation: videos, and the image files of frames and neighbours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from diffusionpose.annotations import AnnotatedFrame, AnnotatedPerson, AnnotatedVideo
from diffusionpose.data.coco import CocoPerson, annotated_images, read_coco
from diffusionpose.data.frames import VideoImages, locate_images
from diffusionpose.data.posetrack import frame_names
from diffusionpose.data.posetrack_files import find_annotations, label_version, read_posetrack
from diffusionpose.data.subset import Subset

Clips = Callable[[int, int], tuple[Path, Path, Path]]
"""From indices of video and frame to the files of the frames t-1, t, t+1."""


@dataclass(frozen=True, eq=False)
class AnnotatedSet:
    """An annotated data set.

    Args:
        videos: Annotated videos; a still image is a video of one frame.
        clips: Locates the files of a frame and its neighbours.
        label_version: Version of the annotations, if it is known.
    """

    videos: list[AnnotatedVideo]
    clips: Clips
    label_version: str | None = None


def posetrack_set(root: Path, split: str, subset: Path | None = None) -> AnnotatedSet:
    """Load a split of a PoseTrack17, 18 or 21 root.

    Args:
        root: Root of the data set.
        split: `train`, `val` or another folder.
        subset: Subset file, relative to the root (see `Subset`).

    Raises:
        DataError: If files are missing or malformed, or entries of the subset do not exist.
    """
    files = find_annotations(root, split)
    videos = [read_posetrack(file) for file in files]
    if subset is not None:
        wanted = Subset.read(root / subset)
        videos = [_only(video, wanted) for video in videos]
        wanted.check()
        videos = [video for video in videos if any(frame.people for frame in video.frames)]
    return AnnotatedSet(videos, posetrack_clips(videos, root, split), label_version(files[0]))


def _only(video: AnnotatedVideo, wanted: Subset) -> AnnotatedVideo:
    """Remove the people from frames that are not wanted; the frames stay as neighbours."""
    frames = (
        frame if wanted.holds(frame_names(video, frame)) else replace(frame, people=())
        for frame in video.frames
    )
    return replace(video, frames=tuple(frames))


def posetrack_clips(videos: Sequence[AnnotatedVideo], root: Path, split: str) -> Clips:
    """Return the `Clips` of PoseTrack videos; the images of a video are located at first use."""

    @cache
    def images(video: int) -> VideoImages:
        return locate_images(root, split, videos[video])

    return lambda video, frame: images(video).clip(frame)


def coco_set(
    root: Path, annotations: Path, images: Path, stride: int = 1, subset: Path | None = None
) -> AnnotatedSet:
    """Load a COCO keypoint file with all people, including crowds and people without joints.

    Args:
        root: Root of the data set.
        annotations: Keypoint file, relative to the root.
        images: Image folder, relative to the root.
        stride: Keep every n-th annotated image.
        subset: Subset file, relative to the root (see `Subset`).

    Raises:
        DataError: If a file is missing or malformed.
    """
    files, people = read_coco(root, annotations, subset=subset)
    by_image: dict[int, list[CocoPerson]] = {}
    for person in people:
        by_image.setdefault(person.image_id, []).append(person)
    kept = annotated_images(people, stride)
    videos = [_still(image, files[image], images, by_image[image]) for image in kept]

    def clip(video: int, frame: int) -> tuple[Path, Path, Path]:
        del frame
        # A still image replaces its neighbours.
        file = root / images / files[kept[video]]
        return file, file, file

    return AnnotatedSet(videos, clip)


def _still(image_id: int, name: str, images: Path, people: Sequence[CocoPerson]) -> AnnotatedVideo:
    # Results must not contain absolute paths.
    file = Path(name) if images.is_absolute() else images / name
    frame = AnnotatedFrame(
        str(file), tuple(map(_person, people)), is_labelled=True, frame_id=image_id
    )
    return AnnotatedVideo(Path(name).stem, (frame,), layout="posetrack18")


def _person(person: CocoPerson) -> AnnotatedPerson:
    unknown = np.full(len(person.keypoints), np.nan)
    # The joints of a crowd belong to no single person.
    keypoints = np.full_like(person.keypoints, np.nan) if person.is_crowd else person.keypoints
    return AnnotatedPerson(
        person.number, keypoints, unknown, unknown, box=person.box, is_crowd=person.is_crowd
    )
