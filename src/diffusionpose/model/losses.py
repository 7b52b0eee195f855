"""Losses: heatmap error, Markov loss on limbs (paper, Eq. 4), and their weighted sum (Eq. 5).

| here | paper |
|---|---|
| `predicted`, `target` | H_t, G_t |
| `length_loss`, `angle_loss` | the two terms of L_Markov |
| `alpha` | the adjustment factor of Eq. 5 |
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffusionpose.config import LossConfig
from diffusionpose.nn.heatmaps import soft_argmax
from diffusionpose.skeleton import Skeleton

_EPS = 1e-6
MIN_LENGTH_STD = 1.0
"""Lower bound of L_std in heatmap pixels, without which limbs of equal length allow no error."""
LOCATION_TEMPERATURE = 10.0
"""Factor before the softmax; gives about 0.9 of the probability to the peak of a clean heatmap."""
MIN_LIMB = 1e-2
"""Limbs shorter than this, in heatmap pixels, have no direction; the angle term skips them."""


class Losses(NamedTuple):
    """The minimised `total`, and its unweighted terms."""

    total: Float[Tensor, ""]
    heatmap: Float[Tensor, ""]
    markov: Float[Tensor, ""]
    location: Float[Tensor, ""]


def heatmap_loss(
    predicted: Float[Tensor, "batch joints height width"],
    target: Float[Tensor, "batch joints height width"],
    labelled: Bool[Tensor, "batch joints"],
    num_labelled: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error over the heatmaps of labelled joints (first term of Eq. 5, as a mean).

    Args:
        predicted: Predicted heatmaps.
        target: Target heatmaps.
        labelled: Joints that count; the loss is 0 if there are none.
        num_labelled: Divisor; by default the number of labelled joints.
    """
    error = (predicted.float() - target.float()).square().mean((-2, -1))
    return (error * labelled).sum() / _count(labelled, num_labelled)


def _count(labelled: Tensor, num_labelled: Tensor | None) -> Tensor:
    return (labelled.sum() if num_labelled is None else num_labelled).clamp_min(1)


def location_loss(
    predicted: Float[Tensor, "batch joints height width"],
    target: Float[Tensor, "batch joints height width"],
    labelled: Bool[Tensor, "batch joints"],
    num_labelled: Tensor | None = None,
) -> Float[Tensor, ""]:
    """KL divergence between the softmax over pixels of target and predicted heatmaps.

    Not in the paper. Like the squared error, it is minimal if the heatmaps agree (here up to a
    constant), but its gradient does not vanish while the prediction is flat.
    """
    target_log, predicted_log = (
        torch.log_softmax(LOCATION_TEMPERATURE * maps.float().flatten(2), -1)
        for maps in (target, predicted)
    )
    divergence = (target_log.exp() * (target_log - predicted_log)).sum(-1)
    return (divergence * labelled).sum() / _count(labelled, num_labelled)


def length_loss(
    predicted: Float[Tensor, "batch limbs"],
    truth: Float[Tensor, "batch limbs"],
    valid: Bool[Tensor, "batch limbs"],
    reduction: Literal["paper", "mean"] = "paper",
) -> Float[Tensor, " batch"]:
    """First term of Eq. 4: log M - logsumexp(-(L_pre - L_gt)^2 / (2 L_std^2 + eps)).

    This is a soft minimum over limbs, so a single correct limb hides all wrong ones. L_std is the
    standard deviation of the person's ground-truth lengths.

    Args:
        predicted: Limb lengths in heatmap pixels.
        truth: Likewise, ground truth.
        valid: Limbs that count; a person without any has loss 0.
        reduction: `paper` for the formula above, `mean` to average the exponents instead.
    """
    count = valid.sum(-1)
    some = count.clamp_min(1)
    mean = (truth * valid).sum(-1, keepdim=True) / some.unsqueeze(-1)
    std = ((truth - mean).square() * valid).sum(-1).div(some).sqrt().clamp_min(MIN_LENGTH_STD)
    exponent = -(predicted - truth).square() / (2 * std.square() + _EPS).unsqueeze(-1)
    if reduction == "mean":
        return -(exponent * valid).sum(-1) / some
    # Not -inf, which gives NaN gradients for people without valid limbs.
    masked = torch.where(valid, exponent, exponent.new_full((), -1e30))
    loss = some.to(exponent.dtype).log() - torch.logsumexp(masked, -1)
    return torch.where(count > 0, loss, torch.zeros_like(loss))


def angle_loss(
    predicted: Float[Tensor, "batch joints 2"],
    truth: Float[Tensor, "batch joints 2"],
    labelled: Bool[Tensor, "batch joints"],
    skeleton: Skeleton,
) -> Float[Tensor, " batch"]:
    """Second term of Eq. 4: mean squared difference of the cosines between connected limbs.

    Pairs with an unlabelled joint or a limb without extent are left out.
    """
    hub, first, second = _angle_joints(skeleton)
    cosine_predicted, sharp_predicted = _cosine(predicted, hub, first, second)
    cosine_true, sharp_true = _cosine(truth, hub, first, second)
    valid = (
        labelled[:, hub] & labelled[:, first] & labelled[:, second] & sharp_predicted & sharp_true
    )
    difference = torch.where(valid, cosine_predicted - cosine_true, torch.zeros_like(cosine_true))
    return difference.square().sum(-1) / valid.sum(-1).clamp_min(1)


def _angle_joints(skeleton: Skeleton) -> tuple[list[int], list[int], list[int]]:
    """Return for each pair of connected limbs the shared joint and the two outer ones."""
    hub, first, second = [], [], []
    for m, n in skeleton.limb_pairs:
        (shared,) = set(skeleton.limbs[m]) & set(skeleton.limbs[n])
        hub.append(shared)
        first.append(sum(skeleton.limbs[m]) - shared)
        second.append(sum(skeleton.limbs[n]) - shared)
    return hub, first, second


def _cosine(
    points: Float[Tensor, "batch joints 2"], hub: list[int], first: list[int], second: list[int]
) -> tuple[Float[Tensor, "batch pairs"], Bool[Tensor, "batch pairs"]]:
    """Return the cosine between the limbs of each pair, and whether both have a direction."""
    a, b = points[:, first] - points[:, hub], points[:, second] - points[:, hub]
    squared = a.square().sum(-1) * b.square().sum(-1)
    sharp = (a.square().sum(-1) > MIN_LIMB**2) & (b.square().sum(-1) > MIN_LIMB**2)
    # The square root has an infinite gradient at 0, which masking the result would turn into NaN.
    norm = torch.where(sharp, squared, torch.ones_like(squared)).sqrt()
    return (a * b).sum(-1) / norm, sharp


def limb_lengths(
    points: Float[Tensor, "batch joints 2"], skeleton: Skeleton
) -> Float[Tensor, "batch limbs"]:
    """Compute limb lengths, with finite gradients at 0."""
    a, b = zip(*skeleton.limbs, strict=True)
    return (points[:, list(a)] - points[:, list(b)]).square().sum(-1).add(_EPS).sqrt()


def markov_loss(
    predicted: Float[Tensor, "batch joints 2"],
    truth: Float[Tensor, "batch joints 2"],
    labelled: Bool[Tensor, "batch joints"],
    skeleton: Skeleton,
    reduction: Literal["paper", "mean"] = "paper",
) -> Float[Tensor, ""]:
    """Markov loss (Eq. 4), averaged over people; computed in float32 or higher.

    Args:
        predicted: Joints in heatmap pixels, from `soft_argmax`.
        truth: Likewise, ground truth; may hold anything for joints that are not labelled.
        labelled: Joints with ground truth.
        skeleton: Defines limbs and limb pairs.
        reduction: As in `length_loss`.
    """
    dtype = torch.promote_types(predicted.dtype, torch.float32)
    predicted = predicted.to(dtype)
    truth = torch.where(labelled.unsqueeze(-1), truth.to(dtype), torch.zeros_like(predicted))
    a, b = zip(*skeleton.limbs, strict=True)
    valid = labelled[:, list(a)] & labelled[:, list(b)]
    length = length_loss(
        limb_lengths(predicted, skeleton), limb_lengths(truth, skeleton), valid, reduction
    )
    return (length + angle_loss(predicted, truth, labelled, skeleton)).mean()


def total_loss(
    predicted: Float[Tensor, "batch joints height width"],
    target: Float[Tensor, "batch joints height width"],
    keypoints: Float[Tensor, "batch joints 2"],
    labelled: Bool[Tensor, "batch joints"],
    skeleton: Skeleton,
    config: LossConfig,
    num_labelled: Tensor | None = None,
) -> Losses:
    """Total loss (Eq. 5): heatmap error plus alpha times the Markov loss.

    The configuration can add the location loss, which is not in the paper.

    Args:
        predicted: Predicted heatmaps.
        target: Target heatmaps.
        keypoints: Ground-truth joints in heatmap pixels.
        labelled: Joints that are labelled and within the heatmap.
        skeleton: Defines limbs and limb pairs.
        config: Weights and variants of the terms.
        num_labelled: Number of labelled joints in the batch. With several ranks their mean, so that
            averaging the losses over ranks gives the loss over all people.
    """
    heatmap = heatmap_loss(predicted, target, labelled, num_labelled)
    markov = location = torch.zeros_like(heatmap)
    if config.alpha:
        points = soft_argmax(predicted, config.softargmax_temperature)
        markov = markov_loss(points, keypoints, labelled, skeleton, config.length_reduction)
    if config.location:
        location = location_loss(predicted, target, labelled, num_labelled)
    total = heatmap + config.alpha * markov + config.location * location
    return Losses(total, heatmap, markov, location)
