"""Annotated data sets to evaluate on: all videos, and where the images of their frames and neighbours lie."""

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
"""By numbers of video and frame, the files of the frames t-1, t, t+1."""


@dataclass(frozen=True, eq=False)
class AnnotatedSet:
    """A data set.

    Args:
        videos: A still is a video of one frame.
        clips: The files of each frame and its neighbours.
        label_version: Of the annotations, if it is known.
    """

    videos: list[AnnotatedVideo]
    clips: Clips
    label_version: str | None = None


def posetrack_set(root: Path, split: str, subset: Path | None = None) -> AnnotatedSet:
    """A split of a PoseTrack17, 18 or 21 root.

    Args:
        root: Of the data set.
        split: `train`, `val` or another folder.
        subset: File of the videos or frames wanted, relative to the root (`Subset`).

    Raises:
        DataError: If files are missing or malformed, or the subset names what is not there.
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
    """The video with the people of the frames that are wanted; other frames stay as neighbours."""
    frames = (
        frame if wanted.holds(frame_names(video, frame)) else replace(frame, people=())
        for frame in video.frames
    )
    return replace(video, frames=tuple(frames))


def posetrack_clips(videos: Sequence[AnnotatedVideo], root: Path, split: str) -> Clips:
    """The images of PoseTrack's videos under a root; those of a video are looked for when first asked for."""

    @cache
    def images(video: int) -> VideoImages:
        """Where the video lies."""
        return locate_images(root, split, videos[video])

    return lambda video, frame: images(video).clip(frame)


def coco_set(
    root: Path, annotations: Path, images: Path, stride: int = 1, subset: Path | None = None
) -> AnnotatedSet:
    """The stills of a COCO keypoint file with everybody in them, crowds and people without joints too.

    Args:
        root: Of the data set.
        annotations: The file, relative to the root.
        images: The folder, relative to the root.
        stride: Keep the people of every n-th image, as `annotated_images`.
        subset: File of the images wanted, relative to the root (`Subset`).

    Raises:
        DataError: If the file is missing or malformed.
    """
    files, people = read_coco(root, annotations, subset=subset)
    by_image: dict[int, list[CocoPerson]] = {}
    for person in people:
        by_image.setdefault(person.image_id, []).append(person)
    kept = annotated_images(people, stride)
    videos = [_still(image, files[image], images, by_image[image]) for image in kept]

    def clip(video: int, frame: int) -> tuple[Path, Path, Path]:
        """A picture without neighbours stands in for them."""
        del frame
        file = root / images / files[kept[video]]
        return file, file, file

    return AnnotatedSet(videos, clip)


def _still(image_id: int, name: str, images: Path, people: Sequence[CocoPerson]) -> AnnotatedVideo:
    # No folder of this machine's in a result.
    file = Path(name) if images.is_absolute() else images / name
    frame = AnnotatedFrame(
        str(file), tuple(map(_person, people)), is_labelled=True, frame_id=image_id
    )
    return AnnotatedVideo(Path(name).stem, (frame,), layout="posetrack18")


def _person(person: CocoPerson) -> AnnotatedPerson:
    unknown = np.full(len(person.keypoints), np.nan)
    # Joints of a crowd are nobody's.
    keypoints = np.full_like(person.keypoints, np.nan) if person.is_crowd else person.keypoints
    return AnnotatedPerson(
        person.number, keypoints, unknown, unknown, box=person.box, is_crowd=person.is_crowd
    )
