"""From a video to poses: the table of contents of the product. Each arrow is one function here.

source -> frames (`open_video`) -> person boxes (`detect`) -> tracks (`track`) -> windows of three frames (`windows`)
-> crops, heatmaps and keypoints (`estimate`) -> files (`predict_files`).

All are generators over bounded windows of frames: memory does not grow with the length of the video.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusionpose.detection import BoxesFile, PersonDetector, load_detector
from diffusionpose.errors import UsageError
from diffusionpose.formats import FORMATS, AtomicFile, is_result_of, open_writers
from diffusionpose.model.checkpoint import WEIGHTS, bundled, find_pretrained, sha256_of
from diffusionpose.model.model import DiffusionPose
from diffusionpose.nn import heatmaps
from diffusionpose.nn.diffusion import seeded_noise
from diffusionpose.nn.geometry import crop_affine, crop_window, invert, transform, warp
from diffusionpose.poses import VideoPoses
from diffusionpose.render import draw_poses
from diffusionpose.structures import (
    Boxes,
    Frame,
    FramePoses,
    PersonPose,
    PosesHeader,
    VideoInfo,
    VideoVerdict,
)
from diffusionpose.tracking import Tracker
from diffusionpose.version import __version__
from diffusionpose.video import VideoReader, VideoWriter, open_video

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class PredictOptions:
    """How poses are estimated; written into every result.

    Args:
        seed: Of the noise that heatmaps start from.
        num_inference_steps: DDIM steps; the paper uses 1.
        num_hypotheses: Noises a person and frame, their heatmaps averaged.
        flip_test: Average with the mirrored crop.
        batch_size: Person-frames a pass; changes speed, not results.
        detect_every: The detector looks at every n-th frame, boxes between are interpolated.
        precision: Of the network: `float32`, or `bfloat16` by autocast.
    """

    seed: int = 0
    num_inference_steps: int = 1
    num_hypotheses: int = 1
    flip_test: bool = False
    batch_size: int = 8
    detect_every: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "num_hypotheses", "batch_size", "detect_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.precision not in ("float32", "bfloat16"):
            raise UsageError(f"precision {self.precision!r}: there are float32 and bfloat16")

    def settings(self) -> dict[str, object]:
        """What of it changes results, for the header."""
        return {k: v for k, v in asdict(self).items() if k != "batch_size"}


@dataclass(frozen=True)
class Window:
    """A key frame with its neighbours and its people; the key frame stands in for a missing neighbour."""

    previous: Frame
    key: Frame
    following: Frame
    people: Boxes


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: If the device is not there.
    """
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
        raise UsageError(f"device {name!r} is not there; this machine has {there}")
    return torch.device(name)


def detect(
    frames: Iterable[Frame], detector: PersonDetector | BoxesFile, every: int = 1
) -> Iterator[tuple[Frame, Boxes | None]]:
    """Frames with their person boxes; None where the detector did not look."""
    for frame in frames:
        if isinstance(detector, BoxesFile):
            yield frame, _given_boxes(detector, frame)
        else:
            yield frame, detector([frame.image])[0] if frame.index % every == 0 else None


def _given_boxes(given: BoxesFile, frame: Frame) -> Boxes:
    boxes, (height, width) = given.boxes_at(frame.index), frame.image.shape[:2]
    x1, y1, x2, y2 = boxes.boxes.T
    outside = (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)
    if outside.any():
        raise UsageError(
            f"boxes file {given.name}: frame {frame.index}: box {boxes.boxes[outside][0].tolist()} lies outside "
            f"the picture, which is {width} x {height}"
        )
    return boxes


def make_tracker(detector: PersonDetector | BoxesFile, every: int = 1) -> Tracker:
    """A tracker for what `detect` gives: boxes of the user's are left as they are."""
    if isinstance(detector, BoxesFile):
        return Tracker(trust_boxes=True)
    return Tracker(start_score=detector.start_score, detect_every=every)


def track(
    detections: Iterable[tuple[Frame, Boxes | None]], tracker: Tracker
) -> Iterator[tuple[Frame, Boxes]]:
    """Frames with tracked people, in order, `tracker.lag` frames late."""
    waiting: deque[Frame] = deque()
    for frame, boxes in detections:
        waiting.append(frame)
        for done in tracker.update(frame.index, frame.time, boxes):
            yield waiting.popleft(), done.boxes
    for done in tracker.flush():
        yield waiting.popleft(), done.boxes


def windows(tracked: Iterable[tuple[Frame, Boxes]]) -> Iterator[Window]:
    """Every frame as key frame between its neighbours."""
    previous: Frame | None = None
    key: tuple[Frame, Boxes] | None = None
    for following in tracked:
        if key is not None:
            yield Window(previous or key[0], key[0], following[0], key[1])
            previous = key[0]
        key = following
    if key is not None:
        yield Window(previous or key[0], key[0], key[0], key[1])


@dataclass(frozen=True)
class _Crop:
    """One person of one window, ready for the network: `images` (3, 3, height, width) uint8."""

    window: int
    person: int
    images: np.ndarray
    to_image: np.ndarray
    noise_key: tuple[int, int]


class PosePipeline:
    """A model and a detector on a device: call it on a video.

    Args:
        model: The network.
        detector: Finds people.
        device: Where the network runs.
        options: How.
        model_facts: Name and hash, for results.
    """

    def __init__(
        self,
        model: DiffusionPose,
        detector: PersonDetector | BoxesFile,
        device: torch.device,
        options: PredictOptions,
        model_facts: dict[str, object],
    ) -> None:
        most = model.config.diffusion.num_train_timesteps
        if options.num_inference_steps > most:
            raise UsageError(
                f"num_inference_steps {options.num_inference_steps}: this model has {most}"
            )
        self.model = model.to(device).eval()
        self.detector, self.device, self.options = detector, device, options
        self.model_facts = model_facts

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "tiny",
        *,
        detector: str | Path | None = None,
        device: str = "auto",
        **options: Any,
    ) -> "PosePipeline":
        """A pipeline by the names of its parts.

        Args:
            name_or_path: Bundled model, folder, or Hugging Face repository.
            detector: As `load_detector`; None for the bundled one.
            device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
            **options: Fields of `PredictOptions`.

        Raises:
            CheckpointError: The model cannot be had or is broken.
            UsageError: An option is out of range or the device is not there.
        """
        chosen = choose_device(device)
        settings = PredictOptions(**options)
        folder = find_pretrained(name_or_path)
        model = DiffusionPose.from_pretrained(folder)
        # A folder by its name alone: results must not depend on, or tell, where it lies.
        name = str(name_or_path) if str(name_or_path) in bundled() else folder.name
        facts: dict[str, object] = {"name": name, "sha256": sha256_of(folder / WEIGHTS)}
        finder = load_detector(detector, device=str(chosen))
        return cls(model, finder, chosen, settings, facts)

    def with_boxes(self, boxes: BoxesFile) -> "PosePipeline":
        """The same pipeline with given boxes in place of the detector."""
        return PosePipeline(self.model, boxes, self.device, self.options, self.model_facts)

    def __call__(
        self, source: Source, *, boxes: BoxesFile | None = None, fps: Fraction | float | None = None
    ) -> VideoPoses:
        """All poses of a video, in memory.

        Raises:
            InputRefusedError: The source is no video that can or may be read.
        """
        pipeline = self if boxes is None else self.with_boxes(boxes)
        with open_video(source, fps=fps) as reader:
            frames = [poses for _, poses in pipeline.stream(reader)]
            return VideoPoses.from_frames(pipeline.header(reader.info), frames, reader.verdict)

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, FramePoses]]:
        """Frames with their poses, in order, as soon as they are known."""
        every = self.options.detect_every
        detections = detect(frames, self.detector, every)
        return self.estimate(windows(track(detections, make_tracker(self.detector, every))))

    def header(self, video: VideoInfo) -> PosesHeader:
        """What a result of this pipeline says of itself."""
        skeleton = self.model.config.skeleton_graph
        settings = self.options.settings() | {"detector": self.detector.name}
        return PosesHeader(
            video=video,
            skeleton=skeleton.name,
            joints=skeleton.joints,
            limbs=skeleton.limbs,
            model=self.model_facts,
            settings=settings,
            version=__version__,
        )

    def estimate(self, source: Iterable[Window]) -> Iterator[tuple[Frame, FramePoses]]:
        """Poses of every window, people of several frames in one batch.

        A window waits until its people are in a full batch; at most `batch_size` windows wait, so that a stretch
        without people passes through.
        """
        waiting: list[Window] = []
        crops: list[_Crop] = []
        for window in source:
            crops += self._crops(window, len(waiting))
            waiting.append(window)
            if len(crops) >= self.options.batch_size or len(waiting) >= self.options.batch_size:
                yield from self._finish(waiting, crops)
                waiting, crops = [], []
        yield from self._finish(waiting, crops)

    def _crops(self, window: Window, position: int) -> list[_Crop]:
        size = self.model.config.image_size
        frames = [window.previous, window.key, window.following]
        frames = frames if self.model.config.num_frames == 3 else [window.key]
        crops = []
        for person, box in enumerate(window.people.boxes):
            affine = crop_affine(crop_window(box, size), size)
            # At the ends of a video a frame stands for its neighbour: warped once.
            cut = {frame.index: warp(frame.image, affine, size) for frame in frames}
            images = np.stack([cut[frame.index] for frame in frames]).transpose(0, 3, 1, 2)
            key = (int(window.people.track_ids[person]), window.key.index)
            crops.append(_Crop(position, person, images, invert(affine), key))
        return crops

    def _finish(
        self, waiting: list[Window], crops: list[_Crop]
    ) -> Iterator[tuple[Frame, FramePoses]]:
        people: list[list[PersonPose]] = [[] for _ in waiting]
        for first in range(0, len(crops), self.options.batch_size):
            batch = crops[first : first + self.options.batch_size]
            for crop, keypoints in zip(batch, self._keypoints(batch), strict=True):
                boxes = waiting[crop.window].people
                people[crop.window].append(_person(boxes, crop.person, keypoints))
        for window, found in zip(waiting, people, strict=True):
            yield window.key, FramePoses(window.key.index, window.key.time, tuple(found))

    def _keypoints(self, crops: list[_Crop]) -> list[np.ndarray]:
        """(num_joints, 3) x, y, score in image pixels for each crop."""
        images = torch.from_numpy(np.stack([crop.images for crop in crops])).to(self.device)
        noise = torch.stack([self._noise(crop.noise_key) for crop in crops]).to(self.device)
        maps = self.heatmaps(images, noise)
        points, scores = heatmaps.decode(maps)
        points = heatmaps.heatmap_to_crop(points).double().cpu().numpy()
        placed = [transform(p, crop.to_image) for p, crop in zip(points, crops, strict=True)]
        return [
            np.column_stack(both)
            for both in zip(placed, scores.double().cpu().numpy(), strict=True)
        ]

    def _noise(self, key: tuple[int, int]) -> Tensor:
        """(num_hypotheses, joints, height, width), decided by seed, track and frame alone."""
        shape = self.model.noise_shape
        return torch.stack(
            [
                seeded_noise(shape, (self.options.seed, *key, n))
                for n in range(self.options.num_hypotheses)
            ]
        )

    @torch.inference_mode()
    def heatmaps(self, images: Tensor, noise: Tensor) -> Tensor:
        """Heatmaps of crops, averaged over hypotheses and, if asked, the mirrored crop.

        Args:
            images: (batch, 3, 3, height, width) uint8.
            noise: (batch, num_hypotheses, joints, height / 4, width / 4).
        """
        half = self.options.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            mean = self._mean_heatmaps(images, noise)
            if self.options.flip_test:
                flip = list(self.model.config.skeleton_graph.flip_permutation)
                mirrored = self._mean_heatmaps(images.flip(-1), noise.flip(-1)[:, :, flip])
                mean = (mean + mirrored.flip(-1)[:, flip]) / 2
        return mean.float()

    def _mean_heatmaps(self, images: Tensor, noise: Tensor) -> Tensor:
        conditions = self.model.encode(self.model.extract(images))
        steps = self.options.num_inference_steps
        found = [self.model.generate(conditions, one, steps).float() for one in noise.unbind(1)]
        return torch.stack(found).mean(0)


def _person(boxes: Boxes, index: int, keypoints: np.ndarray) -> PersonPose:
    """A person's score is the mean over joints times that of the box."""
    box_score = float(boxes.scores[index])
    return PersonPose(
        track_id=int(boxes.track_ids[index]),
        box=boxes.boxes[index].astype(np.float64),
        box_score=box_score,
        score=float(keypoints[:, 2].mean()) * box_score,
        keypoints=keypoints,
    )


@dataclass(frozen=True)
class Outcome:
    """What `predict_files` made: the files, and the verdict on the video."""

    files: tuple[Path, ...]
    verdict: VideoVerdict
    num_people: int
    notes: tuple[str, ...] = ()


Progress = Callable[[FramePoses], None]
FILM = ".mp4"


def predict_files(
    pipeline: PosePipeline,
    reader: VideoReader,
    out: Path,
    *,
    formats: tuple[str, ...] = ("json",),
    video: bool = True,
    overwrite: bool = False,
    on_frame: Progress | None = None,
) -> Outcome:
    """Poses of an opened video as files in a folder; none stands under its final name before all are complete.

    Args:
        pipeline: What estimates.
        reader: From `open_video`.
        out: Folder, made if it is not there.
        formats: Names in `formats.FORMATS`.
        video: Also write the annotated video.
        overwrite: Replace files of the same names, though they are not of this video.
        on_frame: Called with the poses of each finished frame.

    Raises:
        UsageError: If the files cannot be written there, or files of those names are not results of this video.
        DiffusionPoseError: If writing fails on the way; nothing is left behind.
    """
    name, info = Path(reader.info.name).stem, reader.info
    skeleton = pipeline.model.config.skeleton_graph
    tracks: set[int] = set()
    _guard_existing(out, name, reader, video=video, overwrite=overwrite)
    with ExitStack() as stack:
        writer = stack.enter_context(open_writers(formats, out, name, pipeline.header(info)))
        film = stack.enter_context(_film(out / f"{name}{FILM}", reader)) if video else None
        for frame, poses in pipeline.stream(reader):
            writer.write(poses)
            tracks.update(person.track_id for person in poses.people)
            if film is not None:
                film.writer.write(
                    replace(frame, image=draw_poses(frame.image, poses.people, skeleton))
                )
            if on_frame is not None:
                on_frame(poses)
        writer.stage(reader.verdict)
        files = list(writer.paths)
        if film is not None:
            film.writer.close()
            film.file.publish()
            files.append(film.file.path)
        # Last: whoever sees the keypoints finds the rest beside them.
        writer.publish()
    notes = _notes(pipeline.detector, reader.verdict)
    return Outcome(tuple(files), reader.verdict, len(tracks), notes)


def _guard_existing(
    out: Path, name: str, reader: VideoReader, *, video: bool, overwrite: bool
) -> None:
    """Results of the same video are replaced; another's of that name, or a video of the user's, are not."""
    own = is_result_of(out / f"{name}.poses.json", reader.info)
    suffixes = [*(made.suffix for made in FORMATS.values()), *([FILM] if video else [])]
    for path in (out / f"{name}{suffix}" for suffix in suffixes):
        if reader.is_same_file(path):
            raise UsageError(f"{path} is the source itself: give another --out")
        if os.path.lexists(path) and not (own or overwrite):
            raise UsageError(
                f"{path} is there and not of this video: give another --out, or --overwrite"
            )


def _notes(detector: PersonDetector | BoxesFile, verdict: VideoVerdict) -> tuple[str, ...]:
    if isinstance(detector, BoxesFile) and detector.last_index >= verdict.num_frames:
        named, last = detector.last_index, verdict.num_frames - 1
        return (f"{detector.name} has boxes for frame {named}, the video ends with frame {last}",)
    return ()


class _Film(NamedTuple):
    """The annotated video in the making."""

    file: AtomicFile
    writer: VideoWriter


@contextmanager
def _film(path: Path, reader: VideoReader) -> Iterator[_Film]:
    """A video under a temporary name, removed unless it is published."""
    file, info = AtomicFile(path), reader.info
    try:
        size = info.width, info.height
        with VideoWriter(file.temporary, *size, rate=info.average_rate) as writer:
            yield _Film(file, writer)
    finally:
        file.discard()
