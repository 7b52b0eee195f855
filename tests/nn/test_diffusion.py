import numpy as np
import pytest
import torch

from diffusionpose.nn.diffusion import (
    add_noise,
    ddim_steps,
    make_scheduler,
    sample,
    seeded_noise,
    to_heatmaps,
    to_signal,
)

STEPS = 1000


def cosine_alphas(steps):
    """Nichol and Dhariwal's schedule with its cap on beta, computed independently."""

    def bar(t):
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    betas = [min(1 - bar((i + 1) / steps) / bar(i / steps), 0.999) for i in range(steps)]
    return np.cumprod(1 - np.array(betas))


def test_schedule_is_cosine():
    found = make_scheduler(STEPS).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(found, cosine_alphas(1000), rtol=1e-4, atol=1e-9)
    assert found[-1] < 1e-8


def test_forward_process():
    scheduler = make_scheduler(STEPS)
    x_0, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    t = torch.tensor([0, 700])
    a = torch.tensor(cosine_alphas(1000)[[0, 700]], dtype=torch.float32).view(2, 1, 1, 1)
    expected = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    torch.testing.assert_close(add_noise(scheduler, x_0, noise, t), expected, atol=1e-4, rtol=1e-4)


def test_one_step_is_the_networks_own_x_0():
    noise = torch.randn(2, 15, 8, 6)
    answer = torch.randn(2, 15, 8, 6)
    calls = []

    def denoise(x_t, t):
        calls.append((x_t, t))
        return answer

    assert torch.equal(sample(STEPS, denoise, noise, 1), answer)
    assert len(calls) == 1
    assert torch.equal(calls[0][0], noise)
    assert calls[0][1].tolist() == [999, 999]


def test_one_step_agrees_with_the_scheduler():
    scheduler = make_scheduler(STEPS)
    scheduler.set_timesteps(1)
    (step,) = ddim_steps(STEPS, 1)
    assert [step.t] == scheduler.timesteps.tolist()
    assert step.here == pytest.approx(float(scheduler.alphas_cumprod[step.t]), abs=1e-8)
    assert step.there == float(scheduler.final_alpha_cumprod) == 1


@pytest.mark.parametrize("steps", [2, 3, 4, 6, 7, 8, 50, 600])
def test_steps_run_from_the_last_timestep_down_and_end_at_x_0(steps):
    truth = 0.5 * torch.rand(1, 2, 4, 4)
    seen = []

    def denoise(x_t, t):
        seen.append(int(t[0]))
        return truth

    out = sample(STEPS, denoise, torch.randn(1, 2, 4, 4), steps)
    assert seen[0] == 999
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == steps
    torch.testing.assert_close(out, truth, atol=1e-4, rtol=1e-4)


def test_ddim_step_equals_equation_12_of_the_ddim_paper():
    noise = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    x_0 = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    inputs = []

    def denoise(x_t, t):
        inputs.append(x_t)
        return x_0

    sample(STEPS, denoise, noise, 2)
    bars = cosine_alphas(1000)
    here, there = bars[999], bars[499]
    implied = (noise - np.sqrt(here) * x_0) / np.sqrt(1 - here)
    expected = np.sqrt(there) * x_0 + np.sqrt(1 - there) * implied
    torch.testing.assert_close(inputs[1], expected, atol=1e-4, rtol=1e-4)


def test_signal_scaling_round_trip():
    heatmaps = torch.rand(2, 3, 4, 4)
    assert to_signal(torch.tensor([0.0, 1.0]), 0.5).tolist() == [-0.5, 0.5]
    torch.testing.assert_close(to_heatmaps(to_signal(heatmaps, 0.5), 0.5), heatmaps)


def test_noise_is_decided_by_its_key_alone():
    a = seeded_noise((15, 64, 48), (0, 3, 17))
    assert torch.equal(a, seeded_noise((15, 64, 48), (0, 3, 17)))
    assert not torch.equal(a, seeded_noise((15, 64, 48), (0, 31, 7)))
    assert abs(float(a.mean())) < 0.02
    assert abs(float(a.std()) - 1) < 0.02


@pytest.mark.parametrize("steps", [1, 4])
def test_every_step_is_shown(steps):
    noise, answer, shown, inputs = torch.randn(1, 2, 4, 4), torch.rand(1, 2, 4, 4), [], []

    def denoise(x_t, t):
        inputs.append(x_t)
        return answer

    out = sample(STEPS, denoise, noise, steps, shown.append)
    assert len(shown) == steps + 1
    assert all(torch.equal(a, b) for a, b in zip(shown, [*inputs, out], strict=True))
