"""The selective scan as the Mamba paper writes it: one step at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_loop(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    state = torch.zeros(u.shape[0], u.shape[1], A.shape[1], dtype=u.dtype)
    outputs = []
    for t in range(u.shape[2]):
        decay = torch.exp(delta[:, :, t, None] * A)
        state = decay * state + (delta[:, :, t] * u[:, :, t])[..., None] * B[:, None, :, t]
        outputs.append((state * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, -1) if outputs else torch.zeros_like(u)
    if D is not None:
        y = y + D[:, None] * u
    return y if z is None else y * F.silu(z)
