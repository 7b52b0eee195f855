"""Pose Denoising Decoder: from noisy heatmaps and conditions to heatmaps (section of this name).

| here | paper |
|---|---|
| `x_t`, `t` | noisy heatmaps and sampling step |
| `states` | joint states N_i, `patches` vectors per joint |
| `HeatmapConditionalDenoisingBlock` | HCDB, layers (i) to (iv) |
| `conditions.position`, `conditions.features` | C_p, C_f |

Each joint's heatmap is split into patches separately, so that every joint has its own state
throughout the decoder.
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffusionpose.config import ModelConfig
from diffusionpose.model.encoder import Conditions
from diffusionpose.model.upsampler import Upsampler
from diffusionpose.nn.attention import Attention, FeedForward, TimeEmbedding, grid_embedding
from diffusionpose.nn.backbone import grid_of
from diffusionpose.nn.markov import RULES, MarkovOptimizationLayer

States = Float[Tensor, "batch joints patches dim"]


class Modulation(nn.Module):
    """Adaptive layer norm (adaLN): scale, shift and gate of a layer from the sampling step.

    Initialised to scale 1, shift 0 and gate 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.project = nn.Linear(dim, 3 * dim)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, states: States, time: Float[Tensor, "batch dim"]) -> tuple[States, Tensor]:
        """Return the normalised and modulated states, and the gate for the layer's output."""
        scale, shift, gate = self.project(time)[:, None, None].chunk(3, dim=-1)
        return self.norm(states) * (1 + scale) + shift, 1 + gate


class LocationGuideSelfAttention(nn.Module):
    """HCDB (i): self-attention over the patches of all joints, guided by C_p.

    A projection of a joint's C_p is added to its queries and keys.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.modulation = Modulation(dim)
        self.attention = Attention(dim, num_heads)
        self.guide = nn.Linear(dim, 2 * dim)

    def forward(
        self,
        states: States,
        time: Float[Tensor, "batch dim"],
        position: Float[Tensor, "batch joints dim"],
    ) -> States:
        """Return the states after self-attention guided by `position`."""
        normed, gate = self.modulation(states, time)
        patches = states.shape[2]
        guide = repeat(self.guide(position), "b j d -> b (j p) d", p=patches)
        query_bias, key_bias = guide.chunk(2, dim=-1)
        tokens = rearrange(normed, "b j p d -> b (j p) d")
        out = self.attention(tokens, query_bias=query_bias, key_bias=key_bias)
        return states + gate * rearrange(out, "b (j p) d -> b j p d", p=patches)


class FeatureCrossAttention(nn.Module):
    """HCDB (iii): cross-attention from every patch to the spatio-temporal cues in C_f."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.modulation = Modulation(dim)
        self.attention = Attention(dim, num_heads)

    def forward(
        self,
        states: States,
        time: Float[Tensor, "batch dim"],
        features: Float[Tensor, "batch tokens dim"],
    ) -> States:
        """Return the states after cross-attention to `features`."""
        normed, gate = self.modulation(states, time)
        out = self.attention(rearrange(normed, "b j p d -> b (j p) d"), features)
        return states + gate * rearrange(out, "b (j p) d -> b j p d", p=states.shape[2])


class HeatmapConditionalDenoisingBlock(nn.Module):
    """HCDB: location-guide self-attention, Markov optimization, cross-attention, feed-forward.

    For Table 7, `position_conditions=False` drops the first layer and `markov=False` the second:
    (b) has neither, (c) only the first.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, decoder = config.backbone.hidden_size, config.decoder
        self.location = (
            LocationGuideSelfAttention(dim, decoder.num_heads)
            if decoder.position_conditions
            else None
        )
        self.markov = (
            MarkovOptimizationLayer(
                dim, config.skeleton_graph, decoder.num_iterations, RULES[decoder.messages]
            )
            if decoder.markov
            else None
        )
        self.cross = FeatureCrossAttention(dim, decoder.num_heads)
        self.norm = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, decoder.mlp_ratio)

    def forward(
        self, states: States, time: Float[Tensor, "batch dim"], conditions: Conditions
    ) -> States:
        """Return the states after layers (i) to (iv)."""
        if self.location is not None:
            states = self.location(states, time, conditions.position)
        if self.markov is not None:
            states = self.markov(states)
        states = self.cross(states, time, conditions.features)
        return states + self.mlp(self.norm(states))


def to_patches(
    maps: Float[Tensor, "batch maps height width"], patch: tuple[int, int]
) -> Float[Tensor, "batch maps patches pixels"]:
    """Split maps into patches in row-major order."""
    return rearrange(maps, "b j (h p) (w q) -> b j (h w) (p q)", p=patch[0], q=patch[1])


class FeatureKernels(nn.Module):
    """Read-out by dynamic 1 x 1 kernels: each patch's state is a kernel on the upsampled features.

    Not in the paper, which does not specify the read-out. Without it, a state must itself encode
    where in its patch the joint lies.
    """

    def __init__(self, config: ModelConfig, channels: int = 48) -> None:
        super().__init__()
        self.patch = config.decoder.patch_size
        self.upsample = Upsampler(config, channels)
        self.kernel = nn.Linear(config.backbone.hidden_size, channels)
        nn.init.trunc_normal_(self.kernel.weight, std=2e-3)
        nn.init.zeros_(self.kernel.bias)

    def forward(
        self, states: States, features: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch joints patches pixels"]:
        """Return each patch's kernel response, to be added to the linear read-out."""
        maps = to_patches(self.upsample(features), self.patch)
        return torch.einsum("bjnc,bcnp->bjnp", self.kernel(states), maps)


class PoseDenoisingDecoder(nn.Module):
    """Patch embedding of x_t, a stack of HCDBs, and read-out to heatmaps.

    Args:
        config: Sizes of patches and heatmaps, and the number of blocks and their layers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, patch = config.backbone.hidden_size, config.decoder.patch_size
        joints = config.skeleton_graph.num_joints
        height, width = config.heatmap_size
        self.patch, self.grid = patch, (height // patch[0], width // patch[1])
        pixels = patch[0] * patch[1]
        # Initially the joint embedding dominates position embedding and noise.
        self.embed = nn.Linear(pixels, dim)
        nn.init.normal_(self.embed.weight, std=0.01)
        self.joint_embedding = nn.Parameter(torch.randn(joints, 1, dim))
        self.embed_time = TimeEmbedding(dim)
        # Heatmap patches and image tokens cover the same crop and share its position embedding.
        area = grid_of(config.backbone, config.image_size)
        self.register_buffer(
            "patch_position", grid_embedding(self.grid, dim, area), persistent=False
        )
        self.register_buffer("token_position", grid_embedding(area, dim), persistent=False)
        self.norm_features = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            HeatmapConditionalDenoisingBlock(config) for _ in range(config.decoder.depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, pixels)
        # Targets are mostly zero: start near 0 rather than with noise as high as the targets.
        nn.init.trunc_normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)
        self.kernels = FeatureKernels(config) if config.decoder.feature_kernels else None
        self.smooth = nn.Conv2d(joints, joints, 3, padding=1)
        nn.init.dirac_(self.smooth.weight)
        assert self.smooth.bias is not None
        nn.init.zeros_(self.smooth.bias)

    def forward(
        self,
        x_t: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
        conditions: Conditions,
    ) -> Float[Tensor, "batch joints height width"]:
        """Predict heatmaps (x_0 before scaling) from noisy ones at step t and the conditions."""
        states = (
            self.embed(to_patches(x_t, self.patch))
            + self.get_buffer("patch_position")
            + self.joint_embedding
        )
        features = self.norm_features(conditions.features) + self.get_buffer("token_position")
        guides = conditions._replace(features=features)
        time = self.embed_time(t)
        for block in self.blocks:
            states = block(states, time, guides)
        states = self.norm(states)
        pixels = self.head(states)
        if self.kernels is not None:
            pixels = pixels + self.kernels(states, conditions.features)
        heatmaps = rearrange(
            pixels,
            "b j (h w) (p q) -> b j (h p) (w q)",
            h=self.grid[0],
            p=self.patch[0],
        )
        return self.smooth(heatmaps)
