"""Human poses from video, by diffusion over heatmaps.

from diffusionpose import PosePipeline

poses = PosePipeline.from_pretrained("tiny")("video.mp4")
"""

import os
from typing import TYPE_CHECKING, Any

from diffusionpose.version import __version__

# Nothing phones home. Read by dependencies when they are imported, so it stands before any of them.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# From 1.29 on, onnxruntime sends what it runs to its makers, and leaves an id in the folder for temporary files.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from diffusionpose.model.model import DiffusionPose
    from diffusionpose.poses import VideoPoses
    from diffusionpose.predict import PosePipeline

__all__ = ["DiffusionPose", "PosePipeline", "VideoPoses", "__version__"]


def __getattr__(name: str) -> Any:
    """Loads the public classes when first asked for, so that `diffusionpose --help` does not wait for torch."""
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
    """The public classes too, for notebooks that complete names."""
    return sorted({*globals(), *__all__})
