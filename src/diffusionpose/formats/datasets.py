"""Encoders of data set formats: PoseTrack18 and COCO keypoints."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence

from diffusionpose.formats.text import (
    PIXEL_DECIMALS,
    array_items,
    box_xywh,
    json_line,
    rounded_seconds,
)
from diffusionpose.skeleton import COCO17, POSETRACK17, Skeleton, remap
from diffusionpose.structures import FramePoses, PersonPose, PosesHeader, VideoVerdict


def _person_fields(
    person: PersonPose, joints: Sequence[str], target: Skeleton, visible: int
) -> tuple[list[float], list[float]]:
    """Keypoints and scores in the joint order of another skeleton, in COCO's form.

    Returns:
        Flat list of x, y, v of all joints, with v = `visible`, or 0, 0, 0 where missing; and
        scores.
    """
    rows = remap(person.keypoints, joints, target.joints).tolist()
    written = [[0, 0, 0] if math.isnan(x) else [x, y, visible] for x, y, _ in rows]
    scores = [0.0 if math.isnan(x) else score for x, _, score in rows]
    return [value for row in written for value in row], scores


def _person_category(skeleton: Skeleton) -> str:
    """The person category, with limbs as 1-based joint indices, as in COCO."""
    limbs = [[a + 1, b + 1] for a, b in skeleton.limbs]
    names = {"supercategory": "person", "id": 1, "name": "person"}
    return json_line({**names, "keypoints": skeleton.joints, "skeleton": limbs})


def coco_family(
    info: str, images: Iterable[str], annotations: Iterable[str], skeleton: Skeleton
) -> Iterator[str]:
    """Compose a file of the structure that PoseTrack18 and COCO share."""
    yield f'{{\n{info}"images": ['
    yield from array_items(images)
    yield '\n],\n"annotations": ['
    yield from array_items(annotations)
    yield f'\n],\n"categories": [\n{_person_category(skeleton)}\n]\n}}\n'


POSETRACK_SOURCES = {"mpii": 1, "bonn": 2, "mpiinew": 3}
_POSETRACK_NAME = re.compile(r"(\d{6})_(mpii|bonn|mpiinew)(?![a-z])")


def posetrack_sequence(name: str) -> tuple[str, int]:
    """Derive PoseTrack's `vid_id`, and the id of frame 0, from the name of a sequence.

    Frame ids are T SSSSSS FFFF: source, sequence, frame. Videos with other names count as sequence
    000000 of source 1; ids of frames beyond 9999 overflow into the sequence.
    """
    found = _POSETRACK_NAME.match(name)
    sequence, source = found.groups() if found else ("000000", "mpii")
    return sequence, (POSETRACK_SOURCES[source] * 10**6 + int(sequence)) * 10**4


class PoseTrackEncoder:
    """PoseTrack18: 17 joints, of which the ears are always 0, 0, 0. All frames are included."""

    num_spools = 2

    def __init__(self, header: PosesHeader) -> None:
        self._joints = header.joints
        self._folder = header.video.stem
        self._vid_id, self._first_id = posetrack_sequence(header.video.name)
        self._num_frames = self._num_annotations = 0

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        """Encode one image and its people; see `Encoder.encode`."""
        image_id = self._first_id + frame.index
        self._num_frames += 1
        image = {
            "id": image_id,
            "frame_id": image_id,
            "vid_id": self._vid_id,
            "file_name": f"images/{self._folder}/{frame.index:06d}.jpg",
            "is_labeled": True,
        }
        return [json_line(image)], [self._annotation(person, image_id) for person in frame.people]

    def _annotation(self, person: PersonPose, image_id: int) -> str:
        keypoints, scores = _person_fields(person, self._joints, POSETRACK17, visible=1)
        self._num_annotations += 1
        record = {
            "image_id": image_id,
            "id": self._num_annotations,
            "track_id": int(person.track_id),
            "category_id": 1,
            "bbox": box_xywh(person.box),
            "keypoints": keypoints,
            "scores": scores,
        }
        return json_line(record)

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        """Compose a PoseTrack18 file; see `Encoder.compose`."""
        del verdict
        images, annotations = spools
        # The number of frames is only known now, so it is inserted before each record's last brace.
        counted = (line[:-1] + f', "nframes": {self._num_frames}}}' for line in images)
        yield from coco_family("", counted, annotations, POSETRACK17)


class CocoEncoder:
    """COCO keypoints as a data set: 17 joints by name. Joints that COCO lacks are left out."""

    num_spools = 2

    def __init__(self, header: PosesHeader) -> None:
        self._header = header
        self._folder = header.video.stem
        self._num_annotations = 0

    def encode(self, frame: FramePoses) -> tuple[Iterable[str], ...]:
        """Encode one image and its people; see `Encoder.encode`."""
        image = {
            "id": frame.index,
            "file_name": f"{self._folder}/{frame.index:06d}.jpg",
            "width": self._header.video.width,
            "height": self._header.video.height,
            "time": rounded_seconds(frame.time),
        }
        return [json_line(image)], [
            self._annotation(person, frame.index) for person in frame.people
        ]

    def _annotation(self, person: PersonPose, image_id: int) -> str:
        keypoints, scores = _person_fields(person, self._header.joints, COCO17, visible=2)
        bbox = box_xywh(person.box)
        self._num_annotations += 1
        record = {
            "id": self._num_annotations,  # from 1, as COCO's evaluation treats id 0 as "no match"
            "image_id": image_id,
            "category_id": 1,
            "track_id": int(person.track_id),
            "keypoints": keypoints,
            "keypoint_scores": scores,
            "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
            "bbox": bbox,
            "area": round(bbox[2] * bbox[3], PIXEL_DECIMALS),
            "score": person.score,
            "iscrowd": 0,
        }
        return json_line(record)

    def compose(self, verdict: VideoVerdict, *spools: Iterable[str]) -> Iterator[str]:
        """Compose a COCO keypoint file; see `Encoder.compose`."""
        del verdict
        version = f"diffusionpose {self._header.version}"
        info = json_line({"description": self._header.video.name, "version": version})
        images, annotations = spools
        yield from coco_family(f'"info": {info},\n', images, annotations, COCO17)
