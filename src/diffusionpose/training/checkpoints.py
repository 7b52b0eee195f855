"""Checkpoints that survive kills, full disks and signals, and say where in an epoch a run stood."""

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
"""Older than this, a checkpoint is renewed before an epoch's last batch: a signal during validation then costs little."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes under another name, to the disk, then renames: the checkpoint before stays until the new one is whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """As Lightning asks for it.

        Raises:
            DiffusionPoseError: If the disk does not take it; the file that was there is untouched.
        """
        del storage_options
        file = AtomicFile(Path(path))
        try:
            try:
                torch.save(checkpoint, file.temporary)
            except (OSError, RuntimeError) as error:
                reason = (
                    error.strerror if isinstance(error, OSError) else "the disk took only a part"
                )
                raise DiffusionPoseError(
                    f"cannot write {path}: {reason or first_line(error)}; the checkpoint before it is untouched"
                ) from error
            file.publish()
        finally:
            file.discard()


def read_checkpoint(path: Path) -> Any:
    """What `AtomicCheckpoints` wrote, if it still is that: torch writes check sums, but its loader does not look at them.

    Raises:
        CheckpointError: If the file is damaged, or holds more than tensors and plain containers.
    """
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as file:
                damaged = file.testzip() is not None
        except (EOFError, zipfile.BadZipFile):
            damaged = True
        if damaged:
            raise CheckpointError(f"{path}: damaged since it was written; start the run anew")
    return read_restricted(path)


class StopSignals:
    """SIGINT and SIGTERM as a request that the run heeds when it can save; later ones are ignored.

    Args:
        checkpoint: Where the run saves.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.number = checkpoint, 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.number = self.number or number

    def end_validation(self) -> None:
        """Ends the run here when a signal asked for it; its last steps are then repeated on resuming.

        Raises:
            StoppedError: After a signal.
        """
        if self.number:
            there = self.checkpoint.exists()
            saved = f"{self.checkpoint} is from before" if there else "nothing is saved yet"
            raise StoppedError(self.number, f"during validation; {saved}")

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Handles signals until the end of the block, where handlers can be set: in the main thread."""
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
        """The signal that any rank has got, 0 for none; all ranks call it at the same place."""
        if not is_distributed():
            return self.number
        numbers: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(numbers, self.number)
        return max(numbers)


class KeepRun(L.Callback):
    """Keeps a run folder current: `metrics.jsonl` every epoch, `checkpoints/last.ckpt` every few minutes.

    It saves between two optimizer steps, and heeds signals there. It comes after the callback that averages weights.

    Args:
        minutes: Between two checkpoints.
        signals: What asks for an end, and where to save.
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
        # One clock for all ranks: they save together.
        return trainer.strategy.broadcast(self._age() >= seconds)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves when it is time, and ends the run when a signal asked for it.

        Raises:
            StoppedError: After a signal, with everything saved.
        """
        del outputs, batch
        done, number = batch_idx + 1, int(trainer.num_training_batches)
        # After the last batch Lightning would go on with the next epoch and leave validation out.
        if done % trainer.accumulate_grad_batches or done == number:
            return
        stop = self.signals.agreed()
        is_nearly_over = number - done <= trainer.accumulate_grad_batches
        limit = 60 * self.minutes
        limit = min(limit, LAST_OF_EPOCH_SECONDS) if is_nearly_over else limit
        if stop or self._is_due(trainer, limit):
            self._save(trainer, pl_module, trainer.current_epoch, done)
        if stop:
            raise StoppedError(stop, f"{self.path} is saved: go on with --resume")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ends the run when a signal asked for it; the epoch's last steps are then repeated on resuming.

        Raises:
            StoppedError: After a signal.
        """
        del pl_module, outputs, batch, batch_idx, dataloader_idx
        # Ranks validate different numbers of batches and could not agree here: they stop in the next epoch.
        if trainer.world_size == 1:
            self.signals.end_validation()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the epoch's metrics; saves when it is time, when the run is over, and on a signal.

        Raises:
            StoppedError: After a signal, with everything saved.
        """
        assert isinstance(pl_module, PoseTraining)
        if trainer.is_global_zero:
            pl_module.write_metrics()
        stop, following = self.signals.agreed(), trainer.current_epoch + 1
        if stop or following == trainer.max_epochs or self._is_due(trainer, 60 * self.minutes):
            self._save(trainer, pl_module, following, 0)
        if stop:
            raise StoppedError(stop, f"{self.path} is saved: go on with --resume")
