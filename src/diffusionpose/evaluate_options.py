"""Options of an evaluation, checked when created, and the metrics by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from diffusionpose.errors import UsageError
from diffusionpose.metrics.base import Metric
from diffusionpose.metrics.oks import OksAP
from diffusionpose.metrics.pairs import VideoPair
from diffusionpose.metrics.pck import VideoPck
from diffusionpose.metrics.posetrack_ap import PoseTrackAP
from diffusionpose.metrics.tracking import Hota, PoseTrackMota

METRICS: dict[str, Callable[[Sequence[VideoPair]], Metric]] = {
    "posetrack-ap": PoseTrackAP,
    "oks": OksAP,
    "pck": VideoPck,
    "pckh": lambda pairs: VideoPck(pairs, "head"),
    "mota": PoseTrackMota,
    "hota": Hota,
}
LAYOUTS = ("posetrack", "posetrack17", "posetrack18", "coco")
TRUE_BOXES = "truth"
TRACKING = ("mota", "hota")
POSETRACK_METRICS = ("posetrack-ap", *TRACKING)
IN_HEAD_LENGTHS = (*POSETRACK_METRICS, "pckh")
PACKAGES = {
    "oks": ("faster_coco_eval", "eval"),
    "mota": ("motmetrics", "eval"),
    "hota": ("trackeval", "hota"),
}
"""For each metric, the package that it needs and the extra that provides it."""


_MODEL_ONLY = (
    "annotations",
    "images",
    "boxes",
    "box_score",
    "subset",
    "num_inference_steps",
    "flip_test",
    "batch_size",
    "device",
    "engine",
)


def _flag(name: str) -> str:
    """Command-line name of an option."""
    return "--" + name.removeprefix("num_").removeprefix("inference_").replace("_", "-")


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate, and how: either `model` on `data`, or `predictions` against `truth`.

    Args:
        metric: One of `METRICS`.
        model: As in `load_network`; needs `data`.
        data: Root of an annotated data set; with `truth`, only used to find images.
        truth: Annotation file or folder of such files; needs `predictions`.
        predictions: Prediction file, or folder of files with the same names as those of `truth`.
        split: Folder of annotations in the root.
        layout: `posetrack` reads PoseTrack17, 18 and 21, told apart by their keys; `coco` needs
            `annotations` and `images`. `posetrack17` and `posetrack18` read like `posetrack` and
            also set the layout of written predictions.
        annotations: `coco`: file relative to the root.
        images: `coco`: folder relative to the root.
        subset: File that lists videos or frames to use, relative to the root.
        stride: Use every n-th annotated frame of a video, or image of a COCO file.
        boxes: `truth`, or a file or folder of detections.
        box_score: Detections that score less are dropped.
        seed: Of the noise and of the bootstrap.
        num_inference_steps: DDIM steps.
        flip_test: Average with the mirrored crop.
        batch_size: People per pass; changes speed, not results.
        device: As in `choose_device`.
        engine: As in `load_network`.
        num_resamples: Bootstrap resamples of the videos for the intervals; 0 for none.
        published: YAML file of published figures.

    Raises:
        UsageError: If options contradict each other or are out of range.
    """

    metric: str = "posetrack-ap"
    model: str | None = None
    data: Path | None = None
    truth: Path | None = None
    predictions: Path | None = None
    split: str = "val"
    layout: str = "posetrack"
    annotations: Path | None = None
    images: Path | None = None
    subset: Path | None = None
    stride: int = 1
    boxes: str = TRUE_BOXES
    box_score: float = 0.2
    seed: int = 0
    num_inference_steps: int = 1
    flip_test: bool = False
    batch_size: int = 16
    device: str = "auto"
    engine: str | None = None
    num_resamples: int = 1000
    published: Path | None = None

    def __post_init__(self) -> None:
        for name, choices in (("metric", METRICS), ("layout", LAYOUTS)):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(choices)}"
                )
        for name, least in (
            ("stride", 1),
            ("batch_size", 1),
            ("num_inference_steps", 1),
            ("num_resamples", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"{_flag(name)} must be at least {least}, not {value}")
        if not 0 <= self.box_score <= 1:
            raise UsageError(f"--box-score must be between 0 and 1, not {self.box_score}")
        self._check_sources()

    def _check_sources(self) -> None:
        by_files = self.truth is not None or self.predictions is not None
        if self.model is not None and by_files:
            raise UsageError("give either --model and --data, or --truth and --predictions")
        if self.model is None and (self.truth is None or self.predictions is None):
            raise UsageError("give --model and --data, or --truth and --predictions")
        if self.model is not None and self.data is None:
            raise UsageError("--model needs --data, the root of an annotated data set")
        if by_files:
            self._check_files()
        if self.layout != "coco" and (self.annotations or self.images):
            raise UsageError("--annotations and --images need --layout coco: add it")
        if self.layout == "coco" and (self.annotations is None or self.images is None):
            raise UsageError("--layout coco needs --annotations and --images, relative to --data")
        if self.boxes != TRUE_BOXES and self.metric in TRACKING:
            raise UsageError(
                f"--metric {self.metric} needs track ids, which detections do not have: use --boxes truth, or evaluate "
                "files from 'diffusionpose predict --format posetrack'"
            )

    def _check_files(self) -> None:
        if self.layout == "coco":
            raise UsageError("--layout coco needs --model: leave it out")
        given = [
            _flag(one.name)
            for one in fields(self)
            if one.name in _MODEL_ONLY and getattr(self, one.name) != one.default
        ]
        # With --data, the split locates the images.
        given += ["--split"] if self.data is None and self.split != "val" else []
        if given:
            raise UsageError(f"{', '.join(given)}: only with --model; leave out")

    def settings(self) -> dict[str, object]:
        """Options that change the figures and are not part of the input files."""
        names = ("stride", "seed")
        if self.model is not None:
            names += ("num_inference_steps", "flip_test", "engine")
        return {name: getattr(self, name) for name in names}

    def unusual(self) -> list[str]:
        """Settings that differ from their defaults, in command-line syntax."""
        given = [
            (_flag(one.name), self.settings()[one.name])
            for one in fields(self)
            if one.name in self.settings() and self.settings()[one.name] != one.default
        ]
        return [flag if value is True else f"{flag} {value}" for flag, value in given]
