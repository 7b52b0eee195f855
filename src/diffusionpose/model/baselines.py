"""Baselines for the decoder: a plain heatmap head, a U-Net, and DiffPose-like lookup."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffusionpose.config import ModelConfig
from diffusionpose.model.encoder import Conditions
from diffusionpose.model.upsampler import Upsampler
from diffusionpose.nn.attention import FeedForward, TimeEmbedding


class HeatmapHead(nn.Module):
    """Heatmap regression from the feature conditions without diffusion; ignores `x_t` and `t`."""

    def __init__(self, config: ModelConfig, channels: int = 48) -> None:
        super().__init__()
        self.upsample = Upsampler(config, channels)
        self.out = nn.Conv2d(channels, config.skeleton_graph.num_joints, 3, padding=1)

    def forward(
        self,
        x_t: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
        conditions: Conditions,
    ) -> Float[Tensor, "batch joints height width"]:
        """Predict heatmaps from the feature conditions alone."""
        del x_t, t
        return self.out(self.upsample(conditions.features))


class UNetDenoiser(nn.Module):
    """U-Net baseline (Table 5 baseline and a, Table 7 a).

    x_t and the upsampled features are concatenated and passed through a time-conditioned U-Net of
    three levels. It predicts x_0, as all denoisers here, and not the noise.
    """

    def __init__(self, config: ModelConfig, channels: int = 64) -> None:
        super().__init__()
        joints = config.skeleton_graph.num_joints
        self.upsample = Upsampler(config, channels)
        self.embed_time = TimeEmbedding(channels)
        widths = (channels, 2 * channels, 4 * channels)
        self.enter = nn.Conv2d(joints + channels, channels, 3, padding=1)
        self.down = nn.ModuleList(
            ResidualBlock(before, after, channels)
            for before, after in zip((channels, *widths), widths, strict=False)
        )
        self.middle = ResidualBlock(widths[-1], widths[-1], channels)
        self.up = nn.ModuleList(
            ResidualBlock(below + width, width, channels)
            for below, width in zip((widths[-1], *reversed(widths)), reversed(widths), strict=False)
        )
        self.out = nn.Conv2d(channels, joints, 3, padding=1)

    def forward(
        self,
        x_t: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
        conditions: Conditions,
    ) -> Float[Tensor, "batch joints height width"]:
        """Predict heatmaps (x_0 before scaling) from noisy ones and the upsampled features."""
        time = self.embed_time(t)
        x = self.enter(torch.cat([x_t, self.upsample(conditions.features)], dim=1))
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x, time)
            skips.append(x)
        x = self.middle(x, time)
        for block in self.up:
            skip = skips.pop()
            x = block(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1), time)
        return self.out(x)


class ResidualBlock(nn.Module):
    """Residual block of two 3 x 3 convolutions, with scale and shift from the time embedding."""

    def __init__(self, dim_in: int, dim_out: int, time_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, dim_in)
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.time = nn.Linear(time_dim, 2 * dim_out)
        self.norm2 = nn.GroupNorm(8, dim_out)
        self.conv2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch channels height width"], time: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch channels2 height width"]:
        """Apply the block, modulated by `time` between the convolutions."""
        scale, shift = self.time(time)[..., None, None].chunk(2, dim=1)
        hidden = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(hidden))


class LookupDenoiser(nn.Module):
    """Lookup-based denoiser in the spirit of DiffPose (ICCV 2023).

    A softmax over x_t, with a learned sharpness that depends on the step, is the mask by which each
    joint pools features. The pooled features give the joint's kernel, which is then correlated with
    the feature map.
    """

    def __init__(self, config: ModelConfig, channels: int = 48) -> None:
        super().__init__()
        joints = config.skeleton_graph.num_joints
        self.upsample = Upsampler(config, channels)
        self.embed_time = TimeEmbedding(channels)
        self.sharpness = nn.Linear(channels, joints)
        self.joints = nn.Parameter(torch.randn(joints, channels) * 0.02)
        self.mix = FeedForward(2 * channels)
        self.kernel = nn.Linear(2 * channels, channels)
        self.local = nn.Conv2d(joints + channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, joints, 3, padding=1)

    def forward(
        self,
        x_t: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
        conditions: Conditions,
    ) -> Float[Tensor, "batch joints height width"]:
        """Predict heatmaps (x_0 before scaling) from the features looked up by noisy ones."""
        features = self.upsample(conditions.features)
        time = self.embed_time(t)
        sharpness = F.softplus(self.sharpness(time))[..., None]
        mask = torch.softmax(x_t.flatten(2) * sharpness, dim=-1)
        found = torch.einsum("bjp,bcp->bjc", mask, features.flatten(2))
        query = torch.cat([found, (self.joints + time[:, None]).expand_as(found)], dim=-1)
        kernel = self.kernel(query + self.mix(query))
        looked_up = torch.einsum("bjc,bchw->bjhw", kernel, features)
        local = F.gelu(self.local(torch.cat([looked_up, features], dim=1)))
        return self.out(local)
