"""Checkpoints within epochs, safe against kills, full disks and signals."""

import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import distributed

from diffusionpose.errors import CheckpointError, DiffusionPoseError, StoppedError, first_line
from diffusionpose.formats import AtomicFile
from diffusionpose.model.checkpoint import read_restricted
from diffusionpose.training.module import PoseTraining
from diffusionpose.training.sources import is_distributed

LAST_OF_EPOCH_SECONDS = 30.0
"""Age from which a checkpoint is renewed before the last batch of an epoch.

Little is lost, then, if a signal arrives during validation.
"""


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints to a temporary file and renames it, so that no partial file is left."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint; called by Lightning.

        Raises:
            DiffusionPoseError: If it cannot be written; an existing file is left untouched.
        """
        del storage_options
        file = AtomicFile(Path(path))
        try:
            try:
                torch.save(checkpoint, file.temporary)
            except (OSError, RuntimeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "only a part was written"
                raise DiffusionPoseError(
                    f"cannot write {path}: {reason or first_line(error)}; the previous checkpoint "
                    "is untouched"
                ) from error
            file.publish()
        finally:
            file.discard()


def read_checkpoint(path: Path) -> Any:
    """Read a checkpoint after verifying its checksums, which torch writes but does not check.

    Raises:
        CheckpointError: If the file is damaged, or holds anything but tensors and plain containers.
    """
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as file:
                damaged = file.testzip() is not None
        except (EOFError, zipfile.BadZipFile):
            damaged = True
        if damaged:
            raise CheckpointError(
                f"{path}: damaged since it was written; start the run again from the beginning"
            )
    return read_restricted(path)


class StopSignals:
    """Records SIGINT or SIGTERM as a request to stop at the next point where the run can save.

    Further signals are ignored.

    Args:
        checkpoint: Path of the run's checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.number = checkpoint, 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.number = self.number or number

    def end_validation(self) -> None:
        """Stop without saving if a signal was received; on resuming, the last steps are repeated.

        Raises:
            StoppedError: If a signal was received.
        """
        if self.number:
            there = self.checkpoint.exists()
            saved = f"{self.checkpoint} is from before it" if there else "nothing is saved yet"
            raise StoppedError(self.number, f"during validation; {saved}")

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Handle signals within the context; Python allows it in the main thread only."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agreed(self) -> int:
        """Return a signal that any rank has received, or 0; all ranks must call it together."""
        if not is_distributed():
            return self.number
        numbers: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(numbers, self.number)
        return max(numbers)


class KeepRun(L.Callback):
    """Writes `metrics.jsonl` every epoch and `checkpoints/last.ckpt` every few minutes.

    Saves and stops on signals between optimizer steps. Must come after the weight averaging
    callback.

    Args:
        minutes: Minutes between checkpoints.
        signals: Requests to stop, and the path of the checkpoint.
    """

    def __init__(self, minutes: float, signals: StopSignals) -> None:
        self.path, self.minutes, self.signals = signals.checkpoint, minutes, signals
        self._saved = time.monotonic()

    def _age(self) -> float:
        return time.monotonic() - self._saved

    def _save(
        self, trainer: L.Trainer, module: L.LightningModule, epoch: int, batches: int
    ) -> None:
        assert isinstance(module, PoseTraining)
        module.position = (epoch, batches)
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def _is_due(self, trainer: L.Trainer, seconds: float) -> bool:
        # All ranks follow the clock of rank 0, as they must save together.
        return trainer.strategy.broadcast(self._age() >= seconds)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if a checkpoint is due, and stop after a signal.

        Raises:
            StoppedError: If a signal was received; everything is saved.
        """
        del outputs, batch
        done, number = batch_idx + 1, int(trainer.num_training_batches)
        # From a checkpoint after the last batch, Lightning would resume without validation.
        if done % trainer.accumulate_grad_batches or done == number:
            return
        stop = self.signals.agreed()
        is_nearly_over = number - done <= trainer.accumulate_grad_batches
        limit = 60 * self.minutes
        limit = min(limit, LAST_OF_EPOCH_SECONDS) if is_nearly_over else limit
        if stop or self._is_due(trainer, limit):
            self._save(trainer, pl_module, trainer.current_epoch, done)
        if stop:
            raise StoppedError(stop, f"{self.path} is saved; continue with --resume")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop after a signal; on resuming, the last steps of the epoch are repeated.

        Raises:
            StoppedError: If a signal was received.
        """
        del pl_module, outputs, batch, batch_idx, dataloader_idx
        # Ranks may have different numbers of validation batches and cannot synchronise here; they
        # stop at the end of the epoch.
        if trainer.world_size == 1:
            self.signals.end_validation()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch's metrics; save if due, after the last epoch, and after a signal.

        Raises:
            StoppedError: If a signal was received; everything is saved.
        """
        assert isinstance(pl_module, PoseTraining)
        if trainer.is_global_zero:
            pl_module.write_metrics()
        stop, following = self.signals.agreed(), trainer.current_epoch + 1
        if stop or following == trainer.max_epochs or self._is_due(trainer, 60 * self.minutes):
            self._save(trainer, pl_module, following, 0)
        if stop:
            raise StoppedError(stop, f"{self.path} is saved; continue with --resume")
