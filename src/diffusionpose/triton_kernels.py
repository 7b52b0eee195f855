"""Kernels of `triton_scan`; needs the package triton."""

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * _LOG2E))


@triton.jit
def _step(delta_at, bias, inside, SOFTPLUS: tl.constexpr):
    """Step sizes, and what they were before the softplus."""
    raw = tl.load(delta_at, mask=inside, other=0.0).to(tl.float32) + bias
    step = raw
    if SOFTPLUS:
        # log(1 + e), exact for small e too: the error of 1 + e is divided out.
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
    b = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < dim
    n = tl.arange(0, STATE)
    cell = channel[:, None] * STATE + n[None, :]
    rate = tl.load(A + cell, mask=inside[:, None], other=0.0) * _LOG2E
    skip = (
        tl.load(D + channel, mask=inside, other=0.0) if HAS_D else tl.zeros([CHANNELS], tl.float32)
    )
    bias = (
        tl.load(delta_bias + channel, mask=inside, other=0.0)
        if HAS_BIAS
        else tl.zeros([CHANNELS], tl.float32)
    )
    h = tl.zeros([CHANNELS, STATE], tl.float32)
    for t in range(length):
        if KEEP:  # noqa: SIM102 (decided when compiled, unlike the next)
            if t % TILE == 0:  # pyright: ignore[reportOperatorIssue]
                tl.store(kept + (b * num_tiles + t // TILE) * blocks_dim * STATE + cell, h)
        step, _ = _step(delta + b * delta_batch + t * delta_time + channel, bias, inside, SOFTPLUS)
        x = tl.load(u + b * u_batch + t * u_time + channel, mask=inside, other=0.0).to(tl.float32)
        B_t = tl.load(B + (b * length + t) * STATE + n)
        C_t = tl.load(C + (b * length + t) * STATE + n)
        h = tl.exp2(step[:, None] * rate) * h + (step * x)[:, None] * B_t[None, :]
        out = tl.sum(h * C_t[None, :], 1) + skip * x
        if HAS_Z:
            gate = tl.load(z + b * z_batch + t * z_time + channel, mask=inside, other=0.0).to(
                tl.float32
            )
            out = out * gate * _sigmoid(gate)
        tl.store(y + (b * length + t) * dim + channel, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    u, delta, z, A, B, C, D, delta_bias, kept, grad_y, scratch,
    grad_u, grad_delta, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias,
    length, dim, blocks_dim, num_tiles,
    u_batch, u_time, delta_batch, delta_time, z_batch, z_time,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    STATE: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < dim
    n = tl.arange(0, STATE)
    cell = channel[:, None] * STATE + n[None, :]
    rate = tl.load(A + cell, mask=inside[:, None], other=0.0) * _LOG2E
    skip = (
        tl.load(D + channel, mask=inside, other=0.0) if HAS_D else tl.zeros([CHANNELS], tl.float32)
    )
    bias = (
        tl.load(delta_bias + channel, mask=inside, other=0.0)
        if HAS_BIAS
        else tl.zeros([CHANNELS], tl.float32)
    )
    later = tl.zeros([CHANNELS, STATE], tl.float32)
    sum_A = tl.zeros([CHANNELS, STATE], tl.float32)
    sum_D = tl.zeros([CHANNELS], tl.float32)
    sum_bias = tl.zeros([CHANNELS], tl.float32)
    for back in range(num_tiles):
        tile = num_tiles - 1 - back
        start = tile * TILE
        end = tl.minimum(start + TILE, length)
        h = tl.load(kept + (b * num_tiles + tile) * blocks_dim * STATE + cell)
        for t in range(start, end):
            tl.store(scratch + (b * TILE + t - start) * blocks_dim * STATE + cell, h)
            step, _ = _step(
                delta + b * delta_batch + t * delta_time + channel, bias, inside, SOFTPLUS
            )
            x = tl.load(u + b * u_batch + t * u_time + channel, mask=inside, other=0.0).to(
                tl.float32
            )
            B_t = tl.load(B + (b * length + t) * STATE + n)
            h = tl.exp2(step[:, None] * rate) * h + (step * x)[:, None] * B_t[None, :]
        tl.debug_barrier()
        tile_A = tl.zeros([CHANNELS, STATE], tl.float32)
        for down in range(end - start):
            t = end - 1 - down
            at = (b * length + t) * dim + channel
            step, raw = _step(
                delta + b * delta_batch + t * delta_time + channel, bias, inside, SOFTPLUS
            )
            x = tl.load(u + b * u_batch + t * u_time + channel, mask=inside, other=0.0).to(
                tl.float32
            )
            B_t = tl.load(B + (b * length + t) * STATE + n)
            C_t = tl.load(C + (b * length + t) * STATE + n)
            before = tl.load(scratch + (b * TILE + t - start) * blocks_dim * STATE + cell)
            decay = tl.exp2(step[:, None] * rate)
            after = decay * before + (step * x)[:, None] * B_t[None, :]
            grad = tl.load(grad_y + at, mask=inside, other=0.0).to(tl.float32)
            if HAS_Z:
                gate = tl.load(z + b * z_batch + t * z_time + channel, mask=inside, other=0.0).to(
                    tl.float32
                )
                out = tl.sum(after * C_t[None, :], 1) + skip * x
                opened = _sigmoid(gate)
                slope = opened * (1.0 + gate * (1.0 - opened))
                tl.store(grad_z + at, (grad * out * slope).to(grad_z.dtype.element_ty), mask=inside)
                grad = grad * gate * opened
            grad_state = grad[:, None] * C_t[None, :] + later
            maps = ((b * tl.num_programs(0) + block) * length + t) * STATE + n
            tl.store(grad_C + maps, tl.sum(grad[:, None] * after, 0))
            tl.store(grad_B + maps, tl.sum(grad_state * (step * x)[:, None], 0))
            grad_drive = tl.sum(grad_state * B_t[None, :], 1)
            later = decay * grad_state
            exponent = later * before
            grad_step = grad_drive * x + tl.sum(exponent * rate, 1) * _LN2
            tile_A += exponent * step[:, None]
            if SOFTPLUS:
                grad_step = grad_step * _sigmoid(raw)
            sum_bias += grad_step
            sum_D += grad * x
            tl.store(grad_delta + at, grad_step.to(grad_delta.dtype.element_ty), mask=inside)
            tl.store(
                grad_u + at,
                (grad_drive * step + grad * skip).to(grad_u.dtype.element_ty),
                mask=inside,
            )
        sum_A += tile_A
        tl.debug_barrier()
    tl.store(grad_A + b * dim * STATE + cell, sum_A, mask=inside[:, None])
    tl.store(grad_D + b * dim + channel, sum_D, mask=inside)
    tl.store(grad_bias + b * dim + channel, sum_bias, mask=inside)
