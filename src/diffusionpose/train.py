"""Training: a recipe in, a run folder with checkpoints, metrics and the averaged model out.

The run folder holds `recipe.yaml` (everything resolved), `run.json` (fingerprints of the data; version and git state by session),
`metrics.jsonl`, `tensorboard/`, `checkpoints/last.ckpt` to resume from, and `model/`, the averaged weights after the
latest validation.

A run that was killed and resumed ends with the weights of one that was not, bit for bit on the CPU: see `training.module`.
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
"""Settings on whose values the weights do not depend; that there is a feature cache does matter."""
CHANGEABLE = WITHOUT_EFFECT | {"epochs", "root"}
"""Settings that a run may be resumed with otherwise; its data's fingerprint must be the same."""
LOCK_SECONDS = 10.0
"""Loader workers of a killed run hold its lock until they notice, every five seconds."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(
    config: TrainConfig,
    run: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    on_warning: Callable[[str], None] = warnings.warn,
) -> Path:
    """Runs a recipe, in one process or as one of torchrun's.

    Args:
        config: The recipe.
        run: Run folder; must be empty or new unless `resume`.
        resume: Continue from `checkpoints/last.ckpt`.
        progress: Show a progress bar.
        on_warning: Told of what is odd about going on with the run.

    Returns:
        Folder of the averaged model.

    Raises:
        ConfigError: If the run folder holds a run already, has nothing to resume from or a run of other settings, is
            another process's, or cannot be made.
        CheckpointError: If the checkpoint to resume from is damaged.
        StoppedError: After SIGINT or SIGTERM, when everything is saved.
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
            # Nothing is left to learn, and Lightning would not put the averaged weights in place.
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
    """Puts a run back to where its checkpoint was written; False if that is its end."""
    module.versions = tuple(one["version"] for one in sessions_of(run))
    epoch, batches = before["diffusionpose"]["position"]
    if epoch >= epochs:
        module.load_state_dict(before["state_dict"])
        return False
    data.sampler.resume(epoch, batches)
    module.versions += (__version__,)
    return True


class PoseTrackValidation:
    """PoseTrack AP of a validation set with true boxes, each rank finding people in some of the videos.

    Args:
        source: The set.
        config: The recipe.
        ranks: Which process of how many this is.
        signals: What asks for an end.

    Raises:
        DataError: If files are missing or malformed, or a person has no head box.
        MissingExtraError: If there are ignore regions, and shapely is not installed.
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
        """SHA-256 over the truth of every frame that counts: joints, head boxes, ignore regions."""
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

    def _heed(self) -> None:
        if self._ranks.world == 1:
            self._signals.end_validation()

    def __call__(self, model: DiffusionPose, device: torch.device, steps: int = 1) -> float:
        """Mean over joints, 0 to 100.

        Args:
            model: The model.
            device: Where it runs.
            steps: DDIM steps.

        Raises:
            StoppedError: After a signal, where this is the only process.
        """
        data = self._data
        mine = range(self._ranks.rank, len(data.videos), self._ranks.world)
        part = replace(
            data,
            videos=[data.videos[n] for n in mine],
            clips=lambda video, frame: data.clips(mine[video], frame),
        )
        network = TorchNetwork(model, device, {}, num_inference_steps=steps)
        found, _ = predict_truth(network, part, None, self._options, lambda _: self._heed)
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
    """By name in the metrics, of the sources that are measured so."""
    return {
        f"ap_{source.name}": PoseTrackValidation(source, config, ranks, signals)
        for source in config.validation
        if has_precision(config, source)
    }


def has_precision(config: TrainConfig, source: SourceConfig) -> bool:
    """Whether PoseTrack AP is asked for and can be had: images must be as they are."""
    is_asked_for = config.validation_metric == "posetrack-ap"
    return is_asked_for and source.kind == "posetrack" and source.corruption is None


def inputs_of(
    config: TrainConfig, data: RunData, evaluators: Mapping[str, PoseTrackValidation]
) -> dict[str, Any]:
    """SHA-256 of what a run learns from, of what it is measured on, and of the weights that its recipe names."""
    measured = [data.validation_fingerprint, *(one.fingerprint() for one in evaluators.values())]
    return {
        "data_sha256": data.fingerprint,
        "validation_sha256": hashlib.sha256(" ".join(measured).encode()).hexdigest(),
        "weights_sha256": {key: sha256_of(path) for key, path in weights_of(config).items()},
    }


def _cached(
    config: TrainConfig, model: DiffusionPose
) -> Callable[[ClipDataset, bool], Dataset[Any]]:
    """Clips as they are, or as features of the frozen backbone."""
    folder = config.feature_cache
    if folder is None:
        return lambda clips, _: clips
    return lambda clips, is_training: FeatureClips(
        clips, model, folder, config.feature_draws if is_training else 1
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's notes on devices, other products and its own workings are not for our users."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


@contextmanager
def _explained_workers(data: RunData) -> Iterator[None]:
    try:
        yield
    except DiffusionPoseError as error:
        # From a worker it comes with the worker's traceback, whose last line is what was said.
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
    """Makes the run folder and keeps other processes out of it; a killed one leaves it free."""
    if ranks.rank:
        yield
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / ".lock", timeout=LOCK_SECONDS)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{run}: another process is training there") from None
    except OSError as error:
        raise ConfigError(f"{run} cannot be a run folder: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explained_disk(run: Path) -> Iterator[None]:
    """Of a full disk Lightning's loggers and ours say no more than the system does."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise DiffusionPoseError(f"{run}: {error.strerror}; make room, then --resume") from error


def _check_run(
    run: Path, config: TrainConfig, ranks: Ranks, *, resume: bool
) -> dict[str, Any] | None:
    """The checkpoint to resume from, if there is to be one."""
    checkpoint = run / CHECKPOINT
    if not resume:
        # A run that has not come to its first checkpoint stands in nobody's way.
        if checkpoint.exists():
            raise ConfigError(f"{run} holds a run already: resume it, or name another folder")
        return None
    if not checkpoint.is_file():
        raise ConfigError(f"{checkpoint}: nothing to resume from; leave --resume out")
    before = read_checkpoint(checkpoint)
    if not isinstance(before, dict) or "diffusionpose" not in before:
        raise ConfigError(f"{checkpoint}: not a checkpoint of this release; start the run anew")
    if changed := changed_settings(run / RECIPE, config):
        raise ConfigError(
            f"{run} holds a run with other settings ({'; '.join(changed[:3])}): resume {run / RECIPE}, or name another "
            "folder"
        )
    processes = facts_of(run).get("processes", ranks.world)
    if processes != ranks.world:
        raise ConfigError(f"{run} holds a run of {processes} processes, and here are {ranks.world}")
    return before


def changed_settings(
    recipe: Path, config: TrainConfig, but: frozenset[str] = CHANGEABLE
) -> list[str]:
    """What of a run's resolved recipe is otherwise in another one, as `key: there, here`.

    Args:
        recipe: The run's.
        config: The other one.
        but: Keys whose values may differ; that one has none of it is a difference all the same.

    Raises:
        ConfigError: If there is no such recipe, or not of this release.
    """
    before = parse(TrainConfig, read_yaml(recipe), str(recipe))
    return [
        f"{key}: {there} there, {here} here"
        for key, (there, here) in differing_settings(before, config).items()
        if key.rpartition(".")[2] not in but or None in (there, here)
    ]


def differing_settings(there: TrainConfig, here: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """By key, as `a.0.b`, what two recipes have there and here; None where one has no such key."""
    first, second = (dict(_leaves(one.model_dump(mode="json"))) for one in (there, here))
    return {
        key: (first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    }


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`a.0.b` and the value there."""
    items = enumerate(value) if isinstance(value, list) else value.items()
    for key, child in items:
        if isinstance(child, dict | list):
            yield from _leaves(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", child


def _forget_after(metrics: Path, step: int) -> None:
    """Leaves out the lines of epochs that are now run again, and one that a kill or a full disk cut short."""
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
    """Lightning's bar with rate and time left, without its number of the logger's version."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
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
    """Lightning's trainer for a recipe."""
    shows_bar = progress and ranks.rank == 0
    # To look for weights without gradients in every step takes time, and most models have none.
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
