import shutil
import sys
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from diffusionpose.nn import native_scan, scan_operator
from diffusionpose.nn.blocked_scan import MOST_STEPS
from diffusionpose.nn.mamba import Mamba
from diffusionpose.nn.selective_scan import engine_for, scan_engine, selective_scan
from tests.oracles.scan import selective_scan_loop

LENGTHS = [1, 2, 7, MOST_STEPS - 1, MOST_STEPS, MOST_STEPS + 1, 100, 2 * MOST_STEPS, 209, 627, 700]
needs_native = pytest.mark.skipif(
    not native_scan.is_available(), reason="the native library was not built"
)
NATIVE = [f"native {name}" for name in native_scan.vectors()]
ENGINES = ["blocked", "two_level", *NATIVE]


@contextmanager
def on_engine(name):
    """Select an engine; the names of `native` ones include their vector extension."""
    engine, _, vectors = name.partition(" ")
    with scan_engine(engine):
        native_scan.use_vectors(vectors or None)
        try:
            yield
        finally:
            native_scan.use_vectors(None)


def in_engine(name, scan=selective_scan):
    def run(*args, **kwargs):
        with on_engine(name):
            return scan(*args, **kwargs)

    return run


def inputs(length, dtype, batch=2, dim=5, state=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    tensors = {
        "u": draw(batch, dim, length),
        "delta": draw(batch, dim, length),
        "A": -torch.exp(draw(dim, state)),
        "B": draw(batch, state, length),
        "C": draw(batch, state, length),
        "D": draw(dim),
        "z": draw(batch, dim, length),
        "delta_bias": draw(dim),
    }
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def value_and_grads(scan, tensors):
    y = scan(**tensors, delta_softplus=True)
    weight = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    return y, torch.autograd.grad((y * weight).sum(), list(tensors.values()))


def relative_error(found, expected):
    found, expected = found.detach().double(), expected.detach().double()
    # The gradient of A is 0 for a single step.
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def assert_equals_the_loop(name, tensors, bound):
    exact = {k: v.detach().double().requires_grad_() for k, v in tensors.items()}
    with on_engine(name):
        y, grads = value_and_grads(selective_scan, tensors)
    y_loop, grads_loop = value_and_grads(selective_scan_loop, exact)
    assert relative_error(y, y_loop) < bound
    for key, grad, grad_loop in zip(tensors, grads, grads_loop, strict=True):
        assert relative_error(grad, grad_loop) < bound, key


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ["blocked", "two_level"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_equals_the_loop_with_gradients(length, name, dtype, bound):
    assert_equals_the_loop(name, inputs(length, dtype), bound)


def test_short_blocks_of_large_inputs_equal_the_loop():
    assert_equals_the_loop("blocked", inputs(21, torch.float64, 3, 1536, 16), 1e-10)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", NATIVE)
def test_native_equals_the_loop_with_gradients(length, name):
    assert_equals_the_loop(name, inputs(length, torch.float32), 1e-5)


# The interpreter takes milliseconds per step, so only few lengths: within, equal to, and several
# tiles.
@pytest.mark.parametrize("length", [1, 32, 75])
@pytest.mark.parametrize("state", [16, 5])
def test_triton_equals_the_loop_with_gradients(length, state):
    pytest.importorskip("triton")
    assert_equals_the_loop("triton", inputs(length, torch.float32, dim=19, state=state), 1e-5)


# One lane, part of a vector, more than one group of channels; fewer and more states than in a
# register.
@pytest.mark.parametrize(
    ("batch", "dim", "state"), [(1, 1, 1), (3, 13, 16), (1, 131, 4), (2, 9, 37)]
)
@pytest.mark.parametrize("name", ENGINES)
def test_odd_sizes(batch, dim, state, name):
    assert_equals_the_loop(name, inputs(70, torch.float32, batch, dim, state), 1e-5)


@pytest.mark.parametrize("name", NATIVE)
def test_native_error_against_float64(name):
    """At Mamba's initialisation: decays -1 to -16, steps log-uniform in [1e-3, 1e-1]."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    step = torch.exp(torch.rand(160, generator=generator) * 4.6 - 6.9)
    tensors = {
        "u": draw(2, 160, 627),
        "delta": 0.5 * draw(2, 160, 627),
        "A": -torch.arange(1.0, 17).repeat(160, 1),
        "B": draw(2, 16, 627),
        "C": draw(2, 16, 627),
        "D": torch.ones(160),
        "z": draw(2, 160, 627),
        "delta_bias": step + torch.log(-torch.expm1(-step)),
    }
    tensors = {key: value.requires_grad_() for key, value in tensors.items()}
    exact = {key: value.detach().double().requires_grad_() for key, value in tensors.items()}
    with on_engine(name):
        y, grads = value_and_grads(selective_scan, tensors)
    y_loop, grads_loop = value_and_grads(selective_scan_loop, exact)
    assert relative_error(y, y_loop) < 2e-7
    for key, grad, grad_loop in zip(tensors, grads, grads_loop, strict=True):
        assert relative_error(grad, grad_loop) < 5e-7, key


@pytest.mark.parametrize("name", NATIVE)
def test_native_exponential_is_accurate_to_2_ulp(name):
    """The first step sets the state to 1; the second reads it after the decay by 2 ** exponent."""
    exponents = -torch.linspace(0.0, 120.0, 4_001)
    dim = len(exponents)
    rate = torch.tensor(-1.0).div(torch.tensor(1.44269504088896341)).expand(dim, 1)
    u = torch.stack([torch.ones(dim), torch.zeros(dim)], 1)[None]
    delta = torch.stack([torch.ones(dim), -exponents], 1)[None]
    ones = torch.ones(1, 1, 2)
    with on_engine(name):
        found = selective_scan(u, delta, rate, ones, ones)[0, :, 1].double()
    # Computed as in the library: the rate in units of log 2, then the product.
    in_log2 = rate[:, 0] * torch.tensor(1.44269504088896341)
    expected = torch.exp2((delta[0, :, 1] * in_log2).double())
    ulp = torch.exp2(torch.floor(torch.log2(expected)) - 23)
    assert float(((found - expected).abs() / ulp).max()) <= 2.0


@pytest.mark.parametrize("name", NATIVE)
def test_native_extremes(name):
    tensors = {k: v.detach() for k, v in inputs(5, torch.float32, batch=1).items()}
    for value in (-1e30, -200.0, 200.0):
        tensors["z"] = torch.full_like(tensors["z"], value)
        with on_engine(name):
            y = selective_scan(**dict(tensors, delta=tensors["delta"] * 20), delta_softplus=True)
        assert torch.isfinite(y).all()
    for key in ("u", "delta", "B", "C", "z"):
        spoiled = dict(tensors, z=torch.ones_like(tensors["z"]))
        spoiled[key] = spoiled[key].clone()
        spoiled[key][0, 0, 2] = torch.nan
        with on_engine(name):
            y = selective_scan(**spoiled, delta_softplus=True)
        assert torch.isnan(y[0, 0, 2]), key
        assert not torch.isnan(y[..., :2]).any(), key


@needs_native
@pytest.mark.parametrize("own_threads", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_native_threads_do_not_change_a_bit(dtype, own_threads, monkeypatch):
    monkeypatch.setattr(native_scan, "_own_threads", own_threads)
    assert native_scan.has_openmp() or sys.platform != "linux"
    tensors = inputs(300, torch.float32, batch=2, dim=300, state=16)
    tensors = {k: v.detach().to(dtype).requires_grad_() for k, v in tensors.items()}
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with scan_engine("native"):
                y, grads = value_and_grads(selective_scan, tensors)
            results.append([y, *grads])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("given", [set(), {"D"}, {"z"}, {"delta_bias"}])
@pytest.mark.parametrize("softplus", [False, True])
def test_optional_arguments(given, softplus):
    tensors = {
        k: v.detach()
        for k, v in inputs(40, torch.float64).items()
        if k in {"u", "A", "B", "C"} | given
    }
    delta = torch.rand(2, 5, 40, dtype=torch.float64)
    y = selective_scan(delta=delta, delta_softplus=softplus, **tensors)
    torch.testing.assert_close(
        y,
        selective_scan_loop(delta=delta, delta_softplus=softplus, **tensors),
        atol=1e-12,
        rtol=1e-10,
    )


@pytest.mark.parametrize("name", ["blocked", "two_level"])
def test_gradcheck(name):
    tensors = inputs(2 * MOST_STEPS + 3, torch.float64, batch=1, dim=2, state=2)
    with scan_engine(name):
        assert torch.autograd.gradcheck(
            lambda *args: selective_scan(*args, delta_softplus=True), tuple(tensors.values())
        )


@needs_native
def test_native_operator_keeps_the_rules_of_torch():
    u, delta, b, c = (torch.randn(2, 30, n).requires_grad_() for n in (8, 8, 16, 16))
    a = (-torch.rand(8, 16)).requires_grad_()
    for z in (None, torch.randn(2, 30, 8).requires_grad_()):
        torch.library.opcheck(
            scan_operator.scan,
            (u, delta, a, b, c, None, z, None, True, True, "native"),
            atol=1e-4,
            rtol=1e-3,
        )


@pytest.mark.parametrize("name", [pytest.param("native", marks=needs_native), "two_level"])
def test_export_round_trip(name, tmp_path):
    torch.manual_seed(0)
    mamba, x = Mamba(dim=16).eval(), torch.randn(2, 30, 16)
    with scan_engine(name), torch.no_grad():
        torch.export.save(torch.export.export(mamba, (x,)), tmp_path / "mamba.pt2")
        expected = mamba(x)
    loaded = torch.export.load(tmp_path / "mamba.pt2")
    targets = {str(node.target) for node in loaded.graph.nodes}
    assert ("diffusionpose.scan.default" in targets) == (name == "native")
    torch.testing.assert_close(loaded.module()(x), expected)


@needs_native
def test_autocast_on_the_operator_itself_computes_in_float32():
    u, b = torch.randn(1, 9, 16, dtype=torch.bfloat16), torch.randn(1, 9, 16)
    arguments = (u, u, -torch.ones(16, 16), b, b, None, None, None, True, False, "native")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = scan_operator.scan(*arguments)
    assert y.dtype == torch.float32
    with pytest.raises(ValueError, match="contiguous float32"):
        scan_operator.scan(u, u, -torch.ones(16, 16).double(), *arguments[3:])


@needs_native
def test_backward_keeps_little_memory():
    """At most 14 times the output, besides the inputs: states are recomputed, not stored."""
    tensors = inputs(627, torch.float32, batch=1, dim=256, state=16)
    saved = []
    with (
        scan_engine("native"),
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.append(t.numel()) or t, lambda t: t
        ),
    ):
        y = selective_scan(**tensors, delta_softplus=True)
    assert sum(saved) < 14 * y.numel()
    with scan_engine("native"), torch.no_grad():
        rows = tensors["u"].transpose(1, 2).contiguous()
        maps = tensors["B"].transpose(1, 2).contiguous()
        _, kept = scan_operator.scan(
            rows, rows, tensors["A"], maps, maps, None, None, None, True, False, "native"
        )
    assert kept.numel() == 0


def test_shapes_that_do_not_fit_are_refused():
    tensors = {k: v.detach() for k, v in inputs(10, torch.float32).items()}
    for name in set(tensors) - {"u"}:
        with pytest.raises(Exception, match=rf"\b{name}\b"):
            selective_scan(**dict(tensors, **{name: tensors[name][..., 1:]}))


def test_engines():
    double = engine_for(torch.device("cpu"), torch.float64)
    assert double == "blocked"
    expected = "native" if native_scan.is_available() else "blocked"
    assert engine_for(torch.device("cpu"), torch.float32) == expected
    with scan_engine("two_level"):
        assert engine_for(torch.device("cpu"), torch.float32) == "two_level"
    assert engine_for(torch.device("cpu"), torch.float32) == expected
    with pytest.raises(ValueError, match="choose from"), scan_engine("fast"):
        pass
    with pytest.raises(ValueError, match="this processor"):
        native_scan.use_vectors("sse9")


def test_an_unavailable_engine_is_named(monkeypatch):
    monkeypatch.setattr(native_scan, "_library", None)
    assert native_scan.vectors() == ()
    with pytest.raises(ValueError, match="was not built"), scan_engine("native"):
        pass
    u, b = torch.randn(1, 9, 16), torch.randn(1, 9, 16)
    arguments = (u, u, -torch.ones(16, 16), b, b, None, None, None, True, False)
    with pytest.raises(ValueError, match="was not built"):
        scan_operator.scan(*arguments, "native")


def test_native_library_was_built():
    """Without the library, all its tests would be skipped silently; the test setup can build it."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    assert native_scan.is_available()


@pytest.mark.parametrize("name", ENGINES)
def test_is_causal(name):
    scan = in_engine(name)
    tensors = {k: v.detach() for k, v in inputs(100, torch.float32).items()}
    tensors["delta"] = tensors["delta"].abs()
    y = scan(**tensors)
    changed = dict(tensors, u=tensors["u"].clone())
    changed["u"][:, :, 57:] += 1
    y_changed = scan(**changed)
    assert torch.equal(y[:, :, :57], y_changed[:, :, :57])
    assert not torch.allclose(y[:, :, 57], y_changed[:, :, 57])


@pytest.mark.parametrize("name", ENGINES)
def test_bfloat16_in_and_out_float32_inside(name):
    exact = {k: v.detach() for k, v in inputs(300, torch.bfloat16).items()}
    y = in_engine(name)(**exact, delta_softplus=True)
    assert y.dtype == torch.bfloat16
    reference = selective_scan(**{k: v.double() for k, v in exact.items()}, delta_softplus=True)
    assert relative_error(y, reference) < 4e-3  # one rounding to 8 bits


@pytest.mark.parametrize("name", ENGINES)
def test_channel_last_views_give_the_same(name):
    tensors = {k: v.detach() for k, v in inputs(70, torch.float32).items()}
    views = {
        k: v.transpose(1, 2).contiguous().transpose(1, 2) if v.ndim == 3 else v
        for k, v in tensors.items()
    }
    y, y_views = (in_engine(name)(**t, delta_softplus=True) for t in (tensors, views))
    torch.testing.assert_close(y, y_views, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["blocked", *NATIVE[-1:]])
@pytest.mark.parametrize(("batch", "length"), [(0, 10), (2, 0)])
def test_empty_inputs_give_empty_outputs(name, batch, length):
    tensors = inputs(length, torch.float32, batch=batch)
    y = in_engine(name)(**tensors)
    assert y.shape == (batch, 5, length)
    y.sum().backward()
    assert all(float(t.grad.abs().sum()) == 0 for t in tensors.values() if t.grad is not None)


def test_mamba_is_causal_and_convolves_as_its_conv1d():
    torch.manual_seed(0)
    mamba = Mamba(dim=16).double()
    x = torch.randn(2, 50, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 30:] += 1
    y, y_changed = mamba(x), mamba(changed)
    assert torch.equal(y[:, :30], y_changed[:, :30])
    assert not torch.allclose(y[:, 30], y_changed[:, 30])
    u = torch.randn(2, 50, 32, dtype=torch.float64)
    official = F.silu(mamba.conv1d(u.transpose(1, 2))[..., :50].transpose(1, 2))
    torch.testing.assert_close(mamba._convolve(u), official)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "dim"), [(1, 3), (3, 16), (40, 13), (100, 384)])
def test_native_convolution_is_conv1d_and_silu(name, dtype, length, dim):
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(dim, dim, 4, groups=dim, padding=3)
    # A view into a wider tensor, like one half of a projection.
    u = torch.randn(2, length, 2 * dim).to(dtype)[..., :dim]
    with on_engine(name), torch.no_grad():
        y = scan_operator.convolve(u, conv.weight.squeeze(1).T.contiguous(), conv.bias)
        expected = conv.double()(u.double().transpose(1, 2))[..., :length].transpose(1, 2)
    error = relative_error(y, F.silu(expected))
    assert y.dtype == dtype
    assert error < (2e-7 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("dim", [5, 64])
def test_native_bfloat16_is_rounded_as_torch_rounds(name, dim):
    torch.manual_seed(0)
    u = torch.exp(20 * torch.rand(1, 500, dim)).bfloat16()
    u[0, 7, 1], u[0, 8, 2] = torch.nan, torch.inf
    # Sums of two are often exactly halfway; SiLU leaves large values unchanged.
    weight, bias = torch.ones(2, dim), torch.zeros(dim)
    with on_engine(name):
        y, exact = (scan_operator.convolve(x, weight, bias) for x in (u, u.float()))
    assert (exact.view(torch.int32) % 65536 == 32768).sum() > 10
    assert y.isnan().sum() == exact.isnan().sum() == 2
    assert torch.equal(y.nan_to_num(), exact.bfloat16().nan_to_num())


@needs_native
def test_convolution_operator_keeps_the_rules_of_torch():
    u, weight, bias = torch.randn(2, 9, 16), torch.randn(4, 16), torch.randn(16)
    torch.library.opcheck(scan_operator.convolve, (u, weight, bias))
    with pytest.raises(ValueError, match="contiguous channels"):
        scan_operator.convolve(u.transpose(1, 2), weight, bias)


def test_mamba_has_official_names_and_initialisation():
    torch.manual_seed(0)
    mamba = Mamba(dim=64)
    shapes = {name: tuple(p.shape) for name, p in mamba.named_parameters()}
    assert shapes == {
        "A_log": (128, 16),
        "D": (128,),
        "in_proj.weight": (256, 64),
        "conv1d.weight": (128, 1, 4),
        "conv1d.bias": (128,),
        "x_proj.weight": (36, 128),
        "dt_proj.weight": (128, 4),
        "dt_proj.bias": (128,),
        "out_proj.weight": (64, 128),
    }
    torch.testing.assert_close(mamba.A_log.exp()[5], torch.arange(1.0, 17))
    step = F.softplus(mamba.dt_proj.bias)
    assert 1e-3 * 0.99 <= step.min() < 3e-3
    assert 3e-2 < step.max() <= 0.1 * 1.01
