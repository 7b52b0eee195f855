"""Training: runs a recipe and writes checkpoints, metrics and the averaged model to a run folder.

The run folder holds `recipe.yaml` (fully resolved), `run.json` (fingerprints of the data; version
and git state by session), `metrics.jsonl`, `tensorboard/`, `checkpoints/last.ckpt` to resume from,
and `model/`, the averaged weights after the latest validation.

A run that was killed and resumed ends with the same weights as an uninterrupted one, bit for bit on
the CPU; see `training.module`.
"""

import errno
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed
from torch.utils.data import Dataset

from diffusionpose.config import parse, read_yaml
from diffusionpose.data.clips import ClipDataset
from diffusionpose.errors import ConfigError, DiffusionPoseError
from diffusionpose.evaluate import predict_truth, read_truth
from diffusionpose.evaluate_options import EvaluateOptions
from diffusionpose.formats import write_text
from diffusionpose.metrics.pairs import VideoPair
from diffusionpose.metrics.posetrack_ap import PoseTrackAP
from diffusionpose.metrics.posetrack_frames import require_head_boxes, require_shapely
from diffusionpose.model.model import DiffusionPose
from diffusionpose.model.pretrained import sha256_of
from diffusionpose.networks import TorchNetwork
from diffusionpose.recipe import SourceConfig, TrainConfig
from diffusionpose.training.checkpoints import (
    AtomicCheckpoints,
    KeepRun,
    StopSignals,
    read_checkpoint,
)
from diffusionpose.training.features import FeatureClips
from diffusionpose.training.module import METRICS, PoseTraining, weights_of
from diffusionpose.training.optimizer import make_average
from diffusionpose.training.run_facts import (
    RECIPE,
    check_inputs,
    differences,
    facts_of,
    sessions_of,
    write_facts,
)
from diffusionpose.training.sources import Ranks, RunData, is_distributed, make_loaders
from diffusionpose.version import __version__

CHECKPOINT = Path("checkpoints") / "last.ckpt"
WITHOUT_EFFECT = frozenset({"workers", "checkpoint_minutes", "feature_cache"})
"""Settings whose values do not affect the weights (but whether there is a feature cache does)."""
CHANGEABLE = WITHOUT_EFFECT | {"epochs", "root"}
"""Settings that may change on resuming; the fingerprint of the data must still be the same."""
LOCK_SECONDS = 10.0
"""Loader workers of a killed run hold its lock until they notice, which they check every 5 s."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(
    config: TrainConfig,
    run: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    on_warning: Callable[[str], None] = warnings.warn,
) -> Path:
    """Train a model, in a single process or in one of torchrun's.

    Args:
        config: The recipe.
        run: Run folder; must not hold a checkpoint unless `resume`.
        resume: Continue from `checkpoints/last.ckpt`.
        progress: Show a progress bar.
        on_warning: Called with warnings about resuming the run.

    Returns:
        Folder of the averaged model.

    Raises:
        ConfigError: If the run folder already holds a run, has nothing to resume from or a run with
            different settings, is in use by another process, or cannot be made.
        CheckpointError: If the checkpoint to resume from is damaged.
        StoppedError: After SIGINT or SIGTERM, once everything is saved.
        DiffusionPoseError: If the disk is full, gradients are not finite, or a loader worker dies.
    """
    ranks, signals = Ranks.of_process(), StopSignals(run / CHECKPOINT)
    with _held(run, ranks), _explained_disk(run), _quiet():
        before = _check_run(run, config, ranks, resume=resume)
        L.seed_everything(config.seed, workers=True, verbose=False)
        evaluators = make_evaluators(config, ranks, signals)
        module = PoseTraining(config, run, evaluators)
        data = make_loaders(config, ranks, _cached(config, module.model))
        inputs = inputs_of(config, data, evaluators)
        if ranks.rank == 0:
            if resume:
                check_inputs(run, inputs)
            _forget_after(run / METRICS, before["global_step"] if before else 0)
        if before is not None and not _take_up(run, before, module, data, config.epochs):
            # All epochs are done. Without training, Lightning would not restore averaged weights.
            if ranks.rank == 0:
                module.save(before["global_step"])
            return run / "model"
        if ranks.rank == 0:
            for difference in differences(run) if before else ():
                on_warning(difference)
            write_facts(config, run, inputs, ranks, before["global_step"] if before else None)
        trainer = make_trainer(config, run, data, ranks, signals, progress=progress)
        with _explained_workers(data), signals.heard():
            trainer.fit(
                module,
                data.train,
                list(data.validation) or None,
                ckpt_path=str(run / CHECKPOINT) if resume else None,
                weights_only=True,
            )
        if trainer.is_global_zero:
            module.save(module.global_step)
    return run / "model"


def _take_up(
    run: Path, before: Mapping[str, Any], module: PoseTraining, data: RunData, epochs: int
) -> bool:
    """Restore the position of a run from its checkpoint; False if all epochs are done."""
    module.versions = tuple(one["version"] for one in sessions_of(run))
    epoch, batches = before["diffusionpose"]["position"]
    if epoch >= epochs:
        module.load_state_dict(before["state_dict"])
        return False
    data.sampler.resume(epoch, batches)
    module.versions += (__version__,)
    return True


class PoseTrackValidation:
    """PoseTrack AP of a validation set with ground-truth boxes; the videos are split among ranks.

    Args:
        source: The validation set.
        config: The recipe.
        ranks: Rank of this process, and the number of processes.
        signals: Signals that ask the run to stop.

    Raises:
        DataError: If files are missing or malformed, or a person has no head box.
        MissingExtraError: If there are ignore regions and shapely is not installed.
    """

    def __init__(
        self, source: SourceConfig, config: TrainConfig, ranks: Ranks, signals: StopSignals
    ) -> None:
        self._options = EvaluateOptions(
            model=config.name,
            data=source.root,
            split=source.split or "",
            subset=source.subset,
            stride=source.stride,
            batch_size=config.batch_size,
        )
        self._data, self._ranks, self._signals = read_truth(self._options), ranks, signals
        require_head_boxes(self._data.videos)
        require_shapely(self._data.videos)

    def fingerprint(self) -> str:
        """SHA-256 over joints, head boxes and ignore regions of all frames with people."""
        digest = hashlib.sha256()
        for video in self._data.videos:
            for index, frame in enumerate(video.frames):
                digest.update(
                    f"{video.name} {index} {len(frame.people)}".encode(errors="surrogatepass")
                )
                heads = [one.head_box for one in frame.people if one.head_box is not None]
                points = [one.keypoints for one in frame.people]
                for values in (*points, *heads, *frame.ignore_regions) if frame.people else ():
                    digest.update(f"{values.shape}".encode() + np.round(values, 3).tobytes())
        return digest.hexdigest()

    def _check_signals(self) -> None:
        if self._ranks.world == 1:
            self._signals.end_validation()

    def __call__(self, model: DiffusionPose, device: torch.device, steps: int = 1) -> float:
        """Compute the mean AP over joints, in percent.

        Args:
            model: The model.
            device: Where it runs.
            steps: DDIM steps.

        Raises:
            StoppedError: After a signal, if this is the only process.
        """
        data = self._data
        mine = range(self._ranks.rank, len(data.videos), self._ranks.world)
        part = replace(
            data,
            videos=[data.videos[n] for n in mine],
            clips=lambda video, frame: data.clips(mine[video], frame),
        )
        network = TorchNetwork(model, device, {}, num_inference_steps=steps)
        found, _ = predict_truth(network, part, None, self._options, lambda _: self._check_signals)
        every = [found]
        if is_distributed():
            every = [[] for _ in range(self._ranks.world)]
            distributed.all_gather_object(every, found)
        by_name = {video.name: video for videos in every for video in videos}
        pairs = [VideoPair(truth, by_name[truth.name], True) for truth in data.videos]
        return float(PoseTrackAP(pairs).row(np.ones(len(pairs)))[-1])


def make_evaluators(
    config: TrainConfig, ranks: Ranks, signals: StopSignals
) -> dict[str, PoseTrackValidation]:
    """Make the PoseTrack AP evaluators of the validation sources, by name in the metrics."""
    return {
        f"ap_{source.name}": PoseTrackValidation(source, config, ranks, signals)
        for source in config.validation
        if has_precision(config, source)
    }


def has_precision(config: TrainConfig, source: SourceConfig) -> bool:
    """Whether PoseTrack AP is requested and applies to a source, which must not be corrupted."""
    is_asked_for = config.validation_metric == "posetrack-ap"
    return is_asked_for and source.kind == "posetrack" and source.corruption is None


def inputs_of(
    config: TrainConfig, data: RunData, evaluators: Mapping[str, PoseTrackValidation]
) -> dict[str, Any]:
    """SHA-256 of a run's training data, validation data, and the weights that its recipe names."""
    measured = [data.validation_fingerprint, *(one.fingerprint() for one in evaluators.values())]
    return {
        "data_sha256": data.fingerprint,
        "validation_sha256": hashlib.sha256(" ".join(measured).encode()).hexdigest(),
        "weights_sha256": {key: sha256_of(path) for key, path in weights_of(config).items()},
    }


def _cached(
    config: TrainConfig, model: DiffusionPose
) -> Callable[[ClipDataset, bool], Dataset[Any]]:
    """Make a function that replaces clips by cached features, if the recipe has a cache."""
    folder = config.feature_cache
    if folder is None:
        return lambda clips, _: clips
    return lambda clips, is_training: FeatureClips(
        clips, model, folder, config.feature_draws if is_training else 1
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's messages about devices, products and its internals."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


@contextmanager
def _explained_workers(data: RunData) -> Iterator[None]:
    try:
        yield
    except DiffusionPoseError as error:
        # A loader worker's error carries its traceback; the last line is the message.
        said = str(error).strip().splitlines()[-1]
        if said == str(error):
            raise
        raise type(error)(said.partition(": ")[2]) from error
    except RuntimeError as error:
        for loader in (data.train, *data.validation):
            if explained := loader.explain(error):
                raise explained from error
        raise
    finally:
        for loader in (data.train, *data.validation):
            loader.close()


@contextmanager
def _held(run: Path, ranks: Ranks) -> Iterator[None]:
    """Make the run folder and hold its lock, which is released even if the process is killed."""
    if ranks.rank:
        yield
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / ".lock", timeout=LOCK_SECONDS)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{run} is in use by another training process") from None
    except OSError as error:
        raise ConfigError(f"cannot use {run} as a run folder: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explained_disk(run: Path) -> Iterator[None]:
    """Turn a full-disk error into a user error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise DiffusionPoseError(
            f"{run}: {error.strerror}; free some space, then --resume"
        ) from error


def _check_run(
    run: Path, config: TrainConfig, ranks: Ranks, *, resume: bool
) -> dict[str, Any] | None:
    """Check that the run folder fits; return the checkpoint to resume from, or None."""
    checkpoint = run / CHECKPOINT
    if not resume:
        # A run without a checkpoint has nothing to lose.
        if checkpoint.exists():
            raise ConfigError(f"{run} already holds a run: resume it, or choose another folder")
        return None
    if not checkpoint.is_file():
        raise ConfigError(
            f"nothing to resume from, {checkpoint} does not exist: leave --resume out"
        )
    before = read_checkpoint(checkpoint)
    if not isinstance(before, dict) or "diffusionpose" not in before:
        raise ConfigError(f"{checkpoint}: not a checkpoint of this release; start a new run")
    if changed := changed_settings(run / RECIPE, config):
        raise ConfigError(
            f"{run} holds a run with different settings ({'; '.join(changed[:3])}): resume with {run / RECIPE}, or "
            "choose another folder"
        )
    processes = facts_of(run).get("processes", ranks.world)
    if processes != ranks.world:
        raise ConfigError(
            f"{run} holds a run of {processes} processes, not {ranks.world}: resume with the same number"
        )
    return before


def changed_settings(
    recipe: Path, config: TrainConfig, but: frozenset[str] = CHANGEABLE
) -> list[str]:
    """List differences of a run's recipe to another one, as `key: A there, B here`.

    Args:
        recipe: File of the run's recipe.
        config: The other one.
        but: Last parts of keys to ignore, unless the setting is None in either recipe.

    Raises:
        ConfigError: If the recipe is missing or not of this release.
    """
    before = parse(TrainConfig, read_yaml(recipe), str(recipe))
    return [
        f"{key}: {there} there, {here} here"
        for key, (there, here) in differing_settings(before, config).items()
        if key.rpartition(".")[2] not in but or None in (there, here)
    ]


def differing_settings(there: TrainConfig, here: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Map differing keys, such as `a.0.b`, to the values in both recipes; None if absent."""
    first, second = (dict(_leaves(one.model_dump(mode="json"))) for one in (there, here))
    return {
        key: (first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    }


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of all leaves, with keys such as `a.0.b`."""
    items = enumerate(value) if isinstance(value, list) else value.items()
    for key, child in items:
        if isinstance(child, dict | list):
            yield from _leaves(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", child


def _forget_after(metrics: Path, step: int) -> None:
    """Remove metrics of epochs that will be run again, and any incomplete line."""
    if not metrics.is_file():
        return
    lines = [line for line in metrics.read_text().splitlines() if 0 < _step_of(line) <= step]
    write_text(metrics, "".join(f"{line}\n" for line in lines))


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return 0


class Bar(RichProgressBar):
    """Lightning's progress bar without the logger's version number."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Metrics shown after the bar."""
        found = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in found.items() if name != "v_num"}


def make_trainer(
    config: TrainConfig,
    run: Path,
    data: RunData,
    ranks: Ranks,
    signals: StopSignals,
    *,
    progress: bool,
) -> L.Trainer:
    """Make Lightning's trainer for a recipe."""
    shows_bar = progress and ranks.rank == 0
    # Searching for unused parameters costs time in every step, and most models have none.
    several = "ddp" if config.model.decoder.reads_position else "ddp_find_unused_parameters_true"
    return L.Trainer(
        max_epochs=config.epochs,
        accelerator="auto",
        devices=ranks.local_world,
        num_nodes=ranks.world // ranks.local_world,
        strategy=several if ranks.world > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        accumulate_grad_batches=config.accumulate,
        callbacks=[
            make_average(config.optimizer.ema_decay),
            LearningRateMonitor("step"),
            KeepRun(config.checkpoint_minutes, signals),
            *([Bar()] if shows_bar else []),
        ],
        plugins=[AtomicCheckpoints()],
        logger=TensorBoardLogger(run, name="", version="tensorboard"),
        enable_progress_bar=shows_bar,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        log_every_n_steps=min(20, max(1, len(data.train))),
        use_distributed_sampler=False,
        limit_val_batches=1.0 if config.validation else 0,
    )
