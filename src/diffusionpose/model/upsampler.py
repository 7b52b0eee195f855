"""Upsampling of the feature conditions to heatmap resolution."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from diffusionpose.config import ModelConfig
from diffusionpose.nn.backbone import grid_of


class Upsampler(nn.Module):
    """Upsamples image tokens to a map of `channels` at heatmap resolution, 4 x the token grid."""

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        self.grid = grid_of(config.backbone, config.image_size)
        dim = config.backbone.hidden_size
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 16 * channels)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the map of the tokens at heatmap resolution."""
        cells = rearrange(
            self.expand(self.norm(tokens)), "b (h w) c -> b c h w", h=self.grid[0], w=self.grid[1]
        )
        return F.gelu(self.smooth(F.pixel_shuffle(cells, 4)))
