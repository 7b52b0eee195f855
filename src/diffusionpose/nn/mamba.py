"""Mamba block (S6), with the forward (causal) scan only, as in the paper.

| here | Mamba paper (Gu and Dao 2023, Algorithm 2, Fig. 3) |
|---|---|
| `dim`, `inner` | D, E D |
| `state_size` | N |
| `A_log`, `D` | A = -exp(A_log); skip |
| `x_proj`, `dt_proj` | s_B, s_C and the low-rank s_Delta |

Parameter names, shapes and initialisation are those of mamba_ssm, so that its weights load.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffusionpose.nn.scan_operator import convolve
from diffusionpose.nn.selective_scan import engine_for, selective_scan

_DT_MIN, _DT_MAX, _DT_FLOOR = 1e-3, 1e-1, 1e-4


class Mamba(nn.Module):
    """Causal sequence-to-sequence block.

    Args:
        dim: Channels.
        state_size: States per channel.
        conv_kernel: Width of the causal depthwise convolution.
        expand: Inner channels are `expand * dim`.
    """

    def __init__(
        self, dim: int, state_size: int = 16, conv_kernel: int = 4, expand: int = 2
    ) -> None:
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16)
        self.split = [rank, state_size, state_size]
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, conv_kernel, groups=inner, padding=conv_kernel - 1)
        self.x_proj = nn.Linear(inner, sum(self.split), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state_size + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self._initialise_dt(rank, inner)

    def _initialise_dt(self, rank: int, inner: int) -> None:
        """Make step sizes log-uniform in [1e-3, 1e-1] after the softplus, as mamba_ssm does."""
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        span = math.log(_DT_MAX) - math.log(_DT_MIN)
        dt = torch.exp(torch.rand(inner) * span + math.log(_DT_MIN)).clamp_min(_DT_FLOOR)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Apply the gated selective scan along `length`."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u = self._convolve(u)
        dt, b, c = self.x_proj(u).split(self.split, dim=-1)
        delta = F.linear(dt, self.dt_proj.weight)
        y = selective_scan(
            u.transpose(1, 2),
            delta.transpose(1, 2),
            -torch.exp(self.A_log.float()),
            b.transpose(1, 2),
            c.transpose(1, 2),
            D=self.D,
            z=z.transpose(1, 2),
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
        )
        return self.out_proj(y.transpose(1, 2))

    def _convolve(
        self, u: Float[Tensor, "batch length inner"]
    ) -> Float[Tensor, "batch length inner"]:
        """Apply `conv1d` and SiLU to channel-last rows without transposing them."""
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        assert bias is not None
        if not torch.is_grad_enabled() and engine_for(u.device, u.dtype) == "native":
            return convolve(u, weight.T.float().contiguous(), bias.float())
        taps = weight.unbind(-1)
        padded = F.pad(u, (0, 0, len(taps) - 1, 0))
        length = u.shape[1]
        out = padded[:, :length] * taps[0] + bias
        for offset, tap in enumerate(taps[1:], start=1):
            out = torch.addcmul(out, padded[:, offset : offset + length], tap.to(out.dtype))
        return F.silu(out.to(u.dtype))
