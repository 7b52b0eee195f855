"""MoveNet as it came: its stem under its own heatmap head, for what it knew before a model learnt on."""

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
"""How their tensors are called in the file."""


def shared_joints(skeleton: Skeleton) -> tuple[list[int], list[int]]:
    """Where the joints stand that MoveNet knows too: in the skeleton, and among COCO's."""
    names = [joint for joint in COCO17.joints if joint in skeleton.joints]
    return [skeleton.index(joint) for joint in names], [COCO17.index(joint) for joint in names]


class MoveNetHeatmaps(nn.Module):
    """Heatmaps of COCO's joints from a crop; none of it learns.

    Args:
        weights: File of `tools/make_stem.py`.
        width: Of the stem; None for that of the file.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
    """

    def __init__(self, weights: Path, width: float | None = None) -> None:
        super().__init__()
        tensors = read_weights(weights)
        if not any(name.startswith(HEAD) for name in tensors):
            raise CheckpointError(
                f"{weights}: MoveNet's heatmap head is not in it: give a file of tools/make_stem.py, or a model by its folder"
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
        """The head on a stem's finest level."""
        return self.head(finest).float().sigmoid()

    def forward(
        self, images: Shaped[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch 17 height width"]:
        """The head on its own stem; RGB crops in [0, 255]."""
        crops = normalise(images).contiguous(memory_format=torch.channels_last)
        return self.read(self.stem(crops)[0])
