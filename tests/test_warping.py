"""Warping paths against an oracle, their length in time, and the band."""

import numpy as np
import pytest

from diffusionpose import warping
from diffusionpose.errors import UsageError
from diffusionpose.warping import AngleSequence, angle_difference, warp
from tests.oracles.warping import cheapest, pair_cost


def made(seed, count, num_angles=3):
    """Make angles over the full circle, some unknown, for frames of unequal duration."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-180, 180, (count, num_angles))
    angles[rng.random(angles.shape) < 0.2] = np.nan
    return AngleSequence(angles, rng.uniform(0.01, 0.1, count))


def waves(progress):
    """Return angles of a movement at fractions of its duration."""
    return 60 + 50 * np.sin(np.multiply.outer(progress, [7, 11, 17]))


@pytest.mark.parametrize(("seed", "sizes"), [(0, (9, 14)), (1, (14, 9)), (2, (1, 6)), (3, (6, 1)), (4, (1, 1))])  # fmt: skip
def test_no_path_is_cheaper(seed, sizes):
    first, second = made(seed, sizes[0]), made(seed + 10, sizes[1])
    found = warp(first, second)
    cost = 2 * sum(
        weight * pair_cost(first.angles[i], second.angles[j])
        for i, j, weight in zip(found.first, found.second, found.weights, strict=True)
    )
    expected = cheapest(first.angles, second.angles, first.shares, second.shares)
    assert cost == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("band", [1.0, 0.3, 0.01])
def test_a_path_goes_from_end_to_end_in_single_steps(band):
    first, second = made(5, 40), made(6, 23)
    found = warp(first, second, band)
    assert (found.first[0], found.second[0]) == (0, 0)
    assert (found.first[-1], found.second[-1]) == (39, 22)
    steps = {(int(a), int(b)) for a, b in zip(np.diff(found.first), np.diff(found.second), strict=True)}  # fmt: skip
    assert steps <= {(1, 1), (1, 0), (0, 1)}
    assert found.weights.sum() == pytest.approx(1)


def test_a_sequence_matches_itself_frame_by_frame_even_where_nothing_is_known():
    sequence = made(7, 50)
    sequence.angles[20:30] = np.nan
    sequence.angles[40:45] = 12
    found = warp(sequence, sequence)
    np.testing.assert_array_equal(found.first, np.arange(50))
    np.testing.assert_array_equal(found.second, np.arange(50))


def test_another_pace_is_found():
    slow = np.linspace(0, 1, 240)
    first = AngleSequence(waves(np.linspace(0, 1, 80)), np.ones(80))
    found = warp(first, AngleSequence(waves(slow**1.5), np.ones(240)))
    shift = found.first / 79 - slow[found.second] ** 1.5
    assert np.abs(shift).max() < 0.02


def test_the_band_is_kept():
    first = AngleSequence(waves(np.linspace(0, 1, 80)), np.ones(80))
    second = AngleSequence(waves(np.linspace(0, 1, 120) ** 3), np.ones(120))
    shift = [
        np.abs(first.progress[found.first] - second.progress[found.second]).max()
        for found in (warp(first, second, 0.1), warp(first, second))
    ]
    assert shift[0] <= 0.1 < shift[1]


def test_frames_count_by_the_time_that_they_last():
    # A frame that is shown nine times as long counts as nine frames.
    angles = np.array([[0.0], [50], [10], [90]])
    other = AngleSequence(np.array([[0.0], [45], [90]]), np.ones(3))
    long = AngleSequence(angles, np.array([1.0, 9, 1, 1]))
    often = AngleSequence(np.repeat(angles, [1, 9, 1, 1], 0), np.ones(12))
    means = [
        (found.weights * np.abs(sequence.angles[found.first] - other.angles[found.second])[:, 0]).sum()
        for sequence, found in ((s, warp(s, other)) for s in (long, often))
    ]  # fmt: skip
    assert means[0] == pytest.approx(means[1])


def test_too_many_pairs_are_refused_with_a_band_that_would_do(monkeypatch):
    monkeypatch.setattr(warping, "MOST_PAIRS", 1000)
    first, second = made(8, 60), made(9, 60)
    with pytest.raises(UsageError, match=r"60 x 60 frames .* --band 1: use a band below 0\.28"):
        warp(first, second)
    warp(first, second, 0.1)


@pytest.mark.parametrize(("one", "other", "turn"), [(170, -170, 20), (-170, 170, -20), (10, 40, 30), (0, 180, 180)])  # fmt: skip
def test_differences_go_the_short_way_round(one, other, turn):
    assert angle_difference(np.float64(one), np.float64(other)) == turn
