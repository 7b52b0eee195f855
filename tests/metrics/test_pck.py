import numpy as np
import pytest

from diffusionpose.metrics.pck import LIMB_JOINTS, Pck
from diffusionpose.skeleton import POSETRACK15


def person():
    """Torso (left shoulder to right hip) of 100 pixels: the limit is 20."""
    points = np.zeros((15, 2))
    points[POSETRACK15.index("right_hip")] = [60, 80]
    return points


def test_by_hand():
    truth = np.stack([person(), person()])
    predicted = truth.copy()
    wrist, knee = POSETRACK15.index("left_wrist"), POSETRACK15.index("right_knee")
    predicted[0, wrist] += [20, 0]  # on the limit: right
    predicted[1, wrist] += [20.1, 0]
    predicted[0, knee] = np.nan  # missing: wrong
    truth[1, knee] = np.nan  # unlabelled: does not count
    metric = Pck(POSETRACK15)
    metric.update(predicted, truth)
    found = metric.compute()
    assert found["left_wrist"] == 0.5
    assert found["right_knee"] == 0.0
    assert found["mean"] == pytest.approx((10 + 0.5 + 0) / 12)


def test_people_without_a_torso_are_left_out_and_reset_forgets():
    truth = person()[None]
    truth[0, POSETRACK15.index("right_hip")] = np.nan
    metric = Pck(POSETRACK15)
    metric.update(truth, truth)
    assert np.isnan(metric.compute()["mean"])
    metric.update(person()[None], person()[None])
    assert metric.compute()["mean"] == 1
    metric.reset()
    assert np.isnan(metric.compute()["mean"])
    assert len(LIMB_JOINTS) == 12
