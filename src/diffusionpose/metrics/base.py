"""What all metrics share: values of any resample of the videos, the columns of the paper's tables, intervals."""

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
    """A metric of videos that keeps what it needs of each, so that any resample of them costs little.

    `weights` (num_videos,) says how often each video counts: ones for the figure itself.
    """

    columns: tuple[str, ...]
    """Of the table, in order."""

    def __init__(self, num_videos: int) -> None:
        self.num_videos = num_videos
        self.warnings: list[str] = []

    @abstractmethod
    def row(self, weights: np.ndarray) -> np.ndarray:
        """(len(columns),) percent; NaN where there is nothing to measure."""

    def joints(self, weights: np.ndarray) -> dict[str, float] | None:
        """Percent by joint of `POSETRACK15`; None for a metric of whole people."""
        del weights


class JointMetric(Metric):
    """A metric of single joints, in the layout of the paper's tables."""

    columns = (*JOINT_GROUPS, "Mean")

    @abstractmethod
    def values(self, weights: np.ndarray) -> np.ndarray:
        """(15,) percent, in the order of `POSETRACK15`; NaN where there is nothing to measure."""

    def joints(self, weights: np.ndarray) -> dict[str, float]:
        """As `values`, by name."""
        return dict(zip(POSETRACK15.joints, self.values(weights).tolist(), strict=True))

    def row(self, weights: np.ndarray) -> np.ndarray:
        """Means of the groups, NaN where a joint of a group is, and the mean over all joints that are not NaN."""
        values = self.values(weights)
        groups = [
            values[[POSETRACK15.index(joint) for joint in group]].mean()
            for group in JOINT_GROUPS.values()
        ]
        known = values[np.isfinite(values)]
        return np.array([*groups, known.mean() if len(known) else np.nan])


def bootstrap(metric: Metric, num_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """95 % intervals of a metric's row: percentiles over resamples of the videos, drawn with replacement.

    Args:
        metric: Of at least two videos.
        num_resamples: How many.
        seed: Of the draws.

    Returns:
        (2, len(columns)) low and high, percent; NaN where the figure is NaN in every resample.
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
