"""Checking a data set: all problems with file and JSON path, and what is usable for training.

Loading stops at the first malformed file. Checking uses the same parser (`json_nodes`), but
continues and applies further rules (`check_rules`). The codes are listed in docs/data.md.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusionpose.annotations import AnnotatedFrame, AnnotatedPerson, AnnotatedVideo
from diffusionpose.data import check_rules as rules
from diffusionpose.data.coco import (
    MIN_JOINTS,
    CocoPerson,
    coco_joints,
    image_files,
    known_image,
    num_labelled,
    read_person,
)
from diffusionpose.data.frames import is_file, locate_images
from diffusionpose.data.json_nodes import Finding, Node, read_json
from diffusionpose.data.posetrack import usable_box, usable_joints
from diffusionpose.data.posetrack_files import (
    files_of_splits,
    find_annotations,
    find_duplicate_ids,
    find_splits,
    image_size,
    label_version,
    parse_posetrack,
)
from diffusionpose.errors import DataError, UsageError
from diffusionpose.process import usable_cores

LAYOUTS = ("auto", "posetrack17", "posetrack18", "coco")
"""Known layouts; PoseTrack21 has that of 18."""


@dataclass(frozen=True)
class PartReport:
    """Report on a split or a COCO file.

    Args:
        name: Name of the split or file.
        layouts: Layouts of the files.
        versions: Versions of the labels, if known.
        found: Numbers of files, videos, frames, labelled frames, people and joints.
        usable: Likewise, those usable for training.
        dropped: Numbers of unusable items by reason, and of boxes that training creates or clips.
    """

    name: str
    layouts: tuple[str, ...]
    versions: tuple[str, ...]
    found: dict[str, int]
    usable: dict[str, int]
    dropped: dict[str, int]


@dataclass(frozen=True)
class DataReport:
    """Report on a data set: statistics of its parts, and all problems."""

    root: str
    parts: tuple[PartReport, ...]
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Whether there are no problems."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return asdict(self) | {"is_clean": self.is_clean}

    def lines(self) -> Iterator[str]:
        """Yield the lines of a text report: every finding, then the numbers of each part."""
        yield from (f"{finding.code}: {finding}" for finding in self.findings)
        for part in self.parts:
            version = f", labels {', '.join(part.versions)}" if part.versions else ""
            yield f"{part.name} ({', '.join(part.layouts) or 'unreadable'}{version}):"
            for title, numbers in (("found", part.found), ("usable", part.usable)):
                yield f"  {title}: " + ", ".join(f"{n} {what}" for what, n in numbers.items())
            if part.dropped:
                yield "  of these: " + ", ".join(f"{n} {what}" for what, n in part.dropped.items())
        number = len(self.findings)
        yield "no problems" if not number else f"{number} problem{'s' if number > 1 else ''}"


def check_data(
    root: Path,
    split: str | None = None,
    layout: str = "auto",
    *,
    images: bool = True,
    on_file: Callable[[Path], None] = lambda _: None,
) -> DataReport:
    """Check a data set.

    Args:
        root: A PoseTrack17, 18 or 21 root (`find_annotations`, `locate_images`), or a folder with
            COCO keypoint files in itself or in `annotations`.
        split: Check only this split or, for COCO, only files with it in their name; by default all.
        layout: One of `LAYOUTS`.
        images: Whether to find and decode the images.
        on_file: Called before each annotation file.

    Raises:
        UsageError: If the layout is unknown.
        DataError: If there are no annotation files.
    """
    root = Path(root)
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    splits = find_splits(root)
    is_coco = layout == "coco" or (
        layout == "auto" and not splits and bool(_coco_files(root, None))
    )
    check = _Check(root, layout, images, on_file)
    if is_coco:
        files = _coco_files(root, split)
        if not files:
            wanted = f" with {split!r} in the name" if split else ""
            raise DataError(
                f"{root}: no annotation files{wanted}; looked for *.json, annotations/*.json"
            )
        parts = [check.coco_file(file) for file in files]
    else:
        wanted = [split] if split is not None else splits or ["train"]
        parts = [check.posetrack_split(name, find_annotations(root, name)) for name in wanted]
    return DataReport(str(root), tuple(parts), tuple(dict.fromkeys(check.findings)))


def annotation_files(root: Path, layout: str = "auto") -> list[Path]:
    """List the annotation files of a data set, of all splits, including those that are not checked.

    Args:
        root: Root folder of the data set.
        layout: As in `check_data`.
    """
    files = files_of_splits(root)
    return files if files and layout != "coco" else files + _json_files(root)


def _json_files(root: Path) -> list[Path]:
    """List the files that may be annotations of COCO."""
    return [
        file
        for folder in (root, root / "annotations")
        for file in sorted(folder.glob("[!.]*.json"))
    ]


def _coco_files(root: Path, split: str | None) -> list[Path]:
    """Return keypoint files or, without any, all annotation files; COCO has both in one folder."""
    files = [file for file in _json_files(root) if split is None or split in file.stem]
    return [file for file in files if "keypoints" in file.stem] or files


class _Image(NamedTuple):
    """(height, width) of a frame, if known, and whether no problem with its image was found."""

    size: rules.Size | None
    is_good: bool


def _look_at_images(
    nodes: Sequence[Node],
    places: Sequence[Node],
    files: Sequence[Path],
    stated: Sequence[rules.Size | None],
) -> list[_Image]:
    """Decode images and report problems.

    Args:
        nodes: Nodes of the frames, to report wrong sizes to.
        places: Nodes of the file names, to report missing and unreadable images to.
        files: The image files.
        stated: (height, width) according to the annotations.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        results = list(pool.map(rules.image_fault, files))
    images: list[_Image] = []
    for node, place, file, size, result in zip(nodes, places, files, stated, results, strict=True):
        if not place.text():  # reported by the parser
            images.append(_Image(size, False))
        elif isinstance(result[0], str):
            place.find(result[0], f"{str(file)!r}: {result[1]}")
            images.append(_Image(size, False))
        else:
            height, width = int(result[0]), int(result[1])
            if size is not None and size != (height, width):
                message = f"annotated as {size[1]} x {size[0]}, but the image is {width} x {height}"
                node.get("width").find("image-size", message)
            images.append(_Image((height, width), True))
    return images


class _Check:
    """State of a check: findings so far, and statistics of the current part."""

    def __init__(
        self, root: Path, layout: str, images: bool, on_file: Callable[[Path], None]
    ) -> None:
        self.root, self.layout, self.images, self.on_file = root, layout, images, on_file
        self.findings: list[Finding] = []
        self.found, self.usable, self.dropped = Counter[str](), Counter[str](), Counter[str]()
        self.layouts: set[str] = set()
        self.versions: set[str] = set()

    def posetrack_split(self, split: str, files: Sequence[Path]) -> PartReport:
        """Check the annotation files of a split."""
        self._start("files", "videos", "frames", "labelled frames", "people", "joints")
        for file in files:
            self._video(file, split)
        if len(self.versions) > 1:
            message = f"labels of different versions: {', '.join(sorted(self.versions))}"
            self.findings.append(Finding("mixed-versions", str(files[0].parent), "", message))
        return self._part(split)

    def coco_file(self, file: Path) -> PartReport:
        """Check a COCO file."""
        self._start("files", "frames", "labelled frames", "people", "joints")
        self.on_file(file)
        self.found["files"] += 1
        content = read_json(file, self.findings.append)
        if content.is_there:
            self.layouts.add("coco")
            self._version(file, content)
            self._stills(file, content)
        return self._part(file.name)

    def _start(self, *names: str) -> None:
        self.found, self.usable = (Counter[str](dict.fromkeys(names, 0)) for _ in range(2))
        self.dropped, self.layouts, self.versions = Counter[str](), set(), set()

    def _part(self, name: str) -> PartReport:
        layouts, versions = tuple(sorted(self.layouts)), tuple(sorted(self.versions))
        dropped = {what: number for what, number in self.dropped.items() if number}
        return PartReport(name, layouts, versions, dict(self.found), dict(self.usable), dropped)

    def _version(self, file: Path, content: Node) -> None:
        version = label_version(file, content)
        if version is not None:
            self.versions.add(version)

    def _has_bad_ids(self, content: Node) -> bool:
        """Look for ids of annotations that loading refuses."""
        before = len(self.findings)
        find_duplicate_ids(content)
        return len(self.findings) > before

    # PoseTrack ------------------------------------------------------------------------------------

    def _video(self, file: Path, split: str) -> None:
        self.on_file(file)
        self.found["files"] += 1
        before = len(self.findings)
        content = read_json(file, self.findings.append)
        if not content.is_there:
            self.dropped["files refused"] += 1
            return
        video = parse_posetrack(content, file.stem)
        self._version(file, content)
        self.layouts.add(video.layout)
        is_refused = len(self.findings) > before
        if self.layout not in ("auto", video.layout):
            content.find("wrong-layout", f"the file is in layout {video.layout}, not {self.layout}")
        people = rules.people_places(content, video.layout)
        self.dropped["people of no frame"] += sum(person.frame is None for person in people)
        images = self._video_images(content, video, split)
        rules.check_frames(content, video)
        rules.check_tracks(people)
        rules.check_head_boxes(people, video.layout)
        sizes = [image.size for image in images]
        rules.check_joints(people, video.layout, sizes)
        self.dropped["boxes clipped"] += rules.check_boxes(people, video.layout, sizes)
        if video.layout == "posetrack18":
            rules.check_num_frames(content)
            rules.check_joint_names(content)
            is_refused |= self._has_bad_ids(content)
            rules.check_ids(people)
            rules.check_visibility(people)
        self.found["people"] += len(people)
        self._count_video(video, [image.is_good and not is_refused for image in images])
        self._count_files(images, is_refused=is_refused)

    def _video_images(self, content: Node, video: AnnotatedVideo, split: str) -> list[_Image]:
        stated = [frame.size for frame in video.frames]
        if not self.images or not video.frames:
            return [_Image(size, True) for size in stated]
        try:
            files = locate_images(self.root, split, video).files
        except DataError as error:
            content.find("missing-images", str(error))
            return [_Image(size, False) for size in stated]
        nodes = rules.frame_nodes(content, video.layout)
        places = [rules.name_node(node, video.layout) for node in nodes]
        return _look_at_images(nodes, places, files, stated)

    def _count_video(self, video: AnnotatedVideo, is_usable: Sequence[bool]) -> None:
        """Count the frames, people and joints of a video; in unusable frames only as found."""
        self.found.update(videos=1, frames=len(video.frames))
        people_before = self.usable["people"]
        for frame, is_good in zip(video.frames, is_usable, strict=True):
            kept = [self._count_person(person, frame, video.layout) for person in frame.people]
            self.found["labelled frames"] += bool(frame.people)
            if is_good:
                self.usable["labelled frames"] += any(kept)
                self.usable["people"] += sum(number > 0 for number in kept)
                self.usable["joints"] += sum(kept)
        self.usable["videos"] += self.usable["people"] > people_before

    def _count_person(self, person: AnnotatedPerson, frame: AnnotatedFrame, layout: str) -> int:
        """Return the number of joints of a person usable for training; 0 without a usable box."""
        num_joints = int(np.isfinite(person.keypoints[:, 0]).sum())
        keypoints = usable_joints(person, frame, layout)
        num_kept = int(np.isfinite(keypoints[:, 0]).sum())
        box = usable_box(person, keypoints, frame, layout)
        self.found["joints"] += num_joints
        self.dropped["joints ignored or of visibility 0"] += num_joints - num_kept
        self.dropped["people without joints"] += not num_kept
        self.dropped["people without a usable box"] += bool(num_kept) and box is None
        self.dropped["boxes made from joints"] += box is not None and person.box is None
        return 0 if box is None else num_kept

    def _count_files(self, images: Sequence[_Image], *, is_refused: bool) -> None:
        num_good = sum(image.is_good for image in images)
        self.dropped["files refused"] += is_refused
        self.dropped["frames without a good image"] += len(images) - num_good
        if not is_refused:
            self.usable.update(files=1, frames=num_good)

    # COCO -----------------------------------------------------------------------------------------

    def _stills(self, file: Path, content: Node) -> None:
        before = len(self.findings)
        names, files = coco_joints(content), image_files(content)
        content.need("annotations")
        people = rules.people_places(content, "coco")
        for person in people:
            known_image(person.node, files)
        records = [read_person(person.node, 0, names) if names else None for person in people]
        is_refused = len(self.findings) > before
        images = self._still_images(file, content)
        sizes = [image.size for image in images]
        is_refused |= self._has_bad_ids(content)
        rules.check_ids(people)
        rules.check_visibility(people)
        rules.check_joints(people, "coco", sizes)
        self.dropped["boxes beyond the image"] += rules.check_boxes(people, "coco", sizes)
        self.dropped["people of no frame"] += sum(person.frame is None for person in people)
        self._count_files(images, is_refused=is_refused)
        good = {index for index, image in enumerate(images) if image.is_good and not is_refused}
        self._count_stills(people, records, good)
        self.found["frames"] += len(images)

    def _count_stills(
        self,
        people: Sequence[rules.PersonPlace],
        records: Sequence[CocoPerson | None],
        good: set[int],
    ) -> None:
        """Add people and joints; `good` are the indices of usable frames."""
        few = f"people with fewer than {MIN_JOINTS} joints or without a box"
        kept: set[int] = set()
        for person, record in zip(people, records, strict=True):
            teaches = record is not None and record.teaches
            is_crowd = record is not None and record.is_crowd
            self.found["joints"] += num_labelled(person.node)
            self.dropped["crowds"] += is_crowd
            self.dropped[few] += not teaches and not is_crowd
            if record is not None and teaches and person.frame in good:
                kept.add(person.frame)
                self.usable["people"] += 1
                self.usable["joints"] += int(np.isfinite(record.keypoints[:, 0]).sum())
        self.found["people"] += len(people)
        self.found["labelled frames"] += len({person.frame for person in people} - {None})
        self.usable["labelled frames"] += len(kept)

    def _still_images(self, file: Path, content: Node) -> list[_Image]:
        nodes = rules.frame_nodes(content, "coco")
        stated = [image_size(node) for node in nodes]
        if not self.images or not nodes:
            return [_Image(size, True) for size in stated]
        places = [rules.name_node(node, "coco") for node in nodes]
        names = [place.text() or "" for place in places]
        folders = list(_image_folders(self.root, file))
        for folder in folders:
            if any(is_file(folder / name) for name in names):
                return _look_at_images(nodes, places, [folder / name for name in names], stated)
        looked = ", ".join(repr(str(folder)) for folder in folders)
        content.get("images").find("missing-images", f"none of the images exists in {looked}")
        return [_Image(size, False) for size in stated]


def _image_folders(root: Path, file: Path) -> Iterator[Path]:
    """Yield possible image folders, e.g. `train2017` for `person_keypoints_train2017.json`."""
    name = file.stem.rsplit("_", 1)[-1]
    yield from (root / "images", root / name, root / "images" / name)
    yield from sorted(folder for folder in root.iterdir() if folder.is_dir())
    yield root
