"""Intervals from resampled videos."""

import numpy as np

from diffusionpose.metrics.base import Metric, bootstrap


class Shares(Metric):
    """The mean of per-video values; the second column is NaN without the first video."""

    columns = ("mean", "sometimes")

    def __init__(self, own):
        super().__init__(len(own))
        self.own = own

    def row(self, weights):
        mean = weights @ self.own / weights.sum()
        return np.array([mean, mean if weights[0] else np.nan])


def test_intervals_hold_95_percent_of_the_resamples():
    own = np.random.default_rng(0).normal(50, 10, 60)
    found = bootstrap(Shares(own), 4000)
    half = 1.96 * own.std() / np.sqrt(60)
    np.testing.assert_allclose(found[:, 0], own.mean() + np.array([-half, half]), atol=0.1 * half)
    np.testing.assert_allclose(found[:, 1], found[:, 0], atol=0.3 * half)
