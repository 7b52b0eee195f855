"""Visual backbones: crops -> N image tokens of D channels, one token per 16 x 16 pixels.

| here | paper |
|---|---|
| `ViTBackbone` | the Vision Transformer pre-trained on COCO (ViTPose) |
| `HybridBackbone` | the same idea for small machines: ViT blocks behind a MobileNetV2 stem |
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffusionpose.config import BackboneConfig, Size
from diffusionpose.nn.attention import TransformerBlock, grid_embedding

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, as ViTPose and MobileNetV2 were trained with."""


class Backbone(Protocol):
    """What the model asks of a backbone."""

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]: ...


def normalise(images: Tensor) -> Tensor:
    """uint8 or [0, 255] RGB (..., 3, h, w) -> zero mean, unit variance by ImageNet's statistics."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std


def grid_of(config: BackboneConfig, image_size: Size) -> tuple[int, int]:
    """(rows, columns) of image tokens."""
    return image_size[0] // config.patch_size, image_size[1] // config.patch_size


class ViTBackbone(nn.Module):
    """transformers' `VitPoseBackbone`: plain ViT with ViTPose's padding, so that its COCO weights load.

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
        return self.vit(images).feature_maps[-1]


class HybridBackbone(nn.Module):
    """MobileNetV2 up to stride 16, then ViT blocks (the hybrid of the ViT paper, section 3.1).

    The stride-8 features are folded into the tokens (space to depth), so that a token knows where in its 16 x 16
    pixels an edge lies.

    Args:
        config: Width, depth, heads of the ViT blocks.
        image_size: (height, width) of a crop.
    """

    def __init__(self, config: BackboneConfig, image_size: Size) -> None:
        super().__init__()
        self.stem = MobileNetV2Stem()
        self.project = nn.Linear(self.stem.channels, config.hidden_size)
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
        tokens = self.project(self.stem(images).flatten(2).transpose(1, 2)) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class MobileNetV2Stem(nn.Module):
    """The first 14 of MobileNetV2's layers (width 1.0); parameter names as in torchvision's `features`.

    Its stride-8 output (32 channels) goes along, four pixels folded into one. Batch statistics stay those of the
    pretrained weights, as usual when fine-tuning with small batches.
    """

    channels = 96 + 4 * 32
    _EIGHTH = 6

    # (expansion, channels, repeats, stride), Table 2 of the MobileNetV2 paper, up to stride 16
    _LAYERS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu(3, 32, stride=2)]
        width = 32
        for expansion, channels, repeats, first_stride in self._LAYERS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                layers.append(InvertedResidual(width, channels, stride, expansion))
                width = channels
        self.features = nn.Sequential(*layers)

    def train(self, mode: bool = True) -> "MobileNetV2Stem":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def freeze(self, num_layers: int) -> None:
        """Stops the first layers from learning."""
        self.features[:num_layers].requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        x, eighth = images, None
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index == self._EIGHTH:
                eighth = F.pixel_unshuffle(x, 2)
        assert eighth is not None
        return torch.cat([x, eighth], dim=1)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise, project, with a residual where the shapes allow."""

    def __init__(self, dim_in: int, dim_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = dim_in * expansion
        self.residual = stride == 1 and dim_in == dim_out
        # Flat, so that the names match the published state dicts.
        expand = [] if expansion == 1 else [*_conv_bn_relu(dim_in, hidden, kernel=1)]
        self.conv = nn.Sequential(
            *expand,
            *_conv_bn_relu(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, dim_out, 1, bias=False),
            nn.BatchNorm2d(dim_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _conv_bn_relu(
    dim_in: int, dim_out: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(dim_out),
        nn.ReLU6(inplace=True),
    )


def make_backbone(config: BackboneConfig, image_size: Size) -> ViTBackbone | HybridBackbone:
    """The backbone of a configuration, randomly initialised."""
    return {"vit": ViTBackbone, "hybrid": HybridBackbone}[config.kind](config, image_size)
