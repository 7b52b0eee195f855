"""Training: a recipe in, a run folder with checkpoints, metrics and the averaged model out.

The run folder holds `recipe.yaml` (everything resolved), `run.json` (version, git state, data fingerprint),
`metrics.jsonl`, `tensorboard/`, `checkpoints/last.ckpt` to resume from, and `model/`, the averaged weights after the
latest validation.

A run that was killed and resumed ends with the weights of one that was not, bit for bit on the CPU: see `training.module`.
"""

import json
import logging
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed
from torch.utils.data import Dataset

from diffusionpose.config import SourceConfig, TrainConfig, parse, read_yaml
from diffusionpose.data.clips import ClipDataset
from diffusionpose.errors import ConfigError, DiffusionPoseError, first_line
from diffusionpose.evaluate import EvaluateOptions, predict_truth, read_truth
from diffusionpose.metrics.pairs import VideoPair
from diffusionpose.metrics.posetrack_ap import PoseTrackAP
from diffusionpose.metrics.posetrack_frames import require_head_boxes, require_shapely
from diffusionpose.model.checkpoint import read_restricted
from diffusionpose.model.model import DiffusionPose
from diffusionpose.networks import TorchNetwork
from diffusionpose.training.checkpoints import AtomicCheckpoints, KeepRun, StopSignals
from diffusionpose.training.features import FeatureClips
from diffusionpose.training.module import METRICS, PoseTraining
from diffusionpose.training.optimizer import make_average
from diffusionpose.training.sources import Ranks, RunData, is_distributed, make_loaders
from diffusionpose.version import __version__

RECIPE, FACTS, CHECKPOINT = "recipe.yaml", "run.json", Path("checkpoints") / "last.ckpt"


def train(config: TrainConfig, run: Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Runs a recipe, in one process or as one of torchrun's.

    Args:
        config: The recipe.
        run: Run folder; must be empty or new unless `resume`.
        resume: Continue from `checkpoints/last.ckpt`.
        progress: Show a progress bar.

    Returns:
        Folder of the averaged model.

    Raises:
        ConfigError: If the run folder holds a run already, has nothing to resume from, or cannot be made.
        CheckpointError: If the checkpoint to resume from is damaged.
        StoppedError: After SIGINT or SIGTERM, when everything is saved.
        DiffusionPoseError: If the disk is full, gradients are not finite, or a loader worker dies.
    """
    checkpoint = run / CHECKPOINT
    before = _check_run(run, checkpoint, resume=resume)
    ranks = Ranks.of_process()
    signals = StopSignals()
    with _quiet():
        L.seed_everything(config.seed, workers=True, verbose=False)
        evaluators = {
            f"ap_{source.name}": PoseTrackValidation(source, config, ranks)
            for source in config.validation
            if config.validation_metric == "posetrack-ap" and source.kind == "posetrack"
        }
        module = PoseTraining(config, run, evaluators)
        data = make_loaders(config, ranks, _cached(config, module.model))
        if ranks.rank == 0:
            write_facts(config, run, data.fingerprint, resume=resume)
        if before is not None:
            data.sampler.resume(*before["diffusionpose"]["position"])
            if ranks.rank == 0:
                _forget_after(run / METRICS, before["global_step"])
        trainer = make_trainer(config, run, data, ranks, signals, progress=progress)
        with _explained_workers(data), signals.heard():
            trainer.fit(
                module,
                data.train,
                list(data.validation) or None,
                ckpt_path=str(checkpoint) if resume else None,
                weights_only=True,
            )
        if trainer.is_global_zero:
            module.model.save_pretrained(run / "model", module.card())
    return run / "model"


class PoseTrackValidation:
    """PoseTrack AP of a validation set with true boxes, each rank finding people in some of the videos.

    Args:
        source: The set.
        config: The recipe.
        ranks: Which process of how many this is.

    Raises:
        DataError: If files are missing or malformed, or a person has no head box.
        MissingExtraError: If there are ignore regions, and shapely is not installed.
    """

    def __init__(self, source: SourceConfig, config: TrainConfig, ranks: Ranks) -> None:
        self._options = EvaluateOptions(
            model=config.name,
            data=source.root,
            split=source.split or "",
            subset=source.subset,
            stride=source.stride,
            batch_size=config.batch_size,
        )
        self._data, self._ranks = read_truth(self._options), ranks
        require_head_boxes(self._data.videos)
        require_shapely(self._data.videos)

    def __call__(self, model: DiffusionPose, device: torch.device) -> float:
        """Mean over joints, 0 to 100."""
        data = self._data
        mine = range(self._ranks.rank, len(data.videos), self._ranks.world)
        part = replace(
            data,
            videos=[data.videos[n] for n in mine],
            clips=lambda video, frame: data.clips(mine[video], frame),
        )
        network = TorchNetwork(model, device, {})
        found, _ = predict_truth(network, part, None, self._options, None)
        every = [found]
        if is_distributed():
            every = [[] for _ in range(self._ranks.world)]
            distributed.all_gather_object(every, found)
        by_name = {video.name: video for videos in every for video in videos}
        pairs = [VideoPair(truth, by_name[truth.name], True) for truth in data.videos]
        return float(PoseTrackAP(pairs).row(np.ones(len(pairs)))[-1])


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


def _check_run(run: Path, checkpoint: Path, *, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to resume from, if there is to be one."""
    if resume and not checkpoint.is_file():
        raise ConfigError(f"{checkpoint}: nothing to resume from; leave --resume out")
    # A run that failed before it had learned anything stands in nobody's way.
    if not resume and (checkpoint.exists() or (run / "model").exists()):
        raise ConfigError(f"{run} holds a run already: resume it, or name another folder")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{run} cannot be a run folder: {error.strerror}") from None
    if not resume:
        return None
    before = read_restricted(checkpoint)
    if not isinstance(before, dict) or "diffusionpose" not in before:
        raise ConfigError(f"{checkpoint}: not a checkpoint of this release; start the run anew")
    return before


def _forget_after(metrics: Path, step: int) -> None:
    """Leaves out the lines of epochs that are now run again."""
    if not metrics.is_file():
        return
    lines = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= step]
    metrics.write_text("".join(f"{line}\n" for line in lines))


def write_facts(config: TrainConfig, run: Path, data_sha256: str, *, resume: bool) -> None:
    """The resolved recipe, and what the run depends on besides.

    Raises:
        ConfigError: If the run to resume has another network or other data, or lacks its facts.
    """
    recipe, facts = run / RECIPE, run / FACTS
    if resume:
        before = parse(TrainConfig, read_yaml(recipe), str(recipe))
        if before.model != config.model:
            raise ConfigError(f"{run} holds a run of another network: name another folder")
        try:
            fingerprint_before = json.loads(facts.read_text())["data_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{facts}: cannot be read ({first_line(error)})") from None
        if fingerprint_before != data_sha256:
            raise ConfigError(f"{run} holds a run on other data: name another folder")
    recipe.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    content = {
        "version": __version__,
        "git": git_state(),
        "data_sha256": data_sha256,
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }
    facts.write_text(json.dumps(content, indent=2) + "\n")


def git_state() -> str | None:
    """Commit of the code, with `+` where files differ from it; None where it is no repository."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


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
    return L.Trainer(
        max_epochs=config.epochs,
        accelerator="auto",
        devices=ranks.local_world,
        num_nodes=ranks.world // ranks.local_world,
        strategy="ddp" if ranks.world > 1 else "auto",
        sync_batchnorm=torch.cuda.is_available() and ranks.world > 1,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        accumulate_grad_batches=config.accumulate,
        callbacks=[
            make_average(config.optimizer.ema_decay),
            LearningRateMonitor("step"),
            KeepRun(run / CHECKPOINT, config.checkpoint_minutes, signals),
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
