"""Pairing of ground truth and predictions: videos by name, frames by index, people by OKS."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from scipy.optimize import linear_sum_assignment

from diffusionpose.annotations import AnnotatedFrame, AnnotatedPerson, AnnotatedVideo
from diffusionpose.errors import DataError
from diffusionpose.metrics.similarity import nearness, object_keypoint_similarity, person_area
from diffusionpose.paths import bare_name

TIE = 1e-9
"""Similarities that differ by less than this are ties."""


@dataclass(frozen=True, eq=False)
class VideoPair:
    """Ground truth and predictions of a video.

    Args:
        truth: The annotated video.
        predicted: Predictions, with the same number of frames.
        same_people: Whether person n of a predicted frame is person n of the ground truth, e.g. for
            predictions from ground-truth boxes, so that people need not be matched. A person
            without a prediction is included without points.
    """

    truth: AnnotatedVideo
    predicted: AnnotatedVideo
    same_people: bool = False

    @property
    def frames(self) -> Iterator[tuple[AnnotatedFrame, AnnotatedFrame]]:
        """Pairs of ground-truth and predicted frames, in order."""
        return zip(self.truth.frames, self.predicted.frames, strict=True)


def pair_videos(
    truths: Sequence[AnnotatedVideo],
    predictions: Sequence[AnnotatedVideo],
    *,
    same_people: bool = False,
) -> list[VideoPair]:
    """Pair videos by name.

    Raises:
        DataError: If the predictions of a video are missing, or have another number or order of
            frames.
    """
    by_name = {video.name: video for video in predictions}
    pairs = []
    for truth in truths:
        if truth.name not in by_name:
            raise DataError(f"{truth.name}: no predictions; add a prediction file of the same name")
        found = by_name[truth.name]
        if len(found.frames) != len(truth.frames):
            raise DataError(
                f"{truth.name}: {len(found.frames)} predicted frames, {len(truth.frames)} in the "
                "truth; predictions must contain every frame, labelled or not"
            )
        pairs.append(VideoPair(truth, found, same_people))
        _refuse_other_order(pairs[-1])
    return pairs


def _refuse_other_order(pair: VideoPair) -> None:
    names = [bare_name(frame.file_name) for frame in pair.truth.frames]
    found = [bare_name(frame.file_name) for frame in pair.predicted.frames]
    # One file may count from 0 and the other from 1: shifted names do not tell the order.
    if "" in names or sorted(names) != sorted(found):
        return
    place = {name: index for index, name in enumerate(names)}
    for index, (frame, name) in enumerate(zip(pair.predicted.frames, found, strict=True)):
        if names[index] != name:
            raise DataError(
                f"{pair.truth.name}: frame {index} of the predictions is {frame.file_name}, frame "
                f"{place[name]} of the truth; frames are paired by position, so both files must "
                "list them in the same order"
            )


def frame_notes(pairs: Sequence[VideoPair]) -> Iterator[str]:
    """Warn, once, if frames paired by position differ in name, or have another frame's id.

    Only the file name and its parent folder are compared.
    """
    notes = [note for pair in pairs for note in _other_frame(pair)]
    if notes:
        more = f" (likewise in {len(notes) - 1} more videos)" if notes[1:] else ""
        yield f"{notes[0]}: frames are paired by position{more}"


def _other_frame(pair: VideoPair) -> Iterator[str]:
    """Describe the first such frame, if there is one."""
    ids = {frame.frame_id for frame in pair.truth.frames} - {None}
    for index, (truth, found) in enumerate(pair.frames):
        named = bool(truth.file_name and found.file_name)
        if named and _short_name(truth.file_name) != _short_name(found.file_name):
            other = f"{found.file_name}, in the truth {truth.file_name}"
        elif truth.frame_id != found.frame_id and found.frame_id in ids:
            other = f"id {found.frame_id}, in the truth {truth.frame_id}"
        else:
            continue
        yield f"{pair.truth.name}: frame {index} of the predictions is {other}"
        return


def _short_name(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts[-2:]


def matched_people(
    truth: AnnotatedFrame, predicted: AnnotatedFrame, *, same_people: bool
) -> Iterator[tuple[AnnotatedPerson, AnnotatedPerson | None]]:
    """Yield each person of the ground truth with the matching prediction, or None.

    Unless `same_people`, people are matched one to one for the greatest sum of OKS. Ties, such as
    the OKS of 0 for people without an area, are broken by distance.
    """
    if same_people:
        yield from zip(truth.people, predicted.people, strict=True)
        return
    similarity = np.array(
        [
            [
                object_keypoint_similarity(found.keypoints, true.keypoints, person_area(true))
                + TIE * nearness(found.keypoints, true.keypoints)
                for found in predicted.people
            ]
            for true in truth.people
        ]
    ).reshape(len(truth.people), len(predicted.people))
    # NaN, for people without joints, counts as 0.
    rows, columns = linear_sum_assignment(np.nan_to_num(similarity), maximize=True)
    chosen = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    for number, person in enumerate(truth.people):
        yield person, predicted.people[chosen[number]] if number in chosen else None
