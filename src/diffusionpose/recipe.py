"""Every setting of training runs: data, augmentation, teachers, optimizer; one YAML a recipe, unknown keys are errors.

A recipe is changed from the command line by `--set a.b=c`; values are read as YAML.
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
    """Random changes of a training clip; one draw serves all of its frames. Probabilities and half-widths."""

    flip: Share = 0.5
    scale: float = Field(default=0.35, ge=0, lt=1)
    """The window grows or shrinks by up to this share."""
    rotation: float = Field(default=45.0, ge=0, le=180)
    """Degrees to either side, in `rotation_share` of the clips."""
    rotation_share: Share = 0.6
    shift: Share = 0.08
    """Of the window's sides."""
    half_body: Share = 0.2
    truncation: Share = 0.0
    """Share of clips whose picture ends within the person, who then fills the crop with what is left."""
    colour: Share = 0.4
    """Strength of brightness, contrast, saturation and tint."""
    grey: Share = 0.1
    exposure: Share = 0.0
    """Share of clips under- or overexposed, by a gamma of 3 at most."""
    compression: Share = 0.0
    """Share of clips as a small, strongly compressed video shows them."""
    blur: Share = 0.15
    """Share of clips with motion blur or defocus."""
    defocus: Share = 0.5
    """Of the blurred clips, the share out of focus; the others have motion blur."""
    blur_each: Share = 0.0
    """Of the blurred clips, the share in which each frame has a blur of its own, and neighbours may be sharp."""
    occlusion: Share = 0.3
    """Share of clips with patches that hide parts of the person."""
    occluder_speed: float = Field(default=0.02, ge=0)
    """Of these patches, in widths of the crop a frame (standard deviation): at 0.15, neighbours often show what they hide."""
    occluder_texture: Share = 0.0
    """Of these patches, the share cut out of another example's picture, and larger; the others are coloured noise."""
    still_motion: Share = 0.04
    """Speed of the motion made from a still, in window sides a frame."""
    frame_jitter: Share = 0.0
    """Share of neighbour frames that give way to the frame behind them (t-2, t+2) or to the key frame."""


class CorruptionConfig(AugmentConfig):
    """What makes a harder copy of a validation set; nothing but what is asked for."""

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
    """What a pretrained stem knew is held while it learns: its old heatmap head must see on it what it saw before, if that was right."""

    weights: Path
    """Of `tools/make_stem.py`: the stem and its heatmap head."""
    weight: float = Field(default=0.05, gt=0)
    """Of the loss."""
    share: Share = 0.5
    """Of a batch's clips, by their key frames."""


class TeacherConfig(Frozen):
    """A network that teaches."""

    weights: Path
    """Folder or bundled name of a model, or a file of `tools/make_stem.py`, for MoveNet as it came."""
    share: float = Field(default=1.0, gt=0)
    """Of the clips, in relation to the other teachers'."""


class DistillationConfig(Frozen):
    """Other networks' heatmaps are learnt besides the labels: those of one of them for each clip, of every second one mirrored."""

    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    weight: float = Field(default=0.5, gt=0, le=1)
    """Of what teachers say in the loss; labels have the rest."""


class SourceConfig(Frozen):
    """One data set: a PoseTrack17, 18 or 21 root with a split, or COCO annotations with their images (docs/data.md)."""

    kind: Literal["posetrack", "coco"]
    root: Path
    split: str | None = None
    """`posetrack`: the folder of annotation files; which PoseTrack it is, and where the images lie, is found out."""
    annotations: Path | None = None
    """`coco`: relative to the root."""
    images: Path | None = None
    """`coco`: relative to the root."""
    subset: Path | None = None
    """Text file with a video, frame path or frame id a line, relative to the root: only these."""
    stride: int = Field(default=1, ge=1)
    """Every n-th annotated frame or picture."""
    share: float = Field(default=1.0, gt=0, le=1_000)
    """Share of its people that an epoch draws; above 1 they repeat, each time augmented anew."""
    corruption: CorruptionConfig | None = None
    """Validation: changes drawn once for each clip, the same in every run, for a harder copy of the set (by PCK only)."""
    label: str | None = Field(default=None, pattern=r"^\w[\w.-]*$")
    """Validation: its name in metrics, in place of root and split or annotation file."""

    @property
    def name(self) -> str:
        """Stands for it in metrics."""
        if self.label is not None:
            return self.label
        part = self.split or (self.annotations.stem if self.annotations else "")
        name = f"{self.root.name}_{part}" if part else self.root.name
        return f"{name}_harder" if self.corruption else name


class OptimizerConfig(Frozen):
    """AdamW, its rates by part of the model, their schedule, and the average of the weights."""

    learning_rate: float = Field(default=5e-4, gt=0)
    backbone_scale: float = Field(default=1.0, ge=0)
    """Of the backbone's learning rate; 0 freezes it."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the rate for each block of the backbone below the last, as ViTPose is fine-tuned."""
    stem_scale: float = Field(default=0.3, ge=0)
    """`hybrid` backbones: further factor for the pretrained stem; 0 freezes it."""
    frozen_stem_blocks: int = Field(default=0, ge=0)
    """`hybrid` backbones: blocks of the stem that stay as they are, counted from the image."""
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
            raise ValueError(f"milestones {list(self.milestones)} must increase")
        return self


class TrainConfig(Frozen):
    """One training run."""

    name: str = Field(pattern=r"^\w[\w .-]*$")
    model: ModelConfig
    train: tuple[SourceConfig, ...] = Field(min_length=1)
    validation: tuple[SourceConfig, ...] = ()
    validation_metric: Literal["pck", "posetrack-ap"] = "pck"
    """`posetrack-ap`, of `posetrack` sources, is what `diffusionpose evaluate` finds with true boxes; PCK comes besides."""
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    anchor: AnchorConfig | None = None
    distillation: DistillationConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    init_from: Path | None = None
    """Folder or .safetensors with weights to start from; parts that are not in it start afresh."""
    init_part: str = ""
    """`backbone.`: of those, only the backbone's; any start of the tensors' names."""
    backbone_weights: Path | None = None
    """ViTPose weights: an original `.pth`, a safetensors file, or a folder in the Hugging Face layout."""
    feature_cache: Path | None = None
    """Folder for the features of a frozen backbone, which then runs once for each record and draw, not in every step."""
    feature_draws: Count = 1
    """Augmentations of a record that the cache holds."""
    epochs: int = Field(default=20, ge=1)
    batch_size: Count = 32
    accumulate: Count = 1
    """Batches a step, whose gradients are averaged.

    Nearly one batch of that many times the size: each is divided by its own number of labelled
    joints, not by that of all, and an epoch's last step has those that are left, their sum still
    divided by `accumulate`.
    """
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(str)] = "32"
    final_timestep_share: float = Field(default=0.3, ge=0, le=1)
    """Share of a batch at t = T - 1, the step that one-step inference starts from."""
    workers: int = Field(default=1, ge=0, le=1_000)
    seed: Seed = 0
    checkpoint_minutes: float = Field(default=5.0, gt=0)

    @model_validator(mode="after")
    def _training_is_not_corrupted(self) -> Self:
        if any(source.corruption for source in self.train):
            raise ValueError("corruption is for validation sources: set augment")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in self.validation]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two validation sources are called {twice}: give one a label")
        return self

    @model_validator(mode="after")
    def _anchor_needs_a_stem_that_learns(self) -> Self:
        if self.anchor is not None and self.model.backbone.kind != "hybrid":
            raise ValueError("anchor needs a backbone with a stem: set model.backbone.kind hybrid")
        if self.anchor is not None and not (
            self.optimizer.backbone_scale and self.optimizer.stem_scale
        ):
            raise ValueError(
                "anchor is for a stem that learns: leave it out, or set optimizer.stem_scale above 0"
            )
        return self

    @model_validator(mode="after")
    def _teachers_need_pictures(self) -> Self:
        if self.distillation is not None and self.feature_cache is not None:
            raise ValueError("distillation needs pictures: leave feature_cache out")
        return self

    @model_validator(mode="after")
    def _cache_needs_a_frozen_backbone(self) -> Self:
        if self.feature_cache is not None and self.optimizer.backbone_scale:
            raise ValueError(
                "feature_cache needs a frozen backbone: set optimizer.backbone_scale 0"
            )
        return self


DATA = "DATA"
"""What stands in recipes for the folder of the data sets."""


def read_recipe(
    path: str | Path, settings: Sequence[str] = (), data: Path | None = None
) -> TrainConfig:
    """A training recipe; `model` may be the name of a size.

    Args:
        path: The file.
        settings: As `override`.
        data: For `DATA` at the start of the sources' roots.

    Raises:
        ConfigError: As `parse`, `read_yaml` and `override`; and if the recipe has `DATA` and there is no `data`.
    """
    values = _with_model(read_yaml(path))
    # A size may be set as well, and then parts of it.
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
    """With the settings of a size in place of its name."""
    size = values.get("model")
    if not isinstance(size, str):
        return values
    return values | {"model": model_config(size).model_dump(mode="json")}


def _placed(source: SourceConfig, data: Path | None, origin: str) -> SourceConfig:
    if source.root.parts[:1] != (DATA,):
        return source
    if data is None:
        raise ConfigError(
            f"{origin}: {source.root}: say with --data which folder {DATA} stands for, or set another root"
        )
    return source.model_copy(update={"root": data.joinpath(*source.root.parts[1:])})


def override(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with each `a.b=c` of `settings` applied; `a.0.b=c` goes into a list.

    Raises:
        ConfigError: If a setting has no `=`, or its path runs through something that holds no keys.
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
            raise ConfigError(f"--set {setting!r}: there are no keys at {'.'.join(parents)!r}")
        node[last] = parse_yaml(text, f"--set {setting!r}")
    return out


def _step_into(node: Any, part: str, setting: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(part, {})
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    raise ConfigError(f"--set {setting!r}: there is nothing under {part!r}")
