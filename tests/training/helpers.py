"""Helpers: single training steps, and weights of a stem with its original head."""

import torch
from safetensors.torch import save_file
from torch import nn

from diffusionpose.nn.mobilenet import MobileNetV2FPN, SeparableConv
from diffusionpose.skeleton import COCO17
from diffusionpose.training.module import PoseTraining
from diffusionpose.training.movenet import HEAD, HEAD_CHANNELS, STEM
from diffusionpose.training.optimizer import make_optimizer
from diffusionpose.training.sources import make_loaders


def one_step(config, run, precision=torch.float32):
    """Run one optimizer step; return the module, its weights before the step, and the loss."""
    loader = make_loaders(config).train
    module = PoseTraining(config, run).train()
    module.log = lambda *_, **__: None
    before = {k: v.clone() for k, v in module.model.state_dict().items()}
    optimizer = make_optimizer(module.model, config.optimizer, lambda _: 1.0)["optimizer"]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss = module.training_step(next(iter(loader)), 0)
    loss.backward()
    optimizer.step()
    return module, before, loss.detach()


def changed_parts(module, before):
    after = module.model.state_dict()
    return {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}


def write_stem(path, width):
    """Write a file like that of `tools/make_stem.py`, with random weights."""
    head = nn.Sequential(
        SeparableConv(24, HEAD_CHANNELS), nn.Conv2d(HEAD_CHANNELS, COCO17.num_joints, 1)
    )
    stem = MobileNetV2FPN(width).state_dict()
    tensors = {f"{STEM}{k}": v for k, v in stem.items()}
    save_file(tensors | {f"{HEAD}{k}": v for k, v in head.state_dict().items()}, path)
    return path


def with_stem(config):
    """Return the recipe with a hybrid backbone, which has a stem."""
    hybrid = config.model.backbone.model_copy(update={"kind": "hybrid"})
    return config.model_copy(update={"model": config.model.model_copy(update={"backbone": hybrid})})
