"""The Lightning module: losses, optimizer and validation of one model.

All randomness of a training step is seeded by (seed, epoch, repeat, record). It depends neither on
how clips are grouped into batches and ranks nor on earlier steps, so that a run can be stopped and
resumed anywhere.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed, nn
from torch.optim.lr_scheduler import LambdaLR

from diffusionpose.data.clips import noise_of
from diffusionpose.errors import ConfigError, DiffusionPoseError
from diffusionpose.formats.atomic_file import explained
from diffusionpose.metrics.pck import Pck
from diffusionpose.model.losses import heatmap_loss, location_loss, total_loss
from diffusionpose.model.model import DiffusionPose
from diffusionpose.model.pretrained import WEIGHTS, bundled
from diffusionpose.nn import heatmaps
from diffusionpose.nn.backbone import HybridBackbone
from diffusionpose.nn.diffusion import keyed_generator
from diffusionpose.recipe import TrainConfig
from diffusionpose.training.anchor import StemAnchor
from diffusionpose.training.distillation import Distillation
from diffusionpose.training.features import features_of
from diffusionpose.training.optimizer import make_optimizer, rate_at, renew_rates
from diffusionpose.training.pictures import log_picture
from diffusionpose.training.sources import is_distributed
from diffusionpose.version import __version__

METRICS = "metrics.jsonl"
Evaluator = Callable[[DiffusionPose, torch.device], float]
"""Computes a metric of the averaged model; called on all ranks."""
MOST_SKIPPED_STEPS = 3
"""Number of steps without finite gradients at which a run is aborted."""


def weights_at(path: Path, setting: str) -> Path:
    """Resolve weights to a file, a folder, or the folder of the bundled model of that name.

    Args:
        path: As given in the recipe.
        setting: Key of the recipe, for error messages.

    Raises:
        ConfigError: If there is no such file, folder or model.
    """
    found = path if path.exists() else bundled().get(str(path))
    if found is None:
        raise ConfigError(
            f"{setting}: {path}: no such file or bundled model; give another with "
            f"--set {setting}=PATH"
        )
    return found


def named_weights(config: TrainConfig) -> dict[str, Path]:
    """Return all weights named in a recipe, by setting."""
    teachers = config.distillation.teachers if config.distillation else ()
    named = {
        "backbone_weights": config.backbone_weights,
        "init_from": config.init_from,
        "anchor.weights": config.anchor.weights if config.anchor else None,
        **{f"distillation.teachers.{n}.weights": one.weights for n, one in enumerate(teachers)},
    }
    return {key: path for key, path in named.items() if path is not None}


def weights_of(config: TrainConfig) -> dict[str, Path]:
    """Resolve `named_weights` to files.

    Raises:
        ConfigError: If one does not exist.
    """
    found = {key: weights_at(path, key) for key, path in named_weights(config).items()}
    return {key: path / WEIGHTS if path.is_dir() else path for key, path in found.items()}


class PoseTraining(L.LightningModule):
    """Training of one model.

    Args:
        config: The recipe.
        run: Folder for `metrics.jsonl` and `model/`.
        evaluators: Additional validation metrics besides PCK, by name.
    """

    def __init__(
        self, config: TrainConfig, run: Path, evaluators: Mapping[str, Evaluator] | None = None
    ) -> None:
        super().__init__()
        self.config, self.run, self.evaluators = config, run, dict(evaluators or {})
        self.model = DiffusionPose(config.model)
        if config.backbone_weights is not None:
            self.model.load_backbone(weights_at(config.backbone_weights, "backbone_weights"))
        if config.init_from is not None:
            self.model.load_matching(weights_at(config.init_from, "init_from"), config.init_part)
        self.model.backbone.requires_grad_(config.optimizer.backbone_scale > 0)
        if isinstance(self.model.backbone, HybridBackbone):
            stem = self.model.backbone.stem
            if config.optimizer.stem_scale == 0:
                stem.requires_grad_(False)
            stem.freeze(config.optimizer.frozen_stem_blocks)
        self.anchor = self._make_anchor()
        teaching = config.distillation
        self.distillation = (
            Distillation(teaching.teachers, config.model, weights_at, config.seed)
            if teaching
            else None
        )
        self.pck: list[Pck] = []
        self.versions: tuple[str, ...] = (__version__,)
        """Versions of diffusionpose in all sessions of the run, for the model card."""
        self.position: tuple[int, int] = (0, 0)
        """Epoch and number of its finished batches; updated by the callback that saves."""
        self.skipped: list[list[str]] = []
        """The clips of each skipped step."""
        self.learning_rate = 0.0
        """Highest learning rate of all parameter groups in the latest step."""
        self._sums: dict[str, Tensor] = {}
        """For each loss, its sum over the epoch's steps with a finite value, and their number."""
        self._clips: list[Tensor] = []

    def _make_anchor(self) -> StemAnchor | None:
        anchor, backbone = self.config.anchor, self.model.backbone
        if anchor is None:
            return None
        assert isinstance(backbone, HybridBackbone), "validated by the recipe"
        path = weights_at(anchor.weights, "anchor.weights")
        model = self.config.model
        return StemAnchor(
            path, anchor.share, model.skeleton_graph, backbone.stem, model.backbone.stem_width
        )

    def targets(self, keypoints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return target heatmaps, keypoints without NaN, and which joints lie on the heatmap.

        Args:
            keypoints: (batch, joints, 2) in heatmap pixels, NaN for unlabelled joints.
        """
        labelled = heatmaps.inside(keypoints, self.config.model.heatmap_size)
        target = heatmaps.encode(keypoints, self.config.model.heatmap_size, self.config.model.sigma)
        return target, keypoints.nan_to_num(0.0), labelled

    def draw(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Draw diffusion steps and noise for clips.

        Steps are uniform, except for a share at T - 1, where one-step inference starts.

        Args:
            keys: (batch, 3) epoch, repeat and record.

        Returns:
            (batch,) diffusion steps, and (batch, joints, height, width) standard Gaussian noise.
        """
        last = self.config.model.diffusion.num_train_timesteps - 1
        steps, noises = [], []
        for key in keys.tolist():
            generator = keyed_generator((self.config.seed, *key))
            is_last = torch.rand((), generator=generator) < self.config.final_timestep_share
            t = int(torch.randint(0, last + 1, (), generator=generator))
            steps.append(last if is_last else t)
            noises.append(torch.randn(self.model.noise_shape, generator=generator))
        return torch.tensor(steps, device=self.device), torch.stack(noises).to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Compute the loss of a batch, with a diffusion step per clip."""
        del batch_index
        target, keypoints, labelled = self.targets(batch["keypoints"])
        t, noise = self.draw(batch["key"])
        x_t = self.model.corrupt(target, noise, t)
        conditions = self.model.encode(features_of(batch, self.model))
        predicted = self.model.denoise(x_t, t, conditions)
        skeleton = self.config.model.skeleton_graph
        number = self._mean_of_ranks(labelled.sum().float())
        losses = total_loss(
            predicted, target, keypoints, labelled, skeleton, self.config.loss, number
        )
        parts, total = losses._asdict(), losses.total
        if self.config.distillation is not None:
            weight = self.config.distillation.weight
            parts["teachers"] = self._teachers_loss(batch, predicted)
            parts["total"] = total = (1 - weight) * total + weight * parts["teachers"]
        if self.anchor is not None and self.config.anchor is not None:
            parts["anchor"] = self.anchor(batch["images"], batch["keypoints"])
            parts["total"] = total = total + self.config.anchor.weight * parts["anchor"]
        self._clips.append(batch["index"])
        for name, value in parts.items():
            mean = self._mean_of_ranks(value.detach())
            # A skipped step must not turn the epoch's mean into NaN.
            known = torch.stack([mean.nan_to_num(0.0, 0.0, 0.0), mean.isfinite().to(mean.dtype)])
            self._sums[name] = self._sums.get(name, 0.0) + known
            self.log(f"train/{name}", mean, prog_bar=name == "total")
        return total

    def _teachers_loss(self, batch: dict[str, Tensor], predicted: Tensor) -> Tensor:
        """Compute heatmap and location loss against the teachers' heatmaps, not the labels."""
        assert self.distillation is not None
        heatmaps, known = self.distillation.lesson(batch["images"], batch["key"])
        number = self._mean_of_ranks(known.sum().float())
        error = heatmap_loss(predicted, heatmaps, known, number)
        weight = self.config.loss.location
        if weight:
            error = error + weight * location_loss(predicted, heatmaps, known, number)
        return error

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip gradients by norm, and skip steps whose gradients are not finite.

        Lightning's own clipping does not support fused optimizers under mixed precision.

        Raises:
            DiffusionPoseError: At `MOST_SKIPPED_STEPS` skipped steps, naming their clips.
        """
        # Recorded here, as at the end of an epoch the schedule has already advanced.
        self.learning_rate = max(group["lr"] for group in optimizer.param_groups)
        clips, self._clips = self._clips, []
        every = [p for group in optimizer.param_groups for p in group["params"]]
        parameters = [p for p in every if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if norm.isfinite():
            nn.utils.clip_grads_with_norm_(parameters, self.config.optimizer.gradient_clip, norm)
            return
        # AdamW does not update parameters and moments without gradients.
        optimizer.zero_grad(set_to_none=True)
        self.skipped.append([self._clip_name(int(index)) for index in torch.cat(clips)])
        if len(self.skipped) >= MOST_SKIPPED_STEPS:
            named = "; ".join(", ".join(names[:4]) for names in self.skipped)
            raise DiffusionPoseError(
                f"{len(self.skipped)} steps without finite gradients, in batches with {named}: "
                "check these clips, or lower optimizer.learning_rate"
            )

    def _clip_name(self, index: int) -> str:
        loader: Any = self.trainer.train_dataloader
        record = loader.dataset.records[index]
        return f"{record.video}:{record.image_id}:{record.track_id}"

    def _mean_of_ranks(self, value: Tensor) -> Tensor:
        if not is_distributed():
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total / distributed.get_world_size()

    def on_train_start(self) -> None:
        """Recompute learning rates; a loaded checkpoint may be from a run with fewer epochs."""
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        renew_rates(scheduler)

    def on_train_epoch_start(self) -> None:
        """Reset the epoch's sums; not called when a run is resumed within an epoch."""
        self._sums = {}

    def on_validation_epoch_start(self) -> None:
        """Save the averaged model, run the evaluators and reset the metrics."""
        # Not at the end of validation, when the averaged weights have been swapped out again.
        if self.global_step and self.trainer.is_global_zero:
            self.save(self.global_step)
        for name, evaluator in self.evaluators.items():
            self.log(f"val/{name}", evaluator(self.model, self.device), prog_bar=True)
        self.pck = [Pck(self.config.model.skeleton_graph) for _ in self.config.validation]

    def validation_step(
        self, batch: dict[str, Any], batch_index: int, dataloader_idx: int = 0
    ) -> None:
        """Run one-step inference with the noise of `evaluate`, and update the data set's metric."""
        noise = noise_of(batch, self.model.noise_shape).to(self.device)
        conditions = self.model.encode(features_of(batch, self.model))
        maps = self.model.generate(conditions, noise)
        points, _ = heatmaps.decode(maps, self.config.model.sigma)
        truth = batch["keypoints"]
        self.pck[dataloader_idx].update(*(p.cpu().double().numpy() for p in (points, truth)))
        if batch_index == 0 and "images" in batch:
            source = self.config.validation[dataloader_idx]
            log_picture(self, f"val/{source.name}", batch["images"], maps, points, truth)

    def on_validation_epoch_end(self) -> None:
        """Gather and log PCK over all ranks."""
        for source, metric in zip(self.config.validation, self.pck, strict=True):
            if is_distributed():
                every: list[Any] = [None] * distributed.get_world_size()
                distributed.all_gather_object(every, metric.hits())
                metric.reset()
                for hits in every:
                    metric.merge(hits)
            self.log(f"val/pck_{source.name}", metric.compute()["mean"], prog_bar=True)

    def write_metrics(self) -> None:
        """Append the epoch's losses, validation metrics and skipped steps to `metrics.jsonl`."""
        means = {f"train/{k}": float(v[0] / v[1]) for k, v in self._sums.items()}
        validation = {
            k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("val/")
        }
        line = {
            "epoch": self.current_epoch,
            "step": self.global_step,
            "time": round(time.time(), 1),
            "learning_rate": self.learning_rate,
            "skipped_steps": len(self.skipped),
        }
        rounded = {
            k: float(f"{v:.6g}") if math.isfinite(v) else None
            for k, v in (means | validation).items()
        }
        with explained(self.run / METRICS), (self.run / METRICS).open("a") as file:
            file.write(json.dumps(line | rounded, allow_nan=False) + "\n")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not save: position in the epoch, its sums, and skipped steps."""
        checkpoint["diffusionpose"] = {
            "position": list(self.position),
            "skipped": self.skipped,
            "sums": self._sums,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums and skipped steps; the position is read by the caller."""
        own = checkpoint["diffusionpose"]
        self.skipped, self._sums = own["skipped"], own["sums"]

    def save(self, steps: int) -> None:
        """Save the current weights as a model with a card."""
        self.model.save_pretrained(self.run / "model", self.card(steps))

    def card(self, steps: int) -> str:
        """Return a minimal model card: version, recipe, steps and training data."""
        sources = "\n".join(
            f"- {s.kind} `{s.root.name}` {s.split or ''}" for s in self.config.train
        )
        versions = ", ".join(dict.fromkeys(self.versions))
        return (
            f"# {self.config.name}\n\nTrained by diffusionpose {versions}, recipe "
            f"`{self.config.name}`, {steps} steps, on:\n\n{sources}\n"
        )

    def configure_optimizers(self) -> Any:
        """Create AdamW with its schedule."""
        return make_optimizer(self.model, self.config.optimizer, self._rate)

    def _rate(self, step: int) -> float:
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        return rate_at(step, total, self.config.epochs, self.config.optimizer)
