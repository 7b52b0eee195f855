"""Joint heatmaps: encoding, decoding and soft-argmax.

Heatmaps have a quarter of the crop's resolution. In both frames integers lie at pixel centres:
x_heatmap = (x_crop + 0.5) / 4 - 0.5.
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
"""Standard deviation of the smoothing before decoding, in units of the heatmaps' sigma."""
_OWN = 1 / (1 + SMOOTHING**2)
"""Two uses: the height that a joint's Gaussian keeps when smoothed, and the weight of the smoothing
kernel's centre in the centre of the product of kernel and Gaussian."""


def crop_to_heatmap(points: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 2"]:
    """Convert points from crop pixels to heatmap pixels."""
    return (points + 0.5) / STRIDE - 0.5


def heatmap_to_crop(points: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 2"]:
    """Convert points from heatmap pixels to crop pixels."""
    return (points + 0.5) * STRIDE - 0.5


def encode(
    keypoints: Float[Tensor, "*shape joints 2"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "*shape joints height width"]:
    """Draw Gaussians of height 1 at sub-pixel centres; a NaN keypoint gives an empty heatmap.

    Args:
        keypoints: (x, y) in heatmap pixels.
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
    """Return which keypoints lie within the heatmap; False for NaN."""
    limit = torch.tensor([size[1], size[0]], device=keypoints.device) - 0.5
    return ((keypoints >= -0.5) & (keypoints <= limit)).all(-1)


def decode(
    heatmaps: Float[Tensor, "*shape joints height width"], sigma: float
) -> tuple[Float[Tensor, "*shape joints 2"], Float[Tensor, "*shape joints"]]:
    """Decode heatmaps to keypoints and scores.

    The heatmaps are smoothed by a Gaussian of half their sigma, as the heatmap of an uncertain
    joint is broad and uneven and its highest pixel is noisy. The highest smoothed pixel is refined
    by a second-order Taylor step on the logarithm (as in DARK). The part of a Gaussian that is cut
    off at the border is compensated for, so that `decode` inverts `encode`.

    Args:
        heatmaps: Predicted by a model trained with `sigma`; negative values count as 0.
        sigma: Standard deviation of the Gaussians, as in `encode`.

    Returns:
        Keypoints (x, y) in heatmap pixels, and scores in [0, 1]: the peak heights with the effect
        of the smoothing undone.
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
    """Return the normal density, with far tails set to 0.

    Subnormal numbers there would make matrix products ten times slower.
    """
    density = torch.exp(-((steps / width) ** 2) / 2) / (math.sqrt(2 * math.pi) * width)
    return torch.where(density < 1e-9, 0.0, density)


def _kept(places: Tensor, centres: Tensor, size: int, sigma: float) -> Tensor:
    """Return how much of the product of two Gaussians lies within the map, in one dimension.

    Args:
        places: Centres of the smoothing kernel.
        centres: Centres of the joint's Gaussian.
        size: Pixels along the dimension.
        sigma: Standard deviation of the joint's Gaussian.
    """
    middle = _OWN * places + (1 - _OWN) * centres
    pixels = torch.arange(size, dtype=middle.dtype, device=middle.device)
    return _gaussian(pixels - middle[..., None], SMOOTHING * math.sqrt(_OWN) * sigma).sum(-1)


def _refined(line: Tensor, peak: Tensor, size: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Refine a peak along one dimension.

    Args:
        line: (..., 3) smoothed heatmap around the peak.
        peak: (...) pixel of the peak.
        size: Pixels along the dimension.
        sigma: Standard deviation of the heatmaps' Gaussians.

    Returns:
        The sub-pixel position, and the share of the Gaussian that lies within the map.
    """
    log = line.clamp_min(1e-6).log()
    places = (peak[..., None] + peak.new_tensor([-1, 0, 1])).to(line.dtype)
    centre = places[..., 1]
    kept = torch.ones_like(line)
    # Fixed-point iteration, as the share cut off at the border depends on the position itself.
    for _ in range(5):
        kept = _kept(places, centre[..., None], size, sigma).clamp_min(1e-6)
        centre = places[..., 1] + _taylor(log - kept.log())
    return centre, kept[..., 1]


def _taylor(log: Tensor) -> Tensor:
    """Return the offset from the middle of (..., 3) values to the peak of their parabola."""
    before, at, after = log.unbind(-1)
    curvature = before - 2 * at + after
    is_peak = curvature < -1e-6
    offset = 0.5 * (before - after) / torch.where(is_peak, curvature, -1.0)
    return torch.where(is_peak, offset, 0.0).clamp(-MAX_OFFSET, MAX_OFFSET)


def soft_argmax(
    heatmaps: Float[Tensor, "*shape joints height width"], temperature: float = 50.0
) -> Float[Tensor, "*shape joints 2"]:
    """Compute the differentiable centre of each heatmap in heatmap pixels, for the Markov loss.

    The weights are softmax(temperature * H / max H). The maximum is detached, so that the loss does
    not act on the height of a peak through it.
    """
    height, width = heatmaps.shape[-2:]
    flat = heatmaps.float().flatten(-2)
    top = flat.amax(-1, keepdim=True).detach().clamp_min(1e-2)
    weight = torch.softmax(temperature * flat / top, -1).unflatten(-1, (height, width))
    xs = torch.arange(width, dtype=weight.dtype, device=weight.device)
    ys = torch.arange(height, dtype=weight.dtype, device=weight.device)
    return torch.stack([(weight.sum(-2) * xs).sum(-1), (weight.sum(-1) * ys).sum(-1)], -1)
