"""Training: a recipe in, a run folder with checkpoints, metrics and the averaged model out.

The run folder holds `recipe.yaml` (everything resolved), `run.json` (version, data fingerprint), `metrics.jsonl`,
`checkpoints/last.ckpt` to resume from, and `model/`, the averaged weights after the latest validation.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from diffusionpose.config import OptimizerConfig, SourceConfig, TrainConfig, parse, read_yaml
from diffusionpose.data.clips import ClipDataset, ClipRecord, EpochSampler
from diffusionpose.data.coco import load_coco
from diffusionpose.data.posetrack import load_posetrack
from diffusionpose.errors import ConfigError, DataError, first_line
from diffusionpose.metrics.pck import Pck
from diffusionpose.model.checkpoint import read_restricted
from diffusionpose.model.losses import total_loss
from diffusionpose.model.model import DiffusionPose
from diffusionpose.nn import heatmaps
from diffusionpose.nn.backbone import HybridBackbone
from diffusionpose.nn.diffusion import seeded_noise
from diffusionpose.skeleton import Skeleton
from diffusionpose.version import __version__

RECIPE, FACTS = "recipe.yaml", "run.json"


def load_source(source: SourceConfig, skeleton: Skeleton) -> list[ClipRecord]:
    """The people of one data set.

    Raises:
        ConfigError: If the source lacks what its kind needs.
        DataError: If its files are missing or malformed, or nobody is in it.
    """
    if source.kind == "posetrack":
        if source.split is None:
            raise ConfigError(f"{source.root}: a posetrack source needs `split`")
        records = load_posetrack(source.root, source.split, skeleton, source.stride, source.subset)
    else:
        if source.annotations is None or source.images is None:
            raise ConfigError(f"{source.root}: a coco source needs `annotations` and `images`")
        records = load_coco(
            source.root, source.annotations, source.images, skeleton, source.subset
        )[:: source.stride]
    if not records:
        raise DataError(f"{source.root}: no annotated people")
    return records


def fingerprint(records: Sequence[ClipRecord]) -> str:
    """SHA-256 over every record's frame names, keypoints and box: two runs on the same data share it."""
    digest = hashlib.sha256()
    for record in records:
        digest.update("|".join(path.name for path in record.frames).encode())
        digest.update(np.round(record.keypoints, 3).tobytes())
        digest.update(np.round(record.box, 3).tobytes())
    return digest.hexdigest()


class PoseTraining(L.LightningModule):
    """The training of one model: losses, optimizer, validation by PCK.

    Args:
        config: The recipe.
        run: Folder for `metrics.jsonl` and `model/`.
    """

    def __init__(self, config: TrainConfig, run: Path) -> None:
        super().__init__()
        self.config, self.run = config, run
        self.model = DiffusionPose(config.model)
        if config.backbone_weights is not None:
            self.model.load_backbone(config.backbone_weights)
        if config.init_from is not None:
            self.model.load_matching(config.init_from)
        self.frozen = config.optimizer.backbone_scale == 0
        self.model.backbone.requires_grad_(not self.frozen)
        if isinstance(self.model.backbone, HybridBackbone):
            stem = self.model.backbone.stem
            if config.optimizer.stem_scale == 0:
                stem.requires_grad_(False)
            stem.freeze(config.optimizer.frozen_stem_blocks)
        self.pck: list[Pck] = []

    def train(self, mode: bool = True) -> "PoseTraining":
        """A frozen backbone stays in evaluation mode, so that its batch statistics do not move."""
        super().train(mode)
        if self.frozen:
            self.model.backbone.eval()
        return self

    def targets(self, keypoints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Target heatmaps, keypoints without NaN, and which joints are labelled and on the map."""
        labelled = heatmaps.inside(keypoints, self.config.model.heatmap_size)
        target = heatmaps.encode(keypoints, self.config.model.heatmap_size, self.config.model.sigma)
        return target, keypoints.nan_to_num(0.0), labelled

    def timesteps(self, batch: int) -> Tensor:
        """Uniform steps, with a share at T - 1, where one-step inference starts."""
        last = self.config.model.diffusion.num_train_timesteps - 1
        t = torch.randint(0, last + 1, (batch,), device=self.device)
        return torch.where(
            torch.rand(batch, device=self.device) < self.config.final_timestep_share, last, t
        )

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Loss of one batch, each clip at a step of its own."""
        del batch_index
        target, keypoints, labelled = self.targets(batch["keypoints"])
        t = self.timesteps(len(target))
        x_t = self.model.corrupt(target, torch.randn_like(target), t)
        predicted = self.model(batch["images"], x_t, t)
        skeleton = self.config.model.skeleton_graph
        losses = total_loss(predicted, target, keypoints, labelled, skeleton, self.config.loss)
        for name, value in losses._asdict().items():
            self.log(
                f"train/{name}",
                value,
                prog_bar=name == "total",
                on_step=True,
                on_epoch=True,
                batch_size=len(target),
            )
        return losses.total

    def on_validation_epoch_start(self) -> None:
        """Saves the averaged model; starts the metrics."""
        # Here, and not at the end: the averaged weights are in place only during validation.
        if self.global_step:
            self.model.save_pretrained(self.run / "model", self.card())
        self.pck = [Pck(self.config.model.skeleton_graph) for _ in self.config.validation]

    def validation_step(
        self, batch: dict[str, Tensor], batch_index: int, dataloader_idx: int = 0
    ) -> None:
        """One-step inference with seeded noise, into the metric of its data set."""
        del batch_index
        noise = torch.stack(
            [seeded_noise(self.model.noise_shape, (0, int(index))) for index in batch["index"]]
        ).to(self.device)
        conditions = self.model.encode(self.model.extract(batch["images"]))
        points, _ = heatmaps.decode(self.model.generate(conditions, noise))
        both = [p.cpu().double().numpy() for p in (points, batch["keypoints"])]
        self.pck[dataloader_idx].update(*both)

    def on_validation_epoch_end(self) -> None:
        """Logs PCK and writes the line of `metrics.jsonl`."""
        for source, metric in zip(self.config.validation, self.pck, strict=True):
            self.log(f"val/pck_{source.name}", metric.compute()["mean"], prog_bar=True)
        self.write_metrics()

    def write_metrics(self) -> None:
        """One line of `metrics.jsonl`: epoch, step, and every logged value."""
        values = {k: round(float(v), 6) for k, v in self.trainer.callback_metrics.items()}
        line = {
            "epoch": self.current_epoch,
            "step": self.global_step,
            "time": round(time.time(), 1),
        }
        with (self.run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line | values) + "\n")

    def card(self) -> str:
        """Model card of a run's weights: what they were trained on, and that nothing more is known."""
        sources = "\n".join(
            f"- {s.kind} `{s.root.name}` {s.split or ''}" for s in self.config.train
        )
        return (
            f"# {self.config.name}\n\nTrained by diffusionpose {__version__}, recipe `{self.config.name}`, "
            f"{self.global_step} steps, on:\n\n{sources}\n"
        )

    def configure_optimizers(self) -> Any:
        """AdamW with its schedule."""
        return make_optimizer(self.model, self.config.optimizer, self._rate)

    def _rate(self, step: int) -> float:
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        return rate_at(step, total, self.config.epochs, self.config.optimizer)


def rate_at(step: int, total: int, epochs: int, config: OptimizerConfig) -> float:
    """The learning rate at a step as a share of its peak: linear warm-up, then `step` or `cosine`."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "cosine":
        return warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0))))
    epoch = step * epochs / total
    return warmup * 0.1 ** sum(epoch >= milestone for milestone in config.milestones)


_UNDECAYED = ("_tokens", "embedding", "position", "position_embeddings", "joints", "A_log")
"""Endings of the names of embeddings and of decay rates."""


def make_optimizer(
    model: DiffusionPose, config: OptimizerConfig, rate: Callable[[int], float]
) -> dict[str, Any]:
    """AdamW; no decay on vectors (norms, biases, gates, embeddings), rates of their own for backbone and stem."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or name.endswith(
                ("_tokens", "embedding", "position", "A_log")
            )
            scale = config.backbone_scale if name.startswith("backbone.") else 1.0
            scale *= config.stem_scale if name.startswith("backbone.stem.") else 1.0
            groups.setdefault((scale, plain), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate * scale,
                "weight_decay": 0.0 if plain else config.weight_decay,
            }
            for (scale, plain), parameters in groups.items()
        ],
        fused=True,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def make_average(decay: float) -> WeightAveraging:
    """Exponential moving average of the weights; its memory grows from nothing, so that the random start is forgotten."""

    def average(mean: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        weight = min(decay, (1 + int(count)) / (10 + int(count)))
        return weight * mean + (1 - weight) * current

    # Buffers are tables and frozen statistics: copied, not averaged.
    return WeightAveraging(avg_fn=average, use_buffers=False)


def make_loaders(
    config: TrainConfig,
) -> tuple[DataLoader[Any], list[DataLoader[Any]], EpochSampler, str]:
    """Training and validation loaders, the training sampler, and the training data's fingerprint."""
    skeleton = config.model.skeleton_graph
    train = [load_source(source, skeleton) for source in config.train]
    records = [record for source in train for record in source]
    shares = np.concatenate(
        [np.full(len(part), source.share) for part, source in zip(train, config.train, strict=True)]
    )
    sampler = EpochSampler(shares, config.seed)
    dataset = ClipDataset(records, config.model, config.augment, config.seed)
    options: dict[str, Any] = {"num_workers": config.workers, "persistent_workers": False}
    loader = DataLoader(
        dataset,
        config.batch_size,
        sampler=sampler,
        drop_last=len(sampler) > config.batch_size,
        **options,
    )
    validation: list[DataLoader[Any]] = [
        DataLoader(
            ClipDataset(load_source(source, skeleton), config.model), config.batch_size, **options
        )
        for source in config.validation
    ]
    return loader, validation, sampler, fingerprint(records)


def train(config: TrainConfig, run: Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Runs a recipe.

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
    """
    checkpoint = run / "checkpoints" / "last.ckpt"
    _check_run(run, checkpoint, resume=resume)
    # Its notes on devices and other products are not for our users; its warnings are.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    L.seed_everything(config.seed, workers=True, verbose=False)
    loader, validation, sampler, data_fingerprint = make_loaders(config)
    module = PoseTraining(config, run)
    write_facts(config, run, data_fingerprint, resume=resume)
    trainer = make_trainer(config, run, sampler, progress=progress)
    trainer.fit(
        module,
        loader,
        validation or None,
        ckpt_path=str(checkpoint) if resume else None,
        weights_only=True,
    )
    return module.model.save_pretrained(run / "model", module.card())


def _check_run(run: Path, checkpoint: Path, *, resume: bool) -> None:
    if resume and not checkpoint.is_file():
        raise ConfigError(f"{checkpoint}: nothing to resume from; leave --resume out")
    if resume:
        read_restricted(checkpoint)  # for its error: lightning's own would be a traceback
    # A run that failed before it had learned anything stands in nobody's way.
    if not resume and (checkpoint.exists() or (run / "model").exists()):
        raise ConfigError(f"{run} holds a run already: resume it, or name another folder")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{run} cannot be a run folder: {error.strerror}") from None


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
    content = {"version": __version__, "data_sha256": data_sha256, "torch": torch.__version__}
    facts.write_text(json.dumps(content, indent=2) + "\n")


def make_trainer(
    config: TrainConfig, run: Path, sampler: EpochSampler, *, progress: bool
) -> L.Trainer:
    """Lightning's trainer for a recipe."""
    save = ModelCheckpoint(
        run / "checkpoints",
        save_last=True,
        save_top_k=0,
        train_time_interval=timedelta(minutes=config.checkpoint_minutes),
        enable_version_counter=False,
    )
    return L.Trainer(
        max_epochs=config.epochs,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optimizer.gradient_clip,
        callbacks=[
            make_average(config.optimizer.ema_decay),
            LearningRateMonitor("step"),
            save,
        ],
        logger=TensorBoardLogger(run, name="", version="tensorboard"),
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=min(20, max(1, len(sampler) // config.batch_size)),
        use_distributed_sampler=False,
        limit_val_batches=1.0 if config.validation else 0,
    )
