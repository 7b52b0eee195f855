"""The selective scan on the CPU in C++ (`csrc/`), as a custom operator of torch.

The library has a plain C interface and is an optional part of an installation: `is_available` says whether it is there.
The operator takes channel-last rows; `selective_scan.selective_scan` prepares them.
"""

import ctypes
import importlib.util
from typing import Any

import torch
from torch import Tensor

LANES = 16
"""States are padded to a multiple of it by the caller; channels in the checkpoints by the library."""

_POINTERS_IN = ("u", "delta", "z", "A", "B", "C", "D", "delta_bias", "y", "checkpoints")
_POINTERS_BACK = ("grad_y", "grad_u", "grad_delta", "grad_z")
_POINTERS_SUMS = ("grad_A", "grad_D", "grad_bias", "grad_B", "grad_C")
_SIZES = ("batch", "length", "dim", "state")
_STRIDES = ("u_batch", "u_time", "delta_batch", "delta_time", "z_batch", "z_time")
_FLAGS = ("is_bfloat16", "delta_softplus", "threads", "vectors")
_VECTORS = ("plain", "avx2", "avx512")
_MIN_WORK = 1 << 16
"""Channels x steps that are worth a thread of their own."""


class _Scan(ctypes.Structure):
    """`struct Scan` of csrc/selective_scan.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES + _STRIDES),
        *((name, ctypes.c_int32) for name in _FLAGS),
        *((name, ctypes.c_void_p) for name in _POINTERS_IN + _POINTERS_BACK + _POINTERS_SUMS),
    ]


def _load() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("diffusionpose._scan")
    if spec is None or spec.origin is None:
        return None
    library = ctypes.CDLL(spec.origin)
    library.diffusionpose_scan_size.restype = ctypes.c_int64
    # A library of another version of these sources would read the struct wrongly.
    return library if library.diffusionpose_scan_size() == ctypes.sizeof(_Scan) else None


# At import: torch.compile cannot trace the loading, and the shapes of operators depend on the two numbers.
_library = _load()
_TILE, _GROUP = (
    (_library.diffusionpose_scan_tile(), _library.diffusionpose_scan_group())
    if _library
    else (1, 1)
)


def is_available() -> bool:
    """Whether the library was built with this installation."""
    return _library is not None


def vectors() -> tuple[str, ...]:
    """Kinds of vectors that the library can use on this processor, the widest last; empty without the library."""
    return _VECTORS[: _library.diffusionpose_scan_vectors() + 1] if _library else ()


_forced_vectors: str | None = None


def use_vectors(name: str | None) -> None:
    """Use one of `vectors()` from now on, None for the widest: for tests and measurements."""
    global _forced_vectors
    if name is not None and name not in vectors():
        raise ValueError(f"vectors {name!r}: this processor and library have {vectors()}")
    _forced_vectors = name


def _call(name: str, scan: _Scan, tensors: dict[str, Tensor | None]) -> None:
    for key, tensor in tensors.items():
        if tensor is not None:
            setattr(scan, key, tensor.data_ptr())
    getattr(_library, f"diffusionpose_scan_{name}")(ctypes.byref(scan))


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
    """The library reads memory by these rules; what breaks them must not get there."""
    batch, length, dim = u.shape
    rows = {"u": u, "delta": delta} | ({} if z is None else {"z": z})
    for name, tensor in rows.items():
        if tensor.shape != u.shape or tensor.dtype != u.dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, u is {u.dtype} {tuple(u.shape)}"
            )
        if tensor.stride(2) != 1 and dim > 1 and tensor.numel():
            raise ValueError(f"{name} does not have its channels side by side")
    if u.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"u is {u.dtype}; the library knows float32 and bfloat16")
    state = A.shape[1]
    if state % LANES:
        raise ValueError(f"{state} states: not a multiple of {LANES}")
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
                f"{name} must be contiguous float32 {shape}, not {tensor.dtype} {tuple(tensor.shape)}"
            )


def _scan(u: Tensor, delta: Tensor, z: Tensor | None, state: int, delta_softplus: bool) -> _Scan:
    batch, length, dim = u.shape
    threads = max(1, min(torch.get_num_threads(), u.numel() // _MIN_WORK))
    scan = _Scan(batch=batch, length=length, dim=dim, state=state, threads=threads)
    scan.is_bfloat16 = u.dtype == torch.bfloat16
    scan.delta_softplus = delta_softplus
    scan.vectors = _VECTORS.index(_forced_vectors or vectors()[-1])
    scan.u_batch, scan.u_time = u.stride()[:2]
    scan.delta_batch, scan.delta_time = delta.stride()[:2]
    if z is not None:
        scan.z_batch, scan.z_time = z.stride()[:2]
    return scan


def _kept_shape(u: Tensor, a: Tensor) -> tuple[Any, ...]:
    """Of the kept states; symbolic while torch traces."""
    batch, length, dim = u.shape
    return (batch, -(-length // _TILE), -(-dim // LANES) * LANES, a.shape[1])


@torch.library.custom_op("diffusionpose::scan", mutates_args=(), device_types="cpu")
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
) -> tuple[Tensor, Tensor]:
    """The scan over channel-last rows.

    Args:
        u: Inputs (batch, length, dim), float32 or bfloat16, channels side by side.
        delta: Step sizes, like u.
        A: Decay rates (dim, state), float32, `state` a multiple of 16.
        B: Input maps (batch, length, state), float32.
        C: Output maps, like B.
        D: Skip weights (dim), float32.
        z: Gate, like u.
        delta_bias: Bias of delta (dim), float32.
        delta_softplus: Whether delta plus its bias goes through softplus.
        keep: Whether states are kept for the backward.

    Returns:
        Outputs like u, and the kept states.

    Raises:
        ValueError: When a tensor has another shape, type or layout.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    y = u.new_empty(u.shape)
    checkpoints = A.new_empty(_kept_shape(u, A) if keep else (0,))
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "y": y}
    tensors |= {"delta_bias": delta_bias, "checkpoints": checkpoints if keep else None}
    if y.numel():
        _call("forward", _scan(u, delta, z, A.shape[1], delta_softplus), tensors)
    return y, checkpoints


@scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):  # noqa: ARG001, N803
    return u.new_empty(u.shape), A.new_empty(_kept_shape(u, A) if keep else (0,))


@torch.library.custom_op("diffusionpose::scan_backward", mutates_args=(), device_types="cpu")
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
    checkpoints: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z and delta_bias, from that of the outputs and the kept states."""
    _check(u, delta, A, B, C, D, z, delta_bias)
    grad_y = grad_y.to(u.dtype).contiguous()
    batch, length, dim = u.shape
    state, groups = A.shape[1], -(-dim // _GROUP)
    if grad_y.shape != u.shape or checkpoints.shape != _kept_shape(u, A):
        raise ValueError("the gradient or the kept states are not those of this scan")
    grads = {f"grad_{name}": u.new_empty(u.shape) for name in ("u", "delta")}
    grads["grad_z"] = u.new_empty(u.shape if z is not None else (0,))
    sums = {"grad_A": A.new_zeros(batch, dim, state)}
    sums |= {name: A.new_zeros(batch, dim) for name in ("grad_D", "grad_bias")}
    sums |= {name: A.new_zeros(batch, groups, length, state) for name in ("grad_B", "grad_C")}
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z}
    tensors |= {"delta_bias": delta_bias, "checkpoints": checkpoints, "grad_y": grad_y}
    if u.numel():
        _call("backward", _scan(u, delta, z, state, delta_softplus), tensors | grads | sums)
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


@scan_backward.register_fake
def _(grad_y, u, delta, A, B, C, D, z, delta_bias, delta_softplus, checkpoints):  # noqa: ARG001, N803
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
    *tensors, ctx.delta_softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_y, _):
    *tensors, checkpoints = ctx.saved_tensors
    grads = scan_backward(grad_y, *tensors, ctx.delta_softplus, checkpoints)
    absent = [tensor is None for tensor in tensors]
    return (
        *(None if gone else grad for gone, grad in zip(absent, grads, strict=True)),
        None,
        None,
    )


scan.register_autograd(_backward, setup_context=_setup_context)
# Called as it is under autocast, it computes in float32; `selective_scan` chooses types itself.
scan.register_autocast("cpu", torch.float32)
