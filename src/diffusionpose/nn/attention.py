"""Attention, feed-forward layers and embeddings shared by backbone, encoder and decoder."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of (batch, heads, tokens, d)."""
    # torch's fused attention takes three times as long with its gradients for a few hundred tokens, and twice as long in
    # bfloat16 for three of them.
    if q.is_cpu and (q.requires_grad or (q.dtype == torch.bfloat16 and k.shape[-2] < 16)):
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), -1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head attention; keys and values come from `context`, queries from `x`.

    Args:
        dim: Channels of queries, keys and values.
        num_heads: Heads; must divide `dim`.
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
        """Attends from `x` to `context` (to itself without one); the biases are added to projected queries and keys."""
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
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Tokens after attention and feed-forward."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def sinusoid(positions: Shaped[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape dim"]:
    """Sines and cosines of `positions` at `dim / 2` geometric frequencies from 1 to 1e-4."""
    frequencies = torch.exp(
        -math.log(10_000.0) * torch.arange(dim // 2, device=positions.device) / (dim // 2)
    )
    angles = positions.float().unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_embedding(
    grid: tuple[int, int], dim: int, extent: tuple[int, int] | None = None
) -> Float[Tensor, "cells dim"]:
    """Fixed 2-D position embedding of a grid of cells laid over an area.

    Grids of different fineness over the same `extent` agree: a point of the area has one embedding whatever the grid.

    Args:
        grid: (rows, columns).
        dim: Channels, a multiple of 4.
        extent: (height, width) of the area in units of the embedding; `grid` itself by default.
    """
    rows, columns = grid
    height, width = extent or grid
    y = (torch.arange(rows) + 0.5) * height / rows
    x = (torch.arange(columns) + 0.5) * width / columns
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.cat([sinusoid(y.flatten(), dim // 2), sinusoid(x.flatten(), dim // 2)], dim=-1)


class TimeEmbedding(nn.Module):
    """Sampling step -> vector: sinusoid, then an MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.enter = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, t: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """One vector a step."""
        return self.mlp(self.enter(sinusoid(t, self.dim).to(self.enter.weight.dtype)))
