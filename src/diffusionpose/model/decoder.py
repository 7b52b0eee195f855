"""Pose Denoising Decoder: noisy heatmaps and conditions -> heatmaps (section "Pose Denoising Decoder").

| here | paper |
|---|---|
| `x_t`, `t` | noisy heatmaps and sampling step |
| `states` | joint states N_i, `patches` vectors a joint |
| `HeatmapConditionalDenoisingBlock` | HCDB, layers (i) to (iv) |
| `conditions.position`, `conditions.features` | C_p, C_f |

Every joint's heatmap is cut into patches of its own, so that a joint keeps a state of its own through the decoder.
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
    """The sampling step's scale, shift and gate for one layer (adaLN); starts at scale 1, shift 0, gate 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.project = nn.Linear(dim, 3 * dim)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, states: States, time: Float[Tensor, "batch dim"]) -> tuple[States, Tensor]:
        """Normalised and modulated states, and the gate for what the layer makes of them."""
        scale, shift, gate = self.project(time)[:, None, None].chunk(3, dim=-1)
        return self.norm(states) * (1 + scale) + shift, 1 + gate


class LocationGuideSelfAttention(nn.Module):
    """HCDB (i): attention over all joints' tokens; C_p of a joint is added to its queries and keys."""

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
        """States after self-attention guided by `position`."""
        normed, gate = self.modulation(states, time)
        patches = states.shape[2]
        guide = repeat(self.guide(position), "b j d -> b (j p) d", p=patches)
        query_bias, key_bias = guide.chunk(2, dim=-1)
        tokens = rearrange(normed, "b j p d -> b (j p) d")
        out = self.attention(tokens, query_bias=query_bias, key_bias=key_bias)
        return states + gate * rearrange(out, "b (j p) d -> b j p d", p=patches)


class FeatureCrossAttention(nn.Module):
    """HCDB (iii): every token gathers spatio-temporal cues from C_f."""

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
        """States after attention to `features`."""
        normed, gate = self.modulation(states, time)
        out = self.attention(rearrange(normed, "b j p d -> b (j p) d"), features)
        return states + gate * rearrange(out, "b (j p) d -> b j p d", p=states.shape[2])


class HeatmapConditionalDenoisingBlock(nn.Module):
    """HCDB: location-guide self-attention, Markov optimization layer, cross-attention, feed-forward.

    Table 7: without `position_conditions` the first layer is gone (b), without `markov` the second (c).
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
        """States after layers (i) to (iv)."""
        if self.location is not None:
            states = self.location(states, time, conditions.position)
        if self.markov is not None:
            states = self.markov(states)
        states = self.cross(states, time, conditions.features)
        return states + self.mlp(self.norm(states))


def to_patches(
    maps: Float[Tensor, "batch maps height width"], patch: tuple[int, int]
) -> Float[Tensor, "batch maps patches pixels"]:
    """Cuts maps into patches, row by row."""
    return rearrange(maps, "b j (h p) (w q) -> b j (h w) (p q)", p=patch[0], q=patch[1])


class FeatureKernels(nn.Module):
    """Joint states as 1 x 1 kernels on the upsampled feature conditions: a state says what to look for in its patch.

    Not in the paper, which leaves the read-out open; a state alone must remember where in its patch the joint lay.
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
        """What each patch's kernel finds in that patch, to add to the linear read-out."""
        maps = to_patches(self.upsample(features), self.patch)
        return torch.einsum("bjnc,bcnp->bjnp", self.kernel(states), maps)


class PoseDenoisingDecoder(nn.Module):
    """x_t in patches through the HCDBs and back to heatmaps.

    Args:
        config: Sizes of patches and heatmaps, number of blocks, and which layers they have.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, patch = config.backbone.hidden_size, config.decoder.patch_size
        joints = config.skeleton_graph.num_joints
        height, width = config.heatmap_size
        self.patch, self.grid = patch, (height // patch[0], width // patch[1])
        pixels = patch[0] * patch[1]
        # At the start a state says which joint it is, above where it lies and above the noise.
        self.embed = nn.Linear(pixels, dim)
        nn.init.normal_(self.embed.weight, std=0.01)
        self.joint_embedding = nn.Parameter(torch.randn(joints, 1, dim))
        self.embed_time = TimeEmbedding(dim)
        # Heatmap patches and image tokens lie over the same crop: one embedding of its area serves both.
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
        # Heatmaps are nearly empty: training starts near 0, not at noise of the targets' own height.
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
        """Heatmaps (x_0 before scaling) from noisy ones at step t and the conditions."""
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
