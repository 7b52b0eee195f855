"""MobileNetV2 with a feature pyramid, the stem of the hybrid backbone.

This is MoveNet without its heads: MobileNetV2 (Table 2 of its paper; width 1.0 in MoveNet
Lightning, 1.75 in Thunder) whose features at strides 32, 16 and 8 are upsampled and added to the
next finer ones. Batch norms are folded into the convolutions, as in the published weights.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffusionpose.nn.packed import Activation, PackedConv, activate, can_pack


def _halved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise 3 x 3 convolution of stride 2, padded at the end only, without a copy of x."""
    if torch.compiler.is_exporting():
        # Constant folding in the exporter loses weights that are padded within the graph.
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, 2, groups=len(weight))
    # Equivalent: pad the map at both ends and the kernel with a leading row and column of zeros.
    return F.conv2d(x, F.pad(weight, (1, 0, 1, 0)), bias, 2, 1, groups=len(weight))


class _HalvingDepthwise(torch.autograd.Function):
    """Depthwise 3 x 3 convolution of stride 2 with a fast backward pass on the CPU.

    oneDNN has no fast gradient of strided depthwise convolutions: four of them took half of a
    training step. The backward pass is that of stride 1, with zeros between the output's gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve (batch, channels, height, width) to half the height and width."""
        ctx.save_for_backward(x, weight)
        return _halved(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, weight and bias; output i of stride 2 is output 2 i + 1 of stride 1."""
        x, weight = ctx.saved_tensors
        spread = torch.zeros_like(x)
        spread[:, :, 1::2, 1::2] = gradients[0]
        one = [1, 1]
        return torch.ops.aten.convolution_backward(
            spread, x, weight, [len(weight)], one, one, one, False, [0, 0], len(weight), [True] * 3
        )


class ConvSame(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, followed by an activation.

    With stride 2, even sides are padded at the end only. Inference on x86 CPUs uses `packed`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        bias: bool = True,
        activation: Activation = "none",
    ) -> None:
        padding = 0 if stride == 2 else kernel // 2
        super().__init__(dim_in, dim_out, kernel, stride, padding, groups=groups, bias=bias)
        self.activation: Activation = activation
        self._halves = stride == 2 and groups > 1
        pad = 1 if self._halves else padding
        self._packed = PackedConv((stride, stride), (pad, pad), groups, activation)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, the name in nn.Conv2d
        """Pad, convolve and activate."""
        if self.stride == (2, 2) and not self._halves:
            input = F.pad(input, (0, 1, 0, 1))  # noqa: A001
        if can_pack(input, self.weight):
            return self._packed(input, self.weight, self.bias, before=int(self._halves))
        return activate(self._convolved(input), self.activation)

    def _convolved(self, x: Tensor) -> Tensor:
        if not self._halves:
            return super().forward(x)
        if self.training and self.weight.requires_grad and x.is_cpu:
            return self._learning(x)
        return _halved(x, self.weight, self.bias)

    def _learning(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        dtype = (
            torch.get_autocast_dtype(x.device.type)
            if torch.is_autocast_enabled(x.device.type)
            else x.dtype
        )
        return _HalvingDepthwise.apply(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class InvertedResidual(nn.Module):
    """MobileNetV2 block: expand, depthwise, project; with a residual if the shapes allow."""

    def __init__(self, dim_in: int, dim_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = dim_in * expansion
        self.residual = stride == 1 and dim_in == dim_out
        self.expand = ConvSame(dim_in, hidden, activation="relu6") if expansion > 1 else None
        self.depthwise = ConvSame(hidden, hidden, 3, stride, groups=hidden, activation="relu6")
        self.project = ConvSame(hidden, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block and its residual connection, if it has one."""
        hidden = x if self.expand is None else self.expand(x)
        out = self.project(self.depthwise(hidden))
        return x + out if self.residual else out


class SeparableConv(nn.Module):
    """Depthwise convolution, pointwise convolution and ReLU."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.depthwise = ConvSame(dim_in, dim_in, 3, groups=dim_in, bias=False)
        self.pointwise = ConvSame(dim_in, dim_out, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the separable convolution and ReLU."""
        return self.pointwise(self.depthwise(x))


def scaled_channels(channels: int, width: float) -> int:
    """Scale channels, rounded to a multiple of 8 and at most 10 % down (MobileNetV2's rule)."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class MobileNetV2FPN(nn.Module):
    """MobileNetV2 and feature pyramid, with outputs at strides 4, 8 and 16.

    Args:
        width: Multiplier for MobileNetV2's channels; those of the pyramid are fixed.
    """

    # (expansion, channels, repeats, stride)
    _STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    _TAPS = (2, 5, 9)
    """Indices of the blocks whose outputs, at strides 4, 8 and 16, enter the pyramid."""
    _TOP = 1280
    _LATERAL = (24, 32, 64, 64)
    _SMOOTH = ((24, 24), (32, 24), (64, 32))
    channels = tuple(dim for _, dim in _SMOOTH)

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        dim = scaled_channels(32, width)
        self.first = ConvSame(3, dim, 3, stride=2, activation="relu6")
        blocks, tapped = [], []
        for expansion, channels, repeats, first_stride in self._STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                following = scaled_channels(channels, width)
                blocks.append(InvertedResidual(dim, following, stride, expansion))
                dim = following
                if len(blocks) - 1 in self._TAPS:
                    tapped.append(dim)
        self.blocks = nn.ModuleList(blocks)
        self.top = ConvSame(dim, self._TOP, activation="relu6")
        # Fine to coarse, like `_TAPS`; the last lateral convolution belongs to `top`.
        self.lateral = nn.ModuleList(
            ConvSame(*dims) for dims in zip((*tapped, self._TOP), self._LATERAL, strict=True)
        )
        self.smooth = nn.ModuleList(SeparableConv(*dims) for dims in self._SMOOTH)

    def freeze(self, num_blocks: int) -> None:
        """Freeze the first convolution and the first `num_blocks` blocks; 0 freezes nothing."""
        for part in (self.first, *self.blocks[:num_blocks]) if num_blocks else ():
            part.requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch channels rows columns"], ...]:
        """Return features at strides 4, 8 and 16."""
        x, taps = self.first(images), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self._TAPS:
                taps.append(x)
        taps.append(self.top(x))
        coarse, levels = self.lateral[-1](taps[-1]), []
        for index in reversed(range(len(self.smooth))):
            up = F.interpolate(coarse, scale_factor=2, mode="bilinear")
            coarse = self.smooth[index](up + self.lateral[index](taps[index]))
            levels.append(coarse)
        return tuple(reversed(levels))
