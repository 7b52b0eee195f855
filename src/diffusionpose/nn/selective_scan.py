"""The selective scan of Mamba (Gu and Dao 2023, Algorithm 2) in plain torch.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = C_t h_t + D u_t

Signature and layouts are those of mamba_ssm's `selective_scan_fn`. Time is cut into blocks: exponentials, inputs and
read-outs are computed a block at a time, and only the running sum steps through time, in place. The backward keeps one
state a block and recomputes the rest, so that neither memory nor time is that of autograd through a loop.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffusionpose.nn.precision import no_autocast

BLOCK = 32
"""Time steps a block: its (block, channels, states) arrays stay in a core's cache at the sizes in use."""


def selective_scan(
    u: Float[Tensor, "batch dim length"],
    delta: Float[Tensor, "batch dim length"],
    A: Float[Tensor, "dim state"],  # noqa: N803
    B: Float[Tensor, "batch state length"],  # noqa: N803
    C: Float[Tensor, "batch state length"],  # noqa: N803
    D: Float[Tensor, " dim"] | None = None,  # noqa: N803
    z: Float[Tensor, "batch dim length"] | None = None,
    delta_bias: Float[Tensor, " dim"] | None = None,
    delta_softplus: bool = False,
) -> Float[Tensor, "batch dim length"]:
    """Causal scan over `length`; computed in float32 (float64 stays), returned in the type of `u`.

    Transposed views of channel-last tensors are read without a copy.

    Args:
        u: Inputs.
        delta: Step sizes, before bias and softplus.
        A: Negative decay rates.
        B: Input maps, by time.
        C: Output maps, by time.
        D: Skip weights.
        z: Gate; the result is multiplied by SiLU(z).
        delta_bias: Added to `delta`.
        delta_softplus: Whether `delta` goes through softplus.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    with no_autocast(u.device):
        u_t, delta_t, b_t, c_t = (v.transpose(1, 2).to(dtype) for v in (u, delta, B, C))
        if delta_bias is not None:
            delta_t = delta_t + delta_bias.to(dtype)
        if delta_softplus:
            delta_t = F.softplus(delta_t)
        y = _scan(u_t, delta_t, A.to(dtype), b_t, c_t)
        if D is not None:
            y = torch.addcmul(y, u_t, D.to(dtype))
        if z is not None:
            y = y * F.silu(z.transpose(1, 2).to(dtype))
    return y.to(u.dtype).transpose(1, 2)


def _scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    result: Any = _BlockedScan.apply(u, delta, a, b, c)
    return result


def _states(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states of one block, both (batch, time, dim, state), from the state before it."""
    decay = torch.exp(delta.unsqueeze(-1) * a)
    state = (delta * u).unsqueeze(-1) * b.unsqueeze(2)
    previous = start
    for decay_t, state_t in zip(decay.unbind(1), state.unbind(1), strict=True):
        previous = state_t.addcmul_(decay_t, previous)
    return decay, state


class _BlockedScan(torch.autograd.Function):
    """y_t = C_t h_t over (batch, length, dim) inputs, with a checkpoint a block."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        state = u.new_zeros(u.shape[0], u.shape[2], a.shape[1])
        starts, outputs = [], []
        for first in range(0, u.shape[1], BLOCK):
            block = slice(first, first + BLOCK)
            starts.append(state)
            _, states = _states(u[:, block], delta[:, block], a, b[:, block], state)
            outputs.append(torch.matmul(states, c[:, block].unsqueeze(-1)).squeeze(-1))
            state = states[:, -1].clone()
        ctx.save_for_backward(u, delta, a, b, c, *starts)
        return torch.cat(outputs, dim=1) if outputs else torch.zeros_like(u)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        u, delta, a, b, c, *starts = ctx.saved_tensors
        grads = [torch.empty_like(v) for v in (u, delta, b, c)]
        grad_a, carry = torch.zeros_like(a), u.new_zeros(u.shape[0], u.shape[2], a.shape[1])
        for number in reversed(range(len(starts))):
            block = slice(number * BLOCK, (number + 1) * BLOCK)
            inputs = (u[:, block], delta[:, block], a, b[:, block], c[:, block])
            *parts, grad_a_block, carry = _block_backward(
                *inputs, starts[number], grad_y[:, block], carry
            )
            for whole, part in zip(grads, parts, strict=True):
                whole[:, block] = part
            grad_a += grad_a_block
        grad_u, grad_delta, grad_b, grad_c = grads
        return grad_u, grad_delta, grad_a, grad_b, grad_c


def _block_backward(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    start: Tensor,
    grad_y: Tensor,
    carry: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of one block: u, delta, B, C, A, and of the state before it (`carry` is that of the state after)."""
    decay, states = _states(u, delta, a, b, start)
    grad_state = grad_y.unsqueeze(-1) * c.unsqueeze(2)
    later = carry
    for decay_t, grad_t in zip(
        reversed(decay.unbind(1)), reversed(grad_state.unbind(1)), strict=True
    ):
        later = grad_t.add_(later) * decay_t
    grad_c = torch.matmul(grad_y.unsqueeze(2), states).squeeze(2)
    # From here `states` holds h_{t-1} times the gradient and the decay: the gradient of delta_t A.
    before = torch.cat([start.unsqueeze(1), states[:, :-1]], dim=1)
    grad_exponent = before.mul_(grad_state).mul_(decay)
    grad_drive = torch.matmul(grad_state, b.unsqueeze(-1)).squeeze(-1)
    grad_b = torch.matmul((delta * u).unsqueeze(2), grad_state).squeeze(2)
    grad_delta = torch.einsum("btdn,dn->btd", grad_exponent, a) + grad_drive * u
    grad_a = torch.einsum("btdn,btd->dn", grad_exponent, delta)
    return grad_drive * delta, grad_delta, grad_b, grad_c, grad_a, later
