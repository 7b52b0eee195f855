"""What this installation has, and whether its parts work: each finding is one line with what to do about it."""

import importlib.util
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from diffusionpose.errors import DiffusionPoseError, install_command
from diffusionpose.version import __version__

EXTRAS = {
    "train": "lightning",
    "export": "onnxscript",
    "openvino": "openvino",
    "eval": "motmetrics",
    "hota": "trackeval",
    "app": "starlette",
    "ray": "ray",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: `slow` and `absent` are no faults."""

    name: str
    status: Literal["ok", "slow", "absent", "broken"]
    detail: str


def examine() -> Iterator[Finding]:
    """All findings, as they come."""
    yield Finding("diffusionpose", "ok", f"{__version__}, Python {platform.python_version()}")
    yield Finding("machine", "ok", f"{platform.system()} {platform.machine()}")
    for name, check in _CHECKS.items():
        try:
            yield from check(name)
        # Whatever a part raises is what this report is for.
        except (DiffusionPoseError, OSError, RuntimeError, ImportError, ValueError) as error:
            yield Finding(name, "broken", f"{type(error).__name__}: {error}")
    for extra, package in EXTRAS.items():
        if importlib.util.find_spec(package):
            yield Finding(f"extra {extra}", "ok", f"{package} {version(package)}")
        else:
            hint = install_command(extra)
            yield Finding(f"extra {extra}", "absent", f"{package} is not installed: {hint}")


def _torch(name: str) -> Iterator[Finding]:
    import torch

    threads = torch.get_num_threads()
    plural = "thread" if threads == 1 else "threads"
    yield Finding(name, "ok", f"{torch.__version__}, {threads} {plural}")
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found += ["Apple MPS"] if torch.backends.mps.is_available() else []
    yield Finding("accelerator", "ok" if found else "absent", ", ".join(found) or "none: the CPU")


def _scan(name: str) -> Iterator[Finding]:
    import torch

    from diffusionpose.nn import native_scan
    from diffusionpose.nn.selective_scan import engine_for, selective_scan

    u, b = torch.ones(1, 16, 40), torch.ones(1, 16, 40)
    y = selective_scan(u, 0.1 * u, -torch.ones(16, 16), b, b)
    if not torch.isfinite(y).all():
        yield Finding(name, "broken", "the scan of ones is not finite")
    if native_scan.is_available():
        yield Finding(name, "ok", f"native library, {native_scan.vectors()[-1]} vectors")
    else:
        detail = "torch: the native library was not built; with a C++ compiler, install again"
        yield Finding(name, "slow", detail)
    if torch.cuda.is_available():
        engine = engine_for(torch.device("cuda"), torch.float32)
        good = engine == "triton"
        detail = "Triton" if good else "torch: pip install triton for the fast one"
        yield Finding(f"{name}, CUDA", "ok" if good else "slow", detail)


def _model(name: str) -> Iterator[Finding]:
    import torch

    from diffusionpose.model.model import DiffusionPose
    from diffusionpose.model.pretrained import bundled

    for size in bundled():
        model = DiffusionPose.from_pretrained(size)
        height, width = model.config.image_size[1], model.config.image_size[0]
        images = torch.zeros(1, model.config.num_frames, 3, height, width, dtype=torch.uint8)
        noise = torch.zeros(1, *model.noise_shape)
        with torch.inference_mode():
            model.generate(model.encode(model.extract(images)), noise)
            start = time.perf_counter()
            model.generate(model.encode(model.extract(images)), noise)
        took = 1000 * (time.perf_counter() - start)
        yield Finding(f"{name} {size}", "ok", f"weights as shipped; a window in {took:.0f} ms")


def _detector(name: str) -> Iterator[Finding]:
    import numpy as np

    from diffusionpose.detection import load_detector

    detector = load_detector(None)
    detector([np.zeros((240, 320, 3), np.uint8)])
    yield Finding(name, "ok", f"{detector.name}, onnxruntime {version('onnxruntime')}")


def _video(name: str) -> Iterator[Finding]:
    import av

    missing = [] if _has("h264", "r") else ["h264"]
    missing += [] if _has("libx264", "w") else ["libx264"]
    if missing:
        detail = f"PyAV {av.__version__} lacks {', '.join(missing)}: install PyAV's own wheel"
        yield Finding(name, "broken", detail)
    else:
        yield Finding(name, "ok", f"PyAV {av.__version__} with H.264")


def _has(codec: str, mode: Literal["r", "w"]) -> bool:
    import av
    from av.codec.codec import UnknownCodecError

    try:
        av.Codec(codec, mode)
    except UnknownCodecError:
        return False
    return True


_CHECKS: dict[str, Callable[[str], Iterator[Finding]]] = {
    "torch": _torch,
    "selective scan": _scan,
    "model": _model,
    "detector": _detector,
    "video": _video,
}
