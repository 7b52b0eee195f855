"""The network at inference: in torch, or exported to ONNX and run by onnxruntime or OpenVINO.

A crop is the image of a person in one frame. In torch, the backbone features of a crop are cached
and shared by the windows that contain it. An exported file covers the whole network, so there a
crop's "features" are its pixels, and the backbone runs again in every window.
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
from diffusionpose.paths import EXPORTED, check_regular, is_exported

Precision = Literal["float32", "bfloat16"]
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps crops (batch, frames, 3, height, width) uint8 and noise to heatmaps, both of the latter
(batch, joints, height / 4, width / 4)."""

ENGINES = ("torch", "onnxruntime", "openvino")
CROPS_PER_PASS = 8
"""Batch size of the backbone."""


class PoseNetwork(ABC):
    """Base of networks: mean heatmaps over noise samples and, with `flip_test`, mirrored crops.

    Args:
        config: Of the model.
        engine: One of `ENGINES`.
        facts: Name and hash of the weights, recorded in results.
        flip_test: Average with the mirrored crop.
    """

    device = torch.device("cpu")
    """Device of the inputs and outputs of `features` and `heatmaps`."""
    num_inference_steps: int = 1
    precision: Precision = "float32"

    def __init__(
        self, config: ModelConfig, engine: str, facts: dict[str, object], flip_test: bool
    ) -> None:
        self.config, self.engine, self.facts, self.flip_test = config, engine, facts, flip_test
        # Neither the engines nor packed weights are thread-safe.
        self._one_at_a_time = threading.RLock()

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Shape (joints, height, width) of one person's x_T."""
        return (self.config.skeleton_graph.num_joints, *self.config.heatmap_size)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Compute the features of crops; on the CPU, independent of batching bit for bit.

        Args:
            images: (crops, 3, height, width) uint8.

        Returns:
            (crops, views, ...); with `flip_test`, the second view is the mirrored crop.
        """
        views = [images, images.flip(-1)] if self.flip_test else [images]
        crops = torch.stack(views, 1).flatten(0, 1)
        with self._one_at_a_time:
            found = self._extract(crops)
        return found.unflatten(0, (len(images), len(views)))

    @torch.inference_mode()
    def heatmaps(self, features: Tensor, noise: Tensor) -> Tensor:
        """Predict heatmaps, averaged over noise samples and views.

        Args:
            features: (batch, frames, views, ...), from `features`.
            noise: (batch, num_hypotheses, joints, height / 4, width / 4).

        Returns:
            (batch, joints, height / 4, width / 4) float32.
        """
        with self._one_at_a_time:
            mean = self._generate(features[:, :, 0], noise)
            if features.shape[2] > 1:
                flip = list(self.config.skeleton_graph.flip_permutation)
                mirrored = self._generate(features[:, :, 1], noise.flip(-1)[:, :, flip])
                mean = (mean + mirrored.flip(-1)[:, flip]) / 2
        return mean

    def keypoints(self, maps: Tensor) -> tuple[Tensor, np.ndarray]:
        """Decode heatmaps to (batch, joints, 2) heatmap pixels and (batch, joints) scores.

        Scores are probabilities if the model is calibrated, else heatmap peak values.
        """
        points, scores = heatmaps.decode(maps, self.config.sigma)
        return points, calibrated(scores.double().cpu().numpy(), self.config.calibration)

    @abstractmethod
    def _extract(self, crops: Tensor) -> Tensor:
        """Features (crops, ...) of crops (crops, 3, height, width)."""

    @abstractmethod
    def _generate(self, features: Tensor, noise: Tensor) -> Tensor:
        """Mean float32 heatmaps over noise samples, from features (batch, frames, ...) of a view."""


class TorchNetwork(PoseNetwork):
    """A model in torch.

    Args:
        model: Moved to the device.
        device: Where it runs.
        facts: Name and hash of its weights, recorded in results.
        flip_test: Average with the mirrored crop.
        num_inference_steps: DDIM steps.
        precision: With `bfloat16`, `model` can afterwards only be called within `autocast`.

    Raises:
        UsageError: If there are more steps than the model's schedule has.
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
            raise UsageError(
                f"num_inference_steps is {num_inference_steps}, but this model has at most {most}"
            )
        self.model, self.device = model.to(device).eval(), device
        self.num_inference_steps, self.precision = num_inference_steps, precision
        # Triggers the imports of multi-step inference now: a signal during a later import could
        # crash Python at shutdown.
        ddim_steps(most, num_inference_steps)
        if precision == "bfloat16":
            self.model.hold_bfloat16()

    def _extract(self, crops: Tensor) -> Tensor:
        with self.autocast():
            # Small batches: the stem's large feature maps would not fit into the CPU cache.
            parts = [self.model.extract(part[:, None]) for part in crops.split(CROPS_PER_PASS)]
        return torch.cat(parts).squeeze(1)

    def _generate(self, features: Tensor, noise: Tensor) -> Tensor:
        with self.autocast():
            conditions = self.model.encode(features)
            steps = self.num_inference_steps
            found = [self.model.generate(conditions, one, steps).float() for one in noise.unbind(1)]
        return torch.stack(found).mean(0)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Context for calling `model`: sets the precision and lets one thread in at a time."""
        half = self.precision == "bfloat16"
        with (
            self._one_at_a_time,
            torch.autocast(self.device.type, torch.bfloat16, enabled=half),
        ):
            yield


class ExportedNetwork(PoseNetwork):
    """An ONNX file written by `diffusionpose export`.

    Args:
        path: The file.
        engine: `onnxruntime` or `openvino`.
        device: onnxruntime uses CUDA if its build supports it; OpenVINO runs on the CPU only.
        flip_test: Average with the mirrored crop.

    Raises:
        CheckpointError: If it is not such a file.
        MissingExtraError: If the engine is not installed.
        UsageError: If OpenVINO is asked for another device than the CPU.
    """

    def __init__(self, path: Path, engine: str, device: torch.device, flip_test: bool) -> None:
        check_regular(path, CheckpointError)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({first_line(error)})") from None
        # Passed as bytes: a model loaded by path could refer to other files.
        self._run, metadata = _ENGINES[engine](content, path, device)
        if "config" not in metadata:
            raise CheckpointError(f"{path}: not written by 'diffusionpose export'")
        try:
            config = parse(ModelConfig, json.loads(metadata["config"]), str(path))
        except (ValueError, RecursionError, ConfigError) as error:
            raise CheckpointError(
                f"{path}: invalid model configuration ({first_line(error)})"
            ) from None
        facts: dict[str, object] = {"name": path.name, "sha256": metadata.get("weights_sha256")}
        super().__init__(config, engine, facts, flip_test)
        self._path = path

    def _extract(self, crops: Tensor) -> Tensor:
        return crops

    def _generate(self, features: Tensor, noise: Tensor) -> Tensor:
        # One by one: the unrolled scan needs 0.5 GB per window, and larger batches are no faster.
        return torch.stack(
            [
                torch.from_numpy(np.stack([self._one(crops, x_t) for x_t in noises])).mean(0)
                for crops, noises in zip(features.numpy(), noise.numpy(), strict=True)
            ]
        )

    def _one(self, crops: np.ndarray, x_t: np.ndarray) -> np.ndarray:
        try:
            (found,) = self._run(crops[None], x_t[None])
        except Exception as error:  # the engines' errors share no base
            reason = first_line(error)
            raise CheckpointError(
                f"{self._path}: {self.engine} cannot run it ({reason})"
            ) from error
        # Tools that edit ONNX files keep the metadata even if the graph no longer matches it.
        if found.shape != x_t.shape or not np.isfinite(found).all():
            raise CheckpointError(
                f"{self._path}: its output is not finite heatmaps of shape {x_t.shape}: export it again"
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
        raise UsageError(f"device {str(device)!r}: OpenVINO is supported on the CPU only")
    ov = _import_openvino()
    try:
        core = ov.Core()
        model = core.read_model(content)
        # float32 even if the CPU supports bfloat16, so that results match torch's.
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        reason = first_line(error)
        raise CheckpointError(f"{path}: not a readable ONNX model ({reason})") from error
    info = model.rt_info
    facts = info["framework"].items() if "framework" in info else ()

    def run(images: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """As `Run`."""
        found: dict[Any, np.ndarray] = compiled({"images": images, "noise": noise})
        # The next call reuses this memory.
        return found["heatmaps"].copy()

    return run, {key: value.astype(str) for key, value in facts}


def _import_openvino() -> ModuleType:
    """Import OpenVINO with its telemetry disabled."""
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
    """Load a network.

    Args:
        name_or_path: Bundled name, folder, Hugging Face repository, or exported file.
        device: Where it runs.
        engine: One of `ENGINES`; None for torch, or onnxruntime for an exported file.
        flip_test: Average with the mirrored crop.
        num_inference_steps: DDIM steps; an exported file has one.
        precision: Of torch; an exported file has float32.

    Raises:
        UsageError: If engine, model and settings are incompatible.
        CheckpointError: If the model is not found or broken.
        MissingExtraError: If the engine is not installed.
    """
    exported = is_exported(name_or_path)
    engine = engine or ("onnxruntime" if exported else "torch")
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}; choose from {', '.join(ENGINES)}")
    if exported != (engine != "torch"):
        raise UsageError(
            f"engine torch cannot run the exported file {str(name_or_path)!r}: leave the engine out"
            if exported
            else f"engine {engine} needs an exported file: diffusionpose export {name_or_path} --out "
            f"{Path(name_or_path).name}{EXPORTED}, then --model {Path(name_or_path).name}{EXPORTED}"
        )
    if exported:
        if num_inference_steps != 1 or precision != "float32":
            raise UsageError(
                "an exported file supports one DDIM step in float32 only: leave these settings out"
            )
        return ExportedNetwork(Path(name_or_path), engine, device, flip_test)
    folder = find_pretrained(name_or_path)
    # Only the folder's name: results must not depend on or reveal its location.
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
