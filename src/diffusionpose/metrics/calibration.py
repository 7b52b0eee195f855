"""Calibration of scores to probabilities by Platt scaling (Platt 1999), and its evaluation.

For reliability diagrams and the expected calibration error, see Guo et al. (2017).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from diffusionpose.config import CalibrationConfig

MARGIN = 1e-3
"""Scores are clipped by this margin, as the logits of 0 and 1 are infinite."""
MIN_SAMPLES = 100
"""Joints with fewer samples get the parameters fitted on all joints together."""
BINS = 10


def logit(scores: np.ndarray) -> np.ndarray:
    """Compute log(s / (1 - s)) of scores clipped to [MARGIN, 1 - MARGIN]."""
    kept = np.clip(scores, MARGIN, 1 - MARGIN)
    return np.log(kept) - np.log1p(-kept)


def calibrated(scores: np.ndarray, calibration: CalibrationConfig | None) -> np.ndarray:
    """Convert scores to probabilities that the joints are correct.

    Args:
        scores: (..., num_joints), as decoded from heatmaps.
        calibration: Scale and shift per joint; None leaves scores unchanged.
    """
    if calibration is None:
        return scores
    value = np.array(calibration.scale) * logit(scores) + np.array(calibration.shift)
    return 1 / (1 + np.exp(-value))


def fit(scores: np.ndarray, right: np.ndarray, measured_on: str) -> CalibrationConfig:
    """Fit scale and shift of each joint by maximum likelihood.

    Args:
        scores: (num_people, num_joints), as decoded from heatmaps.
        right: Likewise; 1 for correct, 0 for wrong, NaN without ground truth.
        measured_on: Description of the data.
    """
    together = _fit_one(scores.ravel(), right.ravel())
    joints = [
        _fit_one(*pair) if np.isfinite(pair[1]).sum() >= MIN_SAMPLES else together
        for pair in zip(scores.T, right.T, strict=True)
    ]
    scale, shift = (
        tuple(round(float(v), 4) for v in values) for values in zip(*joints, strict=True)
    )
    return CalibrationConfig(scale=scale, shift=shift, measured_on=measured_on)


def _fit_one(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    known = np.isfinite(right)
    x, y = logit(scores[known]), right[known]

    def loss(parameters: np.ndarray) -> float:
        value = np.exp(parameters[0]) * x + parameters[1]
        # Weak prior, without which a joint that is always correct would get an infinite shift.
        prior = 1e-3 * float(np.square(parameters).sum())
        return float(np.mean(np.logaddexp(0, value) - y * value)) + prior

    found = minimize(loss, np.zeros(2), method="BFGS").x
    return float(np.exp(found[0])), float(found[1])


@dataclass(frozen=True, eq=False)
class Reliability:
    """Reliability diagram: scores in bins of equal width.

    Args:
        score: (bins,) mean score, NaN for empty bins.
        right: (bins,) share of correct joints, NaN for empty bins.
        count: (bins,) number of joints.
    """

    score: np.ndarray
    right: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean |score - right| over joints; NaN without joints."""
        if not self.count.any():
            return float("nan")
        filled = self.count > 0
        distance = np.abs(self.score - self.right)[filled]
        return float((distance * self.count[filled]).sum() / self.count.sum())


def reliability(scores: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Compute the reliability diagram of scores.

    Args:
        scores: Any shape, at least 0.
        right: Likewise; 1 for correct, 0 for wrong, NaN without ground truth.
        bins: Number of bins.

    Raises:
        ValueError: If a score with ground truth is NaN or below 0.
    """
    known = np.isfinite(right)
    scores, right = scores[known], right[known]
    if wrong := int((~(scores >= 0)).sum()):
        raise ValueError(f"{wrong} of {len(scores)} scores are NaN or below 0")
    place = np.minimum((scores * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, values, minlength=bins) for values in (scores, right)]
    means = [np.divide(total, count, out=np.full(bins, np.nan), where=count > 0) for total in sums]
    return Reliability(means[0], means[1], count)
