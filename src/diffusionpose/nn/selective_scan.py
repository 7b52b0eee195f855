"""The selective scan of Mamba (Gu and Dao 2023, Algorithm 2), with several engines.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = C_t h_t + D u_t

Signature and layouts are those of `selective_scan_fn` in mamba_ssm.

| engine | where | implementation |
|---|---|---|
| `native` | CPU, float32 and bfloat16, if the library was built | `native_scan`, C++ |
| `triton` | CUDA, if triton is installed | `triton_scan` |
| `blocked` | everywhere, any dtype | `blocked_scan`, torch |
| `two_level` | for export only | `two_level_scan`, torch without loops or in-place writes |
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusionpose.nn import native_scan, scan_operator, triton_scan
from diffusionpose.nn.blocked_scan import blocked_scan, two_level_scan
from diffusionpose.nn.precision import no_autocast

ENGINES = ("auto", "native", "triton", "blocked", "two_level")
_engine = "auto"


@contextmanager
def scan_engine(name: str) -> Iterator[None]:
    """Run every scan within the context on the given engine instead of the fastest available.

    Raises:
        ValueError: If the engine is unknown or not available.
    """
    global _engine
    if name not in ENGINES:
        raise ValueError(f"unknown scan engine {name!r}; choose from {', '.join(ENGINES)}")
    if name in ("native", "triton"):
        scan_operator.implementation(name)
    before, _engine = _engine, name
    try:
        yield
    finally:
        _engine = before


def engine_for(device: torch.device, dtype: torch.dtype) -> str:
    """Return the engine used for a device and dtype."""
    if _engine != "auto":
        return _engine
    if dtype != torch.float64:
        if device.type == "cpu" and native_scan.is_available():
            return "native"
        if device.type == "cuda" and triton_scan.is_available():
            return "triton"
    return "blocked"


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
    """Run the causal scan over `length`.

    Computes in float32, or in float64 for float64 input, and returns the dtype of `u`. Transposed
    views of channel-last tensors are read without a copy.

    Args:
        u: Inputs.
        delta: Step sizes, before bias and softplus.
        A: Negative decay rates.
        B: Input maps per time step.
        C: Output maps per time step.
        D: Skip weights.
        z: Gate; the result is multiplied by SiLU(z).
        delta_bias: Added to `delta`.
        delta_softplus: Whether to apply softplus to `delta` plus its bias.

    Raises:
        ValueError: If a shape does not match those of `u` and `A`.
    """
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    rows = (u.transpose(1, 2), delta.transpose(1, 2), None if z is None else z.transpose(1, 2))
    maps = (B.transpose(1, 2), C.transpose(1, 2))
    engine = engine_for(u.device, torch.promote_types(u.dtype, delta.dtype))
    with no_autocast(u.device):
        if engine in ("native", "triton"):
            y = _fused(engine, *rows, A, *maps, D, delta_bias, delta_softplus)
        else:
            core = blocked_scan if engine == "blocked" else two_level_scan
            y = _unfused(core, *rows, A, *maps, D, delta_bias, delta_softplus)
    return y.to(u.dtype).transpose(1, 2)


def _check_shapes(u, delta, A, B, C, D, z, delta_bias) -> None:  # noqa: N803
    batch, dim, length = u.shape
    state = A.shape[-1]
    expected = {
        "delta": (delta, (batch, dim, length)),
        "A": (A, (dim, state)),
        "B": (B, (batch, state, length)),
        "C": (C, (batch, state, length)),
        "D": (D, (dim,)),
        "z": (z, (batch, dim, length)),
        "delta_bias": (delta_bias, (dim,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{name} must have shape {shape} to match u and A, not {tuple(tensor.shape)}"
            )


def _unfused(core, u, delta, z, a, b, c, d, delta_bias, delta_softplus) -> Tensor:
    """Run an unfused engine on channel-last rows, with bias, softplus, skip and gate in torch."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    u, delta, b, c = (v.to(dtype) for v in (u, delta, b, c))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    y = core(u, delta, a.to(dtype), b, c)
    if d is not None:
        y = torch.addcmul(y, u, d.to(dtype))
    return y if z is None else y * F.silu(z.to(dtype))


def _fused(engine, u, delta, z, a, b, c, d, delta_bias, delta_softplus) -> Tensor:
    """Run the fused operator, after casting and padding its inputs as it requires."""
    rows = [u, delta] if z is None else [u, delta, z]
    dtype = torch.bfloat16 if all(v.dtype == torch.bfloat16 for v in rows) else torch.float32
    u, delta, *gate = (_channels_last(v.to(dtype)) for v in rows)
    missing = max(16, 1 << (a.shape[1] - 1).bit_length()) - a.shape[1]
    a, b, c = (F.pad(v.float(), (0, missing)).contiguous() for v in (a, b, c))
    d, delta_bias = (None if v is None else v.float().contiguous() for v in (d, delta_bias))
    keep = torch.is_grad_enabled() and any(
        v is not None and v.requires_grad for v in (u, delta, a, b, c, d, *gate, delta_bias)
    )
    z = gate[0] if gate else None
    y, _ = scan_operator.scan(u, delta, a, b, c, d, z, delta_bias, delta_softplus, keep, engine)
    return y


def _channels_last(rows: Tensor) -> Tensor:
    return rows if rows.stride(-1) == 1 else rows.contiguous()
