"""Locating bundled, local and Hugging Face models, without importing torch."""

import hashlib
import importlib.resources
from pathlib import Path

from diffusionpose.errors import CheckpointError, first_line

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def bundled() -> dict[str, Path]:
    """Return the folders of the models that come with the package, by name."""
    root = Path(str(importlib.resources.files("diffusionpose"))) / "assets" / "models"
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{CONFIG}"))}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as a hex digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_pretrained(name_or_path: str | Path) -> Path:
    """Return the folder of a model: bundled, local, or downloaded from the Hugging Face Hub.

    Raises:
        CheckpointError: If there is no such model, or it cannot be downloaded.
    """
    models = bundled()
    if str(name_or_path) in models:
        return models[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if (
        str(name_or_path).count("/") == 1
        and not path.exists()
        and not str(name_or_path).startswith((".", "~"))
    ):
        return _from_hub(str(name_or_path))
    raise CheckpointError(
        f"no model {str(name_or_path)!r}: give one of {', '.join(models) or '(none bundled)'}, "
        f"a folder with {CONFIG} and {WEIGHTS}, or a Hugging Face repository as owner/name"
    )


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=[WEIGHTS, CONFIG, CARD]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = first_line(error)
        raise CheckpointError(
            f"{repository}: not a local folder, and cannot be downloaded from the Hugging Face Hub "
            f"({reason})"
        ) from None
