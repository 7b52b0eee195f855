"""Spatio-Temporal Feature Encoder: backbone features of three frames -> position and feature conditions.

| here | paper (section "Spatio-Temporal Feature Encoder") |
|---|---|
| `tokens` | [F; T_k], 3 x (N + J) x D |
| `SpatialMamba` | SM, frame-level spatial modulation |
| `FullSequenceMamba`, `TemporalSelfAttention` | FSM on F_full, TSA on F_temp |
| `fuse` | dynamic fusion of the two |
| `conditions.features`, `conditions.position` | C_f, C_p |
"""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from diffusionpose.config import EncoderConfig, ModelConfig
from diffusionpose.nn.attention import Attention, FeedForward, TransformerBlock
from diffusionpose.nn.mamba import Mamba

Tokens = Float[Tensor, "batch frames tokens dim"]


class Conditions(NamedTuple):
    """What guides the denoising; decoders normalise the features themselves."""

    position: Float[Tensor, "batch joints dim"]
    features: Float[Tensor, "batch tokens dim"]


class SpatialMamba(nn.Module):
    """Mamba within each frame."""

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.mamba = Mamba(dim, config.state_size, config.conv_kernel, config.expand)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens scanned frame by frame."""
        frames = rearrange(tokens, "b f n d -> (b f) n d")
        return rearrange(self.mamba(frames), "(b f) n d -> b f n d", b=tokens.shape[0])


class FullSequenceMamba(nn.Module):
    """Mamba over all tokens of all frames, the past first: the global half of the temporal modelling."""

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.mamba = Mamba(dim, config.state_size, config.conv_kernel, config.expand)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens scanned over all frames in one sequence."""
        sequence = rearrange(tokens, "b f n d -> b (f n) d")
        return rearrange(self.mamba(sequence), "b (f n) d -> b f n d", f=tokens.shape[1])


class TemporalSelfAttention(nn.Module):
    """Attention over the frames of each position: the local half of the temporal modelling."""

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = Attention(dim, config.num_heads)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens after attention over the frames of their position."""
        # Contiguous: linear layers on a transposed view become batched products, which are far slower in bfloat16.
        positions = rearrange(tokens, "b f n d -> (b n) f d").contiguous()
        return rearrange(self.attention(positions), "(b n) f d -> b f n d", b=tokens.shape[0])


class SpatioTemporalBlock(nn.Module):
    """Spatial Mamba, then Full-Sequence Mamba beside Temporal Self-Attention with a fusion gate, then an MLP.

    x += SM(LN x);  a, b = FSM(LN x), TSA(LN x);  g = sigmoid(W [a; b]);  x += g a + (1 - g) b;  x += MLP(LN x)
    """

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_spatial = nn.LayerNorm(dim)
        self.spatial = SpatialMamba(dim, config)
        self.norm_temporal = nn.LayerNorm(dim)
        self.full_sequence = FullSequenceMamba(dim, config)
        self.temporal = TemporalSelfAttention(dim, config)
        self.gate = nn.Linear(2 * dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, config.mlp_ratio)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens after the block's three residual steps."""
        tokens = tokens + self.spatial(self.norm_spatial(tokens))
        normed = self.norm_temporal(tokens)
        tokens = tokens + self.fuse(self.full_sequence(normed), self.temporal(normed))
        return tokens + self.mlp(self.norm_mlp(tokens))

    def fuse(self, full: Tokens, temporal: Tokens) -> Tokens:
        """Dynamic fusion: a gate per channel decides between the two branches."""
        gate = torch.sigmoid(self.gate(torch.cat([full, temporal], dim=-1)))
        return torch.lerp(temporal, full, gate)


class JointAttentionBlock(nn.Module):
    """Table 6 (b): one Transformer block over all tokens of all frames, as DiffPose does."""

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.block = TransformerBlock(dim, config.num_heads, config.mlp_ratio)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens after attention over all tokens of all frames."""
        sequence = self.block(rearrange(tokens, "b f n d -> b (f n) d"))
        return rearrange(sequence, "b (f n) d -> b f n d", f=tokens.shape[1])


_BLOCKS = {"spatio_temporal": SpatioTemporalBlock, "joint_attention": JointAttentionBlock}


class SpatioTemporalFeatureEncoder(nn.Module):
    """Keypoint tokens join the image tokens, pass the blocks together, and leave as conditions.

    Keypoint tokens stand after the image tokens of their frame: a causal scan sees nothing before it.

    The fused features are added to the key frame's, so that they mean something from the first step of training.

    Args:
        config: `encoder.kind` names the block.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, joints = config.backbone.hidden_size, config.skeleton_graph.num_joints
        self.num_joints, self.num_frames = joints, config.num_frames
        self.keypoint_tokens = nn.Parameter(0.02 * torch.randn(config.num_frames, joints, dim))
        self.frame_embedding = nn.Parameter(0.02 * torch.randn(config.num_frames, 1, dim))
        block = _BLOCKS[config.encoder.kind]
        self.blocks = nn.ModuleList(block(dim, config.encoder) for _ in range(config.encoder.depth))
        width = config.num_frames * dim
        self.fuse_frames = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.norm_position = nn.LayerNorm(dim)

    def forward(self, features: Tokens) -> Conditions:
        """Conditions C_p and C_f from the frames' features."""
        keypoints = repeat(self.keypoint_tokens, "f j d -> b f j d", b=features.shape[0])
        tokens = torch.cat([features, keypoints.to(features.dtype)], dim=2) + self.frame_embedding
        for block in self.blocks:
            tokens = block(tokens)
        image, keypoints = tokens[:, :, : -self.num_joints], tokens[:, :, -self.num_joints :]
        key = self.num_frames // 2
        fused = image[:, key] + self.fuse_frames(rearrange(image, "b f n d -> b n (f d)"))
        return Conditions(self.norm_position(keypoints[:, key]), fused)


class KeyFrameConditions(nn.Module):
    """No encoder (Table 5 baseline and b, Table 6 a): the key frame's features, and tokens that see no image."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, joints = config.backbone.hidden_size, config.skeleton_graph.num_joints
        self.keypoint_tokens = nn.Parameter(0.02 * torch.randn(joints, dim))

    def forward(self, features: Tokens) -> Conditions:
        """The key frame's features, and tokens that see no image."""
        key = features[:, features.shape[1] // 2]
        position = repeat(self.keypoint_tokens, "j d -> b j d", b=features.shape[0])
        return Conditions(position, key)


def make_encoder(config: ModelConfig) -> SpatioTemporalFeatureEncoder | KeyFrameConditions:
    """The encoder that `config.encoder.kind` names."""
    if config.encoder.kind == "none":
        return KeyFrameConditions(config)
    return SpatioTemporalFeatureEncoder(config)
