"""Weights on disk: a folder with `config.json`, `model.safetensors` and `README.md` (the model card).

`config.json` holds the architecture and the SHA-256 of the weights; nothing is ever unpickled.
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
"""What torch's restricted loader raises on bytes that are none of its own."""


def save(
    folder: str | Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    card: str,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes config, weights and model card.

    Args:
        folder: Made if it is not there.
        config: The architecture.
        tensors: Parameters and buffers by name.
        card: Text of `README.md`: data, measurements, limits.
        dtype: Of floating-point weights on disk.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in tensors.items()
    }
    # Under other names first: a kill leaves the model that was there, or hardly ever a mismatch that loading names.
    new = {name: folder / f".{name}.tmp" for name in (WEIGHTS, CONFIG, CARD)}
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
    return folder


def read_config(folder: Path) -> tuple[ModelConfig, str | None]:
    """Architecture and expected SHA-256 of a model folder.

    Raises:
        CheckpointError: If `config.json` is missing, no JSON, or of another kind.
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
            f"{path}: format_version {version!r}, this release reads {FORMAT_VERSION}"
        )
    try:
        return parse(ModelConfig, content.get("model", {}), str(path)), content.get("sha256")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file as float32.

    Raises:
        CheckpointError: If the file is missing, truncated, not safetensors, or not the one that `sha256` names.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if sha256 is not None and sha256_of(path) != sha256:
        raise CheckpointError(
            f"{path}: its SHA-256 is not the one in {CONFIG}: the file is corrupted or was replaced; get it again"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); get it again"
        ) from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are no numbers; get it again")
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def load(name_or_path: str | Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Architecture and weights of a model.

    Raises:
        CheckpointError: If the model cannot be found, or its files are missing, corrupted or of another kind.
    """
    folder = find_pretrained(name_or_path)
    config, sha256 = read_config(folder)
    return config, read_weights(folder / WEIGHTS, sha256)


def check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], origin: str) -> None:
    """Whether the given tensors are exactly those expected, by name and shape.

    Raises:
        CheckpointError: Naming the first that is not.
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
            f"{origin}: {len(wrong)} tensors do not fit the {CONFIG} beside them; the first is {name}: "
            f"{found.get(name, 'missing')} in the file, {shapes.get(name, 'unknown')} in the model"
        )


def read_restricted(path: Path) -> Any:
    """What torch's restricted loader takes: tensors and plain containers; it runs no code of the file's.

    Raises:
        CheckpointError: If the file is missing, unreadable, or holds more than that.
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
    """Tensors of a pretrained backbone: a `.pth` of the original ViTPose, a safetensors file, or a folder with one.

    Raises:
        CheckpointError: If the file is missing, unreadable, or holds more than tensors.
    """
    if path.is_dir():
        return read_weights(path / WEIGHTS)
    if path.suffix == ".safetensors":
        return read_weights(path)
    content = read_restricted(path)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: holds no state dict")
    return {str(name): tensor.float() for name, tensor in content.items()}
