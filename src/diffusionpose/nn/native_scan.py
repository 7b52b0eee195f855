"""The selective scan on the CPU in C++ (`csrc/`).

The library has a plain C interface and is an optional part of an installation: `is_available` says whether it is there.
"""

import ctypes
import importlib.util

import torch
from torch import Tensor

Tensors = dict[str, Tensor | None]
KEEP_EVERY = 32
"""Steps between the states that are kept for the backward, in every engine."""

_POINTERS_IN = ("u", "delta", "z", "A", "B", "C", "D", "delta_bias", "y", "kept")
_POINTERS_BACK = ("grad_y", "grad_u", "grad_delta", "grad_z")
_POINTERS_SUMS = ("grad_A", "grad_D", "grad_bias", "grad_B", "grad_C")
_SIZES = ("batch", "length", "dim", "state")
_STRIDES = ("u_batch", "u_time", "delta_batch", "delta_time", "z_batch", "z_time")
_FLAGS = ("is_bfloat16", "delta_softplus", "threads", "pool", "vectors")
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


class _Convolution(ctypes.Structure):
    """`struct Convolution` there."""

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
    # A library of another version of these sources would read the struct wrongly.
    fits = library.diffusionpose_scan_size() == sum(map(ctypes.sizeof, (_Scan, _Convolution)))
    return library if fits and library.diffusionpose_scan_tile() == KEEP_EVERY else None


# At import, since torch.compile cannot trace the loading.
_library = _load()
SUMMED_CHANNELS = _library.diffusionpose_scan_group() if _library else 1
"""Channels whose gradients of B and C are summed in the library."""


def is_available() -> bool:
    """Whether the library was built with this installation."""
    return _library is not None


def has_openmp() -> bool:
    """Whether the library works on the threads of an OpenMP library, torch's on Linux, or makes its own."""
    return _library is not None and bool(_library.diffusionpose_scan_has_openmp())


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


def _vectors_index() -> int:
    return _VECTORS.index(_forced_vectors or vectors()[-1])


_own_threads = False
"""For tests and measurements: threads of the library's own also where torch's OpenMP is to be had."""


def _threads(worth_using: int) -> tuple[int, int]:
    """How many to use, and how many torch keeps for that, 0 if they are not to be used."""
    pool = torch.get_num_threads()
    return max(1, min(pool, worth_using)), 0 if _own_threads else pool


def convolve(u: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    """Fills `y`; see `scan_operator.convolve`."""
    batch, length, dim = u.shape
    given = _Convolution(batch=batch, length=length, dim=dim, taps=len(weight))
    given.u_batch, given.u_time = u.stride()[:2]
    given.is_bfloat16 = u.dtype == torch.bfloat16
    # Some ten times less work an element than the scan.
    given.threads, given.pool = _threads(u.numel() // (8 * _MIN_WORK))
    given.vectors = _vectors_index()
    assert _library is not None
    for key, tensor in {"u": u, "weight": weight, "bias": bias, "y": y}.items():
        setattr(given, key, tensor.data_ptr())
    _library.diffusionpose_convolve(ctypes.byref(given))


def forward(tensors: Tensors, delta_softplus: bool) -> None:
    """Fills `y`, and `kept` where it is given; names and layouts are those of `scan_operator`."""
    _call("forward", tensors, delta_softplus)


def backward(tensors: Tensors, delta_softplus: bool) -> None:
    """Fills `grad_u`, `grad_delta` and `grad_z`, and the sums of the others by batch item and group of channels."""
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
