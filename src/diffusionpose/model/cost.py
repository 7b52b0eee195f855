"""Parameters and floating-point operations of a configuration, counted on the meta device."""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffusionpose.config import ModelConfig
from diffusionpose.model.model import DiffusionPose
from diffusionpose.nn.mamba import Mamba

_SCAN_FLOPS = 9
"""Operations of the selective scan per channel, state and step: exponential, products, sums."""


class Cost(NamedTuple):
    """Cost of a window, i.e. of one person in one key frame; a multiply-add is two FLOPs."""

    parameters: int
    flops: int


def window_cost(config: ModelConfig) -> Cost:
    """Count the cost of one window (`config.num_frames` crops) in one DDIM step; nothing cached."""
    with torch.device("meta"):
        model = DiffusionPose(config).eval()
        images = torch.empty(1, config.num_frames, 3, *config.image_size, dtype=torch.uint8)
        x_t = torch.empty(1, *model.noise_shape)
        t = torch.zeros(1, dtype=torch.long)
    scans = 0

    def count_scan(module: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        nonlocal scans
        assert isinstance(module, Mamba)
        inner, state = module.A_log.shape
        scans += _SCAN_FLOPS * args[0].shape[0] * args[0].shape[1] * inner * state

    for module in model.modules():
        if isinstance(module, Mamba):
            module.register_forward_hook(count_scan)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images, x_t, t)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() + scans)
