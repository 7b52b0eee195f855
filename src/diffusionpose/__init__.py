"""Human pose estimation in video with diffusion over heatmaps.

from diffusionpose import PosePipeline

poses = PosePipeline.from_pretrained("tiny")("video.mp4")
"""

import os
from typing import TYPE_CHECKING, Any

from diffusionpose.version import __version__

# No telemetry. Dependencies read these when they are imported, so set them before any import.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Since 1.29, onnxruntime sends usage data and writes an id into the temporary folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from diffusionpose.model.model import DiffusionPose
    from diffusionpose.poses import VideoPoses
    from diffusionpose.predict import PosePipeline

__all__ = ["DiffusionPose", "PosePipeline", "VideoPoses", "__version__"]


def __getattr__(name: str) -> Any:
    """Load public classes on first access, so that `diffusionpose --help` does not import torch."""
    if name == "PosePipeline":
        from diffusionpose.predict import PosePipeline

        return PosePipeline
    if name == "VideoPoses":
        from diffusionpose.poses import VideoPoses

        return VideoPoses
    if name == "DiffusionPose":
        from diffusionpose.model.model import DiffusionPose

        return DiffusionPose
    raise AttributeError(f"module 'diffusionpose' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the lazily loaded classes too, for tab completion."""
    return sorted({*globals(), *__all__})
