"""Base classes of metrics: values for resamples of videos, table columns, confidence intervals."""

from abc import ABC, abstractmethod

import numpy as np

from diffusionpose.skeleton import POSETRACK15

JOINT_GROUPS = {
    "Head": ("head_top", "head_bottom", "nose"),
    **{
        name.capitalize(): (f"left_{name}", f"right_{name}")
        for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    },
}
"""The columns of the paper's Tables 1 to 3, besides Mean."""
COVERAGE = 0.95


class Metric(ABC):
    """A metric that keeps sufficient statistics per video, so that resampling videos is cheap.

    The `weights` (num_videos,) are the number of times each video counts; ones give the metric
    itself.
    """

    columns: tuple[str, ...]
    """Columns of the table, in order."""

    def __init__(self, num_videos: int) -> None:
        self.num_videos = num_videos
        self.warnings: list[str] = []

    @abstractmethod
    def row(self, weights: np.ndarray) -> np.ndarray:
        """Return (len(columns),) percent; NaN where there is nothing to measure."""

    def joints(self, weights: np.ndarray) -> dict[str, float] | None:
        """Return percent by joint of `POSETRACK15`; None if the metric is not per joint."""
        del weights


class JointMetric(Metric):
    """A metric per joint, with the columns of the paper's tables."""

    columns = (*JOINT_GROUPS, "Mean")

    @abstractmethod
    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return (15,) percent, ordered as `POSETRACK15`; NaN where there is nothing to measure."""

    def joints(self, weights: np.ndarray) -> dict[str, float]:
        """Return `values` by joint name."""
        return dict(zip(POSETRACK15.joints, self.values(weights).tolist(), strict=True))

    def row(self, weights: np.ndarray) -> np.ndarray:
        """Return the means over joint groups, and over all joints.

        The mean of a group is NaN if any of its joints is; the mean over all joints skips NaN.
        """
        values = self.values(weights)
        groups = [
            values[[POSETRACK15.index(joint) for joint in group]].mean()
            for group in JOINT_GROUPS.values()
        ]
        known = values[np.isfinite(values)]
        return np.array([*groups, known.mean() if len(known) else np.nan])


def bootstrap(metric: Metric, num_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Compute 95 % percentile bootstrap intervals of a metric's row, resampling videos.

    Args:
        metric: A metric of at least two videos.
        num_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        (2, len(columns)) lower and upper bounds in percent; NaN if the metric is NaN in every
        resample.
    """
    rng = np.random.default_rng(seed)
    share = np.full(metric.num_videos, 1 / metric.num_videos)
    draws = rng.multinomial(metric.num_videos, share, size=num_resamples)
    rows = np.array([metric.row(weights) for weights in draws])
    out = np.full((2, rows.shape[1]), np.nan)
    tail = 50 * (1 - COVERAGE)
    for column in range(rows.shape[1]):
        known = rows[np.isfinite(rows[:, column]), column]
        if len(known):
            out[:, column] = np.percentile(known, [tail, 100 - tail])
    return out
