"""The fused scan as a custom torch operator, with its rules for autograd, tracing and autocast.

`native_scan` and `triton_scan` implement it. The operator checks their preconditions, allocates the
outputs, and is what `torch.compile` and `torch.export` see. Rows are channel-last;
`selective_scan.selective_scan` prepares them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library

from diffusionpose.nn import native_scan, triton_scan
from diffusionpose.nn.native_scan import KEEP_EVERY

_CHANNELS = 16
"""The channels of the kept states are padded to a multiple of this."""


def implementation(engine: str) -> Any:
    """Return the module that implements an engine.

    Raises:
        ValueError: If the engine is not available.
    """
    module, hint = {
        "native": (native_scan, "was not built with this installation"),
        "triton": (triton_scan, "needs the package triton"),
    }[engine]
    if not module.is_available():
        raise ValueError(f"scan engine {engine!r} {hint}")
    return module


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None,  # noqa: N803
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    """Check shapes, dtypes and layouts, which the engines rely on when they access memory."""
    batch, length, dim = u.shape
    rows = {"u": u, "delta": delta} | ({} if z is None else {"z": z})
    for name, tensor in rows.items():
        if tensor.shape != u.shape or tensor.dtype != u.dtype:
            raise ValueError(
                f"{name} must match u, which is {u.dtype} {tuple(u.shape)}, "
                f"but is {tensor.dtype} {tuple(tensor.shape)}"
            )
        if tensor.stride(2) != 1 and dim > 1 and tensor.numel():
            raise ValueError(f"the channels of {name} must be contiguous (stride 1)")
    if u.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"u must be float32 or bfloat16, not {u.dtype}")
    state = A.shape[1]
    if state < 16 or state & (state - 1):
        raise ValueError(f"the number of states must be a power of two from 16 on, not {state}")
    expected = {
        "A": (A, (dim, state)),
        "B": (B, (batch, length, state)),
        "C": (C, (batch, length, state)),
        "D": (D, (dim,)),
        "delta_bias": (delta_bias, (dim,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if tensor.dtype != torch.float32 or not tensor.is_contiguous() or tensor.shape != shape:
            raise ValueError(
                f"{name} must be contiguous float32 {shape}, "
                f"but is {tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()}"
            )


def _kept_shape(u: Tensor, a: Tensor) -> tuple[Any, ...]:
    """Return the shape of the kept states; symbolic while tracing."""
    batch, length, dim = u.shape
    return (batch, -(-length // KEEP_EVERY), -(-dim // _CHANNELS) * _CHANNELS, a.shape[1])


def _operator(device: str = "default") -> Callable[[Callable[..., Any]], Any]:
    """Register a function as a torch operator of the same name, for one or all device types.

    `library.custom_op` would do the same, but its first call imports torch's compiler, which takes
    a second.
    """

    def register(function: Callable[..., Any]) -> Any:
        name = f"diffusionpose::{function.__name__}"
        library.define(name, library.infer_schema(function, mutates_args=()))
        library.impl(name, device, function)
        return getattr(torch.ops.diffusionpose, function.__name__).default

    return register


@_operator()
def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None,  # noqa: N803
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    keep: bool,
    engine: str,
) -> tuple[Tensor, Tensor]:
    """Run the scan over channel-last rows.

    Args:
        u: Inputs (batch, length, dim), float32 or bfloat16, with contiguous channels.
        delta: Step sizes, like u.
        A: Decay rates (dim, state), float32, `state` a power of two from 16 on.
        B: Input maps (batch, length, state), float32.
        C: Output maps, like B.
        D: Skip weights (dim), float32.
        z: Gate, like u.
        delta_bias: Bias of delta (dim), float32.
        delta_softplus: Whether to apply softplus to delta plus its bias.
        keep: Whether to keep states for the backward.
        engine: `native` or `triton`.

    Returns:
        Outputs like u, and the kept states.

    Raises:
        ValueError: If a tensor has the wrong shape, dtype or layout.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    y, kept = u.new_empty(u.shape), A.new_empty(_kept_shape(u, A) if keep else (0,))
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "y": y}
    tensors |= {"delta_bias": delta_bias, "kept": kept if keep else None}
    if y.numel():
        implementation(engine).forward(tensors, delta_softplus)
    return y, kept


@library.register_fake("diffusionpose::scan")
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep, engine):  # noqa: ARG001, N803
    return u.new_empty(u.shape), A.new_empty(_kept_shape(u, A) if keep else (0,))


@_operator()
def scan_backward(
    grad_y: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None,  # noqa: N803
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    kept: Tensor,
    engine: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of u, delta, A, B, C, D, z and delta_bias."""
    _check(u, delta, A, B, C, D, z, delta_bias)
    grad_y = grad_y.to(u.dtype).contiguous()
    batch, length, dim = u.shape
    state, groups = A.shape[1], -(-dim // implementation(engine).SUMMED_CHANNELS)
    if grad_y.shape != u.shape or kept.shape != _kept_shape(u, A):
        raise ValueError("grad_y or kept has another shape than in the forward pass of this scan")
    grads = {f"grad_{name}": u.new_empty(u.shape) for name in ("u", "delta")}
    grads["grad_z"] = u.new_empty(u.shape if z is not None else (0,))
    sums = {"grad_A": A.new_zeros(batch, dim, state)}
    sums |= {name: A.new_zeros(batch, dim) for name in ("grad_D", "grad_bias")}
    sums |= {name: A.new_zeros(batch, groups, length, state) for name in ("grad_B", "grad_C")}
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z}
    tensors |= {"delta_bias": delta_bias, "kept": kept, "grad_y": grad_y}
    if u.numel():
        implementation(engine).backward(tensors | grads | sums, delta_softplus)
    return (
        grads["grad_u"],
        grads["grad_delta"],
        sums["grad_A"].sum(0),
        sums["grad_B"].sum(1),
        sums["grad_C"].sum(1),
        sums["grad_D"].sum(0),
        grads["grad_z"],
        sums["grad_bias"].sum(0),
    )


@library.register_fake("diffusionpose::scan_backward")
def _(grad_y, u, delta, A, B, C, D, z, delta_bias, delta_softplus, kept, engine):  # noqa: ARG001, N803
    rows, dims = [u.new_empty(u.shape) for _ in range(2)], [A.new_empty(A.shape[0]) for _ in "Db"]
    grad_z = u.new_empty(u.shape if z is not None else (0,))
    return (
        *rows,
        torch.empty_like(A),
        torch.empty_like(B),
        torch.empty_like(C),
        dims[0],
        grad_z,
        dims[1],
    )


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, _, ctx.engine = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_y, _):
    *tensors, kept = ctx.saved_tensors
    grads = scan_backward(grad_y, *tensors, ctx.delta_softplus, kept, ctx.engine)
    absent = [tensor is None for tensor in tensors]
    return (
        *(None if gone else grad for gone, grad in zip(absent, grads, strict=True)),
        None,
        None,
        None,
    )


library.register_autograd("diffusionpose::scan", _backward, setup_context=_setup_context)
# If called directly under autocast, the operator computes in float32; `selective_scan` picks
# dtypes.
for _device in ("cpu", "cuda"):
    library.register_autocast("diffusionpose::scan", _device, torch.float32)


@_operator("cpu")
def convolve(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Causal depthwise convolution and SiLU with the native library; without gradients.

    Args:
        u: Rows (batch, length, dim), float32 or bfloat16, with contiguous channels.
        weight: (taps, dim), float32; the last tap applies to the current step.
        bias: (dim), float32.

    Raises:
        ValueError: If a tensor has the wrong shape, dtype or layout.
    """
    dim = u.shape[2]
    is_row = u.dtype in (torch.float32, torch.bfloat16) and (u.stride(2) == 1 or dim <= 1)
    of_channels = all(v.dtype == torch.float32 and v.is_contiguous() for v in (weight, bias))
    if not is_row or not of_channels or weight.shape[1:] != (dim,) or bias.shape != (dim,):
        raise ValueError(
            "convolve needs u with contiguous channels in float32 or bfloat16, "
            "and contiguous float32 weight (taps, dim) and bias (dim)"
        )
    y = u.new_empty(u.shape)
    if y.numel():
        native_scan.convolve(u, weight, bias, y)
    return y


@library.register_fake("diffusionpose::convolve")
def _(u, weight, bias):  # noqa: ARG001
    return u.new_empty(u.shape)
