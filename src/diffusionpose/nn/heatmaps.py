"""Heatmaps of joints: drawing them, reading keypoints off them, and their differentiable centre.

Heatmap pixels are a quarter of crop pixels, with integers at pixel centres: x_heatmap = (x_crop + 0.5) / 4 - 0.5.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffusionpose.nn.precision import no_autocast

STRIDE = 4
MAX_OFFSET = 1.0
"""Sub-pixel refinement moves a peak by at most this many heatmap pixels."""
SMOOTHING = 0.5
"""Of heatmaps before keypoints are read off them, in their own sigma."""
_OWN = 1 / (1 + SMOOTHING**2)
"""Share of its height that a Gaussian keeps when it is smoothed, and of the smoothing one's place in the centre of their product."""


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
    refined by a second-order Taylor step on the logarithm (as DARK). What the border cuts off a Gaussian is made up for, so that
    clean ones come back.

    Args:
        heatmaps: As a model of this sigma gives them; what is below 0 counts as 0.
        sigma: Of the Gaussians, as in `encode`.

    Returns:
        Keypoints in heatmap pixels; scores: heights before smoothing of Gaussians that high after it, clipped to [0, 1].
    """
    height, width = heatmaps.shape[-2:]
    places = [torch.arange(-1.0, size + 1, device=heatmaps.device) for size in (height, width)]
    rows, columns = (_gaussian(at[:, None] - at[1:-1], SMOOTHING * sigma) for at in places)
    with no_autocast(heatmaps.device):
        smooth = rows @ heatmaps.float().clamp_min(0) @ columns.mT
    kept = [
        _kept(at, at, size, sigma) ** _OWN for at, size in zip(places, (height, width), strict=True)
    ]
    fair = (smooth / torch.outer(*kept))[..., 1:-1, 1:-1].flatten(-2)
    index = fair.argmax(-1)
    row, column = index // width, index % width
    flat, at = smooth.flatten(-2), (row + 1) * (width + 2) + column + 1
    steps = at.new_tensor([-1, 0, 1])
    across = flat.gather(-1, at[..., None] + steps)
    down = flat.gather(-1, at[..., None] + steps * (width + 2))
    x, kept_x = _refined(across, column, width, sigma)
    y, kept_y = _refined(down, row, height, sigma)
    scores = across[..., 1] / (kept_x * kept_y) / _OWN
    return torch.stack([x, y], -1), scores.clamp(0, 1)


def _gaussian(steps: Tensor, width: float) -> Tensor:
    """The normal density; far tails, subnormal numbers that make matrix products ten times slower, are 0."""
    density = torch.exp(-((steps / width) ** 2) / 2) / (math.sqrt(2 * math.pi) * width)
    return torch.where(density < 1e-9, 0.0, density)


def _kept(places: Tensor, centres: Tensor, size: int, sigma: float) -> Tensor:
    """(...) what is left on the map of the product of two Gaussians: the smoothing one at a place, a joint's at a centre."""
    middle = _OWN * places + (1 - _OWN) * centres
    pixels = torch.arange(size, dtype=middle.dtype, device=middle.device)
    return _gaussian(pixels - middle[..., None], SMOOTHING * math.sqrt(_OWN) * sigma).sum(-1)


def _refined(line: Tensor, peak: Tensor, size: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Where along one side a peak lies, and what the border leaves of it.

    Args:
        line: (..., 3) smoothed heatmap around the peak.
        peak: (...) its pixel.
        size: Of the side.
        sigma: Of the heatmaps.
    """
    log = line.clamp_min(1e-6).log()
    places = (peak[..., None] + peak.new_tensor([-1, 0, 1])).to(line.dtype)
    centre = places[..., 1]
    kept = torch.ones_like(line)
    # How much of a Gaussian the border cuts off depends on where its centre is.
    for _ in range(5):
        kept = _kept(places, centre[..., None], size, sigma).clamp_min(1e-6)
        centre = places[..., 1] + _taylor(log - kept.log())
    return centre, kept[..., 1]


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
