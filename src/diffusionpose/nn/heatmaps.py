"""Heatmaps of joints: drawing them, reading keypoints off them, and their differentiable centre.

Heatmap pixels are a quarter of crop pixels, with integers at pixel centres: x_heatmap = (x_crop + 0.5) / 4 - 0.5.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STRIDE = 4
MAX_OFFSET = 1.0
"""Sub-pixel refinement moves a peak by at most this many heatmap pixels."""
SMOOTHING = 0.5
"""Of heatmaps before keypoints are read off them, in their own sigma."""


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
    heatmaps: Float[Tensor, "*shape joints height width"], sigma: float
) -> tuple[Float[Tensor, "*shape joints 2"], Float[Tensor, "*shape joints"]]:
    """Keypoints and scores, from heatmaps smoothed by a Gaussian half as wide as those that they are made of.

    Where a joint is in doubt its heatmap is broad and uneven, and its highest pixel is chance. The highest smoothed pixel is
    refined by a second-order Taylor step on the logarithm (as DARK), which is exact for clean Gaussians; where the
    border cuts one off, it errs by up to 0.3 pixels.

    Args:
        heatmaps: As a model of this sigma gives them.
        sigma: Of the Gaussians, as in `encode`.

    Returns:
        Keypoints in heatmap pixels; scores: heights before smoothing of Gaussians that high after it, clipped to [0, 1].
    """
    height, width = heatmaps.shape[-2:]
    rows, columns = (_smoothing(size, sigma, heatmaps.device) for size in (height, width))
    smooth = (rows @ heatmaps.float() @ columns.mT).flatten(-2)
    inner = smooth.unflatten(-1, (height + 2, width + 2))[..., 1:-1, 1:-1].flatten(-2)
    top, index = inner.max(-1)
    row, column = index // width + 1, index % width + 1
    place = row * (width + 2) + column
    steps = place.new_tensor([-1, 0, 1])
    x, y = (
        _taylor(smooth.gather(-1, place[..., None] + steps * stride).clamp_min(1e-6).log())
        for stride in (1, width + 2)
    )
    points = torch.stack([column - 1 + x, row - 1 + y], -1)
    return points, (top * (1 + SMOOTHING**2)).clamp(0, 1)


def _smoothing(size: int, sigma: float, device: torch.device) -> Tensor:
    """(size + 2, size): weights of a side's pixels around each of them, and around one beyond each end."""
    places = torch.arange(-1, size + 1, dtype=torch.float64, device="cpu")
    steps = (places[:, None] - places[1:-1]) / sigma
    share = 1 / (1 + SMOOTHING**2)

    def gaussians(width: float) -> Tensor:
        return torch.exp(-((steps / width) ** 2) / 2) / (math.sqrt(2 * math.pi) * width * sigma)

    # What the border cuts off is made up for so that the highest point of a Gaussian of that sigma stays where it is.
    kept = gaussians(SMOOTHING * math.sqrt(share)).sum(1, keepdim=True)
    weights = gaussians(SMOOTHING) / kept**share
    # Far tails would be subnormal numbers, which make matrix products ten times slower.
    return torch.where(weights < 1e-9, 0.0, weights).to(device, torch.float32)


def _taylor(log: Tensor) -> Tensor:
    """(..., 3) -> (...): where the parabola through three neighbours has its peak, from the middle one."""
    before, at, after = log.unbind(-1)
    curvature = before - 2 * at + after
    is_peak = curvature < -1e-6
    offset = 0.5 * (before - after) / torch.where(is_peak, curvature, -1.0)
    return torch.where(is_peak, offset, 0.0).clamp(-MAX_OFFSET, MAX_OFFSET)


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
