"""Attention, feed-forward layers and embeddings shared by backbone, encoder and decoder."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v for tensors of shape (batch, heads, tokens, d)."""
    # On the CPU, torch's fused attention is three times as slow with gradients for a few hundred
    # tokens, and twice as slow in bfloat16 for three tokens.
    if q.is_cpu and (q.requires_grad or (q.dtype == torch.bfloat16 and k.shape[-2] < 16)):
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), -1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head attention with queries from `x`, and keys and values from `context`.

    Args:
        dim: Channels of queries, keys and values.
        num_heads: Number of heads; must divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch keys dim"] | None = None,
        query_bias: Float[Tensor, "batch queries dim"] | None = None,
        key_bias: Float[Tensor, "batch keys dim"] | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Attend from `x` to `context`, by default `x`; biases go on projected queries and keys."""
        context = x if context is None else context
        q = self.q(x)
        k, v = self.kv(context).chunk(2, dim=-1)
        q = q if query_bias is None else q + query_bias
        k = k if key_bias is None else k + key_bias
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=self.num_heads) for part in (q, k, v))
        out = attend(q, k, v)
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))


class FeedForward(nn.Sequential):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, ratio: int = 4) -> None:
        hidden = dim * ratio
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class TransformerBlock(nn.Module):
    """Pre-norm Transformer block: self-attention and feed-forward."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Apply attention and feed-forward, each with a residual."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def sinusoid(positions: Shaped[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape dim"]:
    """Return sines and cosines of `positions` at dim / 2 frequencies, geometric from 1 to 1e-4."""
    frequencies = torch.exp(
        -math.log(10_000.0) * torch.arange(dim // 2, device=positions.device) / (dim // 2)
    )
    angles = positions.float().unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_embedding(
    grid: tuple[int, int], dim: int, extent: tuple[int, int] | None = None
) -> Float[Tensor, "cells dim"]:
    """Return a fixed 2-D sinusoidal position embedding of the cells of a grid.

    Grids of different resolution over the same `extent` agree: the embedding of a point does not
    depend on the grid.

    Args:
        grid: (rows, columns).
        dim: Channels, a multiple of 4.
        extent: (height, width) of the area in units of the embedding; by default `grid`.
    """
    rows, columns = grid
    height, width = extent or grid
    y = (torch.arange(rows) + 0.5) * height / rows
    x = (torch.arange(columns) + 0.5) * width / columns
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.cat([sinusoid(y.flatten(), dim // 2), sinusoid(x.flatten(), dim // 2)], dim=-1)


class TimeEmbedding(nn.Module):
    """Embedding of the sampling step: a sinusoid and an MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.enter = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, t: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Embed each step."""
        return self.mlp(self.enter(sinusoid(t, self.dim).to(self.enter.weight.dtype)))
