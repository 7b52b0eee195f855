"""Track ids: PoseTrack's MOTA by motmetrics, and HOTA by TrackEval. Both follow each joint by itself, as poseval does.

A joint of the truth and one of a prediction may be paired where they are within half a head length, the threshold of
PoseTrack AP; the joints' figures are averaged in the columns of the tables.
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
    """One joint in one frame; T in the truth, P predicted.

    `truth` (T,) and `predicted` (P,) are track ids; `distances` (T, P) in head lengths, infinite beyond the threshold.
    """

    truth: np.ndarray
    predicted: np.ndarray
    distances: np.ndarray


class FrameTracks(NamedTuple):
    """One frame: its 15 joints, and whether there are people both in the truth and predicted."""

    joints: list[JointTracks]
    is_two_sided: bool


def joint_tracks(pair: VideoPair) -> list[FrameTracks]:
    """The frames of a video that count.

    Raises:
        DataError: If a person has no track id, or two people of a frame have the same; or no head box.
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
            f"{pair.truth.name}: {origin}: a person without a track id; this metric needs one of each person"
        )
    if len(set(ids)) != len(ids):
        raise DataError(f"{pair.truth.name}: {origin}: a track id stands twice in one frame")
    return np.array(ids, dtype=np.int64)


class PoseTrackMota(JointMetric):
    """Multi-object tracking accuracy of each joint, as poseval's evaluateTracking: mean over joints.

    Two oddities of poseval are kept, so that figures compare with published ones: the last frame of each video does not
    count, and a frame with truth but no predictions, or the other way round, counts as one miss and one false positive
    of each joint, however many people are in it.

    Args:
        pairs: Videos.

    Raises:
        DataError: As `joint_tracks`.
        MissingExtraError: If motmetrics is not installed.
    """

    def __init__(self, pairs: Sequence[VideoPair]) -> None:
        super().__init__(len(pairs))
        self._counts = np.array([_mota_counts(joint_tracks(pair)) for pair in pairs])
        """(videos, 15, 2): errors, and joints of the truth."""
        self.warnings += flat_head_note([pair.truth for pair in pairs], NOTHING_RIGHT)

    def values(self, weights: np.ndarray) -> np.ndarray:
        """(15,) MOTA in percent; may be negative."""
        errors, truths = np.tensordot(weights, self._counts, 1).T
        return 100 * (
            1 - np.divide(errors, truths, out=np.full(NUM_JOINTS, np.nan), where=truths > 0)
        )


_MOTA_PARTS = ("num_misses", "num_switches", "num_false_positives", "num_objects")
_NOBODY = JointTracks(np.zeros(1, np.int64), np.zeros(1, np.int64), np.full((1, 1), np.inf))
"""What poseval sees of a frame with people on one side only."""


def _mota_counts(frames: list[FrameTracks]) -> np.ndarray:
    """(15, 2) errors, and joints of the truth, of one video."""
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
    """Higher order tracking accuracy of each joint, mean over joints.

    The similarity of two joints falls from 1 where they meet to 0 at the threshold of PoseTrack AP, as in PoseTrack21's
    evaluation; matching and accounting are TrackEval's. PoseTrack21's own code matches without looking at other frames
    and counts frames differently: its published figures are not to be compared digit by digit.

    Args:
        pairs: Videos.

    Raises:
        DataError: As `joint_tracks`.
        MissingExtraError: If TrackEval is not installed.
    """

    def __init__(self, pairs: Sequence[VideoPair]) -> None:
        super().__init__(len(pairs))
        found = [_hota_counts(joint_tracks(pair)) for pair in pairs]
        self._counts = np.array(found)
        """(videos, 15, 4, thresholds): true positives, false negatives, false positives, association times the first."""
        self.warnings += flat_head_note([pair.truth for pair in pairs], NOTHING_RIGHT)

    def values(self, weights: np.ndarray) -> np.ndarray:
        """(15,) HOTA in percent: detection and association, geometric mean, averaged over 19 thresholds."""
        hits, misses, extra, association = np.moveaxis(np.tensordot(weights, self._counts, 1), 1, 0)
        detection = hits / np.maximum(1, hits + misses + extra)
        values = 100 * np.sqrt(detection * association / np.maximum(1, hits)).mean(axis=-1)
        return np.where((hits + misses).any(axis=-1), values, np.nan)


def _hota_counts(frames: list[FrameTracks]) -> np.ndarray:
    """(15, 4, thresholds) of one video, as `Hota` keeps them."""
    metric = _trackeval_hota()
    out = []
    for joint in range(NUM_JOINTS):
        found = metric.eval_sequence(_trackeval_sequence([frame.joints[joint] for frame in frames]))
        hits = found["HOTA_TP"]
        out.append([hits, found["HOTA_FN"], found["HOTA_FP"], found["AssA"] * hits])
    return np.array(out)


def _trackeval_hota() -> Any:
    try:
        # It prints what it can do without.
        with redirect_stdout(StringIO()):
            from trackeval.metrics import HOTA
    except ImportError:
        raise MissingExtraError("trackeval", "hota") from None
    return HOTA()


def _trackeval_sequence(frames: list[JointTracks]) -> dict[str, Any]:
    """A joint's video as TrackEval takes it: ids counted from 0, similarities (T, P)."""
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
