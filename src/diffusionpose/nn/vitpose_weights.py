"""Conversion of ViTPose weights from their public layouts to the plain ViT of `backbone.py`.

| layout | attention | feed-forward | "+" form |
|---|---|---|---|
| original `.pth` | `blocks.I.attn.qkv`, `.proj` | `mlp.fc1`, `mlp.fc2` | `mlp.experts.K` |
| Hugging Face | `encoder.layer.I.attention.attention.query`, `.key`, `.value` | the same | the same |

In the "+" form (ViTPose+, mixture of experts) the last channels of each block are computed by an
expert per data set. For a single data set it is a plain ViT: the expert's rows are appended to
those of `fc2`.
"""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from diffusionpose.errors import CheckpointError

COCO_EXPERT = 0
_ASPECT = 4 / 3
"""Height by width of every ViTPose input."""

_RENAME = (
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^last_norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layer.\1.attention.attention.qkv."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layer.\1.mlp."),
)


def convert(
    tensors: Mapping[str, Tensor], grid: tuple[int, int], expert: int = COCO_EXPERT
) -> dict[str, Tensor]:
    """Convert to a state dict for `VitPoseBackbone` of transformers without experts.

    Args:
        tensors: In either layout, with or without a `backbone.` prefix; heads are dropped.
        grid: Target (rows, columns) of tokens; position embeddings are interpolated to it.
        expert: Index of the expert in the "+" form; 0 is COCO.

    Raises:
        CheckpointError: If the tensors are not those of a ViTPose backbone.
    """
    state = _unified(tensors)
    if "embeddings.position_embeddings" not in state:
        raise CheckpointError("not a ViTPose backbone: the weights have no position embeddings")
    state = _merge_experts(_split_qkv(state), expert)
    position = state["embeddings.position_embeddings"]
    return state | {"embeddings.position_embeddings": resize_position(position, grid)}


def _unified(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to Hugging Face's names without prefix, and drop heads."""
    prefixed = any(name.startswith("backbone.") for name in tensors)
    state = {}
    for name, tensor in tensors.items():
        if prefixed and not name.startswith("backbone."):
            continue
        short = name.removeprefix("backbone.")
        for pattern, replacement in _RENAME:
            short = re.sub(pattern, replacement, short)
        if short.startswith(("embeddings.", "encoder.", "layernorm.")):
            state[short] = tensor
    return state


def _split_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, tensor in state.items():
        if ".attention.attention.qkv." not in name:
            out[name] = tensor
            continue
        for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            out[name.replace(".qkv.", f".{part}.")] = piece
    return out


def _merge_experts(state: dict[str, Tensor], expert: int) -> dict[str, Tensor]:
    out = {name: tensor for name, tensor in state.items() if ".experts." not in name}
    experts = {int(m[1]) for name in state if (m := re.search(r"\.experts\.(\d+)\.", name))}
    if not experts:
        return out
    if expert not in experts:
        raise CheckpointError(f"no expert {expert} in the weights; choose from {sorted(experts)}")
    for name, tensor in out.items():
        head, fc2, kind = name.partition(".mlp.fc2.")
        if fc2:
            out[name] = torch.cat([tensor, state[f"{head}.mlp.experts.{expert}.{kind}"]])
    return out


def resize_position(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Interpolate position embeddings (1, 1 + rows * columns, dim) bicubically to another grid.

    The class token's embedding is kept.

    Raises:
        CheckpointError: If the source grid is not 4 : 3.
    """
    tokens = position.shape[1] - 1
    rows = round((tokens * _ASPECT) ** 0.5)
    columns = round(tokens / rows)
    if rows * columns != tokens:
        raise CheckpointError(f"{tokens} position embeddings do not form a grid of aspect 4 : 3")
    if (rows, columns) == grid:
        return position
    cells = rearrange(position[:, 1:], "one (h w) d -> one d h w", h=rows)
    cells = F.interpolate(cells, grid, mode="bicubic", align_corners=False)
    return torch.cat([position[:, :1], rearrange(cells, "one d h w -> one (h w) d")], dim=1)
