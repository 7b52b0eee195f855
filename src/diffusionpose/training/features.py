"""Cache of a frozen backbone's features on disk, which makes training of encoder and decoder cheap.

Each record is augmented `draws` times; epoch e uses draw e modulo `draws`. The file name is a hash
of all that determines the content: backbone, data, sizes and times of images, augmentation, seed.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from diffusionpose.data.clips import ClipDataset, ClipRecord, DrawKey
from diffusionpose.formats.atomic_file import AtomicFile, explained
from diffusionpose.model.model import DiffusionPose
from diffusionpose.training.sources import fingerprint

BATCH = 16
FORMAT = 2
"""Version of the cache; increase it when cropping or feature computation changes."""


class FeatureClips(Dataset[dict[str, Any]]):
    """Clips with backbone features in place of images, by keys of `EpochSampler` or by index.

    Args:
        clips: The clips to compute features of.
        model: Model with the backbone; it is not changed.
        folder: Folder of the cache.
        draws: Number of augmentations per record.
    """

    def __init__(
        self, clips: ClipDataset, model: DiffusionPose, folder: Path, draws: int = 1
    ) -> None:
        self.records: list[ClipRecord] = list(clips.records)
        self.draws = draws
        name = _name(clips, model, draws)
        path = folder / f"features-{name}.npy"
        if not path.exists():
            _write(clips, model, path, draws)
        self._features = np.load(path, mmap_mode="r")
        self._keypoints = np.load(path.with_suffix(".keypoints.npy"))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: DrawKey | int) -> dict[str, Any]:
        epoch, repeat, index = key if isinstance(key, tuple) else (0, 0, key)
        record = self.records[index]
        place = (epoch + repeat) % self.draws * len(self.records) + index
        return {
            "features": torch.from_numpy(self._features[place].astype(np.float32)),
            "keypoints": torch.from_numpy(self._keypoints[place]),
            "index": index,
            "key": torch.tensor([epoch, repeat, index]),
            "video": record.video,
            "frame": record.frame,
            "number": record.number,
        }


def _name(clips: ClipDataset, model: DiffusionPose, draws: int) -> str:
    """Hash all that features depend on; images by size and time, as reading them is slow."""
    config = model.config
    digest = hashlib.sha256(fingerprint(clips.records).encode())
    digest.update(f"{FORMAT} {clips.seed} {draws} {clips.augment} {config.num_frames}".encode())
    digest.update(f"{config.backbone} {config.image_size} {config.skeleton}".encode())
    for record in clips.records:
        digest.update(
            f"{record.still} {[path.name for path in record.further]}".encode(
                errors="surrogatepass"
            )
        )
    for path in dict.fromkeys(
        path for one in clips.records for path in (*one.frames, *one.further)
    ):
        if path.is_file():  # missing images are reported when they are read
            stat = path.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    for name, tensor in model.backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def _write(clips: ClipDataset, model: DiffusionPose, path: Path, draws: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    was_training = model.training
    model.eval()
    file, keypoints = AtomicFile(path), []
    try:
        # Streamed, not memory-mapped, where a full disk would raise SIGBUS instead of an error.
        with explained(path), file.temporary.open("wb") as stream:
            for features, points in _passes(clips, model, draws):
                if not keypoints:
                    header = {
                        "descr": np.lib.format.dtype_to_descr(features.dtype),
                        "fortran_order": False,
                        "shape": (draws * len(clips), *features.shape[1:]),
                    }
                    np.lib.format.write_array_header_1_0(stream, header)
                stream.write(features.tobytes())
                keypoints.append(points)
        _save(path.with_suffix(".keypoints.npy"), np.concatenate(keypoints))
        # Published last, so that the keypoints exist whenever the features do.
        file.publish()
    finally:
        file.discard()
        model.train(was_training)


def _passes(
    clips: ClipDataset, model: DiffusionPose, draws: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of float16 features and of keypoints, draw by draw."""
    device = next(model.parameters()).device
    for draw in range(draws):
        keys: Any = _Draw(clips, draw)
        for batch in DataLoader(Subset(keys, range(len(clips))), BATCH):
            found = model.extract(batch["images"].to(device))
            yield found.half().cpu().numpy(), batch["keypoints"].numpy()


def _save(path: Path, values: np.ndarray) -> None:
    file = AtomicFile(path)
    try:
        with explained(path), file.temporary.open("wb") as stream:
            np.save(stream, values)
        file.publish()
    finally:
        file.discard()


class _Draw(Dataset[Any]):
    """One augmentation of every record."""

    def __init__(self, clips: ClipDataset, draw: int) -> None:
        self.clips, self.draw = clips, draw

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Any:
        return self.clips[self.draw, 0, index]


def features_of(batch: dict[str, Tensor], model: DiffusionPose) -> Tensor:
    """Return (batch, frames, tokens, dim) features of a batch, cached or computed from images."""
    return batch["features"] if "features" in batch else model.extract(batch["images"])
