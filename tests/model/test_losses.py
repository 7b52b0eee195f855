import math

import pytest
import torch

from diffusionpose.config import LossConfig
from diffusionpose.model.losses import (
    angle_loss,
    heatmap_loss,
    length_loss,
    limb_lengths,
    location_loss,
    markov_loss,
    total_loss,
)
from diffusionpose.nn.heatmaps import encode, soft_argmax
from diffusionpose.skeleton import POSETRACK15

NUM_LIMBS = len(POSETRACK15.limbs)
LABELLED = torch.ones(2, 15, dtype=torch.bool)


def pose(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return (torch.rand(2, 15, 2, dtype=torch.float64) * torch.tensor([40.0, 55.0]) + 4).to(dtype)


def lengths_off_by(sigmas, dtype=torch.float32):
    """Return true lengths with standard deviation 4, and predictions off by some deviations."""
    truth = torch.tensor([6.0, 14.0] * (NUM_LIMBS // 2), dtype=dtype)[None]
    return (
        truth + torch.as_tensor(sigmas, dtype=dtype) * 4.0,
        truth,
        torch.ones(1, NUM_LIMBS, dtype=torch.bool),
    )


def test_heatmap_loss_is_the_mean_over_labelled_joints():
    predicted, target = torch.rand(2, 15, 8, 6), torch.rand(2, 15, 8, 6)
    labelled = torch.rand(2, 15) > 0.5
    expected = ((predicted - target) ** 2)[labelled].mean()
    torch.testing.assert_close(heatmap_loss(predicted, target, labelled), expected)
    assert heatmap_loss(predicted, target, torch.zeros_like(labelled)) == 0


def test_length_loss_equals_equation_4():
    predicted, truth, valid = lengths_off_by(torch.linspace(0, 2, NUM_LIMBS), torch.float64)
    std = truth.std(correction=0)
    expected = -math.log(
        sum(
            math.exp(-((p - t) ** 2) / (2 * std**2))
            for p, t in zip(predicted[0], truth[0], strict=True)
        )
        / NUM_LIMBS
    )
    assert float(length_loss(predicted, truth, valid)) == pytest.approx(expected, rel=1e-6)


def test_length_loss_is_a_soft_minimum_and_the_mean_is_not():
    # One limb correct, thirteen off by ten deviations: the paper's form gives ln 14 and no
    # gradient.
    sigmas = torch.full((NUM_LIMBS,), 10.0)
    sigmas[0] = 0.0
    predicted, truth, valid = lengths_off_by(sigmas, torch.float64)
    predicted.requires_grad_()
    loss = length_loss(predicted, truth, valid)
    assert float(loss.detach()) == pytest.approx(math.log(14), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), predicted)
    assert gradient.abs().max() < 1e-19
    loss = length_loss(predicted, truth, valid, "mean")
    assert float(loss.detach()) == pytest.approx(13 / 14 * 50, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), predicted)
    assert gradient[0, 1:].abs().min() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sigma", [0, 1, 10, 50, 100, 200])
@pytest.mark.parametrize("reduction", ["paper", "mean"])
def test_markov_loss_is_finite_with_gradients_up_to_200_sigma(dtype, sigma, reduction):
    truth = pose(torch.float32)
    std = limb_lengths(truth, POSETRACK15).std(1, correction=0).max()
    middle = truth.mean(1, keepdim=True)
    predicted = (truth + (truth - middle) / 10 * sigma * std).to(dtype).requires_grad_()
    loss = markov_loss(predicted, truth, LABELLED, POSETRACK15, reduction)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(predicted.grad).all()
    if sigma:
        assert predicted.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_limbs_of_no_length_and_nobody_labelled(dtype):
    truth = pose(torch.float32)
    predicted = torch.full((2, 15, 2), 20.0, dtype=dtype).requires_grad_()
    for target, labelled in (
        (truth, LABELLED),
        (torch.full_like(truth, 20.0), LABELLED),
        (torch.full_like(truth, torch.nan), torch.zeros_like(LABELLED)),
    ):
        loss = markov_loss(predicted, target, labelled, POSETRACK15)
        (gradient,) = torch.autograd.grad(loss, predicted)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("reduction", ["paper", "mean"])
def test_gradcheck(reduction):
    truth = pose()
    labelled = LABELLED.clone()
    labelled[0, [3, 9]] = False
    predicted = (truth + torch.randn_like(truth)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda points: markov_loss(points, truth, labelled, POSETRACK15, reduction), (predicted,)
    )


def test_angle_loss_by_hand():
    truth = pose(seed=1)
    predicted = truth + torch.randn_like(truth)
    expected = []
    for b in range(2):
        terms = []
        for m, n in POSETRACK15.limb_pairs:
            (hub,) = set(POSETRACK15.limbs[m]) & set(POSETRACK15.limbs[n])
            ends = [sum(POSETRACK15.limbs[k]) - hub for k in (m, n)]
            cosines = []
            for points in (predicted[b], truth[b]):
                u, v = (points[end] - points[hub] for end in ends)
                cosines.append(float(u @ v / (u.norm() * v.norm())))
            terms.append((cosines[0] - cosines[1]) ** 2)
        assert len(terms) == 19
        expected.append(sum(terms) / 19)
    found = angle_loss(predicted, truth, LABELLED, POSETRACK15)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_unlabelled_joints_do_not_count():
    truth, labelled = pose(), LABELLED.clone()
    labelled[:, [4, 8]] = False
    predicted = truth + torch.randn_like(truth)
    moved, moved_truth = predicted.clone(), truth.clone()
    moved[:, [4, 8]] += 100
    moved_truth[:, [4, 8]] = torch.nan
    a = markov_loss(predicted, truth, labelled, POSETRACK15)
    b = markov_loss(moved, moved_truth, labelled, POSETRACK15)
    torch.testing.assert_close(a, b)


def test_perfect_poses_cost_nothing_and_moving_whole_people_neither():
    truth = pose()
    assert float(markov_loss(truth + 7, truth, LABELLED, POSETRACK15)) == pytest.approx(0, abs=1e-9)


def test_location_loss_is_least_at_the_target_and_steep_when_flat():
    keypoints = torch.tensor([[[10.0, 20.0]]])
    target = encode(keypoints, (64, 48), 2.0)
    labelled = torch.ones(1, 1, dtype=torch.bool)
    assert float(location_loss(target, target, labelled)) == pytest.approx(0, abs=1e-6)
    assert float(location_loss(target + 3, target, labelled)) == pytest.approx(0, abs=1e-5)
    flat = torch.zeros_like(target).requires_grad_()
    loss = location_loss(flat, target, labelled)
    (gradient,) = torch.autograd.grad(loss, flat)
    assert loss > 4
    assert gradient.argmin() == target.argmax()


def test_total_loss_is_equation_5():
    torch.manual_seed(0)
    keypoints = pose(torch.float32)
    target = encode(keypoints, (64, 48), 2.0)
    predicted = target + 0.1 * torch.rand_like(target)

    def parts(**settings):
        config = LossConfig(**settings)
        return total_loss(predicted, target, keypoints, LABELLED, POSETRACK15, config)

    assert parts(alpha=0.0).total == parts(alpha=0.0).heatmap
    found = parts(alpha=0.25)
    assert found.markov > 0
    torch.testing.assert_close(found.total, found.heatmap + 0.25 * found.markov)


def test_limbs_that_are_all_alike_may_be_off_by_a_pixel():
    truth = torch.full((1, NUM_LIMBS), 10.0)
    valid = torch.ones(1, NUM_LIMBS, dtype=torch.bool)
    for reduction in ("paper", "mean"):
        loss = length_loss(truth + 1, truth, valid, reduction)
        assert float(loss) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("reduction", ["paper", "mean"])
def test_limbs_that_do_not_count_change_nothing(reduction):
    predicted, truth, valid = lengths_off_by(torch.linspace(0, 2, NUM_LIMBS), torch.float64)
    expected = length_loss(predicted[:, :8], truth[:, :8], valid[:, :8], reduction)
    valid[:, 8:] = False
    truth[:, 8:] = 50.0
    torch.testing.assert_close(length_loss(predicted, truth, valid, reduction), expected)


def test_angles_at_joints_that_are_lacking_are_left_out_of_the_mean():
    truth, wrist, elbow = pose(seed=1), 7, 5
    assert (POSETRACK15.joints[wrist], POSETRACK15.joints[elbow]) == ("left_wrist", "left_elbow")
    predicted = truth + torch.randn_like(truth)
    labelled = LABELLED.clone()
    labelled[:, wrist] = False
    found = angle_loss(predicted, truth, labelled, POSETRACK15)
    # One of the 19 angles involves the wrist.
    without = angle_loss(predicted, truth, LABELLED, POSETRACK15) * 19
    hub = predicted[:, elbow], truth[:, elbow]
    cosines = [
        torch.cosine_similarity(points[:, wrist] - at, points[:, 3] - at, dim=-1)
        for points, at in zip((predicted, truth), hub, strict=True)
    ]
    torch.testing.assert_close(found, (without - (cosines[0] - cosines[1]).square()) / 18)
    # A ground-truth forearm without length has no angle either.
    flat = truth.clone()
    flat[:, wrist] = flat[:, elbow]
    torch.testing.assert_close(angle_loss(predicted, flat, LABELLED, POSETRACK15), found)


def test_every_part_is_divided_by_the_number_that_is_given():
    predicted, target = torch.rand(2, 15, 8, 6), torch.rand(2, 15, 8, 6)
    labelled = torch.rand(2, 15) > 0.5
    own, given = labelled.sum(), torch.tensor(40)
    for loss in (heatmap_loss, location_loss):
        torch.testing.assert_close(
            loss(predicted, target, labelled, given),
            loss(predicted, target, labelled) * own / given,
        )
    config = LossConfig(alpha=0.0, location=0.5)
    found = total_loss(
        predicted, target, torch.zeros(2, 15, 2), labelled, POSETRACK15, config, given
    )
    heatmap = heatmap_loss(predicted, target, labelled, given)
    location = location_loss(predicted, target, labelled, given)
    torch.testing.assert_close(found.total, heatmap + 0.5 * location)


def test_location_loss_leaves_unlabelled_joints_out():
    predicted, target = torch.rand(2, 15, 8, 6), torch.rand(2, 15, 8, 6)
    labelled = torch.rand(2, 15) > 0.5
    expected = location_loss(
        predicted[labelled][None], target[labelled][None], labelled[labelled][None]
    )
    torch.testing.assert_close(location_loss(predicted, target, labelled), expected)


def test_the_markov_loss_is_of_the_configured_centre_and_reduction():
    torch.manual_seed(0)
    keypoints = pose(torch.float32)
    target = encode(keypoints, (64, 48), 2.0)
    predicted = target + 0.3 * torch.rand_like(target)
    for temperature, reduction in ((10.0, "paper"), (10.0, "mean"), (50.0, "paper")):
        config = LossConfig(softargmax_temperature=temperature, length_reduction=reduction)
        found = total_loss(predicted, target, keypoints, LABELLED, POSETRACK15, config)
        points = soft_argmax(predicted, temperature)
        expected = markov_loss(points, keypoints, LABELLED, POSETRACK15, reduction)
        torch.testing.assert_close(found.markov, expected)
