"""Triton kernels of `triton_scan`; requires the package triton."""

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * _LOG2E))


@triton.jit
def _row(at, inside):
    """Load the program's channels at one time step, as float32."""
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _optional(at, inside, PRESENT: tl.constexpr, CHANNELS: tl.constexpr):
    """Load one value per channel, or 0 if the argument was left out."""
    return _row(at, inside) if PRESENT else tl.zeros([CHANNELS], tl.float32)


@triton.jit
def _step(delta_at, bias, inside, SOFTPLUS: tl.constexpr):
    """Return step sizes, and their values before the softplus."""
    raw = _row(delta_at, inside) + bias
    step = raw
    if SOFTPLUS:
        # log1p(e), accurate for small e, too: the rounding error of 1 + e cancels.
        e = tl.exp2(-tl.abs(raw) * _LOG2E)
        one_e = 1.0 + e
        log1p = tl.where(one_e == 1.0, e, tl.log(one_e) * e / (one_e - 1.0))
        step = tl.maximum(raw, 0.0) + log1p
    return step, raw


@triton.jit
def forward_kernel(
    u, delta, z, A, B, C, D, delta_bias, y, kept,
    length, dim, blocks_dim, num_tiles,
    u_batch, u_time, delta_batch, delta_time, z_batch, z_time,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    KEEP: tl.constexpr, STATE: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Scan CHANNELS channels of a batch item; if KEEP, store the states at tile starts."""
    b = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < dim
    n = tl.arange(0, STATE)
    cell = channel[:, None] * STATE + n[None, :]
    rate = tl.load(A + cell, mask=inside[:, None], other=0.0) * _LOG2E
    skip = _optional(D + channel, inside, HAS_D, CHANNELS)
    bias = _optional(delta_bias + channel, inside, HAS_BIAS, CHANNELS)
    h = tl.zeros([CHANNELS, STATE], tl.float32)
    for t in range(length):
        if KEEP:  # noqa: SIM102 (decided when compiled, unlike the next)
            if t % TILE == 0:  # pyright: ignore[reportOperatorIssue]
                tl.store(kept + (b * num_tiles + t // TILE) * blocks_dim * STATE + cell, h)
        step, _ = _step(delta + b * delta_batch + t * delta_time + channel, bias, inside, SOFTPLUS)
        x = _row(u + b * u_batch + t * u_time + channel, inside)
        B_t = tl.load(B + (b * length + t) * STATE + n)
        C_t = tl.load(C + (b * length + t) * STATE + n)
        h = tl.exp2(step[:, None] * rate) * h + (step * x)[:, None] * B_t[None, :]
        out = tl.sum(h * C_t[None, :], 1) + skip * x
        if HAS_Z:
            gate = _row(z + b * z_batch + t * z_time + channel, inside)
            out = out * gate * _sigmoid(gate)
        tl.store(y + (b * length + t) * dim + channel, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _recompute(
    h, u_at, delta_at, B_at, scratch_at, u_time, delta_time, scratch_time, steps, rate, bias, inside,
    SOFTPLUS: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Recompute the states before each step of a tile, starting from `h`, into the scratch."""
    for t in range(steps):
        tl.store(scratch_at + t * scratch_time, h)
        step, _ = _step(delta_at + t * delta_time, bias, inside, SOFTPLUS)
        x = _row(u_at + t * u_time, inside)
        B_t = tl.load(B_at + t * STATE)
        h = tl.exp2(step[:, None] * rate) * h + (step * x)[:, None] * B_t[None, :]


@triton.jit
def _through_gate(grad, out, gate, grad_z_at, inside):
    """Store the gradient of the gate; return that of the gated output."""
    opened = _sigmoid(gate)
    slope = opened * (1.0 + gate * (1.0 - opened))
    tl.store(grad_z_at, (grad * out * slope).to(grad_z_at.dtype.element_ty), mask=inside)
    return grad * gate * opened


@triton.jit
def backward_kernel(
    u, delta, z, A, B, C, D, delta_bias, kept, grad_y, scratch,
    grad_u, grad_delta, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias,
    length, dim, blocks_dim, num_tiles,
    u_batch, u_time, delta_batch, delta_time, z_batch, z_time,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    STATE: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Compute gradients of CHANNELS channels of a batch item, tile by tile from the last."""
    b, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    inside, n = channel < dim, tl.arange(0, STATE)
    cell = channel[:, None] * STATE + n[None, :]
    rate = tl.load(A + cell, mask=inside[:, None], other=0.0) * _LOG2E
    skip = _optional(D + channel, inside, HAS_D, CHANNELS)
    bias = _optional(delta_bias + channel, inside, HAS_BIAS, CHANNELS)
    u_at, delta_at = u + b * u_batch + channel, delta + b * delta_batch + channel
    maps, row = b * length * STATE + n, blocks_dim * STATE
    later, sum_A = tl.zeros([CHANNELS, STATE], tl.float32), tl.zeros([CHANNELS, STATE], tl.float32)
    sum_D, sum_bias = tl.zeros([CHANNELS], tl.float32), tl.zeros([CHANNELS], tl.float32)
    for back in range(num_tiles):
        start = (num_tiles - 1 - back) * TILE
        steps = tl.minimum(TILE, length - start)
        before_tile = tl.load(kept + (b * num_tiles + num_tiles - 1 - back) * row + cell)
        _recompute(before_tile, u_at + start * u_time, delta_at + start * delta_time, B + maps + start * STATE,
                   scratch + b * TILE * row + cell, u_time, delta_time, row, steps, rate, bias, inside, SOFTPLUS, STATE)  # fmt: skip
        tl.debug_barrier()
        tile_A = tl.zeros([CHANNELS, STATE], tl.float32)
        for down in range(steps):
            t = start + steps - 1 - down
            at = (b * length + t) * dim + channel
            step, raw = _step(delta_at + t * delta_time, bias, inside, SOFTPLUS)
            x, grad = _row(u_at + t * u_time, inside), _row(grad_y + at, inside)
            B_t, C_t = tl.load(B + maps + t * STATE), tl.load(C + maps + t * STATE)
            before = tl.load(scratch + (b * TILE + t - start) * row + cell)
            decay = tl.exp2(step[:, None] * rate)
            after = decay * before + (step * x)[:, None] * B_t[None, :]
            if HAS_Z:
                gate = _row(z + b * z_batch + t * z_time + channel, inside)
                out = tl.sum(after * C_t[None, :], 1) + skip * x
                grad = _through_gate(grad, out, gate, grad_z + at, inside)
            grad_state = grad[:, None] * C_t[None, :] + later
            part = ((b * tl.num_programs(0) + block) * length + t) * STATE + n
            tl.store(grad_C + part, tl.sum(grad[:, None] * after, 0))
            tl.store(grad_B + part, tl.sum(grad_state * (step * x)[:, None], 0))
            grad_drive = tl.sum(grad_state * B_t[None, :], 1)
            later = decay * grad_state
            grad_step = grad_drive * x + tl.sum(later * before * rate, 1) * _LN2
            grad_step = grad_step * _sigmoid(raw) if SOFTPLUS else grad_step
            tile_A += later * before * step[:, None]
            sum_D, sum_bias = sum_D + grad * x, sum_bias + grad_step
            tl.store(grad_delta + at, grad_step.to(grad_delta.dtype.element_ty), mask=inside)
            through_u = grad_drive * step + grad * skip
            tl.store(grad_u + at, through_u.to(grad_u.dtype.element_ty), mask=inside)
        sum_A += tile_A
        tl.debug_barrier()
    tl.store(grad_A + b * dim * STATE + cell, sum_A, mask=inside[:, None])
    tl.store(grad_D + b * dim + channel, sum_D, mask=inside)
    tl.store(grad_bias + b * dim + channel, sum_bias, mask=inside)
