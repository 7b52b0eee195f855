"""The network as `predict` runs it: in torch, or as a file of `diffusionpose export` in onnxruntime or OpenVINO.

Of a cut, torch keeps its backbone features for the windows that share it. An exported file is one piece from cuts to
heatmaps: there a cut's "features" are its pixels, and the backbone works anew in every window.
"""

import json
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffusionpose.config import ModelConfig, parse
from diffusionpose.detection.onnx import open_session
from diffusionpose.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    UsageError,
    first_line,
)
from diffusionpose.metrics.calibration import calibrated
from diffusionpose.model.model import DiffusionPose
from diffusionpose.model.pretrained import WEIGHTS, bundled, find_pretrained, sha256_of
from diffusionpose.nn import heatmaps
from diffusionpose.nn.diffusion import ddim_steps
from diffusionpose.paths import check_regular

Precision = Literal["float32", "bfloat16"]
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Cuts (batch, frames, 3, height, width) uint8 and noise to heatmaps."""

ENGINES = ("torch", "onnxruntime", "openvino")
EXPORTED = ".onnx"
CUTS_A_PASS = 8
"""Of the backbone."""


class PoseNetwork(ABC):
    """Heatmaps of people from cuts, averaged over noises and, with `flip_test`, over the mirrored cut.

    Args:
        config: Of the model behind it.
        engine: One of `ENGINES`.
        facts: Name and hash of the weights, for results.
        flip_test: Average with the mirrored cut.
    """

    device = torch.device("cpu")
    """Where `features` and `heatmaps` take and give tensors."""
    num_inference_steps: int = 1
    precision: Precision = "float32"

    def __init__(
        self, config: ModelConfig, engine: str, facts: dict[str, object], flip_test: bool
    ) -> None:
        self.config, self.engine, self.facts, self.flip_test = config, engine, facts, flip_test
        # Neither engines nor packed weights are made for two threads at once.
        self._one_at_a_time = threading.RLock()

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(joints, height, width) of one person's x_T."""
        return (self.config.skeleton_graph.num_joints, *self.config.heatmap_size)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Features of cuts, each for itself: how they are grouped does not change a bit on the CPU.

        Args:
            images: (cuts, 3, height, width) uint8.

        Returns:
            (cuts, views, ...); with `flip_test`, the second view is the mirrored cut.
        """
        views = [images, images.flip(-1)] if self.flip_test else [images]
        cuts = torch.stack(views, 1).flatten(0, 1)
        with self._one_at_a_time:
            found = self._extract(cuts)
        return found.unflatten(0, (len(images), len(views)))

    @torch.inference_mode()
    def heatmaps(self, features: Tensor, noise: Tensor) -> Tensor:
        """Mean heatmaps over noises and views.

        Args:
            features: (batch, frames, views, ...), from `features`.
            noise: (batch, num_hypotheses, joints, height / 4, width / 4).
        """
        with self._one_at_a_time:
            mean = self._generate(features[:, :, 0], noise)
            if features.shape[2] > 1:
                flip = list(self.config.skeleton_graph.flip_permutation)
                mirrored = self._generate(features[:, :, 1], noise.flip(-1)[:, :, flip])
                mean = (mean + mirrored.flip(-1)[:, flip]) / 2
        return mean

    def keypoints(self, maps: Tensor) -> tuple[Tensor, np.ndarray]:
        """(batch, joints, 2) heatmap pixels, and (batch, joints) scores: chances where the model is calibrated."""
        points, scores = heatmaps.decode(maps, self.config.sigma)
        return points, calibrated(scores.double().cpu().numpy(), self.config.calibration)

    @abstractmethod
    def _extract(self, cuts: Tensor) -> Tensor:
        """(cuts, ...) what is kept of each cut."""

    @abstractmethod
    def _generate(self, features: Tensor, noise: Tensor) -> Tensor:
        """float32 heatmaps, averaged over noises, from one view's (batch, frames, ...)."""


class TorchNetwork(PoseNetwork):
    """A model in torch.

    Args:
        model: Moved to the device.
        device: Where it runs.
        facts: Name and hash of its weights, for results.
        flip_test: Average with the mirrored cut.
        num_inference_steps: DDIM steps.
        precision: `bfloat16` runs under `autocast`, and the model cannot be used without it afterwards.

    Raises:
        UsageError: If there are more steps than the model was trained with.
    """

    def __init__(
        self,
        model: DiffusionPose,
        device: torch.device,
        facts: dict[str, object],
        *,
        flip_test: bool = False,
        num_inference_steps: int = 1,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(model.config, "torch", facts, flip_test)
        most = model.config.diffusion.num_train_timesteps
        if num_inference_steps > most:
            raise UsageError(f"num_inference_steps {num_inference_steps}: this model has {most}")
        self.model, self.device = model.to(device).eval(), device
        self.num_inference_steps, self.precision = num_inference_steps, precision
        # What several steps need is imported here: a signal amid imports can crash Python at its end.
        ddim_steps(most, num_inference_steps)
        if precision == "bfloat16":
            self.model.hold_bfloat16()

    def _extract(self, cuts: Tensor) -> Tensor:
        with self.autocast():
            # Few at a time: the stem's maps are large beside its work, and would fall out of the cache.
            parts = [self.model.extract(part[:, None]) for part in cuts.split(CUTS_A_PASS)]
        return torch.cat(parts).squeeze(1)

    def _generate(self, features: Tensor, noise: Tensor) -> Tensor:
        with self.autocast():
            conditions = self.model.encode(features)
            steps = self.num_inference_steps
            found = [self.model.generate(conditions, one, steps).float() for one in noise.unbind(1)]
        return torch.stack(found).mean(0)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """What `model` is to be called in, by one thread at a time; what is made of its answers stays outside."""
        half = self.precision == "bfloat16"
        with (
            self._one_at_a_time,
            torch.autocast(self.device.type, torch.bfloat16, enabled=half),
        ):
            yield


class ExportedNetwork(PoseNetwork):
    """A file of `diffusionpose export`.

    Args:
        path: The file.
        engine: `onnxruntime` or `openvino`.
        device: For onnxruntime, CUDA where its build has it; OpenVINO runs on the CPU.
        flip_test: Average with the mirrored cut.

    Raises:
        CheckpointError: If it is no such file.
        MissingExtraError: If the engine is not installed.
    """

    def __init__(self, path: Path, engine: str, device: torch.device, flip_test: bool) -> None:
        check_regular(path, CheckpointError)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({first_line(error)})") from None
        # By its bytes: a file by its name could refer to other files.
        self._run, metadata = _ENGINES[engine](content, path, device)
        if "config" not in metadata:
            raise CheckpointError(f"{path}: not a file of 'diffusionpose export'")
        try:
            config = parse(ModelConfig, json.loads(metadata["config"]), str(path))
        except (ValueError, RecursionError, ConfigError) as error:
            raise CheckpointError(
                f"{path}: its configuration is broken ({first_line(error)})"
            ) from None
        facts: dict[str, object] = {"name": path.name, "sha256": metadata.get("weights_sha256")}
        super().__init__(config, engine, facts, flip_test)
        self._path = path

    def _extract(self, cuts: Tensor) -> Tensor:
        return cuts

    def _generate(self, features: Tensor, noise: Tensor) -> Tensor:
        # One by one: the unrolled scan needs 0.5 GB a window, and larger batches are no faster.
        return torch.stack(
            [
                torch.from_numpy(np.stack([self._one(cuts, x_t) for x_t in noises])).mean(0)
                for cuts, noises in zip(features.numpy(), noise.numpy(), strict=True)
            ]
        )

    def _one(self, cuts: np.ndarray, x_t: np.ndarray) -> np.ndarray:
        try:
            (found,) = self._run(cuts[None], x_t[None])
        except Exception as error:  # the engines' errors share no base
            reason = first_line(error)
            raise CheckpointError(
                f"{self._path}: {self.engine} cannot run it ({reason})"
            ) from error
        # Tools that edit such files keep their metadata, whatever becomes of the rest.
        if found.shape != x_t.shape or not np.isfinite(found).all():
            raise CheckpointError(
                f"{self._path}: what it gives are no heatmaps of {x_t.shape}: export it again"
            )
        return found


def _onnxruntime(content: bytes, path: Path, device: torch.device) -> tuple[Run, dict[str, str]]:
    session = open_session(content, str(path), str(device))

    def run(images: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """As `Run`."""
        return session.run(["heatmaps"], {"images": images, "noise": noise})[0]

    return run, dict(session.get_modelmeta().custom_metadata_map)


def _openvino(content: bytes, path: Path, device: torch.device) -> tuple[Run, dict[str, str]]:
    if device.type != "cpu":
        raise UsageError(f"device {str(device)!r}: OpenVINO runs on the CPU here")
    ov = _import_openvino()
    try:
        core = ov.Core()
        model = core.read_model(content)
        # float32 also where the CPU has bfloat16: both engines give what torch gives.
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        reason = first_line(error)
        raise CheckpointError(f"{path}: not a readable ONNX model ({reason})") from error
    info = model.rt_info
    facts = info["framework"].items() if "framework" in info else ()

    def run(images: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """As `Run`."""
        found: dict[Any, np.ndarray] = compiled({"images": images, "noise": noise})
        # A copy: the next call writes into the same memory.
        return found["heatmaps"].copy()

    return run, {key: value.astype(str) for key, value in facts}


def _import_openvino() -> ModuleType:
    """OpenVINO without the telemetry that its import sends."""
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "openvino") from None
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
    return openvino


_ENGINES = {"onnxruntime": _onnxruntime, "openvino": _openvino}


def load_network(
    name_or_path: str | Path,
    device: torch.device,
    *,
    engine: str | None = None,
    flip_test: bool = False,
    num_inference_steps: int = 1,
    precision: Precision = "float32",
) -> PoseNetwork:
    """A network by the name of its model and of its engine.

    Args:
        name_or_path: Bundled name, folder, Hugging Face repository, or a file of `diffusionpose export`.
        device: Where it runs.
        engine: None for torch, or onnxruntime where the model is an exported file.
        flip_test: Average with the mirrored cut.
        num_inference_steps: DDIM steps; an exported file has one.
        precision: Of torch.

    Raises:
        UsageError: If engine, model and settings do not go together.
        CheckpointError: If the model cannot be had or is broken.
        MissingExtraError: If the engine is not installed.
    """
    is_exported = Path(name_or_path).suffix.lower() == EXPORTED and not Path(name_or_path).is_dir()
    engine = engine or ("onnxruntime" if is_exported else "torch")
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r}: there are {', '.join(ENGINES)}")
    if is_exported != (engine != "torch"):
        raise UsageError(
            f"engine torch takes a model, not the exported file {str(name_or_path)!r}"
            if is_exported
            else f"engine {engine} takes an exported file: diffusionpose export {name_or_path} --out "
            f"{Path(name_or_path).name}{EXPORTED}, then --model {Path(name_or_path).name}{EXPORTED}"
        )
    if is_exported:
        if num_inference_steps != 1 or precision != "float32":
            raise UsageError(
                "an exported file takes one DDIM step in float32: leave these settings out"
            )
        return ExportedNetwork(Path(name_or_path), engine, device, flip_test)
    folder = find_pretrained(name_or_path)
    # A folder by its name alone: results must not depend on, or tell, where it lies.
    is_folder = str(name_or_path) not in bundled() and Path(name_or_path).expanduser() == folder
    name = os.path.basename(os.path.abspath(folder)) if is_folder else str(name_or_path)
    return TorchNetwork(
        DiffusionPose.from_pretrained(folder),
        device,
        {"name": name, "sha256": sha256_of(folder / WEIGHTS)},
        flip_test=flip_test,
        num_inference_steps=num_inference_steps,
        precision=precision,
    )
