import pytest
import torch
import torch.nn.functional as F

from diffusionpose.nn.mamba import Mamba
from diffusionpose.nn.selective_scan import BLOCK, selective_scan
from tests.oracles.scan import selective_scan_loop

LENGTHS = [1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, 100, 2 * BLOCK, 209, 627, 700]


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


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_equals_the_loop_with_gradients(length, dtype, bound):
    tensors = inputs(length, dtype)
    exact = {k: v.detach().double().requires_grad_() for k, v in tensors.items()}
    y, grads = value_and_grads(selective_scan, tensors)
    y_loop, grads_loop = value_and_grads(selective_scan_loop, exact)
    assert relative_error(y, y_loop) < bound
    for name, grad, grad_loop in zip(tensors, grads, grads_loop, strict=True):
        assert relative_error(grad, grad_loop) < bound, name


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


def test_gradcheck():
    tensors = inputs(2 * BLOCK + 3, torch.float64, batch=1, dim=2, state=2)
    assert torch.autograd.gradcheck(
        lambda *args: selective_scan(*args, delta_softplus=True), tuple(tensors.values())
    )


def test_is_causal():
    tensors = {k: v.detach() for k, v in inputs(100, torch.float64).items()}
    y = selective_scan(**tensors)
    changed = dict(tensors, u=tensors["u"].clone())
    changed["u"][:, :, 57:] += 1
    y_changed = selective_scan(**changed)
    assert torch.equal(y[:, :, :57], y_changed[:, :, :57])
    assert not torch.allclose(y[:, :, 57], y_changed[:, :, 57])


def test_bfloat16_in_and_out_float32_inside():
    exact = {k: v.detach() for k, v in inputs(300, torch.bfloat16).items()}
    y = selective_scan(**exact, delta_softplus=True)
    assert y.dtype == torch.bfloat16
    reference = selective_scan(**{k: v.double() for k, v in exact.items()}, delta_softplus=True)
    assert relative_error(y, reference) < 4e-3  # one rounding to 8 bits


def test_channel_last_views_give_the_same():
    tensors = {k: v.detach() for k, v in inputs(70, torch.float32).items()}
    views = {
        k: v.transpose(1, 2).contiguous().transpose(1, 2) if v.ndim == 3 else v
        for k, v in tensors.items()
    }
    y, y_views = (selective_scan(**t, delta_softplus=True) for t in (tensors, views))
    torch.testing.assert_close(y, y_views, atol=1e-5, rtol=1e-5)


def test_empty_batch():
    tensors = {k: v.detach() for k, v in inputs(10, torch.float32, batch=0).items()}
    assert selective_scan(**tensors).shape == (0, 5, 10)


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
    official = mamba.conv1d(u.transpose(1, 2))[..., :50].transpose(1, 2)
    torch.testing.assert_close(mamba._convolve(u), official)


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
