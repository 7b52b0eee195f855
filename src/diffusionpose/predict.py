"""Pose estimation from video: the overview of the package. Each arrow is one function.

source -> frames (`open_video`) -> scenes (`scenes`) -> person boxes (`detect`) -> tracks (`track`)
-> windows of three frames (`windows`) -> crops, heatmaps and keypoints (`PosePipeline.estimate`)
-> files (`predict_files`).

All stages are generators with bounded buffers, so memory does not grow with the video's length.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusionpose.crop_windows import CropWindows, HeldWindow
from diffusionpose.cuts import note_cuts
from diffusionpose.detection import BoxesFile, PersonDetector, check_detector, load_detector
from diffusionpose.errors import UsageError
from diffusionpose.networks import PoseNetwork, Precision, load_network
from diffusionpose.nn import heatmaps
from diffusionpose.nn.diffusion import seeded_noise
from diffusionpose.nn.geometry import Affine, crop_affine, crop_window, invert, transform, warp
from diffusionpose.overlap import ahead
from diffusionpose.poses import VideoPoses
from diffusionpose.stages import Window, detect, make_tracker, scenes, track, windows
from diffusionpose.structures import (
    Boxes,
    Frame,
    FramePoses,
    PersonPose,
    PosesHeader,
    VideoInfo,
)
from diffusionpose.version import __version__
from diffusionpose.video import VideoReader, open_video

Source = str | os.PathLike[str]
WINDOWS_AHEAD = 8
"""Maximum number of windows by which decoding and detection run ahead of the network."""


@dataclass(frozen=True)
class PredictOptions:
    """Options of pose estimation, recorded in every result.

    Args:
        seed: Of the noise that heatmaps start from.
        num_inference_steps: DDIM steps; the paper uses 1.
        num_hypotheses: Noise samples per person and frame, whose heatmaps are averaged.
        flip_test: Average with the mirrored crop.
        batch_size: People per forward pass; changes speed, not results.
        detect_every: Run the detector on every n-th frame; boxes in between are interpolated.
        hold_crops: Keep a person's crop window while the person stays inside, and reuse the
            features of frames; otherwise each key frame is cropped to its own box, as in the paper.
            Windows of boxes given by the user are never kept.
        find_cuts: Detect cuts between scenes; neither ids nor windows of frames extend across one.
        precision: Of the network: `float32`, or `bfloat16` by autocast.

    Raises:
        UsageError: If an option has the wrong type or is out of range.
    """

    seed: int = 0
    num_inference_steps: int = 1
    num_hypotheses: int = 1
    flip_test: bool = False
    batch_size: int = 8
    detect_every: int = 1
    hold_crops: bool = True
    find_cuts: bool = True
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        counts = ("num_inference_steps", "num_hypotheses", "batch_size", "detect_every")
        for name in ("seed", *counts):
            number = getattr(self, name)
            if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
                raise UsageError(f"{name} must be a whole number, not {number!r}")
            # Settings are written as JSON, which has no NumPy integers.
            object.__setattr__(self, name, int(number))
        for name in ("flip_test", "hold_crops", "find_cuts"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be True or False, not {getattr(self, name)!r}")
        for name in counts:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.precision not in ("float32", "bfloat16"):
            raise UsageError(f"unknown precision {self.precision!r}; choose from float32, bfloat16")

    def settings(self) -> dict[str, object]:
        """Return the options that change results, for the header."""
        return {k: v for k, v in asdict(self).items() if k != "batch_size"}


def choose_device(device: str | torch.device) -> torch.device:
    """Resolve a device name; `auto` prefers CUDA, then MPS, then the CPU.

    Raises:
        UsageError: If the device is not available.
    """
    name = str(device)
    found = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if found[kind]))
    kind, _, number = name.partition(":")
    if not found.get(kind, False) or (":" in name and not number.isdecimal()):
        there = ", ".join(kind for kind, present in found.items() if present)
        raise UsageError(f"device {name!r} is not available; choose from {there}")
    return torch.device(name)


@dataclass(frozen=True)
class _Crop:
    """One person in one window of frames, all cropped alike.

    Args:
        window: Position of the window in its batch.
        person: Position of the person in the window.
        frames: Frames of the window, in order of time.
        number: Of the crop window; with a frame's index, it identifies the cropped image.
        affine: (2, 3) from image to crop pixels.
        noise_key: Track id and index of the key frame.
    """

    window: int
    person: int
    frames: tuple[Frame, ...]
    number: int
    affine: Affine
    noise_key: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Seen:
    """Intermediate results for one person in one frame, passed to the observer.

    Args:
        frame: Index of the key frame.
        track_id: Of the person.
        affine: (2, 3) from image to crop pixels.
        features: (frames, views, ...) of the backbone.
        heatmaps: (joints, height, width)
    """

    frame: int
    track_id: int
    affine: Affine
    features: Tensor
    heatmaps: Tensor


Observer = Callable[[Seen], None]


class _Features:
    """Cache of backbone features, each computed once for all windows that share the crop."""

    def __init__(self, network: PoseNetwork) -> None:
        self._network = network
        self._known: dict[tuple[int, int], Tensor] = {}

    def of(self, crops: list[_Crop]) -> Tensor:
        """Return (crops, frames, views, ...) features; see `PoseNetwork.features`."""
        missing = {
            (crop.number, frame.index): (frame, crop.affine)
            for crop in crops
            for frame in crop.frames
            if (crop.number, frame.index) not in self._known
        }
        if missing:
            size = self._network.config.image_size
            cropped = [warp(frame.image, affine, size) for frame, affine in missing.values()]
            images = torch.from_numpy(np.stack(cropped).transpose(0, 3, 1, 2))
            found = self._network.features(images.to(self._network.device))
            self._known.update(zip(missing, found.unbind(0), strict=True))
        return torch.stack(
            [
                torch.stack([self._known[crop.number, frame.index] for frame in crop.frames])
                for crop in crops
            ]
        )

    def forget_before(self, index: int) -> None:
        """Drop features of frames before `index`, which no later window shares."""
        self._known = {key: value for key, value in self._known.items() if key[1] >= index}


class PosePipeline:
    """Pose estimator made of a network and a detector; call it on a video.

    Args:
        network: From `load_network`.
        detector: Person detector, or given boxes.
        options: Must agree with those that the network was loaded with.
        observer: Called for every person in every frame.

    Raises:
        UsageError: If the network was loaded with other options, or the detector is not one.
    """

    def __init__(
        self,
        network: PoseNetwork,
        detector: PersonDetector | BoxesFile,
        options: PredictOptions,
        observer: Observer | None = None,
    ) -> None:
        for name in ("flip_test", "num_inference_steps", "precision"):
            made, wanted = getattr(network, name), getattr(options, name)
            if made != wanted:
                raise UsageError(
                    f"{name} is {wanted!r} in the options, but the network was loaded with "
                    f"{made!r}: pass the same value to load_network"
                )
        if not isinstance(detector, BoxesFile):
            check_detector(detector)
        self.network, self.detector, self.options = network, detector, options
        self.observer = observer

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "tiny",
        *,
        detector: str | Path | None = None,
        device: str | torch.device = "auto",
        engine: str | None = None,
        **options: Any,
    ) -> "PosePipeline":
        """Load a model and a detector by name.

        Args:
            name_or_path: Bundled model, folder, Hugging Face repository, or a file written by
                `diffusionpose export`.
            detector: As for `load_detector`; None for the bundled one.
            device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, or a `torch.device`.
            engine: `torch`, or for exported files `onnxruntime` (their default) or `openvino`.
            **options: Fields of `PredictOptions`.

        Raises:
            CheckpointError: If the model is not found or broken.
            UsageError: If an option is out of range, or the device is not available.
            MissingExtraError: If the engine is not installed.
        """
        settings = PredictOptions(**options)
        chosen = choose_device("cpu" if (engine, device) == ("openvino", "auto") else device)
        network = load_network(
            name_or_path,
            chosen,
            engine=engine,
            flip_test=settings.flip_test,
            num_inference_steps=settings.num_inference_steps,
            precision=settings.precision,
        )
        return cls(network, load_detector(detector, device=str(chosen)), settings)

    def with_boxes(self, boxes: BoxesFile) -> "PosePipeline":
        """Return the same pipeline with given boxes instead of the detector.

        Raises:
            UsageError: If `boxes` is not a `BoxesFile`.
        """
        if not isinstance(boxes, BoxesFile):
            raise UsageError(
                f"boxes must be a BoxesFile, not {type(boxes).__name__}: BoxesFile.load(path) "
                "reads one, BoxesFile({0: Boxes(boxes, scores)}) makes one"
            )
        return PosePipeline(self.network, boxes, self.options, self.observer)

    def watched_by(self, observer: Observer) -> "PosePipeline":
        """Return the same pipeline with an observer."""
        return PosePipeline(self.network, self.detector, self.options, observer)

    def __call__(
        self, source: Source, *, boxes: BoxesFile | None = None, fps: Fraction | float | None = None
    ) -> VideoPoses:
        """Estimate all poses of a video, in memory.

        Raises:
            InputRefusedError: If the source is not a video, or cannot or must not be read.
        """
        pipeline = self if boxes is None else self.with_boxes(boxes)
        with open_video(source, fps=fps) as reader:
            return pipeline.whole(reader)

    def whole(self, reader: VideoReader) -> VideoPoses:
        """Estimate all poses of an opened video, in memory."""
        frames = [poses for _, poses in self.stream(reader)]
        verdict = note_cuts(reader.verdict, [poses.index for poses in frames if poses.cut])
        return VideoPoses.from_frames(self.header(reader.info), frames, verdict)

    def stream(self, frames: Iterable[Frame]) -> Generator[tuple[Frame, FramePoses], None, None]:
        """Yield frames with their poses, in order, as soon as they are known."""
        every = self.options.detect_every
        found = scenes(frames, find_cuts=self.options.find_cuts)
        detections = detect(found, self.detector, every)
        # Only calibrated scores are probabilities that a joint is right.
        judge = self.pose_score if self.network.config.calibration else None
        tracked = track(detections, make_tracker(self.detector, every), judge)
        with closing(ahead(windows(tracked), WINDOWS_AHEAD)) as source:
            yield from self.estimate(source)

    def pose_score(self, frame: Frame, box: np.ndarray) -> float:
        """Mean joint score of the pose in a box (4,), with the frame as its own neighbours."""
        config, device = self.network.config, self.network.device
        affine = crop_affine(crop_window(box, config.image_size), config.image_size)
        cropped = warp(frame.image, affine, config.image_size).transpose(2, 0, 1)
        features = self.network.features(torch.from_numpy(cropped[None].copy()).to(device))
        noise = self._noise((0, frame.index))[None].to(device)
        maps = self.network.heatmaps(torch.stack([features] * config.num_frames, 1), noise)
        return float(self.network.keypoints(maps)[1].mean())

    def header(self, video: VideoInfo) -> PosesHeader:
        """Return the metadata of a result of this pipeline."""
        skeleton = self.network.config.skeleton_graph
        settings = self.options.settings() | {
            "detector": self.detector.name,
            "engine": self.network.engine,
        }
        return PosesHeader(
            video=video,
            skeleton=skeleton.name,
            joints=skeleton.joints,
            limbs=skeleton.limbs,
            model=self.network.facts,
            settings=settings,
            version=__version__,
        )

    def estimate(self, source: Iterable[Window]) -> Iterator[tuple[Frame, FramePoses]]:
        """Yield the key frame and poses of each window, with people of several frames in a batch.

        A window waits until the batch is full. At most `batch_size` windows wait, so that frames
        without people are not held back.
        """
        waiting: list[Window] = []
        crops: list[_Crop] = []
        is_held = self.options.hold_crops and not isinstance(self.detector, BoxesFile)
        held, features = (
            CropWindows(self.network.config.image_size, is_held=is_held),
            _Features(self.network),
        )
        for window in source:
            crops += self._crops(window, held.update(window.people), len(waiting))
            waiting.append(window)
            if len(crops) >= self.options.batch_size or len(waiting) >= self.options.batch_size:
                yield from self._finish(waiting, crops, features)
                features.forget_before(window.key.index)
                waiting, crops = [], []
        yield from self._finish(waiting, crops, features)

    def _crops(self, window: Window, held: list[HeldWindow], position: int) -> list[_Crop]:
        size = self.network.config.image_size
        frames = (window.previous, window.key, window.following)
        frames = frames if self.network.config.num_frames == 3 else (window.key,)
        return [
            _Crop(
                position,
                person,
                frames,
                one.number,
                crop_affine(one.window, size),
                (int(window.people.track_ids[person]), window.key.index),
            )
            for person, one in enumerate(held)
        ]

    def _finish(
        self, waiting: list[Window], crops: list[_Crop], features: _Features
    ) -> Iterator[tuple[Frame, FramePoses]]:
        people: list[list[PersonPose]] = [[] for _ in waiting]
        for first in range(0, len(crops), self.options.batch_size):
            batch = crops[first : first + self.options.batch_size]
            for crop, keypoints in zip(batch, self._keypoints(batch, features), strict=True):
                boxes = waiting[crop.window].people
                people[crop.window].append(_person(boxes, crop.person, keypoints))
        for window, found in zip(waiting, people, strict=True):
            key = window.key
            yield key, FramePoses(key.index, key.time, tuple(found), key.cut)

    def _keypoints(self, crops: list[_Crop], features: _Features) -> list[np.ndarray]:
        """Return (num_joints, 3) x, y, score in image pixels for each crop."""
        noise = torch.stack([self._noise(crop.noise_key) for crop in crops]).to(self.network.device)
        inputs = features.of(crops)
        maps = self.network.heatmaps(inputs, noise)
        if self.observer is not None:
            for crop, own, seen in zip(crops, inputs, maps, strict=True):
                track, frame = crop.noise_key
                self.observer(Seen(frame, track, crop.affine, own, seen))
        points, scores = self.network.keypoints(maps)
        points = heatmaps.heatmap_to_crop(points).double().cpu().numpy()
        placed = [transform(p, invert(c.affine)) for p, c in zip(points, crops, strict=True)]
        return [np.column_stack(both) for both in zip(placed, scores, strict=True)]

    def _noise(self, key: tuple[int, int]) -> Tensor:
        """(num_hypotheses, joints, height, width) noise; depends on seed, track and frame alone."""
        shape = self.network.noise_shape
        return torch.stack(
            [
                seeded_noise(shape, (self.options.seed, *key, n))
                for n in range(self.options.num_hypotheses)
            ]
        )


def _person(boxes: Boxes, index: int, keypoints: np.ndarray) -> PersonPose:
    """Build a person, whose score is the mean joint score times the box score."""
    box_score = float(boxes.scores[index])
    return PersonPose(
        track_id=int(boxes.track_ids[index]),
        box=boxes.boxes[index].astype(np.float64),
        box_score=box_score,
        score=float(keypoints[:, 2].mean()) * box_score,
        keypoints=keypoints,
    )
