"""Spatio-Temporal Feature Encoder: from frame features to position and feature conditions.

| here | paper (section "Spatio-Temporal Feature Encoder") |
|---|---|
| `tokens` | [F; T_k], 3 x (N + J) x D |
| `SpatialMamba` | SM, frame-level spatial modulation |
| `FullSequenceMamba`, `TemporalSelfAttention` | FSM on F_full, TSA on F_temp |
| `SpatioTemporalBlock.fuse` | dynamic fusion of the two |
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
    """Conditions C_p and C_f of the denoising; the features are normalised by the decoders."""

    position: Float[Tensor, "batch joints dim"]
    features: Float[Tensor, "batch tokens dim"]


class SpatialMamba(nn.Module):
    """Spatial Mamba (SM): scans the tokens of each frame."""

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.mamba = Mamba(dim, config.state_size, config.conv_kernel, config.expand)

    def forward(self, tokens: Tokens) -> Tokens:
        """Scan each frame separately."""
        frames = rearrange(tokens, "b f n d -> (b f) n d")
        return rearrange(self.mamba(frames), "(b f) n d -> b f n d", b=tokens.shape[0])


class FullSequenceMamba(nn.Module):
    """Full-Sequence Mamba (FSM): scans all frames in temporal order, for global modelling."""

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.mamba = Mamba(dim, config.state_size, config.conv_kernel, config.expand)

    def forward(self, tokens: Tokens) -> Tokens:
        """Scan the tokens of all frames as one sequence."""
        sequence = rearrange(tokens, "b f n d -> b (f n) d")
        return rearrange(self.mamba(sequence), "b (f n) d -> b f n d", f=tokens.shape[1])


class TemporalSelfAttention(nn.Module):
    """Temporal Self-Attention (TSA): attends over frames at each position, for local modelling."""

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = Attention(dim, config.num_heads)

    def forward(self, tokens: Tokens) -> Tokens:
        """Attend over the frames at each position."""
        # Linear layers on a transposed view become batched products, far slower in bfloat16.
        positions = rearrange(tokens, "b f n d -> (b n) f d").contiguous()
        return rearrange(self.attention(positions), "(b n) f d -> b f n d", b=tokens.shape[0])


class SpatioTemporalBlock(nn.Module):
    """Spatio-Temporal Block (STB): SM, then FSM and TSA in parallel with gated fusion, then an MLP.

    x += SM(LN x)
    a, b = FSM(LN x), TSA(LN x);  g = sigmoid(W [a; b]);  x += g a + (1 - g) b
    x += MLP(LN x)
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
        """Apply the block."""
        tokens = tokens + self.spatial(self.norm_spatial(tokens))
        normed = self.norm_temporal(tokens)
        tokens = tokens + self.fuse(self.full_sequence(normed), self.temporal(normed))
        return tokens + self.mlp(self.norm_mlp(tokens))

    def fuse(self, full: Tokens, temporal: Tokens) -> Tokens:
        """Fuse the two branches dynamically with a gate per channel."""
        gate = torch.sigmoid(self.gate(torch.cat([full, temporal], dim=-1)))
        return torch.lerp(temporal, full, gate)


class JointAttentionBlock(nn.Module):
    """Table 6 (b): vanilla Transformer block over the tokens of all frames, as in DiffPose."""

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.block = TransformerBlock(dim, config.num_heads, config.mlp_ratio)

    def forward(self, tokens: Tokens) -> Tokens:
        """Apply the Transformer block to all tokens as one sequence."""
        sequence = self.block(rearrange(tokens, "b f n d -> b (f n) d"))
        return rearrange(sequence, "b (f n) d -> b f n d", f=tokens.shape[1])


_BLOCKS = {"spatio_temporal": SpatioTemporalBlock, "joint_attention": JointAttentionBlock}


class SpatioTemporalFeatureEncoder(nn.Module):
    """Passes keypoint and image tokens through a stack of blocks to get the two conditions.

    Keypoint tokens follow the image tokens of their frame, so that a causal scan sees the image
    before them. The fused features are added to those of the key frame, so that they are meaningful
    from the start of training.

    Args:
        config: `encoder.kind` selects the block.
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
        """Compute conditions C_p and C_f from the frames' features."""
        keypoints = repeat(self.keypoint_tokens, "f j d -> b f j d", b=features.shape[0])
        tokens = torch.cat([features, keypoints.to(features.dtype)], dim=2) + self.frame_embedding
        for block in self.blocks:
            tokens = block(tokens)
        image, keypoints = tokens[:, :, : -self.num_joints], tokens[:, :, -self.num_joints :]
        key = self.num_frames // 2
        fused = image[:, key] + self.fuse_frames(rearrange(image, "b f n d -> b n (f d)"))
        return Conditions(self.norm_position(keypoints[:, key]), fused)


class KeyFrameConditions(nn.Module):
    """No encoder (Table 5 baseline and b, Table 6 a).

    C_f are the key frame's features; C_p are learned tokens that do not depend on the image.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, joints = config.backbone.hidden_size, config.skeleton_graph.num_joints
        self.keypoint_tokens = nn.Parameter(0.02 * torch.randn(joints, dim))

    def forward(self, features: Tokens) -> Conditions:
        """Return the learned tokens as C_p and the key frame's features as C_f."""
        key = features[:, features.shape[1] // 2]
        position = repeat(self.keypoint_tokens, "j d -> b j d", b=features.shape[0])
        return Conditions(position, key)


def make_encoder(config: ModelConfig) -> SpatioTemporalFeatureEncoder | KeyFrameConditions:
    """Create the encoder given by `config.encoder.kind`."""
    if config.encoder.kind == "none":
        return KeyFrameConditions(config)
    return SpatioTemporalFeatureEncoder(config)
