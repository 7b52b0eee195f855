"""What is trained: losses, optimizer and validation of one model.

Everything random about a step is drawn by (seed, epoch, repeat, record): it depends neither on how clips are grouped into
batches and ranks nor on what happened before, so that a run can stop and go on anywhere.
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
"""A figure of the averaged model; all ranks call it together."""
MOST_SKIPPED_STEPS = 3
"""Steps without finite gradients, after which a run ends."""


def weights_at(path: Path, setting: str) -> Path:
    """A file, a folder, or the folder of a bundled model by its name.

    Raises:
        ConfigError: If it is none of them.
    """
    found = path if path.exists() else bundled().get(str(path))
    if found is None:
        raise ConfigError(
            f"{setting}: {path}: no such file; give another with --set {setting}=PATH"
        )
    return found


def named_weights(config: TrainConfig) -> dict[str, Path]:
    """All weights that a recipe names, by setting."""
    teachers = config.distillation.teachers if config.distillation else ()
    named = {
        "backbone_weights": config.backbone_weights,
        "init_from": config.init_from,
        "anchor.weights": config.anchor.weights if config.anchor else None,
        **{f"distillation.teachers.{n}.weights": one.weights for n, one in enumerate(teachers)},
    }
    return {key: path for key, path in named.items() if path is not None}


def weights_of(config: TrainConfig) -> dict[str, Path]:
    """The files of `named_weights`.

    Raises:
        ConfigError: If one is not there.
    """
    found = {key: weights_at(path, key) for key, path in named_weights(config).items()}
    return {key: path / WEIGHTS if path.is_dir() else path for key, path in found.items()}


class PoseTraining(L.LightningModule):
    """The training of one model.

    Args:
        config: The recipe.
        run: Folder for `metrics.jsonl` and `model/`.
        evaluators: Figures of every validation besides PCK, by name.
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
        """Of the sessions that the run had, for its card."""
        self.position: tuple[int, int] = (0, 0)
        """Epoch, and its batches that are behind; kept by the callback that saves."""
        self.skipped: list[list[str]] = []
        """The clips of each step that was left out."""
        self.learning_rate = 0.0
        """Of the latest step, the highest of its groups."""
        self._sums: dict[str, Tensor] = {}
        """By loss: its sum over the epoch's steps where it was finite, and their number."""
        self._clips: list[Tensor] = []

    def _make_anchor(self) -> StemAnchor | None:
        anchor, backbone = self.config.anchor, self.model.backbone
        if anchor is None:
            return None
        assert isinstance(backbone, HybridBackbone), "the recipe says so"
        path = weights_at(anchor.weights, "anchor.weights")
        model = self.config.model
        return StemAnchor(
            path, anchor.share, model.skeleton_graph, backbone.stem, model.backbone.stem_width
        )

    def targets(self, keypoints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Target heatmaps, keypoints without NaN, and which joints are labelled and on the map."""
        labelled = heatmaps.inside(keypoints, self.config.model.heatmap_size)
        target = heatmaps.encode(keypoints, self.config.model.heatmap_size, self.config.model.sigma)
        return target, keypoints.nan_to_num(0.0), labelled

    def draw(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Steps and noise of clips: uniform steps, with a share at T - 1, where one-step inference starts.

        Args:
            keys: (batch, 3) epoch, repeat and record.

        Returns:
            (batch,) steps; (batch, joints, height, width) standard Gaussian noise.
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
        """Loss of one batch, each clip at a step of its own."""
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
            # One bad step, which is left out, must not hide the epoch's other losses.
            known = torch.stack([mean.nan_to_num(0.0, 0.0, 0.0), mean.isfinite().to(mean.dtype)])
            self._sums[name] = self._sums.get(name, 0.0) + known
            self.log(f"train/{name}", mean, prog_bar=name == "total")
        return total

    def _teachers_loss(self, batch: dict[str, Tensor], predicted: Tensor) -> Tensor:
        """Heatmap and location loss with what the teachers say in the labels' place."""
        assert self.distillation is not None
        heatmaps, known = self.distillation.lesson(batch["images"], batch["key"])
        number = self._mean_of_ranks(known.sum().float())
        error = heatmap_loss(predicted, heatmaps, known, number)
        weight = self.config.loss.location
        if weight:
            error = error + weight * location_loss(predicted, heatmaps, known, number)
        return error

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips gradients by norm; leaves a step out whose gradients are not finite; too many of them end the run.

        Lightning's own clipping refuses fused optimizers under mixed precision.

        Raises:
            DiffusionPoseError: After `MOST_SKIPPED_STEPS` of them, naming their clips.
        """
        # At the end of an epoch the schedule is at the next step already.
        self.learning_rate = max(group["lr"] for group in optimizer.param_groups)
        clips, self._clips = self._clips, []
        every = [p for group in optimizer.param_groups for p in group["params"]]
        parameters = [p for p in every if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if norm.isfinite():
            nn.utils.clip_grads_with_norm_(parameters, self.config.optimizer.gradient_clip, norm)
            return
        # Without gradients AdamW leaves weights and moments alone.
        optimizer.zero_grad(set_to_none=True)
        self.skipped.append([self._clip_name(int(index)) for index in torch.cat(clips)])
        if len(self.skipped) >= MOST_SKIPPED_STEPS:
            named = "; ".join(", ".join(names[:4]) for names in self.skipped)
            raise DiffusionPoseError(
                f"{len(self.skipped)} steps without finite gradients, of batches with {named}: look at these clips, or "
                "lower optimizer.learning_rate"
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
        """Called when the checkpoint is loaded, whose rates may be those of fewer epochs."""
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        renew_rates(scheduler)

    def on_train_epoch_start(self) -> None:
        """Empties the epoch's sums; not called when an epoch is gone on with."""
        self._sums = {}

    def on_validation_epoch_start(self) -> None:
        """Saves the averaged model, asks the evaluators, starts the metrics."""
        # Here, and not at the end, when the averaged weights are out of place again.
        if self.global_step and self.trainer.is_global_zero:
            self.save(self.global_step)
        for name, evaluator in self.evaluators.items():
            self.log(f"val/{name}", evaluator(self.model, self.device), prog_bar=True)
        self.pck = [Pck(self.config.model.skeleton_graph) for _ in self.config.validation]

    def validation_step(
        self, batch: dict[str, Any], batch_index: int, dataloader_idx: int = 0
    ) -> None:
        """One-step inference with the noise of `evaluate`, into the metric of its data set."""
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
        """Logs PCK over all ranks."""
        for source, metric in zip(self.config.validation, self.pck, strict=True):
            if is_distributed():
                every: list[Any] = [None] * distributed.get_world_size()
                distributed.all_gather_object(every, metric.hits())
                metric.reset()
                for hits in every:
                    metric.merge(hits)
            self.log(f"val/pck_{source.name}", metric.compute()["mean"], prog_bar=True)

    def write_metrics(self) -> None:
        """One line of `metrics.jsonl`: epoch, step, mean losses, validation, and steps left out so far."""
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
        """Adds what Lightning does not know of: where in the epoch, its sums, the steps left out."""
        checkpoint["diffusionpose"] = {
            "position": list(self.position),
            "skipped": self.skipped,
            "sums": self._sums,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back."""
        own = checkpoint["diffusionpose"]
        self.skipped, self._sums = own["skipped"], own["sums"]

    def save(self, steps: int) -> None:
        """The weights as they are, as a model with a card."""
        self.model.save_pretrained(self.run / "model", self.card(steps))

    def card(self, steps: int) -> str:
        """Model card of a run's weights: what they were trained on, and that nothing more is known."""
        sources = "\n".join(
            f"- {s.kind} `{s.root.name}` {s.split or ''}" for s in self.config.train
        )
        versions = ", ".join(dict.fromkeys(self.versions))
        return (
            f"# {self.config.name}\n\nTrained by diffusionpose {versions}, recipe `{self.config.name}`, "
            f"{steps} steps, on:\n\n{sources}\n"
        )

    def configure_optimizers(self) -> Any:
        """AdamW with its schedule."""
        return make_optimizer(self.model, self.config.optimizer, self._rate)

    def _rate(self, step: int) -> float:
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        return rate_at(step, total, self.config.epochs, self.config.optimizer)
