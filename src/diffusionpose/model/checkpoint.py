"""Models on disk: folders with `config.json`, `model.safetensors` and `README.md` (the model card).

`config.json` holds the architecture and the SHA-256 of the weights. No arbitrary pickles are
loaded.
"""

import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusionpose.config import ModelConfig, parse
from diffusionpose.errors import CheckpointError, ConfigError, first_line
from diffusionpose.model.pretrained import CARD, CONFIG, WEIGHTS, find_pretrained, sha256_of
from diffusionpose.paths import check_regular

FORMAT_VERSION = 1

_NO_TENSORS = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError),
    *(LookupError, TypeError, AttributeError, AssertionError, struct.error),
)
"""Exceptions of torch's restricted loader for files that it cannot read."""


def save(
    folder: str | Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    card: str,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write config, weights and model card.

    Args:
        folder: Created if it does not exist.
        config: The architecture.
        tensors: Parameters and buffers by name.
        card: Text of `README.md`: data, measurements, limitations.
        dtype: Type of floating-point weights on disk.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in tensors.items()
    }
    # Temporary names first: if the process is killed, the previous model stays. Only between the
    # renames could files mismatch, which `load` detects.
    new = {name: folder / f".{name}.tmp" for name in (WEIGHTS, CONFIG, CARD)}
    try:
        save_file(stored, new[WEIGHTS], metadata={"format": "pt"})
        content = {
            "format_version": FORMAT_VERSION,
            "model": config.model_dump(mode="json"),
            "sha256": sha256_of(new[WEIGHTS]),
        }
        new[CONFIG].write_text(json.dumps(content, indent=2) + "\n")
        new[CARD].write_text(card)
        for name, path in new.items():
            path.chmod(0o644)
            path.replace(folder / name)
    finally:
        for path in new.values():  # left over if writing failed, as on a full disk
            path.unlink(missing_ok=True)
    return folder


def read_config(folder: Path) -> tuple[ModelConfig, str | None]:
    """Read the architecture and the expected SHA-256 of the weights from a model folder.

    Raises:
        CheckpointError: If `config.json` is missing, not JSON, or not a valid model configuration.
    """
    path = folder / CONFIG
    check_regular(path, CheckpointError)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; is this a DiffusionPose model folder?"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({first_line(error)})") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version {version!r} is not supported; this release reads "
            f"{FORMAT_VERSION}"
        )
    try:
        return parse(ModelConfig, content.get("model", {}), str(path)), content.get("sha256")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, with floating-point ones as float32.

    Raises:
        CheckpointError: If the file is missing, truncated or not safetensors, if it does not match
            `sha256`, or if it holds NaN or infinite values.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if sha256 is not None and sha256_of(path) != sha256:
        raise CheckpointError(
            f"{path}: its SHA-256 differs from that in {CONFIG}; the file is corrupted or was "
            "replaced, download it again"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); download it again"
        ) from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(
                f"{path}: {name} holds NaN or infinite values; download the file again"
            )
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def load(name_or_path: str | Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Load the architecture and weights of a model.

    Raises:
        CheckpointError: If the model cannot be found, or its files are missing or corrupted.
    """
    folder = find_pretrained(name_or_path)
    config, sha256 = read_config(folder)
    return config, read_weights(folder / WEIGHTS, sha256)


def check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], origin: str) -> None:
    """Check that the given tensors match the expected ones in name and shape.

    Raises:
        CheckpointError: If they do not; the message names the first mismatch.
    """
    shapes, found = (
        {k: tuple(v.shape) for k, v in tensors.items()} for tensors in (expected, given)
    )
    wrong = sorted(
        name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)
    )
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{origin}: {len(wrong)} tensors do not fit the configuration by name and shape; the "
            f"first is {name}: {found.get(name, 'missing')} in the file, "
            f"{shapes.get(name, 'missing')} in the model"
        )


def read_restricted(path: Path) -> Any:
    """Load tensors and plain containers with torch's restricted loader, which runs no code.

    Raises:
        CheckpointError: If the file is missing, unreadable, or holds anything else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _NO_TENSORS as error:
        raise CheckpointError(
            f"{path}: not a file of plain tensors ({first_line(error)})"
        ) from None


def read_backbone(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a pretrained backbone.

    Args:
        path: A `.pth` of the original ViTPose, a safetensors file, or a folder with one.

    Raises:
        CheckpointError: If the file is missing, unreadable, or holds anything but tensors.
    """
    if path.is_dir():
        return read_weights(path / WEIGHTS)
    if path.suffix == ".safetensors":
        return read_weights(path)
    content = read_restricted(path)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: does not contain a state dict")
    return {str(name): tensor.float() for name, tensor in content.items()}
