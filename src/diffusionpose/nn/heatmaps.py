"""Heatmaps of joints: drawing them, reading keypoints off them, and their differentiable centre.

Heatmap pixels are a quarter of crop pixels, with integers at pixel centres: x_heatmap = (x_crop + 0.5) / 4 - 0.5.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STRIDE = 4
MAX_OFFSET = 1.0
"""Sub-pixel refinement moves a peak by at most this many heatmap pixels."""


def crop_to_heatmap(points: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 2"]:
    """Crop pixels -> heatmap pixels."""
    return (points + 0.5) / STRIDE - 0.5


def heatmap_to_crop(points: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 2"]:
    """Heatmap pixels -> crop pixels."""
    return (points + 0.5) * STRIDE - 0.5


def encode(
    keypoints: Float[Tensor, "*shape joints 2"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "*shape joints height width"]:
    """Gaussians of height 1 at sub-pixel centres; zero where a keypoint is NaN.

    Args:
        keypoints: Heatmap pixels.
        size: (height, width) of the heatmaps.
        sigma: Standard deviation in heatmap pixels.
    """
    height, width = size
    ys = torch.arange(height, dtype=keypoints.dtype, device=keypoints.device)
    xs = torch.arange(width, dtype=keypoints.dtype, device=keypoints.device)
    x, y = keypoints.unsqueeze(-1).unbind(-2)
    row = torch.exp(-((ys - y) ** 2) / (2 * sigma**2))
    column = torch.exp(-((xs - x) ** 2) / (2 * sigma**2))
    return (row.unsqueeze(-1) * column.unsqueeze(-2)).nan_to_num(0.0)


def inside(
    keypoints: Float[Tensor, "*shape joints 2"], size: tuple[int, int]
) -> Bool[Tensor, "*shape joints"]:
    """Which keypoints lie on the heatmap at all; NaN does not."""
    limit = torch.tensor([size[1], size[0]], device=keypoints.device) - 0.5
    return ((keypoints >= -0.5) & (keypoints <= limit)).all(-1)


def decode(
    heatmaps: Float[Tensor, "*shape joints height width"],
) -> tuple[Float[Tensor, "*shape joints 2"], Float[Tensor, "*shape joints"]]:
    """Keypoints by argmax and a second-order Taylor step on the logarithm (as DARK), and their scores.

    The logarithm of a Gaussian is a parabola, so the step is exact for clean heatmaps; at the border the three points
    are taken one-sided.

    Returns:
        Keypoints in heatmap pixels; scores: the maximum, clipped to [0, 1].
    """
    height, width = heatmaps.shape[-2:]
    flat = heatmaps.float().flatten(-2)
    score, index = flat.max(-1)
    row, column = index // width, index % width
    log = flat.clamp_min(1e-6).log().unflatten(-1, (height, width))
    x = column + _taylor(log, row, column, axis=-1)
    y = row + _taylor(log, row, column, axis=-2)
    return torch.stack([x, y], -1), score.clamp(0, 1)


def _taylor(log: Tensor, row: Tensor, column: Tensor, axis: int) -> Tensor:
    """Offset of the parabola through three neighbours of the peak along one axis."""
    size = log.shape[axis]
    peak = column if axis == -1 else row
    middle = peak.clamp(1, size - 2)
    line = log.gather(-2, row[..., None, None].expand(*row.shape, 1, log.shape[-1])).squeeze(-2)
    if axis == -2:
        line = log.gather(-1, column[..., None, None].expand(*row.shape, log.shape[-2], 1)).squeeze(
            -1
        )
    before, at, after = (
        line.gather(-1, (middle + step).unsqueeze(-1)).squeeze(-1) for step in (-1, 0, 1)
    )
    curvature = before - 2 * at + after
    offset = 0.5 * (before - after) / torch.where(curvature < -1e-6, curvature, -1.0)
    offset = torch.where(curvature < -1e-6, offset, 0.0)
    return (middle - peak + offset).clamp(-MAX_OFFSET, MAX_OFFSET)


def soft_argmax(
    heatmaps: Float[Tensor, "*shape joints height width"], temperature: float = 50.0
) -> Float[Tensor, "*shape joints 2"]:
    """Differentiable centre of each heatmap in heatmap pixels, for the Markov loss.

    softmax(temperature * H / max H), with the maximum detached so that the height of a peak gets no gradient from it.
    """
    height, width = heatmaps.shape[-2:]
    flat = heatmaps.float().flatten(-2)
    top = flat.amax(-1, keepdim=True).detach().clamp_min(1e-2)
    weight = torch.softmax(temperature * flat / top, -1).unflatten(-1, (height, width))
    xs = torch.arange(width, dtype=weight.dtype, device=weight.device)
    ys = torch.arange(height, dtype=weight.dtype, device=weight.device)
    return torch.stack([(weight.sum(-2) * xs).sum(-1), (weight.sum(-1) * ys).sum(-1)], -1)
