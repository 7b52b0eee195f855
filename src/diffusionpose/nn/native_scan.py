"""The selective scan on the CPU in C++ (`csrc/`).

The library has a plain C interface and is an optional part of the installation; see `is_available`.
"""

import ctypes
import importlib.util

import torch
from torch import Tensor

Tensors = dict[str, Tensor | None]
KEEP_EVERY = 32
"""Steps between the states kept for the backward, in the native and Triton engines."""

_POINTERS_IN = ("u", "delta", "z", "A", "B", "C", "D", "delta_bias", "y", "kept")
_POINTERS_BACK = ("grad_y", "grad_u", "grad_delta", "grad_z")
_POINTERS_SUMS = ("grad_A", "grad_D", "grad_bias", "grad_B", "grad_C")
_SIZES = ("batch", "length", "dim", "state")
_STRIDES = ("u_batch", "u_time", "delta_batch", "delta_time", "z_batch", "z_time")
_FLAGS = ("is_bfloat16", "delta_softplus", "threads", "pool", "vectors")
_VECTORS = ("plain", "avx2", "avx512")
_MIN_WORK = 1 << 16
"""Elements (channels times steps) per thread below which more threads do not pay."""


class _Scan(ctypes.Structure):
    """`struct Scan` of csrc/selective_scan.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES + _STRIDES),
        *((name, ctypes.c_int32) for name in _FLAGS),
        *((name, ctypes.c_void_p) for name in _POINTERS_IN + _POINTERS_BACK + _POINTERS_SUMS),
    ]


class _Convolution(ctypes.Structure):
    """`struct Convolution` of csrc/selective_scan.cpp."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "length", "dim", "taps", "u_batch", "u_time")
        ),
        *((name, ctypes.c_int32) for name in ("is_bfloat16", "threads", "pool", "vectors")),
        *((name, ctypes.c_void_p) for name in ("u", "weight", "bias", "y")),
    ]


def _load() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("diffusionpose._scan")
    if spec is None or spec.origin is None:
        return None
    library = ctypes.CDLL(spec.origin)
    library.diffusionpose_scan_size.restype = ctypes.c_int64
    # A library built from another version of the sources would misread the structs.
    fits = library.diffusionpose_scan_size() == sum(map(ctypes.sizeof, (_Scan, _Convolution)))
    return library if fits and library.diffusionpose_scan_tile() == KEEP_EVERY else None


# Loaded at import, as torch.compile cannot trace it.
_library = _load()
SUMMED_CHANNELS = _library.diffusionpose_scan_group() if _library else 1
"""Size of the channel groups over which the library sums the gradients of B and C."""


def is_available() -> bool:
    """Return whether the library is part of this installation."""
    return _library is not None


def has_openmp() -> bool:
    """Return whether the library uses OpenMP (on Linux torch's) instead of its own threads."""
    return _library is not None and bool(_library.diffusionpose_scan_has_openmp())


def vectors() -> tuple[str, ...]:
    """Return the vector extensions usable on this processor, widest last; empty without library."""
    return _VECTORS[: _library.diffusionpose_scan_vectors() + 1] if _library else ()


_forced_vectors: str | None = None


def use_vectors(name: str | None) -> None:
    """Select one of `vectors()`, or the widest if None; for tests and benchmarks.

    Raises:
        ValueError: If the processor or the library does not support it.
    """
    global _forced_vectors
    if name is not None and name not in vectors():
        raise ValueError(
            f"vector extension {name!r} is not supported by this processor and library; "
            f"choose from {vectors()}"
        )
    _forced_vectors = name


def _vectors_index() -> int:
    return _VECTORS.index(_forced_vectors or vectors()[-1])


_own_threads = False
"""If true, the library uses its own threads even with OpenMP; for tests and benchmarks."""


def _threads(worth_using: int) -> tuple[int, int]:
    """Return the number of threads to use, and the size of torch's pool (0 to not use the pool)."""
    pool = torch.get_num_threads()
    return max(1, min(pool, worth_using)), 0 if _own_threads else pool


def convolve(u: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    """Fill `y`; see `scan_operator.convolve`."""
    batch, length, dim = u.shape
    given = _Convolution(batch=batch, length=length, dim=dim, taps=len(weight))
    given.u_batch, given.u_time = u.stride()[:2]
    given.is_bfloat16 = u.dtype == torch.bfloat16
    # An element takes about a tenth of the work of the scan.
    given.threads, given.pool = _threads(u.numel() // (8 * _MIN_WORK))
    given.vectors = _vectors_index()
    assert _library is not None
    for key, tensor in {"u": u, "weight": weight, "bias": bias, "y": y}.items():
        setattr(given, key, tensor.data_ptr())
    _library.diffusionpose_convolve(ctypes.byref(given))


def forward(tensors: Tensors, delta_softplus: bool) -> None:
    """Fill `y`, and `kept` if it is not None; names and layouts are those of `scan_operator`."""
    _call("forward", tensors, delta_softplus)


def backward(tensors: Tensors, delta_softplus: bool) -> None:
    """Fill the gradients; those of A, B, C, D and `delta_bias` are partial sums."""
    _call("backward", tensors, delta_softplus)


def _call(name: str, tensors: Tensors, delta_softplus: bool) -> None:
    u, delta, z, a = (tensors[key] for key in ("u", "delta", "z", "A"))
    assert u is not None
    assert delta is not None
    assert a is not None
    batch, length, dim = u.shape
    scan = _Scan(batch=batch, length=length, dim=dim, state=a.shape[1])
    scan.threads, scan.pool = _threads(u.numel() // _MIN_WORK)
    scan.is_bfloat16 = u.dtype == torch.bfloat16
    scan.delta_softplus = delta_softplus
    scan.vectors = _vectors_index()
    for key, rows in (("u", u), ("delta", delta), ("z", z)):
        if rows is not None:
            setattr(scan, f"{key}_batch", rows.stride(0))
            setattr(scan, f"{key}_time", rows.stride(1))
    for key, tensor in tensors.items():
        if tensor is not None:
            setattr(scan, key, tensor.data_ptr())
    getattr(_library, f"diffusionpose_scan_{name}")(ctypes.byref(scan))
