"""AdamW with rates by part of the model, its schedule, and the running average of the weights."""

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
    """The learning rate at a step as a share of its peak: linear warm-up, then `step` or `cosine`."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "cosine":
        return warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0))))
    epoch = step * epochs / total
    return warmup * 0.1 ** sum(epoch >= milestone for milestone in config.milestones)


_UNDECAYED = ("_tokens", "embedding", "position", "position_embeddings", "A_log")
"""Endings of the names of embeddings and of decay rates."""
_BLOCK = re.compile(r"backbone\.(?:vit\.encoder\.layer|blocks)\.(\d+)\.")


def part_scale(name: str, depth: int, config: OptimizerConfig) -> float:
    """The learning rate of a parameter as a share of the highest.

    With layer decay, the backbone's last norm has its full rate and each block below another factor; what lies below
    the first block (stem, patch embedding, positions) has one more.

    Args:
        name: Of the parameter in `DiffusionPose`.
        depth: Blocks of the backbone.
        config: Scales and decay.
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
    """AdamW; no decay on vectors (norms, biases, gates, embeddings), rates of their own for backbone and stem."""
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
    """Sets every group's rate to what the schedule has for the step where it stands.

    A checkpoint brings the rates of the run that wrote it, whose schedule may have been shorter.
    """
    groups = scheduler.optimizer.param_groups
    for group, peak, rate in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = peak * rate(scheduler.last_epoch)


def make_average(decay: float) -> WeightAveraging:
    """Exponential moving average of the weights; its memory grows from nothing, so that the random start is forgotten."""

    def average(mean: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        weight = min(decay, (1 + int(count)) / (10 + int(count)))
        # In this form, what is frozen stays bit for bit, also a zero that has a sign.
        return current - weight * (current - mean)

    # Buffers are tables: copied, not averaged.
    return WeightAveraging(avg_fn=average, use_buffers=False)
