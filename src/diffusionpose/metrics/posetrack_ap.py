"""PoseTrack's average precision, exactly as poseval computes it, oddities included.

People are assigned within each frame, joints are pooled over all frames, and each joint's precision is averaged over
recall. Only the order of the pooled scores depends on more than one video, so a resample of the videos needs no new
assignment: every joint counts as often as its video was drawn.
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
    """What a frame adds to each joint's pool; P predictions.

    `scores` and `hits` are (P, 15), the first NaN where the joint is not predicted; `num_truth` is (15,).
    """

    scores: np.ndarray
    hits: np.ndarray
    num_truth: np.ndarray


def assign_frame(frame: FrameDistances) -> AssignedFrame:
    """Each prediction keeps its best person of the truth, then each of these the best prediction; the first on ties.

    "Best" is the share of the person's annotated joints that are right. All joints of a prediction without a person
    are wrong. In a frame with truth but without predictions only the number of truths grows.
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
    """PoseTrack AP by joint; Mean is over the 15 joints, not over the columns.

    A joint that was never predicted has AP 0; one that is predicted but nowhere annotated has none (NaN) and is left
    out of Mean.

    Args:
        pairs: Videos.

    Raises:
        DataError: If a person of the truth has no head box.
        MissingExtraError: If there are ignore regions, and shapely is not installed.
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
                f"{missing} predicted joints have no score (NaN) and count as {MISSING_SCORE:.0f}, as in poseval"
            )
        tied = sum(_num_tied(column) for column in scores.T)
        if tied:
            self.warnings.append(
                f"{tied} predicted joints share their score with another one of the same joint: AP depends on their "
                "order, which is that of numpy's default sort, as in poseval"
            )
        for joint, pool, truths in zip(
            POSETRACK15.joints, self._pools, self._truths.T, strict=True
        ):
            if len(pool.hits) and not truths.any():
                self.warnings.append(
                    f"{joint} is predicted but nowhere annotated: left out of Mean"
                )

    def values(self, weights: np.ndarray) -> np.ndarray:
        """(15,) AP in percent."""
        return np.array(
            [
                average_precision(pool.hits, weights[pool.videos], float(weights @ truths))
                for pool, truths in zip(self._pools, self._truths.T, strict=True)
            ]
        )


class _Pool(NamedTuple):
    """A joint's predictions, best score first: whether each is right, and of which video it is."""

    hits: np.ndarray
    videos: np.ndarray


def _ranked(scores: np.ndarray, hits: np.ndarray, videos: np.ndarray) -> _Pool:
    there = np.isfinite(scores)
    # The default sort is not stable; poseval uses it, and ties follow it.
    order = np.argsort(scores[there])[::-1]
    return _Pool(hits[there][order], videos[there][order])


def _num_tied(scores: np.ndarray) -> int:
    """How many share their score with another."""
    _, counts = np.unique(scores[np.isfinite(scores)], return_counts=True)
    return int(counts[counts > 1].sum())


def average_precision(hits: np.ndarray, weights: np.ndarray, num_truth: float) -> float:
    """Area under precision over recall in percent, precision made monotone from the right.

    Args:
        hits: (n,) whether each prediction is right, best score first.
        weights: (n,) how often each stands there.
        num_truth: How many are to be found.

    Returns:
        0 without predictions, NaN with predictions but nothing to be found.
    """
    if not weights.any():
        return 0.0
    if not num_truth:
        return float("nan")
    found = hits * weights
    precision = np.cumsum(found) / np.maximum(np.cumsum(weights), 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(100 * (envelope * found).sum() / num_truth)
