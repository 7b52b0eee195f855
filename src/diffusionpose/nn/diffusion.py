"""The diffusion of heatmaps: diffusers' DDIM scheduler, set up as the paper needs it.

| here | paper |
|---|---|
| `x_0` | ground-truth heatmaps, scaled to (2h - 1) * signal_scale |
| `x_t` | noisy heatmaps at step t |
| `alphas_cumprod` | product of the alpha_t, cosine scheme |
| `num_inference_steps` | DDIM steps; 1 in the paper |

1. Training: x_t = sqrt(alphas_cumprod_t) x_0 + sqrt(1 - alphas_cumprod_t) noise.
2. The network predicts x_0 itself from (x_t, t, conditions), as DiffusionDet does.
3. Inference: x_T is Gaussian; each DDIM step moves x_t along (x_0, implied noise) to the previous step. With one step
   the result is the network's x_0, untouched.
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
    """The cosine schedule with x_0 prediction; steps start at T - 1 (`trailing`): of 1000, four are 999, 749, 499, 249."""
    # Not with the module: it takes as long to import as torch, and one step does without it.
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
    """Heatmaps in [0, 1] -> x_0 in [-scale, scale]."""
    return (2 * heatmaps - 1) * scale


def to_heatmaps(signal: Tensor, scale: float) -> Tensor:
    """x_0 -> heatmaps; the inverse of `to_signal`."""
    return (signal / scale + 1) / 2


def add_noise(
    scheduler: DDIMScheduler,
    x_0: Float[Tensor, "batch joints height width"],
    noise: Float[Tensor, "batch joints height width"],
    t: Int[Tensor, " batch"],
) -> Float[Tensor, "batch joints height width"]:
    """The forward process, x_t from x_0."""
    return scheduler.add_noise(x_0, noise, t)  # pyright: ignore[reportArgumentType]


class DdimStep(NamedTuple):
    """From step `t` on: the share alphas_cumprod of the signal there, and where the step leads."""

    t: int
    here: float
    there: float


@lru_cache
def ddim_steps(num_train_timesteps: int, number: int) -> tuple[DdimStep, ...]:
    """From pure noise to x_0; of the schedule, one step needs nothing.

    Raises:
        ValueError: If the schedule has not so many.
    """
    if not 1 <= number <= num_train_timesteps:
        raise ValueError(f"{number} DDIM steps: the schedule has 1 to {num_train_timesteps}")
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
    """Deterministic DDIM (eta 0) from pure noise to x_0.

    The scheduler gives the steps; they are taken here, from each to the next. Its own `step` takes all of them to be
    equally far apart, which rounding forbids where their number does not divide the schedule's.

    Args:
        noise: x_T, standard Gaussian.
        num_inference_steps: At most `num_train_timesteps`.
        on_step: Called with x_T, and with what every step makes of it.
    """
    x_t = noise
    show = on_step or (lambda _: None)
    show(x_t)
    for t, here, there in ddim_steps(num_train_timesteps, num_inference_steps):
        x_0 = denoise(x_t, torch.full((x_t.shape[0],), t, device=x_t.device))
        if there == 1.0:
            # The last step ends at x_0 itself; with one step nothing is divided by sqrt(alphas_cumprod) = 2e-9.
            show(x_0)
            return x_0
        implied = (x_t - here**0.5 * x_0) / (1 - here) ** 0.5
        x_t = there**0.5 * x_0 + (1 - there) ** 0.5 * implied
        show(x_t)
    return x_t


def seeded_noise(shape: Sequence[int], key: tuple[object, ...]) -> Float[Tensor, "..."]:
    """Standard Gaussian noise that `key` alone decides, on the CPU.

    Keyed by (seed, track, frame, hypothesis), a person's noise does not depend on who else is in the batch.
    """
    return torch.randn(tuple(shape), generator=keyed_generator(key))


def keyed_generator(key: tuple[object, ...]) -> torch.Generator:
    """A generator of the CPU that `key` alone decides."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
