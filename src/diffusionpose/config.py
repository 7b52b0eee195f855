"""Settings of models and losses as frozen pydantic models, and how to read them from YAML."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from diffusionpose.errors import ConfigError, first_line
from diffusionpose.skeleton import SKELETONS, Skeleton

Count = Annotated[int, Field(ge=1, le=16_384)]
Depth = Annotated[int, Field(ge=0, le=1_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Count, Count]
"""(height, width) in pixels."""


class Frozen(BaseModel):
    """Base of all settings: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_flags(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic accepts true as 1, and YAML reads yes, no, on and off as booleans.
        kinds = set(_kinds(cls.model_fields[info.field_name or ""].annotation))
        if kinds & {int, float} and bool not in kinds and (flag := _flag(value)) is not None:
            raise ValueError(f"expected a number, found {str(flag).lower()}")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the types in an annotation; for a literal, the types of its values."""
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif arguments := get_args(annotation):
        for argument in arguments:
            yield from _kinds(argument)
    else:
        yield annotation


def _flag(value: Any) -> bool | None:
    """Find the first boolean in a possibly nested value."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if not isinstance(value, list | tuple):
        return None
    return next((flag for one in value if (flag := _flag(one)) is not None), None)


class BackboneConfig(Frozen):
    """Backbone: `vit` is ViTPose's plain ViT; `hybrid` has a MobileNetV2 stem before it."""

    kind: Literal["vit", "hybrid"] = "vit"
    hidden_size: Count = 768
    depth: Depth = 12
    num_heads: Count = 12
    mlp_ratio: Count = 4
    patch_size: Literal[16] = 16
    stem_width: float = Field(default=1.0, ge=0.25, le=4)
    """`hybrid`: width multiplier of MobileNetV2; 1 in MoveNet Lightning, 1.75 in Thunder."""


class EncoderConfig(Frozen):
    """Spatio-Temporal Feature Encoder; `joint_attention` is Table 6 (b), `none` leaves it out."""

    kind: Literal["spatio_temporal", "joint_attention", "none"] = "spatio_temporal"
    depth: Depth = 4
    num_heads: Count = 8
    mlp_ratio: Count = 4
    state_size: Count = 16
    conv_kernel: Count = 4
    expand: Count = 2


class DecoderConfig(Frozen):
    """Pose Denoising Decoder and the baselines it is compared with.

    `hcdb` is the paper's. `unet` is the naive denoiser of Tables 5 and 7 (a). `lookup` masks
    features with noisy heatmaps as DiffPose does. `head` is a plain heatmap head without diffusion.
    """

    kind: Literal["hcdb", "unet", "lookup", "head"] = "hcdb"
    depth: Depth = 4
    num_heads: Count = 8
    mlp_ratio: Count = 4
    patch_size: Size = (16, 16)
    """(height, width) in heatmap pixels of the patches of a joint's heatmap."""
    feature_kernels: bool = False
    """Whether joint states also act as kernels on the upsampled feature conditions, besides their
    linear read-out."""
    position_conditions: bool = True
    markov: bool = True
    num_iterations: int | None = Field(default=None, ge=1)
    """None: exact messages on the limb tree; n: n rounds of flooding."""
    messages: Literal["product", "log"] = "product"
    """`product` is Eq. 1 as written; `log` turns products into sums, since a product of many factors
    leaves hardly more than one channel."""

    @property
    def reads_position(self) -> bool:
        """Whether the decoder uses C_p; if not, the parts that compute it get no gradients."""
        return self.kind == "hcdb" and self.position_conditions and self.depth > 0


class DiffusionConfig(Frozen):
    """Diffusion process over heatmaps."""

    num_train_timesteps: int = Field(default=1000, ge=2, le=100_000)
    signal_scale: float = Field(default=0.5, gt=0, le=100)
    """Heatmaps h become x_0 = (2h - 1) * signal_scale."""


class CalibrationConfig(Frozen):
    """Platt scaling of joint scores to probabilities: sigmoid(scale * logit(score) + shift).

    The probability is that of a joint being within 0.2 torso lengths, or half a head length.
    """

    scale: tuple[float, ...]
    """One per joint; positive, so that the order of scores is kept."""
    shift: tuple[float, ...]
    """One per joint."""
    measured_on: str
    """Description of the data that they were fitted on."""

    @model_validator(mode="after")
    def _keeps_the_order(self) -> Self:
        if len(self.scale) != len(self.shift) or any(scale <= 0 for scale in self.scale):
            raise ValueError("scale and shift need one value per joint each, and scales above 0")
        return self


class ModelConfig(Frozen):
    """A complete network. The defaults are the paper's ViT-B model."""

    name: str = "base"
    skeleton: str = "posetrack15"
    image_size: Size = (256, 192)
    heatmap_size: Size = (64, 48)
    sigma: float = Field(default=2.0, ge=0.5)
    """Standard deviation of the target Gaussians in heatmap pixels, at most half the shorter side.

    Below 0.5, peaks may fall between pixels; above half the map, they are too flat to locate.
    """
    num_frames: Literal[1, 3] = 3
    backbone: BackboneConfig = BackboneConfig()
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    calibration: CalibrationConfig | None = None
    """Calibration of scores; without it, scores are heatmap peak values."""

    @model_validator(mode="after")
    def _gaussians_fit(self) -> Self:
        most = min(self.heatmap_size) / 2
        if self.sigma > most:
            raise ValueError(
                f"sigma {self.sigma:g} is more than {most:g}, half the shorter side of "
                f"heatmap_size {self.heatmap_size}"
            )
        return self

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.skeleton not in SKELETONS:
            raise ValueError(f"skeleton {self.skeleton!r} is not one of {', '.join(SKELETONS)}")
        joints = self.skeleton_graph.num_joints
        if self.calibration is not None and len(self.calibration.scale) != joints:
            raise ValueError(f"calibration has {len(self.calibration.scale)} joints, not {joints}")
        patch = self.backbone.patch_size
        if any(side % patch for side in self.image_size):
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of the patch size {patch}"
            )
        strides = {a / b for a, b in zip(self.image_size, self.heatmap_size, strict=True)}
        if strides != {4.0}:
            raise ValueError(f"heatmap_size {self.heatmap_size} must be a quarter of image_size")
        if any(a % b for a, b in zip(self.heatmap_size, self.decoder.patch_size, strict=True)):
            raise ValueError(
                f"heatmap_size {self.heatmap_size} is not a multiple of decoder.patch_size "
                f"{self.decoder.patch_size}"
            )
        if self.num_frames == 1 and self.encoder.kind != "none":
            raise ValueError(
                "num_frames 1 leaves nothing to encode over time: set encoder.kind none"
            )
        if self.decoder.markov and not all(self.skeleton_graph.neighbours):
            raise ValueError(
                f"{self.skeleton!r} has joints without a limb: set decoder.markov false"
            )
        for part, heads in (
            ("backbone", self.backbone.num_heads),
            ("encoder", self.encoder.num_heads),
        ):
            if self.backbone.hidden_size % heads:
                raise ValueError(
                    f"{part}.num_heads {heads} does not divide {self.backbone.hidden_size}"
                )
        if self.backbone.hidden_size % self.decoder.num_heads:
            raise ValueError("decoder.num_heads does not divide backbone.hidden_size")
        if (
            self.decoder.markov
            and not self.skeleton_graph.is_tree
            and not self.decoder.num_iterations
        ):
            raise ValueError(
                f"the limbs of {self.skeleton!r} are not a tree: set decoder.num_iterations for flooding"
            )
        return self

    @property
    def skeleton_graph(self) -> Skeleton:
        """The `Skeleton` named by `skeleton`."""
        return SKELETONS[self.skeleton]


class LossConfig(Frozen):
    """Loss of Eqs. 4 and 5, and an auxiliary term."""

    alpha: float = Field(default=1e-4, ge=0)
    length_reduction: Literal["paper", "mean"] = "paper"
    """`paper` is the soft minimum of Eq. 4; `mean` averages the exponents, so that every limb
    counts."""
    softargmax_temperature: float = Field(default=50.0, gt=0)
    location: float = Field(default=0.0, ge=0)
    """Weight of `location_loss`, which is not in the paper: it speeds up early training on little
    data."""


def _blocks(depth: int) -> tuple[EncoderConfig, DecoderConfig]:
    return EncoderConfig(depth=depth), DecoderConfig(depth=depth)


_SIZES: dict[str, tuple[BackboneConfig, EncoderConfig, DecoderConfig]] = {
    "tiny": (
        BackboneConfig(
            kind="hybrid", hidden_size=192, depth=3, num_heads=6, mlp_ratio=3, stem_width=1.75
        ),
        EncoderConfig(depth=1, mlp_ratio=3),
        DecoderConfig(depth=1, mlp_ratio=3, feature_kernels=True),
    ),
    "small": (BackboneConfig(hidden_size=384, depth=12, num_heads=12), *_blocks(2)),
    "base": (BackboneConfig(hidden_size=768, depth=12, num_heads=12), *_blocks(4)),
    "large": (BackboneConfig(hidden_size=1024, depth=24, num_heads=16), *_blocks(4)),
    "huge": (BackboneConfig(hidden_size=1280, depth=32, num_heads=16), *_blocks(4)),
}
MODEL_SIZES = tuple(_SIZES)


def model_config(size: str) -> ModelConfig:
    """Return the configuration of a model size; `base` is the paper's.

    Raises:
        ConfigError: If there is no such size.
    """
    if size not in _SIZES:
        raise ConfigError(f"unknown model size {size!r}; choose from {', '.join(MODEL_SIZES)}")
    backbone, encoder, decoder = _SIZES[size]
    return ModelConfig(name=size, backbone=backbone, encoder=encoder, decoder=decoder)


Config = TypeVar("Config", bound=Frozen)


def parse(model: type[Config], values: dict[str, Any], origin: str) -> Config:
    """Validate `values`; the first error becomes one line that names the key.

    Args:
        model: Class of the settings.
        values: Keys and values, as read from YAML.
        origin: Where they are from, for the message.

    Raises:
        ConfigError: On unknown keys, wrong types, or values out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "top level"
        what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        what = what.removeprefix("Value error, ")
        raise ConfigError(f"{origin}: {key}: {what}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: If it cannot be read or is not a mapping.
    """
    if not Path(path).is_file():
        what = "a folder, not a YAML file" if Path(path).is_dir() else "no such file"
        raise ConfigError(f"{path}: {what}")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values")
    return values


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that duplicate keys are errors."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Reject duplicate keys before `<<` is merged, as merged keys may be overridden."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                problem = f"duplicate key {key.value!r}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML text.

    Args:
        text: The YAML.
        origin: Where it is from, for the message.

    Raises:
        ConfigError: If it is invalid or has duplicate keys; names the origin and the line.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        at = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{origin}: invalid YAML: {at}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{origin}: invalid YAML: {first_line(error)}") from None
