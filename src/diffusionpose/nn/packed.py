"""Convolutions for inference on x86 CPUs, with prepacked oneDNN weights and fused activations.

In float32, or in bfloat16 under autocast. This saves reordering the weights at every call and a
second pass over the map. Results are bit-identical to `torch.nn.functional.conv2d` wherever that
uses oneDNN; with a single thread, it passes small maps to another library.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["none", "relu", "relu6"]

_FUSED: dict[Activation, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}
"""Names and arguments of the activations in oneDNN."""


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply the activation in place."""
    if activation == "relu":
        return F.relu(x, inplace=True)
    return F.relu6(x, inplace=True) if activation == "relu6" else x


def can_pack(x: Tensor, weight: Tensor) -> bool:
    """Return whether a convolution of x can be packed.

    That needs inference mode, an x86 CPU, and a dtype for which CPU and torch have kernels.
    """
    return (
        torch.is_inference_mode_enabled()
        and not weight.is_inference()  # has no version counter to detect changes by
        and x.device.type == weight.device.type == "cpu"
        and x.dim() == 4
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and _has_kernels(x.dtype, weight.dtype)
    )


def _has_kernels(x: torch.dtype, weight: torch.dtype) -> bool:
    if not (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    ):
        return False
    if not torch.is_autocast_enabled("cpu"):
        return x == weight == torch.float32
    return (
        torch.get_autocast_dtype("cpu") == torch.bfloat16
        and {x, weight} <= {torch.float32, torch.bfloat16}
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class _Kept(NamedTuple):
    """Packed weights; `seen` is the address and version of their source, and the map's size."""

    seen: tuple[int, ...]
    packed: Tensor
    source: Tensor
    """Keeps the source alive, so that its address is not reused."""


class PackedConv:
    """A convolution that caches its packed weights until the weights or the size of maps change.

    Args:
        stride: As in `conv2d`.
        padding: Likewise.
        groups: Likewise.
        activation: Applied to the result.
    """

    def __init__(
        self,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
        activation: Activation,
    ) -> None:
        self.stride, self.padding, self.groups = stride, padding, groups
        self.activation: Activation = activation
        self._kept: dict[tuple[torch.dtype, int], _Kept] = {}

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, before: int = 0) -> Tensor:
        """Convolve and activate, in inference mode.

        Args:
            x: (batch, channels, height, width).
            weight: (channels out, channels / groups, rows, columns).
            bias: (channels out,).
            before: Number of zero rows and columns to prepend to the kernel.
        """
        if torch.is_autocast_enabled("cpu"):
            x, bias = x.bfloat16(), None if bias is None else bias.bfloat16()
        # In float32 one layout serves any batch size. In bfloat16 the results are the same as well,
        # but a single map and a batch each take a hundred times as long with the other's layout.
        maps = 1 if x.dtype == torch.float32 or len(x) == 1 else 8
        seen = weight.data_ptr(), weight._version, *x.shape[2:]
        kept = self._kept.get((x.dtype, maps))
        if kept is None or kept.seen != seen:
            self._kept = {of: other for of, other in self._kept.items() if other.seen == seen}
            padded = F.pad(weight, (before, 0, before, 0)).to(x.dtype)
            packed = self._lay_out(padded, (maps, *x.shape[1:]))
            kept = self._kept[x.dtype, maps] = _Kept(seen, packed, weight.detach())
        name, arguments = _FUSED[self.activation]
        return torch.ops.mkldnn._convolution_pointwise(
            x,
            kept.packed,
            bias,
            self.padding,
            self.stride,
            (1, 1),
            self.groups,
            name,
            arguments,
            "",
        )

    def _lay_out(self, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(memory_format=torch.channels_last),
            self.padding,
            self.stride,
            (1, 1),
            self.groups,
            shape,
        )

    def __getstate__(self) -> dict[str, object]:
        """Leave out the packed weights: copies pack their own."""
        return {**self.__dict__, "_kept": {}}
