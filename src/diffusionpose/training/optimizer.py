"""AdamW with learning rates by part of the model, its schedule, and weight averaging."""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from diffusionpose.model.model import DiffusionPose
from diffusionpose.recipe import OptimizerConfig


def rate_at(step: int, total: int, epochs: int, config: OptimizerConfig) -> float:
    """Return the learning rate at a step relative to its peak: warm-up, then `step` or `cosine`.

    Args:
        step: Optimizer step, from 0.
        total: Steps of the run.
        epochs: Epochs of the run.
        config: Schedule, warm-up and milestones.
    """
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "cosine":
        return warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0))))
    epoch = step * epochs / total
    return warmup * 0.1 ** sum(epoch >= milestone for milestone in config.milestones)


_UNDECAYED = ("_tokens", "embedding", "position", "position_embeddings", "A_log")
"""Name endings of parameters without weight decay: embeddings and Mamba's decay rates."""
_BLOCK = re.compile(r"backbone\.(?:vit\.encoder\.layer|blocks)\.(\d+)\.")


def part_scale(name: str, depth: int, config: OptimizerConfig) -> float:
    """Return the learning rate of a parameter relative to the highest.

    With layer decay, the backbone's final norm has the backbone's full rate. Each block below it,
    and in the end the stem, patch embedding and positions, gets one more factor of the decay.

    Args:
        name: Name of the parameter in `DiffusionPose`.
        depth: Number of blocks of the backbone.
        config: Scales and layer decay.
    """
    if not name.startswith("backbone."):
        return 1.0
    block = _BLOCK.match(name)
    if block:
        below = depth - int(block[1])
    else:
        below = 0 if "layernorm." in name or name.startswith("backbone.norm") else depth + 1
    scale = config.backbone_scale * config.layer_decay**below
    return scale * config.stem_scale if name.startswith("backbone.stem.") else scale


def make_optimizer(
    model: DiffusionPose, config: OptimizerConfig, rate: Callable[[int], float]
) -> dict[str, Any]:
    """Create AdamW and its schedule for Lightning.

    Norms, biases, gates and embeddings have no weight decay; learning rates are scaled by
    `part_scale`.

    Args:
        model: The model to train.
        config: Learning rates and weight decay.
        rate: Learning rate at a step relative to its peak.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or name.endswith(_UNDECAYED)
            scale = part_scale(name, model.config.backbone.depth, config)
            groups.setdefault((scale, plain), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate * scale,
                "weight_decay": 0.0 if plain else config.weight_decay,
            }
            for (scale, plain), parameters in groups.items()
        ],
        fused=True,
    )
    scheduler = LambdaLR(optimizer, rate)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def renew_rates(scheduler: LambdaLR) -> None:
    """Recompute every group's learning rate from the schedule at the current step.

    A checkpoint restores the rates of the run that wrote it, whose schedule may have been shorter.
    """
    groups = scheduler.optimizer.param_groups
    for group, peak, rate in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = peak * rate(scheduler.last_epoch)


def make_average(decay: float) -> WeightAveraging:
    """Create an exponential moving average of the weights.

    The decay grows from 0.1 to `decay`, so that the random initialisation is soon forgotten.
    """

    def average(mean: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        weight = min(decay, (1 + int(count)) / (10 + int(count)))
        # This form leaves frozen weights bit-identical, including signed zeros.
        return current - weight * (current - mean)

    # Buffers are constant tables, which are copied rather than averaged.
    return WeightAveraging(avg_fn=average, use_buffers=False)
