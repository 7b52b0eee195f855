"""The selective scan on the GPU with Triton, forward and backward; a port of `csrc/scan_kernel.h`.

Each program steps a few channels of one batch item through time, with their states in registers.
The backward visits the tiles in reverse order: it recomputes each tile's states from the kept one
into a scratch buffer that fits the GPU's cache.

With TRITON_INTERPRET=1 set before the first scan, the kernels run in Triton's interpreter on the
CPU.
"""

import importlib.util
from typing import Any

from torch import Tensor

from diffusionpose.nn.native_scan import KEEP_EVERY, Tensors

SUMMED_CHANNELS = 16
"""Channels per program, which sums their gradients of B and C.

With 16 states this makes two elements per thread of four warps.
"""
_WARPS = 4
_INPUTS = ("u", "delta", "z", "A", "B", "C", "D", "delta_bias")


def is_available() -> bool:
    """Return whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def forward(tensors: Tensors, delta_softplus: bool) -> None:
    """Fill `y`, and `kept` if it is not None; names and layouts are those of `scan_operator`."""
    pointers = [tensors[key] for key in (*_INPUTS, "y", "kept")]
    from diffusionpose.triton_kernels import forward_kernel

    _launch(forward_kernel, tensors, pointers, delta_softplus, KEEP=tensors["kept"] is not None)


def backward(tensors: Tensors, delta_softplus: bool) -> None:
    """Fill the gradients; those of A, B, C, D and `delta_bias` are partial sums."""
    from diffusionpose.triton_kernels import backward_kernel

    kept = tensors["kept"]
    assert kept is not None
    scratch = kept.new_empty(kept.shape[0], KEEP_EVERY, *kept.shape[2:])
    grads = ("u", "delta", "z", "A", "B", "C", "D", "bias")
    pointers = [tensors[key] for key in (*_INPUTS, "kept", "grad_y")]
    pointers += [scratch, *(tensors[f"grad_{name}"] for name in grads)]
    _launch(backward_kernel, tensors, pointers, delta_softplus)


def _launch(
    kernel: Any,
    tensors: Tensors,
    pointers: list[Tensor | None],
    delta_softplus: bool,
    **flags: bool,
) -> None:
    u, a = tensors["u"], tensors["A"]
    assert u is not None
    assert a is not None
    batch, length, dim = u.shape
    blocks = -(-dim // SUMMED_CHANNELS)
    sizes = (length, dim, blocks * SUMMED_CHANNELS, -(-length // KEEP_EVERY))
    rows = [tensors[key] for key in ("u", "delta", "z")]
    strides = [step for row in rows for step in ((0, 0) if row is None else row.stride()[:2])]
    for flag, key in (("HAS_D", "D"), ("HAS_Z", "z"), ("HAS_BIAS", "delta_bias")):
        flags[flag] = tensors[key] is not None
    kernel[(blocks, batch)](
        # Triton needs a valid pointer even for arguments that are not read.
        *(u if pointer is None else pointer for pointer in pointers),
        *sizes,
        *strides,
        **flags,
        SOFTPLUS=delta_softplus,
        STATE=a.shape[1],
        CHANNELS=SUMMED_CHANNELS,
        TILE=KEEP_EVERY,
        num_warps=_WARPS,
    )
