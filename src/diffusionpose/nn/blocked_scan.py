"""The selective scan in plain torch for any device and dtype: one version to run, one to export.

Time is split into blocks. `blocked_scan` vectorises exponentials, inputs and outputs over a block,
and only the recurrence steps through time, in place. Its backward keeps one state per block and
recomputes the others, which takes far less memory and time than autograd through a loop.
`two_level_scan` steps through all blocks at once and then from block to block: about 2 sqrt(length)
steps of operators that every exchange format supports.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST_STEPS = 16
_LEAST_STEPS = 8
_CACHED = 2**20
"""Target number of elements of a block's (batch, steps, dim, state) arrays, to fit the cache."""


def _block_length(batch: int, dim: int, state: int) -> int:
    """Return the time steps per block; on a CPU, at batch 8, a quarter faster than the maximum."""
    return min(MOST_STEPS, max(_LEAST_STEPS, _CACHED // max(1, batch * dim * state)))


def blocked_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Compute y_t = C_t h_t with h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t.

    Args:
        u: Inputs (batch, length, dim).
        delta: Step sizes (batch, length, dim).
        a: Decay rates (dim, state).
        b: Input maps (batch, length, state).
        c: Output maps (batch, length, state).
    """
    result: Any = _BlockedScan.apply(u, delta, a, b, c)
    return result


def two_level_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Compute the same as `blocked_scan`, unrolled for a static length, without in-place writes."""
    batch, length, dim = u.shape
    size = math.isqrt(max(length - 1, 0)) + 1
    padding = -length % size

    def blocks(x: Tensor) -> Tensor:
        x = torch.nn.functional.pad(x, (0, 0, 0, padding))
        return x.reshape(batch, (length + padding) // size, size, x.shape[-1])

    # With delta = 0, padded steps leave the state unchanged.
    u_b, delta_b, b_b, c_b = (blocks(x) for x in (u, delta, b, c))
    decay = torch.exp(delta_b.unsqueeze(-1) * a)
    drive = (delta_b * u_b).unsqueeze(-1) * b_b.unsqueeze(3)
    inside = [drive[:, :, 0]]
    for t in range(1, size):
        inside.append(decay[:, :, t] * inside[-1] + drive[:, :, t])
    whole = torch.exp(delta_b.sum(2).unsqueeze(-1) * a)
    carries = [torch.zeros_like(inside[0][:, 0])]
    for k in range(inside[0].shape[1] - 1):
        carries.append(whole[:, k] * carries[-1] + inside[-1][:, k])
    reach = torch.exp(delta_b.cumsum(2).unsqueeze(-1) * a)
    states = torch.stack(inside, 2) + reach * torch.stack(carries, 1).unsqueeze(2)
    y = torch.matmul(states, c_b.unsqueeze(-1)).squeeze(-1)
    return y.reshape(batch, length + padding, dim)[:, :length]


def _states(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return a block's decays and states, (batch, time, dim, state), given the state before it."""
    decay = torch.exp(delta.unsqueeze(-1) * a)
    state = (delta * u).unsqueeze(-1) * b.unsqueeze(2)
    previous = start
    for decay_t, state_t in zip(decay.unbind(1), state.unbind(1), strict=True):
        previous = state_t.addcmul_(decay_t, previous)
    return decay, state


class _BlockedScan(torch.autograd.Function):
    """y_t = C_t h_t over (batch, length, dim) inputs, with one checkpoint per block."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Compute the outputs, and keep the state at the beginning of each block."""
        state = u.new_zeros(u.shape[0], u.shape[2], a.shape[1])
        starts, outputs = [], []
        steps = _block_length(*state.shape)
        for first in range(0, u.shape[1], steps):
            block = slice(first, first + steps)
            starts.append(state)
            _, states = _states(u[:, block], delta[:, block], a, b[:, block], state)
            outputs.append(torch.matmul(states, c[:, block].unsqueeze(-1)).squeeze(-1))
            state = states[:, -1].clone()
        ctx.save_for_backward(u, delta, a, b, c, *starts)
        return torch.cat(outputs, dim=1) if outputs else torch.zeros_like(u)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compute the gradients of all inputs, from the last block to the first."""
        u, delta, a, b, c, *starts = ctx.saved_tensors
        grads = [torch.empty_like(v) for v in (u, delta, b, c)]
        grad_a, carry = torch.zeros_like(a), u.new_zeros(u.shape[0], u.shape[2], a.shape[1])
        steps = _block_length(*carry.shape)
        for number in reversed(range(len(starts))):
            block = slice(number * steps, (number + 1) * steps)
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
    """Compute a block's gradients of u, delta, B, C, A and of the state before the block.

    `carry` is the gradient of the state after it.
    """
    decay, states = _states(u, delta, a, b, start)
    grad_state = grad_y.unsqueeze(-1) * c.unsqueeze(2)
    later = carry
    for decay_t, grad_t in zip(
        reversed(decay.unbind(1)), reversed(grad_state.unbind(1)), strict=True
    ):
        later = grad_t.add_(later) * decay_t
    grad_c = torch.matmul(grad_y.unsqueeze(2), states).squeeze(2)
    # h_{t-1} times the state's gradient and the decay is the gradient of delta_t A.
    before = torch.cat([start.unsqueeze(1), states[:, :-1]], dim=1)
    grad_exponent = before.mul_(grad_state).mul_(decay)
    grad_drive = torch.matmul(grad_state, b.unsqueeze(-1)).squeeze(-1)
    grad_b = torch.matmul((delta * u).unsqueeze(2), grad_state).squeeze(2)
    grad_delta = torch.einsum("btdn,dn->btd", grad_exponent, a) + grad_drive * u
    grad_a = torch.einsum("btdn,btd->dn", grad_exponent, delta)
    return grad_drive * delta, grad_delta, grad_b, grad_c, grad_a, later
