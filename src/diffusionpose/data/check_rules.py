"""Rules of `data check` for annotations that can be parsed, one function each.

Rules report problems to the node concerned. They traverse the JSON again in order to know its path.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from diffusionpose.annotations import AnnotatedVideo
from diffusionpose.data.frames import frame_number, is_file
from diffusionpose.data.json_nodes import Node, shown
from diffusionpose.data.posetrack_files import head_box17, joint_names, xywh_box
from diffusionpose.skeleton import POSETRACK15

Size = tuple[int, int]
"""(height, width) in pixels."""
FAR_OUTSIDE = 0.1
"""Share of the longer side by which joints may lie outside the image; in JHMDB it is up to 0.01."""


@dataclass(frozen=True)
class PersonPlace:
    """A person's node, and the index of its frame, or None if there is no such frame."""

    node: Node
    frame: int | None


def frame_nodes(content: Node, layout: str) -> list[Node]:
    """Return the nodes of the frames, in the order of the file."""
    return list(content.get("annolist" if layout == "posetrack17" else "images").items())


def name_node(frame: Node, layout: str) -> Node:
    """Return the node of a frame's file name."""
    if layout == "posetrack17":
        return frame.get("image").one().get("name").one()
    return frame.get("file_name")


def people_places(content: Node, layout: str) -> list[PersonPlace]:
    """Return all people of a file."""
    frames = frame_nodes(content, layout)
    if layout == "posetrack17":
        return [
            PersonPlace(person, index)
            for index, frame in enumerate(frames)
            for person in frame.get("annorect").items()
        ]
    position = {frame.get("id").integer(): index for index, frame in enumerate(frames)}
    people = [(node, node.get("image_id").integer()) for node in content.get("annotations").items()]
    return [
        PersonPlace(node, None if image_id is None else position.get(image_id))
        for node, image_id in people
    ]


def check_frames(content: Node, video: AnnotatedVideo) -> None:
    """Check that frames are unique and in order, and that polygons and `is_labeled` are valid."""
    seen: set[str] = set()
    latest: int | None = None
    for node, frame in zip(frame_nodes(content, video.layout), video.frames, strict=True):
        place = name_node(node, video.layout)
        if frame.file_name and frame.file_name in seen:
            place.find("duplicate-frame", f"{shown(frame.file_name)} is listed twice")
        seen.add(frame.file_name)
        number = frame_number(PurePosixPath(frame.file_name))
        if number is not None and latest is not None and number < latest:
            place.find("frame-order", f"frame {number} comes after frame {latest}")
        latest = latest if number is None else number
        _check_polygons(node, video.layout)
        if frame.is_labelled is False and any(
            np.isfinite(person.keypoints).any() for person in frame.people
        ):
            node.find("label-mismatch", "is_labeled is false, but there are people with joints")


def _check_polygons(frame: Node, layout: str) -> None:
    if layout == "posetrack17":
        corners = [(region, region.get("point")) for region in frame.get("ignore_regions").items()]
    else:
        corners = [(region, region) for region in frame.get("ignore_regions_x").items()]
    for region, points in corners:
        if isinstance(points.value, list) and len(points.value) < 3:
            region.find("bad-polygon", "an ignore region needs at least three corners")


def check_num_frames(content: Node) -> None:
    """Check that `nframes` of PoseTrack18 is the number of images; report each wrong value once."""
    nodes = frame_nodes(content, "posetrack18")
    told: set[int] = set()
    for node in nodes:
        value = node.get("nframes").integer()
        if value is not None and value != len(nodes) and value not in told:
            told.add(value)
            node.get("nframes").find(
                "wrong-nframes", f"expected {len(nodes)}, the number of images, got {value}"
            )


def check_joint_names(content: Node) -> None:
    """Check that the category of a PoseTrack18 file names all joints of PoseTrack."""
    names = joint_names(content)
    lacking = [joint for joint in POSETRACK15.joints if joint not in names]
    if names and lacking:
        content.get("categories").find("missing-joint", f"missing {', '.join(lacking)}")


def check_tracks(people: Iterable[PersonPlace]) -> None:
    """Check that everybody has a track id, unique within the frame."""
    seen: set[tuple[int, int]] = set()
    for person in people:
        track = person.node.need_one("track_id").integer()
        if track is not None and person.frame is not None:
            if (person.frame, track) in seen:
                message = f"track id {track} is used twice in this frame"
                person.node.get("track_id").find("duplicate-track", message)
            seen.add((person.frame, track))


def check_ids(people: Iterable[PersonPlace]) -> None:
    """Check that every annotation (COCO, PoseTrack18 or 21) has an id."""
    for person in people:
        person.node.need("id")


def check_visibility(people: Iterable[PersonPlace]) -> None:
    """Check that visibilities are 0, 1 or 2 (COCO, PoseTrack18 or 21)."""
    for person in people:
        node = person.node.get("keypoints")
        values = node.numbers()
        if values is not None and len(values) % 3 == 0:
            for index in np.flatnonzero(~np.isin(values[2::3], (0, 1, 2))).tolist():
                place = 3 * index + 2
                Node(node.value[place], node.file, node.report, node, place).find(
                    "bad-visibility", f"expected 0, 1 or 2, got {shown(node.value[place])}"
                )


def check_joints(people: Iterable[PersonPlace], layout: str, sizes: Sequence[Size | None]) -> None:
    """Check that labelled joints lie within the image or, as happens in annotations, near it.

    Args:
        people: People of a file.
        layout: `posetrack17`, `posetrack18` or `coco`.
        sizes: (height, width) of the frames; None where unknown.
    """
    for person in people:
        size = sizes[person.frame] if person.frame is not None else None
        points = _labelled_points(person.node, layout)
        if size is not None and len(points):
            beyond = np.maximum(-points, points - size[::-1]).max(axis=1)
            far = points[beyond > FAR_OUTSIDE * max(size)]
            if len(far):
                x, y = far[0].tolist()
                place = person.node.get("annopoints" if layout == "posetrack17" else "keypoints")
                more = f" and {len(far) - 1} more" if len(far) > 1 else ""
                message = f"a joint at {x:g}, {y:g}{more} is far outside the image"
                place.find("joint-outside", f"{message} of {size[1]} x {size[0]} pixels")


def _labelled_points(node: Node, layout: str) -> np.ndarray:
    """Return the (n, 2) labelled joints of a person."""
    if layout == "posetrack17":
        points = node.get("annopoints").one().get("point").items()
        pairs = [tuple(point.get(axis).one().number() for axis in ("x", "y")) for point in points]
        return np.array([pair for pair in pairs if None not in pair], float).reshape(-1, 2)
    values = node.get("keypoints").numbers()
    if values is None or len(values) % 3:
        return np.empty((0, 2))
    triples = values.reshape(-1, 3)
    return triples[triples[:, 2] > 0, :2]


def check_head_boxes(people: Iterable[PersonPlace], layout: str) -> None:
    """Check that people with joints have a head box, which PoseTrack's metric needs."""
    keys = ("x1", "y1", "x2", "y2") if layout == "posetrack17" else ("bbox_head",)
    for person in people:
        points = person.node.get("annopoints").one().get("point")
        if points.value or _any_but_zero(person.node.get("keypoints")):
            for key in keys:
                person.node.need_filled(key)


def _any_but_zero(node: Node) -> bool:
    values = node.numbers()
    return values is not None and bool(values.any())


def check_boxes(people: Iterable[PersonPlace], layout: str, sizes: Sequence[Size | None]) -> int:
    """Check that boxes have an area and overlap the image.

    Args:
        people: People of a file.
        layout: `posetrack17`, `posetrack18` or `coco`.
        sizes: (height, width) of the frames; None where unknown.

    Returns:
        Number of body boxes that extend beyond the image.
    """
    num_beyond = 0
    for person in people:
        size = sizes[person.frame] if person.frame is not None else None
        for key, place, box in _boxes(person.node, layout):
            if not (box[2:] > box[:2]).all():
                width, height = (box[2:] - box[:2]).tolist()
                place.find("empty-box", f"the box has no area: width {width:g}, height {height:g}")
            elif size is not None and not _overlaps(box, size):
                place.find(
                    "box-outside", f"the box is outside the image of {size[1]} x {size[0]} pixels"
                )
            elif size is not None and key == "bbox":
                num_beyond += bool((box[:2] < 0).any() or (box[2:] > size[::-1]).any())
    return num_beyond


def _boxes(node: Node, layout: str) -> list[tuple[str, Node, np.ndarray]]:
    if layout == "posetrack17":
        found = [("head", node, head_box17(node))]
    else:
        found = [(key, node.get(key), xywh_box(node.get(key))) for key in ("bbox", "bbox_head")]
    return [(key, place, box) for key, place, box in found if box is not None]


def _overlaps(box: np.ndarray, size: Size) -> bool:
    return bool((box[2:] > 0).all() and (box[:2] < size[::-1]).all())


def image_fault(path: Path) -> tuple[str, str] | Size:
    """Decode an image file to find its size, or what is wrong with it.

    Returns:
        (height, width); or the code `missing-image` or `unreadable-image` and a message. Truncated
        images count as unreadable, although decoders return a part of them.
    """
    if not is_file(path):
        return "missing-image", "no such file"
    try:
        data = path.read_bytes()
    except OSError as error:
        return "unreadable-image", error.strerror or "cannot be read"
    if not _is_complete(data):
        return "unreadable-image", "the image is truncated"
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # empty, or too large
        image = None
    return (
        ("unreadable-image", "not an image") if image is None else (image.shape[0], image.shape[1])
    )


def _is_complete(data: bytes) -> bool:
    """Return whether a JPEG or PNG file has its end marker; True for other formats."""
    if data.startswith(b"\xff\xd8"):
        # The end marker of an embedded thumbnail comes before the image's own start of scan.
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    return not data.startswith(b"\x89PNG") or b"IEND" in data[-1024:]
