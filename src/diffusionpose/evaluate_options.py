"""What an evaluation is asked for: metrics by name, and options that are checked before any work."""

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
"""By metric, the package that it needs, and the extra that brings it."""


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
    """An option as the command line calls it."""
    return "--" + name.removeprefix("num_").removeprefix("inference_").replace("_", "-")


@dataclass(frozen=True)
class EvaluateOptions:
    """What is evaluated, and how.

    Args:
        metric: One of `METRICS`.
        model: As `load_network`; with `data`.
        data: Root of an annotated data set; with `truth` only where the images are.
        truth: Annotation file or folder of them; with `predictions`.
        predictions: Likewise, of the same names.
        split: Folder of the root's annotations.
        layout: `posetrack` takes PoseTrack17, 18 and 21, told apart by their keys; `coco` needs `annotations` and
            `images`. `posetrack17` and `posetrack18` are as `posetrack`, and also say how predictions are written.
        annotations: `coco`: file relative to the root.
        images: `coco`: folder relative to the root.
        subset: File of the videos or frames wanted, relative to the root.
        stride: Every n-th annotated frame of a video, or image of a COCO file.
        boxes: `truth`, or a file or folder of detections.
        box_score: Detections that score less are dropped.
        seed: Of the noise, and of the resamples.
        num_inference_steps: DDIM steps.
        flip_test: Average with the mirrored crop.
        batch_size: People a pass; changes speed, not results.
        device: As `choose_device`.
        engine: As `load_network`.
        num_resamples: Of the videos, for the intervals; 0 for none.
        published: YAML file of figures that somebody published.
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
                raise UsageError(f"{name} {getattr(self, name)!r}: there are {', '.join(choices)}")
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
            raise UsageError("--annotations and --images are for --layout coco: add it")
        if self.layout == "coco" and (self.annotations is None or self.images is None):
            raise UsageError("--layout coco needs --annotations and --images, relative to --data")
        if self.boxes != TRUE_BOXES and self.metric in TRACKING:
            raise UsageError(
                f"--metric {self.metric} needs track ids, which detections have not: take --boxes truth, or evaluate "
                "files of 'diffusionpose predict --format posetrack'"
            )

    def _check_files(self) -> None:
        if self.layout == "coco":
            raise UsageError("--layout coco is for --model: leave it out")
        given = [
            _flag(one.name)
            for one in fields(self)
            if one.name in _MODEL_ONLY and getattr(self, one.name) != one.default
        ]
        # The split says where the images of --data are.
        given += ["--split"] if self.data is None and self.split != "val" else []
        if given:
            raise UsageError(f"{', '.join(given)}: for --model; leave out")

    def settings(self) -> dict[str, object]:
        """What of it changes figures; of files of predictions, what does not lie in them."""
        names = ("stride", "seed")
        if self.model is not None:
            names += ("num_inference_steps", "flip_test", "engine")
        return {name: getattr(self, name) for name in names}

    def unusual(self) -> list[str]:
        """Those of the settings that are not the defaults, as the command line has them."""
        given = [
            (_flag(one.name), self.settings()[one.name])
            for one in fields(self)
            if one.name in self.settings() and self.settings()[one.name] != one.default
        ]
        return [flag if value is True else f"{flag} {value}" for flag, value in given]
