"""Learning without forgetting (Li and Hoiem, 2016): a stem that learns still says what it said before.

The stem comes from a network that saw far more people than most recipes have. Fine-tuning on few kinds of pictures soon
erases what it knew of the others; here the head that it was trained under looks on, and must see the same, but where the
labels say that it was wrong.
"""

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from diffusionpose.nn.mobilenet import MobileNetV2FPN
from diffusionpose.skeleton import Skeleton
from diffusionpose.training.movenet import MoveNetHeatmaps, shared_joints

WRONG = 3.0
"""Heatmap pixels between a label and the old head's highest point, from which on the head is not held to it."""


class StemAnchor(nn.Module):
    """The stem as it was, with its heatmap head; none of it learns.

    Args:
        weights: File of `tools/make_stem.py`.
        share: Of a batch's clips, how many are looked at.
        skeleton: Of the labels.
        stem: The one that learns.
        width: Of both stems.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
    """

    def __init__(
        self, weights: Path, share: float, skeleton: Skeleton, stem: MobileNetV2FPN, width: float
    ) -> None:
        super().__init__()
        self.share, self._skeleton = share, skeleton
        self.before = MoveNetHeatmaps(weights, width)
        self._finest: Tensor | None = None
        stem.register_forward_hook(self._see)

    def _see(self, _: nn.Module, __: Any, levels: tuple[Tensor, ...]) -> None:
        self._finest = levels[0] if torch.is_grad_enabled() else None

    def forward(
        self,
        images: Float[Tensor, "batch frames 3 image_height image_width"],
        keypoints: Float[Tensor, "batch joints 2"],
    ) -> Float[Tensor, ""]:
        """Squared difference between the head's heatmaps on both stems, as a share of the old ones' square.

        Args:
            images: What the stem that learns has just seen; of some clips the key frames count.
            keypoints: Labels in heatmap pixels, NaN where missing.
        """
        assert self._finest is not None, "the stem has not run"
        batch, frames = images.shape[:2]
        some, key = max(round(self.share * batch), 1), frames // 2
        now = rearrange(self._finest, "(b f) c h w -> b f c h w", b=batch)[:some, key]
        self._finest = None
        with torch.no_grad():
            before = self.before(images[:some, key])
            held = self._held(before, keypoints[:some])
        error = (self.before.read(now) - before).square().sum((2, 3)) * held
        known = before.square().sum((2, 3)) * held
        return (error.sum(1) / known.sum(1).clamp_min(1.0)).mean()

    def _held(self, before: Tensor, keypoints: Tensor) -> Tensor:
        """(batch, COCO's joints) whether the head is to be held: everywhere but where a label is elsewhere."""
        joints, columns = shared_joints(self._skeleton)
        place = before[:, columns].flatten(2).argmax(-1)
        width = before.shape[-1]
        found = torch.stack([place % width, place // width], -1)
        distance = (found - keypoints[:, joints]).norm(dim=-1)
        held = torch.ones(before.shape[:2], device=before.device)
        # NaN, where there is no label, is not far.
        held[:, columns] = (~(distance > WRONG)).float()
        return held
