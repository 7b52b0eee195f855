"""Tracking metrics: PoseTrack's MOTA by motmetrics, and HOTA by TrackEval.

Both are computed for each joint separately, as in poseval, and averaged over joints. A ground-truth
and a predicted joint can match within half a head length, the threshold of PoseTrack AP.
"""

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import numpy as np

from diffusionpose.annotations import AnnotatedPerson
from diffusionpose.errors import DataError, MissingExtraError
from diffusionpose.metrics.base import JointMetric
from diffusionpose.metrics.pairs import VideoPair
from diffusionpose.metrics.posetrack_frames import (
    NOTHING_RIGHT,
    THRESHOLD,
    flat_head_note,
    posetrack_frames,
)
from diffusionpose.structures import NO_TRACK

NUM_JOINTS = 15


class JointTracks(NamedTuple):
    """Instances of a joint in a frame, T in the ground truth and P predicted.

    `truth` (T,) and `predicted` (P,) are track ids; `distances` (T, P) are in head lengths,
    infinite above the threshold.
    """

    truth: np.ndarray
    predicted: np.ndarray
    distances: np.ndarray


class FrameTracks(NamedTuple):
    """The 15 joints of a frame, and whether it has people both in ground truth and predictions."""

    joints: list[JointTracks]
    is_two_sided: bool


def joint_tracks(pair: VideoPair) -> list[FrameTracks]:
    """Return the tracks in the evaluated frames of a video.

    Raises:
        DataError: If a person has no track id or no head box, or two people of a frame have the
            same track id.
    """
    frames = []
    for frame in posetrack_frames(pair):
        truth = _track_ids(frame.truth, pair, "truth")
        predicted = _track_ids(frame.predicted, pair, "predictions")
        joints = []
        for joint in range(NUM_JOINTS):
            rows, columns = frame.has_predicted[:, joint], frame.has_truth[:, joint]
            near = np.where(frame.matches[..., joint], frame.distances[..., joint], np.inf)
            joints.append(JointTracks(truth[columns], predicted[rows], near[rows][:, columns].T))
        frames.append(FrameTracks(joints, bool(len(truth) and len(predicted))))
    return frames


def _track_ids(people: Sequence[AnnotatedPerson], pair: VideoPair, origin: str) -> np.ndarray:
    ids = [person.track_id for person in people]
    if None in ids or NO_TRACK in ids:
        raise DataError(
            f"{pair.truth.name}: {origin}: a person without a track id; this metric needs one for "
            "every person"
        )
    if len(set(ids)) != len(ids):
        raise DataError(
            f"{pair.truth.name}: {origin}: two people of a frame have the same track id; track ids "
            "must be unique within a frame"
        )
    return np.array(ids, dtype=np.int64)


class PoseTrackMota(JointMetric):
    """Multi-object tracking accuracy (MOTA) per joint, as in poseval's evaluateTracking.

    Two oddities of poseval are reproduced, so that results compare with published ones: the last
    frame of each video is not evaluated, and a frame with people only in the ground truth or only
    in the predictions counts as one miss and one false positive for each joint, however many people
    are in it.

    Args:
        pairs: Ground truth and predictions of videos.

    Raises:
        DataError: As for `joint_tracks`.
        MissingExtraError: If motmetrics is not installed.
    """

    def __init__(self, pairs: Sequence[VideoPair]) -> None:
        super().__init__(len(pairs))
        self._counts = np.array([_mota_counts(joint_tracks(pair)) for pair in pairs])
        """(videos, 15, 2): errors, and joints in the ground truth."""
        self.warnings += flat_head_note([pair.truth for pair in pairs], NOTHING_RIGHT)

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return (15,) MOTA in percent; may be negative."""
        errors, truths = np.tensordot(weights, self._counts, 1).T
        return 100 * (
            1 - np.divide(errors, truths, out=np.full(NUM_JOINTS, np.nan), where=truths > 0)
        )


_MOTA_PARTS = ("num_misses", "num_switches", "num_false_positives", "num_objects")
_NOBODY = JointTracks(np.zeros(1, np.int64), np.zeros(1, np.int64), np.full((1, 1), np.inf))
"""Substitute of poseval for a frame with people only in the ground truth or the predictions."""


def _mota_counts(frames: list[FrameTracks]) -> np.ndarray:
    """Return (15, 2) errors, and joints in the ground truth, of a video."""
    try:
        import motmetrics
    except ImportError:
        raise MissingExtraError("motmetrics", "eval") from None
    host = motmetrics.metrics.create()
    counts = np.zeros((NUM_JOINTS, 2))
    counted = frames[:-1]
    for joint in range(NUM_JOINTS):
        tracks = motmetrics.MOTAccumulator(auto_id=True)
        for frame in counted:
            one = frame.joints[joint] if frame.is_two_sided else _NOBODY
            distances = np.where(np.isfinite(one.distances), one.distances, np.nan)
            tracks.update(one.truth.tolist(), one.predicted.tolist(), distances)
        if counted:
            found = host.compute(tracks, metrics=_MOTA_PARTS, return_dataframe=False)
            misses, switches, false_positives, truths = (found[part] for part in _MOTA_PARTS)
            counts[joint] = misses + switches + false_positives, truths
    return counts


class Hota(JointMetric):
    """Higher order tracking accuracy (HOTA) per joint.

    The similarity of two joints decreases from 1 at distance 0 to 0 at the threshold of PoseTrack
    AP, as in PoseTrack21; matching and counting are TrackEval's. PoseTrack21's own code matches
    each frame independently and counts frames differently, so that its published results are not
    exactly comparable.

    Args:
        pairs: Ground truth and predictions of videos.

    Raises:
        DataError: As for `joint_tracks`.
        MissingExtraError: If TrackEval is not installed.
    """

    def __init__(self, pairs: Sequence[VideoPair]) -> None:
        super().__init__(len(pairs))
        found = [_hota_counts(joint_tracks(pair)) for pair in pairs]
        self._counts = np.array(found)
        """(videos, 15, 4, thresholds): TP, FN, FP, and association accuracy times TP."""
        self.warnings += flat_head_note([pair.truth for pair in pairs], NOTHING_RIGHT)

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return (15,) HOTA in percent.

        This is the geometric mean of detection and association accuracy, averaged over 19
        thresholds.
        """
        hits, misses, extra, association = np.moveaxis(np.tensordot(weights, self._counts, 1), 1, 0)
        detection = hits / np.maximum(1, hits + misses + extra)
        values = 100 * np.sqrt(detection * association / np.maximum(1, hits)).mean(axis=-1)
        return np.where((hits + misses).any(axis=-1), values, np.nan)


def _hota_counts(frames: list[FrameTracks]) -> np.ndarray:
    """Return the (15, 4, thresholds) counts of a video, as kept by `Hota`."""
    metric = _trackeval_hota()
    out = []
    for joint in range(NUM_JOINTS):
        found = metric.eval_sequence(_trackeval_sequence([frame.joints[joint] for frame in frames]))
        hits = found["HOTA_TP"]
        out.append([hits, found["HOTA_FN"], found["HOTA_FP"], found["AssA"] * hits])
    return np.array(out)


def _trackeval_hota() -> Any:
    try:
        # TrackEval prints which of its optional dependencies are missing.
        with redirect_stdout(StringIO()):
            from trackeval.metrics import HOTA
    except ImportError:
        raise MissingExtraError("trackeval", "hota") from None
    return HOTA()


def _trackeval_sequence(frames: list[JointTracks]) -> dict[str, Any]:
    """Convert the frames of a joint to TrackEval's format: consecutive ids, similarities (T, P)."""
    truth, num_truth = _renumbered([frame.truth for frame in frames])
    predicted, num_predicted = _renumbered([frame.predicted for frame in frames])
    return {
        "gt_ids": truth,
        "tracker_ids": predicted,
        "num_gt_ids": num_truth,
        "num_tracker_ids": num_predicted,
        "num_gt_dets": sum(map(len, truth)),
        "num_tracker_dets": sum(map(len, predicted)),
        "similarity_scores": [
            np.maximum(0.0, 1 - np.minimum(frame.distances, THRESHOLD) / THRESHOLD)
            for frame in frames
        ],
    }


def _renumbered(ids: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    known = np.unique(np.concatenate([np.empty(0, np.int64), *ids]))
    return [np.searchsorted(known, part) for part in ids], len(known)
