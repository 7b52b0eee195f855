"""Visual backbones: crops to N image tokens of D channels, one token per 16 x 16 pixels.

| here | paper |
|---|---|
| `ViTBackbone` | the Vision Transformer pre-trained on COCO (ViTPose) |
| `HybridBackbone` | not in the paper; for small machines: ViT blocks on MobileNetV2 with an FPN |
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffusionpose.config import BackboneConfig, Size
from diffusionpose.nn.attention import TransformerBlock, grid_embedding
from diffusionpose.nn.mobilenet import MobileNetV2FPN

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet statistics, as used to train ViTPose."""


def normalise(images: Tensor) -> Tensor:
    """Normalise RGB images (..., 3, h, w) in [0, 255] by ImageNet mean and standard deviation."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std


def grid_of(config: BackboneConfig, image_size: Size) -> tuple[int, int]:
    """Return (rows, columns) of the grid of image tokens."""
    return image_size[0] // config.patch_size, image_size[1] // config.patch_size


class ViTBackbone(nn.Module):
    """Plain ViT: `VitPoseBackbone` of transformers, with ViTPose's padding, so its weights load.

    Args:
        config: Width, depth, heads.
        image_size: (height, width) of a crop.
    """

    def __init__(self, config: BackboneConfig, image_size: Size) -> None:
        super().__init__()
        from transformers import VitPoseBackbone, VitPoseBackboneConfig

        self.vit = VitPoseBackbone(
            VitPoseBackboneConfig(
                image_size=list(image_size),
                patch_size=[config.patch_size, config.patch_size],
                hidden_size=config.hidden_size,
                num_hidden_layers=config.depth,
                num_attention_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                num_experts=1,
                part_features=0,
            )
        )

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens of normalised crops in row-major order."""
        return self.vit(images).feature_maps[-1]


class HybridBackbone(nn.Module):
    """ViT blocks on top of a convolutional stem (the hybrid of the ViT paper, section 3.1).

    The stem's finer features are folded into the tokens (space to depth), which preserves the
    location of features within the 16 x 16 pixels of a token.

    Args:
        config: Width, depth, heads of the ViT blocks.
        image_size: (height, width) of a crop.
    """

    _FOLDS = (4, 2, 1)

    def __init__(self, config: BackboneConfig, image_size: Size) -> None:
        super().__init__()
        self.stem = MobileNetV2FPN(config.stem_width)
        folded = sum(
            dim * fold**2 for dim, fold in zip(self.stem.channels, self._FOLDS, strict=True)
        )
        self.project = nn.Linear(folded, config.hidden_size)
        grid = grid_of(config, image_size)
        self.position = nn.Parameter(0.1 * grid_embedding(grid, config.hidden_size))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.hidden_size, config.num_heads, config.mlp_ratio)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens of normalised crops in row-major order."""
        # Normalising over channels and area keeps the relative strength of features within a crop.
        levels = (F.layer_norm(x, x.shape[1:]) for x in self.stem(images))
        folded = torch.cat(
            [F.pixel_unshuffle(x, fold) for x, fold in zip(levels, self._FOLDS, strict=True)], dim=1
        )
        tokens = self.project(folded.flatten(2).transpose(1, 2)) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


def make_backbone(config: BackboneConfig, image_size: Size) -> ViTBackbone | HybridBackbone:
    """Create the backbone of a configuration, randomly initialised."""
    return {"vit": ViTBackbone, "hybrid": HybridBackbone}[config.kind](config, image_size)
