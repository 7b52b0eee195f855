"""Writers of predictions in the layouts of PoseTrack17 and 18, for poseval: one file per video.

All frames of a video are included. Frames keep their names and ids, people their track ids; in
PoseTrack18's layout, people without one get `NO_TRACK`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusionpose.annotations import AnnotatedPerson, AnnotatedVideo
from diffusionpose.data.posetrack_files import POSETRACK17_IDS
from diffusionpose.errors import UsageError
from diffusionpose.formats.atomic_file import AtomicFile, explained
from diffusionpose.formats.datasets import coco_family, posetrack_sequence
from diffusionpose.formats.text import (
    PIXEL_DECIMALS,
    box_xywh,
    json_line,
    rounded,
    rounded_score,
)
from diffusionpose.metrics.posetrack_frames import MISSING_SCORE
from diffusionpose.skeleton import POSETRACK15, POSETRACK17, remap
from diffusionpose.structures import NO_TRACK

LAYOUTS = ("posetrack17", "posetrack18")


def write_predictions(
    videos: Sequence[AnnotatedVideo], folder: Path, layout: str, *, overwrite: bool = False
) -> list[Path]:
    """Write `FOLDER/NAME.json` for each video.

    Args:
        videos: Predictions with scores, in image pixels.
        folder: Created if missing.
        layout: One of `LAYOUTS`.
        overwrite: Replace existing files.

    Returns:
        The files written.

    Raises:
        UsageError: If the layout is unknown, or a file exists.
        DiffusionPoseError: If writing fails.
    """
    if layout not in _DOCUMENTS:
        raise UsageError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    paths = [Path(folder) / f"{video.name}.json" for video in videos]
    for path in paths:
        if path.exists() and not overwrite:
            raise UsageError(f"{path} already exists: choose another folder, or pass --overwrite")
    for video, path in zip(videos, paths, strict=True):
        file = AtomicFile(path)
        try:
            with explained(path):
                file.temporary.write_text(_DOCUMENTS[layout](video), encoding="utf-8")
            file.publish()
        finally:
            file.discard()
    return paths


def _values(person: AnnotatedPerson, joints: Sequence[str]) -> np.ndarray:
    """(len(joints), 3) x, y, score, NaN where missing; scores are unrounded, as AP ranks them."""
    rows = np.column_stack([rounded(person.keypoints, PIXEL_DECIMALS), person.scores])
    rows[np.isnan(person.keypoints[:, 0])] = np.nan
    return remap(rows, POSETRACK15.joints, joints)


# PoseTrack17: scalars are lists of length 1 -----------------------------------------------------


def _posetrack17(video: AnnotatedVideo) -> str:
    frames = [
        json_line(
            {
                "image": [{"name": frame.file_name}],
                "imgnum": [number],
                "annorect": [_rectangle17(person) for person in frame.people if person.has_points],
            }
        )
        for number, frame in enumerate(video.frames, start=1)
    ]
    return '{"annolist": [\n' + ",\n".join(frames) + "\n]}\n"


def _rectangle17(person: AnnotatedPerson) -> dict[str, object]:
    values = _values(person, POSETRACK17_IDS)
    points = [
        {"id": [joint], "x": [x], "y": [y]} | ({} if np.isnan(score) else {"score": [score]})
        for joint, (x, y, score) in enumerate(values.tolist())
        if not np.isnan(x)
    ]
    rectangle: dict[str, object] = {"annopoints": [{"point": points}]}
    if person.track_id is not None:
        rectangle["track_id"] = [person.track_id]
    if not np.isnan(person.score):
        rectangle["score"] = [rounded_score(person.score)]
    if person.head_box is not None:
        sides = rounded(person.head_box, PIXEL_DECIMALS).tolist()
        rectangle |= {
            key: [side] for key, side in zip(("x1", "y1", "x2", "y2"), sides, strict=True)
        }
    return rectangle


# PoseTrack18 ------------------------------------------------------------------------------------


def _posetrack18(video: AnnotatedVideo) -> str:
    vid_id, first_id = posetrack_sequence(video.name)
    images, annotations = [], []
    for index, frame in enumerate(video.frames):
        image_id = first_id + index if frame.frame_id is None else frame.frame_id
        image = {
            "id": image_id,
            "frame_id": image_id,
            "vid_id": vid_id,
            "file_name": frame.file_name,
        }
        images.append(json_line(image | {"is_labeled": True, "nframes": len(video.frames)}))
        for person in frame.people:
            if not person.has_points:
                continue
            known = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(json_line(known | _annotation18(person)))
    return "".join(coco_family("", images, annotations, POSETRACK17))


def _annotation18(person: AnnotatedPerson) -> dict[str, object]:
    values = _values(person, POSETRACK17.joints)
    there = np.isfinite(values[:, :1])
    scores = np.where(there[:, 0], np.nan_to_num(values[:, 2], nan=MISSING_SCORE), 0.0)
    placed = np.where(there, np.column_stack([values[:, :2], np.ones(len(values))]), 0.0)
    annotation: dict[str, object] = {
        # poseval requires a track id, even if it only computes AP.
        "track_id": NO_TRACK if person.track_id is None else person.track_id,
        "category_id": 1,
        "keypoints": placed.ravel().tolist(),
        "scores": scores.tolist(),
    }
    if not np.isnan(person.score):
        annotation["score"] = rounded_score(person.score)
    for key, box in (("bbox", person.box), ("bbox_head", person.head_box)):
        if box is not None:
            annotation[key] = box_xywh(box)
    return annotation


_DOCUMENTS = {"posetrack17": _posetrack17, "posetrack18": _posetrack18}
