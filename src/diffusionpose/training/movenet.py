"""The original MoveNet, stem and heatmap head, as a reference in training."""

from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from diffusionpose.errors import CheckpointError
from diffusionpose.model.checkpoint import check_fit, read_weights
from diffusionpose.nn.backbone import normalise
from diffusionpose.nn.mobilenet import MobileNetV2FPN, SeparableConv
from diffusionpose.skeleton import COCO17, Skeleton

HEAD_CHANNELS = 96
STEM, HEAD = "backbone.stem.", "anchor.head."
"""Prefixes of the tensor names in the file."""


def shared_joints(skeleton: Skeleton) -> tuple[list[int], list[int]]:
    """Return the indices of the joints shared with MoveNet, in the skeleton and in COCO's."""
    names = [joint for joint in COCO17.joints if joint in skeleton.joints]
    return [skeleton.index(joint) for joint in names], [COCO17.index(joint) for joint in names]


class MoveNetHeatmaps(nn.Module):
    """Predicts heatmaps of the COCO joints from a crop; frozen.

    Args:
        weights: File written by `tools/make_stem.py`.
        width: Width of the stem; by default that of the file.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
    """

    def __init__(self, weights: Path, width: float | None = None) -> None:
        super().__init__()
        tensors = read_weights(weights)
        if not any(name.startswith(HEAD) for name in tensors):
            raise CheckpointError(
                f"{weights}: MoveNet's heatmap head is not in this file; give one written by "
                "tools/make_stem.py, or the folder of a model"
            )
        first = tensors.get(f"{STEM}first.weight")
        if width is None:
            width = 1.0 if first is None else len(first) / 32
        self.stem = MobileNetV2FPN(width)
        self.head = nn.Sequential(
            SeparableConv(self.stem.channels[0], HEAD_CHANNELS),
            nn.Conv2d(HEAD_CHANNELS, COCO17.num_joints, 1),
        )
        for part, start in ((self.stem, STEM), (self.head, HEAD)):
            state = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            check_fit(part.state_dict(), state, str(weights))
            part.load_state_dict(state)
        self.requires_grad_(False)

    def read(
        self, finest: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 17 height width"]:
        """Apply the head to the finest level of a stem."""
        return self.head(finest).float().sigmoid()

    def forward(
        self, images: Shaped[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch 17 height width"]:
        """Apply stem and head to RGB crops in [0, 255]."""
        crops = normalise(images).contiguous(memory_format=torch.channels_last)
        return self.read(self.stem(crops)[0])
