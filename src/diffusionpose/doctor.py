"""Checks of the installation: each finding is one line and names the command that fixes it."""

import importlib
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from diffusionpose.errors import first_line, install_command
from diffusionpose.paths import temporary_folder
from diffusionpose.process import usable_cores
from diffusionpose.version import __version__

EXTRAS = {
    "train": "lightning",
    "export": "onnxscript",
    "openvino": "openvino",
    "eval": "motmetrics",
    "hota": "trackeval",
    "tables": "pyarrow",
    "motion": "ezc3d",
    "synthesis": "anny",
    "app": "starlette",
    "ray": "ray",
}
OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""Packages that install a `cv2` each, all into the same folder."""
LEAST_FREE = 2**30
"""Bytes of free disk space below which longer videos may fail."""
WORTH_IT = 1.2
"""Speed-up from which bfloat16 is recommended."""
_REINSTALL = "pip install --force-reinstall --no-deps"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        name: Of the part that was checked.
        status: `slow` and `absent` do not count as failures.
        detail: What was found.
        mend: The command that fixes it; required unless the status is `ok`.
    """

    name: str
    status: Literal["ok", "slow", "absent", "broken"]
    detail: str
    mend: str = ""

    def __post_init__(self) -> None:
        assert self.mend or self.status == "ok"

    def __str__(self) -> str:
        line = f"{self.status:<7} {self.name:<16} {self.detail}"
        return f"{line}: {self.mend}" if self.mend else line


def examine() -> Iterator[Finding]:
    """Run all checks and yield findings as they come."""
    yield Finding("diffusionpose", "ok", f"{__version__}, Python {platform.python_version()}")
    yield Finding("machine", "ok", f"{platform.system()} {platform.machine()}")
    for name, check in _CHECKS.items():
        try:
            yield from check.run(name)
        except Exception as error:  # noqa: BLE001 - any error is a finding
            detail = f"{type(error).__name__}: {first_line(error)}"
            yield Finding(name, "broken", detail, check.mend or _reinstall_command())
    for extra, package in EXTRAS.items():
        found = _version(package)
        if found:
            yield Finding(f"extra {extra}", "ok", f"{package} {found}")
        else:
            detail = f"{package} is not installed"
            yield Finding(f"extra {extra}", "absent", detail, install_command(extra))


def _reinstall_command() -> str:
    """Command that reinstalls this package from its source, since it is in no package index."""
    source = "SOURCE_FOLDER"
    with suppress(PackageNotFoundError, ValueError, KeyError):
        origin = json.loads(distribution("diffusionpose").read_text("direct_url.json") or "{}")
        url = origin["url"]
        # Reinstalling a wheel would not rebuild anything, so only sources are named.
        if "dir_info" in origin:
            folder = shlex.quote(url2pathname(urlsplit(url).path))
            source = f"--editable {folder}" if origin["dir_info"].get("editable") else folder
        elif "vcs_info" in origin:
            source = shlex.quote(f"{origin['vcs_info']['vcs']}+{url}")
    return f"{_REINSTALL} --no-cache-dir {source}"


def _version(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch(name: str) -> Iterator[Finding]:
    import torch

    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    yield Finding(name, "ok", f"{torch.__version__}, built {build}")
    facts = torch.cpu.get_capabilities()
    yield Finding("processor", "ok", torch.backends.cpu.get_cpu_capability())
    yield _threads(torch.get_num_threads(), facts.get("num_physical_cores", 0))
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found += ["Apple MPS"] if torch.backends.mps.is_available() else []
    if found or not _has_nvidia_driver():
        yield Finding("accelerator", "ok", ", ".join(found) or "none: using the CPU")
    elif torch.version.cuda is None:
        detail = f"there is an NVIDIA driver, but torch {torch.__version__} is built without CUDA"
        yield Finding("accelerator", "slow", detail, "pip install --force-reinstall torch")
    else:
        detail = (
            f"there is an NVIDIA driver, but torch finds no device for CUDA {torch.version.cuda}"
        )
        yield Finding("accelerator", "slow", f"{detail}; check the driver version", "nvidia-smi")


def _threads(threads: int, physical_cores: int) -> Finding:
    """Check the number of torch threads: too many compete, too few come from a setting."""
    usable = usable_cores()
    cores = min(usable, physical_cores or usable)
    detail = f"{threads} in torch for {cores} {'core' if cores == 1 else 'cores'}"
    settings = [name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)]
    if threads > cores:
        return Finding("threads", "slow", detail, f"export OMP_NUM_THREADS={cores}")
    if threads < cores and settings:
        return Finding("threads", "slow", detail, f"unset {' '.join(settings)}")
    return Finding("threads", "ok", detail)


def _has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or bool(shutil.which("nvidia-smi"))


def _scan(name: str) -> Iterator[Finding]:
    import torch

    from diffusionpose.nn import native_scan
    from diffusionpose.nn.selective_scan import engine_for, selective_scan

    u, b = torch.ones(1, 16, 40), torch.ones(1, 16, 40)
    y = selective_scan(u, 0.1 * u, -torch.ones(16, 16), b, b)
    if not torch.isfinite(y).all():
        yield Finding(
            name, "broken", "the scan of a constant input is not finite", _reinstall_command()
        )
    if native_scan.is_available():
        yield Finding(name, "ok", f"native library, {native_scan.vectors()[-1]} vectors")
    elif sys.platform == "win32":
        yield Finding(
            name, "slow", "torch: there is no native library for Windows; use WSL", "wsl --install"
        )
    else:
        detail = "torch: the native library was not built; with a C++ compiler installed"
        yield Finding(name, "slow", detail, _reinstall_command())
    if torch.cuda.is_available():
        if engine_for(torch.device("cuda"), torch.float32) == "triton":
            yield Finding(f"{name}, CUDA", "ok", "Triton")
        else:
            yield Finding(f"{name}, CUDA", "slow", "torch, without Triton", "pip install triton")


def _model(name: str) -> Iterator[Finding]:
    from diffusionpose.model.pretrained import bundled

    for size in bundled():
        took, half = _seconds_a_window(size)
        detail = (
            f"weights as shipped; {1000 * took:.0f} ms per window, {1000 * half:.0f} ms in bfloat16"
        )
        if took > WORTH_IT * half:
            detail += ": --precision bfloat16 is faster here"
        yield Finding(f"{name} {size}", "ok", detail)


def _seconds_a_window(size: str) -> tuple[float, float]:
    """Time one person with three new frames in float32 and bfloat16, in seconds.

    Measured, as CPU capabilities do not tell which is faster.
    """
    import torch

    from diffusionpose.networks import load_network

    device = torch.device("cpu")
    networks = (load_network(size, device), load_network(size, device, precision="bfloat16"))
    config = networks[0].config
    height, width = config.image_size
    cuts = torch.zeros(config.num_frames, 3, height, width, dtype=torch.uint8)
    noise = torch.zeros(1, 1, *networks[0].noise_shape)
    times: tuple[list[float], list[float]] = ([], [])
    # Alternate and take the minimum, as other processes may be running.
    for _ in range(5):
        for network, taken in zip(networks, times, strict=True):
            start = time.perf_counter()
            network.heatmaps(network.features(cuts)[None], noise)
            taken.append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def _detector(name: str) -> Iterator[Finding]:
    import numpy as np

    from diffusionpose.detection import load_detector

    detector = load_detector(None)
    detector([np.zeros((240, 320, 3), np.uint8)])
    yield Finding(name, "ok", f"{detector.name}, onnxruntime {version('onnxruntime')}")


def _video(name: str) -> Iterator[Finding]:
    import av

    lacking = [codec for codec, mode in _NEEDED_CODECS if not _has(codec, mode)]
    if lacking:
        detail = f"PyAV {av.__version__} lacks {', '.join(lacking)}"
        yield Finding(name, "broken", detail, _CHECKS[name].mend)
        return
    if _temporary_folder() is None:
        detail = f"PyAV {av.__version__} has H.264; not tried, as there is no temporary folder"
    else:
        _film_and_read()
        detail = f"PyAV {av.__version__} writes and reads H.264"
    yield Finding(name, "ok", detail)
    lacking = [codec for codec in _OTHER_CODECS if not _has(codec, "r")]
    if lacking:
        detail = f"cannot read {', '.join(lacking)}"
        yield Finding("codecs", "absent", detail, _CHECKS[name].mend)
    else:
        yield Finding("codecs", "ok", f"reads {', '.join(_OTHER_CODECS)}")


_NEEDED_CODECS: tuple[tuple[str, Literal["r", "w"]], ...] = (("h264", "r"), ("libx264", "w"))
_OTHER_CODECS = ("hevc", "vp9", "av1", "mpeg4", "prores", "mjpeg")


def _has(codec: str, mode: Literal["r", "w"]) -> bool:
    import av
    from av.codec.codec import UnknownCodecError

    try:
        av.Codec(codec, mode)
    except UnknownCodecError:
        return False
    return True


def _film_and_read() -> None:
    """Write two frames to a video file and read them back."""
    import numpy as np

    from diffusionpose.structures import Frame
    from diffusionpose.video import VideoWriter, open_video

    with temporary_folder() as folder:
        path = folder / "two.mp4"
        with VideoWriter(path, 64, 48, rate=Fraction(25)) as writer:
            for index in range(2):
                image = np.full((48, 64, 3), 100 * index, np.uint8)
                writer.write(Frame(index, Fraction(index, 25), image))
        with open_video(path) as reader:
            number = sum(1 for _ in reader)
    if number != 2:
        raise RuntimeError(f"wrote 2 frames, read {number}")


def _temporary_folder() -> Path | None:
    """The system's temporary folder; None if none is writable."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return None


def _opencv(name: str) -> Iterator[Finding]:
    found = [package for package in OPENCV if _version(package)]
    if len(found) > 1:
        detail = f"{' and '.join(found)} write into the same folder"
        mend = f"pip uninstall -y {' '.join(found)} && pip install opencv-python-headless"
        yield Finding(name, "broken", detail, mend)
        return
    import cv2

    yield Finding(name, "ok", f"{' '.join(found) or 'not by pip'}, {cv2.__version__}")


def _torchvision(name: str) -> Iterator[Finding]:
    """Check torchvision: it is not a dependency, but if installed, transformers imports it."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    found, torch = _version("torchvision"), _version("torch")
    if found is None or torch is None:
        return
    for wanted in map(Requirement, requires("torchvision") or ()):
        if wanted.name == "torch" and not wanted.specifier.contains(torch, prereleases=True):
            detail = f"{found} is built for torch {wanted.specifier}, but torch is {torch}"
            mend = f"pip install torch=={Version(torch).public} torchvision"
            yield Finding(name, "broken", detail, mend)
            return
    importlib.import_module("torchvision")
    yield Finding(name, "ok", f"{found}, matches torch")


def _disk(name: str) -> Iterator[Finding]:
    from huggingface_hub import constants

    places = (
        ("results", Path.cwd(), "diffusionpose predict VIDEO --out ANOTHER_FOLDER"),
        ("temporary", _temporary_folder(), "export TMPDIR=ANOTHER_FOLDER"),
        ("models", Path(constants.HF_HUB_CACHE), "export HF_HOME=ANOTHER_FOLDER"),
    )
    for what, folder, mend in places:
        title = f"{name}, {what}"
        if folder is None:
            yield Finding(title, "broken", "no writable folder found", mend)
            continue
        there = next(one for one in (folder, *folder.parents) if one.exists())
        free = shutil.disk_usage(there).free
        detail = f"{free / 2**30:.1f} GiB free for {folder}"
        if not os.access(there, os.W_OK):
            yield Finding(title, "broken", f"no permission to write to {folder}", mend)
        elif free < LEAST_FREE:
            yield Finding(title, "broken", detail, mend)
        else:
            yield Finding(title, "ok", detail)


class _Check(NamedTuple):
    """A check, and the command that fixes what it checks; by default, reinstall this package."""

    run: Callable[[str], Iterator[Finding]]
    mend: str = ""


_CHECKS = {
    "torch": _Check(_torch, "pip install --force-reinstall torch"),
    "selective scan": _Check(_scan),
    "model": _Check(_model),
    "detector": _Check(_detector, f"{_REINSTALL} onnxruntime"),
    "video": _Check(_video, f"{_REINSTALL} --only-binary :all: av"),
    "opencv": _Check(_opencv, f"{_REINSTALL} opencv-python-headless"),
    "torchvision": _Check(_torchvision, f"{_REINSTALL} torchvision"),
    "disk": _Check(_disk, "cd ANOTHER_FOLDER"),
}
