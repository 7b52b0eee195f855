"""Finding and reading PoseTrack17, 18 and 21 files, of annotations or predictions.

Joints are in the order of `skeleton.POSETRACK15`, matched by name; the ears of 18 and 21 are
dropped.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffusionpose.annotations import AnnotatedFrame, AnnotatedPerson, AnnotatedVideo
from diffusionpose.data.json_nodes import Node, read_json, shown
from diffusionpose.errors import DataError
from diffusionpose.skeleton import POSETRACK15, POSETRACK17, remap

POSETRACK17_IDS = (
    *(f"right_{joint}" for joint in ("ankle", "knee", "hip")),
    *(f"left_{joint}" for joint in ("hip", "knee", "ankle")),
    *(f"right_{joint}" for joint in ("wrist", "elbow", "shoulder")),
    *(f"left_{joint}" for joint in ("shoulder", "elbow", "wrist")),
    *("head_bottom", "nose", "head_top"),
)
"""PoseTrack17's joints in the order of their ids."""

ANNOTATION_FOLDERS = ("posetrack_data", "annotations", "posetrack_data/annotations")
"""Folders of a root that may contain a folder of annotation files per split, in search order."""

_VERSION = re.compile(r"(?<![a-z0-9])v0[._]?([0-9]{1,2})(?![0-9])", re.IGNORECASE)


def find_annotations(root: Path, split: str) -> list[Path]:
    """Find the annotation files of a split, one per video, sorted by name.

    Args:
        root: Root of the data set, with one of `ANNOTATION_FOLDERS`.
        split: `train`, `val` or another folder.

    Raises:
        DataError: If the root or the files do not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    for folder in ANNOTATION_FOLDERS:
        place = root / folder / split
        files = sorted(place.glob("[!.]*.json")) if os.path.isdir(place) else []
        if files:
            return files
    looked = ", ".join(f"{folder}/{split}/*.json" for folder in ANNOTATION_FOLDERS)
    there = find_splits(root)
    hint = f"available splits: {', '.join(there)}" if there else "is this a PoseTrack root?"
    raise DataError(f"{root}: no annotation files; looked for {looked}; {hint}")


def find_splits(root: Path) -> list[str]:
    """Return the names of the splits that have annotation files."""
    return sorted({file.parent.name for file in files_of_splits(root)})


def files_of_splits(root: Path) -> list[Path]:
    """Return the annotation files of all splits, in all of `ANNOTATION_FOLDERS`."""
    return [file for folder in ANNOTATION_FOLDERS for file in (root / folder).glob("*/[!.]*.json")]


def label_version(file: Path, content: Node | None = None) -> str | None:
    """Return the version of the labels, e.g. `0.45`, or None if it is unknown.

    It is taken from the file (`info.version`, `version`) or else from a folder's name. It matters,
    as results on PoseTrack18's labels v0.2 and v0.45 differ by tens of mAP.

    Args:
        file: Annotation file.
        content: Content of the file, if it has been read already.
    """
    content = content or read_json(file)
    for node in (content.get("info").get("version"), content.get("version")):
        if isinstance(node.value, str | int | float) and not isinstance(node.value, bool):
            return shown(node.value).strip('"')
    found = _VERSION.search("/".join(file.resolve().parent.parts))
    return f"0.{found[1]}" if found else None


def read_posetrack(path: Path, *, is_truth: bool = True) -> AnnotatedVideo:
    """Read an annotation file of PoseTrack17, 18 or 21; the layout is inferred from its keys.

    Args:
        path: The file.
        is_truth: Whether annotations must have unique ids; not required of predictions.

    Raises:
        DataError: If the file cannot be read or is malformed; names file and JSON path.
    """
    content = read_json(Path(path))
    if is_truth:
        find_duplicate_ids(content)
    return parse_posetrack(content, Path(path).stem)


def find_duplicate_ids(content: Node) -> None:
    """Report annotations (COCO, PoseTrack18 or 21) whose id is no integer or is used before.

    Loading refuses such files; ids may be missing.
    """
    seen: set[int] = set()
    for annotation in content.get("annotations").items():
        place = annotation.get("id")
        number = place.integer()
        if number is not None:
            if number in seen:
                place.find("duplicate-id", f"annotation id {number} is used twice")
            seen.add(number)


def parse_posetrack(content: Node, name: str) -> AnnotatedVideo:
    """Parse the content of an annotation file; problems are reported to the node.

    Args:
        content: The whole file.
        name: Name of the video.
    """
    if content.get("annolist").is_there:
        frames, layout = tuple(map(_frame17, content.get("annolist").items())), "posetrack17"
    else:
        _expect_images(content)
        frames, layout = tuple(_frames18(content)), "posetrack18"
    for key in ("annolist", "images"):
        if content.get(key).value == []:
            content.get(key).find("no-frames", "the video has no frames")
    return AnnotatedVideo(name, frames, layout)


def _expect_images(content: Node) -> None:
    if not content.get("images").is_there:
        if isinstance(content.value, dict):
            content.find("missing-key", "neither 'annolist' (PoseTrack17) nor 'images' (18, 21)")
        elif content.is_there:
            content.find("wrong-type", "expected an object")


# PoseTrack17: every scalar is wrapped in a one-element list -------------------------------------


def _frame17(node: Node) -> AnnotatedFrame:
    return AnnotatedFrame(
        file_name=image_name(node.need_one("image").need_one("name")),
        people=tuple(_person17(person) for person in node.get("annorect").items()),
        is_labelled=node.get("is_labeled").one().flag(),
        ignore_regions=tuple(_region17(region) for region in node.get("ignore_regions").items()),
    )


def _region17(node: Node) -> np.ndarray:
    points = [_xy(point) for point in node.need("point").items()]
    return np.array([point for point in points if point is not None]).reshape(-1, 2)


def _xy(node: Node) -> tuple[float, float] | None:
    x, y = (node.need_one(axis).number() for axis in ("x", "y"))
    return None if x is None or y is None else (x, y)


def _person17(node: Node) -> AnnotatedPerson:
    points = node.get("annopoints").one().get("point")
    values = np.full((len(POSETRACK17_IDS), 4), np.nan)
    for point in points.items():
        joint, xy = _joint17(point), _xy(point)
        if joint is None or xy is None:
            continue
        if not np.isnan(values[joint, 0]):
            point.find("duplicate-joint", f"joint id {joint} is used twice")
        values[joint] = (*xy, *(_or_nan(point.get(key).one()) for key in ("is_visible", "score")))
    values = remap(values, POSETRACK17_IDS, POSETRACK15.joints)
    return AnnotatedPerson(
        track_id=node.get("track_id").one().integer(),
        keypoints=values[:, :2],
        visible=values[:, 2],
        scores=values[:, 3],
        head_box=head_box17(node),
        score=_or_nan(node.get("score").one()),
        has_points=points.is_there,
    )


def _joint17(point: Node) -> int | None:
    joint = point.need_one("id").integer()
    if joint is not None and not 0 <= joint < len(POSETRACK17_IDS):
        point.get("id").find("unknown-joint", f"joint ids are 0 to 14, not {joint}")
        return None
    return joint


def head_box17(node: Node) -> np.ndarray | None:
    """Return the xyxy head box of a PoseTrack17 person, or None."""
    keys = ("x1", "y1", "x2", "y2")
    if not any(node.get(key).one().is_there for key in keys):
        return None
    sides = [node.need_one(key).number() for key in keys]
    return None if None in sides else np.array(sides, dtype=np.float64)


def _or_nan(node: Node) -> float:
    value = node.number()
    return float("nan") if value is None else value


# PoseTrack18 and 21: images, and annotations that refer to them ---------------------------------


def _frames18(content: Node) -> Iterator[AnnotatedFrame]:
    joints = joint_names(content) or POSETRACK17.joints
    people: dict[int, list[AnnotatedPerson]] = {}
    images: list[tuple[int | None, Node]] = []
    for image in content.get("images").items():
        image_id = image.need("id").integer()
        if image_id in people:
            image.get("id").find("duplicate-id", f"image id {image_id} is used twice")
        elif image_id is not None:
            people[image_id] = []
        images.append((image_id, image))
    has_images = content.get("images").is_there
    for annotation in (content.need if has_images else content.get)("annotations").items():
        image_id = annotation.need("image_id").integer()
        person = _person18(annotation, joints)
        if image_id in people:
            people[image_id].append(person)
        elif people and image_id is not None:
            annotation.get("image_id").find("dangling-image-id", f"there is no image {image_id}")
    for image_id, image in images:
        # If two images share an id, only the first gets the people.
        yield _frame18(image, image_id, people.pop(image_id, []) if image_id is not None else [])


def _frame18(node: Node, image_id: int | None, people: list[AnnotatedPerson]) -> AnnotatedFrame:
    return AnnotatedFrame(
        file_name=image_name(node.need("file_name")),
        people=tuple(people),
        is_labelled=node.get("is_labeled").flag(),
        ignore_regions=tuple(_regions18(node)),
        frame_id=image_id,
        size=image_size(node),
    )


def image_name(node: Node) -> str:
    """Return a file name, or an empty string if there is none."""
    name = node.text()
    if name == "":
        node.find("wrong-type", "expected a file name, got an empty string")
    return name or ""


def image_size(node: Node) -> tuple[int, int] | None:
    """Return (height, width) of a COCO or PoseTrack18 image, or None if either is missing."""
    height, width = (node.get(key).integer() for key in ("height", "width"))
    for key, value in (("height", height), ("width", width)):
        if value is not None and value < 1:
            node.get(key).find("bad-size", f"expected at least 1 pixel, got {value}")
    return (height, width) if height and width and min(height, width) > 0 else None


def _regions18(node: Node) -> Iterator[np.ndarray]:
    xs, ys = node.get("ignore_regions_x"), node.get("ignore_regions_y")
    xs, ys = (list(part.items()) for part in (xs, ys))
    if len(xs) != len(ys):
        node.find("wrong-count", f"{len(xs)} ignore_regions_x but {len(ys)} ignore_regions_y")
        return
    for x, y in zip(xs, ys, strict=True):
        across, down = x.numbers(), y.numbers()
        if across is not None and down is not None:
            if len(across) == len(down):
                yield np.column_stack([across, down])
            else:
                x.find("wrong-count", f"a polygon with {len(across)} x but {len(down)} y")


def joint_names(content: Node) -> tuple[str, ...]:
    """Return the joints named by the person category of a COCO or PoseTrack18 file, if any."""
    for category in content.get("categories").items():
        names = category.get("keypoints")
        if names.is_there:
            joints = [joint.text() for joint in names.items()]
            if len(set(joints)) != len(joints):
                names.find("duplicate-joint", "a joint is named twice")
            elif None not in joints:
                return tuple(joint for joint in joints if joint is not None)
    return ()


def _person18(node: Node, joints: tuple[str, ...]) -> AnnotatedPerson:
    has_points = node.get("keypoints").is_there
    keypoints = named_keypoints(node.get("keypoints"), joints)
    scores = node.get("scores").numbers(0, len(joints))
    if scores is None or not len(scores):
        scores = np.full(len(joints), np.nan)
    present = np.isfinite(keypoints[:, 0])
    return AnnotatedPerson(
        track_id=node.get("track_id").integer(),
        keypoints=keypoints[:, :2],
        visible=keypoints[:, 2],
        scores=np.where(present, remap(scores[:, None], joints, POSETRACK15.joints)[:, 0], np.nan),
        head_box=xywh_box(node.get("bbox_head")),
        box=xywh_box(node.get("bbox")),
        score=_or_nan(node.get("score")),
        has_points=has_points,
    )


def named_keypoints(
    node: Node, names: tuple[str, ...], joints: tuple[str, ...] = POSETRACK15.joints
) -> np.ndarray:
    """Reorder flat x, y, v triples from `names` to (len(joints), 3), matched by name.

    Joints that are not in `names`, or for which x = y = v = 0, are NaN.
    """
    values = node.numbers(0, 3 * len(names))
    if values is None or not len(values):
        return np.full((len(joints), 3), np.nan)
    triples = values.reshape(len(names), 3)
    triples[~triples.any(axis=1)] = np.nan
    return remap(triples, names, joints)


def xywh_box(node: Node) -> np.ndarray | None:
    """Convert (x, y, width, height) to xyxy; None without a box."""
    values = node.numbers(0, 4)
    if values is None or not len(values):
        return None
    return np.concatenate([values[:2], values[:2] + values[2:]])
