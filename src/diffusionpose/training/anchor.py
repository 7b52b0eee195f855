"""Learning without forgetting (Li and Hoiem, 2016) for the stem of the hybrid backbone.

The stem was pretrained on far more people than most recipes have, and fine-tuning on a narrow
domain soon erases that knowledge. As a regulariser, the head of the original network must give the
same heatmaps on the fine-tuned stem as on the original one, except where the labels contradict
them.
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
"""Distance in heatmap pixels between label and original peak above which the joint is exempt."""


class StemAnchor(nn.Module):
    """The original stem with its heatmap head, both frozen.

    Args:
        weights: File written by `tools/make_stem.py`.
        share: Share of the clips of a batch to compute the loss on.
        skeleton: Skeleton of the labels.
        stem: The stem in training.
        width: Width of both stems.

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
        """Compute the squared difference of the heatmaps on both stems, relative to the old ones.

        Args:
            images: The input of the latest forward pass of the stem in training.
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
        """Return (batch, COCO joints) 1 for joints to preserve, 0 where a label is elsewhere."""
        joints, columns = shared_joints(self._skeleton)
        place = before[:, columns].flatten(2).argmax(-1)
        width = before.shape[-1]
        found = torch.stack([place % width, place // width], -1)
        distance = (found - keypoints[:, joints]).norm(dim=-1)
        held = torch.ones(before.shape[:2], device=before.device)
        # Comparisons with NaN are false: joints without a label are preserved.
        held[:, columns] = (~(distance > WRONG)).float()
        return held
