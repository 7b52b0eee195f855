"""Training recipes in YAML: data, augmentation, teachers, optimizer; no unknown keys.

`--set a.b=c` on the command line overrides a setting; values are parsed as YAML.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from diffusionpose.config import (
    Count,
    Frozen,
    LossConfig,
    ModelConfig,
    Share,
    model_config,
    parse,
    parse_yaml,
    read_yaml,
)
from diffusionpose.errors import ConfigError

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class AugmentConfig(Frozen):
    """Random augmentation of training clips, drawn once for all frames of a clip.

    Fields are probabilities, or half-widths of uniform distributions, unless they say otherwise.
    """

    flip: Share = 0.5
    scale: float = Field(default=0.35, ge=0, lt=1)
    """The crop window grows or shrinks by up to this fraction."""
    rotation: float = Field(default=45.0, ge=0, le=180)
    """Degrees to either side, in `rotation_share` of the clips."""
    rotation_share: Share = 0.6
    shift: Share = 0.08
    """As a fraction of the window's sides."""
    half_body: Share = 0.2
    truncation: Share = 0.0
    """Share of clips whose image border cuts the person; the visible rest fills the crop."""
    colour: Share = 0.4
    """Strength of brightness, contrast, saturation and tint."""
    grey: Share = 0.1
    exposure: Share = 0.0
    """Share of clips that are under- or overexposed, by a gamma of at most 3."""
    compression: Share = 0.0
    """Share of clips with low resolution and strong video compression."""
    blur: Share = 0.15
    """Share of clips with motion blur or defocus."""
    defocus: Share = 0.5
    """Share of the blurred clips that are out of focus; the others have motion blur."""
    blur_each: Share = 0.0
    """Share of the blurred clips in which each frame is blurred differently, and neighbours may be
    sharp."""
    occlusion: Share = 0.3
    """Share of clips with patches that occlude parts of the person."""
    occluder_speed: float = Field(default=0.02, ge=0)
    """Standard deviation of the patches' speed in crop widths per frame; at 0.15, neighbour frames
    often show what is occluded."""
    occluder_texture: Share = 0.0
    """Share of patches that are cut from another example's image, and larger; the others are
    coloured noise."""
    still_motion: Share = 0.04
    """Speed of the synthetic motion of still images, in window sides per frame."""
    frame_jitter: Share = 0.0
    """Share of neighbour frames that are replaced by the next one outwards (t-2, t+2) or by the key
    frame."""


class CorruptionConfig(AugmentConfig):
    """Augmentation that makes a validation set harder; everything is off by default."""

    flip: Share = 0.0
    scale: float = Field(default=0.0, ge=0, lt=1)
    rotation_share: Share = 0.0
    shift: Share = 0.0
    half_body: Share = 0.0
    colour: Share = 0.0
    grey: Share = 0.0
    blur: Share = 0.0
    occlusion: Share = 0.0
    still_motion: Share = 0.0


class AnchorConfig(Frozen):
    """Regularisation of a pretrained stem towards its original function.

    The stem's original heatmap head, applied to the trained stem, must reproduce its original
    heatmaps where they were correct.
    """

    weights: Path
    """File of `tools/make_stem.py` with the stem and its heatmap head."""
    weight: float = Field(default=0.05, gt=0)
    """Of the loss term."""
    share: Share = 0.5
    """Share of a batch's clips, of which the key frames are used."""


class TeacherConfig(Frozen):
    """A teacher network for distillation."""

    weights: Path
    """Folder or bundled name of a model, or a file of `tools/make_stem.py` for the original
    MoveNet."""
    share: float = Field(default=1.0, gt=0)
    """Share of the clips, relative to those of the other teachers."""


class DistillationConfig(Frozen):
    """Distillation: train on heatmaps of teacher networks besides the labels.

    Each clip has one randomly drawn teacher, which sees it mirrored with probability 0.5.
    """

    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    weight: float = Field(default=0.5, gt=0, le=1)
    """Of the teachers in the loss; the labels have the rest."""


class SourceConfig(Frozen):
    """A data set: split of a PoseTrack17, 18 or 21 root, or COCO annotations (docs/data.md)."""

    kind: Literal["posetrack", "coco"]
    root: Path
    split: str | None = None
    """`posetrack`: folder of annotation files; version and location of the images are detected."""
    annotations: Path | None = None
    """`coco`: relative to the root."""
    images: Path | None = None
    """`coco`: relative to the root."""
    subset: Path | None = None
    """Text file, relative to the root, with one video, frame path or frame id to use per line."""
    stride: int = Field(default=1, ge=1)
    """Use every n-th annotated frame or image."""
    share: float = Field(default=1.0, gt=0, le=1_000)
    """Number of people per epoch relative to the data set; above 1 they repeat with new
    augmentation."""
    corruption: CorruptionConfig | None = None
    """Validation: fixed corruption of each clip, the same in every run; measured by PCK only."""
    label: str | None = Field(default=None, pattern=r"^\w[\w.-]*$")
    """Validation: name in metrics; by default made of the root and the split or annotation file."""

    @property
    def name(self) -> str:
        """Name of the source in metrics."""
        if self.label is not None:
            return self.label
        part = self.split or (self.annotations.stem if self.annotations else "")
        name = f"{self.root.name}_{part}" if part else self.root.name
        return f"{name}_harder" if self.corruption else name


class OptimizerConfig(Frozen):
    """AdamW with learning rates by part of the model, their schedule, and weight averaging."""

    learning_rate: float = Field(default=5e-4, gt=0)
    backbone_scale: float = Field(default=1.0, ge=0)
    """Factor of the backbone's learning rate; 0 freezes it."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Layer-wise decay: factor of the rate for each backbone block below the last, as in
    ViTPose."""
    stem_scale: float = Field(default=0.3, ge=0)
    """`hybrid` backbones: further factor for the pretrained stem; 0 freezes it."""
    frozen_stem_blocks: int = Field(default=0, ge=0)
    """`hybrid` backbones: number of frozen stem blocks, counted from the image."""
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_steps: int = Field(default=500, ge=0)
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Count, ...] = (16,)
    """Epochs after which `step` divides the rate by ten, in order (paper: 16 of 20)."""
    gradient_clip: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)

    @model_validator(mode="after")
    def _milestones_increase(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be increasing, not {list(self.milestones)}")
        return self


class TrainConfig(Frozen):
    """One training run."""

    name: str = Field(pattern=r"^\w[\w .-]*$")
    model: ModelConfig
    train: tuple[SourceConfig, ...] = Field(min_length=1)
    validation: tuple[SourceConfig, ...] = ()
    validation_metric: Literal["pck", "posetrack-ap"] = "pck"
    """`posetrack-ap` also measures PoseTrack AP on `posetrack` sources, as `diffusionpose evaluate`
    does with ground-truth boxes; PCK is always measured."""
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    anchor: AnchorConfig | None = None
    distillation: DistillationConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    init_from: Path | None = None
    """Folder or .safetensors file with initial weights; parts that it lacks are initialised
    randomly."""
    init_part: str = ""
    """Prefix of the tensor names to take from `init_from`, such as `backbone.`; empty takes all."""
    backbone_weights: Path | None = None
    """ViTPose weights: an original `.pth`, a safetensors file, or a folder in the Hugging Face
    layout."""
    feature_cache: Path | None = None
    """Folder that caches the features of a frozen backbone, computed once per record and draw."""
    feature_draws: Count = 1
    """Number of augmented versions of each record in the cache."""
    epochs: int = Field(default=20, ge=1)
    batch_size: Count = 32
    accumulate: Count = 1
    """Batches per optimizer step, whose gradients are averaged.

    Not quite equivalent to one large batch: each batch is normalised by its own number of labelled
    joints, and an incomplete last step of an epoch is still divided by `accumulate`.
    """
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(str)] = "32"
    final_timestep_share: float = Field(default=0.3, ge=0, le=1)
    """Share of a batch at t = T - 1, where one-step inference starts."""
    workers: int = Field(default=1, ge=0, le=1_000)
    seed: Seed = 0
    checkpoint_minutes: float = Field(default=5.0, gt=0)

    @model_validator(mode="after")
    def _training_is_not_corrupted(self) -> Self:
        if any(source.corruption for source in self.train):
            raise ValueError(
                "corruption applies to validation sources only: use augment for training"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in self.validation]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two validation sources are named {twice}: give one a label")
        return self

    @model_validator(mode="after")
    def _anchor_needs_a_stem_that_learns(self) -> Self:
        if self.anchor is not None and self.model.backbone.kind != "hybrid":
            raise ValueError("anchor needs a backbone with a stem: set model.backbone.kind hybrid")
        if self.anchor is not None and not (
            self.optimizer.backbone_scale and self.optimizer.stem_scale
        ):
            raise ValueError(
                "anchor needs a stem that is trained: leave it out, or set optimizer.backbone_scale and "
                "optimizer.stem_scale above 0"
            )
        return self

    @model_validator(mode="after")
    def _teachers_need_pictures(self) -> Self:
        if self.distillation is not None and self.feature_cache is not None:
            raise ValueError("distillation needs images: leave feature_cache out")
        return self

    @model_validator(mode="after")
    def _cache_needs_a_frozen_backbone(self) -> Self:
        if self.feature_cache is not None and self.optimizer.backbone_scale:
            raise ValueError(
                "feature_cache needs a frozen backbone: set optimizer.backbone_scale 0"
            )
        return self


DATA = "DATA"
"""Placeholder in recipes for the folder of the data sets."""


def read_recipe(
    path: str | Path, settings: Sequence[str] = (), data: Path | None = None
) -> TrainConfig:
    """Read a training recipe; its `model` may be the name of a size.

    Args:
        path: The file.
        settings: Overrides; see `override`.
        data: Replaces `DATA` at the start of the sources' roots.

    Raises:
        ConfigError: If the file or a setting is invalid, or the recipe has `DATA` and `data` is
            None.
    """
    values = _with_model(read_yaml(path))
    # Sizes first, as other settings may change parts of them.
    sizes = [setting for setting in settings if setting.startswith("model=")]
    values = _with_model(override(values, sizes))
    others = [setting for setting in settings if setting not in sizes]
    config = parse(TrainConfig, override(values, others), str(path))
    sources = {
        name: tuple(_placed(source, data, str(path)) for source in getattr(config, name))
        for name in ("train", "validation")
    }
    return config.model_copy(update=sources)


def _with_model(values: dict[str, Any]) -> dict[str, Any]:
    """Replace the name of a model size by its settings."""
    size = values.get("model")
    if not isinstance(size, str):
        return values
    return values | {"model": model_config(size).model_dump(mode="json")}


def _placed(source: SourceConfig, data: Path | None, origin: str) -> SourceConfig:
    if source.root.parts[:1] != (DATA,):
        return source
    if data is None:
        raise ConfigError(
            f"{origin}: {source.root}: give the folder that {DATA} stands for as --data, or set another root"
        )
    return source.model_copy(update={"root": data.joinpath(*source.root.parts[1:])})


def override(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `values` with each `a.b=c` of `settings` applied; `a.0.b=c` indexes a list.

    Raises:
        ConfigError: If a setting has no `=`, or its path leads through a value without keys.
    """
    out = yaml.safe_load(yaml.safe_dump(values))
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting!r}: write it as a.b=value")
        *parents, last = path.split(".")
        node = out
        for part in parents:
            node = _step_into(node, part, setting)
        if not isinstance(node, dict):
            raise ConfigError(f"--set {setting!r}: {'.'.join(parents)!r} has no keys")
        node[last] = parse_yaml(text, f"--set {setting!r}")
    return out


def _step_into(node: Any, part: str, setting: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(part, {})
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    raise ConfigError(f"--set {setting!r}: no such key or index: {part!r}")
