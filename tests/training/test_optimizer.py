"""Trained parameters, weight decay, and weight averaging."""

import torch

from diffusionpose import DiffusionPose
from diffusionpose.recipe import OptimizerConfig
from diffusionpose.training.optimizer import make_average, make_optimizer
from tests.test_train import model_config


def test_what_embeds_is_not_decayed_and_what_is_frozen_is_not_trained():
    model = DiffusionPose(model_config("tiny"))
    parameters = dict(model.named_parameters())
    frozen = parameters["decoder.embed.weight"].requires_grad_(False)
    groups = make_optimizer(model, OptimizerConfig(), lambda _: 1.0)["optimizer"].param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert id(frozen) not in decay
    for name in (
        "backbone.position",
        "encoder.frame_embedding",
        "decoder.joint_embedding",
        "encoder.blocks.0.spatial.mamba.A_log",
    ):
        assert decay[id(parameters[name])] == 0, name


def test_the_average_of_what_is_frozen_has_the_same_bits():
    average = make_average(0.99)._kwargs["avg_fn"]
    frozen = torch.tensor([-0.0, 0.0, 1e-40, -3.3, 7e8])
    for count in (1, 10, 10**6):
        mean = average(frozen, frozen, torch.tensor(count))
        # The feature cache is keyed by the exact weights of the backbone.
        assert mean.numpy().tobytes() == frozen.numpy().tobytes()
