"""Diffusion over heatmaps, built on the DDIM scheduler of diffusers.

| here | paper |
|---|---|
| `x_0` | ground-truth heatmaps, scaled to (2h - 1) * signal_scale |
| `x_t` | noisy heatmaps at step t |
| `alphas_cumprod` | cumulative product of alpha_t, cosine schedule |
| `num_inference_steps` | DDIM steps; 1 in the paper |

1. Training: x_t = sqrt(alphas_cumprod_t) x_0 + sqrt(1 - alphas_cumprod_t) noise.
2. The network predicts x_0 directly from (x_t, t, conditions), as in DiffusionDet.
3. Inference: x_T is Gaussian noise; each DDIM step combines the predicted x_0 with the noise it
   implies to get x_t at the previous time step. With one step, the result is the predicted x_0.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
else:
    DDIMScheduler = Any

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t of shape (batch,)) -> x_0."""


def make_scheduler(num_train_timesteps: int) -> DDIMScheduler:
    """Create a cosine schedule with x_0 prediction and `trailing` spacing.

    Inference starts at T - 1: four of 1000 steps are 999, 749, 499 and 249.
    """
    # Imported lazily: it takes as long as importing torch, and one-step inference does not need it.
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def to_signal(heatmaps: Tensor, scale: float) -> Tensor:
    """Map heatmaps in [0, 1] to x_0 in [-scale, scale]."""
    return (2 * heatmaps - 1) * scale


def to_heatmaps(signal: Tensor, scale: float) -> Tensor:
    """Map x_0 to heatmaps; the inverse of `to_signal`."""
    return (signal / scale + 1) / 2


def add_noise(
    scheduler: DDIMScheduler,
    x_0: Float[Tensor, "batch joints height width"],
    noise: Float[Tensor, "batch joints height width"],
    t: Int[Tensor, " batch"],
) -> Float[Tensor, "batch joints height width"]:
    """Apply the forward process: x_t from x_0."""
    return scheduler.add_noise(x_0, noise, t)  # pyright: ignore[reportArgumentType]


class DdimStep(NamedTuple):
    """A DDIM step: its time `t`, and alphas_cumprod before (`here`) and after (`there`) it."""

    t: int
    here: float
    there: float


@lru_cache
def ddim_steps(num_train_timesteps: int, number: int) -> tuple[DdimStep, ...]:
    """Return the DDIM steps from pure noise to x_0; a single step does not load the scheduler.

    Raises:
        ValueError: If `number` is not in 1 to `num_train_timesteps`.
    """
    if not 1 <= number <= num_train_timesteps:
        raise ValueError(
            f"the number of DDIM steps must be between 1 and {num_train_timesteps}, not {number}"
        )
    if number == 1:
        return (DdimStep(num_train_timesteps - 1, 0.0, 1.0),)
    scheduler = make_scheduler(num_train_timesteps)
    scheduler.set_timesteps(number)
    times = scheduler.timesteps.tolist()
    signal = [float(scheduler.alphas_cumprod[t]) for t in times] + [1.0]
    return tuple(map(DdimStep, times, signal, signal[1:]))


def sample(
    num_train_timesteps: int,
    denoise: Denoiser,
    noise: Float[Tensor, "batch joints height width"],
    num_inference_steps: int = 1,
    on_step: Callable[[Tensor], None] | None = None,
) -> Float[Tensor, "batch joints height width"]:
    """Run deterministic DDIM (eta = 0) from pure noise to x_0.

    Only the time steps come from the scheduler. Its own `step` assumes that they are evenly spaced,
    which is wrong if the number of inference steps does not divide that of training steps.

    Args:
        num_train_timesteps: Length of the schedule, T.
        denoise: Predicts x_0 from (x_t, t).
        noise: x_T, standard Gaussian.
        num_inference_steps: At most `num_train_timesteps`.
        on_step: Called with x_T and with the result of every step.
    """
    x_t = noise
    show = on_step or (lambda _: None)
    show(x_t)
    for t, here, there in ddim_steps(num_train_timesteps, num_inference_steps):
        x_0 = denoise(x_t, torch.full((x_t.shape[0],), t, device=x_t.device))
        if there == 1.0:
            x_t = x_0  # also keeps the single-step case free of divisions
        else:
            implied = (x_t - here**0.5 * x_0) / (1 - here) ** 0.5
            x_t = there**0.5 * x_0 + (1 - there) ** 0.5 * implied
        show(x_t)
    return x_t


def seeded_noise(shape: Sequence[int], key: tuple[object, ...]) -> Float[Tensor, "..."]:
    """Draw standard Gaussian noise on the CPU, determined by `key` alone.

    With (seed, track, frame, hypothesis) as the key, a person's noise does not depend on the rest
    of the batch.
    """
    return torch.randn(tuple(shape), generator=keyed_generator(key))


def keyed_generator(key: tuple[object, ...]) -> torch.Generator:
    """Create a CPU generator that is seeded by `key` alone."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
