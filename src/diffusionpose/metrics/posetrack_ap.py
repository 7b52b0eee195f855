"""PoseTrack average precision, exactly as computed by poseval, including its oddities.

People are assigned within each frame, joints are pooled over all frames, and AP is computed per
joint. Resampling videos does not require a new assignment: each joint is weighted by the number of
times that its video was drawn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffusionpose.metrics.base import JointMetric
from diffusionpose.metrics.pairs import VideoPair
from diffusionpose.metrics.posetrack_frames import (
    MISSING_SCORE,
    NOTHING_RIGHT,
    FrameDistances,
    flat_head_note,
    posetrack_frames,
)
from diffusionpose.skeleton import POSETRACK15


class AssignedFrame(NamedTuple):
    """Contribution of a frame with P predictions to each joint's pool.

    `scores` (P, 15) are NaN for joints that are not predicted, `hits` (P, 15) mark correct joints,
    and `num_truth` (15,) counts annotated joints.
    """

    scores: np.ndarray
    hits: np.ndarray
    num_truth: np.ndarray


def assign_frame(frame: FrameDistances) -> AssignedFrame:
    """Assign predictions to people of the ground truth.

    Each prediction selects the person with the highest share of annotated joints that are correct,
    and then each person the best of these predictions; the first wins ties. All joints of
    unassigned predictions are wrong.
    """
    has_truth, matches = frame.has_truth, frame.matches
    scores = np.array([person.scores for person in frame.predicted]).reshape(-1, 15)
    scores = np.where(np.isnan(scores), MISSING_SCORE, scores)
    scores = np.where(frame.has_predicted, scores, np.nan)
    hits = np.zeros(scores.shape, bool)
    if len(frame.truth) and len(frame.predicted):
        pck = matches.sum(axis=2) / np.maximum(has_truth.sum(axis=1), 1)
        best = pck.argmax(axis=1)
        kept = np.zeros_like(pck)
        rows = np.arange(len(pck))
        kept[rows, best] = pck[rows, best]
        for person, row in enumerate(kept.argmax(axis=0)):
            if kept[row, person] > 0:
                hits[row] = matches[row, person]
    return AssignedFrame(scores, hits, has_truth.sum(axis=0))


class PoseTrackAP(JointMetric):
    """PoseTrack AP per joint; Mean is over the 15 joints, not over the columns.

    A joint that is never predicted has AP 0. One that is predicted but never annotated has AP NaN
    and is left out of Mean.

    Args:
        pairs: Ground truth and predictions of videos.

    Raises:
        DataError: If a person of the ground truth has no head box.
        MissingExtraError: If there are ignore regions and shapely is not installed.
    """

    def __init__(self, pairs: Sequence[VideoPair]) -> None:
        super().__init__(len(pairs))
        self._truths = np.zeros((len(pairs), 15), np.int64)
        pools: list[AssignedFrame] = []
        videos: list[np.ndarray] = []
        for number, pair in enumerate(pairs):
            for frame in posetrack_frames(pair):
                assigned = assign_frame(frame)
                self._truths[number] += assigned.num_truth
                pools.append(assigned)
                videos.append(np.full(len(assigned.scores), number))
        scores = np.concatenate([np.empty((0, 15)), *(pool.scores for pool in pools)])
        hits = np.concatenate([np.empty((0, 15), bool), *(pool.hits for pool in pools)])
        video = np.concatenate([np.empty(0, np.int64), *videos])
        self._pools = [
            _ranked(scores[:, joint], hits[:, joint], video) for joint in range(scores.shape[1])
        ]
        self.warnings += flat_head_note([pair.truth for pair in pairs], NOTHING_RIGHT)
        self._warn(scores)

    def _warn(self, scores: np.ndarray) -> None:
        missing = int((scores == MISSING_SCORE).sum())
        if missing:
            self.warnings.append(
                f"{missing} predicted joints have no score (NaN) and count as {MISSING_SCORE:.0f}, "
                "as in poseval"
            )
        tied = sum(_num_tied(column) for column in scores.T)
        if tied:
            self.warnings.append(
                f"{tied} predicted joints have the same score as another prediction of the joint: "
                "AP depends on their order, which is that of numpy's default sort, as in poseval"
            )
        for joint, pool, truths in zip(
            POSETRACK15.joints, self._pools, self._truths.T, strict=True
        ):
            if len(pool.hits) and not truths.any():
                self.warnings.append(f"{joint} is predicted but never annotated: left out of Mean")

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return (15,) AP in percent."""
        return np.array(
            [
                average_precision(pool.hits, weights[pool.videos], float(weights @ truths))
                for pool, truths in zip(self._pools, self._truths.T, strict=True)
            ]
        )


class _Pool(NamedTuple):
    """Predictions of a joint by descending score: whether each is correct, and its video."""

    hits: np.ndarray
    videos: np.ndarray


def _ranked(scores: np.ndarray, hits: np.ndarray, videos: np.ndarray) -> _Pool:
    there = np.isfinite(scores)
    # The default sort is not stable, but gives ties the same order as poseval.
    order = np.argsort(scores[there])[::-1]
    return _Pool(hits[there][order], videos[there][order])


def _num_tied(scores: np.ndarray) -> int:
    """Count the scores that occur more than once."""
    _, counts = np.unique(scores[np.isfinite(scores)], return_counts=True)
    return int(counts[counts > 1].sum())


def average_precision(hits: np.ndarray, weights: np.ndarray, num_truth: float) -> float:
    """Compute the area under the monotone precision-recall curve in percent.

    Args:
        hits: (n,) whether each prediction is correct, by descending score.
        weights: (n,) number of times each prediction counts.
        num_truth: Number of annotated joints.

    Returns:
        AP in percent; 0 without predictions, NaN with predictions but without annotated joints.
    """
    if not weights.any():
        return 0.0
    if not num_truth:
        return float("nan")
    found = hits * weights
    precision = np.cumsum(found) / np.maximum(np.cumsum(weights), 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(100 * (envelope * found).sum() / num_truth)
