"""Calibration of scores to probabilities."""

import numpy as np
import pytest

from diffusionpose.config import CalibrationConfig, ModelConfig
from diffusionpose.metrics.calibration import MARGIN, calibrated, fit, logit, reliability


def sample(number, scales, shifts, seed=0):
    """Draw scores, and correctness by known probabilities."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.05, 0.95, (number, len(scales)))
    chance = 1 / (1 + np.exp(-(np.array(scales) * logit(scores) + np.array(shifts))))
    return scores, (rng.random(chance.shape) < chance).astype(float)


def test_what_calibrates_is_found_joint_by_joint():
    scales, shifts = (2.0, 0.7, 1.0), (0.5, -1.0, 0.0)
    scores, right = sample(20_000, scales, shifts)
    right[::2, 1] = np.nan  # half of a joint without ground truth
    found = fit(scores, right, "made")
    np.testing.assert_allclose(found.scale, scales, rtol=0.08)
    np.testing.assert_allclose(found.shift, shifts, atol=0.06)
    assert reliability(scores[:, 1], right[:, 1]).error > 0.1
    fresh = sample(20_000, scales, shifts, seed=1)
    chances = calibrated(fresh[0], found)
    assert all(reliability(*pair).error < 0.015 for pair in zip(chances.T, fresh[1].T, strict=True))


def test_a_joint_with_little_truth_gets_what_fits_all():
    scores, right = sample(5_000, (2.0, 2.0, 2.0), (0.5, 0.5, 0.5))
    right[99:, 2] = np.nan
    right[:, 2] *= 0  # always wrong, but with too few samples
    found = fit(scores, right, "made")
    assert found.scale[2] == pytest.approx(2, rel=0.1)
    assert np.isfinite(fit(scores, np.ones_like(right), "made").shift).all()


def test_expected_calibration_error_by_hand():
    scores, right = np.array([0.95, 0.95, 0.15, 0.3]), np.array([1.0, 0.0, 0.0, np.nan])
    found = reliability(scores, right)
    assert found.count.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.error == pytest.approx((2 * 0.45 + 0.15) / 3)


def test_order_stays_and_ends_are_finite():
    calibration = CalibrationConfig(scale=(0.5,) * 15, shift=(1.0,) * 15, measured_on="made")
    scores = np.linspace(0, 1, 31)[:, None].repeat(15, 1)
    found = calibrated(scores, calibration)
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=0) >= 0).all()
    assert calibrated(scores, None) is scores
    assert ModelConfig(calibration=calibration).calibration == calibration


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (1.0,) * 15, "shift": (0.0,) * 14}, "one value per joint"),
        ({"scale": (0.0,) * 15, "shift": (0.0,) * 15}, "above 0"),
        ({"scale": (1.0,) * 3, "shift": (0.0,) * 3}, "has 3 joints, not 15"),
    ],
)
def test_impossible_calibrations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.model_validate({"calibration": fields | {"measured_on": "x"}})


def test_logits_are_clipped_close_to_the_ends():
    np.testing.assert_allclose(logit(np.array([0.5, 0.99])), [0, np.log(99)], atol=1e-12)
    assert logit(np.array([0.0]))[0] == pytest.approx(np.log(MARGIN / (1 - MARGIN)))
    assert MARGIN == 1e-3


def test_a_hundred_joints_are_believed():
    scores, right = sample(5_000, (2.0, 2.0, 2.0), (0.5, 0.5, 0.5))
    right[100:, 2] = np.nan
    right[:100, 2] = 0
    assert fit(scores, right, "made").shift[2] < -2


def test_a_score_of_one_is_in_the_last_bin():
    found = reliability(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    assert found.count.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_invalid_scores_are_refused_where_they_count():
    right = np.array([1.0, 0.0, 1.0, np.nan])
    scores = np.array([0.5, np.nan, -0.1, np.nan])
    with pytest.raises(ValueError, match="2 of 3 scores are NaN or below 0"):
        reliability(scores, right)
    assert reliability(np.array([0.5, 0.5, 0.5, np.nan]), right).count.sum() == 3


def test_without_joints_there_is_no_calibration_error():
    assert np.isnan(reliability(np.array([0.5]), np.array([np.nan])).error)
