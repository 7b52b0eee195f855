"""Truth beside predictions: videos paired by name, frames by index, people by likeness."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from diffusionpose.annotations import AnnotatedFrame, AnnotatedPerson, AnnotatedVideo
from diffusionpose.errors import DataError
from diffusionpose.metrics.similarity import object_keypoint_similarity, person_area


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
        DataError: If a prediction is missing, or has another number of frames.
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
    return pairs


def matched_people(
    truth: AnnotatedFrame, predicted: AnnotatedFrame, *, same_people: bool
) -> Iterator[tuple[AnnotatedPerson, AnnotatedPerson | None]]:
    """Each person of the truth with the one prediction that is theirs; None where there is none left.

    Unless they are known to be the same people, the pairing has the greatest sum of object keypoint similarities.
    """
    if same_people:
        yield from zip(truth.people, predicted.people, strict=True)
        return
    similarity = np.array(
        [
            [
                object_keypoint_similarity(found.keypoints, true.keypoints, person_area(true))
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
