"""Truth beside predictions: videos paired by name, frames by index, people by likeness."""

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
"""Similarities that differ by less are the same."""


@dataclass(frozen=True, eq=False)
class VideoPair:
    """A video's truth and what was predicted for it.

    Args:
        truth: As annotated.
        predicted: Likewise; has as many frames.
        same_people: Person n of a predicted frame is meant to be person n of the truth, as where predictions were made
            from the boxes of the truth, so that nobody has to be matched. Who could not be predicted stands there
            without points.
    """

    truth: AnnotatedVideo
    predicted: AnnotatedVideo
    same_people: bool = False

    @property
    def frames(self) -> Iterator[tuple[AnnotatedFrame, AnnotatedFrame]]:
        """Frames of both, in order."""
        return zip(self.truth.frames, self.predicted.frames, strict=True)


def pair_videos(
    truths: Sequence[AnnotatedVideo],
    predictions: Sequence[AnnotatedVideo],
    *,
    same_people: bool = False,
) -> list[VideoPair]:
    """Pairs by name; every truth needs its prediction, frame for frame.

    Raises:
        DataError: If a prediction is missing, has another number of frames, or its frames in another order.
    """
    by_name = {video.name: video for video in predictions}
    pairs = []
    for truth in truths:
        if truth.name not in by_name:
            raise DataError(
                f"{truth.name}: no predictions; a prediction file of the same name is needed"
            )
        found = by_name[truth.name]
        if len(found.frames) != len(truth.frames):
            raise DataError(
                f"{truth.name}: {len(found.frames)} predicted frames, {len(truth.frames)} in the truth: predictions "
                "must hold every frame, labelled or not"
            )
        pairs.append(VideoPair(truth, found, same_people))
        _refuse_other_order(pairs[-1])
    return pairs


def _refuse_other_order(pair: VideoPair) -> None:
    names = [bare_name(frame.file_name) for frame in pair.truth.frames]
    found = [bare_name(frame.file_name) for frame in pair.predicted.frames]
    # Files may count from 0 and from 1: names that are shifted say nothing of the order.
    if "" in names or sorted(names) != sorted(found):
        return
    place = {name: index for index, name in enumerate(names)}
    for index, (frame, name) in enumerate(zip(pair.predicted.frames, found, strict=True)):
        if names[index] != name:
            raise DataError(
                f"{pair.truth.name}: frame {index} of the predictions is {frame.file_name}, frame {place[name]} of the "
                "truth: frames are paired by position, so both files must have them in one order"
            )


def frame_notes(pairs: Sequence[VideoPair]) -> Iterator[str]:
    """Says so, once for all, where frames that are paired by position have other names, or another frame's id.

    Folders before that of the video are no matter: files disagree about them.
    """
    notes = [note for pair in pairs for note in _other_frame(pair)]
    if notes:
        more = f" (and so in {len(notes) - 1} more videos)" if notes[1:] else ""
        yield f"{notes[0]}: they are paired by position{more}"


def _other_frame(pair: VideoPair) -> Iterator[str]:
    """The first such frame."""
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
    """Each person of the truth with the one prediction that is theirs; None where there is none left.

    Unless they are known to be the same people, the pairing has the greatest sum of object keypoint similarities; where
    these are the same, as all are 0 for people without an area, who is nearer decides.
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
    # A person without joints is like nobody.
    rows, columns = linear_sum_assignment(np.nan_to_num(similarity), maximize=True)
    chosen = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    for number, person in enumerate(truth.people):
        yield person, predicted.people[chosen[number]] if number in chosen else None
